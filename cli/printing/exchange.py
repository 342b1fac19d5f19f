"""Prints the output of `import` and `export`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kinegraph.cache_schemas.words import counted, size
from kinegraph.cli.printing.failures import by_video
from kinegraph.cli.printing.text import note, note_listed, say, say_whole

if TYPE_CHECKING:
    from kinegraph.pipeline.exchange.importing import Imported
    from kinegraph.pipeline.exchange.to_coco import CocoSize, ExportedFrames
    from kinegraph.pipeline.exchange.to_npy import ExportedFiles
    from kinegraph.pipeline.exchange.to_store import ExportedCache
    from kinegraph.pipeline.exchange.to_tad import ExportedSequences
    from kinegraph.pipeline.exchange.to_webdataset import ExportedClips


def exported_cache(export: "ExportedCache") -> None:
    there = export.num_sealed - export.num_copied - len(export.damaged)
    unsealed = f"; not sealed in the source: {export.num_unsealed:,}" if export.num_unsealed else ""
    copied = counted(export.num_copied, "shard of a stage", "shards of stages")
    say(f"{export.cache.root}: {copied} copied, {there:,} there before{unsealed}")
    _damaged(export.damaged)


def exported_files(export: "ExportedFiles", out: str) -> None:
    say(f"{out}: {counted(export.num_files, 'file')}. clips.csv maps rows to clips")
    if export.num_failed:
        note(f"{counted(export.num_failed, 'clip')} failed in a stage. Their rows hold fill values, clips.csv says why")
    for stage, videos in export.unsealed.items():
        count = counted(len(videos), "video")
        note_listed(f"left out, not sealed in {stage} yet: {count}:", videos)
    _damaged(export.damaged)


def exported_sequences(export: "ExportedSequences", out: str) -> None:
    say(f"{out}: {counted(export.num_files, 'video')} with features, {len(export.missing):,} without")
    note_listed(
        f"listed in missing_files.txt: {counted(len(export.missing), 'video')}:",
        [f"{video}: {reason}" for video, reason in export.missing.items()],
    )
    note_listed(f"only in the second cache, left out: {counted(len(export.unmatched), 'video')}:", export.unmatched)
    _damaged(export.damaged)


def exported_clips(export: "ExportedClips", out: str) -> None:
    tars = counted(export.num_tars, "tar file")
    say(f"{out}: {counted(export.num_clips, 'clip')} in {tars}. clips.csv says which clip is where")
    note_listed(
        f"left out, clips.csv says why: {counted(len(export.left_out), 'clip')}:",
        [f"{clip}: {reason}" for clip, reason in export.left_out.items()],
    )
    _damaged(export.damaged)


def size_of_frames(expected: "CocoSize") -> None:
    """Prints how many images `export --to coco` will write, and how large they will be."""
    free = "" if expected.free_bytes is None else f", {size(expected.free_bytes)} are free"
    images, clips = counted(expected.num_images, "image"), counted(expected.num_clips, "clip")
    note(f"{images} of {clips}, about {size(expected.num_bytes)}{free}")


def exported_frames(export: "ExportedFrames", out: str) -> None:
    images, clips = counted(export.num_images, "image"), counted(export.num_clips, "clip")
    boxes = counted(export.num_boxes, "box")
    say(f"{out}: {images} of {clips} with {boxes}. annotations.json has the boxes")
    if export.num_removed:
        note(f"removed: {counted(export.num_removed, 'image')} of an earlier export that this one does not have")
    note_listed(
        f"left out: {counted(len(export.left_out), 'clip')}:",
        [f"{clip}: {reason}" for clip, reason in export.left_out.items()],
    )
    _damaged(export.damaged)


def _damaged(sentences: Sequence[str]) -> None:
    note_listed(f"left out, damaged: {counted(len(sentences), 'shard')}:", sentences)


def imported(result: "Imported") -> None:
    names = [f"{spec.name} {list(spec.shape)}" for stage in result.stages for spec in stage.arrays]
    say(f"{result.cache.root}: {counted(result.num_videos, 'video')} from {result.kind} files: {', '.join(names)}")
    left_out = counted(len(result.left_out), "video")
    note_listed(f"left out: {left_out} of the files, without a row in the cache:", result.left_out)
    note_listed(
        f"{len(result.failures):,} of {counted(result.cache.num_rows, 'clip')} failed:",
        by_video(result.failures, result.cache.root),
    )
    if result.cache.classes:
        say("This config is enough for `kinegraph train CONFIG`:")
        say_whole(_train_config(result))
    else:
        say("The cache has no labels yet. The same command with --annotations CSV (path,label[,split]) adds them")


def _train_config(result: "Imported") -> str:
    """Returns a YAML config that trains a head on the imported features `result`."""
    import yaml

    name, tap = result.naming.name, result.naming.tap
    splits = {str(split) for split in result.cache.clips.column("split")}
    head = "strg" if f"regions/{name}" in result.cache.stage_keys() else "avg_pool"
    train: dict[str, Any] = {"head": head, "options": {"backbone": name, "tap": tap}, "run": f"runs/{name}"}
    if "val" not in splits:
        train["val_split"] = None
    return yaml.safe_dump({"cache": result.cache.root, "train": train}, sort_keys=False)
