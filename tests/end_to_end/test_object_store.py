"""A cache at s3://: the whole way, killed and shared, to the bytes of a cache in a folder."""

import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray
import zarr
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.cli.app import app
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.verification import repair, verify
from kinegraph.pipeline.config import Config, check_config, load_config
from kinegraph.pipeline.extraction.run import extract
from tests.caches import same_bytes, write_config
from tests.command_server import SCRIPTS, Run
from tests.conftest import six_videos, tiny_stages
from tests.s3_server import Server, running, used

ARRAYS = ["regions/tiny/res4", "features/tiny/res4", "proposals/boxes", "proposals/count"]
INLINE = {"executor": "inline", "threads": 1, "batch_size": 2}


@pytest.fixture
def kinegraph_here() -> Callable[..., Any]:
    """Commands run in this process."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def said(kinegraph_here: Callable[..., Any]) -> Callable[..., str]:
    """What a command prints that ends well."""

    def command(*arguments: object) -> str:
        ended = kinegraph_here(*arguments)
        assert ended.exit_code == 0, ended.output
        return str(ended.stdout)

    return command


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of six videos."""
    folder = tmp_path_factory.mktemp("shared")
    return tiny_stages(folder / "cache", six_videos(folder / "videos"))


def made(document: dict[str, Any], cache: object) -> Config:
    """All stages, in this process."""
    config = check_config(document | {"cache": str(cache), "run": INLINE}, "test")
    index(config)
    assert not extract(config).failures
    return config


@pytest.fixture(scope="module")
def features(document: dict[str, Any]) -> dict[str, Any]:
    """A config of no other stages: a third of the requests."""
    return {section: value for section, value in document.items() if section not in ("proposals", "regions")}


