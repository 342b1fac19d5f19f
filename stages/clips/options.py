"""Defines the config section `clips`: which frames and which crops of a video become rows of the cache. Torch-free."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kinegraph.cache_schemas.annotations import WINDOWS
from kinegraph.cache_schemas.crops import CORNERS, ENDS, FLIP, FULL, MAX_EVEN, base_of, crops_of, is_crop
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.options import StageOptions, need

MAX_ROWS = 10_000  # of one video
HOPS = ("hop_frames", "hop_seconds")
ANNOTATED = "annotated"  # the value of sampling for frames that a data set annotates
NATIVE = "native"  # the value of fps for clips whose frames are taken by number


class ClipOptions(StageOptions):
    """The config section `clips`, which chooses the frames and the crops of the clips of a video.

    `num_frames`: the number of frames of a clip.
    `sampling`: how the frames of a clip are spread over the video.
    `fps`: the frames per second of a clip, except with `sampling: uniform`.
    `per_video`: the number of clips of a video.
    `crops`: the crops of a clip. Each crop of each clip is one row.
    `short`: what happens if the video is shorter than a clip.

    With `fps: native`, frames are chosen by number, whatever the frame rate, and `frame_step` is the step between the
    numbers. `sampling: uniform` then follows the rule of TSN (Temporal Segment Networks). Frame i of a clip is frame
    floor((i + 0.5) n / num_frames) of the n frames of the video: the frames 2, 7, 12, 17 of 20 for 4 frames.

    `sampling: windows` slides a window of `num_frames` frames over the whole video. So the number of clips depends on
    the video. Intervals of a csv are then annotations of the video, and have no clips of their own.

    `sampling: annotated` takes the frames that the owners of the data set annotated, and needs `dataset.kind:
    action_genome`. If there are more annotated frames than a clip has frames, the clip takes them evenly, by the rule
    of TSN. If there are fewer, the clip repeats the last annotated frame.
    """

    num_frames: int = Field(32, ge=1, le=10_000, description="frames of a clip")
    fps: Annotated[float, Field(gt=0, le=1000)] | Literal["native"] = Field(
        6.0, description="frames per second of dense and centre clips; native: frames are counted, also with uniform"
    )
    frame_step: int = Field(
        1, ge=1, le=10_000, description="with fps: native, dense and centre clips take every k-th frame"
    )
    sampling: Literal["uniform", "dense", "centre", "windows", "annotated"] = Field(
        "dense",
        description="uniform: frames spread over the whole video; dense: frames at fps from the start, or "
        "from evenly spaced starts of several clips; centre: one clip at fps in the middle; windows: a clip every "
        "hop_frames or hop_seconds; annotated: the frames that the data set annotates",
    )
    hop_frames: int | None = Field(
        None, ge=1, le=1_000_000, description="of windows: frames at fps from one start to the next"
    )
    hop_seconds: float | None = Field(
        None, gt=0, le=86_400, description="of windows: seconds from one start to the next, in place of hop_frames"
    )
    tail: Literal["drop", "pad", "shift"] = Field(
        "drop",
        description="of windows, the end of the video. drop: only windows that fit; pad: a window begins at every hop, "
        "and the last frame is repeated; shift: drop, and one window more that ends with the video",
    )
    beyond_end: Literal["refuse", "leave_out"] = Field(
        "refuse",
        description="of annotated, what happens to a video with fewer frames than the annotations number, which shows "
        "that the file is another encoding. refuse: its clips fail; leave_out: these frames are left out",
    )
    per_video: int = Field(1, ge=1, le=MAX_ROWS, description="clips per video, evenly spaced")
    crops: tuple[str, ...] = Field(
        ("center",),
        min_length=1,
        description="where squares are cut: center, left, right, top_left, top_right, bottom_left, "
        "bottom_right, or even_<n> (n along the longer side); full is the whole frame; the "
        "ending _flip mirrors, as in left_flip; each crop makes a row",
    )
    short: Literal["repeat_last", "loop", "fail"] = Field(
        "repeat_last", description="what happens to a video that is shorter than a clip"
    )

    decoder: Literal["pyav", "torchcodec", "torchcodec_cuda"] = Field(
        "pyav",
        description="pyav; torchcodec (an extra) on the CPU; torchcodec_cuda: torchcodec on the worker's GPU. The "
        "frames are the same, their pixels nearly. Files that torchcodec may decode otherwise are left to PyAV, see "
        "docs/gpu.md",
    )

    @property
    def torchcodec_device(self) -> str | None:
        """Returns the device on which torchcodec decodes, "cpu" or "cuda". Returns None if PyAV decodes."""
        return {"pyav": None, "torchcodec": "cpu", "torchcodec_cuda": "cuda"}[self.decoder]

    @property
    def rows_per_video(self) -> int:
        """Returns the number of rows of one video: the number of clips times the number of crops."""
        return self.per_video * len(self.crop_names)

    @property
    def crop_names(self) -> list[str]:
        """Returns the names of the crops of a clip. `even_<n>` becomes the names of n crops. Each crop of each clip is
        one row.
        """
        return [crop for name in self.crops for crop in crops_of(name)]

    @property
    def by_number(self) -> bool:
        """Returns whether frames are chosen by their number. If not, they are chosen by time. The result is True with
        `fps: native` and with `sampling: annotated`.
        """
        return self.fps == NATIVE or self.is_annotated

    @property
    def is_annotated(self) -> bool:
        """Returns whether a clip consists of the frames that the owners of the data set annotated."""
        return self.sampling == ANNOTATED

    @property
    def has_windows(self) -> bool:
        """Returns whether clips are windows that slide over the whole video. Then each video has its own number of
        clips.
        """
        return self.sampling == WINDOWS

    @model_validator(mode="after")
    def _windows_have_a_hop(self) -> "ClipOptions":
        hops = {key: value for key in HOPS if (value := getattr(self, key)) is not None}
        if not self.has_windows:
            given = hops | ({"tail": self.tail} if self.tail != "drop" else {})
            for key, value in given.items():
                need(False, key, value, f"with sampling: {WINDOWS}; here it is {self.sampling}")
            return self
        need(len(hops) == 1, "hop_frames", hops or None, "hop_frames or hop_seconds, one of them, with windows")
        need(self.per_video == 1, "per_video", self.per_video, "1 with windows; the hop decides how many there are")
        allowed = "repeat_last with windows; tail says what happens at the end of a video"
        need(self.short == "repeat_last", "short", self.short, allowed)
        return self

    @model_validator(mode="after")
    def _annotated_frames_make_one_clip(self) -> "ClipOptions":
        if not self.is_annotated:
            with_what = f"refuse with sampling: {self.sampling}; leave_out needs {ANNOTATED}"
            need(self.beyond_end == "refuse", "beyond_end", self.beyond_end, with_what)
            return self
        need(self.per_video == 1, "per_video", self.per_video, f"1 with sampling: {ANNOTATED}")
        need(self.frame_step == 1, "frame_step", self.frame_step, f"1 with sampling: {ANNOTATED}")
        need(self.short == "repeat_last", "short", self.short, f"repeat_last with sampling: {ANNOTATED}")
        return self

    @model_validator(mode="after")
    def _steps_are_of_counted_frames(self) -> "ClipOptions":
        if self.frame_step > 1 and (not self.by_number or self.sampling == "uniform"):
            with_what = "sampling: uniform" if self.by_number else f"fps: {self.fps:g}; others need fps: native"
            raise ValueError(f"frame_step: given {self.frame_step}, allowed: 1 with {with_what}")
        return self

    @model_validator(mode="after")
    def _crops_are_known(self) -> "ClipOptions":
        if unknown := [name for name in self.crops if not is_crop(name)]:
            places = ", ".join([*ENDS, *CORNERS, FULL])
            even = f"even_<n> with n up to {MAX_EVEN}"
            raise ValueError(f"crops: given {unknown[0]!r}, allowed: {places}, {even}, each also with {FLIP}")
        if len({*self.crops}) < len(self.crops):
            raise ValueError(f"crops: given {[*self.crops]}, allowed: each crop once")
        if (rows := self.rows_per_video) > MAX_ROWS:
            seen = f"{self.per_video} with {counted(len(self.crop_names), 'crop')}, {counted(rows, 'row')} of a video"
            raise ValueError(f"per_video: given {seen}, allowed: {MAX_ROWS}")
        return self


def without_views(clip_options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of the options `clip_options` of a cache without the choice of clips and crops. Caches with equal
    copies fit each other: a run that was trained on one of them can use the others.

    The copy lacks the number of clips per video and the step between windows. The sampling `centre` or `windows`
    becomes `dense`. Each crop becomes `square`, except `full`, which has another aspect ratio.
    """
    kept = {key: value for key, value in clip_options.items() if key not in ("per_video", "tail", "beyond_end", *HOPS)}
    if "crops" in kept:
        kept["crops"] = sorted({FULL if base_of(crop) == FULL else "square" for crop in kept["crops"]})
    if kept.get("sampling") in ("centre", WINDOWS):
        kept["sampling"] = "dense"
    return kept
