"""Rows, or a number of rows a shard, other than those that shards were sealed with: refused, and nothing is redone."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.cache_schemas.sealed_rows import RowsMismatch, sealed_records, sealed_shards
from kinegraph.cli.app import app
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.status import status
from tests.caches import same_bytes
from tests.faults.conftest import Prepared

LAST = "ledger/clips/000002.json is sealed as shard 2, counted from 0, and clips.parquet has "


def renamed(table: pa.Table) -> pa.Table:
    ids = pc.replace_substring(table.column("video_id"), "v", "w")
    return table.set_column(table.column_names.index("video_id"), "video_id", ids)


TABLES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "none": (lambda table: table.slice(0, 0), f"{LAST}0 rows in 0 shards of up to 2"),
    "two": (lambda table: table.slice(0, 2), f"{LAST}2 rows in 1 shard of up to 2"),
    "five": (lambda table: table.slice(0, 5), "clips/000002.json is sealed with 2 rows, and clips.parquet has 5 "),
    "renamed": (renamed, "has no row of it in this shard"),
    "reversed": (lambda table: table.take([5, 4, 3, 2, 1, 0]), "has no row of it in this shard"),
}  # fmt: skip


def put_table(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(root / "clips.parquet")), root / "clips.parquet")


def put_shard_clips(root: Path, number: int) -> None:
    document = json.loads((root / "cache.json").read_bytes())
    document["store"]["shard_clips"] = number
    (root / "cache.json").write_text(json.dumps(document))


def refused_everywhere(config: Path, words: str) -> None:
    """Each command ends with 1 and says so once; nothing is written."""
    root = config.with_suffix("")
    before = same_bytes(root)
    copies = [("export", root, root.with_name("copy"), "--to", kind) for kind in ("zarr", "npy")]
    for arguments in (("status", root), ("plan", config), ("extract", config), ("index", config), *copies):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 1, (arguments, result.output)
        assert result.stdout == "", arguments
        assert result.stderr.count("error: ") == 1, arguments
        assert words in result.stderr, (arguments, result.stderr)
        assert "`verify --repair` does not help." in result.stderr, arguments
    for flags in ([], ["--repair"]):
        verified = CliRunner().invoke(app, ["verify", str(root), *flags])
        assert verified.exit_code == 1
        assert words in verified.stdout
        assert "redoes" not in verified.stdout
        assert "1 document is missing, damaged, or does not fit what is sealed" in verified.stdout
    with pytest.raises(RowsMismatch, match="does not fit what is sealed"):
        CachedClips(root, ["features/tiny/res4"])
    assert same_bytes(root) == before


@pytest.mark.parametrize("name", TABLES)
def test_another_table(prepare: Callable[[str], Prepared], tmp_path: Path, name: str) -> None:
    config = prepare("zarr").copy(tmp_path / "cache", origin="undisturbed")
    whole = (tmp_path / "cache" / "clips.parquet").read_bytes()
    change, words = TABLES[name]
    put_table(tmp_path / "cache", change)
    refused_everywhere(config, words)
    (tmp_path / "cache" / "clips.parquet").write_bytes(whole)
    assert verify(tmp_path / "cache").ok


@pytest.mark.parametrize(("kind", "number"), [("zarr", 1), ("zarr", 3), ("zarr", 200), ("hdf5", 3)])
def test_another_number_of_rows_a_shard(
    prepare: Callable[[str], Prepared], tmp_path: Path, kind: str, number: int
) -> None:
    """Also where one shard is sealed, which has fewer rows than it would have now."""
    root = tmp_path / "cache"
    config = prepare(kind).copy(root, origin="undisturbed")
    put_shard_clips(root, number)
    told = f"cache.json does not fit what is sealed: store.shard_clips is {number}, and arrays on disk have 2 rows"
    words = f"{told} a shard. Set store.shard_clips back to 2"
    refused_everywhere(config, words)
    for path in root.glob("ledger/**/00000[12].json"):
        path.unlink()
    refused_everywhere(config, words)
    put_shard_clips(root, 2)
    assert verify(root).ok


def test_rows_that_an_index_adds_meanwhile(prepare: Callable[[str], Prepared], tmp_path: Path) -> None:
    """What is sealed of them is left out by who has counted the rows before."""
    prepare("zarr").copy(tmp_path / "cache", origin="undisturbed")
    table = pq.read_table(tmp_path / "cache" / "clips.parquet")
    put_table(tmp_path / "cache", lambda all_rows: all_rows.slice(0, 3))
    cache = Cache(tmp_path / "cache")
    assert (cache.num_rows, cache.clip_ids(1)) == (3, [table.column("clip_id")[2].as_py()])
    put_table(tmp_path / "cache", lambda _: table)
    assert sealed_shards(cache, "clips") == [0, 1]
    assert [record.shard for record in sealed_records(cache, "clips")] == [0]
    assert status(cache)["stages"]["clips"]["clips"] == {"ok": 2, "warned": 0, "failed": 0, "missing": 1}
