"""Lists the networks that a config can name, for `kinegraph models`. Torch-free, except for the heads."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from difflib import get_close_matches
from typing import Any

from kinegraph.stages.backbones.catalogue import CATALOGUE, TIMM_PREFIX, entry
from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.backbones.transformers_entry import usual_taps
from kinegraph.stages.backbones.transformers_families import FAMILIES, ModelFamily
from kinegraph.stages.errors import UsageError
from kinegraph.stages.proposals.catalogue import COUNTED_FRAME, PROPOSALS, ProposalEntry
from kinegraph.stages.proposals.transformers_detectors import DETECTORS, DetectorFamily, is_detector, read_detector
from kinegraph.stages.weights.formats.by_network import FORMATS_OF
from kinegraph.stages.weights.sources import WeightSource
from kinegraph.stages.weights.transformers_files import TRANSFORMERS_PREFIX

# fields of a network and of a tap that a row has in other words; it has all other fields under their own names
OTHER_WORDS = frozenset({"taps", "mean", "std", "weights", "counts", "num_params", "channels"})
TAP_OTHER_WORDS = frozenset({"space", "time"})


def models() -> list[dict[str, Any]]:
    """Returns one dict for each backbone and each proposal network that a config can name, as `kinegraph models --json`
    prints them. Each dict has the keys "name", "kind", "params", "gmacs" and others.
    """
    backbones = [*map(_backbone, CATALOGUE.values()), *map(_family, FAMILIES.values())]
    return [*backbones, *map(_proposals, PROPOSALS.values()), *map(_detector, DETECTORS.values())]


def heads() -> list[dict[str, Any]]:
    """Returns one dict for each head, as `kinegraph models --heads --json` prints them. Parameters and operations are
    counted for the head in the size that its paper uses.
    """
    from kinegraph.stages.heads.sizes import SIZES, count

    rows = []
    for size in SIZES:
        num_params, gmacs, reads = count(size)
        row = {"name": size.head, "kind": "head", "params": num_params, "gmacs": gmacs, "reads": list(reads)}
        rows.append(row | {"about": size.about, "options": dict(size.options), "published": size.published})
    return rows


def network(name: str) -> dict[str, Any]:
    """Returns the facts of one network, as a dict like those that `models` returns. Three forms of `name` are possible:
    a name that `models` lists, `timm/<model>`, and `transformers/<folder>`.

    Raises UsageError if there is no such network. The message has similar names.
    """
    known = {row["name"]: row for row in models()}
    if name in known:
        return known[name]
    if name.startswith((TIMM_PREFIX, TRANSFORMERS_PREFIX)):
        try:
            return _own_detector(name) if is_detector(name) else _backbone(entry(name))
        except ValueError as error:
            raise UsageError(f"models {name}: {error}") from error
    near = get_close_matches(name, known, 3, 0.5)
    like = f"Similar names: {', '.join(near)}. " if near else ""
    raise UsageError(f"models {name}: no network has this name. {like}`kinegraph models` lists all names.")


def _backbone(entry: BackboneEntry) -> dict[str, Any]:
    counts, last = entry.counts, entry.taps[-1]
    num_frames = counts.num_frames if counts else last.only_frames or max(entry.min_frames, last.frames_multiple)
    size = counts.size if counts else entry.size
    row = {
        "name": entry.name,
        "kind": "backbone",
        "params": counts.num_params if counts else None,
        "gmacs": counts.gmacs if counts else None,
        "input": {"num_frames": num_frames, "size": size, "num_classes": counts.num_classes if counts else 0},
        "pixels": {"mean": list(entry.mean), "std": list(entry.std), "channel_order": _channels(entry), "highest": 1},
        "taps": [_tap(tap, num_frames, size) for tap in entry.taps],
        "head_shape": None if entry.head_channels is None else list(entry.head_shape(num_frames)),
        "checkpoints": list(FORMATS_OF.get(entry.name, ())),
        "weights": [{"name": name} | _source(source) for name, source in entry.weights.items()],
    }
    others = (field.name for field in fields(entry) if field.name not in OTHER_WORDS)
    return row | {name: _plain(getattr(entry, name)) for name in others}


def _channels(entry: BackboneEntry) -> str:
    return "RGB" if entry.sees == "rgb" else "flow x, y"


def _plain(value: Any) -> Any:
    """Returns `value` as JSON can store it: mappings as dicts, and tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [*map(_plain, value)] if isinstance(value, tuple) else value


