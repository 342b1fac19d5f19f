"""Draws what a trained head computes for clips of a cache. The head runs on the CPU, and torch is imported for that.

Shapes: B clips, K classes, T time steps of the head, H rows and W columns of a map.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.reports.embedding import Method, chosen_clips, embedding, evenly
from kinegraph.pipeline.reports.frames import FrameFinder
from kinegraph.pipeline.reports.graphs import batch_of, head_graphs, plain
from kinegraph.pipeline.reports.head_maps import maps_strip
from kinegraph.pipeline.reports.messages import messages_strip
from kinegraph.pipeline.reports.nothing import NothingToShowError
from kinegraph.pipeline.reports.relations import relation_pictures
from kinegraph.pipeline.reports.samples import ArraySamples
from kinegraph.stages.pictures.picture import Picture
from kinegraph.stages.pictures.strips import Strip

if TYPE_CHECKING:
    from torch import Tensor

    from kinegraph.stages.heads.head import Head

CLIPS_AT_ONCE, MOST_RELATED = 16, 64


class HeadFigures:
    """Draws what a trained head computes for clips of a cache. `Look.head` returns a HeadFigures.

    - `samples`: reads the arrays of the cache.
    - `finder`: decodes the frames of clips.
    - `name`: the beginning of each title.
    - `head`: the trained head.

    A method raises NothingToShowError if there is nothing for the figure, and FramesMissingError if a clip has no
    frames to show.
    """

    def __init__(self, samples: ArraySamples, finder: FrameFinder, name: str, head: "Head") -> None:
        self.name, self.head = name, head
        self._samples, self._finder = samples, finder

    def class_maps(self, rows: Sequence[int]) -> list[Strip]:
        """Draws where in the frames the head sees a class. Returns one Strip of frames with heat maps (class activation
        maps) for each clip in the row numbers `rows`.

        The first line of frames shows the predicted class. If it is wrong, a second line shows the first true class.
        `data` has the maps of each line, [time steps, rows, columns]. The mean of the maps is the logit of the class.
        Only a head that classifies the mean of cached maps by one linear layer has such maps.
        """
        import torch

        from kinegraph.stages.heads.head import WITH_CLASS_MAPS

        array = self.head.class_map_array
        if not array:
            text = f"{self.name}: the head {self.head.name} has no class activation maps, as it is."
            raise NothingToShowError(f"{text} {WITH_CLASS_MAPS}")
        if array not in self._samples.specs:
            text = f"{self.name}: class activation maps need the array {array}, which the cache lacks."
            raise NothingToShowError(f"{text} A backbone with `store: [maps]` makes it.")
        batch = batch_of(self._samples, [array, *self.head.reads], rows)
        with torch.inference_mode():
            maps = self.head.class_maps(batch).float().numpy()  # [B, K, T, H, W]
        return [self._class_maps_strip(array, row, maps[place]) for place, row in enumerate(rows)]

    def graphs(self, rows: Sequence[int]) -> list[Picture | Strip]:
        """Draws the graphs that the head computes for the clips of `rows`, as `Look.graphs` does. Returns a list of
        figures.
        """
        return [*head_graphs(self._samples, self._finder, self.name, self.head, rows)]

    def relations(self, rows: Sequence[int] | None = None) -> list[Picture]:
        """Draws two matrices for each of the head's graphs between frames. The first matrix has the mean weights
        between the frames, over the clips in `rows` or, if it is None, over at most 64 clips.

        The second matrix compares each two frames. Entry (i, j) is the Jensen-Shannon divergence between the weights of
        the frames i and j for themselves and their two neighbours.
        """
        import torch

        names = [name for name, links in self.head.graph_links.items() if links == "frames"]
        if not names:
            raise NothingToShowError(f"{self.name}: the head {self.head.name} has no graph between frames, as it is.")
        chosen = evenly(self._readable_rows(), MOST_RELATED) if rows is None else np.array(rows)
        sums: dict[str, np.ndarray] = {}
        with torch.inference_mode():
            for first in range(0, len(chosen), CLIPS_AT_ONCE):
                batch = batch_of(self._samples, self.head.reads, chosen[first : first + CLIPS_AT_ONCE].tolist())
                for name, graph in self.head.clip_graphs(batch).items():
                    sums[name] = sums.get(name, 0) + graph.matrix.sum(0).double().numpy()
        return [
            picture
            for name in names if name in sums
            for picture in relation_pictures(
                sums[name] / len(chosen), len(chosen), f"{self.name}: {name}", plain(f"graph_{self.name}_{name}")
            )
        ]  # fmt: skip

    def actionness(self, rows: Sequence[int]) -> list[Strip]:
        """Draws where an ATR head finds the action. Returns one Strip for each clip in the row numbers `rows`.

        A Strip has one line of frames for each block of the head, with the map of the block as a heat map. Each frame
        also has the three cached boxes in which the mean of the map is largest. `data` has the maps of each block,
        [time steps, rows, columns].
        """
        import torch

        batch = batch_of(self._samples, self.head.reads, rows)
        with torch.inference_mode():
            maps = {name: values.float().numpy() for name, values in self.head.action_maps(batch).items()}
        if not maps:
            text = f"{self.name}: the head {self.head.name} has no map of the action, as it is."
            raise NothingToShowError(f"{text} atr has one, except with `locator: none`.")
        return [
            maps_strip(
                self._samples, self._finder, row, self.head.class_map_array,
                [(name, values[place]) for name, values in maps.items()], with_boxes=True,
                name=plain(f"actionness_{self.name}_{row}"), title=f"{self.name}: actionness",
                description=f"Actionness of {counted(len(maps), 'block')}: yellow cells are where the action is found.",
            )
            for place, row in enumerate(rows)
        ]  # fmt: skip

    def messages(self, rows: Sequence[int]) -> list[Strip]:
        """Draws the messages that an RSTG head sends between its nodes. Returns one Strip for each clip of `rows`. Each
        frame has the five strongest messages of the last space stage. `data` of the Strip has the strengths of all
        messages, [time steps, pairs of nodes].
        """
        import torch

        batch = batch_of(self._samples, self.head.reads, rows)
        with torch.inference_mode():
            messages = self.head.node_messages(batch)
        if messages is None:
            text = f"{self.name}: the head {self.head.name} sends no messages between cells, as it is."
            raise NothingToShowError(f"{text} rstg does, except with `schedule: time_only`.")
        array = next(name for name in self.head.reads if name.startswith("features/"))
        pairs = [*zip(messages.senders, messages.receivers, strict=True)]
        return [
            messages_strip(
                self._samples, self._finder, row, array, messages.strengths[place].float().numpy(), pairs,
                np.array(messages.cells), name=plain(f"messages_{self.name}_{row}"), title=f"{self.name}: messages",
            )
            for place, row in enumerate(rows)
        ]  # fmt: skip

    def embedding(self, rows: Sequence[int] | None = None, method: Method = "pca") -> Picture:
        """Draws clips as points in a plane. A PCA or a t-SNE computes the points from the input vectors of the head's
        last linear layer.

        - `rows`: the row numbers of the clips. None means all rows. At most 200 clips of the 20 most frequent classes
          are drawn.
        - `method`: "pca" or "tsne", as in `Look.embedding`.
        """
        import torch

        from kinegraph.stages.heads.head import Classifier

        classifiers = [module for module in self.head.modules() if isinstance(module, Classifier)]
        if not classifiers:
            raise NothingToShowError(f"{self.name}: the head {self.head.name} has no classifier of vectors.")
        chosen = chosen_clips(self._samples.numbers, self._readable_rows() if rows is None else np.array(rows))
        given: list[torch.Tensor] = []
        vectors = [np.empty((0, 1))]
        hook = classifiers[-1].register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
        with hook, torch.inference_mode():
            for first in range(0, len(chosen), CLIPS_AT_ONCE):
                some = chosen[first : first + CLIPS_AT_ONCE].tolist()
                self.head(batch_of(self._samples, self.head.reads, some))
                vectors.append(_one_a_clip(given[-1]))
        together = np.concatenate(vectors[1:] or vectors)
        if len(together) != len(chosen):
            raise NothingToShowError(f"{self.name}: its classifier reads several vectors of a clip, not one.")
        name, of = plain(f"{method}_{self.name}"), f"what the classifier of {self.name} reads"
        return embedding(self._samples.numbers, chosen, together, method, name=name, of=of)

    def _readable_rows(self) -> np.ndarray:
        """Returns row numbers that have values in all arrays that the head reads: a sample of at most 4,096 rows."""
        stored = [name for name in self.head.reads if name in self._samples.specs]
        usable = self._samples.reader(self.head.reads).rows
        return np.intersect1d(self._samples.rows(*stored), usable) if stored else usable

    def _class_maps_strip(self, array: str, row: int, maps: np.ndarray) -> Strip:
        numbers = self._samples.numbers
        logits, labels = maps.mean((1, 2, 3)), numbers.labels_of(row)
        best = int(logits.argmax())
        shown = [best, *(labels[:1] if best not in labels else ())]
        words = ["predicted" if label == best else "true" for label in shown]
        lines = [(f"{word} {numbers.class_name(at)}", maps[at]) for word, at in zip(words, shown, strict=True)]
        logits_text = ", ".join(f"{caption} ({logits[at]:.2f})" for (caption, _), at in zip(lines, shown, strict=True))
        text = f"Class activation maps of {counted(len(shown), 'class')} and their logits: {logits_text}."
        title = f"{self.name}: {', '.join(map(numbers.class_name, labels)) or 'no label'}"
        title += "" if best in labels or not labels else f", taken for {numbers.class_name(best)}"
        return maps_strip(
            self._samples, self._finder, row, array, lines, name=plain(f"class_maps_{self.name}_{row}"), title=title,
            description=text,
        )  # fmt: skip


def _one_a_clip(given: "Tensor") -> np.ndarray:
    """Returns one vector per clip, [clips, channels], from the input of a classifier. If the classifier gets several
    vectors of a clip, such as one per frame, their mean is returned.
    """
    vectors = given.float()
    return np.asarray((vectors.flatten(1, -2).mean(1) if vectors.ndim > 2 else vectors).numpy())
