"""A job array seals what is missing, whatever becomes of its tasks; a command that is left finds its array again."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline import slurm_task
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import WorkUnit, make_plan
from kinegraph.pipeline.clusters.slurm import submission as slurm_submission
from kinegraph.pipeline.clusters.slurm.script import array_script
from kinegraph.pipeline.clusters.slurm.states import ArrayState, TaskState
from kinegraph.pipeline.clusters.slurm.submission import Submission, Work, _job_id, submissions, submit
from kinegraph.pipeline.config import Config, load_config
from kinegraph.pipeline.errors import ProgramMissing, SlurmError
from kinegraph.pipeline.extraction.events import ClipsDone, Event, UnitSealed, UnitSealedElsewhere
from kinegraph.pipeline.extraction.executors import slurm
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.executors.inline import InlineExecutor
from kinegraph.pipeline.extraction.executors.slurm import SlurmExecutor, unsealed
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.extraction.worker import Worker
from kinegraph.pipeline.machine.programs import tell_once
from kinegraph.pipeline.shards.leases import Leases
from kinegraph.pipeline.slurm_task import parts_from, run_task, tell_completion
from kinegraph.pipeline.status import status
from kinegraph.stages.errors import UsageError
from tests.caches import same_bytes

Load = Callable[..., Config]
SLURM = ("run.executor=slurm", "run.workers=2")


def job_of(config: Config) -> Job:
    cache = Cache(config.cache)
    plan = make_plan(config, cache)
    return Job(config=config, cache=cache, keys=plan.keys, units=plan.units)


def indexed(load: Load, *overrides: str) -> Job:
    config = load(*SLURM, *overrides)
    index(config)
    return job_of(config)


def unheard(event: Event) -> None: ...


def test_tasks_do_the_work_of_one_that_never_ran(load: Load, fake: Path, whole: Cache) -> None:
    """Real processes: of two tasks one is lost with its node; the bytes are those of one thread here."""
    (fake / "lost").write_text("1")
    job = indexed(load)
    outcome = extract(job.config)
    assert (outcome.clips_run, outcome.failures) == (6, ())
    assert same_bytes(job.cache.root) == same_bytes(whole.root)
    (told,) = status(job.cache)["jobs"]
    assert {state: count for state, count in told["tasks"].items() if count} == {"done": 1, "failed": 1}
    assert told["failed"] == [{"task": 1, "state": "failed", "detail": "NODE_FAIL", "log": []}]
    assert (told["kind"], told["job_id"]) == ("extract", "1")
    assert json.loads((Path(told["folder"]) / "ended-0.json").read_text()) == {"exit_code": 0}


class InThisProcess:
    """Stands in for sbatch: an array that ends at once, of tasks that are functions of its work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[Job, Work], TaskState]) -> None:
        self.works: list[Work] = []
        self.job: Job | None = None

        def submitted(config: Config, work: Work) -> Submission:
            assert self.job is not None
            self.works.append(work)
            ended = act(self.job, work)
            tasks = dict.fromkeys(range(work.num_tasks), ended)
            monkeypatch.setattr(Submission, "state", lambda self: ArrayState(tasks=tasks, answered=True))
            folder = Path(config.cache, "slurm")
            return Submission(
                name="one", kind="extract", job_id="1", folder=folder, num_tasks=work.num_tasks, submitted_at=""
            )

        monkeypatch.setattr(slurm, "submit", submitted)


@pytest.mark.parametrize("has_ended", [False, True])
def test_an_array_that_an_older_version_queued_is_submitted_again(
    load: Load,
    fake: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: Cache,
    caplog: pytest.LogCaptureFixture,
    has_ended: bool,
) -> None:
    """Its tasks run the module `cli`, which is there no more, and say so, before the command or during it."""
    job = indexed(load, "run.workers=1")
    with monkeypatch.context() as patch:
        older = partial(_replaced, array_script)
        patch.setattr(slurm_submission, "array_script", older)
        queued = submit(job.config, Work(kind="extract", num_tasks=1, keys=job.keys, units=job.units))
    task = fake / "jobs" / queued.job_id / "0"
    while not task.read_text().startswith("FAILED"):
        time.sleep(0.05)
    if not has_ended:
        task.write_text("RUNNING 0")

        def fails(seconds: float) -> None:
            task.write_text("FAILED 1")
            time.sleep(seconds)

        monkeypatch.setattr(stopping, "sleep", fails)
    assert extract(job.config).clips_run == 6
    assert ("This command submits another job array" in caplog.text) == (not has_ended)
    assert same_bytes(job.cache.root) == same_bytes(whole.root)
    assert "No module named cli" in (queued.folder / "log-0.txt").read_text()
    assert len(submissions(job.cache.storage)) == 2


