"""Which device a process takes."""

import pytest

from stages.device import share_of_devices


@pytest.mark.parametrize(
    ("name", "num_cuda", "expected"),
    [
        ("auto", 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0"]),
        ("cuda", 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]),
        ("auto", 0, ["auto"] * 5),
        ("cuda", 0, ["cuda"] * 5),
        ("cuda:1", 4, ["cuda:1"] * 5),
        ("cpu", 4, ["cpu"] * 5),
    ],
)
def test_processes_take_turns(name: str, num_cuda: int, expected: list[str]) -> None:
    assert [share_of_devices(name, number, num_cuda) for number in range(5)] == expected
