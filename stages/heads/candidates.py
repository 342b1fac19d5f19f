"""Heads that train several candidates side by side. A candidate is a set of weights with a learning rate and a weight
decay of its own. After the training, validation chooses one candidate, and the others are dropped.

Shapes: B clips, G candidates, K classes.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from kinegraph.stages.heads.head import FeatureSource, Head, HeadError, Spec, TapOptions, are_videos
from kinegraph.stages.heads.inputs import choose_source
from kinegraph.stages.options import need

RATES = "learning rates that are trained side by side, in place of `learning_rate` of the section `train`"
DECAYS = "weight decays that are trained side by side, in place of `weight_decay` of the section `train`"
Rate = Annotated[float, Field(gt=0, le=1e6)]
Decay = Annotated[float, Field(ge=0, le=1e6)]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The learning rate and the weight decay with which a candidate is trained."""

    learning_rate: float
    weight_decay: float

    @property
    def name(self) -> str:
        return f"learning rate {self.learning_rate:g}, weight decay {self.weight_decay:g}"


class CandidateOptions(TapOptions):
    """The options of a head with candidates. There is one candidate for each pair of a rate and a decay."""

    learning_rates: tuple[Rate, ...] = Field(min_length=1, description=RATES)
    weight_decays: tuple[Decay, ...] = Field(min_length=1, description=DECAYS)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Returns all pairs of a rate and a decay. The rates of the first decay come first."""
        pairs = product(self.weight_decays, self.learning_rates)
        return tuple(Candidate(learning_rate=rate, weight_decay=decay) for decay, rate in pairs)

    @field_validator("learning_rates", "weight_decays")
    @classmethod
    def _each_once(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        need(len({*values}) == len(values), "value", [*values], "each number once")
        return values


class CandidateHead(Head):
    """The base class of heads with candidates. A subclass calls `choose` and `carry` in its constructor, and
    implements `inputs`.

    All candidates read the same arrays of a batch, so one pass over the cache trains all of them. They share no
    parameter and start from the same weights. The training adds up their losses, so each candidate gets the weights
    that it would get alone. Validation of an epoch scores every candidate. The best candidate in its best epoch is
    kept, and `keep` drops the others.
    """

    option_model: ClassVar[type[CandidateOptions]]
    candidates: tuple[Candidate, ...]
    source: FeatureSource
    array: str

    def choose(self, spec: Spec, read: str, options: CandidateOptions) -> int:
        """Sets `source` and `array`, the features that `read` (such as `maps`) names. Returns their channels.

        Raises HeadError if `spec` has no such features, or has the shapes of whole videos and `read` is not `pooled`.
        """
        if are_videos(spec) and read != "pooled":
            raise HeadError(f"read: given {read}, allowed with train.over: videos: pooled")
        self.source = choose_source(spec, [read], options)
        self.array = self.source.array(read)
        return spec[self.array][1 if read == "maps" else -1]

    def carry(self, probe: nn.Module, options: CandidateOptions) -> None:
        """Adds one copy of the network `probe` for each candidate of `options`. `probe` maps the tensors that `inputs`
        returns to logits.
        """
        self.candidates = options.candidates
        self.probes = nn.ModuleList(copy.deepcopy(probe) for _ in self.candidates)

    def inputs(self, batch: Mapping[str, Tensor]) -> Sequence[Tensor | None]:
        """Returns the tensors that every candidate reads for the B clips of `batch`. `batch` is as in `forward`. A
        subclass implements this method.
        """
        raise NotImplementedError

    def logits_of(self, probe: nn.Module, inputs: Sequence[Tensor | None]) -> Tensor:
        """Returns the logits [B, K] of one candidate, whose network is `probe`. `inputs` are the tensors that the
        method `inputs` returns.
        """
        logits: Tensor = probe(*inputs)
        return logits

    def candidate_logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the logits of all candidates, [B, G, K]. `batch` is as in `forward`."""
        inputs = self.inputs(batch)
        return torch.stack([self.logits_of(probe, inputs) for probe in self.probes], 1)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns logits [B, K]. After `keep`, they are those of the candidate that validation chose. Before, they are
        the mean over all candidates.
        """
        return self.candidate_logits(batch).mean(1)

    def candidate_of(self, parameter: str) -> int:
        """Returns the number of the candidate that has the parameter with the name `parameter`."""
        return int(parameter.split(".")[1])

    def weights_of(self, candidate: int) -> dict[str, Tensor]:
        """Returns the state dict that the head has after `keep(candidate)`. The tensors are not copied."""
        return {f"probes.0.{name}": tensor for name, tensor in self.probes[candidate].state_dict().items()}

    def keep(self, candidate: int) -> None:
        """Drops all candidates except the number `candidate`. Its rate and decay become the options of the head."""
        kept = self.candidates[candidate]
        self.probes, self.candidates = nn.ModuleList([self.probes[candidate]]), (kept,)
        self.options = self.options | {
            "learning_rates": (kept.learning_rate,),
            "weight_decays": (kept.weight_decay,),
        }


def candidates_of(head: nn.Module) -> Sequence[Candidate]:
    """Returns the candidates of `head`, or an empty sequence for a head without candidates."""
    return head.candidates if isinstance(head, CandidateHead) else ()
