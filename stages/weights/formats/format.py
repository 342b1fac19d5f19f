"""Defines checkpoint formats. A format is a table of pairs of names, which is read in both directions."""

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
    """Describes how another code base names the tensors of networks that kinegraph has too.

    sign: regular expression of a name that only this format has. pairs: (kinegraph's name, name in the file). The first
    pair that matches a name counts, and a field such as `{block}` stands for the same text in both names. ignored:
    regular expression of names in the file that are left out -> why. adapt: returns the state dict, with kinegraph's
    names, after changes other than renaming. only_for: a prefix of the networks that may take these weights. Some other
    networks have tensors of the same names, but would compute something else with these weights.
    """

    name: str
    sign: str
    pairs: tuple[Pair, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
    adapt: Callable[[State], State] = dict
    only_for: str = ""

    def signs(self, keys: Iterable[str]) -> bool:
        """Returns whether a file with the names `keys` has this format."""
        return any(re.fullmatch(self.sign, key) for key in keys)

    def ours(self, theirs: str) -> str | None:
        """Returns kinegraph's name for a name in the file. Returns None where kinegraph has no such tensor."""
        return _translated(theirs, [(b, a) for a, b in self.pairs])

    def theirs(self, ours: str) -> str | None:
        """Returns the name in a file for `ours`, kinegraph's name. Returns None where the format has no such tensor."""
        return _translated(ours, self.pairs)

    def why_ignored(self, theirs: str) -> str | None:
        """Returns why the tensor with this name in the file is left out, or None where it is not left out."""
        return next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, theirs)), None)


def with_leaves(layers: Mapping[str, str]) -> tuple[Pair, ...]:
    """Returns pairs of names of tensors from pairs of names of layers. In a layer, tensors have torch's names, like
    `weight`.
    """
    return tuple((f"{ours}.{{leaf}}", f"{theirs}.{{leaf}}") for ours, theirs in layers.items())


def _translated(name: str, pairs: Iterable[Pair]) -> str | None:
    for source, target in pairs:
        if match := _pattern(source).fullmatch(name):
            return target.format(**match.groupdict())
    return None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    r"""Returns a regular expression for a name with fields: `res{stage}.weight` -> `res(?P<stage>\d+)\.weight`."""
    literal = re.split(r"\{(\w+)\}", template)
    parts = [f"(?P<{part}>{FIELDS[part]})" if index % 2 else re.escape(part) for index, part in enumerate(literal)]
    return re.compile("".join(parts))
