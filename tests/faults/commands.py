"""Runs kinegraph's commands in forked children, which may be hurt.

Everything slow is imported once, also what a command imports late: torchvision takes 3 seconds, pandas one.

Reads requests from stdin, a JSON document per line, and answers each with two: `pid` once the child runs; then `code`
(negative: the signal that ended it), `said`, its stderr, and `told`, its stdout. Keys of a request:

    arguments       of the command line
    environment     variables of the child
    script          the child runs this file with the arguments, not kinegraph
    strike          [signal, operation, pattern, n]: it sends itself the signal before the n-th of OPERATIONS on a path
                    that matches; for a file that is put they are write, fsync, replace, and fsync of its folder
    again           the signal is sent once more, a moment later, and the operation never ends
    after_seconds   SIGKILL comes after so much time
    limit_bytes     no file may grow larger
    user            the child runs as this user
"""

import encodings.utf_8_sig  # noqa: F401  (as pydoc below: configs are read by it)
import fnmatch
import gc
import itertools
import json
import os
import pydoc  # noqa: F401  (imported late by a library, when another user may not be able to read it)
import resource
import runpy
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import fsspec
import pandas as pd  # type: ignore[import-untyped]  # noqa: F401  (imported late by pyarrow)
import pyarrow.dataset  # noqa: F401
import typer.rich_utils  # noqa: F401  (imported late by typer, for help and wrong usage)

import kinegraph.cache_schemas.files
import kinegraph.cache_schemas.hdf5_shards
import kinegraph.cache_schemas.reader
import kinegraph.pipeline.caches.indexing
import kinegraph.pipeline.caches.verification
import kinegraph.pipeline.extraction.executors.inline
import kinegraph.pipeline.extraction.executors.local
import kinegraph.pipeline.extraction.feed
import kinegraph.pipeline.extraction.run
import kinegraph.pipeline.status
import kinegraph.pipeline.training.table
import kinegraph.pipeline.upgrading.upgrade
import kinegraph.stages.backbones.run
import kinegraph.stages.proposals.run
import kinegraph.stages.regions.run
from kinegraph.cache_schemas.files import Buffer
from kinegraph.cli.app import main
from kinegraph.pipeline.machine.versions import versions

REQUEST_SECONDS = 60


def descriptor_path(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def write_in_halves(target: Path, parts: Iterable[Buffer]) -> tuple[Path, int, str]:
    """`_write_temporary` that comes by `half_written` in the middle of each part."""

    def halves() -> Iterator[memoryview]:
        for part in parts:
            view = memoryview(part).cast("B")
            yield view[: len(view) // 2]
            half_written(target)
            yield view[len(view) // 2 :]

    return really_write(target, halves())


def half_written(target: Path) -> None:
    """Where the operation `write` strikes."""


really_write = kinegraph.cache_schemas.files._write_temporary
OPERATIONS: dict[str, tuple[Any, str, Callable[..., object]]] = {
    "decode": (kinegraph.pipeline.extraction.feed, "decode_clips", lambda path, *_: path),
    "write": (sys.modules[__name__], "half_written", lambda target: target),
    "fsync": (os, "fsync", descriptor_path),
    "replace": (os, "replace", lambda source, target: target),
    "link": (os, "link", lambda source, target: target),
    "unlink": (os, "unlink", lambda path: path),
}


def strike(sent: str, operation: str, pattern: str, count: int, *, again: bool) -> None:
    """Arm this process."""
    module, name, path_of = OPERATIONS[operation]
    really, calls = getattr(module, name), itertools.count(1)

    def call(*arguments: Any) -> Any:
        if fnmatch.fnmatch(str(path_of(*arguments)), pattern) and next(calls) == count:
            os.kill(os.getpid(), signal.Signals[sent])
            if again:
                time.sleep(0.5)
                os.kill(os.getpid(), signal.Signals[sent])
                time.sleep(REQUEST_SECONDS)
        return really(*arguments)

    setattr(module, name, call)
    kinegraph.cache_schemas.files._write_temporary = write_in_halves


def child(request: dict[str, Any], stdout: IO[bytes], stderr: IO[bytes]) -> None:
    os.dup2(stdout.fileno(), 1)
    os.dup2(stderr.fileno(), 2)
    os.environ.clear()
    os.environ.update(request["environment"])
    fsspec.config.conf.clear()
    fsspec.config.set_conf_env(fsspec.config.conf)  # it read its variables when it was imported
    if "strike" in request:
        strike(*request["strike"], again=request.get("again", False))
    if "limit_bytes" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit_bytes"],) * 2)
    if "user" in request:
        os.setuid(request["user"])
    sys.argv = [request.get("script", "kinegraph"), *request["arguments"]]
    if "script" in request:
        runpy.run_path(request["script"], run_name="__main__")
    else:
        main()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        pid = os.fork()
        if pid == 0:
            end(request, stdout, stderr)
        print(json.dumps({"pid": pid}), flush=True)
        if "after_seconds" in request:
            time.sleep(request["after_seconds"])
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        stdout.seek(0)
        stderr.seek(0)
        return {"code": code, "said": stderr.read().decode(), "told": stdout.read().decode()}


def end(request: dict[str, Any], stdout: IO[bytes], stderr: IO[bytes]) -> NoReturn:
    """Run what is asked for, and end this process."""
    gc.freeze()
    gc.enable()
    del sys.modules["__main__"].__file__  # processes that a command spawns would import all that is imported here
    code = 0
    try:
        child(request, stdout, stderr)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    versions()  # once: the revision of a checkout may change while tests run
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
    os._exit(0)  # taking apart what is imported takes a second
