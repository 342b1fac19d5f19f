"""Describes one stage of a cache: its key, its options, its arrays and its fingerprint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kinegraph.cache_schemas.arrays import SCHEMA_VERSION, ArraySpec
from kinegraph.cache_schemas.documents import StageDocument
from kinegraph.cache_schemas.fingerprint import Options, are_imported, fingerprint


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Describes one stage of a cache, for example the stage with the key `features/i3d`.

    `arrays` describes the arrays that the stage writes. `options` has every option that changes their values. It also
    has the digest of the network's weights, and the fingerprints of the stages that this stage reads. `weights` is the
    entry `weights` of the config, for example the path of a file. `upgraded_from` is the fingerprint before the cache
    was upgraded, or "" if it was not.
    """

    key: str
    options: Options
    arrays: tuple[ArraySpec, ...]
    weights: str = ""
    upgraded_from: str = ""

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
        """Returns whether the command `import` made the stage. Another program computed the features of such a stage,
        and no config describes them.
        """
        return are_imported(self.options)

    def document(self) -> dict[str, Any]:
        """Returns the stage as a dict, which is written to stages/<key>.json."""
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
        """Returns the Stage that `document`, the parsed file stages/<key>.json, describes."""
        arrays = tuple(array.spec for array in document.arrays)
        return cls(
            key=document.key,
            options=document.options,
            arrays=arrays,
            weights=document.weights,
            upgraded_from=document.upgraded_from,
        )
