"""`kinegraph models` lists the networks that a config can name. Torch-free, except for the heads."""

from dataclasses import asdict
from typing import Any

from kinegraph.stages.backbones.catalogue import CATALOGUE
from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.backbones.transformers_entry import family_taps
from kinegraph.stages.backbones.transformers_families import FAMILIES, ModelFamily
from kinegraph.stages.backbones.transformers_folder import TRANSFORMERS_PREFIX
from kinegraph.stages.proposals.catalogue import COUNTED_FRAME, PROPOSALS, ProposalEntry
from kinegraph.stages.weights.sources import WeightSource


def models() -> list[dict[str, Any]]:
    """Returns the document that `models --json` prints: a row for each network that a config can name."""
    backbones = [*map(_backbone, CATALOGUE.values()), *map(_family, FAMILIES.values())]
    return [*backbones, *map(_proposals, PROPOSALS.values())]


def heads() -> list[dict[str, Any]]:
    """Returns one dictionary for each head, as `models --heads --json` prints them. The parameters and operations are
    counted for the head in the size that its paper uses.
    """
    from kinegraph.stages.heads.sizes import SIZES, count

    rows = []
    for size in SIZES:
        num_params, gmacs, reads = count(size)
        row = {"name": size.head, "kind": "head", "params": num_params, "gmacs": gmacs, "reads": list(reads)}
        rows.append(row | {"about": size.about, "options": dict(size.options), "published": size.published})
    return rows


def _backbone(entry: BackboneEntry) -> dict[str, Any]:
    counts = entry.counts
    assert counts is not None, entry.name
    return {
        "name": entry.name,
        "kind": "backbone",
        "params": counts.num_params,
        "gmacs": counts.gmacs,
        "input": {"num_frames": counts.num_frames, "size": counts.size, "num_classes": counts.num_classes},
        "taps": [_tap(tap) for tap in entry.taps],
        "options": {key: list(values) for key, values in entry.options.items()},
        "inflates": entry.inflates,
        "sees": entry.sees,
        "head_channels": entry.head_channels,
        "weights": [{"name": name} | _source(source) for name, source in entry.weights.items()],
    }


def _family(family: ModelFamily) -> dict[str, Any]:
    """Describes a family of networks of the package transformers, as one row of the list that `kinegraph models`
    prints. The input and the taps are those of the usual network of the family. Another network of the family has the
    values of its `config.json`.
    """
    taps = family_taps(family)
    return {
        "name": f"{TRANSFORMERS_PREFIX}{family.model_type}",
        "kind": "backbone",
        "about": family.about,
        "params": None,
        "gmacs": None,
        "input": {
            "num_frames": family.defaults[family.frames] if family.frames else 1,
            "size": family.defaults[family.size],
            "num_classes": 0,
            "only_this": family.is_exact,
        },
        "taps": [_tap(tap) for tap in taps],
        "class_token": taps[-1].class_token,
        "has_head": bool(family.head),
        "options": {},
        "inflates": None,
        "weights": [],
    }


def _proposals(entry: ProposalEntry) -> dict[str, Any]:
    height, width = entry.input_size(*COUNTED_FRAME)
    return {
        "name": entry.name,
        "kind": "proposals",
        "params": entry.num_params,
        "gmacs": entry.gmacs,
        "source": entry.source,
        "input": {"num_frames": 1, "height": height, "width": width},
        "taps": [],
        "options": {},
        "weights": [{"name": name} | _source(source) for name, source in entry.weights.items()],
    }


def _tap(tap: Tap) -> dict[str, Any]:
    return {
        "name": tap.name,
        "channels": tap.channels,
        "stride": tap.stride,
        "temporal_stride": tap.temporal_stride,
    }


def _source(source: WeightSource) -> dict[str, Any]:
    """Returns a dict that says where a file of weights comes from and which input its network expects. Unknown values
    are None.

    The key `source` of the dict has the URL of the file, or its path in this package.
    """
    return {
        "source": source.url or str(source.path),
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