@pytest.fixture(scope="module")
def here(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """The same cache in a folder."""
    return Cache(made(document, tmp_path_factory.mktemp("here") / "cache").cache)


@pytest.fixture(scope="module")
def undisturbed(here: Cache) -> dict[str, Any]:
    """Its bytes."""
    return same_bytes(here.root)


@pytest.fixture(scope="module")
def there(document: dict[str, Any], s3_server: Server) -> Iterator[Cache]:
    """A cache at a URL, of all stages, which tests only read."""
    with pytest.MonkeyPatch.context() as patch, used(s3_server, patch) as bucket:
        yield Cache(made(document, f"{bucket}/deep/cache").cache)


@pytest.fixture
def url(s3: str) -> str:
    return f"{s3}/deep/cache"


def copied(url: str, folder: Path) -> Path:
    fsspec.filesystem("s3").get(url, str(folder), recursive=True)
    return folder


def objects(url: str, below: str) -> list[str]:
    return sorted(Cache(url).storage.names(below))


def test_the_whole_way_by_commands(
    tmp_path: Path,
    document: dict[str, Any],
    undisturbed: dict[str, Any],
    url: str,
    s3_server: Server,
    run: Run,
    said: Callable[..., str],
) -> None:
    """Killed before the first record of the regions, when other stages are sealed and orphans lie about.

    The command that is killed is a process of its own; the others run in this one.
    """
    recipe = {"head": "avg_pool", "epochs": 1, "run": str(tmp_path / "run"), "val_split": None}
    config = write_config(tmp_path / "my.yaml", document | {"cache": url, "train": recipe})
    said("index", config)

    def kill_at_the_regions(pid: int) -> None:
        def kill(method: str, path: str) -> None:
            if method == "PUT" and "/ledger/regions/" in path:
                os.kill(pid, signal.SIGKILL)

        s3_server.before = kill

    assert run("extract", config, started=kill_at_the_regions).code == -signal.SIGKILL
    s3_server.before = lambda method, path: None
    done = json.loads(said("status", url, "--json"))["stages"]["proposals"]["shards"]["done"]
    assert done > 0
    said("extract", config)
    puts = [path for method, path in s3_server.requests if method == "PUT" and "/ledger/proposals/" in path]
    assert len(puts) == len(set(puts)) == 3, "what was sealed was computed again"
    assert same_bytes(copied(url, tmp_path / "copy")) == undisturbed
    assert objects(url, "probes") == []
    found = json.loads(said("verify", url, "--json"))
    assert (found["ok"], found["problems"], found["warnings"]) == (True, [], [])
    said("train", config)
    assert (tmp_path / "run").is_dir()


@pytest.mark.faults
def test_two_runs_share_the_shards(
    tmp_path: Path, document: dict[str, Any], url: str, s3_server: Server, run: Run
) -> None:
    """Nothing is sealed before more leases are taken than one inline run takes ahead."""
    one_clip = {"cache": url, "run": INLINE, "store": {"shard_clips": 1}}
    config = write_config(tmp_path / "my.yaml", document | one_clip)
    index(load_config(config))
    leases: set[str] = set()
    both_at_work = threading.Event()

    def wait(method: str, path: str) -> None:
        if method == "PUT" and "/leases/" in path:
            leases.add(path)
            if len(leases) == 3:
                both_at_work.set()
        elif method == "PUT" and "/ledger/" in path:
            assert both_at_work.wait(60)

    s3_server.before = wait
    ended = run(config, 2, script=str(SCRIPTS / "extract_together.py"))
    assert ended.code == 0, ended.said
    clips = [int(line) for line in ended.told.split()]
    assert sum(clips) == 6, f"no clip is run twice: {clips}"
    assert all(clips), clips
    assert objects(url, "leases") == []
    assert verify(url).ok


@pytest.fixture
def careless_server() -> Iterator[Server]:
    """It does not heed conditions."""
    with running("ignored") as server:
        yield server


@pytest.fixture
def careless(careless_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cache's URL there."""
    with used(careless_server, monkeypatch) as bucket:
        yield f"{bucket}/cache"


def test_without_conditional_puts_leases_are_off(
    tmp_path: Path, features: dict[str, Any], careless: str, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = same_bytes(made(features, tmp_path / "here").cache)
    caplog.clear()
    caplog.set_level(logging.WARNING, "kinegraph")
    config = check_config(features | {"cache": careless, "run": INLINE}, "test")
    index(config)
    assert not extract(config, part=(0, 2)).failures
    assert not caplog.messages, "who runs a part knows already"
    assert not extract(config).failures
    (message,) = caplog.messages
    assert "leases are off" in message
    assert "--shards I/N" in message
    assert not extract(config).failures
    assert same_bytes(copied(careless, tmp_path / "copy")) == undisturbed


@pytest.mark.faults
def test_without_leases_a_worker_that_dies_is_replaced(
    tmp_path: Path, document: dict[str, Any], careless: str, careless_server: Server
) -> None:
    """In the middle of its unit."""
    options = {"workers": 2, "threads": 1, "batch_size": 2}  # the second has nothing to do, and is not started
    config = check_config(document | {"cache": careless, "run": options, "store": {"shard_clips": 6}}, "test")
    index(config)
    lost = threading.Event()

    def kill(method: str, path: str) -> None:
        if method == "PUT" and "/ledger/proposals/" in path and not lost.is_set():
            lost.set()
            multiprocessing.active_children()[0].kill()

    careless_server.before = kill
    assert not extract(config).failures
    assert lost.is_set()
    here = made(document | {"store": {"shard_clips": 6}}, tmp_path / "here")
    assert same_bytes(copied(careless, tmp_path / "copy")) == same_bytes(here.cache)


@pytest.mark.faults
def test_stages_one_after_the_other(
    tmp_path: Path, document: dict[str, Any], undisturbed: dict[str, Any], url: str
) -> None:
    """Regions from maps and boxes that are fetched."""
    config = check_config(document | {"cache": url, "run": INLINE}, "test")
    index(config)
    for stage in ("features", "proposals", "regions"):
        assert not extract(config, stages=[stage]).failures
    assert same_bytes(copied(url, tmp_path / "copy")) == undisturbed


def test_clips_are_read_as_from_a_folder(here: Cache, there: Cache, s3_server: Server) -> None:
    read_alike(here, there, s3_server, ARRAYS)


def test_compressed_clips_are_read_as_from_a_folder(
    features: dict[str, Any], here: Cache, url: str, s3_server: Server
) -> None:
    compressed = features | {"store": {"shard_clips": 2, "compression": "zstd"}}
    arrays = ["features/tiny/res4", "features/tiny/res4_pooled"]
    read_alike(here, Cache(made(compressed, url).cache), s3_server, arrays)


def read_alike(here: Cache, there: Cache, s3_server: Server, arrays: list[str]) -> None:
    clips_there, clips_here = CachedClips(there, arrays), CachedClips(here, arrays)
    s3_server.requests.clear()
    for _ in range(2):
        ours, theirs = clips_there.batch([5, 0, 3, 5]), clips_here.batch([5, 0, 3, 5])
        for name in theirs:
            np.testing.assert_array_equal(ours[name].numpy(), theirs[name].numpy())
    gets = len(s3_server.requests)
    assert gets == len(arrays) * (3 + 2 * 3), "an index of each of 3 shards, then each of 3 rows in each batch"


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.faults)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_loaders_read_in_processes_of_their_own(there: Cache, method: str) -> None:
    """Also once this process has read."""
    clips = CachedClips(there, ARRAYS)
    first = clips[0]
    rows: Any = range(len(clips))
    loader: DataLoader[Any] = DataLoader(
        rows, batch_size=3, num_workers=1, multiprocessing_context=method, collate_fn=clips.batch
    )
    batches = list(loader)
    assert [len(batch["labels"]) for batch in batches] == [3, 3]
    for name in ARRAYS:
        np.testing.assert_array_equal(batches[0][name][0].numpy(), first[name].numpy())


def test_zarr_and_xarray_open_it_at_its_url(there: Cache) -> None:
    group = zarr.open_group(f"{there.root}/data.zarr", mode="r")
    row = there.store.open_shard(there.array("regions/tiny/res4"), 1).row(0)
    np.testing.assert_array_equal(np.asarray(group["regions/tiny/res4"][2]), row)
    dataset = xarray.open_zarr(f"{there.root}/data.zarr", group="proposals", consolidated=False)
    assert dataset["boxes"].dims == ("row", "frame_by_2", "proposal", "box_edge")
    assert int(dataset["count"].load().min()) >= 0


def test_damage_is_found_and_mended(
    document: dict[str, Any], there: Cache, undisturbed: dict[str, Any], url: str, tmp_path: Path
) -> None:
    fsspec.filesystem("s3").copy(there.root, url, recursive=True)
    config = check_config(document | {"cache": url, "run": INLINE}, "test")
    storage = Cache(url).storage
    names = sorted(name for name in storage.names("data.zarr/regions") if "/c." in name)
    storage.put(names[0], [storage.get(names[0])[:-1]])
    storage.delete(names[1])
    found = verify(url).problems
    assert [(problem.shard, problem.object, problem.kind) for problem in found] == [
        (0, names[0], "size"),
        (1, names[1], "missing"),
    ]
    repair(Cache(url), found)
    assert not extract(config).failures
    assert same_bytes(copied(url, tmp_path / "after")) == undisturbed


def test_what_the_commands_say(
    kinegraph_here: Callable[..., Any], tmp_path: Path, document: dict[str, Any], s3: str
) -> None:
    """Exit code 2 where another URL should be given, 1 where the server does not do what is asked."""
    config = write_config(tmp_path / "my.yaml", document | {"cache": f"{s3}-none/cache"})
    for code, message, command in (
        (2, "No cache at s3://", ("status", f"{s3}/nothing/here")),
        (2, "Protocol not known: s4", ("verify", s3.replace("s3://", "s4://"))),
        (2, "with store.kind hdf5", ("index", config, "--set", "store.kind=hdf5")),
        (1, "is there such a bucket?", ("index", config)),
    ):
        done = kinegraph_here(*command)
        assert (done.exit_code, message in done.stderr) == (code, True), done.stderr


def test_a_plan_tells_of_no_disk(
    kinegraph_here: Callable[..., Any], tmp_path: Path, document: dict[str, Any], url: str
) -> None:
    config = write_config(tmp_path / "my.yaml", document | {"cache": url})
    assert kinegraph_here("index", config).exit_code == 0
    cost = json.loads(kinegraph_here("plan", config, "--json").stdout)
    assert (cost["free_bytes"], cost["units"]) == (None, 3)
