"""Reads the YAML of a config file, and words the errors that pydantic finds in a config. Torch-free.

Files that are too large are refused, and so is YAML that two readers may understand differently, such as a key that
occurs twice.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kinegraph.cache_schemas.documents import said, shortened
from kinegraph.cache_schemas.regular import NotRegularError, open_regular
from kinegraph.cache_schemas.words import quoted, sentence
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.options import StageOptions

MAX_FILE_BYTES = 1 << 20
MAX_TEXT_CHARACTERS = 4096  # of one value: the longest path has as many
MAX_VALUES = 100_000  # every use of an alias counts
MAX_DEPTH = 32
MAX_INTEGER = 1 << 63
STRING, MERGE, INTEGER = (f"tag:yaml.org,2002:{name}" for name in ("str", "merge", "int"))
MAX_DIGITS = 20  # of 64 bits
MOST_LINES, MOST_WORDS = 20, 2000  # lines of an error, characters of a line
TAGS = ("kind", "source")  # keys that choose among the options classes of a section


class _ValueFault(yaml.MarkedYAMLError):
    """Raised if a number or a date in the file cannot be converted to a Python value."""


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses keys that occur twice, keys that are not text, and merges of too many keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        there: set[Hashable] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (STRING, MERGE):
                raise yaml.MarkedYAMLError(
                    problem=f"key {_key_text(key)} is no word; write it in quotes", problem_mark=key.start_mark
                )
            if key.value in there:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
            there.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            problem = f"{shortened(str(getattr(node, 'value', '')), MAX_DIGITS)} cannot be read: {_cause(node, error)}"
            raise _ValueFault(problem=problem, problem_mark=node.start_mark) from error

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            raise yaml.MarkedYAMLError(problem="merged keys are too many", problem_mark=node.start_mark)


def _cause(node: yaml.Node, error: Exception) -> str:
    """Returns the reason why the YAML value at `node` cannot be converted to a Python value, for a message. It is the
    text of `error`, except for an integer with too many digits.
    """
    if node.tag == INTEGER and len(node.value) > MAX_DIGITS:
        # Python's own message advises to change a setting of Python
        return f"a number of {len(node.value):,} digits, allowed: 64 bits"
    return shortened(str(error))


def _key_text(key: yaml.Node) -> str:
    return repr(key.value) if isinstance(key, yaml.ScalarNode) else f"of type {getattr(key, 'id', '?')}"


def read_yaml(text: str, where: str) -> Any:
    """Reads a YAML text and returns its value.

    Raises ConfigError if the text is not YAML or is too large. The message has one line and begins with `where`.
    """
    try:
        document = yaml.load(text, _Loader)
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply, allowed: {MAX_DEPTH} levels") from None
    except yaml.YAMLError as error:
        kind = "" if isinstance(error, _ValueFault) else "not YAML: "
        raise ConfigError(f"{where}: {kind}{_yaml_fault(error)}") from error
    _require_bounded(document, where)
    return document


def read_config_file(path: Path) -> dict[str, Any]:
    """Reads a config file and returns its content as a dict {name of a section: content of the section}.

    Raises ConfigError if the file cannot be read, is too large, or is not YAML with sections.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file (looked from {Path.cwd()}).") from None
    except NotRegularError as error:
        raise ConfigError(sentence(error)) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a config file: {error.strerror}.") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: over {MAX_FILE_BYTES:,} bytes, which no config has.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from error
    document = read_yaml(text, str(path))
    if not isinstance(document, dict):
        seen = "an empty file" if document is None else type(document).__name__
        raise ConfigError(f"{path}: expected sections like `cache:` and `dataset:`, found {seen}.")
    return document


