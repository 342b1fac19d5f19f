"""Heads over whole videos: sequences of any length, filled up and masked."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinegraph.stages.heads.build import HEADS, build_head
from kinegraph.stages.heads.head import MASK, HeadError, spec_of_videos
from kinegraph.stages.heads.padded import evenly
from tests.stages.heads.conftest import Lively

ARRAY = "features/i3d/res5_pooled"
CACHED = {ARRAY: (4, 6), "features/i3d/res5": (4, 6, 3, 3), "proposals/count": (4,)}
VIDEOS = spec_of_videos(CACHED)
LENGTHS = (1, 5, 12)
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("avg_pool", {}),
    ("avg_pool", {"consensus": "logits"}),
    ("avg_pool", {"consensus": "max"}),
    ("mlp", {"layers": 2}),
    ("mlp", {"consensus": "max"}),
    ("lstm", {"hidden": 8}),
    ("trn", {"dim": 5, "hidden": 7}),
    ("trn", {"dim": 5, "hidden": 7, "num_segments": 3}),
]


def padded(sequences: list[Tensor], filler: float = 0.0) -> dict[str, Tensor]:
    longest = max(map(len, sequences))
    x = torch.full((len(sequences), longest, 6), filler)
    mask = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        x[row, : len(sequence)], mask[row, : len(sequence)] = sequence, True
    return {ARRAY: x, MASK: mask}


def test_the_spec_of_videos_has_the_pooled_features() -> None:
    assert VIDEOS == {ARRAY: (0, 6)}


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_neither_padding_nor_the_other_videos_change_logits(name: str, options: dict[str, Any], lively: Lively) -> None:
    """To 1e-9 in float64: matrices of other sizes are multiplied in another order."""
    head = lively(build_head(name, VIDEOS, 3, **options))
    sequences = [torch.randn(length, 6, generator=torch.Generator().manual_seed(length)) for length in LENGTHS]
    alone = torch.cat([head(padded([sequence])) for sequence in sequences])
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    for filler in (0.0, 1e6):
        torch.testing.assert_close(head(padded(sequences, filler)), alone, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(head(padded(sequences[::-1])), alone.flip(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), KINDS[:6])
def test_a_whole_mask_is_no_mask(name: str, options: dict[str, Any], lively: Lively) -> None:
    """A head over clips of T frames is the same network."""
    head = lively(build_head(name, VIDEOS, 3, **options))
    over_clips = build_head(name, CACHED, 3, **options).double().eval()
    over_clips.load_state_dict(head.state_dict())
    batch = padded([torch.randn(4, 6, generator=torch.Generator().manual_seed(k)) for k in range(2)])
    torch.testing.assert_close(head(batch), over_clips({ARRAY: batch[ARRAY]}), rtol=1e-9, atol=1e-9)


def test_segments_are_taken_evenly() -> None:
    """The middles of equal parts, computed by hand; a short sequence repeats vectors."""
    x = torch.arange(10.0)[None, :, None].repeat(2, 1, 1)
    mask = torch.arange(10) < torch.tensor([[10], [3]])
    assert evenly(x, mask, 4)[..., 0].tolist() == [[1, 3, 6, 8], [0, 1, 1, 2]]
    assert evenly(x, None, 5)[0, :, 0].tolist() == [1, 3, 5, 7, 9]


def test_trn_takes_segments_of_clips_too(lively: Lively) -> None:
    head = lively(build_head("trn", CACHED, 3, num_segments=2))
    x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    all_frames = build_head("trn", {ARRAY: (2, 6)}, 3).double().eval()
    all_frames.load_state_dict(head.state_dict())
    assert torch.equal(head({ARRAY: x}), all_frames({ARRAY: x[:, [1, 3]]}))
    with pytest.raises(HeadError, match=r"has 4 in a clip, and at least 5 are needed"):
        build_head("trn", CACHED, 3, num_segments=5)


def test_heads_that_cannot_read_videos_say_which_can() -> None:
    able = "These heads read videos: avg_pool, mlp, lstm, trn"
    refused = [name for name, kind in HEADS.items() if not kind.reads_sequences]
    assert "strg" in refused
    for name in refused:
        with pytest.raises(HeadError, match=rf"Head {name} reads clips of one length.*{able}"):
            build_head(name, VIDEOS, 3)
    with pytest.raises(HeadError, match="convolutions: given 2, allowed: 0 over whole videos"):
        build_head("lstm", VIDEOS, 3, convolutions=2)
    with pytest.raises(HeadError, match="a tail reads maps of frames"):
        build_head("avg_pool", VIDEOS, 3, tail={"until": "res5"})


def test_heads_of_your_own(tmp_path: Path) -> None:
    code = """
import torch
from kinegraph import Head
class Mine(Head):
    reads_sequences = SAYS
    def __init__(self, spec, num_classes, options):
        super().__init__()
        self.reads = tuple(spec)
        self.layer = torch.nn.Linear(spec[self.reads[0]][-1], num_classes)
    def forward(self, batch):
        mask = batch["mask"][..., None]
        return self.layer((batch[self.reads[0]] * mask).sum(1) / mask.sum(1))
"""
    (tmp_path / "able.py").write_text(code.replace("SAYS", "True"))
    (tmp_path / "other.py").write_text(code.replace("SAYS", "False"))
    assert build_head(f"{tmp_path}/able.py:Mine", VIDEOS, 3)(padded([torch.ones(2, 6)])).shape == (1, 3)
    with pytest.raises(HeadError, match="A head of your own can if its class says `reads_sequences = True`"):
        build_head(f"{tmp_path}/other.py:Mine", VIDEOS, 3)
