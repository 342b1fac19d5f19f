"""Defines the commands `export`, which writes arrays of a cache for other tools, and `import`, which reads features
into a cache.
"""

from pathlib import Path
from typing import Annotated

import typer

from kinegraph.cli.exits import EXIT_CLIPS_FAILED, EXIT_FAILED
from kinegraph.cli.options import CachePath, check_choice
from kinegraph.cli.printing import exchange as printing
from kinegraph.cli.printing.text import counting
from kinegraph.stages.errors import UsageError

TARGETS, CODECS = ("zarr", "hdf5", "npy", "tad", "webdataset", "coco"), ("none", "lz4", "zstd")  # of export
FORMATS = ("npy", "hdf5", "bottom_up", "bottom_up_frames", "pt", "webdataset")  # of import


def export(
    cache: CachePath,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="|".join(TARGETS),
            help="zarr and hdf5 are caches. npy is a file per array and video. tad is a sequence of windows per video, "
            "for ActionFormer and OpenTAD. webdataset is a tar file per 1000 clips. coco is frames with their boxes.",
        ),
    ],
    compression: Annotated[
        str | None, typer.Option(metavar="|".join(CODECS), help="Codec with --to zarr. The default is that of CACHE.")
    ] = None,
    array: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="Export only this array, with --to npy, tad or webdataset. With tad, several are joined.",
        ),
    ] = [],
    beside: Annotated[
        str | None,
        typer.Option(
            metavar="CACHE",
            help="With --to tad, a second cache, such as of flow. Its vectors are joined to those of CACHE.",
        ),
    ] = None,
    beside_array: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="With --beside, the array of the second cache. Needed if it has several."),
    ] = [],
    prefix: Annotated[str, typer.Option(help="With --to tad, begins each file name, as v_ for ActivityNet.")] = "",
    tar_clips: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --to webdataset, clips of a tar file. Default 1000.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="With --to coco, export only this split.")] = None,
    rows: Annotated[
        str | None, typer.Option(metavar="A:B", help="With --to coco, export only the rows from A to B - 1.")
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="With --to coco, the folder of the videos, if they have moved.")
    ] = None,
) -> int:
    """Copy a cache to another store, or its arrays to files for other tools. Checks all checksums."""
    _check_export(to, compression, array, prefix, tar_clips)
    _check_beside(to, beside, beside_array)
    _check_coco(to, split, rows, videos)
    if to == "coco":
        return _exported_frames(cache, out, split, _range(rows), videos)
    if to == "tad":
        return _exported_sequences(cache, out, array, beside, beside_array, prefix)
    return _exported_arrays(cache, out, to, compression, array, tar_clips)


def _exported_frames(cache: str, out: str, split: str | None, rows: range | None, videos: Path | None) -> int:
    from kinegraph.cache_schemas.cache import Cache
    from kinegraph.pipeline.exchange.to_coco import export_coco

    with counting() as progress:
        frames = export_coco(
            Cache(cache), out, split=split, rows=rows, videos=videos, on_size=printing.size_of_frames,
            on_progress=progress,
        )  # fmt: skip
    printing.exported_frames(frames, out)
    return EXIT_FAILED if frames.damaged else 0


def _exported_sequences(
    cache: str, out: str, array: list[str], beside: str | None, beside_array: list[str], prefix: str
) -> int:
    from kinegraph.cache_schemas.cache import Cache
    from kinegraph.pipeline.exchange.to_tad import export_tad

    second = None if beside is None else Cache(beside)
    with counting() as progress:
        sequences = export_tad(
            Cache(cache), out, array, beside=second, beside_names=beside_array, prefix=prefix, on_progress=progress
        )
    printing.exported_sequences(sequences, out)
    return EXIT_FAILED if sequences.damaged else 0


def _exported_arrays(
    cache: str, out: str, to: str, compression: str | None, array: list[str], tar_clips: int | None
) -> int:
    from kinegraph.cache_schemas.cache import Cache
    from kinegraph.pipeline.exchange import to_npy as exporting_npy
    from kinegraph.pipeline.exchange import to_store as exporting
    from kinegraph.pipeline.exchange.to_webdataset import TAR_CLIPS, export_webdataset

    with counting() as progress:
        if to == "webdataset":
            size = tar_clips or TAR_CLIPS
            clips = export_webdataset(Cache(cache), out, array, tar_clips=size, on_progress=progress)
        elif to == "npy":
            files = exporting_npy.export_npy(Cache(cache), out, array, on_progress=progress)
        else:
            copied = exporting.export_cache(Cache(cache), out, kind=to, compression=compression, on_progress=progress)
    if to == "webdataset":
        printing.exported_clips(clips, out)
        return EXIT_FAILED if clips.damaged else 0
    if to == "npy":
        printing.exported_files(files, out)
        return EXIT_FAILED if files.damaged else 0
    printing.exported_cache(copied)
    return EXIT_FAILED if copied.damaged else 0


