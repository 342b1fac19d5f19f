"""`kinegraph predict`: the scores of `evaluate`, from videos and a run alone."""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinegraph.cli.printing.predicting import failures
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.predicting.predictions import ClipScores, Prediction
from kinegraph.pipeline.predicting.predictor import Predictor
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import train_runs
from kinegraph.stages.decode.probing import probe
from kinegraph.stages.decode.stream import open_video
from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.clip_graphs import ClipGraph, masked_graph
from kinegraph.stages.training.evaluation import VideoScores
from tests.caches import write_config
from tests.conftest import moving_square, six_videos, tiny_stages, write_video

Command = Callable[..., Any]
NAMES = ("avg_pool", "lstm", "proposal_pool", "strg")


@dataclass
class Trained:
    """Runs of a cache that is gone, with what `evaluate` gave while it was there."""

    videos: Path
    config: Path
    runs: dict[str, Path]
    scores: dict[str, VideoScores]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("predict")
    videos = six_videos(root / "videos")
    document = tiny_stages(root / "cache", videos)
    document["clips"] |= {"per_video": 2, "crops": ["left", "right"]}
    train = {"head": "avg_pool", "epochs": 1, "val_split": None, "test_split": "train", "batch_size": 24}
    path = write_config(root / "my.yaml", document | {"train": train | {"run": str(root / "runs")}})
    config = load_config(path, ["run.executor=inline"])
    index(config)
    extract(config)
    runs = {run.results.name: run.folder for run in train_runs(config, NAMES)}
    scores = {name: evaluate_run(run).result.videos for name, run in runs.items()}
    shutil.rmtree(root / "cache")
    return Trained(videos=videos, config=path, runs=runs, scores=scores)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_evaluate(trained: Trained, name: str) -> None:
    """Bit for bit, as batches are of the same size."""
    predictor = Predictor(trained.runs[name], overrides=["run.batch_size=2", "run.threads=1"])
    found = list(predictor.predict([trained.videos]))
    assert {f"{trained.videos}/{video}" for video in trained.scores[name].video_ids} == {one.video for one in found}
    expected = dict(zip(trained.scores[name].video_ids, trained.scores[name].scores, strict=True))
    for one in found:
        assert one.scores is not None
        assert torch.equal(one.scores, expected[str(Path(one.video).relative_to(trained.videos))])
        assert len(one.clips) == 4
        assert one.failure == ""


