"""Prints everything about one network: `kinegraph models NAME`."""

from collections.abc import Iterator, Mapping
from typing import Any

from kinegraph.cache_schemas.words import counted
from kinegraph.cli.printing.text import say, say_page, say_table, wrapped

TITLE = 14  # width of the words before a fact
UNKNOWN = "unknown"
IN_OTHER_LINES = frozenset({  # keys that another line of the output already covers
    "name", "kind", "about", "params", "gmacs", "input", "taps", "options", "chosen", "weights", "pixels", "size",
    "min_frames", "sees_single_frames", "head_channels", "head_shape", "inflates", "checkpoints", "remarks", "folder",
    "identity", "source", "class_token", "has_head", "sees", "usual",
})  # fmt: skip


def network(row: Mapping[str, Any]) -> None:
    """Prints everything about the network `row`, an entry of `kinegraph models --json`. Lines are as long as the
    terminal is wide, or 80 columns in a file.
    """
    say_page(f"{row['name']}, {'a backbone' if row['kind'] == 'backbone' else 'a proposal network'}")
    for title, words in _facts(row):
        say_page(wrapped(f"  {f'{title}: ' if title else '':<{TITLE}}", words))
    if row["taps"]:
        say()
        _taps(row)
    for source in row["weights"]:
        say()
        say_page(f"weights {source['name']}")
        for title, words in _source(source):
            say_page(wrapped(f"  {title + ':':<{TITLE}}", words))
        say(f"  {source['source']}")
    if not row["weights"]:
        say()
        say_page(f"weights: none has a name here, {_own_weights(row)}. The licence is what the owners say")
    say()
    say_page("In a config:")
    say_page(f"  {_example(row)}")
    for remark in row.get("remarks", ()):
        say_page(remark)


def _own_weights(row: Mapping[str, Any]) -> str:
    if row["kind"] == "proposals":
        return "those in the folder are taken"
    return "`pretrained` is what belongs to the name" if "/" in row["name"] else "give the path of a file"