def _replaced(script: Callable[..., str], *arguments: Any, **options: Any) -> str:
    return script(*arguments, **options).replace("-m kinegraph", "-m cli")


def test_what_is_left_is_submitted_again(
    load: Load, monkeypatch: pytest.MonkeyPatch, whole: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    """Each array seals one unit. The last needs one task only."""
    tell_once.cache_clear()

    def one_unit(job: Job, work: Work) -> TaskState:
        InlineExecutor().run(replace(job, units=work.units[:1]), unheard)
        return TaskState(state="stopped", exit_code=75)

    array = InThisProcess(monkeypatch, one_unit)
    array.job = indexed(load)
    heard: list[Event] = []
    SlurmExecutor().run(array.job, heard.append)
    assert [len(work.units) for work in array.works] == [3, 2, 1]
    assert [work.num_tasks for work in array.works] == [2, 2, 1]
    assert sum(event.clips for event in heard if isinstance(event, ClipsDone)) == 6
    assert [event.unit.shard for event in heard if isinstance(event, UnitSealed)] == [0, 1, 2]
    assert same_bytes(array.job.cache.root) == same_bytes(whole.root)
    told = [words for words in caplog.messages if words.startswith("scancel is not on the PATH")]
    assert len(told) == 1, "the work is done all the same"
    assert told[0].endswith("`scancel --state=PENDING 1` removes them.")


def test_an_array_that_nobody_can_ask_about_is_not_watched_for_ever(load: Load) -> None:
    job = indexed(load)
    _recorded(job, Work(kind="extract", num_tasks=1, keys=job.keys, units=job.units))
    told = "SLURM job 1 may still run: sacct is not on the PATH, .* Run this on a machine that submits jobs"
    with pytest.raises(ProgramMissing, match=told):
        SlurmExecutor().run(job, unheard)


@pytest.mark.parametrize("does_one", [False, True])
def test_what_would_end_the_same_again_is_not_submitted(
    load: Load, monkeypatch: pytest.MonkeyPatch, does_one: bool
) -> None:
    """No shard was sealed; or one was, but a walltime is too short: exit code 2."""

    def act(job: Job, work: Work) -> TaskState:
        (Path(job.cache.root) / "slurm").mkdir()
        (Path(job.cache.root) / "slurm" / "log-0.txt").write_text("error: what was wrong\n")
        if does_one:
            InlineExecutor().run(replace(job, units=work.units[:1]), unheard)
        return TaskState(state="failed", detail="exit code 2", exit_code=2 if does_one else 1)

    array = InThisProcess(monkeypatch, act)
    array.job = indexed(load)
    sealed = int(does_one)
    ended = rf"ended with {counted(sealed, 'shard')} sealed and {3 - sealed} left"
    expected = rf"{ended}(.|\n)*log-0.txt ends with\nerror: what was wrong"
    with pytest.raises(SlurmError, match=expected):
        SlurmExecutor().run(array.job, unheard)
    assert len(array.works) == 1


def test_the_same_command_watches_an_array_under_way(load: Load, fake: Path) -> None:
    """As after Ctrl-C: the array that waits is not submitted a second time."""
    job = indexed(load)
    work = Work(kind="extract", num_tasks=1, keys=job.keys, units=job.units)
    jobs = fake / "jobs" / "1"
    jobs.mkdir(parents=True)
    (jobs / "0").write_text("RUNNING 0")
    submission = _recorded(job, work)
    polls = 0

    def ends(seconds: float) -> None:
        nonlocal polls
        polls += 1
        run_task(submission.folder, 0)
        (jobs / "0").write_text("COMPLETED 0")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kinegraph.cache_schemas.stopping.sleep", ends)
        SlurmExecutor().run(job, unheard)
    assert polls == 1
    assert [path.name for path in (fake / "jobs").iterdir()] == ["1"]
    assert not unsealed(job.cache, job.units)


def test_an_array_that_did_all_is_over_whatever_slurm_says(load: Load, fake: Path) -> None:
    """Accounting still calls both tasks running. They say that they ended, one out of time, and all is sealed."""
    job = indexed(load)
    jobs = fake / "jobs" / "1"
    jobs.mkdir(parents=True)
    submission = _recorded(job, Work(kind="extract", num_tasks=2, keys=job.keys, units=job.units))
    for task, exit_code in enumerate((0, 75)):
        (jobs / str(task)).write_text("RUNNING 0")
        tell_completion(submission.folder, task, exit_code)
    polls: list[float] = []

    def sealed_meanwhile(seconds: float) -> None:
        polls.append(seconds)
        InlineExecutor().run(job, unheard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kinegraph.cache_schemas.stopping.sleep", sealed_meanwhile)
        SlurmExecutor().run(job, unheard)
    assert len(polls) == 1
    assert [path.name for path in (fake / "jobs").iterdir()] == ["1"]


BANNER = "Welcome to the 2 clusters of our site\nSee https://help\n"


@pytest.mark.parametrize("said", ["12\n", "12;main\n", f"{BANNER}12\n", f"12;main\n{BANNER}", "12\n12\n"])
def test_the_job_id_is_known_by_its_form(said: str) -> None:
    assert _job_id(said, Path("script.sh")) == "12"


@pytest.mark.parametrize("said", ["", BANNER, "12\n13\n", "Submitted batch job 12\n", "-12\n"])
def test_an_answer_without_a_clear_job_id_is_an_error(said: str) -> None:
    with pytest.raises(SlurmError, match="should have one job id, a line of digits") as told:
        _job_id(said, Path("script.sh"))
    assert repr(said.strip()) in str(told.value)


def test_a_task_without_the_gpu_that_was_asked_for_ends_in_words(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    job = indexed(load, "run.slurm.gpus=1")
    submission = _recorded(job, Work(kind="extract", num_tasks=1, keys=job.keys, units=job.units))
    with pytest.raises(UsageError, match=r"run\.slurm\.gpus: 1 on node"):
        run_task(submission.folder, 0)
    assert unsealed(job.cache, job.units) == [*job.units]


def _recorded(job: Job, work: Work) -> Submission:
    """A submission, without sbatch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kinegraph.pipeline.clusters.slurm.submission._sbatch", lambda script: "1")
        submit(job.config, work)
    (submission,) = submissions(job.cache.storage)
    return submission


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 5])
def test_each_unit_is_in_one_part(num_tasks: int) -> None:
    units = [WorkUnit(shard=shard, keys=("clips",)) for shard in range(7)]
    for task in range(num_tasks):
        parts = parts_from(units, task, num_tasks)
        assert sorted(unit.shard for part in parts for unit in part) == [*range(7)]
        assert parts[0] == units[task::num_tasks]


def test_a_task_may_run_again(load: Load, whole: Cache) -> None:
    """SLURM requeued it: what it said of its end goes first, and nothing sealed is touched."""
    job = indexed(load)
    submission = _recorded(job, Work(kind="extract", num_tasks=2, keys=job.keys, units=job.units))
    run_task(submission.folder, 1)
    tell_completion(submission.folder, 1, 0)
    assert not unsealed(job.cache, job.units), "with leases a task also does what others have not begun"
    records = {path: path.stat().st_mtime_ns for path in Path(job.cache.root, "ledger").rglob("*.json")}
    run_task(submission.folder, 1)
    assert not (submission.folder / "ended-1.json").exists()
    assert {path: path.stat().st_mtime_ns for path in records} == records
    assert same_bytes(job.cache.root) == same_bytes(whole.root)


def test_a_task_loads_its_networks_once_and_waits_last(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run is at its own unit, and gives it up when the task has done those of others."""
    job = indexed(load)
    submission = _recorded(job, Work(kind="extract", num_tasks=2, keys=job.keys, units=job.units))
    workers, build = [], Worker.__init__
    with closing(Leases(job.cache.storage, seconds=300)) as others:
        assert others.take(1, job.keys)

        def built(worker: Worker, *arguments: Any, **options: Any) -> None:
            workers.append(worker)
            build(worker, *arguments, **options)

        def given_back(seconds: float) -> None:
            assert job.cache.ledger.shards("clips") == [0, 2]
            others.close()

        monkeypatch.setattr(Worker, "__init__", built)
        monkeypatch.setattr("kinegraph.cache_schemas.stopping.sleep", given_back)
        run_task(submission.folder, 1)
    assert not unsealed(job.cache, job.units)
    assert len(workers) == 1


def test_what_others_sealed_meanwhile_is_left_alone(load: Load) -> None:
    job = indexed(load)
    InlineExecutor().run(replace(job, units=job.units[:1]), unheard)
    heard: list[Event] = []
    assert [*slurm_task._left_of(job.units, job.cache, heard.append)] == [*job.units[1:]]
    assert heard == [UnitSealedElsewhere(unit=job.units[0])]


def test_tasks_are_single_workers_with_the_threads_of_the_array(load: Load) -> None:
    job = indexed(load, "run.threads=auto")
    submission = _recorded(job, Work(kind="extract", num_tasks=2, keys=job.keys, units=job.units))
    config = load_config(submission.folder / "config.yaml")
    assert (config.run.executor, config.run.workers, config.run.threads, config.run.decode_threads) == (
        "local",
        1,
        1,
        1,
    )
    assert config.model_copy(update={"run": job.config.run}) == job.config
    assert submission.work().units == job.units


def test_all_cores_of_a_task_decode(load: Load) -> None:
    assert load("run.executor=slurm", "run.slurm.cpus=12", "run.threads=2").run.decoders == 12
    assert load("run.executor=slurm", "run.slurm.cpus=12", "run.decode_threads=3").run.decoders == 3


def test_refused_submissions_are_told(load: Load, fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = indexed(load, "run.slurm.options.partition=none")
    with pytest.raises(UsageError, match="invalid partition specified: none"):
        SlurmExecutor().run(job, unheard)
    monkeypatch.setenv("PATH", str(fake))
    with pytest.raises(UsageError, match="sbatch is not on the PATH"):
        SlurmExecutor().run(job, unheard)
    assert submissions(job.cache.storage) == []
    assert [*Path(job.cache.root, "slurm").iterdir()] == []


def test_failed_clips_are_tried_again_by_tasks(load: Load, whole: Cache, video_folder: Path, tmp_path: Path) -> None:
    """The records to replace travel with the units; until then the shard is not done."""
    job = indexed(load)
    away = (video_folder / "left" / "v3.mp4").rename(tmp_path / "away")
    InlineExecutor().run(job, unheard)
    away.rename(video_folder / "left" / "v3.mp4")
    plan = make_plan(job.config, job.cache, retry_failed=True)
    (unit,) = plan.units
    assert unit.reopened
    submission = _recorded(job, Work(kind="extract", num_tasks=1, keys=plan.keys, units=plan.units))
    assert submission.work().units == plan.units
    assert unsealed(job.cache, submission.work().units) == [unit]
    run_task(submission.folder, 0)
    assert not unsealed(job.cache, plan.units)
    assert same_bytes(job.cache.root) == same_bytes(whole.root)


def test_a_cache_at_a_url_needs_a_folder_for_scripts(load: Load) -> None:
    config = load(*SLURM)
    index(config)
    cache = Cache(config.cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(cache.storage), "local_path", lambda self, name: None)
        with pytest.raises(UsageError, match=r"run\.slurm\.folder: .* Name a folder"):
            submit(config, Work(kind="extract", num_tasks=1))
