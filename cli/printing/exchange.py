"""What import and export print."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.printing.failures import by_video
from cli.printing.text import note, note_listed, say

if TYPE_CHECKING:
    from pipeline.exporting import ExportedCache
    from pipeline.exporting_npy import ExportedFiles
    from pipeline.importing import Imported


def exported_cache(found: "ExportedCache") -> None:
    there = found.num_sealed - found.num_copied - len(found.damaged)
    unsealed = f"; {found.num_unsealed} are not sealed in the source" if found.num_unsealed else ""
    say(f"{found.cache.root}: {found.num_copied} shards of stages copied, {there} were there{unsealed}")
    _damaged(found.damaged)


def exported_files(found: "ExportedFiles", out: str) -> None:
    say(f"{out}: {found.num_files} files, clips.csv says which row is which clip")
    if found.num_failed:
        note(f"{found.num_failed} clips failed in a stage: they hold fill values, clips.csv says why")
    for stage, videos in found.unsealed.items():
        note_listed(f"{len(videos)} videos are not sealed in {stage} yet and left out:", videos)
    _damaged(found.damaged)


def _damaged(sentences: Sequence[str]) -> None:
    note_listed(f"{len(sentences)} shards are damaged and left out:", sentences)


def imported(found: "Imported") -> None:
    names = [f"{spec.name} {list(spec.shape)}" for stage in found.stages for spec in stage.arrays]
    say(f"{found.cache.root}: {found.num_videos} videos from {found.kind} files: {', '.join(names)}")
    note_listed(f"{len(found.left_out)} videos of the files have no row in the cache and are left out:", found.left_out)
    note_listed(
        f"{len(found.failures)} of {found.cache.num_rows} clips failed:",
        by_video(found.failures, found.cache.root),
    )
    if found.cache.classes:
        say(f"`kinegraph train CONFIG` needs no more of a config than this:\n{_train_config(found)}", end="")
    else:
        say("no labels yet: the same command with --annotations CSV (path,label[,split]) adds them")


def _train_config(found: "Imported") -> str:
    """A config that trains on imported features, on the splits there are."""
    import yaml

    name, tap = found.naming.name, found.naming.tap
    splits = {str(split) for split in found.cache.clips.column("split")}
    head = "strg" if f"regions/{name}" in found.cache.stage_keys() else "avg_pool"
    train: dict[str, Any] = {"head": head, "options": {"backbone": name, "tap": tap}, "run": f"runs/{name}"}
    if "val" not in splits:
        train["val_split"] = None
    return yaml.safe_dump({"cache": found.cache.root, "train": train}, sort_keys=False)
