"""The options of a training run. Imports no torch."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kinegraph.stages.options import MAX_SECONDS, MAX_SEED, SplitName, StageOptions

HEAD = "<head>"  # in `run`: the name of the head or variant
# options that may change between parts of a run; they do not change its numbers (threads: the last bits only)
FREE = {"run", "threads", "preload", "tensorboard", "test_split", "checkpoint_minutes", "checkpoint_steps"}
FREE |= {"start", "decode_threads"}  # keys that only fine-tuning has


class TrainOptions(StageOptions):
    """The section `train` of a config: the head, the training and the evaluation."""

    section: ClassVar[str] = "train"  # the name of the section in messages

    head: str = Field(
        "strg",
        description="a head that `kinegraph models --heads` lists, or your own, `my_heads.py:MyHead`, "
        "relative to the config",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of the head; other heads that `train --head` names take those that they have too",
    )
    start_from: str | None = Field(
        None,
        min_length=1,
        description="folder of a trained run of the same head, whose weights the head starts from; the layers of other "
        "classes start fresh; null: fresh weights",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of the first weights, the order of clips and dropout")
    epochs: int = Field(20, gt=0, le=1_000_000, description="passes over the training split")
    iterations: int | None = Field(
        None,
        gt=0,
        le=1_000_000_000,
        description="number of steps, in place of epochs; milestones and warmup then count steps too",
    )
    over: Literal["clips", "videos"] = Field(
        "clips",
        description="what a sample is. clips: one clip; videos: a whole video as the sequence of its windows, for "
        "caches of `clips.sampling: windows` and the heads avg_pool, lstm, mlp, trn and the probes",
    )
    max_windows: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="with over: videos, a longer video is read as this many of its windows, taken evenly; null: all",
    )
    views_per_epoch: Literal["one", "all"] | None = Field(
        None,
        description="clips of a video that an epoch sees. one: one clip, drawn anew in each epoch; all: all clips; "
        "null: one, where a video has several clips",
    )
    batch_size: int = Field(
        64, gt=0, le=1_000_000, description="clips, or videos, of one step, in training and evaluation"
    )
    learning_rate: float = Field(1e-3, gt=0, le=1e6, description="the highest learning rate of the run")
    schedule: Literal["cosine", "constant", "step", "plateau"] = Field(
        "cosine",
        description="learning rate over the steps; cosine: falls to 0; step: times gamma at each "
        "milestone; plateau: times gamma when `metric` no longer improves",
    )
    milestones: tuple[Annotated[int, Field(gt=0, le=1_000_000_000)], ...] = Field(
        (),
        description="schedule step: epochs after which the rate falls",
    )
    plateau_epochs: int = Field(
        5,
        gt=0,
        le=1_000_000,
        description="schedule plateau: the rate falls after this many epochs in a row without improvement",
    )
    gamma: float = Field(0.1, gt=0, lt=1, description="schedules step and plateau: factor on the rate")
    warmup: float = Field(0, ge=0, le=1e9, description="epochs over which the rate rises linearly; 0: no warm-up")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="optimiser of the weights")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd: momentum")
    nesterov: bool = Field(True, description="sgd with momentum: Nesterov's momentum")
    weight_decay: float = Field(1e-4, ge=0, le=1e6, description="weight decay; adamw decouples it")
    decay_all: bool = Field(True, description="false: biases and norms (parameters with one axis) have no weight decay")
    clip_grad_norm: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="gradients are scaled down to this norm; null: never",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="a moving mean of the weights with this decay, such as 0.999, is scored and kept; "
        "null: the weights themselves are",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="precision of training; fp16 needs CUDA; evaluation is always in fp32"
    )
    loss_reduction: Literal["mean", "sum"] = Field(
        "mean",
        description="mean: the loss of a step is the mean over clips and, where videos may have several labels, over "
        "classes; sum: their sum, so that the rate depends on batch_size and on the number of classes",
    )
    class_weights: Literal["none", "balanced"] | tuple[Annotated[float, Field(gt=0, le=1e9)], ...] = Field(
        "none",
        description="weights of classes in the loss: balanced over the training split, or one number per "
        "class; where videos may have several labels, they weight the positives; none: all 1",
    )
    metric: Literal["top1", "top5", "mAP", "wAP", "loss"] | None = Field(
        None,
        description="metric on val_split that chooses the best epoch; null: top1, or mAP where videos may "
        "have several labels",
    )
    patience: int | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="training stops after this many epochs in a row without improvement; null: never",
    )
    checkpoint_minutes: float = Field(
        10.0,
        gt=0,
        le=MAX_SECONDS / 60,
        description="a killed run continues from its last state, which is written after each epoch, but not again "
        "within 5 s, and after this many minutes of an epoch",
    )
    checkpoint_steps: int | None = Field(
        None,
        gt=0,
        le=1_000_000_000,
        description="the state is also written after this many steps of an epoch",
    )
    tensorboard: bool = Field(False, description="logs for TensorBoard are written to the run's folder")
    train_split: SplitName = Field("train", description="split that is trained on")
    val_split: SplitName | None = Field(
        "val", description="split that chooses the best epoch; null: the last epoch is kept"
    )
    test_split: SplitName = Field("test", description="split that `kinegraph evaluate` scores")
    preload: bool | None = Field(
        None,
        description="all clips are read into memory first, which is faster where clips are compressed or small; null: "
        "where a split takes at most 256 MiB and an eighth of the free memory",
    )
    aggregate: Literal["max", "mean"] = Field("mean", description="how the clips and crops of a video are aggregated")
    aggregate_of: Literal["logits", "probabilities"] = Field("logits", description="what is aggregated")
    threads: int | None = Field(
        None, gt=0, le=4096, description="CPU threads; null: as the process has them; in a worker as `run.threads` says"
    )
    run: str = Field(
        f"runs/{HEAD}",
        description="folder for the trained head; several go to `<run>/<name>/seed<k>`; "
        f"`{HEAD}` stands for the name of the head or variant",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.max_windows is not None and self.over == "clips":
            raise ValueError(f"max_windows: given {self.max_windows}, allowed: null, without over: videos")
        stepwise = self.schedule == "step"
        if stepwise != bool(self.milestones):
            raise ValueError(
                f"milestones: given {list(self.milestones)!r}, allowed: some with schedule step, else none"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones: given {list(self.milestones)!r}, allowed: rising numbers")
        length = self.iterations or self.epochs
        if max(self.warmup, *self.milestones, 0) >= length:
            raise ValueError(f"warmup, milestones: given beyond the end of training, allowed: below {length}")
        if self.metric and self.val_split is None:
            raise ValueError(f"metric: given {self.metric!r}, allowed: null, without a val_split")
        if self.schedule == "plateau" and self.val_split is None:
            raise ValueError("schedule: given 'plateau', allowed without a val_split: cosine, constant, step")
        if self.schedule == "plateau" and self.patience and self.patience <= self.plateau_epochs:
            raise ValueError(
                f"patience: given {self.patience}, allowed with schedule plateau: more than plateau_epochs "
                f"({self.plateau_epochs}), else training ends before the rate falls"
            )
        return self
