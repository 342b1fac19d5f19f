"""SLURM's own daemons on this machine, for one test session: a controller and a node, without accounting."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
WAIT_SECONDS = 30


class CannotRun(RuntimeError):
    """Why there is no SLURM here."""


@contextmanager
def running(folder: Path) -> Iterator[Path]:
    """The path of a slurm.conf whose daemons run until the end. Raises CannotRun."""
    for name in ("munged", "slurmctld", "slurmd", "sbatch"):
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            raise CannotRun(f"{name} is not installed (apt-get install slurm-wlm munge)")
    if os.getuid():
        raise CannotRun("its daemons need root")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    names = {"host": socket.gethostname(), "folder": folder, "ctld_port": _free_port(), "d_port": _free_port()}
    config.write_text(CONFIG.format(**names))
    munge = _start_munge()
    environment = os.environ | {"SLURM_CONF": str(config)}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for daemon in ("slurmctld", "slurmd"):
            started.append(subprocess.Popen([f"/usr/sbin/{daemon}", "-D", "-f", str(config)], env=environment))
        _wait_for_node(environment, folder)
        yield config
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(WAIT_SECONDS)
        if munge is not None:
            munge.terminate()
            munge.wait(WAIT_SECONDS)


def _start_munge() -> subprocess.Popen[bytes] | None:
    """munged in its usual place, unless it runs there already."""
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return None
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    process = subprocess.Popen(
        ["/usr/sbin/munged", "--foreground"], user="munge", group="munge", stderr=subprocess.DEVNULL
    )
    _wait(lambda: subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0, "munged")
    return process


def _wait_for_node(environment: dict[str, str], folder: Path) -> None:
    def is_idle() -> bool:
        command = ["sinfo", "-h", "-o", "%t"]
        said = subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout
        return said.strip() == "idle"

    _wait(is_idle, f"slurmctld and slurmd (logs in {folder})")


def _wait(happened: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + WAIT_SECONDS
    while not happened():
        if time.monotonic() > limit:
            raise CannotRun(f"{what} did not come up within {WAIT_SECONDS} s")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