def _family(family: ModelFamily) -> dict[str, Any]:
    """Returns the facts of a family of networks of the package transformers, as a dict for `models`. They are the facts
    of the usual network of the family.
    """
    taps, counts = usual_taps(family), family.counts
    return {
        "name": f"{TRANSFORMERS_PREFIX}{family.model_type}",
        "kind": "backbone",
        "about": family.about,
        "usual": family.usual,
        "params": counts.num_params,
        "gmacs": counts.gmacs,
        "input": {
            "num_frames": counts.num_frames,
            "size": counts.size,
            "num_classes": 0,
            "only_this": family.is_exact,
        },
        "taps": [_tap(tap, counts.num_frames, counts.size) for tap in taps],
        "class_token": taps[-1].class_token,
        "has_head": bool(family.head),
        "options": {},
        "inflates": None,
        "weights": [],
    }


def _detector(family: DetectorFamily) -> dict[str, Any]:
    """Returns the facts of a family of detectors of the package transformers, as a dict for `models`. They are the
    facts of the usual network of the family.
    """
    height, width = family.counted_size
    return {
        "name": f"{TRANSFORMERS_PREFIX}{family.model_type}",
        "kind": "proposals",
        "about": family.about,
        "usual": family.usual,
        "params": family.num_params,
        "gmacs": family.gmacs,
        "source": "transformers",
        "input": {"num_frames": 1, "height": height, "width": width},
        "taps": [],
        "options": {},
        "weights": [],
    }


def _own_detector(name: str) -> dict[str, Any]:
    """Returns the facts of the detector in the user's folder that `name` names, as a dict for `models`. Its parameters
    and operations are not counted.
    """
    detector = read_detector(name)
    height, width = detector.input_size(*COUNTED_FRAME)
    pixels = {"mean": [*detector.pixels.mean], "std": [*detector.pixels.std], "channel_order": "RGB", "highest": 1}
    return _detector(detector.family) | {
        "name": name,
        "usual": None,
        "params": None,
        "gmacs": None,
        "input": {"num_frames": 1, "height": height, "width": width},
        "pixels": pixels,
        "classes": [*detector.classes],
    }


def _proposals(entry: ProposalEntry) -> dict[str, Any]:
    height, width = entry.input_size(*COUNTED_FRAME)
    row = {
        "name": entry.name,
        "kind": "proposals",
        "params": entry.num_params,
        "gmacs": entry.gmacs,
        "source": entry.source,
        "input": {"num_frames": 1, "height": height, "width": width},
        "pixels": {
            "mean": list(entry.mean),
            "std": list(entry.std),
            "channel_order": entry.channels[:3].upper(),
            "highest": 255 if entry.channels == "bgr_255" else 1,
        },
        "taps": [],
        "options": {},
        "weights": [{"name": name} | _source(source) for name, source in entry.weights.items()],
    }
    others = (field.name for field in fields(entry) if field.name not in OTHER_WORDS)
    return row | {name: _plain(getattr(entry, name)) for name in others}


def _tap(tap: Tap, num_frames: int, size: int) -> dict[str, Any]:
    """Returns the facts of a tap as a dict. "shape" is the shape [T, C, H, W] of its maps for a clip of `num_frames`
    frames of `size` x `size` px, and "tokens" is T x H x W.

    "shape" and "tokens" are None if the network cannot take such a clip.
    """
    try:
        shape = list(tap.shape(num_frames, size))
    except ValueError:
        shape = None
    return {
        "name": tap.name,
        "channels": tap.channels,
        "stride": tap.stride,
        "temporal_stride": tap.temporal_stride,
        "offset_px": tap.offset_px,
        "shape": shape,
        "tokens": None if shape is None else shape[0] * shape[2] * shape[3],
        **{field.name: _plain(getattr(tap, field.name)) for field in fields(tap) if field.name not in TAP_OTHER_WORDS},
    }


def _source(source: WeightSource) -> dict[str, Any]:
    """Returns a dict that says where a file of weights comes from and which input its network expects. Unknown values
    are None.

    The key "source" has the URL of a file that is downloaded. Otherwise it has the path of the file or its folder, or
    the repository on huggingface.co from which the user gets the file.
    """
    hub = source.hub and f"{source.hub.repository} on huggingface.co"
    return {
        "source": source.url or source.path or hub,
        "licence": source.licence,
        "sha256": source.sha256 or None,
        "pixels": source.pixels and asdict(source.pixels),
        "sampling": source.sampling and asdict(source.sampling),
        "short_side_px": source.short_side_px,
        "crop_px": source.crop_px,
        "resize": source.resize,
        "classes": source.classes,
        "geometry": dict(source.geometry),
    }
