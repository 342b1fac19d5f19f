"""A config error names the file, the key as it stands there, what was given and what is allowed."""

from pathlib import Path
from typing import Any

import pytest

from kinegraph.pipeline.config import Config, check_config, load_config
from kinegraph.pipeline.errors import ConfigError
from tests.caches import write_config


@pytest.fixture
def document() -> dict[str, Any]:
    tiny = {"model": "tiny_i3d", "weights": "random:0", "taps": ["res4"]}
    return {
        "cache": "cache",
        "dataset": {"kind": "folder", "root": "videos"},
        "clips": {"num_frames": 8},
        "backbones": {"tiny": tiny},
        "proposals": {"source": "tiny", "weights": "random:0", "every": 2},
        "regions": {"backbones": ["tiny"]},
    }


def refused(tmp_path: Path, document: dict[str, Any], *overrides: str) -> str:
    path = write_config(tmp_path / "my.yaml", document)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1, "one mistake, one line"
    return lines[0].removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("chache=x", "chache: unknown key; did you mean cache? known here: cache, dataset, clips, "),
        (
            "clips.fsp=3",
            "clips.fsp: unknown key; did you mean fps? known here: num_frames, fps, frame_step, sampling, ",
        ),
        (
            "dataset={kind: interactions, root: x, rot: x}",
            "dataset.rot: unknown key; did you mean root? known here: kind, root, train, val, ",
        ),
        (
            "dataset.knd=x",
            "dataset.knd: unknown key; did you mean kind? known here: kind, root, annotations, classes, ",
        ),
        (
            "backbones.tiny.tabs=x",
            "backbones.tiny.tabs: unknown key; did you mean taps? known here: model, weights, taps, ",
        ),
        ("train.variants={a: {epoch: 3}}", "train.variants.a: given 'epoch', allowed: keys of train: "),
        ("train.variants={a: {epochs: x}}", "train.variants.a.epochs: Input should be a whole number"),
        ("clips.num_frames=many", "clips.num_frames: Input should be a whole number"),
        ("clips.crops=[centre]", "clips.crops: given 'centre', allowed: left, center, right, top_left, "),
        ("clips.crops=[even_0]", "clips.crops: given 'even_0', allowed: "),
        ("clips.crops=[even_3_1]", "clips.crops: given 'even_3_1', allowed: "),
        ("clips.crops=[even_1000000000]", "clips.crops: given 'even_1000000000', allowed: "),  # no list is made of it
        (
            "clips.crops=[even_1000]\nclips.per_video=11",
            "clips.per_video: given 11 with 1,000 crops, 11,000 rows of a video, allowed: 10000",
        ),
        (
            "backbones.tiny.resize_short=60",
            "backbones.tiny.size: given 96, allowed: at most the 60 px of the resized frame's short side",
        ),
        (
            "backbones.tiny.resize=swscale",
            "backbones.tiny.resize: given 'swscale', allowed: only with resize_short (such as 96) or clips.crops ",
        ),
        ("clips.crops=[left, left]", "clips.crops: given ['left', 'left'], allowed: each crop once"),
        ("clips.crops=5", "clips.crops: Input should be a list (given 5)"),
        (
            "proposals={source: grid, cells: [1, 2, 3]}",
            "proposals.cells: Input should have at most 2 items (given [1, 2",
        ),
        ("backbones.tiny=5", "backbones.tiny: Input should be keys with values (given 5)"),
        ("clips.per_video=0", "clips.per_video: Input should be greater than or equal to 1 (given 0)"),
        (
            "store.shard_clips=few",
            "store.shard_clips: Input should be 'auto' (given 'few'), or Input should be a whole number",
        ),
        ("store={kind: hdf5, compression: lz4}", "store.compression: given 'lz4', allowed: none, with kind hdf5"),
        ("dataset.kind=foldr", "dataset.kind: given 'foldr', allowed: 'folder', 'interactions', 'sync_mnist'"),
        (
            "run.executor=cluster",
            "run.executor: Input should be 'inline', 'local', 'dask' or 'slurm' (given 'cluster')",
        ),
        ("backbones.tiny.taps=[res9]", "backbones.tiny.taps: backbone tiny_i3d has no tap 'res9'; its taps are stem, "),
        ("backbones.tiny.model=i4d", "backbones.tiny.model: no backbone 'i4d'; there are resnet18, "),
        ("backbones.tiny.model=timm/nothing", "backbones.tiny.model: "),
        ("backbones.tiny.options={res5_stride: 2}", "backbones.tiny.options: backbone tiny_i3d has no option "),
        (
            "backbones.tiny={model: tsm_r50, weights: w, taps: [res4], every: 8}",
            "clips.num_frames: given 8, allowed: 16",
        ),
        (
            "backbones.tiny={model: s3d, weights: w, taps: [mixed_5b], every: 4}",
            "clips.num_frames: backbones.tiny gets 2 ",
        ),
        (
            "backbones.tiny={model: bn_inception, weights: w, taps: [conv2], size: 230}",
            "backbones.tiny.size: size 230 px: conv2 needs a multiple of 32",
        ),
        (
            "backbones.tiny={model: i3d_r50, weights: imagenet1k_v1, taps: [res4]}",
            "backbones.tiny.weights: given 'imagenet1k_v1', allowed: pytorchvideo_8x8, ",
        ),
        (
            "backbones.tiny={model: i3d_r50, weights: 'inflate:imagenet', taps: [res4]}",
            "backbones.tiny.weights: given 'imagenet', allowed: imagenet1k_v1, ",
        ),
        (
            "backbones.tiny={model: resnet50, weights: 'inflate:imagenet1k_v1', taps: [res4]}",
            "backbones.tiny.weights: given 'inflate:imagenet1k_v1', allowed: imagenet1k_v1, ",
        ),
        ("backbones.tiny.weights=random:abc", "backbones.tiny.weights: given 'random:abc', allowed: shipped, random:<"),
        ("backbones.tiny.every=3", "backbones.tiny.every: given 3, allowed: a divisor of num_frames 8"),
        ("backbones={a b: {model: tiny_i3d, weights: w, taps: [res4]}}", "backbones.a b: String should match pattern"),
        ("proposals.every=3", "proposals.every: given 3, allowed: a divisor of num_frames 8"),
        ("proposals.every=4", "proposals.every: given 4, allowed: a divisor of 2, so that tiny/res4 has boxes"),
        ("clips.fps=nativ", "clips.fps: Input should be a number (given 'na"),
        ("clips.frame_step=2", "clips.frame_step: given 2, allowed: 1 with fps: 6; others need fps: native"),
        (
            "clips.fps=native\nclips.sampling=uniform\nclips.frame_step=2",
            "clips.frame_step: given 2, allowed: 1 with sampling: uniform",
        ),
        (
            "clips.num_frames=10\nbackbones.tiny={model: s3d, weights: w.pth, taps: [mixed_4b]}",
            "clips.num_frames: given 10, allowed: multiples of 4, for regions of tiny/mixed_4b",
        ),
        ("proposals={source: torchvision, model: yolo, weights: w}", "proposals.model: Input should be 'fasterrcnn_"),
        ("proposals.source=gird", "proposals.source: given 'gird', allowed: 'torchvision', 'tiny', 'detectron2-check"),
        (
            "proposals={source: torchvision, weights: coco}",
            "proposals.weights: given 'coco', allowed: coco_v1, random:<seed>, or the path of a file",
        ),
        (
            "proposals={source: detectron2-checkpoint, weights: rpn_R_50}",
            "proposals.weights: given 'rpn_R_50', allowed: rpn_R_50_FPN_1x, faster_rcnn_R_50_FPN_1x, ",
        ),
        ("proposals.modle=x", "proposals.modle: unknown key; known here: every, source, weights, top, "),
        (
            "proposals={source: file, files: boxes}",
            "proposals.files: given 'boxes', allowed: a path with {video_id} or",
        ),
        ("proposals={source: grid, cells: [0, 4]}", "proposals.cells.0: Input should be greater than or equal to 1"),
        ("proposals=null", "regions: need a `proposals:` section"),
        ("regions.backbones=[i3d]", "regions.backbones: given 'i3d', allowed: entries of backbones: ['tiny']"),
    ],
    ids=lambda text: text.partition("=")[0] if "=" in text else "",
)
def test_one_wrong_value(tmp_path: Path, document: dict[str, Any], override: str, message: str) -> None:
    assert refused(tmp_path, document, *override.split("\n")).startswith(message)


