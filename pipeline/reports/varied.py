"""Finds the only key of a config in which heads differ, such as the number of boxes. Torch-free."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kinegraph.cache_schemas.fingerprint import canonical
from kinegraph.cache_schemas.regular import NotRegularError, read_regular
from kinegraph.pipeline.training.results import RunResults
from kinegraph.stages.training.options import FREE
from kinegraph.stages.training.records import RECORD_FILE

ABSENT = "(absent)"
NOT_COMPARED = {"seed", *FREE}
DERIVED = (".weights_sha256", ".config_sha256")  # endings of keys whose values follow from other keys


class Varied(NamedTuple):
    """The only key in which heads differ. `key` is its name, such as `options.dim`. `values` is {name of a head:
    value}.
    """

    key: str
    values: dict[str, Any]


def varied(heads: Mapping[str, Sequence[tuple[Path, RunResults]]]) -> Varied | None:
    """Finds the only option in which `heads` differ. Returns its key and the value of each head as a Varied. Returns
    None if the heads differ in no option, in several options or only in the name of the head, or if two heads have the
    same value.

    `heads` is {name: (folder, results) of each run of the head}. Only the first run of each head is read. The options
    are those of the training, of the head, and of the features that the head reads.
    """
    settings = {name: _settings(*runs[0]) for name, runs in heads.items()}
    if len(settings) < 2:
        return None
    different = [
        key
        for key in sorted({key for each in settings.values() for key in each})
        if len({canonical(each.get(key, ABSENT)) for each in settings.values()}) > 1
    ]
    if len(different) != 1 or different == ["head"]:  # the figure of heads shows the kind of head
        return None
    values = {name: each.get(different[0], ABSENT) for name, each in settings.items()}
    return Varied(different[0], values) if len({canonical(value) for value in values.values()}) == len(values) else None


def _settings(folder: Path, results: RunResults) -> dict[str, Any]:
    """Returns {key: value} of everything that the user chose for a run. Inner keys are joined with dots, as in
    `options.dim`.
    """
    recipe = results.recipe.model_dump(mode="json", exclude=NOT_COMPARED)
    try:
        record = json.loads(read_regular(folder / RECORD_FILE))
    except (OSError, ValueError, NotRegularError):
        record = {}
    options = record.get("options")
    if isinstance(options, dict):
        recipe["options"] = options  # all options, also those with their default
    features = record.get("features")
    settings = flat(recipe)
    if isinstance(features, dict):
        of_features = flat(features)
        settings |= {key: value for key, value in of_features.items() if not key.endswith(DERIVED)}
    else:
        settings["features"] = results.cache_fingerprint
    return settings


def flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {key: value} with the inner keys of `options` joined with dots: {"a": {"b": 1}} -> {"a.b": 1}. `prefix`
    is put before each key.
    """
    values: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values
