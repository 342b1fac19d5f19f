"""Puts a head behind a tail. A tail is the part of a backbone above the cached maps, and is trained with the head. The
head reads the maps that the tail computes.
"""

from collections.abc import Mapping

from torch import Tensor

from kinegraph.stages.heads.clip_graphs import ClipGraph, Links, NodeMessages
from kinegraph.stages.heads.head import Head, HeadError, Spec
from kinegraph.stages.heads.insertion import is_inserted
from kinegraph.stages.heads.tail import Tail
from kinegraph.stages.heads.tail_options import TailOptions


class TailedHead(Head):
    """Runs the tail `tail` on cached maps, then the head `head` on the maps or the pooled features that the tail
    computes. A tail is the part of the backbone above the cached maps.

    `head` was built for arrays with the shapes that the tail computes. `reads` has the cached maps and the other cached
    arrays that `head` reads. Raises HeadError if `head` reads nothing that the tail computes.
    """

    def __init__(self, tail: Tail, head: Head, options: TailOptions) -> None:
        super().__init__()
        made = made_by(tail)
        if not made.keys() & set(head.reads):
            reads = ", ".join(head.reads)
            raise HeadError(f"Head {head.name} reads {reads}, which are cached: a tail would do nothing. {gives(tail)}")
        self.tail, self.head = tail, head
        self.reads = (tail.read.maps, *(name for name in head.reads if name not in made))
        self.learning_rate_factor = options.learning_rate_factor
        self.name, self.num_classes = head.name, head.num_classes
        complete = options.model_copy(update={"backbone": tail.read.backbone})
        self.options = head.options | {"tail": complete.model_dump(by_alias=True)}

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.head(self._above(batch))
        return logits

    def _above(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = self.tail(batch[self.tail.read.maps])  # [B, T, C, H, W]
        given = self.tail.given
        return {**batch, given.maps: maps, given.pooled: maps.mean((3, 4))}

    @property
    def graph_links(self) -> Mapping[str, Links]:
        return self.head.graph_links

    def clip_graphs(self, batch: Mapping[str, Tensor]) -> dict[str, ClipGraph]:
        return self.head.clip_graphs(self._above(batch))

    @property
    def class_map_array(self) -> str:
        return self.tail.read.maps if self.head.class_map_array else ""

    def class_maps(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.head.class_maps(self._above(batch))

    def action_maps(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.head.action_maps(self._above(batch))

    def node_messages(self, batch: Mapping[str, Tensor]) -> NodeMessages | None:
        return self.head.node_messages(self._above(batch))

    def boxes_read(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.head.boxes_read(batch)

    def learning_rate_factor_of(self, parameter: str) -> float:
        """Returns the factor by which the learning rate of the parameter named `parameter` is multiplied.

        For weights of the tail that come from the backbone, it is the option `learning_rate_factor`. For other
        parameters it is 1.
        """
        prefix, _, name = parameter.partition(".")
        return self.learning_rate_factor if prefix == "tail" and not is_inserted(name) else 1.0


def made_by(tail: Tail) -> dict[str, tuple[int, ...]]:
    """Returns the arrays that `tail` computes in place of cached arrays, as array name -> shape of one clip. A tail is
    the part of a backbone above a cached tap.
    """
    return {tail.given.maps: tail.shape, tail.given.pooled: tail.shape[:2]}


def spec_above(spec: Spec, tail: Tail) -> dict[str, tuple[int, ...]]:
    """Returns array name -> shape of one clip, for all arrays that a head with a tail can read.

    These are the features that the tail computes, and all cached arrays that are not features, such as boxes and
    regions. The cached features are read only by the tail.
    """
    return {name: shape for name, shape in spec.items() if not name.startswith("features/")} | made_by(tail)


def gives(tail: Tail) -> str:
    """Returns a sentence for an error message. The sentence names the arrays that `tail` computes, and the options with
    which a head reads them.
    """
    return (
        f"It gives {' and '.join(made_by(tail))} only: heads on regions read it with `regions_from: maps`, "
        "others without `tap`."
    )
