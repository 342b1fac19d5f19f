"""Jobs of a batch system as workers: their scripts, and what is told where they are refused or bring no worker."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kinegraph.pipeline.clusters.dask import cluster as clusters
from kinegraph.pipeline.clusters.dask import jobs as dask_jobs
from kinegraph.pipeline.clusters.dask.checks import check_workers
from kinegraph.pipeline.clusters.dask.jobs import is_over, job_cluster
from kinegraph.pipeline.clusters.dask.workers import Workers
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ClusterError, ConfigError
from kinegraph.pipeline.machine.programs import tell_once

Load = Callable[..., Config]
JOBS = "run.dask.jobqueue={kind: slurm, jobs: 2, options: {cores: 4, memory: 4GB}}"
STARTS_AT_ONCE = """#!/bin/sh
cp "$1" "$0.$$"
python3 -c 'import os, sys; os.setsid(); os.execvp("sh", sys.argv[1:])' sh "$0.$$" > "$0.$$.log" 2>&1 &
echo "Submitted batch job $!"
"""
REFUSES = "#!/bin/sh\necho sbatch: error: invalid partition >&2\nexit 1\n"
TAKES = """#!/bin/sh
echo $$ >> "$0.jobs"
echo "Submitted batch job $$"
"""
KILLS = '#!/bin/sh\nkill -TERM -- "-$1"\n'
KNOWS_NONE = "#!/bin/sh\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts commands on the PATH; gives their folder."""
    folder = tmp_path / "bin"

    def put(**scripts: str) -> Path:
        for name, script in scripts.items():
            command = folder / name
            command.parent.mkdir(exist_ok=True)
            command.write_text(script)
            command.chmod(0o755)
        return folder

    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.chdir(tmp_path)
    return put


@pytest.mark.filterwarnings("ignore:.*Cluster.__del__")  # dask-jobqueue's own, half made
def test_what_dask_jobqueue_refuses(load: Load) -> None:
    run = load("run.dask.jobqueue={kind: slurm, options: {cores: 1}}").run
    with (
        pytest.raises(ClusterError, match=r"run.dask.jobqueue.options: given .*memory"),
        clusters.dask_client(run),
    ):
        pass


