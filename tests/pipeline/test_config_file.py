"""Config files that are no configs: refused in one short line, before they take memory or time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from kinegraph.pipeline.config import Config, apply_override, check_config, load_config
from kinegraph.pipeline.errors import ConfigError

TENFOLD = [(chr(98 + n), ",".join([f"*{chr(97 + n)}"] * 10)) for n in range(9)]
ALIASES = "a: &a [x, x]\n" + "".join(f"{name}: &{name} [{below}]\n" for name, below in TENFOLD)
MERGES = "a: &a {k: 1}\n" + "".join(f"{name}: &{name} {{<<: [{below}]}}\n" for name, below in TENFOLD)
LONG = f"line 1, column 20: {20 * '1'}... (10,000 characters) cannot be read: a number of 10,000 digits, allowed: 64"
REFUSED = {
    "aliases": (ALIASES, "too much, allowed: 100,000 values, aliases written out"),
    "merges": (MERGES, "merged keys are too many"),
    "an alias of itself": ("cache: &a [*a]", "too much, allowed: 32 levels"),
    "deep": ("cache: " + "[" * 40 + "]" * 40, "too much, allowed: 32 levels"),
    "deeper than Python goes": ("cache: " + "[" * 5000, "nested too deeply"),
    "digits": ("clips: {per_video: " + "1" * 10_000 + "}", LONG),
    "fewer digits": ("clips: {per_video: " + "1" * 4_000 + "}", "clips.per_video: given a number of 13285 bits"),
    "a large file": ("cache: " + "x" * 2_000_000, "over 1,048,576 bytes"),
    "a long text": ("cache: " + "x" * 100_000, "allowed: at most 4,096 characters"),
    "a long word": ("{cache: x, clips: {sampling: " + "x" * 4000 + "}}", "Input should be 'uniform', 'dense'"),
    "many clips": ("{cache: x, clips: {per_video: 1000000000}}", "less than or equal to 10000 (given 1000000000)"),
    "infinite": ("clips: {fps: .inf}", "clips.fps: given inf, allowed: finite numbers"),
    "not a number": ("clips: {fps: .nan}", "clips.fps: given nan, allowed: finite numbers"),
    "no split": ("{cache: x, train: {val_split: ''}}", "train.val_split: String should have at least 1 character"),
    "a split without a name": ("{cache: x, dataset: {kind: folder, root: x, splits: {'': 1}}}", "dataset.splits.'': S"),
    "a key twice": ("cache: x\ncache: y", "line 2, column 1: key 'cache' stands twice"),
    "a number as key": ("cache: x\n1: 2", "key '1' is no word; write it in quotes"),
    "a truth value as key": ("cache: x\nclips: {on: 2}", "key 'on' is no word; write it in quotes"),
    "a list as key": ("? [a, b]\n: x", "key of type sequence is no word"),
    "tabs": ("cache: x\nclips:\n\tfps: 3", "line 3, column 1: .*; indent by spaces"),
    "a list": ("- a", "expected sections like `cache:` and `dataset:`, found list"),
    "empty": ("", "expected sections .* found an empty file"),
    "no date": ("cache: 2024-13-45", ": line 1, column 8: 2024-13-45 cannot be read: month must be in 1..12"),
    "a control character": ("cache: \x01x", "special characters are not allowed"),
    "Python": ("cache: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_config(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: ")
    assert len(line) < len(str(path)) + 500
    caught.match(words.replace("(", r"\(").replace(")", r"\)"))


def test_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes("cache: x".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"not UTF-8 .* Save it as UTF-8"):
        load_config(path)
    path.write_text("\ufeffcache: x", encoding="utf-8")
    assert load_config(path).cache == "x"


def test_many_mistakes_are_told_in_part(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config({"cache": "x"} | {f"key{number}": 1 for number in range(100)}, "x")
    assert str(caught.value).splitlines()[-1] == "x: and 80 more"


@pytest.mark.parametrize("value", ["1" * 5000, ".inf", "{a: 1, a: 2}", "x" * 5000])
def test_overrides_are_bounded_too(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_override({"cache": "x"}, f"clips.fps={value}")
    assert str(caught.value).startswith("--set clips.fps=")
    assert len(str(caught.value)) < 500


def numeric_options(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Every option below a model that takes a number: its name and a validator."""
    for name, field in model.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            for inner in (part, *get_args(part)):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    yield from numeric_options(inner)
        if {int, float} & {field.annotation, *get_args(field.annotation)} - {bool}:
            yield f"{model.__name__}.{name}", field


NUMERIC = dict(numeric_options(Config))


@pytest.mark.parametrize("name", NUMERIC)
def test_every_number_has_bounds(name: str) -> None:
    field = NUMERIC[name]
    adapter = TypeAdapter(field.rebuild_annotation(), config=None)
    with pytest.raises(ValidationError):
        adapter.validate_python(10**19)
