"""Reads the YAML of configs. Refuses files that are too large and YAML that two readers may understand differently,
such as a key that occurs twice. Torch-free.
"""

import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from kinegraph.cache_schemas.documents import shortened
from kinegraph.cache_schemas.regular import NotRegularError, open_regular
from kinegraph.cache_schemas.words import quoted, sentence
from kinegraph.pipeline.errors import ConfigError

MAX_FILE_BYTES = 1 << 20
MAX_TEXT_CHARACTERS = 4096  # of one value: the longest path has as many
MAX_VALUES = 100_000  # every use of an alias counts
MAX_DEPTH = 32
MAX_INTEGER = 1 << 63
STRING, MERGE, INTEGER = (f"tag:yaml.org,2002:{name}" for name in ("str", "merge", "int"))
MAX_DIGITS = 20  # of 64 bits


class _ValueFault(yaml.MarkedYAMLError):
    """A number or a date in the file cannot be made into a Python value."""


class _Loader(yaml.SafeLoader):
    """Loads YAML, and refuses keys that occur twice, keys that are not text, and merges of too many keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        there: set[Hashable] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (STRING, MERGE):
                raise yaml.MarkedYAMLError(
                    problem=f"key {_said(key)} is no word; write it in quotes", problem_mark=key.start_mark
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
    """Returns the reason why the YAML value at `node` cannot be made into a Python value, for a message. This is the
    text of `error`. An integer with too many digits has a message of kinegraph instead.
    """
    if node.tag == INTEGER and len(node.value) > MAX_DIGITS:
        # Python's own message advises to change a setting of Python
        return f"a number of {len(node.value):,} digits, allowed: 64 bits"
    return shortened(str(error))


def _said(key: yaml.Node) -> str:
    return repr(key.value) if isinstance(key, yaml.ScalarNode) else f"of type {getattr(key, 'id', '?')}"


def read_yaml(text: str, where: str) -> Any:
    """Returns the value of a YAML text.

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
    """Returns the content of a config file as a dict: name of the section -> content of the section.

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
    """Returns the message of a YAML error in one line, with the line and the column in the file."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if mark is None or problem is None:
        return shortened(str(error))
    tabs = "; indent by spaces" if "'\\t'" in problem else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {shortened(problem)}{tabs}"


def _require_bounded(document: Any, where: str) -> None:
    """Raises ConfigError if the document has too many values or levels, too long a text or too large a number. The
    message begins with `where`.
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
