"""Writes the generated documents: `python docs/generate.py`. A test fails if a document is out of date.

docs/config.md and docs/config.schema.json come from the models that check a config. docs/cli.md comes from the Typer
app, and docs/python.md from the package `kinegraph`. The table of arrays in cache_schemas/SPEC.md comes from the specs
of arrays.
"""

import ast
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.core
import typer.main
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from kinegraph.cache_schemas.arrays import every_array
from kinegraph.cli import exits
from kinegraph.cli.app import COMMANDS, app
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.config_file import TAGS
from kinegraph.stages.datasets.folders import VIDEO_SUFFIXES
from kinegraph.stages.decode.numbered_images import IMAGE_SUFFIXES
from kinegraph.stages.heads.tail_options import InsertionOptions, TailOptions
from kinegraph.stages.options import StageOptions
from kinegraph.stages.training.options import TrainOptions

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
SPEC = ROOT / "cache_schemas" / "SPEC.md"
LOOP = ROOT / "examples" / "training_loop.py"
OPEN_SECTIONS: dict[str, type[StageOptions]] = {  # below mappings
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
    """Returns the name of a type for a user, such as `int`, `"a" | "b"` or `list of str`."""
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
    shown_value = "null" if value is None else [*value] if isinstance(value, tuple) else value
    return f"`{shown_value}`"


def sections(name: str, annotation: Any) -> dict[str, type[StageOptions]]:
    """Returns {title: model} of the sections at the key `name`, with the type `annotation`, and below."""
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
    """Returns the key and the value that choose one of several models of a section, such as `source: file`."""
    tag = next(tag for tag in TAGS if tag in model.model_fields)
    return f"{tag}: {typing.get_args(model.model_fields[tag].annotation)[0]}"


def plain(text: str) -> str:
    """Returns `text` for a cell of a table, with signs escaped that Markdown would take for HTML or for the end."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts).replace("|", "\\|")


def _description(field: Any) -> tuple[Any, ...]:
    return () if field is None else (field.description, default_of(field))


SHORTENED = {"finetune": TrainOptions}  # a section -> the section whose keys it has too, which are not repeated


def section(name: str, model: type[StageOptions]) -> str:
    rows = [
        f"| `{field.alias or key}` | {type_name(field.annotation)} | {default_of(field)} "
        f"| {plain(field.description or '')} |"
        for key, field in model.model_fields.items()
        if name not in SHORTENED or _description(field) != _description(SHORTENED[name].model_fields.get(key))
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
    """Returns the JSON schema of a config, for editors. Only kinegraph itself checks how keys fit each other."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(head | untitled(Config.model_json_schema()), indent=1) + "\n"


def untitled(value: Any) -> Any:
    """Returns a JSON schema without titles, which only repeat the names of keys and models."""
    if isinstance(value, list):
        return [untitled(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: untitled(below) for key, below in value.items() if key != "title" or isinstance(below, dict)}


def spec_page() -> str:
    """Returns the text of SPEC.md with a new table of arrays."""
    rows = [
        f"| `{spec.name}` | `{', '.join(('row', *spec.dims))}` | {spec.dtype} | {spec.fill} | {spec.units} "
        f"| {plain(spec.about)} |"
        for spec in every_array()
    ]
    head = ["| array | dimensions | type | fill | units | what |", "|---|---|---|---|---|---|"]
    made = "\n".join(["", *head, *rows, "", ""])
    text = SPEC.read_text(encoding="utf-8")
    return re.sub(r"(?s)(<!-- arrays: .*? -->\n).*(<!-- end of arrays -->)", lambda m: m[1] + made + m[2], text)


CLI_HEAD = f"""# Every command

Made by `python docs/generate.py` from the commands themselves. `kinegraph COMMAND --help` prints the same.
`kinegraph --version` prints the version. `kinegraph --install-completion` teaches your shell the commands.
`python -m kinegraph` is the command, too. Messages go to stderr, results to stdout.

## Exit codes

| code | when |
|---|---|
| 0 | All is done. `--help` and `--version` end with 0, too. |
| {exits.EXIT_FAILED} | The command failed. The message says why. Some commands say more below. |
| {exits.EXIT_USAGE} | The usage or the config is wrong, or the cache was made with other options. |
| {exits.EXIT_CLIPS_FAILED} | All is done, but clips have failed. `kinegraph status CACHE --failed` lists them. |
| {exits.EXIT_OUT_OF_TIME} | No shard more fits into the walltime. The same command continues. |
| 130 | Ctrl-C (SIGINT) stopped the command. The message says whether the same command continues. |
| 143 | SIGTERM or SIGUSR1 stopped the command, likewise. |
"""
EXITS = {  # what codes mean for one command, beyond the table
    "index": f"{exits.EXIT_FAILED}: with `--strict`, videos lack or numbers differ. All is written.",
    "plan": f"{exits.EXIT_USAGE}: the disk has not the room or the inodes.",
    "extract": f"{exits.EXIT_CLIPS_FAILED}: clips failed. {exits.EXIT_OUT_OF_TIME}: the walltime is over.",
    "verify": f"{exits.EXIT_FAILED}: there are problems, repaired or not; with `--frames`, clips that differ.",
    "train": f"{exits.EXIT_FAILED}: a run diverged. The others are finished and printed.",
    "finetune": f"{exits.EXIT_FAILED}: the run diverged, or a video can no longer be decoded. The state is kept.",
    "evaluate": f"{exits.EXIT_FAILED}: a run below the folder could not be scored. The others are printed.",
    "predict": f"{exits.EXIT_CLIPS_FAILED}: clips of a video, or its overlay, failed. The others are scored.",
    "export": f"{exits.EXIT_FAILED}: shards are damaged. They are named, and all others are written.",
    "import": f"{exits.EXIT_CLIPS_FAILED}: videos have no file, or one that cannot be read.",
    "demo": f"{exits.EXIT_FAILED}: a run diverged.",
}
PAGES = {  # where a command is explained
    "init": "videos.md", "index": "videos.md#labels-and-splits", "plan": "caches.md#plan", "extract": "cluster.md",
    "status": "caches.md", "verify": "caches.md#verify", "train": "training.md", "finetune": "training.md#fine-tuning",
    "results": "training.md", "report": "report.md",
    "evaluate": "training.md#evaluation", "predict": "training.md#prediction", "export": "exchange.md#export",
    "import": "exchange.md#import-features-that-you-already-have", "models": "networks.md",
    "bench": "benchmarks.md#your-own-videos", "browse": "browse.md",
    "demo": "../README.md#the-demo",
}  # fmt: skip


def cli_page() -> str:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    functions = {function.__name__.strip("_"): function for function in COMMANDS}
    assert EXITS.keys() <= functions.keys() == PAGES.keys()
    return "\n".join([CLI_HEAD, *(command_section(name, group.commands[name], functions[name]) for name in functions)])


def command_section(name: str, command: Any, function: Any) -> str:
    hints = typing.get_type_hints(function)
    arguments = [it for it in command.params if it.param_type_name == "argument"]
    options = [it for it in command.params if it.param_type_name == "option"]
    needed = [*(it.metavar for it in arguments), *(f"{it.opts[0]} {it.metavar}" for it in options if it.required)]
    usage = " ".join(["kinegraph", name, *needed, "[OPTIONS]"])
    rows = [f"| `{it.metavar}` | {plain(it.help)} | required |" for it in arguments]
    rows += [option_row(it, hints[it.name]) for it in options]
    lines = [f"## kinegraph {name}", "", command.help, f"[More]({PAGES[name]}).", "", "```", usage, "```", ""]
    lines += ["| argument or option | meaning | default |", "|---|---|---|", *rows, ""]
    if name in EXITS:
        lines += [f"Exit code {EXITS[name]}", ""]
    return "\n".join(lines)


def option_row(option: Any, hint: Any) -> str:
    is_number = int in (hint, *typing.get_args(hint))
    value = "" if option.is_flag else f" {option.metavar or ('N' if is_number else 'TEXT')}"
    given = "" if option.default in (None, False, "", []) else f"`{option.default}`"
    default = "required" if option.required else given
    again = " May be given several times." if option.multiple else ""
    flag = f"{option.opts[0]}{value}".replace("|", "\\|")
    return f"| `{flag}` | {plain(option.help or '')}{again} | {default} |"


PYTHON_HEAD = """# Python

Made by `python docs/generate.py` from the package `kinegraph`. `help(kinegraph.decode)` prints the same.
`import kinegraph` is quick, because each name is imported when it is first used. `train`, `evaluate`, `build_head`,
`build_backbone`, `metrics`, `Head`, `HeadOptions` and `ClipGraph` import torch. Names that this page does not list are
internal.

## A training loop of your own

[examples/training_loop.py](../examples/training_loop.py) trains a linear classifier on a cache. A test runs it.

```python
{loop}```

`CachedClips` is a map-style data set of torch. `DataLoader(clips, batch_size=8)`, `Subset`, `random_split` and samplers
take it. `clips[0]` and `clips[:4]` are samples. The loader above reads whole batches, which is faster than
`DataLoader(clips)`. float16 arrays stay float16, which kinegraph's heads take. For layers of your own give
`float32=True`. [own_head.md](own_head.md) shows a head that `kinegraph train` trains.

A `Sample` or `Batch` is a dict of tensors by array name, with `labels` and `clip_index`. `Indices` are integers.
A `Spec` maps array names to shapes of one clip. An `Interval` is a pair (start, end) in seconds.
"""
NAMES: dict[str, dict[str, tuple[str, ...]]] = {  # groups of the page; of a class the members that it shows
    "Read a cache": {
        "open_cache": (),
        "CachedClips": ("spec", "video_ids", "videos", "labels", "failed_labels", "__getitem__", "batch", "video"),
        "VideoSequences": ("__getitem__", "collate"),
        "Cache": ("classes", "num_rows", "multi_label", "stage_keys", "arrays"),
    },
    "Train and evaluate": {
        "load_config": (), "Config": (), "train": (), "evaluate": (), "load_run": (),
        "metrics": ("topk", "class_accuracy", "confusion", "charades_map"),
    },
    "Networks": {
        "build_head": (), "Head": ("graph_links", "clip_graphs", "learning_rate_factor_of"), "HeadOptions": (),
        "ClipGraph": ("matrix", "within_frames"), "build_backbone": (),
    },
    "Look at a cache": {
        "look": (),
        "Look": (
            "coverage", "classes", "durations", "frame_sizes", "disk", "time", "sealed", "norms", "norms_against",
            "norm_by_step", "spread", "embedding", "boxes_a_frame", "scores_by_rank", "box_sizes", "box_centres",
            "box_cover", "box_overlaps", "strip", "neighbours", "scene_graph", "graphs", "head", "runs",
        ),
        "FramesMissingError": (), "NothingToShowError": (),
    },
    "Frames of single videos": {"probe": (), "VideoFacts": (), "decode": (), "Frames": ()},
    "Check a cache": {"verify": (), "Verification": ("ok",)},
    "Errors": dict.fromkeys(("CacheError", "CacheNotFound", "CacheMismatch", "ConfigError", "DecodeError"), ()),
}  # fmt: skip
WIDTH = 100  # of a signature; a longer one has a line for each parameter


def python_page() -> str:
    """Returns the text of docs/python.md, read from the source: no version of Python or of a library changes it."""
    import kinegraph

    assert sorted(name for group in NAMES.values() for name in group) == sorted(kinegraph.__all__)
    parts = [PYTHON_HEAD.replace("{loop}", LOOP.read_text(encoding="utf-8"))]
    for title, names in NAMES.items():
        parts += [f"## {title}", ""]
        for name, members in names.items():
            module = kinegraph._MODULE_OF.get(name)
            parts += name_section(name, module, members)
    return "\n".join(parts)


def name_section(name: str, module: str | None, members: tuple[str, ...]) -> Iterator[str]:
    yield from (f"### kinegraph.{name}", "")
    if name == "metrics":
        tree = parsed("stages.training.metrics")
        yield from (ast.get_docstring(tree) or "", "")
        yield from (member_text(node, "kinegraph.metrics.") for node in named(tree, members))
        return
    (node,) = named(parsed(module) if module else parsed(""), (name,))
    if isinstance(node, ast.FunctionDef):
        yield member_text(node, "kinegraph.")
        return
    bases = ", ".join(map(ast.unparse, node.bases))
    constructor = next((it for it in node.body if isinstance(it, ast.FunctionDef) and it.name == "__init__"), None)
    fields = [ast.unparse(it) for it in node.body if isinstance(it, ast.AnnAssign) and name != "Config"]
    if constructor is not None:
        yield fenced(signature(constructor, f"kinegraph.{name}"))
    elif fields:
        yield fenced("\n".join([f"class {name}:", *(f"    {field}" for field in fields)]))
    else:
        yield fenced(f"class {name}({bases})")
    yield from (ast.get_docstring(node) or "", "")
    yield from (member_text(it, f"{name}.") for it in named(node, members))


def parsed(module: str) -> ast.Module:
    path = ROOT / (f"{module.replace('.', '/')}.py" if module else "kinegraph/__init__.py")
    return ast.parse(path.read_text(encoding="utf-8"))


def named(tree: ast.Module | ast.ClassDef, names: tuple[str, ...]) -> list[ast.FunctionDef | ast.ClassDef]:
    """Returns the definitions in `tree` with these `names`, in this order. The last of several overloads counts."""
    found = {it.name: it for it in tree.body if isinstance(it, ast.FunctionDef | ast.ClassDef)}
    return [found[name] for name in names]


def member_text(node: ast.FunctionDef | ast.ClassDef, prefix: str) -> str:
    assert isinstance(node, ast.FunctionDef)
    is_property = any(ast.unparse(it) == "property" for it in node.decorator_list)
    shown = f"{prefix}{node.name}: {annotation(node.returns)}" if is_property else signature(node, prefix + node.name)
    words = ast.get_docstring(node)
    return "\n".join([fenced(shown), *([words, ""] if words else [])])


def signature(node: ast.FunctionDef, name: str) -> str:
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    parts = [parameter(*pair) for pair in zip(positional, defaults, strict=True) if pair[0].arg != "self"]
    if given.vararg:
        parts.append(f"*{parameter(given.vararg, None)}")
    elif given.kwonlyargs:
        parts.append("*")
    parts += [parameter(*pair) for pair in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        parts.append(f"**{parameter(given.kwarg, None)}")
    returned = f" -> {annotation(node.returns)}" if node.returns is not None and node.name != "__init__" else ""
    line = f"{name}({', '.join(parts)}){returned}"
    return line if len(line) <= WIDTH else "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returned}"])


def parameter(argument: ast.arg, default: ast.expr | None) -> str:
    typed = f"{argument.arg}: {annotation(argument.annotation)}" if argument.annotation else argument.arg
    return typed if default is None else f"{typed} = {ast.unparse(default)}"


def annotation(node: ast.expr | None) -> str:
    """Returns a type as the source has it, without the quotes of a forward reference."""
    return "" if node is None else ast.unparse(node).strip("'")


def fenced(code: str) -> str:
    return f"```python\n{code}\n```\n"


def documents() -> dict[Path, str]:
    """Returns {path: text} of all generated documents."""
    return {
        DOCS / "config.md": page(),
        DOCS / "config.schema.json": schema(),
        DOCS / "cli.md": cli_page(),
        DOCS / "python.md": python_page(),
        SPEC: spec_page(),
    }


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