def _check_export(to: str, compression: str | None, array: list[str], prefix: str, tar_clips: int | None) -> None:
    """Raises UsageError for options of `export` that do not go together, for example `--prefix` without `--to tad`."""
    check_choice("--to", to, TARGETS)
    check_choice("--compression", compression, CODECS)
    if compression and to != "zarr":
        raise UsageError(f"--compression {compression}: goes with --to zarr alone")
    if array and to not in ("npy", "tad", "webdataset"):
        raise UsageError(f"--array {array[0]}: goes with --to npy, tad or webdataset; an exported cache has all arrays")
    if tar_clips and to != "webdataset":
        raise UsageError(f"--tar-clips {tar_clips}: goes with --to webdataset alone")
    if prefix and to != "tad":
        raise UsageError(f"--prefix {prefix}: goes with --to tad alone")
    if "/" in prefix or not prefix.isprintable():
        raise UsageError(f"--prefix {prefix!r}: expected the first letters of file names, without /")


def _check_beside(to: str, beside: str | None, beside_array: list[str]) -> None:
    """Raises UsageError for `--beside` without `--to tad`, and for `--beside-array` without `--beside`."""
    if beside is not None and to != "tad":
        raise UsageError(f"--beside {beside}: goes with --to tad alone")
    if beside is None and beside_array:
        raise UsageError(f"--beside-array {beside_array[0]}: needs --beside CACHE")


def _check_coco(to: str, split: str | None, rows: str | None, videos: Path | None) -> None:
    """Raises UsageError for `--split`, `--rows` or `--videos` without `--to coco`, and for `--rows` of another form
    than A:B.
    """
    given = {"--split": split, "--rows": rows, "--videos": videos}
    if to != "coco" and (flags := [flag for flag, value in given.items() if value is not None]):
        raise UsageError(f"{flags[0]} {given[flags[0]]}: goes with --to coco alone")
    _range(rows)


def _range(rows: str | None) -> range | None:
    """Returns the row numbers of the option `--rows`: "10:20" -> range(10, 20), None -> None. Raises UsageError for any
    other text.
    """
    if rows is None:
        return None
    first, colon, end = rows.partition(":")
    if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise UsageError(f"--rows {rows}: expected A:B with two whole numbers, A below B, as 0:100")
    return range(int(first), int(end))


def import_(
    features: Annotated[
        Path, typer.Argument(metavar="FEATURES", help="Folder of .npy, .npz, .pt or .tar, or an HDF5 file.")
    ],
    into: Annotated[str, typer.Option(metavar="CACHE", help="Folder of the cache. A new cache is created.")],
    name: Annotated[str, typer.Option(help="Name of the stages: features/NAME, regions/NAME.")] = "imported",
    tap: Annotated[str, typer.Option(help="Name of the layer that the features are from.")] = "last",
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(FORMATS),
            help="Format of the files, if kinegraph cannot tell it. bottom_up_frames: a folder of .npz per video.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Dataset in each group of an HDF5 file (. if each is a video), tensor of .pt, or member of .tar.",
        ),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Rows of a new cache, with the columns path,label[,split].")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, metavar="T", help="Take T frames of each video.")] = None,
) -> int:
    """Import features of other tools into a cache, so that heads can train on them."""
    from kinegraph.pipeline.exchange.imported_stages import Naming
    from kinegraph.pipeline.exchange.importing import import_features

    check_choice("--kind", kind, FORMATS)
    naming = Naming(name=name, tap=tap)
    with counting() as progress:
        result = import_features(
            features, into, naming=naming, kind=kind, dataset=dataset, annotations=annotations, num_frames=frames,
            on_progress=progress,
        )  # fmt: skip
    printing.imported(result)
    return EXIT_CLIPS_FAILED if result.failures else 0
