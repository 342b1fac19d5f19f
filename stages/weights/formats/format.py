"""Defines what a checkpoint format is: a table that translates kinegraph's names of tensors to those in a file, and
back.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from torch import Tensor

State = dict[str, Tensor]
Pair = tuple[str, str]

NORM_EPS = 1e-5  # of the batch norms of all these networks, unless their own module says otherwise
FIELDS = {"stage": r"\d+", "block": r"\d+", "leaf": r"\w+", "name": r".+"}


@dataclass(frozen=True, kw_only=True)
class Format:
    """Describes the names that another code base uses for the tensors of networks that kinegraph has too.

    `name` is the name of the format. `sign` is a regular expression: a file in which one name matches it has this
    format. `pairs` are (kinegraph's name, name in the file). A field such as `{block}` stands for the same text in both
    names. If several pairs match, the first is used.

    `ignored` maps regular expressions to reasons. Tensors of the file with a matching name are not used, for this
    reason. `adapt` is a function that returns a state dict with kinegraph's names after changes other than renaming.
    `only_for` is a prefix of names of networks. Only these networks may take the weights, even if others have tensors
    of the same names.
    """

    name: str
    sign: str
    pairs: tuple[Pair, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
    adapt: Callable[[State], State] = dict
    only_for: str = ""

    def signs(self, keys: Iterable[str]) -> bool:
        """Returns whether a file with the tensor names `keys` has this format."""
        return any(re.fullmatch(self.sign, key) for key in keys)

    def ours(self, theirs: str) -> str | None:
        """Returns kinegraph's name of a tensor, for its name in a file of this format (`res_conv1_bn_s` ->
        `bn1.weight`). Returns None if kinegraph has no name for it.
        """
        return _translated(theirs, [(b, a) for a, b in self.pairs])

    def theirs(self, ours: str) -> str | None:
        """Returns the name that a tensor has in a file of this format, for kinegraph's name `ours` of the tensor
        (`bn1.weight` -> `res_conv1_bn_s`). Returns None if the format has no name for the tensor.
        """
        return _translated(ours, self.pairs)

    def why_ignored(self, theirs: str) -> str | None:
        """Returns why a tensor of the file is not used, for example "classifier". Returns None if the tensor must be
        used. The function is called with the name of the tensor in the file.
        """
        return next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, theirs)), None)


def with_leaves(layers: Mapping[str, str]) -> tuple[Pair, ...]:
    """Returns pairs of patterns of tensor names, for `Format.pairs`: (kinegraph's, the file's).

    `layers` maps kinegraph's name of a layer to its name in the file. For example, {"conv1": "stem.conv"} becomes
    (("conv1.{leaf}", "stem.conv.{leaf}"),). `{leaf}` stands for `weight`, `bias` and so on.
    """
    return tuple((f"{ours}.{{leaf}}", f"{theirs}.{{leaf}}") for ours, theirs in layers.items())


def _translated(name: str, pairs: Iterable[Pair]) -> str | None:
    for source, target in pairs:
        if match := _pattern(source).fullmatch(name):
            return target.format(**match.groupdict())
    return None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    r"""Returns a regular expression that matches the names that `template` describes. `res{stage}.weight` becomes
    `res(?P<stage>\d+)\.weight`.
    """
    literal = re.split(r"\{(\w+)\}", template)
    parts = [f"(?P<{part}>{FIELDS[part]})" if index % 2 else re.escape(part) for index, part in enumerate(literal)]
    return re.compile("".join(parts))
