"""What torch.save writes: numpy's numbers beside the tensors are read, classes refused by name, damage is named."""

import datetime
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.errors import WeightsError
from stages.weights.files import read_state

STATE = {"conv1.weight": torch.arange(6.0).view(2, 3), "bn1.bias": torch.ones(3)}
forms = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before torch 1.6"])


def saved(path: Path, content: Any, is_zip: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


@forms
@pytest.mark.parametrize(
    "best",
    [np.float64(3), np.float32(3), np.int64(3), np.bool_(True), np.arange(3.0), np.zeros((0, 2), np.float16)],
    ids=lambda value: f"{type(value).__name__}-{value.dtype}",
)
def test_numbers_and_arrays_of_numpy_may_stand_beside_the_tensors(tmp_path: Path, best: Any, is_zip: bool) -> None:
    path = saved(tmp_path / "file.pth", {"model": STATE, "best": best, "epoch": 3}, is_zip)
    before = torch.serialization.get_safe_globals()
    assert torch.equal(read_state(path)["conv1.weight"], STATE["conv1.weight"])
    assert {*torch.serialization.get_safe_globals()} == {*before}


def test_numbers_that_numpy_1_wrote(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", STATE | {"lr": np.float32(0.1)}, is_zip=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_state(path)["lr"] == np.float32(0.1)


@forms
def test_any_other_class_is_refused_by_name(tmp_path: Path, is_zip: bool) -> None:
    path = saved(tmp_path / "file.pth", STATE | {"when": datetime.date(2026, 1, 1)}, is_zip)
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    assert str(caught.value) == (
        f"{path}: refused: the file asks for datetime.date, and only tensors, numpy arrays and plain containers "
        "are read"
    )


@pytest.mark.parametrize("name", ["file.pth", "file.pkl"])
def test_keys_have_to_be_names(tmp_path: Path, name: str) -> None:
    labels = {number: np.float32(number) for number in range(3)}
    path = tmp_path / name
    torch.save(labels, path) if name == "file.pth" else path.write_bytes(pickle.dumps(labels))
    with pytest.raises(WeightsError, match=rf"{name}: expected a state dict \(names and their arrays\)"):
        read_state(path)


def test_what_was_found_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", {"net": STATE, "epoch": 3})
    with pytest.raises(WeightsError, match=r"under one of .*; found net, epoch$"):
        read_state(path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_wrappers_of_training_leave_their_prefix(tmp_path: Path, prefix: str) -> None:
    path = saved(tmp_path / "file.pth", {prefix + name: tensor for name, tensor in STATE.items()})
    assert read_state(path).keys() == STATE.keys()


def test_torchscript_is_code(tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "file.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"net/{name}", b"")
    with pytest.raises(WeightsError, match=r"file\.pt: refused: a TorchScript archive holds code"):
        read_state(path)


@forms
def test_a_damaged_file_is_named_without_torchs_advice(tmp_path: Path, is_zip: bool) -> None:
    """Cut off anywhere, or with bytes that changed: the tensors are read, or the file is named."""
    path = saved(tmp_path / "file.pth", STATE, is_zip)
    content, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(400):
        place = rng.randrange(len(content))
        rest = content[place + 1 :] if rng.random() < 0.5 else b""
        path.write_bytes(content[:place] + struct.pack("B", rng.randrange(256)) + rest)
        try:
            read_state(path)
        except WeightsError as error:
            refused += 1
            problem = str(error).removeprefix(f"{path}: ")
            if problem == str(error) or "weights_only=False" in problem or "\033" in problem:
                pytest.fail(problem)
    assert refused > 200
