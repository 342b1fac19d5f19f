"""Run an extraction whose process is killed in its first batch, once all shards that it pulled ahead are decoded.

Usage: python killed_while_computing.py CONFIG
"""

import os
import signal
import sys
import time
from typing import Any
from unittest.mock import patch

from kinegraph.cache_schemas.storages import open_storage
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.extraction.shard import ShardInProgress
from kinegraph.pipeline.shards.lease import live_leases

config = load_config(sys.argv[1])


def num_decoded() -> int:
    """Leases say twice that something changed: when decoding began, and when it was done."""
    return sum(lease.ahead and lease.refreshes >= 2 for lease in live_leases(open_storage(config.cache)))


def add(*arguments: Any) -> None:
    while num_decoded() < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


patch.object(ShardInProgress, "add", add).start()
extract(config)
