"""Computes fingerprints. A fingerprint is a digest of all options that change the values of a stage."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Options = Mapping[str, Any]


def canonical(options: Options) -> str:
    """Returns `options` as JSON with sorted keys and without spaces, so that equal options become equal text."""
    return json.dumps(options, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(options: Options) -> str:
    """Returns the SHA-256 of `options`, written as JSON with sorted keys, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(options).encode()).hexdigest()


def differences(old: Options, new: Options, prefix: str = "") -> list[str]:
    """Returns one line `key: old value -> new value` for each key whose value differs between `old` and `new`.

    A key of an inner mapping is written as a path (`clips.fps: 25 -> 30`). A missing value is written as `(absent)`.
    Each line begins with `prefix`.
    """
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, "(absent)"), new.get(key, "(absent)")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return lines


def are_imported(options: Options) -> bool:
    """Returns whether the command `import` made `options`, which are the options of a stage or the clip options of a
    cache. If not, the options come from a config.
    """
    return "provenance" in options
