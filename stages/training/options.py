"""The options of a training run. Torch-free."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from kinegraph.stages.options import MAX_SECONDS, MAX_SEED, SplitName, StageOptions

HEAD = "<head>"  # in `run`: the name of the head or variant
# options that may change between parts of a run; they do not change its numbers (threads: the last bits only)
FREE = {"run", "threads", "preload", "tensorboard", "test_split", "checkpoint_minutes", "checkpoint_steps"}


class TrainOptions(StageOptions):
    """The section `train` of a config."""

    head: str = Field(
        "strg",
        description="one of `kinegraph models --heads`, or yours: `my_heads.py:MyHead`, relative to the config",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of the head; other heads that `train --head` names get those that they have, too",
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="for the first weights, the order of clips and dropout")
    epochs: int = Field(20, gt=0, le=1_000_000, description="passes over the training split")
    iterations: int | None = Field(
        None,
        gt=0,
        le=1_000_000_000,
        description="in place of epochs: so many steps; milestones and warmup then count steps, too",
    )
    batch_size: int = Field(64, gt=0, le=1_000_000, description="clips of one step, in training and evaluation")
    learning_rate: float = Field(1e-3, gt=0, le=1e6, description="the highest one")
    schedule: Literal["cosine", "constant", "step", "plateau"] = Field(
        "cosine",
        description="learning rate over the steps; cosine: to 0; step: times gamma at each milestone; plateau: times "
        "gamma once `metric` does not get better",
    )
    milestones: tuple[Annotated[int, Field(gt=0, le=1_000_000_000)], ...] = Field(
        (),
        description="of schedule step: epochs after which the rate falls",
    )
    plateau_epochs: int = Field(
        5,
        gt=0,
        le=1_000_000,
        description="of schedule plateau: the rate falls after so many epochs in a row that are not better",
    )
    gamma: float = Field(0.1, gt=0, lt=1, description="of schedules step and plateau")
    warmup: float = Field(0, ge=0, le=1e9, description="epochs over which the rate rises linearly; 0: none")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="how to follow the gradient")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(True, description="of sgd with a momentum")
    weight_decay: float = Field(1e-4, ge=0, le=1e6, description="decoupled with adamw")
    decay_all: bool = Field(True, description="false: no weight decay on biases and norms, parameters of one axis")
    clip_grad_norm: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="scale gradients down to this norm; null: never",
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="keep and score a moving mean of the weights with this decay, as 0.999"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="of training's passes; fp16 needs CUDA. Evaluation is in fp32"
    )
    class_weights: Literal["none", "balanced"] | tuple[Annotated[float, Field(gt=0, le=1e9)], ...] = Field(
        "none",
        description="in the loss: balanced, by the training split, or a number per class; where videos may have many "
        "labels they weigh the positives",
    )
    metric: Literal["top1", "top5", "mAP", "wAP", "loss"] | None = Field(
        None, description="on val_split, chooses the best epoch; null: top1, or mAP where videos may have many labels"
    )
    patience: int | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="stop after so many epochs in a row that are not better",
    )
    checkpoint_minutes: float = Field(
        10.0,
        gt=0,
        le=MAX_SECONDS / 60,
        description="a killed run goes on from the last epoch, or from a state at most so old",
    )
    checkpoint_steps: int | None = Field(
        None,
        gt=0,
        le=1_000_000_000,
        description="also after every so many steps of an epoch",
    )
    tensorboard: bool = Field(False, description="log for TensorBoard in the run's folder")
    train_split: SplitName = Field("train", description="split to learn from")
    val_split: SplitName | None = Field("val", description="split that chooses the best epoch; null: keep the last one")
    test_split: SplitName = Field("test", description="split that `kinegraph evaluate` scores")
    preload: bool = Field(
        False, description="read all clips into memory first; faster where they are compressed or small"
    )
    aggregate: Literal["max", "mean"] = Field("mean", description="over the clips and crops of a video")
    aggregate_of: Literal["logits", "probabilities"] = Field("logits", description="what is aggregated")
    threads: int | None = Field(
        None, gt=0, le=4096, description="CPU threads; null: as the process has them, a worker as `run.threads` says"
    )
    run: str = Field(
        f"runs/{HEAD}",
        description="folder for the trained head; several go to `<run>/<name>/seed<k>`; "
        f"`{HEAD}` stands for the name of the head or variant",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
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
