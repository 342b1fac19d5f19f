"""The formats that `kinegraph models NAME` names are those that files of the network can have."""

import pytest
import torch

from kinegraph.stages.backbones.build import untrained
from kinegraph.stages.backbones.catalogue import CATALOGUE
from kinegraph.stages.weights.formats.by_network import FORMATS_OF
from kinegraph.stages.weights.formats.convert import FORMATS

BY_NAME = {format_.name: format_ for format_ in FORMATS}


def test_every_format_belongs_to_a_network() -> None:
    named = {name for names in FORMATS_OF.values() for name in names}
    assert named == BY_NAME.keys()
    assert FORMATS_OF.keys() <= CATALOGUE.keys()


@pytest.mark.parametrize("network", FORMATS_OF)
def test_every_tensor_has_a_name_there_by_which_the_format_is_known(network: str) -> None:
    with torch.device("meta"):
        tensors = [name for name in untrained(network).state_dict() if not name.endswith("num_batches_tracked")]
    for name in FORMATS_OF[network]:
        format_ = BY_NAME[name]
        theirs = {tensor: format_.to_file(tensor) for tensor in tensors}
        lacking = [tensor for tensor, other in theirs.items() if other is None]
        assert not lacking, f"{name} has no name for {lacking[:3]}"
        assert network.startswith(format_.only_for)
        assert next(other for other in FORMATS if other.matches(theirs.values())) is format_  # type: ignore[arg-type]
