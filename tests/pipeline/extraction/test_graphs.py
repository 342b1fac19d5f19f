"""Scene graphs through the whole extraction: from files that come and change, and of the generated data set."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.extraction.run import Outcome, extract
from kinegraph.stages.generated.interactions import generate, truth
from kinegraph.stages.scene_graphs.source import ClipGraphs
from tests.caches import rows_of, same_bytes

BAD = "left/v1.mp4"
NAMES = {"classes": ["person", "cup", "chair"], "relations": ["holding", "sitting_on"]}
COUNTS = {"train": 4, "val": 2, "test": 2}
Make = Callable[..., Config]


def write_graphs(folder: Path, video_id: str, *relations: str) -> Path:
    """Graphs every half second of a person and a cup with these relations, and of a chair that is just there."""
    path = (folder / video_id).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    things = [{"class": "cup", "relations": [*relations]}, {"class": "chair", "relations": None}]
    path.write_text(json.dumps({"frames": [{"seconds": t / 2, "objects": things} for t in range(3)]}))
    return path


@pytest.fixture
def files(tmp_path: Path, video_folder: Path) -> Path:
    """A folder of files for all videos."""
    for video in video_folder.rglob("*.mp4"):
        write_graphs(tmp_path / "graphs", video.relative_to(video_folder).as_posix(), "holding")
    return tmp_path / "graphs"


@pytest.fixture
def config(tmp_path: Path, inline_document: dict[str, Any], files: Path) -> Make:
    """Graphs from files and no network, the cache at `tmp_path / name`."""
    kept = {key: inline_document[key] for key in ("dataset", "clips", "store", "run")}

    def made(name: str = "cache", *, folder: Path = files, graphs: bool = True, **options: Any) -> Config:
        given = {"source": "file", "files": f"{folder}/{{stem}}.json", "vocabulary": NAMES, "max_frames": 4}
        section = {"graphs": given | {"max_objects": 3} | options} if graphs else {}
        return check_config(kept | {"cache": str(tmp_path / name)} | section, "test")

    return made


def run(config: Config, **options: Any) -> Outcome:
    index(config)
    return extract(config, **options)


@pytest.mark.parametrize("store", [{"kind": "zarr", "compression": {"graphs": "lz4"}}, {"kind": "hdf5"}])
def test_files_become_arrays(config: Make, store: dict[str, Any]) -> None:
    made = config()
    made = check_config(made.model_dump(exclude_unset=True) | {"store": store | {"shard_clips": 4}}, "test")
    assert not run(made, stages=["graphs"]).failures
    found = {name: rows_of(made.cache, f"graphs/{name}") for name in ("times", "count", "objects", "linked")}
    assert {name: rows.shape for name, rows in found.items()} == {
        "times": (6, 4), "count": (6, 4), "objects": (6, 4, 3), "linked": (6, 4, 3),
    }  # fmt: skip
    np.testing.assert_array_equal(found["times"][0], [0, 0.5, 1, np.nan])
    assert (found["count"][5].tolist(), found["objects"][5, 0].tolist()) == ([2, 2, 2, -1], [1, 2, -1])
    assert rows_of(made.cache, "graphs/relations")[2, 0].tolist() == [[1, 0], [0, 0], [0, 0]]
    assert rows_of(made.cache, "status/graphs").tolist() == [1] * 6
    assert verify(made.cache).ok
    assert not verify(made.cache).warnings
    assert not make_plan(made, Cache(made.cache)).units


def test_once_clips_are_sealed_nothing_is_decoded(
    config: Make, video_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the cache ends as if both had run together, with a video that cannot be read."""
    (video_folder / BAD).write_text("no video")
    together, apart = config("together"), config("apart")
    assert [failure.reason for failure in run(together).failures] == ["unreadable"]
    run(config("apart", graphs=False))

    def never(*args: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("kinegraph.pipeline.extraction.feed.decode_clips", never)
    extract(apart)
    assert same_bytes(apart.cache) == same_bytes(together.cache)


def test_a_bad_file_fails_its_clips_and_is_retried(config: Make, files: Path) -> None:
    made, whole = config(), config("whole")
    run(whole)
    path = write_graphs(files, BAD, "eating")
    (failure,) = run(made).failures
    assert (failure.clip_id, failure.reason) == (f"{BAD}:0:center", "unreadable")
    assert "left/v1.json of left/v1.mp4: relation 'eating' at 0 s is not in graphs.vocabulary" in failure.detail
    assert rows_of(made.cache, "status/graphs").tolist() == [2, 1, 1, 1, 1, 1]
    assert rows_of(made.cache, "status/clips").tolist() == [1] * 6
    assert verify(made.cache).ok
    path.unlink()
    assert [failure.reason for failure in extract(made, retry_failed=True).failures] == ["missing"]
    write_graphs(files, BAD, "holding")
    assert not extract(made, retry_failed=True).failures
    data = [{k: v for k, v in same_bytes(c.cache).items() if not k.startswith("ledger/")} for c in (made, whole)]
    assert data[0] == data[1]


def test_a_changed_file_reopens_the_graphs_of_its_shard(config: Make, files: Path) -> None:
    made = config()
    run(made)
    write_graphs(files, BAD, "sitting_on")
    plan = make_plan(made, Cache(made.cache))
    assert [(unit.shard, unit.keys) for unit in plan.units] == [(0, ("graphs",))]
    assert plan.changed_videos == [BAD]
    assert not extract(made).failures
    assert rows_of(made.cache, "graphs/relations")[:2, 0, 0].tolist() == [[0, 1], [1, 0]]
    assert not make_plan(made, Cache(made.cache)).units


def test_names_enter_the_fingerprint_and_the_place_of_files_does_not(config: Make, files: Path) -> None:
    run(config())
    cache, elsewhere = Cache(config().cache), files.rename(files.with_name("elsewhere"))
    assert not make_plan(config(folder=elsewhere), cache).units
    with pytest.raises(CacheMismatch, match=r"vocabulary\.classes: .*'chair'"):
        make_plan(config(vocabulary=NAMES | {"classes": ["person", "cup", "sofa"]}), cache)


@pytest.mark.parametrize(
    ("part", "place", "value"),
    [
        ("times", (0,), np.nan),
        ("times", (3,), 1.0),
        ("count", (0,), 4),
        ("objects", (0, 0), -1),
        ("objects", (3, 0), 1),
        ("linked", (0, 2), 1),
        ("relations", (0, 1, 0), 1),
    ],
)
def test_verify_knows_graphs_that_make_no_sense(
    config: Make, monkeypatch: pytest.MonkeyPatch, part: str, place: tuple[int, ...], value: float
) -> None:
    class Broken:
        def graphs(self, row: ClipRow, frame_times: np.ndarray) -> ClipGraphs:
            found = ClipGraphs.empty((4, 3, 2))
            found.times[0], found.count[0], found.objects[0, :2], found.linked[0, 0] = 0, 2, (1, 2), 1
            if row.video_id == BAD:
                vars(found)[part][place] = value
            return found

    monkeypatch.setattr("kinegraph.stages.scene_graphs.run.build_graph_source", lambda options, dataset: Broken())
    run(config())
    (problem,) = verify(config().cache).problems
    assert (problem.stage, problem.shard, problem.kind) == ("graphs", 0, part)
    assert f"/graphs/{part}/" in problem.object


@pytest.fixture
def generated(tmp_path: Path, inline_document: dict[str, Any]) -> dict[str, Any]:
    """A config on a small generated data set."""
    generate(tmp_path / "interactions", videos=COUNTS)
    kept = {key: inline_document[key] for key in ("store", "run")}
    return kept | {
        "cache": str(tmp_path / "generated"),
        "dataset": {"kind": "interactions", "root": str(tmp_path / "interactions")} | COUNTS,
        "clips": {"num_frames": 8, "sampling": "uniform"},
        "graphs": {"source": "interactions", "every": 2},
    }


def test_graphs_of_the_generated_data_set(generated: dict[str, Any]) -> None:
    config = check_config(generated, "test")
    assert not run(config).failures
    cache = Cache(config.cache)
    assert cache.array("graphs/relations").dims == ("frame_by_2", "object", "relation")
    np.testing.assert_array_equal(rows_of(cache.root, "graphs/times"), rows_of(cache.root, "clips/frame_times")[:, ::2])
    objects = rows_of(cache.root, "graphs/objects")
    for row, of_row in zip(cache.clips.rows(), objects, strict=True):
        number = int(row.video_id[-9:-4])
        assert {*(of_row - 1).ravel().tolist()} == {*truth(0, row.split, number).digits[1:]}
    assert verify(cache.root).ok
    generated["dataset"] |= {"seed": 1}
    with pytest.raises(CacheMismatch, match="seed: 0 -> 1"):
        make_plan(check_config(generated, "test"), cache)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"dataset": None}, r"graphs\.source: given 'interactions', allowed: only with dataset\.kind interactions"),
        (
            {"graphs": {"source": "interactions", "every": 3}},
            r"graphs\.every: given 3, allowed: a divisor of num_frames 8",
        ),
        ({"graphs": {"source": "file", "files": "{stem}.json"}}, r"test: graphs\.vocabulary: missing"),
        (
            {"graphs": {"source": "file", "files": "all.json", "vocabulary": "action_genome"}},
            r"test: graphs\.files: given 'all\.json', allowed: a path with \{video_id\} or \{stem\}, \.json",
        ),
        (
            {"graphs": {"source": "file", "files": "{stem}.json", "vocabulary": "nothing"}},
            r"test: graphs\.vocabulary: given 'nothing', allowed: action_genome, action_genome_26, or a json file",
        ),
    ],
)
def test_configs_that_cannot_be_meant(generated: dict[str, Any], section: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_config(generated | section, "test")
