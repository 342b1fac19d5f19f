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

from kinegraph.cache_schemas.arrays import every_array
from kinegraph.pipeline.config import TAGS, Config
from kinegraph.stages.datasets.folders import VIDEO_SUFFIXES
from kinegraph.stages.decode.numbered_images import IMAGE_SUFFIXES
from kinegraph.stages.heads.tail_options import InsertionOptions, TailOptions
from kinegraph.stages.options import StageOptions

TARGET = Path(__file__).with_name("config.md")
SCHEMA = Path(__file__).with_name("config.schema.json")
SPEC = Path(__file__).resolve().parent.parent / "cache_schemas" / "SPEC.md"
OPEN_SECTIONS = {"train.options.tail": TailOptions, "train.options.tail.blocks[i]": InsertionOptions}  # below mappings
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


def sections(name: str, annotation: Any) -> dict[str, type[StageOptions]]:
    """The sections at a key of the config, and below it: `graphs (source: file)`, `graphs.vocabulary`, ..."""
    models = models_in(annotation)
    name += ".NAME" if typing.get_origin(annotation) is dict else ""
    found = {name if len(models) == 1 else f"{name} ({tag_of(model)})": model for model in models}
    for model in models:
        for key, field in model.model_fields.items():
            found |= sections(f"{name}.{key}", field.annotation)
    return found


def models_in(annotation: Any) -> list[type[StageOptions]]:
    if isinstance(annotation, type) and issubclass(annotation, StageOptions):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


def tag_of(model: type[StageOptions]) -> str:
    """The key that chooses one of several models of a section: `source: file`."""
    tag = next(tag for tag in TAGS if tag in model.model_fields)
    return f"{tag}: {typing.get_args(model.model_fields[tag].annotation)[0]}"


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
    found: dict[str, type[StageOptions]] = {}
    for key, field in Config.model_fields.items():
        found |= sections(key, field.annotation)
    return "\n".join([HEAD, *(section(name, model) for name, model in (found | OPEN_SECTIONS).items())])


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


def spec_page() -> str:
    """SPEC.md as it is, with the table of arrays made anew."""
    rows = [
        f"| `{spec.name}` | `{', '.join(('row', *spec.dims))}` | {spec.dtype} | {spec.fill} | {spec.units} "
        f"| {spec.about.replace('<', '&lt;')} |"
        for spec in every_array()
    ]
    head = ["| array | dimensions | type | fill | units | what |", "|---|---|---|---|---|---|"]
    made = "\n".join(["", *head, *rows, "", ""])
    text = SPEC.read_text(encoding="utf-8")
    return re.sub(r"(?s)(<!-- arrays: .*? -->\n).*(<!-- end of arrays -->)", lambda m: m[1] + made + m[2], text)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")
    SPEC.write_text(spec_page(), encoding="utf-8")