@pytest.mark.parametrize(("section", "key"), [("", "cache"), ("dataset", "root"), ("dataset", "kind")])
def test_a_missing_key(tmp_path: Path, document: dict[str, Any], section: str, key: str) -> None:
    del (document[section] if section else document)[key]
    assert refused(tmp_path, document) == f"{section}.{key}: missing".removeprefix(".")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clips.fps", "--set clips.fps: expected section.key=value"),
        ("=3", "--set =3: expected section.key=value"),
        ("cache.deep.er=3", "--set cache.deep.er=3: cache is not a section but 'cache'"),
        ("clips.fps=[3", "--set clips.fps=[3: not YAML: "),
    ],
)
def test_a_bad_override(tmp_path: Path, document: dict[str, Any], override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write_config(tmp_path / "my.yaml", document), [override])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cache: [", "not YAML"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"- a\n- b\n", "expected sections like `cache:` and `dataset:`, found list"),
        (b"", "found an empty file"),
    ],
    ids=["syntax", "binary", "list", "empty"],
)
def test_a_file_that_is_no_config(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "my.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(tmp_path / "my.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'my.yaml'}: ")


def test_a_cache_may_lie_at_a_url_but_not_in_hdf5(tmp_path: Path, document: dict[str, Any]) -> None:
    at_url = document | {"cache": "s3://bucket/cache"}
    assert load_config(write_config(tmp_path / "my.yaml", at_url)).cache == "s3://bucket/cache"
    said = refused(tmp_path, at_url | {"store": {"kind": "hdf5"}})
    assert said == "cache: given 's3://bucket/cache', allowed: a folder, with store.kind hdf5; zarr for a URL"
    assert load_config(tmp_path / "my.yaml", ["cache=file:///somewhere"]).store.kind == "hdf5"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such config file"):
        load_config(tmp_path / "none.yaml")


