"""Joins a tail and a head to one head. A tail has the layers of a backbone above a cached tap, and is trained with the
head. The head reads the maps that the tail computes.
"""

from collections.abc import Mapping

from torch import Tensor

from kinegraph.stages.heads.clip_graphs import ClipGraph, Links, NodeMessages
from kinegraph.stages.heads.head import Head, HeadError, Spec
from kinegraph.stages.heads.insertion import is_inserted
from kinegraph.stages.heads.tail import Tail
from kinegraph.stages.heads.tail_options import TailOptions


class TailedHead(Head):
    """A head that runs `tail` on cached maps, and then the head `head` on the maps or pooled features that the tail
    computes. A tail has the layers of a backbone above a cached tap.

    `head` must be built for the shapes of the arrays that the tail computes. `options` are those of the tail. Raises
    HeadError if `head` reads no array that the tail computes.
    """

    def __init__(self, tail: Tail, head: Head, options: TailOptions) -> None:
        super().__init__()
        computed = arrays_of_tail(tail)
        if not computed.keys() & set(head.reads):
            reads = ", ".join(head.reads)
            words = f"Head {head.name} reads {reads}, which are cached: a tail would do nothing."
            raise HeadError(f"{words} {sentence_on_arrays(tail)}")
        self.tail, self.head = tail, head
        self.reads = (tail.cached_tap.maps, *(name for name in head.reads if name not in computed))
        self.learning_rate_factor = options.learning_rate_factor
        self.name, self.num_classes = head.name, head.num_classes
        complete = options.model_copy(update={"backbone": tail.cached_tap.backbone})
        self.options = head.options | {"tail": complete.model_dump(by_alias=True)}

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.head(self._above(batch))
        return logits

    def _above(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = self.tail(batch[self.tail.cached_tap.maps])  # [B, T, C, H, W]
        last_tap = self.tail.last_tap
        return {**batch, last_tap.maps: maps, last_tap.pooled: maps.mean((3, 4))}

    @property
    def graph_links(self) -> Mapping[str, Links]:
        return self.head.graph_links

    def clip_graphs(self, batch: Mapping[str, Tensor]) -> dict[str, ClipGraph]:
        return self.head.clip_graphs(self._above(batch))

    @property
    def class_map_array(self) -> str:
        return self.tail.cached_tap.maps if self.head.class_map_array else ""

    def class_maps(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.head.class_maps(self._above(batch))

    def action_maps(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.head.action_maps(self._above(batch))

    def node_messages(self, batch: Mapping[str, Tensor]) -> NodeMessages | None:
        return self.head.node_messages(self._above(batch))

    def boxes_read(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.head.boxes_read(batch)

    def learning_rate_factor_of(self, parameter: str) -> float:
        """Returns the factor by which the training multiplies the learning rate of the parameter with the name
        `parameter`. For weights of the backbone, the factor is the option `learning_rate_factor`. For parameters of the
        head and of inserted blocks, the factor is 1.
        """
        prefix, _, name = parameter.partition(".")
        return self.learning_rate_factor if prefix == "tail" and not is_inserted(name) else 1.0


def arrays_of_tail(tail: Tail) -> dict[str, tuple[int, ...]]:
    """Returns the arrays that `tail` computes, as {name of the array: shape of one clip}. The arrays are the maps and
    the pooled features of the last tap of the backbone.
    """
    return {tail.last_tap.maps: tail.shape, tail.last_tap.pooled: tail.shape[:2]}


def spec_above(spec: Spec, tail: Tail) -> dict[str, tuple[int, ...]]:
    """Returns all arrays that a head behind `tail` can read, as {name of the array: shape of one clip}. The arrays are
    the features that the tail computes, and the cached arrays that are not features, such as boxes and regions.

    `spec` maps the name of each array of the cache to its shape for one clip.
    """
    return {name: shape for name, shape in spec.items() if not name.startswith("features/")} | arrays_of_tail(tail)


def sentence_on_arrays(tail: Tail) -> str:
    """Returns a sentence for an error message, which names the arrays that `tail` computes and the options with which a
    head reads these arrays.
    """
    return (
        f"It computes {' and '.join(arrays_of_tail(tail))} only: heads on regions read it with `regions_from: maps`, "
        "others without `tap`."
    )