def test_the_table_and_the_json_and_the_csv(
    kinegraph: Command, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One video of three cannot be read: the others are scored, and the exit code is 3."""
    monkeypatch.chdir(trained.videos)
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    asked = ("predict", "left/v1.mp4", broken, "right/v2.mp4", "--run", trained.runs["avg_pool"])
    told = kinegraph(*asked, "--top", "1", "--csv", tmp_path / "scores.csv")
    assert told.exit_code == 3
    lines = [line.split() for line in told.stdout.splitlines()]
    assert lines[0] == ["video", "class", "score"]
    assert [(line[0], line[1] in ("left", "right")) for line in lines[1:]] == [
        ("left/v1.mp4", True),
        ("right/v2.mp4", True),
    ]
    assert f"{broken}: unreadable" in told.stderr

    document = json.loads(kinegraph(*asked, "--json").stdout)
    assert [one["video"] for one in document] == ["left/v1.mp4", str(broken), "right/v2.mp4"]
    assert document[1]["classes"] == document[1]["clips"] == []
    assert document[1]["failure"].startswith("unreadable: ")
    assert [one["failed_clips"] for one in document] == [0, 4, 0]
    first = document[0]
    assert [{*each} for each in first["classes"]] == [{"name", "score"}] * 2
    assert sum(each["score"] for each in first["classes"]) == pytest.approx(1, abs=1e-5)
    assert [{*clip} for clip in first["clips"]] == [{"start", "end", "classes"}] * 4

    with (tmp_path / "scores.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["video", "start", "end", "left", "right"]
    assert [row[0] for row in rows] == ["left/v1.mp4"] * 5 + ["right/v2.mp4"] * 5
    whole = {name: float(value) for name, value in zip(header[3:], rows[4][3:], strict=True)}
    assert whole == pytest.approx({each["name"]: each["score"] for each in first["classes"]}, abs=1e-6)


def test_windows_of_an_untrimmed_video(kinegraph: Command, trained: Trained, tmp_path: Path) -> None:
    """Windows of 1 s, one after the other; the last one is longer, as the video ends in the midst of a fourth."""
    video = write_video(tmp_path / "long.mp4", moving_square(25, 96, 80, seed=1))
    windows = [(0.0, 1.0), (1.0, 2.0), (2.0, probe(str(video)).duration)]
    told = kinegraph("predict", video, "--run", trained.runs["avg_pool"], "--intervals", "1", "--json")
    (document,) = json.loads(told.stdout)
    assert document["failure"] is None
    assert sorted({(clip["start"], clip["end"]) for clip in document["clips"]}) == windows
    assert len(document["clips"]) == 4 * len(windows)
    assert document["classes"]
    table = kinegraph("predict", video, "--run", trained.runs["avg_pool"], "--intervals", "1", "--top", "1").stdout
    assert table.splitlines()[1].split()[:4] == [str(video), "0.00", "to", "1.00"]


def test_windows_that_failed_are_told_too(kinegraph: Command, trained: Trained, tmp_path: Path) -> None:
    """The file breaks off in the midst of 5 windows: each window is there once, in order, scored or failed."""
    frames = moving_square(40, 96, 80, seed=1)
    video = write_video(tmp_path / "cut.mp4", frames, options={"movflags": "faststart"})
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    told = kinegraph("predict", video, "--run", trained.runs["avg_pool"], "--intervals", "1", "--json",
                     "--curve", tmp_path / "curve.svg")  # fmt: skip
    assert told.exit_code == 3
    (document,) = json.loads(told.stdout)
    scored = list(dict.fromkeys((clip["start"], clip["end"]) for clip in document["clips"]))
    failed = [(each["start"], each["end"]) for each in document["failed_intervals"]]
    assert scored + failed == [(number, number + 1) for number in range(5)]
    assert len(scored) > 0 < len(failed)
    assert {each["failure"].partition(":")[0] for each in document["failed_intervals"]} <= {"truncated", "too_short"}
    curve = (tmp_path / "curve.svg").read_text()
    assert curve.count("fill: #808080; opacity: 0.2") == len(failed)
    assert ">left</text>" in curve


def test_pictures_of_several_videos(
    kinegraph: Command, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One video of three is gone. The others get an overlay and a curve each, which a second command keeps."""
    monkeypatch.chdir(trained.videos)
    overlays = [tmp_path / "out" / f"{name}.mp4" for name in ("left/v1", "right/v2")]
    overlays[0].parent.mkdir(parents=True)
    overlays[0].write_bytes(b"old")
    asked = ("predict", "left/v1.mp4", "right/v2.mp4", "gone.mp4", "--run", trained.runs["proposal_pool"],
             "--intervals", "9", "--overlay", tmp_path / "out", "--curve", tmp_path / "curves",
             "--overlay-height", "160")  # fmt: skip
    told = kinegraph(*asked, "--json", "--overwrite")
    assert told.exit_code == 3
    assert "wrote 4 pictures, the first is " in told.stderr
    assert "reads no boxes" not in told.stderr
    assert len(json.loads(told.stdout)) == 3
    assert sorted(path for path in (tmp_path / "out").rglob("*.*")) == overlays
    curves = [tmp_path / "curves" / f"{name}.svg" for name in ("left/v1", "right/v2")]
    assert sorted(path for path in (tmp_path / "curves").rglob("*.*")) == curves
    assert probe(str(overlays[0])).duration == pytest.approx(13 / 8, abs=1 / 8)
    assert probe(str(overlays[0])).frame_height <= 160

    before = [path.read_bytes() for path in overlays]
    kept = kinegraph(*asked)
    assert (kept.exit_code, kept.stdout) == (2, "")
    assert f"{overlays[0]} and 1 more exist. Give --overwrite" in " ".join(kept.stderr.split())
    assert [path.read_bytes() for path in overlays] == before


def test_boxes_are_those_of_the_head_at_their_times(trained: Trained) -> None:
    """8 frames, of which every second one has 4 boxes; two clips of one span, and two crops with the same boxes."""
    video = trained.videos / "left" / "v1.mp4"
    (found,) = Predictor(trained.runs["proposal_pool"]).predict([video], keep_boxes=True)
    assert found.probabilities is not None
    (span,) = found.spans
    assert (span.start, span.end) == (0.0, pytest.approx(13 / 8))
    seconds = [boxes.seconds for boxes in span.boxes]
    assert seconds == sorted(set(seconds))
    assert all(boxes.boxes.shape == (4, 4) and boxes.boxes.min() >= 0 for boxes in span.boxes)
    assert {round(8 * each) / 8 for each in seconds} == {*seconds}, "times of frames"
    assert 4 <= len(seconds) <= 8
    assert span.probabilities is not None
    assert torch.equal(span.probabilities, found.probabilities)
    assert found.without_boxes().spans[0].boxes == ()
    (none,) = Predictor(trained.runs["avg_pool"]).predict([video], keep_boxes=True)
    assert none.spans[0].boxes == ()


def test_edges_are_those_of_the_graph_between_the_boxes_of_a_frame(
    kinegraph: Command, trained: Trained, tmp_path: Path
) -> None:
    """In each frame of each clip, box 1 collects from box 3. A frame of the overlay has orange lines."""
    video, run, out = trained.videos / "left" / "v1.mp4", trained.runs["strg"], tmp_path / "out.mp4"
    matrix = torch.full((1, 16, 16), 0.01)  # 4 frames with 4 boxes each
    matrix[0, range(1, 16, 4), range(3, 16, 4)] = 0.5
    planted = masked_graph(matrix, torch.ones(1, 4, 4, dtype=torch.bool), "boxes")
    linked: list[frozenset[tuple[float, ...]]] = []

    def clip_graphs(batch: dict[str, Tensor]) -> dict[str, ClipGraph]:
        linked.extend(frozenset(map(tuple, frame[[1, 3]].tolist())) for frame in batch["proposals/boxes"][0])
        return {"similarity": planted}

    predictor = Predictor(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor.head, "clip_graphs", clip_graphs)
        (found,) = predictor.predict([video], keep_edges=True)
    assert len(linked) == 4 * 4
    for frame in found.spans[0].boxes:
        ((first, second, weight), *others) = frame.strongest_edges(3)
        assert (weight, [edge[2] for edge in others]) == (0.5, pytest.approx([0.01] * 2))
        assert frozenset(map(tuple, frame.boxes[[first, second]].tolist())) in linked

    told = kinegraph("predict", video, "--run", run, "--overlay", out, "--edges")
    assert told.exit_code == 0
    with open_video(str(out)) as written:
        pictures = [written.rgb(shown.frame)[:80].astype(int) for shown in written.frames()]
    num_orange = [
        int(((each[..., 0] - each[..., 2] > 60) & (each[..., 1] > each[..., 2] + 20)).sum()) for each in pictures
    ]
    assert max(num_orange) > 20


def test_edges_are_refused_where_there_are_none(kinegraph: Command, trained: Trained, tmp_path: Path) -> None:
    asked = ("predict", trained.videos / "left" / "v1.mp4", "--edges", "--run")
    told = kinegraph(*asked, trained.runs["proposal_pool"], "--overlay", tmp_path / "out.mp4")
    assert (told.exit_code, told.stdout, [*tmp_path.iterdir()]) == (2, "", [])
    words = " ".join(told.stderr.split())
    assert "Head proposal_pool of " in words
    assert "has no edges between boxes of one frame. Heads that have them: strg with `graphs: joint`" in words
    told = kinegraph(*asked, trained.runs["strg"])
    assert (told.exit_code, "--edges: goes with --overlay OUT alone" in told.stderr) == (2, True)
    predictor = Predictor(trained.runs["strg"])
    predictor.head.graph.links = {"front": "boxes of neighbouring frames", "back": "boxes of neighbouring frames"}
    with pytest.raises(UsageError, match="of one frame, only between boxes of neighbouring frames"):
        [*predictor.predict([asked[1]], keep_edges=True)]


def test_a_video_at_a_url(kinegraph: Command, trained: Trained, tmp_path: Path) -> None:
    from tests.http_server import serving

    run, overlay = trained.runs["avg_pool"], tmp_path / "out.mp4"
    with serving(trained.videos) as server:
        url = f"{server.url}/left/v1.mp4"
        told = kinegraph("predict", url, "--run", run, "--json", "--intervals", "1", "--overlay", overlay)
        gone = kinegraph("predict", f"{server.url}/gone.mp4", "--run", run)
    (document,), (here,) = (
        json.loads(each)
        for each in (
            told.stdout,
            kinegraph("predict", trained.videos / "left/v1.mp4", "--run", run, "--json", "--intervals", "1").stdout,
        )
    )
    assert told.exit_code == 0
    assert document == here | {"video": url}
    assert probe(str(overlay)).duration == pytest.approx(13 / 8, abs=1e-3)
    assert "The head reads no boxes, so none are drawn." in told.stderr
    assert (gone.exit_code, gone.stdout) == (3, "")
    assert f"{server.url}/gone.mp4: missing: " in gone.stderr


def test_windows_that_failed_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    scores = torch.tensor([0.4, 0.6])
    clip = ClipScores(start=1.0, end=2.0, probabilities=scores)
    some = Prediction(
        video="a", clips=(clip,), scores=scores, probabilities=scores, failure="too_short: x", num_failed=2, num_clips=3
    )
    none = Prediction(video="b", clips=(), failure="too_short: y", num_failed=3)
    failures([some, none], {})
    told = capsys.readouterr().err
    assert told.splitlines() == [
        "a: 2 of 3 clips failed and are left out of the scores, the first as too_short: x",
        "b: too_short: y",
    ]


def test_networks_are_loaded_once(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(trained.runs["proposal_pool"])
    first = list(predictor.predict([trained.videos / "left" / "v1.mp4"]))
    monkeypatch.setattr("kinegraph.pipeline.extraction.networks.load", None)
    (again,) = predictor.predict([trained.videos / "left" / "v1.mp4"])
    assert again.scores is not None
    assert first[0].scores is not None
    assert torch.equal(again.scores, first[0].scores)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": None}, "was trained before runs recorded how their features are made.*--config CONFIG"),
        ({"features": {"clips": {"provenance": "unknown", "rows": "one a video"}}}, "trained on imported features"),
        ({"features": {"clips": {"num_frames": 16}}, "cache_fingerprint": "f00d"}, "made with other options"),
    ],
)
def test_a_run_that_cannot_predict_says_why(
    kinegraph: Command, trained: Trained, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.runs["avg_pool"], run)
    record = json.loads((run / "run.json").read_bytes())
    (run / "run.json").write_text(json.dumps(record | changes))
    told = kinegraph("predict", trained.videos / "left" / "v1.mp4", "--run", run)
    assert (told.exit_code, told.stdout) == (2, "")
    assert re.search(message, " ".join(told.stderr.split()))


