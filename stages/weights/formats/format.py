"""A checkpoint format is a table of names that is read in both directions."""

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
    """Describes how one code base names the tensors of a network that kinegraph has too.

    sign: regular expression of a key that only this format has.
    pairs: kinegraph's name and their name; the first pair that fits counts. A field such as `{block}` is the same on
    both sides.
    ignored: regular expression of their keys that are left out -> why.
    adapt: changes other than names, on the tensors with kinegraph's names.
    only_for: prefixes of networks. Other networks could take these weights but would interpret them in another way.
    """

    name: str
    sign: str
    pairs: tuple[Pair, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
    adapt: Callable[[State], State] = dict
    only_for: str = ""

    def signs(self, keys: Iterable[str]) -> bool:
        """Returns whether a file with these keys has this format."""
        return any(re.fullmatch(self.sign, key) for key in keys)

    def ours(self, theirs: str) -> str | None:
        """Returns kinegraph's name of their key, or None where kinegraph has no such tensor."""
        return _translated(theirs, [(b, a) for a, b in self.pairs])

    def theirs(self, ours: str) -> str | None:
        """Returns their key for kinegraph's name, or None where they have no such tensor."""
        return _translated(ours, self.pairs)

    def why_ignored(self, theirs: str) -> str | None:
        """Returns the reason for leaving this key out, or None where the key is not left out."""
        return next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, theirs)), None)


def with_leaves(layers: Mapping[str, str]) -> tuple[Pair, ...]:
    """Returns pairs of tensors from pairs of layers. Tensors have torch's names (`weight`, `bias`, ...)."""
    return tuple((f"{ours}.{{leaf}}", f"{theirs}.{{leaf}}") for ours, theirs in layers.items())


def _translated(name: str, pairs: Iterable[Pair]) -> str | None:
    for source, target in pairs:
        if match := _pattern(source).fullmatch(name):
            return target.format(**match.groupdict())
    return None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    r"""Returns a regular expression: `res{stage}.weight` -> `res(?P<stage>\d+)\.weight`."""
    literal = re.split(r"\{(\w+)\}", template)
    parts = [f"(?P<{part}>{FIELDS[part]})" if index % 2 else re.escape(part) for index, part in enumerate(literal)]
    return re.compile("".join(parts))