def _facts(row: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yields (title, words) for each line about the network itself, for example ("parameters", ["27,226,424"])."""
    form = row["input"]
    if "about" in row:
        yield "about", [row["about"]]
    if row.get("usual"):
        yield "numbers of", [row["usual"], "other networks have those of their config.json"]
    size = f"{form['size']} px" if "size" in form else f"{form['width']} x {form['height']} px"
    of_frames = f"{counted(form['num_frames'], 'frame')} of {size}{' of optical flow' * (row.get('sees') == 'flow')}"
    if row["params"] is None:
        yield "parameters", ["not counted", f"usual input: {of_frames}"]
    else:
        classes = f"with a classifier of {counted(form['num_classes'], 'class')}" if form.get("num_classes") else ""
        yield "parameters", [f"{row['params']:,}", *([classes] if classes else [])]
        yield "GMACs", [f"{row['gmacs']:,.3f} for {of_frames}"]
    if pixels := row.get("pixels"):
        yield "pixels", list(_pixels(pixels))
    elif "about" in row:
        yield "pixels", ["as the file of the processor in the folder says"]
    if "min_frames" in row:
        only = row["taps"][-1]
        frames = f"exactly {only['only_frames']}" if only["only_frames"] else f"{row['min_frames']} or more"
        yield "frames", [frames, _sight(row)]
        other = "no other" if only["only_size"] else "unless the config has another `size`"
        yield "size", [f"{row['size']} px", other]
        yield "output head", [_head(row)]
    if row.get("has_head"):
        yield "output head", ["with `head: true`"]
    if row.get("source") and row["kind"] == "proposals":
        yield "source", [f"`proposals.source: {row['source']}`"]
    if row.get("inflates"):
        yield "inflates", [f"weights of {row['inflates']}", "`weights: inflate:<NAME>`"]
    if row["options"]:
        yield "options", [f"{key}: {' or '.join(map(str, values))}" for key, values in row["options"].items()]
        yield "", ["the first value of an option is the paper's"]
    if "checkpoints" in row and "/" not in row["name"]:
        yield "files with", [*row["checkpoints"], "torchvision's names or our own"]
    for key, value in row.items():
        if key not in IN_OTHER_LINES and value not in (None, "", [], {}):
            yield key.replace("_", " "), [str(value)]


def _sight(row: Mapping[str, Any]) -> str:
    return (
        "the map of a frame depends on this frame alone" if row["sees_single_frames"] else "maps depend on all frames"
    )


def _head(row: Mapping[str, Any]) -> str:
    if row["head_channels"] is None:
        return "none"
    shape = " x ".join(map(str, row["head_shape"]))
    return f"{shape} numbers a clip, with `head: true`"


def _pixels(pixels: Mapping[str, Any]) -> Iterator[str]:
    yield f"{pixels['channel_order']} from 0 to {pixels.get('highest', 1)}"
    for key in ("mean", "std"):
        yield f"{key} {' '.join(f'{value:.6g}' for value in pixels[key])}"


def _taps(row: Mapping[str, Any]) -> None:
    """Prints the table of taps, with the shape of each tap's map for the standard input."""
    form = row["input"]
    rows = [
        [tap["name"], str(tap["channels"]), str(tap["stride"]), str(tap["temporal_stride"]), _shape(tap["shape"]),
         "-" if tap["tokens"] is None else f"{tap['tokens']:,}", tap.get("class_token") or "-"]
        for tap in row["taps"]
    ]  # fmt: skip
    say_table(["tap", "channels", "px", "frames", "map", "tokens", "class token"], rows)
    say_page(
        f"px, frames: strides. map: T x C x H x W of {counted(form['num_frames'], 'frame')} of {form['size']} px. "
        "tokens: its T x H x W cells. class token: one per frame or per clip, with `tokens: class`"
    )
    for limit in dict.fromkeys(limit for tap in row["taps"] for limit in _limits(tap)):
        say_page(f"input: {limit}")


def _limits(tap: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the input must be like to get maps at `tap`, for example "a multiple of 32 px of a side"."""
    for key, what in (("size_multiple", "px of a side"), ("frames_multiple", "frames")):
        if tap[key] > 1:
            yield f"a multiple of {tap[key]} {what}"
    if tap["is_spread"]:
        yield f"maps of {tap['name'].partition('_')[0]} taps are of frames that are spread from the first to the last"


def _shape(shape: list[int] | None) -> str:
    return "-" if shape is None else " x ".join(map(str, shape))


def _source(source: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yields (title, words) for each line about one file of weights, for example ("licence", ["Apache-2.0"])."""
    yield "licence", [source["licence"] or UNKNOWN]
    checked = "so a download is not checked" if "://" in source["source"] else "nothing is downloaded"
    yield "sha256", [source["sha256"] or f"{UNKNOWN}, {checked}"]
    if source["pixels"]:
        yield "pixels", list(_pixels(source["pixels"]))
    if sampling := source["sampling"]:
        fps = "over the whole video" if sampling["fps"] is None else f"at {sampling['fps']:g} fps"
        yield "clips", [f"{counted(sampling['num_frames'], 'frame')} {fps}"]
    sides = (("short side", source["short_side_px"]), ("crop", source["crop_px"]))
    texts = [f"{name} {side} px" for name, side in sides if side]
    texts += [f"resize: {source['resize']}"] if source["resize"] else []
    if texts:
        yield "tested with", texts
    if source["classes"]:
        yield "classes", [f"{source['classes']:,}"]
    if source["geometry"]:
        yield "geometry", [f"{key}: {value}" for key, value in source["geometry"].items()]


def _example(row: Mapping[str, Any]) -> str:
    """Returns a line for a config that uses the network."""
    weights = row["weights"][0]["name"] if row["weights"] else "pretrained" if "/" in row["name"] else "FILE"
    model = "transformers/<folder>" if row.get("usual") else row["name"]
    if row["kind"] == "proposals":
        has_model = row["source"] in ("torchvision", "transformers")
        named = [f"source: {row['source']}", *([f"model: {model}"] if has_model else [])]
        return f"proposals: {{{', '.join([*named, *([f'weights: {weights}'] if row['weights'] else [])])}}}"
    return f"backbones: {{net: {{model: {model}, weights: {weights}, taps: [{row['taps'][-1]['name']}]}}}}"
