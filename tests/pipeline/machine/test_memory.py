import os
import platform
import resource
from collections.abc import Iterator

import numpy as np
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


def faults_of_a_second_block() -> int:
    """Fills a block of 64 MiB, frees it, and returns the page faults of filling another one."""
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.full(2**23, 1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_used_again(defaults: None) -> None:
    memory.keep_freed_memory()
    kept = faults_of_a_second_block()
    with memory.without_kept_memory():
        returned = faults_of_a_second_block()
    assert kept < returned / 10
    assert all(os.environ[name] == str(memory.KEPT_BYTES) for name in memory.VARIABLES)  # for workers


@pytest.mark.parametrize(("name", "value"), [(memory.VARIABLES[0], "1000"), ("GLIBC_TUNABLES", "glibc.malloc.check=1")])
def test_own_settings_stay(defaults: None, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(memory, "_set", lambda thresholds: pytest.fail("the setting of the user is replaced"))
    memory.keep_freed_memory()
    with memory.without_kept_memory():
        pass
    assert os.environ.get(memory.VARIABLES[1]) is None
