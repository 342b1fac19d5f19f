"""The options of a training run; importable without torch."""

from typing import Any, Literal

from pydantic import Field

from stages.options import StageOptions


class TrainOptions(StageOptions):
    """The section `train` of a config."""

    head: str = Field("strg", description="which head; `kinegraph models --heads` lists them")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the head")
    seed: int = Field(0, ge=0, description="for the first weights, the order of clips and dropout")
    epochs: int = Field(20, gt=0, description="passes over the training split")
    batch_size: int = Field(64, gt=0, description="clips of one step, in training and evaluation")
    learning_rate: float = Field(1e-3, gt=0, description="of the first step")
    weight_decay: float = Field(1e-4, ge=0, description="on all parameters; decoupled with adamw")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd has Nesterov momentum 0.9")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="learning rate over the steps; cosine: to 0")
    patience: int | None = Field(None, gt=0, description="stop after so many epochs without a better validation")
    train_split: str = Field("train", description="split to learn from")
    val_split: str | None = Field("val", description="split that chooses the best epoch; null: keep the last one")
    test_split: str = Field("test", description="split that `kinegraph evaluate` scores")
    preload: bool = Field(
        False, description="read all clips into memory first; faster where they are compressed or small"
    )
    aggregate: Literal["max", "mean"] = Field("mean", description="over the clips and crops of a video")
    aggregate_of: Literal["logits", "probabilities"] = Field("logits", description="what is aggregated")
    threads: int | None = Field(None, gt=0, description="CPU threads; null: as the process has them")
    run: str = Field("runs/strg", description="folder for the trained head")
