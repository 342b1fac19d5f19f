"""Compares the videos of a data set with the files that exist, and with the numbers that the owners of the data set
publish. Imports no torch.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.datasets.listing import Listing
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.probing import Probe


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """The numbers of videos of one split."""

    listed: int  # videos in the label files
    published: int | None  # the number that the owners publish, or None
    present: int  # listed videos that have a file
    missing: int  # listed videos that have no file
    unreadable: int  # videos whose file could not be opened

    @property
    def differences(self) -> list[str]:
        """Returns a short text for each fault of the split, such as "3 missing" or "97 listed of 100 published"."""
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
    """Returns {name of the split: SplitFiles}, with the numbers of listed, published, present, missing and unreadable
    videos. The result is empty unless the data set is in its owners' layout.

    `listing` has the videos of the data set. `probes` maps the path of each video to its facts, or to the error of
    opening it. Videos whose path is in `absent` count as missing.
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
    """Returns sentences about missing and unreadable videos, and about numbers of videos and classes that differ from
    the published ones. There is one sentence for each split with a difference.

    `files` is the result of `files_of_splits` for `listing`. If the data set is not in its owners' layout, the only
    sentence is about the `num_unreadable` videos that could not be opened.
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
