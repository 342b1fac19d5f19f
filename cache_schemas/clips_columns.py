"""The columns of clips.parquet: their names and types, and checks of tables that are read."""

from collections.abc import Container

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("split", pa.string()),
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("labels", pa.list_(pa.int32())),
        ("target_times", pa.list_(pa.float64())),
        ("crop", pa.list_(pa.float64(), 4)),
        ("frame_width", pa.int32()),
        ("frame_height", pa.int32()),
        ("list_index", pa.int32()),
    ]
)
INTERVAL = pa.field("interval", pa.list_(pa.float64()))
MIRRORED = pa.field("mirrored", pa.bool_())
FRAME_RATE = pa.field("frame_rate", pa.float64())
TARGET_FRAMES = pa.field("target_frames", pa.list_(pa.int32()))
OPTIONAL = (INTERVAL, MIRRORED, FRAME_RATE, TARGET_FRAMES)  # written only where at least one row has a value
MAY_BE_NULL = {INTERVAL.name, FRAME_RATE.name, TARGET_FRAMES.name}


def schema_of(names: Container[str]) -> pa.Schema:
    """Returns the Arrow schema of a clips table with all required columns, and with the optional columns that are in
    `names`.
    """
    return pa.schema([*SCHEMA, *(field for field in OPTIONAL if field.name in names)])


def require_columns(schema: pa.Schema) -> None:
    """Checks `schema`, the columns of a clips.parquet. Raises ArrowInvalid if a required column is missing, if a column
    is there twice, or if a column has the wrong kind, for example texts in place of numbers.

    A column with a wider type than expected, for example int64 in place of int32, is no error, because the reader casts
    it.
    """
    optional = {"list_index", *(field.name for field in OPTIONAL)}  # tables of early versions have no list_index
    for field in (*SCHEMA, *OPTIONAL):
        count = schema.names.count(field.name)
        if count > 1 or not (count or field.name in optional):
            raise pa.ArrowInvalid(f"{count} columns {field.name}, 1 is expected")
        if count and _kind(schema.field(field.name).type) != _kind(field.type):
            raise pa.ArrowInvalid(f"column {field.name} is {schema.field(field.name).type}, {field.type} is expected")


def _kind(of: pa.DataType) -> str:
    """Returns the kind of the Arrow type `of` as a text: "string", "float", "integer", "list of float" and so on. For
    any other type, returns the type's own name.

    A column may be cast to another type only if both types have the same kind.
    """
    types = pa.types
    if types.is_dictionary(of):
        return _kind(of.value_type)
    if types.is_list(of) or types.is_large_list(of) or types.is_fixed_size_list(of):
        return f"list of {_kind(of.value_type)}"
    if types.is_string(of) or types.is_large_string(of):
        return "string"
    return "float" if types.is_floating(of) else "integer" if types.is_integer(of) else str(of)


def require_values(table: pa.Table) -> None:
    """Raises ArrowInvalid if a value is null. Only in the columns `interval`, `frame_rate` and `target_frames` may a
    row have no value. An item of a list may never be null.
    """
    for name, column in zip(table.column_names, table.columns, strict=True):
        lists = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
        within = sum(chunk.flatten().null_count for chunk in column.chunks) if lists else 0
        if within or (column.null_count and name not in MAY_BE_NULL):
            raise pa.ArrowInvalid(f"column {name} has {column.null_count + within} nulls, none are expected")
