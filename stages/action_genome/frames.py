"""Stores the annotated frames of Action Genome as arrays of numbers, so that all frames fit into memory. Imports no
torch.

Shapes: V videos, F frames of all videos, K objects of all frames, P persons of all frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from kinegraph.stages.scene_graphs.vocabulary import NAMED

VOCABULARY = NAMED["action_genome_26"]
SPLITS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class GenomeObject:
    """An object in an annotated frame of Action Genome."""

    class_number: int  # the number of the class of the object. It is a line of object_classes.txt, counted from 0.
    is_visible: bool  # whether the frame shows the object. If it is false, the object has no box and no relations.
    # (x1, y1, x2, y2) in pixels of the frame from which the annotations were made, or None
    box_xyxy: tuple[float, float, float, float] | None
    # The numbers of the relations of the object to the person. They are lines of relationship_classes.txt, counted from
    # 0.
    relations: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class GenomeFrame:
    """An annotated frame of Action Genome. It may have no person and no object."""

    number: int  # the number of the frame in the video, counted from 1
    size: tuple[int, int]  # (width, height) of the frame in pixels
    persons_xyxy: np.ndarray  # the boxes (x1, y1, x2, y2) of n persons that a detector found, in pixels, float32 [n, 4]
    person_scores: np.ndarray  # the scores of these boxes, float32 [n]
    objects: tuple[GenomeObject, ...]  # the objects, in the order of the annotations


@dataclass(frozen=True, kw_only=True)
class GenomeFrames:
    """All annotated frames of Action Genome, as arrays. There are V videos, F frames of all videos, K objects of all
    frames, and P persons of all frames.

    The method `frame` returns one frame as a GenomeFrame.
    """

    videos: np.ndarray  # the names of the videos without the ending .mp4, sorted, [V]
    is_test: np.ndarray  # bool [V], true for the videos of the split "test"
    # [V + 1]. The frames of video v have the indices `frame_starts[v]` to `frame_starts[v + 1]` - 1.
    frame_starts: np.ndarray
    # The number of each frame in its video, counted from 1, int32 [F]. The frames of a video are in ascending order.
    numbers: np.ndarray
    sizes: np.ndarray  # (width, height) of each frame in pixels, int32 [F, 2]
    # [F + 1]. The objects of frame f have the indices `object_starts[f]` to `object_starts[f + 1]` - 1.
    object_starts: np.ndarray
    classes: np.ndarray  # the class number of each object, int16 [K]
    visible: np.ndarray  # bool [K], true for objects that the frame shows
    # (x, y, width, height) of each object in pixels, float64 [K, 4]. NaN for an object that is not visible.
    boxes_xywh: np.ndarray
    relations: np.ndarray  # uint32 [K]. Bit r is 1 if the object has the relation r to the person.
    # [F + 1]. The persons of frame f have the indices `person_starts[f]` to `person_starts[f + 1]` - 1.
    person_starts: np.ndarray
    persons_xyxy: np.ndarray  # (x1, y1, x2, y2) of each person in pixels, float32 [P, 4]
    person_scores: np.ndarray  # the score of each person, float32 [P]

    @cached_property
    def _place(self) -> dict[str, int]:
        return {str(name): place for place, name in enumerate(self.videos)}

    def __contains__(self, video: str) -> bool:
        return video in self._place

    def split_of(self, video: str) -> str:
        """Returns the split of the video with the name `video`: "train" or "test"."""
        return SPLITS[int(self.is_test[self._place[video]])]

    def numbers_of(self, video: str) -> np.ndarray:
        """Returns the numbers of the annotated frames of the video with the name `video`, in ascending order. The first
        frame of a video has the number 1.
        """
        return self.numbers[self._range(video)]

    def frame(self, video: str, number: int) -> GenomeFrame | None:
        """Returns the frame with the number `number`, counted from 1, of the video with the name `video`. Returns None
        if the frame is not annotated.
        """
        if video not in self:
            return None
        rows = self._range(video)
        place = rows.start + int(np.searchsorted(self.numbers[rows], number))
        if place == rows.stop or self.numbers[place] != number:
            return None
        persons = slice(self.person_starts[place], self.person_starts[place + 1])
        width, height = self.sizes[place].tolist()
        return GenomeFrame(
            number=number,
            size=(width, height),
            persons_xyxy=self.persons_xyxy[persons],
            person_scores=self.person_scores[persons],
            objects=tuple(map(self._object, range(self.object_starts[place], self.object_starts[place + 1]))),
        )

    def _range(self, video: str) -> slice:
        place = self._place[video]
        return slice(int(self.frame_starts[place]), int(self.frame_starts[place + 1]))

    def _object(self, place: int) -> GenomeObject:
        x, y, width, height = self.boxes_xywh[place].tolist()
        is_visible, bits = bool(self.visible[place]), int(self.relations[place])
        return GenomeObject(
            class_number=int(self.classes[place]),
            is_visible=is_visible,
            box_xyxy=(x, y, x + width, y + height) if is_visible else None,
            relations=tuple(number for number in range(len(VOCABULARY.relations)) if bits >> number & 1),
        )

    def usual_counts(self) -> Iterator[tuple[str, int, int]]:
        """Yields (name of the split, number of videos, number of frames) for each split. Only frames that papers count
        are counted: frames with a person and a visible object, in videos with more than two such frames.
        """
        has_person = np.diff(self.person_starts) > 0
        num_visible = np.concatenate([[0], np.cumsum(self.visible)])
        counts = has_person & (num_visible[self.object_starts[1:]] > num_visible[self.object_starts[:-1]])
        so_far = np.concatenate([[0], np.cumsum(counts)])
        of_video = so_far[self.frame_starts[1:]] - so_far[self.frame_starts[:-1]]
        for split, is_test in zip(SPLITS, (False, True), strict=True):
            kept = of_video[(self.is_test == is_test) & (of_video > 2)]
            yield split, len(kept), int(kept.sum())


COLUMNS = tuple(field.name for field in fields(GenomeFrames))
