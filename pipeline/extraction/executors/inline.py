"""The executor for debugging runs everything in the calling thread."""

from kinegraph.pipeline.clusters.walltime import UnitSchedule
from kinegraph.pipeline.extraction.executors.contract import Job, Report
from kinegraph.pipeline.extraction.worker import Worker


class InlineExecutor:
    """Runs one worker in this thread. Decoding and the networks take turns."""

    def run(self, job: Job, report: Report) -> None:
        worker = Worker(job.config, job.cache, job.keys, report, UnitSchedule(job.allotted), begun=job.begun)
        worker.run(job.units, decode_threads=0)