def _yaml_fault(error: yaml.YAMLError) -> str:
    """Returns the message of a YAML error on one line, with the line and the column in the file."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if mark is None or problem is None:
        return shortened(str(error))
    tabs = "; indent by spaces" if "'\\t'" in problem else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {shortened(problem)}{tabs}"


def _require_bounded(document: Any, where: str) -> None:
    """Raises ConfigError if `document` has too many values or levels, a text that is too long, or a number that is too
    large. The message begins with `where`.
    """
    stack: list[tuple[tuple[Any, ...], Any]] = [((), document)]
    num_values = 0
    while stack:
        keys, value = stack.pop()
        num_values += 1
        key = shortened(".".join(map(quoted, keys))) or "the value"
        if num_values > MAX_VALUES or len(keys) > MAX_DEPTH:
            limit = f"{MAX_VALUES:,} values, aliases written out" if len(keys) <= MAX_DEPTH else f"{MAX_DEPTH} levels"
            raise ConfigError(f"{where}: {key}: too much, allowed: {limit}")
        if isinstance(value, dict):
            stack += [((*keys, name), below) for name, below in value.items()]
        elif isinstance(value, (list, tuple, set)):
            stack += [((*keys, item_index), below) for item_index, below in enumerate(value)]
        elif isinstance(value, (str, bytes)) and len(value) > MAX_TEXT_CHARACTERS:
            raise ConfigError(
                f"{where}: {key}: given {shortened(repr(value))}, allowed: at most {MAX_TEXT_CHARACTERS:,} characters"
            )
        elif isinstance(value, int) and abs(value) >= MAX_INTEGER:
            raise ConfigError(f"{where}: {key}: given a number of {value.bit_length()} bits, allowed: 64 bits")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where}: {key}: given {value}, allowed: finite numbers")


def sentences(error: ValidationError, model: type[StageOptions], document: object = None) -> list[str]:
    """Returns the errors that pydantic found in a config as text, one line per key, for example "run.workers: Input
    should be greater than or equal to 1 (given 0)". After 20 lines, the last line states the number of further errors.

    `model` is the options class that refused the values. `document` is the content of the config file, so that a line
    names a key as the user wrote it.
    """
    words_of: dict[str, list[str]] = {}
    for entry in error.errors():
        if entry["type"] == "too_short" and entry["input"]:
            continue  # another entry is about the wrong item of this list
        key, words = _sentence(dict(entry), _written_keys(entry["loc"], document, entry["type"]), model)
        words_of.setdefault(key, []).append(words)
    lines = [f"{shortened(key)}: {shortened(', or '.join(words), MOST_WORDS)}" for key, words in words_of.items()]
    return [*lines[:MOST_LINES], *([f"and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else [])]


def _written_keys(location: Sequence[int | str], document: object, kind: str) -> list[str]:
    """Returns the path of a wrong value as a list of keys of the config file, for example ["dataset", "root"].

    `location` is the path as pydantic reports it. It may contain names of types, which are no keys and are left out.
    `document` is the content of the file. `kind` is pydantic's type of the error, such as "missing".
    """
    keys = []
    for number, part in enumerate(location, 1):
        below = dict(enumerate(document)) if isinstance(document, list) else document
        if isinstance(below, dict) and part in below:
            document = below[part]
        elif document is not None and not (kind == "missing" and number == len(location)):
            continue
        keys.append(str(part))
    return keys


def _sentence(entry: dict[str, Any], keys: Sequence[str], model: type[StageOptions]) -> tuple[str, str]:
    """Returns (path of the key, what is wrong) for `entry`, an error that pydantic found, for example ("run.workers",
    "missing").

    `keys` are the keys of the path. `model` is the options class that refused the values.
    """
    key, context = ".".join(map(quoted, keys)), entry.get("ctx", {})
    match entry["type"]:
        case "extra_forbidden":
            allowed_keys = _keys_at(model, [str(part) for part in entry["loc"][:-1]])
            if not allowed_keys:
                return key, "unknown key"
            near = did_you_mean(keys[-1], allowed_keys)
            return key, f"unknown key; {near}known here: {', '.join(allowed_keys)}"
        case "missing":
            return key, "missing"
        case "union_tag_not_found":
            return f"{key}.{_tag(context)}", "missing"
        case "union_tag_invalid":
            return (
                f"{key}.{_tag(context)}",
                f"given {shortened(repr(context['tag']))}, allowed: {context['expected_tags']}",
            )
        case "value_error":  # kinegraph's own checks: the text begins with the key below the section
            below, _, words = str(context["error"]).partition(": ")
            return ".".join([*map(quoted, keys), below]), words
    return key, f"{said(entry)} (given {shortened(repr(entry['input']))})"


def did_you_mean(given: str, allowed_keys: Iterable[str]) -> str:
    """Returns a question such as "did you mean num_frames? ", or "" if no key in `allowed_keys` is like `given`."""
    near = get_close_matches(given, [*allowed_keys], n=1)
    return f"did you mean {near[0]}? " if near else ""


def _tag(context: dict[str, Any]) -> str:
    """Returns the key by which a section of the config chooses its options class: "kind" for data sets, "source" for
    proposals.

    `context` is the entry `ctx` of an error of pydantic.
    """
    return str(context["discriminator"]).strip("'")


def _keys_at(model: Any, location: Sequence[str]) -> list[str]:
    """Returns the keys that are allowed in the section at `location`, for an error about an unknown key.

    `location` has the keys that lead from `model` to the section, for example ["run", "slurm"].
    """
    for part, below in pairwise([*location, ""]):
        fields = getattr(model, "model_fields", None)
        annotation = fields[part].annotation if fields and part in fields else model
        model = _model_in(annotation, below)
    return list(getattr(model, "model_fields", ()))


def _model_in(annotation: Any, below: str) -> Any:
    """Returns the options class in a type annotation, or None if there is none: `StoreOptions | None` -> StoreOptions.

    If there are several options classes, returns the class whose `kind` or `source` is `below`, or else the first
    class. For a dict, returns the options class of its values.
    """
    if isinstance(annotation, type) and issubclass(annotation, StageOptions):
        return annotation
    members = getattr(annotation, "__args__", ())
    models = [m for m in members if isinstance(m, type) and issubclass(m, StageOptions)]
    tags = {m: str(m.model_fields[tag].annotation) for m in models for tag in TAGS if tag in m.model_fields}
    tagged = [m for m in models if f"'{below}'" in tags.get(m, "")]
    nested = [_model_in(member, below) for member in members if not isinstance(member, type)]
    return next(iter(tagged or models or [m for m in nested if m is not None]), None)
