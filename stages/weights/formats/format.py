"""A checkpoint format is a table of names that is read both ways."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from torch import Tensor

State = dict[str, Tensor]
Pair = tuple[str, str]

FIELDS = {"stage": r"\d+", "block": r"\d+", "leaf": r"\w+", "name": r".+"}


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one code base names the tensors of a network that we have too.

    sign: regular expression of a key that only this format has.
    pairs: our name and theirs, the first that fits counts; a field such as `{block}` is the same on both sides.
    ignored: regular expression of their keys that are left out -> why.
    adapt: what else differs, on the tensors under our names.
    only_for: the networks whose names begin so; others would take these weights, but mean something else by them.
    """

    name: str
    sign: str
    pairs: tuple[Pair, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
    adapt: Callable[[State], State] = dict
    only_for: str = ""

    def signs(self, keys: Iterable[str]) -> bool:
        """Whether these keys are a file of this format."""
        return any(re.fullmatch(self.sign, key) for key in keys)

    def ours(self, theirs: str) -> str | None:
        """Our name of their key; None if we have no such thing."""
        return _translated(theirs, [(b, a) for a, b in self.pairs])

    def theirs(self, ours: str) -> str | None:
        """Their key of our name; None if they have no such thing."""
        return _translated(ours, self.pairs)

    def why_ignored(self, theirs: str) -> str | None:
        """The reason for leaving this key out; None if it is not to be left out."""
        return next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, theirs)), None)


def with_leaves(layers: Mapping[str, str]) -> tuple[Pair, ...]:
    """Pairs of layers as pairs of tensors, where these have the names torch gives them (`weight`, `bias`, ...)."""
    return tuple((f"{ours}.{{leaf}}", f"{theirs}.{{leaf}}") for ours, theirs in layers.items())


def _translated(name: str, pairs: Iterable[Pair]) -> str | None:
    for source, target in pairs:
        if match := _pattern(source).fullmatch(name):
            return target.format(**match.groupdict())
    return None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """`res{stage}.weight` -> `res(?P<stage>\\d+)\\.weight`."""
    literal = re.split(r"\{(\w+)\}", template)
    parts = [f"(?P<{part}>{FIELDS[part]})" if index % 2 else re.escape(part) for index, part in enumerate(literal)]
    return re.compile("".join(parts))
