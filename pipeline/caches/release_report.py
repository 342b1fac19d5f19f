"""Compares a data set in its owners' layout with the videos at hand and with the published numbers. Torch-free."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.datasets.listing import Listing
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.stream import Probe


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """The numbers of videos of one split. `listed` are in the label files, and `published` is the number that the
    owners publish, or None if they publish none. `present` have a file, and `missing` have none. `unreadable` have a
    file that could not be opened.
    """

    listed: int
    published: int | None
    present: int
    missing: int
    unreadable: int

    @property
    def differences(self) -> list[str]:
        """Returns words about each difference from the published number, and about videos that cannot be used."""
        words = []
        if self.published not in (None, self.listed):
            words.append(f"{self.listed:,} listed of {self.published:,} published")
        if self.missing:
            words.append(f"{self.missing:,} missing")
        if self.unreadable:
            words.append(f"{self.unreadable:,} unreadable")
        return words


def files_of_splits(
    listing: Listing, probes: Mapping[str, Probe | DecodeError], absent: Collection[str] = ()
) -> dict[str, SplitFiles]:
    """Returns name of the split -> SplitFiles, for a data set in its owners' layout. Returns an empty dict for others.

    `probes` maps the path of each video of `listing` to its facts, or to the error of opening it. `absent` has
    the paths without a file, which count as missing.
    """
    missing = Counter(absent.split for absent in listing.missing.values())
    split_of = {video.path: video.split for video in listing.videos}
    failed = (path for path in split_of if path not in absent and isinstance(probes[path], DecodeError))
    unreadable = Counter(split_of[path] for path in failed)
    return {
        split: SplitFiles(
            listed=(num_listed := listing.listed.get(split, 0)),
            published=listing.published.get(split),
            present=num_listed - missing[split],
            missing=missing[split],
            unreadable=unreadable[split],
        )
        for split in dict.fromkeys((*listing.published, *listing.listed))
    }


def differences(listing: Listing, files: Mapping[str, SplitFiles], num_unreadable: int) -> list[str]:
    """Compares the videos of a data set with the numbers that its owners publish. Returns a sentence for each split
    with missing or unreadable videos, or with another number of videos than the published one. Another number of
    classes is a sentence, too. `files` is the result of `files_of_splits` for `listing`.

    For a data set that is not in its owners' layout, only unreadable videos count. `num_unreadable` is their number.
    """
    return [*_differences(listing, files, num_unreadable)]


def _differences(listing: Listing, files: Mapping[str, SplitFiles], num_unreadable: int) -> Iterator[str]:
    for split, of_split in files.items():
        if words := of_split.differences:
            yield f"{split}: {', '.join(words)}."
    if listing.num_published_classes not in (0, len(listing.classes)):
        yield f"{counted(len(listing.classes), 'class')}, published {listing.num_published_classes}."
    if not files and num_unreadable:
        yield f"{counted(num_unreadable, 'video')} unreadable."