@pytest.mark.parametrize("kind", ["slurm", "pbs", "lsf", "sge"])
def test_job_scripts(load: Load, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch system's script starts one worker process, where the paths of the config mean something."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dask_jobqueue.core.JobQueueCluster.adapt", lambda *_, **__: None)
    options = "{cores: 8, memory: 2GB, job_script_prologue: [module load ffmpeg]}"
    jobs = f"run.dask.jobqueue={{kind: {kind}, options: {options}}}"
    run = load("run.executor=dask", jobs, "run.device=cuda", "run.walltime_seconds=5430").run
    assert run.dask.jobqueue is not None
    with job_cluster(run, run.dask.jobqueue, 4, gpu=True) as cluster:
        script = cluster.job_script()
        assert cluster.scheduler_address.startswith("tcp://127.0.0.1:")
    assert f"cd {tmp_path}\nexport DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False\nmodule load ffmpeg\n" in script
    assert "--resources GPU=1" in script
    assert script.rindex("--nthreads 4") > script.rindex("--nthreads 8"), "the last counts"
    assert "--nworkers" not in script
    assert ("01:31\n" if kind == "lsf" else "01:30:30\n") in script


def test_one_line_need_not_be_a_list(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_jobqueue.core.JobQueueCluster.adapt", lambda *_, **__: None)
    lines = "job_script_prologue: module load cuda, worker_extra_args: --preload x, job_extra_directives: --gres=gpu:1"
    jobs = f"run.dask.jobqueue={{kind: slurm, options: {{cores: 1, memory: 2GB, {lines}, job_directives_skip: --mem}}}}"
    run = load("run.executor=dask", jobs).run
    assert run.dask.jobqueue is not None
    with job_cluster(run, run.dask.jobqueue, 4, gpu=False) as cluster:
        script = cluster.job_script()
    assert "\nmodule load cuda\n" in script
    assert " --preload x " in script
    assert "\n#SBATCH --gres=gpu:1\n" in script
    assert "#SBATCH -n 1\n" in script
    assert "--mem=" not in script


def test_the_walltime_of_jobs_has_one_place(load: Load) -> None:
    jobs = "run.dask.jobqueue={kind: pbs, options: {walltime: '04:00:00'}}"
    with pytest.raises(ConfigError, match=r"options.walltime: given '04:00:00', allowed: run.walltime_seconds instead"):
        load("run.executor=dask", jobs)


def test_jobs_are_workers(load: Load, tmp_path: Path, slurm: Callable[..., Path]) -> None:
    """A batch system that starts each job at once, as a process."""
    slurm(sbatch=STARTS_AT_ONCE, scancel=KILLS)
    run = load("run.executor=dask", JOBS).run
    with clusters.dask_client(run) as client:
        check_workers(client, run)
        assert client.submit(os.getcwd).result(timeout=30) == str(tmp_path)


def test_a_job_that_is_refused(load: Load, slurm: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    slurm(sbatch=REFUSES)
    run = load("run.executor=dask", JOBS).run
    with (
        pytest.raises(ClusterError, match=r"slurm refused a job .*: sbatch: error: invalid partition$"),
        clusters.dask_client(run) as client,
    ):
        check_workers(client, run)
    assert "run.dask.interface is not set" in caplog.text
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


def test_jobs_that_end_and_bring_no_worker(
    load: Load, slurm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each is submitted anew; the third is enough."""
    monkeypatch.setattr(dask_jobs, "LOOK_EVERY_SECONDS", 0.2)
    monkeypatch.setattr("kinegraph.pipeline.clusters.dask.checks.LOOK_SECONDS", 0.1)
    commands = slurm(sbatch=TAKES, scancel=KNOWS_NONE, squeue=KNOWS_NONE)
    run = load("run.executor=dask", JOBS, "run.dask.interface=lo").run
    with (
        pytest.raises(
            ClusterError, match=rf"slurm job \d+ ended .* lies in {tmp_path}\. This happened 3 times in a row"
        ),
        clusters.dask_client(run) as client,
    ):
        check_workers(client, run)
    assert len((commands / "sbatch.jobs").read_text().split()) == 3


class Jobs:
    """Stands in for a cluster of the jobs a and b: which have a worker, and what those that were refused were told."""

    scheduler_address = "tcp://here"

    def __init__(self, *at_work: str, **refusals: str) -> None:
        self.workers = {
            name: SimpleNamespace(job_id=name, refusal=refusals.get(name, ""), log_directory=None) for name in "ab"
        }
        self.scheduler_info = {"workers": {f"tcp://{name}": {"name": name} for name in at_work}}
        self.again: list[list[str]] = []

    def sync(self, function: Callable[[list[str]], None], names: list[str]) -> None:
        function(names)

    def scale_down(self, names: list[str]) -> None:
        self.again.append(names)


@pytest.fixture
def workers_of(load: Load, monkeypatch: pytest.MonkeyPatch) -> Callable[[Jobs], Workers]:
    """Those of a cluster that had one; they and the jobs are looked at as often as one asks."""
    monkeypatch.setattr(dask_jobs, "LOOK_EVERY_SECONDS", 0)
    monkeypatch.setattr("kinegraph.pipeline.clusters.dask.workers.COUNT_WORKERS_SECONDS", 0)

    def workers(jobs: Jobs) -> Workers:
        client = SimpleNamespace(
            cluster=jobs,
            scheduler_info=lambda n_workers: {"address": jobs.scheduler_address},
            nthreads=lambda: jobs.scheduler_info["workers"],
        )
        return Workers(client, load("run.executor=dask", JOBS).run)  # type: ignore[arg-type]

    return workers


def test_a_refusal_while_there_is_work_may_be_for_the_moment(workers_of: Callable[[Jobs], Workers]) -> None:
    """As where a site takes one job at a time, and the last worker left; a worker in between starts the count anew."""
    jobs = Jobs("a", b="Socket timed out")
    workers, some = workers_of(jobs), jobs.scheduler_info["workers"]
    del jobs.workers["a"]
    for _ in range(2):
        workers.require()
        jobs.scheduler_info["workers"] = {}
        workers.require()
        workers.require()
        jobs.scheduler_info["workers"] = some
    assert jobs.again == [["b"]] * 4
    jobs.scheduler_info["workers"] = {}
    with pytest.raises(ClusterError, match=r"slurm refused a job .*: Socket timed out. This happened 3 times in a row"):
        workers.require()


def test_beside_a_job_that_waits_others_may_be_refused_for_ever(
    workers_of: Callable[[Jobs], Workers], slurm: Callable[..., Path]
) -> None:
    slurm(squeue="#!/bin/sh\necho PENDING\n")
    jobs = Jobs(b="one at a time")
    workers = workers_of(jobs)
    for _ in range(5):
        workers.require()
    assert jobs.again == [["b"]] * 5


def test_only_jobs_without_a_worker_are_asked_about(
    workers_of: Callable[[Jobs], Workers], slurm: Callable[..., Path], tmp_path: Path
) -> None:
    commands = slurm(squeue='#!/bin/sh\necho "$@" >> "$0.asked"\necho PENDING\n')
    workers_of(Jobs("a")).require()
    assert (commands / "squeue.asked").read_text() == "-h -o %T -j b\n"


@pytest.mark.parametrize(
    ("kind", "command", "says", "over"),
    [
        ("slurm", "squeue", "echo PENDING", False),
        ("slurm", "squeue", "true", True),
        ("slurm", "squeue", "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", True),
        ("slurm", "squeue", "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", False),
        ("pbs", "qstat", "echo qstat: 7.node Job has finished, use -x >&2; exit 35", True),
        ("pbs", "qstat", "echo 7.node STDIN me 0 Q batch", False),
        ("pbs", "qstat", "echo qstat: cannot connect to server >&2; exit 111", False),
        ("lsf", "bjobs", "echo PEND", False),
        ("lsf", "bjobs", "echo EXIT", True),
        ("sge", "qstat", "echo Following jobs do not exist: >&2; exit 1", True),
        ("sge", "qstat", "echo job_number: 7", False),
    ],
)
def test_whether_a_job_is_over(slurm: Callable[..., Path], kind: str, command: str, says: str, over: bool) -> None:
    slurm(**{command: f"#!/bin/sh\n{says}\n"})
    assert is_over(kind, "7") == over


@pytest.mark.parametrize(
    ("kind", "command"), [("slurm", "squeue"), ("pbs", "qstat"), ("lsf", "bjobs"), ("sge", "qstat")]
)
def test_nobody_to_ask(caplog: pytest.LogCaptureFixture, kind: str, command: str) -> None:
    tell_once.cache_clear()
    assert not is_over(kind, "7")
    assert not is_over(kind, "8")
    assert caplog.messages == [
        f"{command} is not on the PATH, so a job that ends without a worker is not noticed. Run this on a machine "
        "that submits jobs."
    ]


@pytest.mark.usefixtures("slurm")
def test_no_batch_system_here(load: Load) -> None:
    run = load("run.executor=dask", JOBS).run
    told = "slurm refused a job .*: sbatch is not on the PATH. Run this on a machine that submits jobs$"
    with pytest.raises(ClusterError, match=told), clusters.dask_client(run) as client:
        check_workers(client, run)


def test_a_job_that_cannot_be_ended_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Lasting:
        job_id, status = "71", None

        async def close(self) -> None:
            raise FileNotFoundError(2, "No such file or directory", "scancel")

    asyncio.run(dask_jobs._with_refusal(Lasting)().close())
    assert caplog.messages == ["scancel is not on the PATH, so job 71 goes on. End it by hand"]


def test_ctrl_c_stays_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask-jobqueue, when it is imported, makes it exit with 0."""
    for module in [name for name in sys.modules if name.partition(".")[0] == "dask_jobqueue"]:
        monkeypatch.delitem(sys.modules, module)
    before = signal.getsignal(signal.SIGINT)
    assert {*dask_jobs._cluster_classes()} == {"slurm", "pbs", "lsf", "sge"}
    assert signal.getsignal(signal.SIGINT) is before
