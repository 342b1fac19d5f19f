"""Documents of a cache and a run with every key in turn removed, or of another type: errors in words, no tracebacks."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cli.app import app
from kinegraph.pipeline.caches import indexed_dataset
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.clusters.slurm.submission import submissions
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.exchange.to_npy import export_npy
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.shards.lease import lease_of, live_leases
from kinegraph.pipeline.status import status
from kinegraph.pipeline.training.results import find_results
from kinegraph.pipeline.training.table import train_runs
from kinegraph.stages.errors import UsageError
from kinegraph.stages.training.checkpoint import load_run
from tests.caches import write_config
from tests.conftest import six_videos, tiny_stages

REMOVED = object()
VALUES: tuple[Any, ...] = (REMOVED, None, [], {}, -1, 10**30, "x")
KNOWN_CODES = {0, 1, 2, 3}
RECORD, LEASE, JOB = "ledger/features/tiny/000000.json", "leases/000000.json", "slurm/x.json"
OF_STAGES = ["stages/clips.json", "stages/features/tiny.json"]
OF_CACHE = ["cache.json", "classes.json", "labels.json", "dataset.json", *OF_STAGES, RECORD, LEASE, JOB]
OF_EXTRACTION = ["cache.json", *OF_STAGES, RECORD]
OF_RUN = ["run.json", "results.json"]
WRITTEN_HERE: dict[str, Any] = {
    LEASE: {"shard": 0, "attempt": 1, "seconds": 300.0, "keys": [], "holder": "", "host": "", "pid": 1, "refreshes": 0},
    JOB: {"name": "x", "kind": "train", "job_id": "1", "folder": "/x", "num_tasks": 1, "submitted_at": ""},
}
Place = tuple[str | int, ...]
Change = tuple[str, Place, object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, its cache, and a trained run."""
    folder = tmp_path_factory.mktemp("whole")
    document = tiny_stages(folder / "cache", six_videos(folder / "videos"))
    document["dataset"]["splits"] = {"train": 1, "test": 1}
    del document["proposals"], document["regions"]
    train = {"head": "avg_pool", "epochs": 1, "val_split": None, "run": str(folder / "run"), "test_split": "train"}
    config = write_config(folder / "my.yaml", document | {"run": {"executor": "inline", "threads": 1}, "train": train})
    index(load_config(config))
    extract(load_config(config))
    train_runs(load_config(config))
    return folder


@pytest.fixture
def restored(whole: Path) -> Iterator[Path]:
    """`whole`, of which the documents may be changed: they are put back."""
    documents = (path for path in whole.rglob("*") if path.suffix in (".json", ".parquet", ".safetensors"))
    kept = {path: path.read_bytes() for path in documents}
    yield whole
    for folder in ("leases", "slurm"):
        shutil.rmtree(whole / "cache" / folder, ignore_errors=True)
    for path, content in kept.items():
        path.write_bytes(content)


def path_of(folder: Path, name: str) -> Path:
    path = folder / ("run" if name in OF_RUN else "cache") / name
    if name in WRITTEN_HERE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(WRITTEN_HERE[name]))
    return path


def places(document: Any, above: Place = ()) -> Iterator[Place]:
    """The whole, and every key below it; of a list the first entry alone."""
    yield above
    first = dict(enumerate(document[:1])) if isinstance(document, list) else {}
    for key, value in (document if isinstance(document, dict) else first).items():
        yield from places(value, (*above, key))


def changed(document: Any, place: Place, value: object) -> Any:
    """A copy of the document with another value at a place."""
    if not place:
        return "" if value is REMOVED else value
    copy = json.loads(json.dumps(document))
    parent = copy
    for key in place[:-1]:
        parent = parent[key]
    if value is REMOVED:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return copy


def changes(folder: Path, names: Sequence[str]) -> list[Change]:
    """All of them, in order of documents, places, values."""
    return [
        (name, place, value)
        for name in names
        for place in places(json.loads(path_of(folder, name).read_bytes()))
        for value in VALUES
    ]


def read_cache(folder: Path) -> None:
    cache = Cache(folder / "cache")
    assert all(isinstance(name, str) for name in cache.classes)
    assert cache.multi_label in (True, False, None)
    indexed_dataset.changes(load_config(folder / "my.yaml"), cache)
    cache.arrays()
    status(cache)
    assert all(lease.name == LEASE for lease in live_leases(cache.storage))
    lease_of(cache.storage, 0)
    submissions(cache.storage)


