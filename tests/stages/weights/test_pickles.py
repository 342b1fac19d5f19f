"""Pickles of numpy arrays are read; anything else in them is refused by name before it runs."""

import os
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.errors import WeightsError
from stages.weights.files import read_pickle, read_state

ARRAYS = {
    "conv1_w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "lr": np.float32(0.1),
    "empty": np.zeros((0, 4), np.int64),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_containers_are_read_from_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {"blobs": OrderedDict(ARRAYS), "name": "r50", "steps": [1, (2.5, None)], "raw": b"\x00\xff"}
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_pickle(path)
    assert (found["name"], found["steps"], found["raw"]) == ("r50", [1, (2.5, None)], b"\x00\xff")
    assert all(np.array_equal(found["blobs"][name], array) for name, array in ARRAYS.items())


def test_arrays_that_numpy_1_wrote_under_python_2_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    written = pickle.dumps(ARRAYS, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(written)
    assert np.array_equal(read_pickle(path)["conv1_w"], ARRAYS["conv1_w"])


def test_a_pickle_of_arrays_is_a_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps({"model": ARRAYS, "__author__": "somebody"}))
    state = read_state(path)
    assert torch.equal(state["conv1_w"], torch.arange(6.0).view(2, 3))
    assert state["lr"].shape == ()


class Payload:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize(
    ("call", "named"),
    [(os.mkdir, "posix.mkdir"), (subprocess.getoutput, "subprocess.getoutput"), (eval, "builtins.eval")],
)
def test_a_payload_is_refused_by_name(tmp_path: Path, call: Any, named: str) -> None:
    path, made = tmp_path / "file.pkl", tmp_path / "ran"
    argument = {os.mkdir: str(made), subprocess.getoutput: f"mkdir {made}"}.get(
        call, f"__import__('os').mkdir('{made}')"
    )
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": Payload(call, argument)}}))
    with pytest.raises(WeightsError, match=rf"file.pkl: refused: the pickle asks for {named}"):
        read_state(path)
    assert not made.exists()


def test_other_encodings_than_latin1_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(ARRAYS | {"raw": b"\xff"}, protocol=2).replace(b"latin1", b"rot_13"))
    with pytest.raises(WeightsError, match="rot_13"):
        read_pickle(path)


@pytest.mark.parametrize("kept", [0, 1, 40, -1])
def test_a_damaged_pickle_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(ARRAYS)[:kept])
    with pytest.raises(WeightsError, match=r"file\.pkl"):
        read_pickle(path)


def test_an_array_of_objects_is_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps({"weight": np.array([{}, None], dtype=object)}))
    with pytest.raises(WeightsError, match=r"file.pkl.*weight"):
        read_state(path)
