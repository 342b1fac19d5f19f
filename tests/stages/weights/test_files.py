"""What torch.save writes: numpy's numbers beside the tensors are read, classes refused by name, damage is named."""

import datetime
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinegraph.stages.errors import WeightsError
from kinegraph.stages.weights.files import read_state

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


def repacked(path: Path, change: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive, with another pickle in it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, change(content) if name.endswith("/data.pkl") else content)
    return path


DEEP = b")" + b"\x85" * 2_000_000  # a tuple in a tuple in ...
WIDE = b")" + b"2\x86" * 40  # a tuple with itself twice, again and again: 2^40 tuples to go through
NESTED = {
    "a key": b"\x80\x02}" + DEEP + b"K\x01s.",
    "a key that takes for ever": b"\x80\x02}" + WIDE + b"K\x01s.",
    "a name of a storage": b"\x80\x02" + DEEP + b"Q.",
    "a key that a call makes": b"\x80\x02ccollections\nOrderedDict\n](" + DEEP + b"K\x01\x86e\x85R.",
    "a value": b"\x80\x02}K\x01" + DEEP + b"s.",
}


@pytest.mark.parametrize("content", NESTED.values(), ids=NESTED)
def test_tuples_in_tuples_do_not_end_the_process(tmp_path: Path, content: bytes) -> None:
    path = repacked(saved(tmp_path / "file.pth", STATE), lambda _: content)
    with pytest.raises(WeightsError, match=r"file\.pth: refused: the file holds a tuple with more than 1000 tuples"):
        read_state(path)


@pytest.mark.parametrize("part", range(5))
def test_tuples_in_tuples_of_an_old_file(tmp_path: Path, part: int) -> None:
    pickles = [b"\x80\x02K\x01."] * 5
    pickles[part] = NESTED["a key"]
    path = tmp_path / "file.pth"
    path.write_bytes(b"".join(pickles))
    with pytest.raises(WeightsError, match=r"file\.pth: refused: the file holds a tuple with more than 1000 tuples"):
        read_state(path)


def test_tuples_as_keys_and_packed_archives_are_read(tmp_path: Path) -> None:
    content = {"model": STATE, "seen": {(1, ("a", 2)): 3}, "random": random.Random(0).getstate(), "set": {1, 2}}
    path = repacked(saved(tmp_path / "file.pth", content), lambda pickled: pickled, zipfile.ZIP_DEFLATED)
    assert torch.equal(read_state(path)["conv1.weight"], STATE["conv1.weight"])


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", STATE)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 0xF0000000)
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"file\.pth: .* bytes would unpack to 40265\d+\. The limit is 1 GiB"):
        read_state(path)


def test_one_value_that_stands_for_petabytes(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pth", {"small": torch.ones(1).expand(64), "huge": torch.ones(1).expand(1 << 48)})
    with pytest.raises(WeightsError, match=r"file\.pth: huge: 4 bytes would unpack to 1125899906842624"):
        read_state(path)
