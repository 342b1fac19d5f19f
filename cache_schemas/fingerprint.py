"""Computes fingerprints. A fingerprint is the digest of all options that change the values of a feature."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Options = Mapping[str, Any]


def canonical(options: Options) -> str:
    """Returns `options` as JSON with sorted keys and without spaces."""
    return json.dumps(options, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(options: Options) -> str:
    """Returns the SHA-256 of `options` as JSON with sorted keys: 64 hexadecimal digits."""
    return hashlib.sha256(canonical(options).encode()).hexdigest()


def differences(old: Options, new: Options, prefix: str = "") -> list[str]:
    """Returns one line `key: old value -> new value` for each key whose values in `old` and `new` differ. A key of an
    inner mapping is written as a path of keys (`clips.fps: 25 -> 30`). A value that `old` or `new` lacks is written as
    `(absent)`. Each line begins with `prefix`.
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
    """Returns whether the command `import` made `options`, the options of a stage or the clip options of a cache. False
    means that the options come from a config.
    """
    return "provenance" in options
