"""Heads that train several candidates side by side. A candidate is a copy of the head's layers that is trained with a
learning rate and a weight decay of its own. Validation chooses the best candidate, and the head drops all other
candidates.

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
    """The learning rate and the weight decay with which one copy of a head's layers is trained."""

    learning_rate: float
    weight_decay: float

    @property
    def name(self) -> str:
        return f"learning rate {self.learning_rate:g}, weight decay {self.weight_decay:g}"


class CandidateOptions(TapOptions):
    """The options of a head that trains several candidates. There is one candidate for each pair of a learning rate and
    a weight decay.
    """

    learning_rates: tuple[Rate, ...] = Field(min_length=1, description=RATES)
    weight_decays: tuple[Decay, ...] = Field(min_length=1, description=DECAYS)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Returns one Candidate for each pair of a learning rate and a weight decay. All pairs with the first decay
        come first.
        """
        pairs = product(self.weight_decays, self.learning_rates)
        return tuple(Candidate(learning_rate=rate, weight_decay=decay) for decay, rate in pairs)

    @field_validator("learning_rates", "weight_decays")
    @classmethod
    def _each_once(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        need(len({*values}) == len(values), "value", [*values], "each number once")
        return values


class CandidateHead(Head):
    """The base class of heads with several candidates. A candidate is a copy of the head's layers that is trained with
    its own learning rate and weight decay. One pass over the cache trains all candidates.

    A subclass calls `choose_array` and `add_candidates` in its constructor, and implements `inputs`.

    The candidates share no parameter and start from the same weights. Each candidate gets the weights that it would get
    if it were trained alone. At the end of the training, `keep` drops all candidates except the best one.
    """

    option_model: ClassVar[type[CandidateOptions]]
    candidates: tuple[Candidate, ...]
    source: FeatureSource
    array: str

    def choose_array(self, spec: Spec, read: str, options: CandidateOptions) -> int:
        """Chooses the cached array that the head reads, and sets the attributes `source` (its tap) and `array` (its
        name). Returns the number of channels of the array.

        - `spec`: {name of the array: shape for one clip} of the cache.
        - `read`: the kind of array: "maps", "pooled" or "regions".
        - `options`: names the backbone or the tap if several taps have such arrays.

        Raises HeadError if no array fits, if several fit, or if `spec` describes whole videos and `read` is not
        "pooled".
        """
        if are_videos(spec) and read != "pooled":
            raise HeadError(f"read: given {read}, allowed with train.over: videos: pooled")
        self.source = choose_source(spec, [read], options)
        self.array = self.source.array(read)
        return spec[self.array][1 if read == "maps" else -1]

    def add_candidates(self, probe: nn.Module, options: CandidateOptions) -> None:
        """Adds the layers of the head: one copy of the network `probe` for each pair of a learning rate and a weight
        decay in `options`. `probe` computes logits from the tensors that the method `inputs` returns.
        """
        self.candidates = options.candidates
        self.probes = nn.ModuleList(copy.deepcopy(probe) for _ in self.candidates)

    def inputs(self, batch: Mapping[str, Tensor]) -> Sequence[Tensor | None]:
        """Returns the tensors that all candidates (copies of the head's layers) read, for the clips of `batch`. `batch`
        maps the name of each array in `reads` to its values [B, ...]. A subclass implements this method.
        """
        raise NotImplementedError

    def logits_of(self, probe: nn.Module, inputs: Sequence[Tensor | None]) -> Tensor:
        """Returns the logits [B, K] of one candidate (a copy of the head's layers), for B clips and K classes. `probe`
        is the network of the candidate. `inputs` are the tensors that the method `inputs` has returned.
        """
        logits: Tensor = probe(*inputs)
        return logits

    def candidate_logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the logits of all candidates, [B, G, K], for B clips, G candidates and K classes. `batch` maps the
        name of each array in `reads` to its values [B, ...].
        """
        inputs = self.inputs(batch)
        return torch.stack([self.logits_of(probe, inputs) for probe in self.probes], 1)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the mean of the logits of all candidates, [B, K], for B clips and K classes. After `keep`, the head
        has only one candidate, so the result has the logits of this candidate. `batch` maps the name of each array in
        `reads` to its values [B, ...].
        """
        return self.candidate_logits(batch).mean(1)

    def candidate_of(self, parameter: str) -> int:
        """Returns the number, counted from 0, of the candidate to which a parameter of the head belongs. A candidate is
        one of several copies of the head's layers. `parameter` is the name of the parameter, such as
        "probes.3.fc.weight".
        """
        return int(parameter.split(".")[1])

    def weights_of(self, candidate: int) -> dict[str, Tensor]:
        """Returns the weights of one candidate (a copy of the head's layers), as the state dict that the head has after
        `keep(candidate)`. `candidate` is the number of the candidate, counted from 0. The tensors are not copied.
        """
        return {f"probes.0.{name}": tensor for name, tensor in self.probes[candidate].state_dict().items()}

    def keep(self, candidate: int) -> None:
        """Removes all candidates (copies of the head's layers) from the head except the candidate with the number
        `candidate`, counted from 0. The options of the head then have only the learning rate and the weight decay of
        this candidate.
        """
        kept = self.candidates[candidate]
        self.probes, self.candidates = nn.ModuleList([self.probes[candidate]]), (kept,)
        self.options = self.options | {
            "learning_rates": (kept.learning_rate,),
            "weight_decays": (kept.weight_decay,),
        }


def candidates_of(head: nn.Module) -> Sequence[Candidate]:
    """Returns the candidates of `head`. Some heads train several copies of their layers at once, to choose the best
    copy. A Candidate has the learning rate and the weight decay of one copy. For other heads, the result is empty.
    """
    return head.candidates if isinstance(head, CandidateHead) else ()
