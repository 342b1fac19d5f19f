"""Runs all work units in the calling thread, for debugging."""

from kinegraph.pipeline.clusters.walltime import UnitSchedule
from kinegraph.pipeline.extraction.events import Report
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.worker import Worker


class InlineExecutor:
    """Runs all work units of a job with one worker in the calling thread, which decodes and computes in turn."""

    def run(self, job: Job, report: Report) -> None:
        worker = Worker(job.config, job.cache, job.keys, report, UnitSchedule(job.allotted), begun=job.begun)
        worker.run(job.units, decode_threads=0)
