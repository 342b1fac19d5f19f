"""Printed output of import and export."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kinegraph.cache_schemas.words import counted
from kinegraph.cli.printing.failures import by_video
from kinegraph.cli.printing.text import note, note_listed, say, say_whole

if TYPE_CHECKING:
    from kinegraph.pipeline.exchange.importing import Imported
    from kinegraph.pipeline.exchange.to_npy import ExportedFiles
    from kinegraph.pipeline.exchange.to_store import ExportedCache


def exported_cache(found: "ExportedCache") -> None:
    there = found.num_sealed - found.num_copied - len(found.damaged)
    unsealed = f"; not sealed in the source: {found.num_unsealed:,}" if found.num_unsealed else ""
    copied = counted(found.num_copied, "shard of a stage", "shards of stages")
    say(f"{found.cache.root}: {copied} copied, {there:,} there before{unsealed}")
    _damaged(found.damaged)


def exported_files(found: "ExportedFiles", out: str) -> None:
    say(f"{out}: {counted(found.num_files, 'file')}. clips.csv maps rows to clips")
    if found.num_failed:
        note(f"{counted(found.num_failed, 'clip')} failed in a stage. Their rows hold fill values, clips.csv says why")
    for stage, videos in found.unsealed.items():
        count = counted(len(videos), "video")
        note_listed(f"left out, not sealed in {stage} yet: {count}:", videos)
    _damaged(found.damaged)


def _damaged(sentences: Sequence[str]) -> None:
    note_listed(f"left out, damaged: {counted(len(sentences), 'shard')}:", sentences)


def imported(found: "Imported") -> None:
    names = [f"{spec.name} {list(spec.shape)}" for stage in found.stages for spec in stage.arrays]
    say(f"{found.cache.root}: {counted(found.num_videos, 'video')} from {found.kind} files: {', '.join(names)}")
    left_out = counted(len(found.left_out), "video")
    note_listed(f"left out: {left_out} of the files, without a row in the cache:", found.left_out)
    note_listed(
        f"{len(found.failures):,} of {counted(found.cache.num_rows, 'clip')} failed:",
        by_video(found.failures, found.cache.root),
    )
    if found.cache.classes:
        say("This config is enough for `kinegraph train CONFIG`:")
        say_whole(_train_config(found))
    else:
        say("The cache has no labels yet. The same command with --annotations CSV (path,label[,split]) adds them")


def _train_config(found: "Imported") -> str:
    """Returns a YAML config that trains on the imported features and on the splits of the cache."""
    import yaml

    name, tap = found.naming.name, found.naming.tap
    splits = {str(split) for split in found.cache.clips.column("split")}
    head = "strg" if f"regions/{name}" in found.cache.stage_keys() else "avg_pool"
    train: dict[str, Any] = {"head": head, "options": {"backbone": name, "tap": tap}, "run": f"runs/{name}"}
    if "val" not in splits:
        train["val_split"] = None
    return yaml.safe_dump({"cache": found.cache.root, "train": train}, sort_keys=False)