def read_run(folder: Path) -> None:
    load_run(folder / "run")
    find_results(folder / "run")


def refusal(read: Callable[[Path], None], folder: Path) -> Exception | None:
    try:
        read(folder)
    except (CacheError, UsageError) as error:
        return error
    return None


def read_each(folder: Path, chosen: Sequence[Change]) -> None:
    for name, place, value in chosen:
        path = path_of(folder, name)
        before = path.read_bytes()
        path.write_text(json.dumps(changed(json.loads(before), place, value)))
        refused = refusal(read_run if name in OF_RUN else read_cache, folder)
        assert refused is None or path.name in str(refused), (name, place, value, refused)
        assert len(str(refused)) < 2000, (name, place, value)
        assert refused or place or name == LEASE or (name, value) == ("classes.json", []), f"{name} is {value!r}"
        path.write_bytes(before)


def test_documents_are_read_or_refused_with_their_names(restored: Path) -> None:
    read_each(restored, changes(restored, [*OF_CACHE, *OF_RUN])[::13])


@pytest.mark.faults
def test_all_documents_are_read_or_refused_with_their_names(restored: Path) -> None:
    read_each(restored, changes(restored, [*OF_CACHE, *OF_RUN]))


TEXTS = ["", "[" * 100_000, '{"schema_version": NaN}', "\ufeff{}", '{"a": ' + "1" * 10_000 + "}", "\0", '"\ud800"']


@pytest.mark.parametrize("name", [*OF_CACHE, *OF_RUN])
def test_what_is_no_document(restored: Path, name: str) -> None:
    for text in TEXTS:
        path_of(restored, name).write_bytes(text.encode(errors="surrogatepass"))
        refused = refusal(read_run if name in OF_RUN else read_cache, restored)
        assert (refused is None) == (name == LEASE), (text[:20], "a lease that cannot be read goes stale")


