"""The options of fine-tuning. Imports no torch."""

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from kinegraph.stages.clips.views import ViewOptions
from kinegraph.stages.options import need
from kinegraph.stages.training.options import HEAD, TrainOptions

BatchNorm = Literal["frozen", "statistics", "partial", "train"]


class FinetuneOptions(TrainOptions):
    """The section `finetune` of a config: the options of training a head together with its backbones, from decoded
    videos.

    The section has most keys of the section `train`, with the same meanings. Some have other defaults. Six keys of
    `train` raise an error. `head`, `options` and `start_from` are refused, because the trained run that `start` names
    has the head. `preload`, `over` and `max_windows` are refused, because clips are decoded from the videos.
    """

    section: ClassVar[str] = "finetune"

    start: str | None = Field(
        None, description="folder of the trained run to start from; null: the run of the section `train`"
    )
    epochs: int = Field(4, gt=0, le=1_000_000, description="passes over the training split")
    batch_size: int = Field(8, gt=0, le=1_000_000, description="clips of one step, in training and evaluation")
    learning_rate: float = Field(1e-4, gt=0, le=1e6, description="the highest learning rate of the head")
    schedule: Literal["cosine", "constant", "step", "plateau"] = Field(
        "constant", description="learning rate over the steps, as in `train`"
    )
    run: str = Field(
        f"runs/tuned/{HEAD}", description=f"folder for the tuned run; `{HEAD}` stands for the name of the head"
    )
    unfreeze: Literal["all"] | tuple[str, ...] = Field(
        "all", description="parts of the backbones that are trained: all, or taps such as [res5]; []: only the head"
    )
    batch_norm: BatchNorm = Field(
        "frozen",
        description="norms of the backbones; frozen: statistics, gain and bias stay (Wang and Gupta 2018); statistics: "
        "only these stay (FROZEN_BN of SlowFast); partial: the first norm is trained, the others are frozen (TSN); "
        "train: all are trained",
    )
    learning_rate_factor: float = Field(
        1.0, gt=0, le=1e6, description="factor on the learning rate for the backbones, such as 0.1"
    )
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="further factor on the rate, once for each tap below the highest; null: none"
    )
    clips_per_pass: int | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="clips that pass through a backbone together; each pass is computed again for the gradient, which "
        "takes a third more time and the memory of one pass; null: all clips of the step, once",
    )
    decode_threads: int | None = Field(
        None, gt=0, le=4096, description="threads that decode videos; null: as many as `run.threads`"
    )
    views: ViewOptions = Field(ViewOptions(), description="random views of the training clips, see below")

    @property
    def shared_with_train(self) -> TrainOptions:
        """Returns the options that the sections `finetune` and `train` have in common, as a TrainOptions. The record of
        a fine-tuned run stores this TrainOptions.
        """
        return TrainOptions(**self.model_dump(include={*TrainOptions.model_fields}))

    @field_validator("unfreeze", mode="before")
    @classmethod
    def _one_tap_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) and value != "all" else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key in sorted(self.model_fields_set & {"head", "options", "preload", "over", "max_windows", "start_from"}):
            need(False, key, getattr(self, key), "no value, because the run of `finetune.start` has the head")
        passes = self.clips_per_pass is None or self.batch_norm in ("frozen", "statistics")
        need(passes, "clips_per_pass", self.clips_per_pass, "null, with batch_norm partial or train")
        return self
