"""`index` keeps the headers that it has read: killed, it goes on, and later it reads only what is new or changed."""

import os
import signal
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.storages import open_storage
from kinegraph.pipeline.caches import indexing, kept_probes
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.kept_probes import FOLDER, KeptProbes
from kinegraph.pipeline.config import Config, check_config
from kinegraph.stages.decode.probing import Probe
from kinegraph.stages.decode.timeline import PresentedFrames
from tests.caches import write_config

SEEN = PresentedFrames(number=3, rate=29.97, slack_seconds=0.001, times=array("d", (0.0, 0.1, 1 / 3)))
PROBES = {
    "a.mp4": Probe(duration=1 / 3, frame_width=4, frame_height=6, rate=29.97, warning="it's torn", frames=SEEN),
    "b.mp4": Probe(duration=2.0, frame_width=4, frame_height=6),
}
NUM_KEPT = 3
KILLED = f"""
import os, signal, sys, time
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.pipeline.caches import indexing, kept_probes
from kinegraph.pipeline.config import load_config

config, probed, calls = load_config(sys.argv[1]), indexing.probed, []
kept_probes.EVERY_SECONDS = 0.0
storage = open_storage(config.cache)

def until_killed(*arguments):
    calls.append(arguments)
    if len(calls) > {NUM_KEPT}:
        while sum(storage.get(part).count(b"\\n") for part in storage.names("probed")) < {NUM_KEPT}:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return probed(*arguments)

indexing.probed = until_killed
indexing.index(config)
"""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the videos whose headers are read from now on. Every `index` keeps them."""
    paths: list[str] = []
    probed = indexing.probed

    def counted(video: Any, *others: Any) -> Probe:
        paths.append(video.path)
        return probed(video, *others)

    monkeypatch.setattr(indexing, "probed", counted)
    monkeypatch.setattr(kept_probes, "EVERY_SECONDS", 0.0)
    return paths


def _parts(cache: str) -> list[str]:
    return [*open_storage(cache).names(FOLDER)]


@pytest.fixture
def config(tiny_document: dict[str, Any]) -> Config:
    return check_config(tiny_document, "test")


def test_killed_in_the_middle(tiny_document: dict[str, Any], tmp_path: Path, read: list[str]) -> None:
    path = write_config(tmp_path / "my.yaml", tiny_document)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    config = check_config(tiny_document, "test")
    assert not Path(config.cache, "clips.parquet").exists()
    resumed = index(config)
    assert len(read) == resumed.num_videos - NUM_KEPT > 0
    assert len(_parts(config.cache)) == 1
    index(check_config(tiny_document | {"cache": str(tmp_path / "undisturbed")}, "test"))
    both = [Path(cache, "clips.parquet").read_bytes() for cache in (config.cache, tmp_path / "undisturbed")]
    assert both[0] == both[1]


def test_only_new_and_changed_videos_are_read(config: Config, video_folder: Path, read: list[str]) -> None:
    num_videos = index(config).num_videos
    changed = min(video_folder.rglob("*.mp4"))
    assert len(read) == num_videos
    read.clear()
    index(config)
    assert read == []
    os.utime(changed, ns=(1, 1))
    new = changed.with_name("new.mp4")
    new.write_bytes(changed.read_bytes())
    index(config)
    assert sorted(read) == [str(new), str(changed)]
    assert len(_parts(config.cache)) == 1


def test_an_index_of_a_few_seconds_keeps_nothing(config: Config) -> None:
    index(config)
    assert _parts(config.cache) == []


def test_what_was_read_is_kept_when_it_is_stopped(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(config, stopped)
    (part,) = _parts(config.cache)
    assert open_storage(config.cache).get(part)


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_probes_come_back_as_they_were(tmp_path: Path, place: str) -> None:
    """A torn last line, a file that changed and another version of the rules cost a reading, and nothing else."""
    storage = open_storage(tmp_path if place == "folder" else f"memory://{tmp_path.name}")
    kept = KeptProbes(storage, "rules 1")
    for path, probe in PROBES.items():
        kept.add(path, (10, 20), probe)
    kept.add("https://b/c.mp4", None, PROBES["b.mp4"])
    kept.write()
    (part,) = storage.names(FOLDER)
    again = KeptProbes(storage, "rules 1")
    assert {path: again.find(path, (10, 20)) for path in PROBES} == PROBES
    assert again.find("a.mp4", (11, 20)) is again.find("a.mp4", (10, 21)) is again.find("c.mp4", None) is None
    assert KeptProbes(storage, "rules 2").find("a.mp4", (10, 20)) is None
    storage.put(part, [storage.get(part)[:-20]])
    torn = KeptProbes(storage, "rules 1")
    assert torn.find("a.mp4", (10, 20)) == PROBES["a.mp4"]
    assert torn.find("b.mp4", (10, 20)) is None


Damage = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"\xff\xfe" + content,
        lambda content: content.replace(b'"duration":', b'"duration":"x'),
        lambda _: b"[" * 9999,
    ],
)  # fmt: skip
def test_damaged_lines_are_ignored(tmp_path: Path, damage: Damage) -> None:
    storage = open_storage(tmp_path)
    kept = KeptProbes(storage, "rules 1")
    kept.add("a.mp4", (10, 20), PROBES["b.mp4"])
    kept.write()
    (part,) = storage.names(FOLDER)
    storage.put(part, [damage(storage.get(part))])
    assert KeptProbes(storage, "rules 1").find("a.mp4", (10, 20)) is None
