"""Defines what a checkpoint format is: a table that translates kinegraph's names of tensors to the names in a file, and
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
    """The names that another code base uses for the tensors of a network that kinegraph has too."""

    name: str  # the name of the format, for messages
    sign: str  # a regular expression. A file has this format if the expression matches the name of one of its tensors.
    # (kinegraph's name, name in the file). A field such as `{block}` stands for the same text in both names. If several
    # pairs match, the first is used.
    pairs: tuple[Pair, ...]
    # {regular expression: reason}. Tensors of the file with a matching name are not used, for this reason.
    ignored: Mapping[str, str] = field(default_factory=dict)
    # A function that takes the renamed tensors {kinegraph's name: tensor} and returns them with further changes
    adapt: Callable[[State], State] = dict
    # A prefix of names of networks. Only these networks may take the weights, even if other networks have tensors of
    # the same names.
    only_for: str = ""

    def matches(self, names: Iterable[str]) -> bool:
        """Returns whether a file whose tensors have these `names` has this format."""
        return any(re.fullmatch(self.sign, name) for name in names)

    def to_kinegraph(self, name: str) -> str | None:
        """Translates the name of a tensor in a file of this format to kinegraph's name: `res_conv1_bn_s` ->
        `bn1.weight`. Returns None if kinegraph has no name for the tensor.
        """
        return _translated(name, [(b, a) for a, b in self.pairs])

    def to_file(self, name: str) -> str | None:
        """Translates kinegraph's name of a tensor to the name in a file of this format: `bn1.weight` ->
        `res_conv1_bn_s`. Returns None if the format has no name for the tensor.
        """
        return _translated(name, self.pairs)

    def why_ignored(self, name: str) -> str | None:
        """Returns why a tensor of the file is not used, for example "classifier". Returns None if the tensor must be
        used. `name` is its name in the file.
        """
        return next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, name)), None)


def with_leaves(layers: Mapping[str, str]) -> tuple[Pair, ...]:
    """Returns pairs of patterns for `Format.pairs`, (kinegraph's name, name in the file), from the names of layers.

    `layers` is {kinegraph's name of a layer: its name in the file}. For example, {"conv1": "stem.conv"} becomes
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
