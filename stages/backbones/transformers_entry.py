"""Describes a network of transformers as a backbone, from the files of its folder. Torch-free."""

from pathlib import Path

from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.backbones.transformers_families import ModelFamily
from kinegraph.stages.backbones.transformers_folder import ModelFolder, describe_folder, read_folder
from kinegraph.stages.weights.sources import PRETRAINED, WeightSource
from kinegraph.stages.weights.transformers_files import CONFIG, TRANSFORMERS_PREFIX
from kinegraph.stages.weights.transformers_processor import Processor, read_processor

NORM = "norm"  # the tap above the last layer


def transformers_entry(name: str) -> BackboneEntry:
    """Returns the BackboneEntry of `transformers/<name>`. `name` is the path of a folder, or the id of a repository in
    the hub's local cache.

    Raises ValueError if there is no such folder, if kinegraph does not know the network, or if the file of the
    processor is missing or contradicts the network.
    """
    folder = read_folder(name)
    family = folder.family
    processor = read_processor(
        folder.path,
        of_videos=not family.sees_single_frames,
        must_have=family.processor_keys,
        short_of_crop=family.short_of_crop,
    )
    _require_agreement(folder, processor)
    return BackboneEntry(
        name=f"{TRANSFORMERS_PREFIX}{name}",
        taps=_taps(folder),
        size=processor.size,
        mean=processor.pixels.mean,
        std=processor.pixels.std,
        weights={PRETRAINED: _source(folder, processor)},
        min_frames=folder.patch_frames,
        sees_single_frames=family.sees_single_frames,
        head_channels=folder.head_channels,
        folder=str(folder.path),
        identity=folder.identity,
        remarks=tuple(processor.remarks),
    )


def usual_network(family: ModelFamily) -> ModelFolder:
    """Returns the description of one published network of `family`, such as VideoMAE-B, without reading a folder. The
    network is `family.usual`.
    """
    return describe_folder(Path(CONFIG), family, family.usual_config)


def usual_taps(family: ModelFamily) -> tuple[Tap, ...]:
    """Returns the taps of one published network of `family`, such as VideoMAE-B. The network is `family.usual`. Other
    networks of the family may have more or fewer taps.
    """
    return _taps(usual_network(family))


def tap_names(folder: ModelFolder) -> tuple[str, ...]:
    """Returns the names of the taps of the network in `folder`, from bottom to top: `layer_0`, `layer_1`, ... and
    `norm`, if the network has a final norm.
    """
    return (*(f"layer_{index}" for index in range(folder.num_layers)), *([NORM] if folder.norm else []))


def _taps(folder: ModelFolder) -> tuple[Tap, ...]:
    family = folder.family
    is_tied = family.is_exact or folder.size % folder.patch_px != 0  # the network itself cuts what its patches leave
    return tuple(
        Tap(
            name=name,
            channels=folder.width,
            space=((folder.patch_px, folder.patch_px),),
            time=((folder.patch_frames, folder.patch_frames),) if folder.patch_frames > 1 else (),
            size_multiple=1 if is_tied else folder.patch_px,
            frames_multiple=folder.patch_frames,
            only_size=folder.size if is_tied else None,
            only_frames=folder.num_frames if family.is_exact else None,
            class_token=None if not family.class_token else "frame" if family.sees_single_frames else "clip",
        )
        for name in tap_names(folder)
    )


def _source(folder: ModelFolder, processor: Processor) -> WeightSource:
    return WeightSource(
        file_name=str(folder.path),
        path=str(folder.path),
        licence="see where it was published",
        pixels=processor.pixels,
        short_side_px=processor.resize_short,
        crop_px=processor.size,
        resize=processor.resize,
    )


def _require_agreement(folder: ModelFolder, processor: Processor) -> None:
    """Raises ValueError if the network takes only one size and number of frames, and the processor makes another
    input.
    """
    if not folder.family.is_exact:
        return
    for what, made, taken in (
        ("px", processor.size, folder.size),
        ("frames", processor.num_frames or folder.num_frames, folder.num_frames),
    ):
        if made != taken:
            raise ValueError(
                f"{processor.file}: makes an input of {made} {what}, and the network of config.json takes {taken} "
                f"{what} only. One of the two files belongs to another network"
            )
