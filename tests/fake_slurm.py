"""sbatch, squeue, sacct, scontrol and scancel that run array scripts as processes of this machine.

Installed as executables of those names by `install`; state lies in the folder of the environment's FAKE_SLURM:

    jobs/<id>/<index>   SLURM's word for the task's state and its exit code
    lost                indexes, one a line, of tasks of the next job that end as NODE_FAIL without having run
    no_accounting       sacct fails, as without a database
    forgets             the controller knows nothing of tasks that ended, as some minutes after
    no_answer           nothing answers
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

NAMES = ("sbatch", "squeue", "sacct", "scontrol", "scancel")


def install(folder: Path) -> None:
    """Executables for the PATH."""
    folder.mkdir()
    for name in NAMES:
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {name} "$@"\n')
        path.chmod(0o755)


def home() -> Path:
    return Path(os.environ["FAKE_SLURM"])


def sbatch(arguments: list[str]) -> None:
    script = Path(arguments[-1])
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script.read_text(), re.M))
    if options.get("partition") == "none":
        sys.exit("sbatch: error: invalid partition specified: none")
    (home() / "jobs").mkdir(exist_ok=True)
    job = home() / "jobs" / str(len(list((home() / "jobs").iterdir())) + 1)
    job.mkdir()
    lost = home() / "lost"
    gone = lost.read_text().split() if lost.exists() else []
    lost.unlink(missing_ok=True)
    for index in range(int(options["array"].partition("%")[0].partition("-")[2]) + 1):
        (job / str(index)).write_text("NODE_FAIL 0" if str(index) in gone else "PENDING 0")
    if os.fork() == 0:
        os.setsid()
        for stream in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)
        control(job, script, options)
        os._exit(0)
    print(job.name)


def control(job: Path, script: Path, options: dict[str, str]) -> None:
    """Run all tasks that wait, side by side, until they end."""
    (job / "controller").write_text(str(os.getpid()))
    running = {}
    for path in sorted(job.glob("[0-9]*")):
        if path.read_text() == "PENDING 0":
            environment = os.environ | {"SLURM_ARRAY_TASK_ID": path.name, "SLURM_JOB_ID": f"{job.name}{path.name}"}
            with Path(options["output"].replace("%a", path.name)).open("ab") as log:
                process = subprocess.Popen(
                    ["sh", script], stdout=log, stderr=log, cwd=options["chdir"], env=environment
                )
            path.write_text("RUNNING 0")
            running[path] = process
    for path, process in running.items():
        code = process.wait()
        path.write_text("COMPLETED 0" if code == 0 else f"FAILED {code}" if code > 0 else "CANCELLED 0")


def tasks(job: str) -> list[tuple[str, str, str]]:
    found = [(path.name, *path.read_text().split()) for path in sorted((home() / "jobs" / job).glob("[0-9]*"))]
    return [(index, state, code) for index, state, code in found if index.isdigit()]


def squeue(arguments: list[str]) -> None:
    job = arguments[arguments.index("-j") + 1]
    for index, state, _ in tasks(job):
        if state in ("PENDING", "RUNNING"):
            print(f"{job}_{index}|{state}|0:0")


def sacct(arguments: list[str]) -> None:
    if (home() / "no_accounting").exists():
        sys.exit("Slurm accounting storage is disabled")
    job = arguments[arguments.index("-j") + 1]
    for index, state, code in tasks(job):
        print(f"{job}_{index}|{state}|{code}:0")


def scontrol(arguments: list[str]) -> None:
    job = arguments[-1]
    known = tasks(job)
    if (home() / "forgets").exists():
        known = [task for task in known if task[1] in ("PENDING", "RUNNING")]
    if not known:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    for index, state, code in known:
        print(f"JobId={job}{index} ArrayJobId={job} ArrayTaskId={index} JobState={state} ExitCode={code}:0")


def scancel(arguments: list[str]) -> None:
    """Of waiting tasks there are none: all run at once."""


def stop_all(folder: Path) -> None:
    """End what a test left running."""
    for path in folder.glob("jobs/*/controller"):
        try:
            os.killpg(int(path.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    if (home() / "no_answer").exists():
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    globals()[sys.argv[1]](sys.argv[2:])
