"""Which shards have a record, whatever else lies beside the records."""

from pathlib import Path

from kinegraph.cache_schemas.ledger import Ledger, Record, Source, encoded
from kinegraph.cache_schemas.local_storage import LocalStorage


def test_shards_are_those_with_a_record(tmp_path: Path) -> None:
    ledger = Ledger(LocalStorage(tmp_path))
    assert ledger.shards("features/a") == []
    for key, shards in {"features/a": [7, 0, 1_234_567], "features/ab": [3], "proposals": [5]}.items():
        for shard in shards:
            assert ledger.seal(Record(key=key, shard=shard, num_rows=1, fingerprint="", objects={}))
    for stray in ("000002.json.orig", ".tmp-1-x-000004.json", "note.json", "000009.txt"):
        (tmp_path / "ledger" / "features" / "a" / stray).touch()
    assert ledger.shards("features/a") == [0, 7, 1_234_567]
    assert [record.shard for record in ledger.records("features/a", {7, 8})] == [7]
    assert [*ledger.stamps("features/a")] == [0, 7, 1_234_567]


def test_an_early_record_is_read(tmp_path: Path) -> None:
    """`files` was called `box_files`."""
    ledger = Ledger(LocalStorage(tmp_path))
    files = {"a.mp4": Source(size=1, mtime_ns=2, digest="3")}
    record = Record(key="proposals", shard=0, num_rows=1, fingerprint="", objects={}, files=files)
    ledger.storage.put(ledger.name("proposals", 0), [encoded(record).replace(b'"files"', b'"box_files"')])
    assert ledger.read("proposals", 0) == record
