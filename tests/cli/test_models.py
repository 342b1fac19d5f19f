"""`kinegraph models NAME` tells the whole story of one network."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from kinegraph.cli.printing.one_network import _example
from kinegraph.cli.printing.one_network import network as print_network
from kinegraph.pipeline import models as known
from kinegraph.stages.backbones.catalogue import CATALOGUE
from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.proposals.options import ProposalOptions
from kinegraph.stages.weights.sources import HubFile, Pixels, WeightSource

Command = Callable[..., Any]


def test_one_network_is_told_whole(kinegraph: Command) -> None:
    told = " ".join(kinegraph("models", "i3d_r50").stdout.split())
    for words in (
        "i3d_r50, a backbone parameters: 28,043,472, with a classifier of 400 classes",
        "GMACs: 152.472 for 32 frames of 224 px",
        "pixels: RGB from 0 to 1, mean 0.45 0.45 0.45, std 0.225 0.225 0.225",
        "frames: 1 or more, maps depend on all frames",
        "res5_stride: 1 or 2, temporal_kernels: alternate or all the first value of an option is the paper's",
        "inflates: weights of resnet50, `weights: inflate:<NAME>`",
        "files with: SlowFast's names, Caffe2's names,",
        "res5 2048 16 2 16 x 2048 x 14 x 14 3,136 -",
        "weights nonlocal_net_32x2 licence: CC-BY-NC-4.0 (video-nonlocal-net), trained on Kinetics-400",
        "sha256: unknown, so a download is not checked",
        "backbones: {net: {model: i3d_r50, weights:",
    ):
        assert words in told, words
    proposals = " ".join(kinegraph("models", "detectron2_fpn").stdout.split())
    assert "detectron2_fpn, a proposal network parameters: 27,446,351" in proposals
    assert "pixels: BGR from 0 to 255, mean 103.53 116.28 123.675, std 1 1 1" in proposals
    assert "score threshold: 0.0" in proposals
    assert "proposals: {source: detectron2-checkpoint," in proposals
    family = " ".join(kinegraph("models", "transformers/vjepa2").stdout.split())
    assert "V-JEPA 2 (Assran et al. 2025) numbers of: V-JEPA 2 L, other networks have those of their config" in family
    assert "parameters: 303,885,312 GMACs: 5,785.321 for 64 frames of 256 px" in family
    assert "model: transformers/<folder>, weights: pretrained, taps: [norm]" in family
    assert "none has a name here, `pretrained` is what belongs to the name. The licence is" in family


def test_the_example_of_a_proposal_network_is_a_config() -> None:
    for name in ("tiny_rpn", "detectron2_fpn", "fasterrcnn_resnet50_fpn", "transformers/rt_detr"):
        example = yaml.safe_load(_example(known.network(name)))["proposals"]
        assert TypeAdapter(ProposalOptions).validate_python(example).source == example["source"]


def test_the_story_in_json_is_the_row_of_the_list(kinegraph: Command) -> None:
    rows = {row["name"]: row for row in json.loads(kinegraph("models", "--json").stdout)}
    row = json.loads(kinegraph("models", "mvit_v2_s", "--json").stdout)
    assert row == rows["mvit_v2_s"]
    last = row["taps"][-1]
    assert (last["shape"], last["tokens"], last["class_token"]) == ([8, 768, 7, 7], 392, "clip")
    assert (last["only_size"], last["only_frames"]) == (224, 16)
    assert row["pixels"]["std"] == [0.225] * 3


def test_no_fact_of_a_description_is_left_out() -> None:
    """A field that a description gets later stands in the row by itself."""
    for entry in CATALOGUE.values():
        row = known.network(entry.name)
        assert {field.name for field in fields(BackboneEntry)} - known.OTHER_WORDS <= row.keys()
        for tap, told in zip(entry.taps, row["taps"], strict=True):
            assert {field.name for field in fields(tap)} - known.TAP_OTHER_WORDS <= told.keys()
            assert told["shape"] == list(tap.shape(row["input"]["num_frames"], row["input"]["size"]))


@pytest.mark.parametrize("width", [80, 120])
def test_all_networks_fit(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for row in known.models():
        print_network(row)
        lines = capsys.readouterr().out.splitlines()
        assert max(len(line) for line in lines if "://" not in line) <= width, row["name"]
        assert all(tap["name"] in {line.split()[0] for line in lines if line} for tap in row["taps"])


def test_what_nobody_knows_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source = WeightSource(
        file_name="a.pth", licence="", path="a.pth", pixels=Pixels(mean=(0, 0, 0), std=(1, 1, 1), channel_order="BGR")
    )
    bare = replace(CATALOGUE["resnet18"], name="timm/bare", counts=None, weights={"a": source}, remarks=("It is new.",))
    monkeypatch.setattr(known, "entry", lambda name: bare)
    print_network(known.network("timm/bare"))
    told = " ".join(capsys.readouterr().out.split())
    assert "parameters: not counted, usual input: 1 frame of 224 px" in told
    assert "licence: unknown" in told
    assert "sha256: unknown, nothing is downloaded" in told
    assert "pixels: BGR from 0 to 1, mean 0 0 0, std 1 1 1" in told
    assert told.endswith("It is new.")
    hub = WeightSource(file_name="net", licence="", hub=HubFile(repository="timm/net", names=("model.safetensors",)))
    bare = replace(bare, weights={"pretrained": hub})
    print_network(known.network("timm/bare"))
    told = " ".join(capsys.readouterr().out.split())
    assert "sha256: unknown, nothing is downloaded timm/net on huggingface.co" in told
    print_network(known.network("tiny_i3d") | {"weights": []})
    assert "weights: none has a name here, give the path of a file. The licence is" in " ".join(
        capsys.readouterr().out.split()
    )


def test_names_that_nothing_has(kinegraph: Command) -> None:
    for arguments, words in (
        (["resnet5"], "models resnet5: no network has this name. Similar names: resnet50"),
        (["timm/no_such_model"], "models timm/no_such_model: "),
        (["transformers/no_such_folder"], "models transformers/no_such_folder: "),
        (["strg", "--heads"], "models strg: allowed without --heads"),
    ):
        told = kinegraph("models", *arguments)
        assert (told.exit_code, told.stdout) == (2, "")
        assert words in told.stderr
