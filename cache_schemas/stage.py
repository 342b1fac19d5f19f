"""Describes one stage of a cache: its key, its options, its arrays and its fingerprint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kinegraph.cache_schemas.arrays import SCHEMA_VERSION, ArraySpec
from kinegraph.cache_schemas.documents import StageDocument
from kinegraph.cache_schemas.fingerprint import Options, are_imported, fingerprint


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a cache, for example the stage with the key `features/i3d`."""

    key: str
    # Every option that changes the values of the stage. They include the digest of the network's weights and the
    # fingerprints of the stages that this stage reads.
    options: Options
    arrays: tuple[ArraySpec, ...]  # the arrays that the stage writes
    weights: str = ""  # the entry `weights` of the config, for example the path of a file
    upgraded_from: str = ""  # the fingerprint before the cache was upgraded, or ""

    @property
    def fingerprint(self) -> str:
        """Returns the fingerprint of the stage, which is the digest of `options`."""
        return fingerprint(self.options)

    @property
    def reads(self) -> Mapping[str, str]:
        """Returns stage key -> fingerprint, for each stage whose rows this stage reads."""
        read_keys: Mapping[str, str] = self.options.get("reads", {})
        return read_keys

    @property
    def is_imported(self) -> bool:
        """Returns whether the command `import` made the stage. The features of such a stage come from another
        program.
        """
        return are_imported(self.options)

    def document(self) -> dict[str, Any]:
        """Returns the content of the file stages/<key>.json, which describes this stage, as a dict."""
        arrays = [spec.document() for spec in self.arrays]
        upgraded = {"upgraded_from": self.upgraded_from} if self.upgraded_from else {}
        return upgraded | {
            "schema_version": SCHEMA_VERSION,
            "key": self.key,
            "fingerprint": self.fingerprint,
            "options": dict(self.options),
            "weights": self.weights,
            "arrays": arrays,
        }

    @classmethod
    def of(cls, document: StageDocument) -> "Stage":
        """Returns the Stage that the file stages/<key>.json describes. `document` is the parsed file."""
        arrays = tuple(array.spec for array in document.arrays)
        return cls(
            key=document.key,
            options=document.options,
            arrays=arrays,
            weights=document.weights,
            upgraded_from=document.upgraded_from,
        )
