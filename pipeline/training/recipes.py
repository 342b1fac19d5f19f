"""Finds the training options for each value of the command's option `--head`. A value is the name of a head, or of a
variant in `train.variants` of the config.

A recipe is a set of training options. A recipe has only those keys of `train.options` that its head knows.
"""

import logging
from collections.abc import Sequence

from kinegraph.pipeline.config import Config, TrainSection
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.heads.build import HEADS
from kinegraph.stages.heads.head import TapOptions
from kinegraph.stages.heads.own import is_own
from kinegraph.stages.training import together
from kinegraph.stages.training.options import TrainOptions

OWN = "file.py:Class"
log = logging.getLogger("kinegraph")


def recipes(config: Config, names: Sequence[str]) -> dict[str, TrainOptions]:
    """Returns a dict {name: training options} for `names`, which are names of heads or of variants in `train.variants`.
    If `names` is empty, the dict has the head of the section `train`.

    Raises ConfigError for a name that is neither a head nor a variant. Logs the keys of `train.options` that a head in
    `names` does not have.
    """
    train, recipe_of = config.train, {}
    for name in names or [train.head]:
        if name in train.variants:
            recipe_of[name] = train.variant(name)
            if recipe_of[name].head != train.head and "options" not in train.variants[name]:
                _log_unused(name, recipe_of[name].head, train, [*train.options])
        elif name in (train.head, short(train.head)):
            recipe_of[short(name)] = train.recipe
        elif name in HEADS:
            kept = {key: value for key, value in train.options.items() if _gets(name, train.head, key)}
            recipe_of[name] = train.recipe.model_copy(update={"head": name, "options": kept})
            _log_unused(name, name, train, [key for key in train.options if key not in kept])
        else:
            raise ConfigError(f"--head {name}: {_unknown(name, train)}")
    return recipe_of


def _unknown(name: str, train: TrainSection) -> str:
    """Returns the second part of an error message for `name`, which is neither a head nor a variant. The text says what
    to do.
    """
    if ".py" in name:
        own = name if is_own(name) else OWN
        return (
            f'a head of your own is named in the config, as `train: {{head: "{own}"}}` or in a variant. '
            f"Or give --set train.head={own} without --head. The file is relative to the config."
        )
    known = dict.fromkeys([*train.variants, short(train.head), *HEADS])
    return f"neither a variant of the config nor a head; there are: {', '.join(known)}"


def short(head: str) -> str:
    """Returns the name of the head `head` for tables and folders. For a user's own head this is its class: "a.py:B" ->
    "B".
    """
    return head.rpartition(":")[2] if is_own(head) else head


def _gets(head: str, other: str, key: str) -> bool:
    """Returns whether the option `key`, which the config sets for the head `other`, also applies to the head `head`.

    It applies if `head` has an option of this name and `other` lacks it or describes it in the same words. If `other`
    is a user's own head, only options in `TapOptions` apply.
    """
    model = HEADS[head].option_model
    if key == "tail":
        return issubclass(model, TapOptions)
    field = model.model_fields.get(key)
    if field is None or is_own(other) or other not in HEADS:
        return field is not None and key in TapOptions.model_fields
    its_field = HEADS[other].option_model.model_fields.get(key)
    return its_field is None or its_field.description == field.description


def _log_unused(name: str, head: str, train: TrainSection, keys: Sequence[str]) -> None:
    if keys and together.rank() == 0:
        log.warning(
            "%s: train.options are those of %s. %s does not have: %s. Set its own options in a variant "
            "(train.variants).",
            name,
            train.head,
            head,
            ", ".join(keys),
        )
