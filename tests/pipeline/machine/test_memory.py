import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kinegraph.pipeline.machine import memory


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of glibc's malloc before the test, and glibc's own thresholds after it."""
    for name in (*memory.VARIABLES, "GLIBC_TUNABLES"):
        monkeypatch.setenv(name, "")  # restored after the test, whether it is set now or not
        monkeypatch.delenv(name)
    monkeypatch.setattr(memory, "_keeps", False)
    change = memory._set
    yield
    change(memory.GLIBC_BYTES)


FREE_BYTES = """
import ctypes, numpy as np
from kinegraph.pipeline.machine import memory

class Mallinfo(ctypes.Structure):  # struct mallinfo2 of malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in [*"abcdefgh", "fordblks", "j"]]

def free_bytes() -> int:
    for _ in range(2):
        np.full(2**23, 1.0)
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo
    return mallinfo2().fordblks

memory.keep_freed_memory()
print(free_bytes())
with memory.without_kept_memory():
    print(free_bytes())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc from 2.33 on says what it keeps")
def test_freed_memory_is_kept(defaults: None) -> None:
    """A new process fills a block of 64 MiB twice, frees it, and prints the free bytes that malloc keeps."""
    output = subprocess.run([sys.executable, "-c", FREE_BYTES], capture_output=True, text=True, check=True).stdout
    kept, returned = map(int, output.split())
    assert kept >= 2**26 > 2**25 > returned


def test_children_keep_freed_memory(defaults: None) -> None:
    memory.keep_freed_memory()
    assert all(os.environ[name] == str(memory.KEPT_BYTES) for name in memory.VARIABLES)


@pytest.mark.parametrize(("name", "value"), [(memory.VARIABLES[0], "1000"), ("GLIBC_TUNABLES", "glibc.malloc.check=1")])
def test_own_settings_stay(defaults: None, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(memory, "_set", lambda thresholds: pytest.fail("the setting of the user is replaced"))
    memory.keep_freed_memory()
    with memory.without_kept_memory():
        pass
    assert os.environ.get(memory.VARIABLES[1]) is None