def test_a_run_of_before_predicts_with_the_config_of_its_cache(
    kinegraph: Command, trained: Trained, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.runs["avg_pool"], run)
    record = json.loads((run / "run.json").read_bytes())
    (run / "run.json").write_text(json.dumps(record | {"recipe": None}))
    told = kinegraph("predict", trained.videos / "left" / "v1.mp4", "--run", run, "--config", trained.config, "--json")
    assert told.exit_code == 0
    same = kinegraph("predict", trained.videos / "left" / "v1.mp4", "--run", trained.runs["avg_pool"], "--json")
    assert told.stdout == same.stdout


def test_wrong_use_is_refused(kinegraph: Command, trained: Trained, tmp_path: Path) -> None:
    run = trained.runs["avg_pool"]
    assert "allowed: keys of `run`" in kinegraph("predict", "x.mp4", "--run", run, "--set", "train.epochs=1").stderr
    assert "no video in this folder" in kinegraph("predict", tmp_path, "--run", run).stderr
    assert "holds no complete run" in kinegraph("predict", "x.mp4", "--run", tmp_path).stderr
    for file, words in ((tmp_path, "is a folder. Name a file"), (trained.config / "a.csv", "my.yaml is no folder")):
        told = kinegraph("predict", "x.mp4", "--run", run, "--csv", file)
        assert (told.exit_code, told.stdout) == (2, "")
        assert words in " ".join(told.stderr.split())
        assert words in " ".join(kinegraph("evaluate", run, "--confusion", file).stderr.split())
    told = kinegraph("report", run, "--figures", trained.config / "figures")
    assert (told.exit_code, "my.yaml is no folder. Name a folder." in " ".join(told.stderr.split())) == (2, True)
    video = trained.videos / "left" / "v1.mp4"
    content = video.read_bytes()
    (odd := tmp_path / "odd.txt").hardlink_to(video)
    for file in (video, tmp_path / "another.MP4", odd):
        told = kinegraph("predict", video, "--run", run, "--csv", file)
        assert (told.exit_code, told.stdout, video.read_bytes()) == (2, "", content)
        assert "this is a video, and it would be replaced" in " ".join(told.stderr.split())
    odd.unlink()
    os.mkfifo(pipe := tmp_path / "pipe")
    told = kinegraph("predict", video, "--run", run, "--csv", pipe)
    assert (told.exit_code, pipe.is_fifo(), "is a device or a pipe" in " ".join(told.stderr.split())) == (2, True, True)
    pipe.unlink()
    told = kinegraph("predict", video, "--run", trained.config)
    assert (told.exit_code, "my.yaml is a file. Name the folder of a run" in " ".join(told.stderr.split())) == (2, True)
    two = ("predict", "a.mp4", "b.mp4", "--run", run)
    assert "Name a folder, in which each video" in kinegraph(*two, "--overlay", tmp_path / "out.mp4").stderr
    one = ("predict", trained.videos / "left" / "v1.mp4", "--run", run)
    assert "a file that ends with .mp4" in kinegraph(*one, "--overlay", tmp_path / "out.avi").stderr
    assert "is one of the videos" in kinegraph(*one, "--overlay", one[1], "--overwrite").stderr
    assert "goes with --intervals" in kinegraph(*one, "--curve", tmp_path / "out.svg").stderr
    existing = tmp_path / "out.mp4"
    existing.write_bytes(b"mine")
    kept = kinegraph(*one, "--overlay", existing)
    assert (kept.exit_code, existing.read_bytes()) == (2, b"mine")
    assert [*tmp_path.iterdir()] == [existing]
    existing.unlink()
    missing = kinegraph("predict", tmp_path / "none.mp4", "--run", run)
    assert (missing.exit_code, missing.stdout) == (3, "")
    assert "none.mp4: " in missing.stderr
