"""Exit codes, what goes to stdout and what to stderr, and what commands promise in the contract."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from kinegraph.cli.app import app
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.heads.build import HEADS
from tests.caches import same_bytes, write_config
from tests.conftest import moving_square, six_videos, tiny_stages, write_video

Command = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]

FLAGS = {
    "index": {"--json", "--set"},
    "bench": {"--clips", "--rounds", "--json", "--set"},
    "plan": {"--set", "--why", "--calibrate", "--json", "--stage", "--shards", "--limit"},
    "extract": {
        "--set",
        "--stage",
        "--executor",
        "--workers",
        "--shards",
        "--retry-failed",
        "--limit",
        "--scheduler",
        "--scheduler-file",
        "--profile",
    },
    "status": {"--json", "--failed", "--csv"},
    "verify": {"--json", "--repair"},
    "train": {
        "--set",
        "--head",
        "--seeds",
        "--overwrite",
        "--executor",
        "--workers",
        "--scheduler",
        "--scheduler-file",
    },
    "evaluate": {
        "--json",
        "--cache",
        "--split",
        "--submission",
        "--submission-format",
        "--confusion",
        "--attributes",
        "--set",
    },
    "results": {"--json", "--to", "--out"},
    "export": {"--to", "--compression", "--array"},
    "import": {"--into", "--name", "--tap", "--kind", "--dataset", "--annotations", "--frames"},
    "demo": {"--config", "--out", "--seeds", "--overwrite", "--set"},
    "models": {"--json", "--heads"},
}


@pytest.mark.parametrize("name", FLAGS)
def test_documented_flags_exist(name: str) -> None:
    group = typer.main.get_command(app)
    command = group.commands[name]  # type: ignore[attr-defined]
    found = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert FLAGS[name] <= found


def test_the_way_through(kinegraph: Command, config: Path, cache: Path) -> None:
    indexed = kinegraph("index", config)
    assert (indexed.exit_code, indexed.stderr) == (0, "")
    assert indexed.stdout.splitlines() == [
        f"{cache}: 6 videos, 6 rows (6 new), 3 shards of up to 2",
        "split  videos  clips  hours  classes  labels per class",
        "train       6      6   0.00        2         3 / 3 / 3",
        "labels per class: fewest / median / most",
    ]
    planned = kinegraph("plan", config)
    assert planned.exit_code == 0
    assert planned.stdout.splitlines()[0].split() == ["stage", "shards", "done", "to", "do"]
    assert [line.split() for line in planned.stdout.splitlines()[1:5]] == [
        [key, "0", "3"] for key in ("clips", "features/tiny", "proposals", "regions/tiny")
    ]
    assert planned.stdout.splitlines()[5].startswith("3 work units, 45 files, ")
    assert not (cache / "ledger").exists(), "plan writes nothing"
    extracted = kinegraph("extract", config)
    assert extracted.exit_code == 0
    assert [line.split(".")[0] for line in extracted.stderr.splitlines()] == ["random weights: backbones"]
    assert extracted.stdout.startswith(f"{cache}: 6 clips in ")
    files = [path for path in cache.rglob("*") if path.name.startswith("c.") or "ledger" in path.parts]
    assert sum(path.is_file() and path.suffix != ".parquet" for path in files) == 45, "as many as planned"
    again = kinegraph("extract", config)
    assert (again.exit_code, again.stdout) == (0, f"{cache}: nothing to do, all is sealed (6 clips)\n")
    assert kinegraph("plan", config).stdout.splitlines()[-1].startswith("0 work units, 0 files, 0 B")
    assert kinegraph("verify", cache).stdout.splitlines() == [
        "4 proposals a frame on average",
        "every sealed object is there, whole and unchanged",
    ]
    shown = kinegraph("status", cache).stdout.splitlines()
    assert shown[0] == "6 clips in 3 shards"
    assert [line.split()[:3] for line in shown[2:]] == [
        [key, "3", "0"] for key in ("clips", "features/tiny", "proposals", "regions/tiny")
    ]


def test_json_is_one_document(kinegraph: Command, config: Path, cache: Path) -> None:
    kinegraph("index", config)
    kinegraph("extract", config, "--stage", "proposals", "--shards", "1/2")
    found = json.loads(kinegraph("status", cache, "--json").stdout)
    assert (found["schema"], found["clips"], found["shards"]) == (1, 6, 3)
    assert found["stages"]["proposals"]["shards"] == {"done": 1, "running": 0, "missing": 2}
    verified = json.loads(kinegraph("verify", cache, "--json").stdout)
    assert verified == {"ok": True, "problems": [], "warnings": [], "proposals_per_frame": 4.0}


def test_good_and_bad_videos_together(kinegraph: Command, config: Path, cache: Path, video_folder: Path) -> None:
    bad = video_folder / "bad"
    frames = moving_square(12, 96, 80)
    write_video(bad / "sound.mp4", frames, audio_only=True)
    write_video(bad / "one.mp4", frames[:1])
    write_video(bad / "whole.mp4", frames)
    (bad / "cut.mp4").write_bytes((bad / "whole.mp4").read_bytes()[:-400])
    (bad / "text.mp4").write_text("words")
    (bad / "empty.mp4").touch()
    unreadable = {"sound": "no_video_stream", "cut": "unreadable", "text": "unreadable", "empty": "unreadable"}

    indexed = kinegraph("index", config)
    assert indexed.exit_code == 0
    assert "12 videos, 12 rows" in indexed.stdout
    for name, reason in unreadable.items():
        assert f"  bad/{name}.mp4: {reason}: " in indexed.stderr

    extracted = kinegraph("extract", config)
    assert extracted.exit_code == 3
    assert extracted.stdout.startswith(f"{cache}: 12 clips in ")
    assert "5 of 12 clips failed (--retry-failed runs them again):" in extracted.stderr
    for name, reason in (unreadable | {"one": "too_short"}).items():
        assert f"  bad/{name}.mp4:0:center: {reason}: " in extracted.stderr

    stages = json.loads(kinegraph("status", cache, "--json").stdout)["stages"]
    for key in ("clips", "features/tiny", "proposals", "regions/tiny"):
        assert stages[key]["clips"] == {"ok": 7, "warned": 0, "failed": 5, "missing": 0}
        assert stages[key]["failed"] == {"no_video_stream": 1, "too_short": 1, "unreadable": 3}
    before = same_bytes(cache)
    again = kinegraph("extract", config)
    assert again.exit_code == 3
    assert "nothing to do" in again.stdout
    assert "5 of 12 clips failed" in again.stderr
    assert same_bytes(cache) == before

    for name in unreadable:
        (bad / f"{name}.mp4").write_bytes((bad / "whole.mp4").read_bytes())
    assert kinegraph("index", config).stderr.count("bad/") == 0
    mended = kinegraph("extract", config, "--retry-failed")
    assert mended.exit_code == 3
    assert [line.split(":")[0] for line in mended.stderr.splitlines()[2:]] == ["  bad/one.mp4"]
    never_bad = config.with_name("other")
    for command, code in (("index", 0), ("extract", 3)):
        assert kinegraph(command, config, "--set", f"cache={never_bad}").exit_code == code
    assert _data(cache) == _data(never_bad)


def _data(cache: Path) -> dict[str, object]:
    return {name: value for name, value in same_bytes(cache).items() if not name.startswith("ledger")}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose cache has one shard of three. Tests change nothing of it."""
    folder = tmp_path_factory.mktemp("begun")
    document = tiny_stages(folder / "cache", six_videos(folder / "videos"))
    document["run"] |= {"executor": "inline"}
    path = write_config(folder / "my.yaml", document)
    index(load_config(path))
    extract(load_config(path), limit=2)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "clips.fsp=3"], "my.yaml: clips.fsp: unknown key; did you mean fps? known here: num_frames"),
        (["--set", "clips"], "--set clips: expected section.key=value"),
        (
            ["--executor", "cluster"],
            "my.yaml: run.executor: Input should be 'inline', 'local', 'dask' or 'slurm' (given 'cluster')",
        ),
        (["--shards", "2/2"], "--shards 2/2: expected I/N with 0 <= I < N"),
        (["--stage", "graphs"], "--stage graphs: the config has clips, features/tiny"),
        (["--limit", "0"], "--limit"),
        (["--nonsense"], "--nonsense"),
        (["--set", "clips.num_frames=16"], "num_frames: 8 -> 16"),
        (["--set", "proposals.weights=random:1"], "weights_sha256: '"),
        (["--set", "backbones.tiny.size=48"], "size: 64 -> 48"),
        (["--set", "cache=/nowhere"], "No cache at /nowhere (cache.json is missing)"),
        (["--set", "cache=nowhere"], "No cache at nowhere (cache.json is missing, looked from /"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(kinegraph: Command, begun: Path, arguments: list[str], said: str) -> None:
    before = same_bytes(begun.with_name("cache"))
    result = kinegraph("extract", begun, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
    assert same_bytes(begun.with_name("cache")) == before


def test_models_are_listed_for_people_and_programs(kinegraph: Command) -> None:
    rows = {row["name"]: row for row in json.loads(kinegraph("models", "--json").stdout)}
    assert {"resnet18", "inception_v3", "bn_inception", "tsm_r50", "nonlocal_i3d_r50", "r2plus1d_18"} <= rows.keys()
    i3d = rows["i3d_r50"]
    assert (i3d["params"], i3d["gmacs"]) == (28_043_472, pytest.approx(152.47, rel=0.001))
    last = {"name": "res5", "channels": 2048, "stride": 16, "temporal_stride": 2}
    assert last.items() <= i3d["taps"][-1].items()
    assert i3d["options"]["res5_stride"] == [1, 2]
    assert rows["resnet18"]["weights"][0]["sha256"] == "f37072fd"
    assert {row["kind"] for row in rows.values()} == {"backbone", "proposals"}
    rpn = rows["detectron2_fpn"]
    assert (rpn["params"], rpn["taps"], rpn["source"]) == (27_446_351, [], "detectron2-checkpoint")
    assert "faster_rcnn_R_101_FPN_3x" in [weights["name"] for weights in rpn["weights"]]
    mae = rows["transformers/videomae"]
    assert (mae["params"], mae["input"]["num_frames"], mae["input"]["only_this"]) == (86_227_200, 16, True)
    last = {"name": "norm", "channels": 768, "stride": 16, "temporal_stride": 2}
    assert last.items() <= mae["taps"][-1].items()
    lines = kinegraph("models").stdout.splitlines()
    assert max(map(len, lines)) <= 80, "in a file"
    assert "  taps:     layer_0 768/16t2, layer_11 768/16t2, norm 768/16t2" in lines
    assert [line.split()[0] for line in lines if " parameters " in line] == list(rows)
    assert "  taps:     stem 64/4, res2 256/4, res3 512/8t2, res4 1024/16t2, res5 2048/16t2" in lines


def test_heads_are_listed_for_people_and_programs(kinegraph: Command) -> None:
    rows = {row["name"]: row for row in json.loads(kinegraph("models", "--heads", "--json").stdout)}
    assert rows.keys() == HEADS.keys()
    strg = rows["strg"]
    assert strg["params"] == 3_151_872 + 2048 * 512 + 512 + 1024 * 157 + 157
    assert strg["gmacs"] == pytest.approx(4.78, abs=0.01)
    assert "regions/i3d/res5" in strg["reads"]
    lines = kinegraph("models", "--heads").stdout.splitlines()
    assert max(map(len, lines)) <= 80, "in a file"
    assert [line.split()[0] for line in lines if " parameters " in line] == list(rows)


def test_what_is_not_there(kinegraph: Command, config: Path, tmp_path: Path) -> None:
    for command in ("index", "plan", "extract"):
        missing = kinegraph(command, tmp_path / "none.yaml")
        assert missing.exit_code == 2
        assert "none.yaml: no such config file" in missing.stderr
    for command in ("status", "verify"):
        missing = kinegraph(command, tmp_path)
        assert missing.exit_code == 2
        assert f"No cache at {tmp_path}" in missing.stderr
        assert "kinegraph index CONFIG" in missing.stderr
    missing = kinegraph("index", config, "--set", f"dataset.root={tmp_path / 'nowhere'}")
    assert missing.exit_code == 2
    assert f"dataset.root: no folder {tmp_path / 'nowhere'}" in missing.stderr
    assert "kinegraph index" in kinegraph("extract", config).stderr


def test_verify_names_problems_and_mends_them(kinegraph: Command, config: Path, cache: Path) -> None:
    kinegraph("index", config)
    kinegraph("extract", config)
    before = same_bytes(cache)
    boxes, record = cache / "data.zarr/proposals/boxes/c.1.0.0.0", cache / "ledger/regions/tiny/000002.json"
    boxes.unlink()
    record.write_text(record.read_text()[:100])
    found = kinegraph("verify", cache)
    assert found.exit_code == 1
    assert found.stdout.splitlines()[:2] == [
        "proposals shard 1: missing: data.zarr/proposals/boxes/c.1.0.0.0",
        "regions/tiny shard 2: record: ledger/regions/tiny/000002.json",
    ]
    damaged = kinegraph("status", cache)
    assert damaged.exit_code == 1
    assert "000002.json is damaged: " in damaged.stderr
    assert kinegraph("verify", cache, "--repair").exit_code == 1
    assert kinegraph("verify", cache).exit_code == 0
    assert kinegraph("extract", config).exit_code == 0
    assert same_bytes(cache) == before


def test_plan_why(kinegraph: Command, config: Path, cache: Path) -> None:
    kinegraph("index", config)
    kinegraph("extract", config)
    assert kinegraph("plan", config).exit_code == 0
    assert kinegraph("plan", config, "--set", "proposals.top=3").exit_code == 2
    told = kinegraph("plan", config, "--why", "--set", "proposals.top=3")
    assert told.exit_code == 0
    assert "proposals: differs\n  top: 4 -> 3\n" in told.stdout
    assert "features/tiny: as cached" in told.stdout


def test_plan_calibrate(kinegraph: Command, config: Path, cache: Path) -> None:
    kinegraph("index", config)
    found = json.loads(kinegraph("plan", config, "--calibrate", "--json").stdout)
    assert found["units"] == 3
    assert found["calibration"]["clips"] == 2
    assert found["calibration"]["hours"] > 0
    said = kinegraph("plan", config, "--calibrate").stdout.splitlines()[-5:]
    assert said[0].startswith("measured: 2 clips in ")
    assert "features/tiny" in said[1]
    assert said[2].startswith("  beside: ")
    assert said[3].startswith("limit: ")
    assert said[4].startswith("at this pace about ")
    assert "calibration" not in json.loads(kinegraph("plan", config, "--json").stdout)
    kinegraph("extract", config)
    assert (
        kinegraph("plan", config, "--calibrate").stdout.splitlines()[-1]
        == "nothing to measure, because no shard is missing"
    )


def test_plan_says_where_clips_are_far_from_those_of_the_weights(kinegraph: Command, config: Path) -> None:
    kinegraph("index", config)
    backbone = {"model": "i3d_r50", "weights": "slowfast_8x8", "taps": "[res4]", "size": "224"}
    told = kinegraph("plan", config, *(f"--set=backbones.tiny.{key}={value}" for key, value in backbone.items()))
    assert told.exit_code == 0
    expected = "I3D_8x8_R50.pkl was trained on 8 frames at 3.75 fps, here it gets 8 frames over the whole video"
    assert told.stderr.count(expected) == 1


NO_TORCH = """
import json, os, sys
sys.modules.update(torch=None, torchvision=None)
from kinegraph.cli.app import main
for arguments in json.loads(sys.argv[1]):
    if os.fork() == 0:
        sys.argv[:] = ["kinegraph", *arguments]
        main()
        os._exit(99)
    if os.waitstatus_to_exitcode(os.wait()[1]) != 0:
        sys.exit(f"failed: {arguments}")
    print("done:", *arguments, flush=True)
"""


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "kinegraph", "models", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as models:
        assert models.stdout is not None
        assert models.stderr is not None
        models.stdout.read(10)
        models.stdout.close()
        assert (models.stderr.read(), models.wait()) == (b"", 0)


def test_quick_commands_do_without_torch(begun: Path) -> None:
    """Each in a process forked from one that has imported the command line."""
    commands = [["--help"], ["models"], ["models", "swin3d_t"], ["plan", str(begun)], ["index", str(begun)]]
    commands += [[name, str(begun.with_name("cache"))] for name in ("status", "verify")]
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, json.dumps(commands)], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("random weights: ") for line in done.stderr.splitlines()), done.stderr
    told = done.stdout
    for arguments in commands:
        printed, _, told = told.partition(f"done: {' '.join(arguments)}\n")
        assert printed, arguments
