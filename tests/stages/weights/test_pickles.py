"""Pickles of numpy arrays are read; anything else in them is refused by name before it runs."""

import os
import pickle
import random
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinegraph.stages.errors import WeightsError
from kinegraph.stages.weights.files import read_state
from kinegraph.stages.weights.pickles import read_pickle

ARRAYS: dict[str, Any] = {
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


# numpy.dtype("O8") whose state clears the flags that say it holds pointers; then scalar(dtype, 8 raw bytes)
FOLLOWED = b"".join(
    [
        b"\x80\x02}X\x01\x00\x00\x00wcnumpy.core.multiarray\nscalar\n",
        b"cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R",
        b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        b"C\x08\x10\x32\x54\x76\x98\xba\xdc\x0e\x86Rs.",
    ]
)
READ_THEM = """
import sys
from pathlib import Path
from kinegraph.stages.weights.files import WeightsError, read_state

for path in map(Path, sys.argv[1:]):
    print(path.name, flush=True)
    try:
        read_state(path)
    except WeightsError as error:
        print(error, flush=True)
"""


def test_no_file_ends_the_process(tmp_path: Path) -> None:
    """A pointer in a file is never followed; keys may be nested to any depth."""
    codes = ("O8", "V8", "M8", "S8")
    cases = {tmp_path / f"{code}.pkl": FOLLOWED.replace(b"O8", code.encode()) for code in codes}
    words = [f"{path}: refused: the pickle holds values of type {path.stem!r}" for path in cases]
    cases[tmp_path / "deep.pkl"] = b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s."
    for path, content in cases.items():
        path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", READ_THEM, *map(str, cases)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.returncode} after {done.stdout.splitlines()[-1:]}"
    for line in (*words, "refused: the pickle holds a key that is a tuple"):
        assert line in done.stdout


@pytest.mark.parametrize("dtype", [">f4", ">i8", "<f4", "?", ">f2"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_of_any_byte_order_are_read(tmp_path: Path, dtype: str, protocol: int) -> None:
    path, array = tmp_path / "file.pkl", np.arange(6).reshape(3, 2).astype(dtype)
    content = {"w": array, "t": array.T, "x": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2), "s": array[1, 1]}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_state(path)
    for name, value in content.items():
        assert np.array_equal(found[name].numpy(), value)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ((1, (2**60, 2**60), np.dtype("f4"), False, b"abcd"), "4 bytes for an array of float32"),
        ((1, (-1,), np.dtype("f4"), False, b"abcd"), "an array of shape"),
        ((1, (1,), np.dtype("f8"), False, b"abcd"), "4 bytes for an array of float64"),
        ((1, (1,), np.dtype("f4"), False, [1.0]), "made from list"),
        ((1, (1,), np.dtype([("a", "f4")]), False, b"abcd"), "values of type 'V4'"),
    ],
)
def test_an_array_has_the_bytes_that_its_shape_needs(tmp_path: Path, state: Any, words: str) -> None:
    class Array:
        def __reduce__(self) -> Any:
            return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state

    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps({"w": Array()}))
    with pytest.raises(WeightsError, match=words):
        read_state(path)


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_changed_byte_is_read_or_refused(tmp_path: Path, protocol: int) -> None:
    rng, path, refused = random.Random(0), tmp_path / "file.pkl", 0
    content = pickle.dumps(ARRAYS | {"name": "r50", "tuple": (1, [2, {"a": 3}])}, protocol=protocol)
    for _ in range(400):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.choice(
                [*pickle.__dict__["_Unpickler"].dispatch, rng.randrange(256)]
            )
        path.write_bytes(changed)
        try:
            read_pickle(path)
        except WeightsError:
            refused += 1
    assert 100 < refused < 400


def test_a_refusal_names_the_file_that_torch_reads(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"weight": np.array([{}, None], dtype=object)}, path)
    with pytest.raises(WeightsError, match=r"file.pth: refused: the pickle holds values of type 'O8'"):
        read_state(path)


def test_an_array_of_objects_is_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps({"weight": np.array([{}, None], dtype=object)}))
    with pytest.raises(
        WeightsError, match=r"file.pkl: refused: the pickle holds values of type 'O8', and only numbers"
    ):
        read_state(path)