def command(*arguments: object) -> Result:
    """A command in this process: it ends with a known exit code, and one that is not 0 or 3 with an error in words."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    told = (arguments, result.exception, result.stderr[-2000:])
    assert result.exception is None or isinstance(result.exception, SystemExit), told
    assert result.exit_code in KNOWN_CODES, told
    assert "Traceback" not in result.stderr, told
    assert "errors.pydantic.dev" not in result.stderr, told
    if result.exit_code in (1, 2) and arguments[0] != "verify":
        assert result.stderr.count("error: ") >= 1, told
    return result


def run_commands(folder: Path, chosen: Sequence[Change]) -> None:
    config, cache, run = folder / "my.yaml", folder / "cache", folder / "run"
    for name, place, value in chosen:
        path = path_of(folder, name)
        before = path.read_bytes()
        path.write_text(json.dumps(changed(json.loads(before), place, value)))
        if name in OF_RUN:
            command("results", run)
            command("evaluate", run)
            command("train", config)
        else:
            damaged = isinstance(refusal(read_cache, folder), CacheError)
            command("plan", config)
            command("status", cache)
            assert command("verify", cache).exit_code or not damaged or name in (LEASE, JOB), (name, place, value)
            extracted = command("extract", config)
            assert extracted.exit_code or not damaged or name not in OF_EXTRACTION, (name, place, value)
            command("evaluate", run)
        path.write_bytes(before)


def test_commands_end_with_a_known_code(restored: Path) -> None:
    run_commands(restored, changes(restored, [*OF_CACHE, *OF_RUN])[::61])


@pytest.mark.faults
def test_all_commands_end_with_a_known_code(restored: Path) -> None:
    run_commands(restored, changes(restored, [*OF_CACHE, *OF_RUN]))


def test_a_newer_stage_is_called_newer(restored: Path) -> None:
    path = path_of(restored, "stages/clips.json")
    path.write_text(
        json.dumps(changed(json.loads(path.read_bytes()), ("schema_version",), 2) | {"arrays": "as of then"})
    )
    for arguments in (("status", "cache"), ("verify", "cache"), ("plan", "my.yaml"), ("extract", "my.yaml")):
        result = command(arguments[0], restored / arguments[1])
        assert result.exit_code == 1
        assert "stages/clips.json has schema version 2; this kinegraph knows 1. Update kinegraph." in result.stderr


@pytest.mark.parametrize("shard_clips", [0, -5, "2", 1 << 40, 2.5])
def test_clips_of_a_shard(restored: Path, shard_clips: object) -> None:
    path = path_of(restored, "cache.json")
    path.write_text(json.dumps(changed(json.loads(path.read_bytes()), ("store", "shard_clips"), shard_clips)))
    for arguments in (("status", "cache"), ("plan", "my.yaml"), ("extract", "my.yaml")):
        result = command(arguments[0], restored / arguments[1])
        assert result.exit_code == 1
        assert "cache.json is damaged: store.shard_clips: " in result.stderr
        assert f"given {shard_clips!r}" in result.stderr


@pytest.mark.parametrize("num_tasks", [0, -1, 10**30])
def test_tasks_of_an_array(restored: Path, num_tasks: int) -> None:
    """Nobody looks for the files of so many tasks."""
    path = path_of(restored, JOB)
    path.write_text(json.dumps(changed(json.loads(path.read_bytes()), ("num_tasks",), num_tasks)))
    result = command("status", restored / "cache")
    assert result.exit_code == 1
    assert f"{JOB} is damaged: num_tasks: " in result.stderr


BESIDE_THE_ROWS = ["classes.json", "labels.json", "dataset.json"]


@pytest.mark.parametrize("content", [None, "[1", "7"])
@pytest.mark.parametrize("name", BESIDE_THE_ROWS)
def test_status_and_verify_tell_of_documents_that_index_writes(restored: Path, name: str, content: str | None) -> None:
    """Without labels.json or dataset.json a cache may be one of an early version: a warning then. `index` mends all."""
    path = path_of(restored, name)
    before = path.read_bytes()
    path.unlink() if content is None else path.write_text(content)
    seen = f"{name} does not exist" if content is None else f"{name} is damaged: "
    again = "Write it anew with `kinegraph index CONFIG`."
    looked = command("status", restored / "cache")
    assert looked.exit_code == 0
    assert f"warning: {restored / 'cache'}/{seen}" in looked.stderr
    assert looked.stderr.count(again) == 1
    verified = command("verify", restored / "cache")
    is_warning = content is None and name != "classes.json"
    assert verified.exit_code == (0 if is_warning else 1)
    assert seen in (verified.stderr if is_warning else verified.stdout)
    assert again in (verified.stderr if is_warning else verified.stdout)
    assert command("index", restored / "my.yaml").exit_code == 0
    assert path.read_bytes() == before
    mended = command("status", restored / "cache"), command("verify", restored / "cache")
    assert [(result.exit_code, name in result.output) for result in mended] == [(0, False)] * 2


@pytest.mark.parametrize("name", [*OF_STAGES, "clips.parquet"])
def test_index_looks_at_documents_before_it_writes(restored: Path, name: str) -> None:
    (restored / "cache" / name).write_bytes(b"{}")
    for written in BESIDE_THE_ROWS:
        (restored / "cache" / written).unlink()
    indexed = command("index", restored / "my.yaml")
    assert (indexed.exit_code, name in indexed.stderr) == (1, True)
    assert not [written for written in BESIDE_THE_ROWS if (restored / "cache" / written).exists()]
    assert (restored / "cache" / name).read_bytes() == b"{}"


def test_metadata_waits_for_documents(restored: Path) -> None:
    """It is written anew from all of them: where one is damaged, what is there stays."""
    metadata = restored / "cache" / "data.zarr" / "clips" / "frame_times" / "zarr.json"
    metadata.write_bytes(b"{}")
    kept = path_of(restored, "stages/features/tiny.json").read_bytes()
    path_of(restored, "stages/features/tiny.json").write_text("{}")
    repaired = command("verify", restored / "cache", "--repair")
    assert "1 problem of metadata, which is written anew once documents are mended" in repaired.stdout
    assert metadata.read_bytes() == b"{}"
    path_of(restored, "stages/features/tiny.json").write_bytes(kept)
    repaired = command("verify", restored / "cache", "--repair")
    assert "1 problem of metadata, which is written anew now" in repaired.stdout
    assert command("verify", restored / "cache").exit_code == 0


def test_labels_that_are_a_list(restored: Path) -> None:
    path_of(restored, "labels.json").write_text("[]")
    verified = command("verify", restored / "cache")
    assert verified.exit_code == 1
    assert "labels.json is damaged: " in verified.stdout
    trained = command("train", restored / "my.yaml", "--overwrite")
    assert trained.exit_code == 1
    assert "labels.json is damaged: " in trained.stderr
    assert path_of(restored, "run.json").exists(), "what cannot be trained anew is not discarded"


OTHER_TYPES = {
    "string": [1, 2, 3, 4, 5, 6],
    "double": ["x"] * 6,
    "int32": ["x"] * 6,
    "list<element: int32>": [["x"]] * 6,
    "list<element: double>": [1.5] * 6,
    "fixed_size_list<element: double>[4]": [[True]] * 6,
}


@pytest.mark.parametrize(
    "column", ["clip_id", "split", "start_seconds", "labels", "target_times", "crop", "frame_width"]
)
def test_columns_of_the_clips(restored: Path, column: str) -> None:
    """A column is missing, of another type, without a value, or twice there."""
    path = restored / "cache" / "clips.parquet"
    table = pq.read_table(path)
    place, of_type = table.column_names.index(column), str(table.schema.field(column).type)
    tables = [
        table.drop_columns([column]),
        table.set_column(place, column, pa.array(OTHER_TYPES[of_type])),
        table.set_column(place, column, pa.nulls(6, table.schema.field(column).type)),
        table.append_column(column, table.column(column)),
    ]
    for number, damaged in enumerate(tables):
        pq.write_table(damaged, path)
        verified = command("verify", restored / "cache")
        assert verified.exit_code == 1, number
        assert "clips.parquet cannot be read: " in verified.stdout, number
        assert column in verified.stdout, number
        for arguments in (("plan", "my.yaml"), ("extract", "my.yaml"), ("status", "cache")):
            result = command(arguments[0], restored / arguments[1])
            assert result.exit_code == 1 or number == 2, (arguments, number)  # a null is seen where rows are read


@pytest.mark.parametrize("content", [None, b"", b"PAR1", b"words" * 100])
def test_a_table_that_is_none(restored: Path, content: bytes | None) -> None:
    path = restored / "cache" / "clips.parquet"
    path.unlink() if content is None else path.write_bytes(content)
    words = "clips.parquet does not exist, and only it says" if content is None else "clips.parquet cannot be read: "
    verified = command("verify", restored / "cache")
    assert verified.exit_code == 1
    assert words in verified.stdout
    assert verified.stdout.count("Restore it from a copy of the cache.") == 1
    assert ".." not in verified.stdout
    assert "kinegraph index" not in verified.stdout, "it refuses, too"
    indexed = command("index", restored / "my.yaml")
    assert (indexed.exit_code, "clips.parquet" in indexed.stderr) == (1, True)
    for arguments in (("status", "cache"), ("plan", "my.yaml"), ("extract", "my.yaml"), ("evaluate", "run")):
        result = command(arguments[0], restored / arguments[1])
        assert result.exit_code == (2 if content is None else 1), arguments
        assert words in result.stderr


@pytest.mark.parametrize("label", [2, -1, 1 << 30])
def test_labels_beyond_the_classes(restored: Path, label: int) -> None:
    path = restored / "cache" / "clips.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("labels")
    labels = pa.array([[label], *table.column("labels").to_pylist()[1:]], table.schema.field("labels").type)
    pq.write_table(table.set_column(place, "labels", labels), path)
    for arguments in (("train", "my.yaml", "--overwrite"), ("evaluate", "run")):
        result = command(arguments[0], restored / arguments[1], *arguments[2:])
        assert result.exit_code == 1
        assert f"clips.parquet has label {label}, and classes.json has 2 classes" in result.stderr
    verified = command("verify", restored / "cache")
    assert verified.exit_code == 1
    assert f"clips.parquet has label {label}, and classes.json has 2 classes" in verified.stdout
    with pytest.raises(CacheError, match=f"has label {label}, and classes"):
        export_npy(Cache(restored / "cache"), str(restored / "npy"), ["clips/frame_times"])


@pytest.mark.parametrize(("key", "value"), [("num_rows", -1), ("sealed_at", "yesterday"), ("seconds", {"x": -1})])
def test_numbers_and_times_of_records(restored: Path, key: str, value: object) -> None:
    path = path_of(restored, RECORD)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {key: value}))
    result = command("status", restored / "cache")
    assert result.exit_code == 1
    assert f"{RECORD} is damaged: {key}" in result.stderr
    assert "`kinegraph verify --repair` removes it" in result.stderr


def test_runs_older_than_their_results(restored: Path, caplog: pytest.LogCaptureFixture) -> None:
    path_of(restored, "results.json").unlink()
    result = command("results", restored / "run")
    assert result.exit_code == 2
    assert f"{restored / 'run'} is a run of an older version without results.json, so no table has it." in caplog.text
    assert "only runs of older versions" in result.stderr
    assert command("evaluate", restored / "run").exit_code == 0