def test_overrides_reach_every_depth(tmp_path: Path, document: dict[str, Any]) -> None:
    path = write_config(tmp_path / "my.yaml", document)
    overrides = ["clips.fps=2.5", "backbones.tiny.taps=[res3, res4]", "run.workers=3", "cache=elsewhere"]
    config = load_config(path, overrides)
    assert (config.clips.fps, config.backbones["tiny"].taps) == (2.5, ("res3", "res4"))
    assert (config.run.workers, config.cache) == (3, "elsewhere")


def test_defaults_of_the_contract() -> None:
    config = Config.model_validate({"cache": "c", "dataset": {"kind": "folder", "root": "r"}})
    assert config.clips.model_dump() == {
        "num_frames": 32, "fps": 6.0, "frame_step": 1, "sampling": "dense", "per_video": 1, "crops": ("center",),
        "short": "repeat_last", "hop_frames": None, "hop_seconds": None, "tail": "drop",
        "beyond_end": "refuse", "decoder": "pyav",
    }  # fmt: skip
    assert config.store.model_dump() == {"kind": "zarr", "shard_clips": "auto", "compression": "none"}
    assert (config.run.executor, config.run.workers, config.run.threads, config.run.batch_size) == (
        "local",
        1,
        "auto",
        8,
    )


@pytest.mark.parametrize("weights", ["coco_v1", "random:3", "elsewhere/rpn", "~/rpn.pth", "rpn.pth", "here"])
def test_weights_of_proposals_may_be_a_path(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    """Which may be on the machine that loads it alone."""
    (tmp_path / "here").touch()
    monkeypatch.chdir(tmp_path)
    proposals = {"source": "torchvision", "weights": weights, "every": 2}
    assert check_config(document | {"proposals": proposals}, "test").proposals is not None
