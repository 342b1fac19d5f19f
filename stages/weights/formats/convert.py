"""Converts the names in a checkpoint to kinegraph's names. The format of a file is recognised by the names of its
tensors, not by the name of the file.
"""

from dataclasses import dataclass

from kinegraph.stages.weights.formats import caffe2, pytorchvideo, slowfast
from kinegraph.stages.weights.formats.format import Format, State
from kinegraph.stages.weights.formats.inception_i3d import KINETICS_I3D, PYTORCH_I3D
from kinegraph.stages.weights.formats.mvit import MVIT_OF_PYTORCHVIDEO, MVIT_OF_SLOWFAST
from kinegraph.stages.weights.formats.tsn import BN_INCEPTION, TSM, TSN

FORMATS = (  # the first whose sign a file has; a file with two pathways has the signs of one pathway too
    slowfast.TWO_PATHWAYS,
    caffe2.TWO_PATHWAYS,
    pytorchvideo.TWO_PATHWAYS,
    slowfast.SLOWFAST,
    caffe2.CAFFE2,
    pytorchvideo.X3D,
    pytorchvideo.POOLED,
    pytorchvideo.UNPOOLED,
    MVIT_OF_PYTORCHVIDEO,
    MVIT_OF_SLOWFAST,
    TSM,
    TSN,
    BN_INCEPTION,
    PYTORCH_I3D,
    KINETICS_I3D,
)

PLAIN = Format(
    name="torchvision's names, our own, or those of no known format",
    sign=".+",
    pairs=(("{name}", "{name}"),),
    ignored={r"fc\..+": "classifier", r"classifier\..+": "classifier", r"AuxLogits\..+": "auxiliary classifier"},
)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A checkpoint with its tensors under kinegraph's names."""

    format: Format  # the format of the names in the file
    state: State  # {kinegraph's name: tensor}
    # {name in the file: reason} of the tensors that are not used, such as those of a classifier
    ignored: dict[str, str]
    unknown: tuple[str, ...]  # the names in the file that no network of kinegraph has
    # The number of classes of the classifier in the file, or None if the file has no classifier
    classes: int | None = None


def convert(state: State) -> Converted:
    """Renames the tensors of a checkpoint. `state` is {name in the file: tensor}. Returns a Converted, which has
    kinegraph's names.

    Each tensor is renamed, ignored for a known reason (such as the classifier), or listed as unknown.
    """
    format_ = next((candidate for candidate in FORMATS if candidate.matches(state)), PLAIN)
    ignored = {key: why for key in state if (why := format_.why_ignored(key)) is not None}
    names = {key: format_.to_kinegraph(key) for key in state if key not in ignored}
    return Converted(
        format=format_,
        state=format_.adapt({ours: state[key] for key, ours in names.items() if ours is not None}),
        ignored=ignored,
        unknown=tuple(key for key, ours in names.items() if ours is None),
        classes=next((len(state[key]) for key, why in ignored.items() if why == "classifier"), None),
    )
