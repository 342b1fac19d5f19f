"""The options of a tail. A tail has the layers of a backbone above a cached tap, and is trained with a head. Imports no
torch.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kinegraph.stages.options import StageOptions


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _insertions(value: Any) -> Any:
    """Returns the option `blocks` of a tail in its long form. For example, `{res5.0: trg}` becomes `[{block: trg,
    after: res5.0}]`. A `value` in the long form is returned unchanged.
    """
    return [{"block": name, "after": place} for place, name in value.items()] if isinstance(value, dict) else value


Places = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class InsertionOptions(StageOptions):
    """The options for inserting new blocks of one kind into a tail, the layers of a backbone above a cached tap.
    `block` is the kind of the new blocks. `after` names blocks of the backbone behind which new blocks run. `in_branch`
    names blocks in whose branches new blocks run.

    A block of the backbone is a residual block, such as "res5.1", or an Inception block, such as "mixed_7a". The name
    of a stage, such as "res5", stands for all blocks of the stage.
    """

    block: Literal["trg", "atr", "rstg", "non_local", "conv3d"] = Field(
        description="kind of the inserted blocks; rstg: RSTG-to-map, conv3d: one 3D convolution"
    )
    after: Places = Field((), description="blocks of the network that an inserted block follows, one place or several")
    in_branch: Places = Field(
        (),
        description="in place of `after`: in a residual block, the inserted block follows the branch's "
        "last norm, before the shortcut is added; in an Inception block, one inserted block "
        "ends each branch",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of the inserted block, as those of the head with its name"
    )

    @model_validator(mode="after")
    def _is_somewhere(self) -> "InsertionOptions":
        if bool(self.after) == bool(self.in_branch):
            raise ValueError(f"given after {self.after} and in_branch {self.in_branch}, allowed: one of the two")
        return self


class TailOptions(StageOptions):
    """The options of the tail of a head. A tail has the layers of a backbone above a cached tap. It runs on the cached
    maps of this tap and is trained together with the head.

    `model`, `options` and `weights` must be those of the backbone that made the cached maps. If they are None,
    `kinegraph train` takes them from the cache.
    """

    from_tap: str = Field(alias="from", description="the cached tap where the tail starts; it needs `store: [maps]`")
    backbone: str | None = Field(
        None, description="backbone whose maps are read; null: the head's backbone, or the only one that fits"
    )
    blocks: Annotated[tuple[InsertionOptions, ...], BeforeValidator(_insertions)] = Field(
        (), description="blocks to insert, bottom to top; {res5.0: trg} is short for [{block: trg, after: res5.0}]"
    )
    batch_norm: Literal["frozen", "partial", "train"] = Field(
        "frozen",
        description="frozen: all norms of the backbone stay as they are (statistics, gain and bias); "
        "partial: all except the tail's first; train: none",
    )
    learning_rate_factor: float = Field(
        1.0, gt=0, le=1e6, description="factor on the learning rate of the backbone's weights; inserted blocks have 1"
    )
    model: str | None = Field(None, description="model of the backbone; null: as in the cache")
    options: dict[str, int | str] | None = Field(None, description="options of the backbone; null: as in the cache")
    weights: str | None = Field(
        None,
        description="weights of the backbone; null: as in the cache; else the path where the same file "
        "lies now, because other weights are refused",
    )
