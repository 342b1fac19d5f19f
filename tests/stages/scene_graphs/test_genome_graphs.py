"""Scene graphs of Action Genome: one for each annotated frame of a clip."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.scene_graphs.from_action_genome import GenomeGraphs
from kinegraph.stages.scene_graphs.options import ActionGenomeGraphOptions
from kinegraph.stages.scene_graphs.source import GraphError
from tests.action_genome import write_annotations
from tests.stages.scene_graphs.source_contract import FRAME_TIMES, GraphSourceContract, a_row

CLIP = (0, 1, 8, 39, *[39] * (len(FRAME_TIMES) - 4))  # numbers from 0; the last is repeated


class TestGenomeGraphs(GraphSourceContract):
    @pytest.fixture
    def options(self) -> ActionGenomeGraphOptions:
        return ActionGenomeGraphOptions(source="action_genome", max_objects=3)

    @pytest.fixture
    def source(self, options: ActionGenomeGraphOptions, tmp_path: Path) -> GenomeGraphs:
        write_annotations(tmp_path)
        return GenomeGraphs(options, str(tmp_path))

    @pytest.fixture
    def row(self) -> ClipRow:
        return replace(a_row("Charades_v1_480/001YG.mp4"), target_frames=CLIP)

    def test_values(self, source: GenomeGraphs, options: ActionGenomeGraphOptions, row: ClipRow) -> None:
        """A frame without a visible object has the person alone. A relation that is not counted leaves an edge."""
        graphs, names = source.graphs(row, FRAME_TIMES), options.vocabulary
        assert graphs.count[:5].tolist() == [1, 0, 2, 1, -1]
        assert graphs.times[:4].tolist() == FRAME_TIMES[:4].tolist()
        told = [
            [
                (
                    names.classes[graphs.objects[t, place]],
                    [names.relations[r] for r in np.flatnonzero(graphs.relations[t, place])],
                )
                for place in range(max(0, graphs.count[t]))
            ]
            for t in range(5)
        ]
        assert told == [
            [("table", ["lookingat", "infrontof", "touching"])],
            [],
            [("phonecamera", ["holding"]), ("doorknob", ["unsure", "in"])],
            [("closetcabinet", ["notlookingat", "behind"])],
            [],
        ]

    def test_all_26_relations(self, source: GenomeGraphs, row: ClipRow) -> None:
        options = ActionGenomeGraphOptions(source="action_genome", num_relations=26)
        graphs = GenomeGraphs(options, source.folder).graphs(row, FRAME_TIMES)
        assert graphs.relations.shape[-1] == 26
        assert graphs.relations.sum() == source.graphs(row, FRAME_TIMES).relations.sum() + 2

    def test_failures(self, source: GenomeGraphs, row: ClipRow, tmp_path: Path) -> None:
        with pytest.raises(GraphError, match=r"missing: frame 3 of .*001YG.mp4 is not annotated now"):
            source.graphs(replace(row, target_frames=(2,)), FRAME_TIMES)
        few = GenomeGraphs(ActionGenomeGraphOptions(source="action_genome", max_objects=1), source.folder)
        with pytest.raises(GraphError, match=r"frame 9 shows 2 objects, graphs.max_objects is 1"):
            few.graphs(row, FRAME_TIMES)
        (tmp_path / "person_bbox.pkl").unlink()
        with pytest.raises(GraphError, match=r"unreadable: .*person_bbox.pkl does not exist"):
            source.graphs(row, FRAME_TIMES)
