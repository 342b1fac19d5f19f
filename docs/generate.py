"""Writes docs/config.md and docs/config.schema.json from the config models, and the table of arrays in
cache_schemas/SPEC.md from their specs: `python docs/generate.py`. A test fails when one is out of date."""

import json
import re
import types
import typing
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from kinegraph.cache_schemas.arrays import (
    ArraySpec,
    clip_arrays,
    feature_arrays,
    graph_arrays,
    proposal_arrays,
    region_arrays,
    status_array,
)
from kinegraph.pipeline.cluster_options import DaskOptions, JobQueueOptions, SlurmOptions
from kinegraph.pipeline.config import Config, RunOptions, StoreOptions, TrainSection
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.datasets.folders import VIDEO_SUFFIXES
from kinegraph.stages.datasets.options import FolderOptions, InteractionsOptions, SyncMnistOptions
from kinegraph.stages.decode.numbered_images import IMAGE_SUFFIXES
from kinegraph.stages.heads.tail_options import InsertionOptions, TailOptions
from kinegraph.stages.options import StageOptions
from kinegraph.stages.proposals.options import (
    CheckpointOptions,
    Detectron2Options,
    FileOptions,
    GridOptions,
    TinyOptions,
    TorchvisionOptions,
)
from kinegraph.stages.regions.options import RegionOptions
from kinegraph.stages.remote.options import StagingOptions
from kinegraph.stages.scene_graphs.options import GraphFileOptions, InteractionGraphOptions
from kinegraph.stages.scene_graphs.vocabulary import Vocabulary

TARGET = Path(__file__).with_name("config.md")
SCHEMA = Path(__file__).with_name("config.schema.json")
SPEC = Path(__file__).resolve().parent.parent / "cache_schemas" / "SPEC.md"
SECTIONS: dict[str, type[StageOptions]] = {
    "dataset (kind: folder)": FolderOptions,
    "dataset (kind: interactions)": InteractionsOptions,
    "dataset (kind: sync_mnist)": SyncMnistOptions,
    "clips": ClipOptions,
    "backbones.NAME": BackboneOptions,
    "proposals (source: torchvision)": TorchvisionOptions,
    "proposals (source: tiny)": TinyOptions,
    "proposals (source: detectron2-checkpoint)": CheckpointOptions,
    "proposals (source: detectron2)": Detectron2Options,
    "proposals (source: file)": FileOptions,
    "proposals (source: grid)": GridOptions,
    "regions": RegionOptions,
    "graphs (source: file)": GraphFileOptions,
    "graphs (source: interactions)": InteractionGraphOptions,
    "graphs.vocabulary": Vocabulary,
    "store": StoreOptions,
    "run": RunOptions,
    "run.staging": StagingOptions,
    "run.dask": DaskOptions,
    "run.dask.jobqueue": JobQueueOptions,
    "run.slurm": SlurmOptions,
    "train": TrainSection,
    "train.options.tail": TailOptions,
    "train.options.tail.blocks[i]": InsertionOptions,
}
HEAD = """# Every key of a config

Made by `python docs/generate.py` from the models that check a config. Unknown keys are refused. Every command that
takes a config takes `--set section.key=value`, values in YAML. Paths are relative to where the command runs.
`kinegraph init FOLDER` writes a first config. [config.schema.json](config.schema.json) lets editors complete and check
keys. For the YAML language server begin a config with `# yaml-language-server: $schema=PATH_OF_THAT_FILE`.

Top level: `cache` (folder of the cache; required) and the sections below. `dataset` is required by `index`; a
stage without its section is not extracted.
"""


ENDINGS = f"""Below `root` these endings are videos, in any case: {" ".join(f"`{e}`" for e in sorted(VIDEO_SUFFIXES))}.
Images of a folder of numbered images: {" ".join(f"`{e}`" for e in sorted(IMAGE_SUFFIXES))}. `index` says how many
files of other endings it left out. A csv may name a video of any ending: FFmpeg tells what it is.
"""
AFTER = {"dataset (kind: folder)": ENDINGS}  # below the table of a section


def type_name(annotation: Any) -> str:
    """`int`, `"a" | "b"`, `list of str`, ... as one would write it for a user."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin is typing.Literal:
        return " \\| ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " \\| ".join(type_name(argument) for argument in arguments)
    if origin is tuple:
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return "mapping"
    if issubclass(annotation, StageOptions):
        return "section"
    return "null" if annotation is type(None) else annotation.__name__


def default_of(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, StageOptions):
        return ""
    if isinstance(value, tuple):
        value = list(value)
    return f"`{'null' if value is None else value}`"


def section(name: str, model: type[StageOptions]) -> str:
    rows = [
        f"| `{field.alias or key}` | {type_name(field.annotation)} | {default_of(field)} | {field.description or ''} |"
        for key, field in model.model_fields.items()
    ]
    about = " ".join((model.__doc__ or "").split())
    after = [AFTER[name]] if name in AFTER else []
    return "\n".join(
        [f"## {name}", "", about, "", "| key | type | default | meaning |", "|---|---|---|---|", *rows, "", *after]
    )


def page() -> str:
    assert {key.partition(" ")[0].partition(".")[0] for key in SECTIONS} | {"cache"} == Config.model_fields.keys()
    return "\n".join([HEAD, *(section(name, model) for name, model in SECTIONS.items())])


def schema() -> str:
    """The JSON schema of a config, for editors; what keys say of each other is checked by kinegraph alone."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(head | untitled(Config.model_json_schema()), indent=1) + "\n"


def untitled(value: Any) -> Any:
    """A schema without titles, which only repeat the names of keys and models."""
    if isinstance(value, list):
        return [untitled(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: untitled(below) for key, below in value.items() if key != "title" or isinstance(below, dict)}


def array_specs() -> list[ArraySpec]:
    """Every array a cache can hold, names in place of sizes."""
    either, taps = "float16 or float32", ("maps", "pooled")
    return [
        *clip_arrays(0),
        *feature_arrays("<backbone>", "<tap>", (0, 0, 0, 0), 1, taps, either),
        *proposal_arrays(0, 0, 1),
        *region_arrays("<backbone>", "<tap>", (0, 0, 0), 1, either, 0),
        *graph_arrays((0, 0, 0), None),
        status_array("<key>"),
    ]


def spec_page() -> str:
    """SPEC.md as it is, with the table of arrays made anew."""
    rows = [
        f"| `{spec.name}` | `{', '.join(('row', *spec.dims))}` | {spec.dtype} | {spec.fill} | {spec.units} "
        f"| {spec.about.replace('<', '&lt;')} |"
        for spec in array_specs()
    ]
    head = ["| array | dimensions | type | fill | units | what |", "|---|---|---|---|---|---|"]
    made = "\n".join(["", *head, *rows, "", ""])
    text = SPEC.read_text(encoding="utf-8")
    return re.sub(r"(?s)(<!-- arrays: .*? -->\n).*(<!-- end of arrays -->)", lambda m: m[1] + made + m[2], text)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")
    SPEC.write_text(spec_page(), encoding="utf-8")
