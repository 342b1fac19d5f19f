"""Reads the JSON documents of a cache and checks their values.

A damaged document raises CacheError. The message of the error names the file and the cause.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from kinegraph.cache_schemas.arrays import SCHEMA_VERSION, UPGRADE_SCHEMA_VERSION, ArraySpec
from kinegraph.cache_schemas.errors import CacheError, newer_schema
from kinegraph.cache_schemas.fingerprint import fingerprint
from kinegraph.cache_schemas.names import ObjectName
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.words import counted, quoted, sentence

Model = TypeVar("Model", bound=BaseModel)
STAGES = "stages"  # folder of stages/<key>.json
RESTORE = "Restore it from a copy."
SHOWN_CHARACTERS = 120
MAX_SHARD_CLIPS = 1 << 24
MAX_ROW_BYTES = 1 << 40
Codec = Literal["none", "lz4", "zstd"]
Count = Annotated[int, Field(ge=0, lt=1 << 31)]
_SHOULD_BE = {  # what a value should be, by pydantic's type of the error
    **dict.fromkeys(("tuple_type", "list_type", "set_type", "frozen_set_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "mapping_type"), "keys with values"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "text",
}


class Document(BaseModel):
    """A JSON document whose values must have exactly the declared types.

    Unknown keys, for example keys of later versions, are ignored.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class Layout(Document):
    """The section `store` of cache.json, which says how arrays are stored."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["zarr", "hdf5"]  # the kind of store, "zarr" or "hdf5"
    shard_clips: int = Field(ge=1, le=MAX_SHARD_CLIPS)  # the number of rows per shard
    # The codec of all arrays, or a dict from kinds of arrays, such as "features", to codecs
    compression: Codec | dict[str, Codec]


class Manifest(Document):
    """The document cache.json.

    `latest_schema_version` is the highest `schema_version` that this version of kinegraph can read.
    """

    model_config = ConfigDict(extra="allow")
    latest_schema_version: ClassVar[int] = UPGRADE_SCHEMA_VERSION

    schema_version: int = Field(ge=1)
    # True from the beginning to the end of an upgrade of the cache
    upgrading: bool = False
    clips: dict[str, Any]  # the options by which clips are taken from videos
    clips_digest: str  # the fingerprint of `clips`
    store: Layout  # how arrays are stored

    @model_validator(mode="after")
    def _digest_is_right(self) -> "Manifest":
        return _with_right_digest(self, "clips_digest", self.clips_digest, fingerprint(self.clips), "clips")


class Labels(Document):
    """The document labels.json.

    multi_label: whether a video may have several labels. If it is None, the labels of the videos decide: yes if some
        video has several.
    classes_from: the file or rule that decided the order of the classes, or "".
    """

    multi_label: bool | None
    classes_from: str = ""


class Classes(RootModel[list[str]]):
    """The document classes.json: the list of class names. A label is an index into this list."""

    model_config = ConfigDict(strict=True)


class JsonObject(RootModel[dict[str, Any]]):
    """Any JSON object. `root` is the object as a dictionary."""

    model_config = ConfigDict(strict=True)


class IndexedDataset(Document):
    """The document dataset.json. `options` is the section `dataset` of the config that `kinegraph index` used."""

    options: dict[str, Any]


class ArrayDocument(Document):
    """One entry of the list `arrays` in stages/<key>.json, which describes one array."""

    name: ObjectName
    stage: ObjectName  # the key of the stage that writes the array
    # `shape`, `dims`: the sizes and the names of the axes of one row
    shape: tuple[Count, ...]
    dtype: Literal["float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64"]
    dims: tuple[str, ...]
    # The value of rows that were not written, as a text ("nan", "0", "-1")
    fill: str = Field(pattern=r"^(nan|-?[0-9]{1,18}(\.0)?)$")
    about: str  # a description of the array in words
    units: str = ""
    # The number of sampled frames per step of the time axis. It is None without a time axis, or if each step has a time
    # of its own.
    frame_step: Annotated[int, Field(ge=1)] | None = None
    # The sampled frame of each step, if the steps are not at equal distances
    frame_index: tuple[Count, ...] | None = None

    @property
    def spec(self) -> ArraySpec:
        """Returns this entry as an `ArraySpec`, the class that the rest of the code uses."""
        value = float(self.fill)
        fill = value if value != value else int(value)
        return ArraySpec(**self.model_dump() | {"fill": fill})

    @model_validator(mode="after")
    def _rows_can_be_made(self) -> "ArrayDocument":
        try:
            self.spec.empty(0)
        except OverflowError as error:
            raise ValueError(f"fill: given {self.fill!r}, which no {self.dtype} holds") from error
        if self.spec.row_bytes > MAX_ROW_BYTES:
            raise ValueError(f"shape: given {self.shape}, allowed: at most {MAX_ROW_BYTES:,} bytes of {self.dtype}")
        return self


class StageDocument(Document):
    """The document stages/<key>.json, which says how the stage `key` was made."""

    schema_version: int = Field(ge=1)
    key: ObjectName
    fingerprint: str  # the digest of `options`
    options: dict[str, Any]  # every option that changes the values of the stage
    weights: str  # the option `weights` of the stage's network, or ""
    arrays: tuple[ArrayDocument, ...]  # the descriptions of the arrays that the stage writes
    upgraded_from: str = ""  # the fingerprint before the cache was upgraded, or ""

    @model_validator(mode="after")
    def _belongs_together(self) -> "StageDocument":
        for array in self.arrays:
            if array.stage != self.key or not array.name.startswith(f"{self.key}/"):
                raise ValueError(f"arrays: given {array.name!r} of {array.stage!r}, allowed: names below {self.key}/")
        return _with_right_digest(self, "fingerprint", self.fingerprint, fingerprint(self.options), "options")


def _with_right_digest(document: Model, key: str, given: str, computed: str, of: str) -> Model:
    if given != computed:
        raise ValueError(f"{key}: given {given[:12]!r}, which is not the digest of `{of}` ({computed[:12]!r})")
    return document


def read_document(storage: Storage, name: str, model: type[Model], advice: str = RESTORE) -> Model:
    """Reads the document with the path `name` in a cache. Returns it as an object of the class `model`, for example
    `Manifest`.

    Raises FileNotFoundError if the document is missing. Raises CacheTooNew if a later version of kinegraph wrote it.
    Raises CacheError if it is damaged or does not fit `model`. The message of CacheError ends with `advice`, a sentence
    that says what to do.
    """
    return parsed(f"{storage.root}/{name}", storage.get(name), model, advice)


def parsed(where: str, content: bytes, model: type[Model], advice: str = RESTORE) -> Model:
    """Parses `content`, the JSON text of a document. Returns it as an object of the class `model`, for example
    `Manifest`.

    Raises CacheError if the document is damaged or does not fit `model`. The message contains `where` (the path of the
    document), the cause, and `advice` (what to do). Raises CacheTooNew if the document has a later schema version than
    kinegraph knows.
    """
    latest = getattr(model, "latest_schema_version", SCHEMA_VERSION)
    try:
        document = model.model_validate_json(content)
    except (ValidationError, RecursionError) as error:
        if (version := _schema_version(content)) > latest:
            raise newer_schema(where, version, latest) from None
        raise CacheError(f"{where} is damaged: {sentence(fault(error))} {advice}") from error
    if (version := getattr(document, "schema_version", latest)) > latest:
        raise newer_schema(where, version, latest)
    return document


def said(fault: Mapping[str, Any]) -> str:
    """Returns a sentence that says what is wrong with a value, for people who do not know the types of pydantic and
    Python. `fault` is an item of `ValidationError.errors()`.
    """
    kind, context = fault["type"], fault.get("ctx", {})
    if kind in _SHOULD_BE:
        return f"Input should be {_SHOULD_BE[kind]}"
    if kind in ("too_long", "too_short"):
        limit, least_or_most = ("max_length", "most") if kind == "too_long" else ("min_length", "least")
        return f"Input should have at {least_or_most} {counted(context[limit], 'item')}"
    return str(fault["msg"])


def fault(error: Exception) -> str:
    """Returns one line that says why a document could not be parsed. `error` is the exception that was raised.

    If `error` is from pydantic, the library that checks documents, the line describes only the first fault. The line
    then has the key whose value is wrong, and the wrong value.
    """
    if not isinstance(error, ValidationError):
        return shortened(str(error))
    first = error.errors(include_url=False)[0]
    key = ".".join(map(quoted, first["loc"]))
    words = shortened(str(first.get("ctx", {}).get("error", said(first))), 3 * SHOWN_CHARACTERS)
    if first["type"] not in ("json_invalid", "missing") and "given" not in words:
        words += f" (given {shortened(repr(first['input']))})"
    return f"{shortened(key)}: {words}" if key else words


def shortened(words: str, most: int = SHOWN_CHARACTERS) -> str:
    """Returns `words` on one line. If the line is longer than `most` characters, it is cut, and its full length is
    added (`abc... (1,234 characters)`).
    """
    line = " ".join(words.split())
    return line if len(line) <= most else f"{line[:most]}... ({len(line):,} characters)"


def _schema_version(content: bytes) -> int:
    """Returns the schema version in `content`, a document that could not be parsed. Returns 0 if it has none."""
    try:
        return _Versioned.model_validate_json(content).schema_version
    except (ValidationError, RecursionError):
        return 0


class _Versioned(Document):
    schema_version: int = Field(ge=1)
