"""Processes that tests start by spawn are forked from a server that has loaded torch, which costs seconds of CPU.

A process gets its call pickled and this process's environment, as by spawn, and modules that it has not loaded itself.
Commands in processes of their own, such as those of the fixture `run`, spawn their workers anew.
"""

import gc
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import popen_forkserver
from multiprocessing.context import SpawnProcess
from typing import Any
from unittest.mock import patch

import fsspec

LOADED = (
    "tests.without_collection",
    "distributed",
    "kinegraph.cli.app",
    "kinegraph.pipeline.extraction.executors.inline",
    "kinegraph.pipeline.training.table",
    "kinegraph.stages.backbones.run",
    "kinegraph.stages.proposals.run",
    "kinegraph.stages.regions.run",
)


def install() -> None:
    """Make spawn what the first lines say, in this process."""
    multiprocessing.set_forkserver_preload([*LOADED])
    patch.object(SpawnProcess, "_Popen", staticmethod(_forked)).start()


def _forked(process: Any) -> popen_forkserver.Popen:
    process._args = (dict(os.environ), process._target, process._args)
    process._target = _call
    return popen_forkserver.Popen(process)


def _call(
    environment: dict[str, str], target: Callable[..., object], arguments: tuple[Any, ...], **keywords: Any
) -> None:
    gc.freeze()
    gc.enable()
    os.environ.clear()
    os.environ.update(environment)
    fsspec.config.conf.clear()
    fsspec.config.set_conf_env(fsspec.config.conf)  # it read its variables when it was imported
    target(*arguments, **keywords)
