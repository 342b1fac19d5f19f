"""Computes the proposals of clips with a source of proposals, and writes them to the cache.

The source runs once on the whole frames of a clip. Then each crop of the clip keeps the boxes that overlap the crop. A
network runs once on a frame, even if several clips of a shard share the frame.
"""

from collections.abc import Callable

import torch

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.datasets.options import DatasetOptions
from kinegraph.stages.decode.clips import DecodedClip
from kinegraph.stages.proposals.options import ProposalOptions
from kinegraph.stages.proposals.sharing import FrameProposals
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals, PixelSource, ProposalError
from kinegraph.stages.proposals.sources import build_source
from kinegraph.stages.stage import StageBatch


class ProposalRunner:
    """The runner of the stage `proposals`, which runs the source of proposals that `options` describe. The attribute
    `digest` is a digest of the weights of the source.

    If the source is not a network, the runner keeps the proposals of the last clip, because the next rows may be
    further crops of the same clip.
    """

    def __init__(
        self,
        options: ProposalOptions,
        device: torch.device,
        dataset: DatasetOptions | None = None,
        file_of: Callable[[str], str] | None = None,
    ) -> None:
        """Loads the source of proposals onto `device`. `dataset` has the options of the data set. `file_of` maps the id
        of a video to the path of the file that the source reads for the video.
        """
        self.options, self._file_of = options, file_of
        self._source = build_source(options, device, dataset)
        self.digest = self._source.digest
        self._shared = FrameProposals(self._source, options.every) if isinstance(self._source, PixelSource) else None
        self._last: tuple[str, ClipProposals | ProposalError] | None = None

    def run(self, batch: StageBatch) -> None:
        shared = self._shared.of(batch) if self._shared else {}
        for slot in batch.slots:
            row, clip = batch.rows[slot], batch.clip(slot)
            batch.note_file(slot, self._file_of(row.video_name) if self._file_of else None)
            proposals = shared[slot] if self._shared else self._of_clip(row, clip)
            clip.whole = None  # the largest thing in memory
            if isinstance(proposals, ProposalError):
                batch.fail(slot, proposals.reason, proposals.detail)
                continue
            for name, values in proposals.within(row.crop).arrays().items():
                batch.write(f"proposals/{name}", [slot], values[None])
        if batch.is_last:
            self._last = None

    def _of_clip(self, row: ClipRow, clip: DecodedClip) -> ClipProposals | ProposalError:
        """Returns the ClipProposals of the whole frames in `clip`, the decoded clip of `row`. If the source has no
        proposals for the clip, returns the ProposalError that says why.
        """
        name = row.clip_id.rpartition(":")[0]
        if self._last is None or self._last[0] != name:
            self._last = name, self._proposed(row, clip)
        return self._last[1]

    def _proposed(self, row: ClipRow, clip: DecodedClip) -> ClipProposals | ProposalError:
        every = self.options.every
        frames = ClipFrames(
            video_id=row.video_name,
            width=row.frame_width,
            height=row.frame_height,
            seconds=clip.frame_times[::every],
            pixels=clip.whole,
            numbers=clip.frame_numbers[::every],
            video_frames=clip.video_frames,
            annotated=None if row.target_frames is None else row.target_frames[::every],
        )
        try:
            return self._source.propose(frames)
        except ProposalError as error:
            return error
