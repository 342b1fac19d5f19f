"""What is known of weight files by name, and the normalisations they were trained with. Imports no torch."""

from dataclasses import dataclass

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KINETICS_MEAN, KINETICS_STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """A weight file that is known by name: public (`url`) or part of this package (`path`).

    sha256: all 64 hex digits or the leading ones, as published.
    path: of a shipped file, relative to the folder of the package `stages`.
    """

    file_name: str
    sha256: str
    licence: str
    url: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if (self.url is None) == (self.path is None):
            raise ValueError(f"weights {self.file_name}: exactly one of url and path is needed")
