"""Describes the stages and arrays that an import writes. Torch-free."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import xxhash

from kinegraph.cache_schemas.arrays import ArraySpec, feature_arrays, proposal_arrays, region_arrays
from kinegraph.cache_schemas.fingerprint import Options, canonical
from kinegraph.cache_schemas.ledger import Source
from kinegraph.cache_schemas.stage import Stage
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.stages.imports.layout import FeatureLayout

VERSION = 1  # increased when the same files give other arrays


@dataclass(frozen=True, kw_only=True)
class Naming:
    """The names of the stages and arrays of an import, such as features/<name>/<tap>. The user chooses `name` and
    `tap`. In other caches, <name> is a backbone and <tap> one of its layers.

    Raises ExchangeError for a name that is not allowed.
    """

    name: str = "imported"
    tap: str = "last"

    def __post_init__(self) -> None:
        for flag, given in (("--name", self.name), ("--tap", self.tap)):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", given) or given.endswith("_pooled"):
                raise ExchangeError(f"{flag} {given}: letters, digits, - and _ are allowed, and no _pooled at the end")

    @property
    def role_of(self) -> dict[str, str]:
        """Returns {name of an array in the cache: role of the imported array}, for example {"proposals/boxes":
        "boxes"}. A role says what an array holds, and is a key of `VideoFeatures.arrays`.
        """
        return {
            f"features/{self.name}/{self.tap}": "maps",
            f"features/{self.name}/{self.tap}_pooled": "pooled",
            "proposals/boxes": "boxes",
            "proposals/count": "count",
            f"regions/{self.name}/{self.tap}": "regions",
        }


def imported_options(kind: str, sources: Mapping[str, Source], num_frames: int | None) -> Options:
    """Returns the options of an imported stage. They contain a digest of all files, so the fingerprint of the stage
    changes with the files.

    - `kind`: the format of the files.
    - `sources`: {name of a video in the files: identity of its features}.
    - `num_frames`: the number of frames that are taken from each video. None means all.
    """
    digests = canonical({video: source.digest for video, source in sources.items()})
    return {
        "provenance": "unknown",
        "format": kind,
        "files_xxh3_128": xxhash.xxh3_128_hexdigest(digests.encode()),
        "frames": num_frames or "as in the files",
        "version": VERSION,
    }


def imported_stages(naming: Naming, layout: FeatureLayout, options: Options) -> tuple[Stage, ...]:
    """Returns the stages of an import. A stage comes after the stages that it reads.

    `naming` has the names of the stages, `layout` the shapes of the arrays in the files, and `options` the options of
    every stage.
    """
    return tuple(_stages(naming, layout, options))


def _stages(naming: Naming, layout: FeatureLayout, options: Options) -> Iterator[Stage]:
    name, tap, T = naming.name, naming.tap, layout.num_frames
    C, H, W = layout.shapes.get("maps", (*layout.shapes["pooled"], 0, 0))
    store = ("maps", "pooled") if "maps" in layout.shapes else ("pooled",)
    features = feature_arrays(name, tap, (T, C, H, W), 1, store, layout.dtype)
    if "regions" not in layout.shapes:
        yield Stage(key=f"features/{name}", options=options, arrays=_timeless(features))
        return
    about = f"mean over the regions of each frame of {name}: the files hold nothing else of a frame"
    features = tuple(replace(spec, about=about) for spec in features)
    means = {**options, "pooled": "mean of the regions"}
    yield Stage(key=f"features/{name}", options=means, arrays=_timeless(features))
    N, C = layout.shapes["regions"]
    unscored = {**options, "scores": "none in the files"}
    proposals = Stage(key="proposals", options=unscored, arrays=_timeless(proposal_arrays(T, N, 1)))
    yield proposals
    reading = {**options, "reads": {"proposals": proposals.fingerprint}}
    regions = region_arrays(name, tap, (T, N, C), 1, layout.dtype)
    yield Stage(key=f"regions/{name}", options=reading, arrays=_timeless(regions))


def _timeless(arrays: tuple[ArraySpec, ...]) -> tuple[ArraySpec, ...]:
    """Returns the specs `arrays` with `frame_step` None. The steps of imported features have an unknown distance in
    frames.
    """
    return tuple(replace(spec, frame_step=None) for spec in arrays)
