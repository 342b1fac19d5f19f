"""Import of files of torch.save and of webdataset's tar files: what is read, and what is refused."""

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.exchange.importing import import_features
from kinegraph.pipeline.exchange.to_webdataset import export_webdataset
from kinegraph.stages.imports.features import FeatureFileError, UnusableError
from kinegraph.stages.imports.pt_files import PtFiles
from kinegraph.stages.imports.recognise import open_features
from kinegraph.stages.imports.tar_files import TarFiles
from tests.caches import rows_of
from tests.foreign import C, features

T = 3
VIDEOS = {f"walk/v{n}": features(n, T, C) for n in range(3)}
POOLED = "features/imported/last_pooled"
Entry = tuple[str, bytes] | tarfile.TarInfo


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def write_tar(path: Path, *entries: Entry, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for entry in entries:
            info = tarfile.TarInfo(entry[0]) if isinstance(entry, tuple) else entry
            content = entry[1] if isinstance(entry, tuple) else b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_pt(root: Path, name: str, content: object) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content if isinstance(content, bytes) else saved(content))
    return root


def test_tensors_and_samples_become_the_same_rows(tmp_path: Path) -> None:
    entries = []
    for number, (video, values) in enumerate(VIDEOS.items()):
        tensor = torch.from_numpy(values)
        write_pt(tmp_path / "pt", f"{video}.{('pt', 'pth')[number % 2]}", {"x": tensor} if number else tensor)
        content = npy(values) if number else saved(tensor)
        entries += [(f"{video}.{'feats.npy' if number else 'feats.pth'}", content), (f"{video}.cls", b"1")]
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "a.tar", *entries)
    for kind, source in (("pt", tmp_path / "pt"), ("webdataset", tmp_path / "tars")):
        found = import_features(source, tmp_path / kind)
        assert (found.kind, found.num_videos, found.failures) == (kind, 3, ())
        assert verify(found.cache.root).ok
        clips = CachedClips(found.cache, [POOLED])
        np.testing.assert_array_equal(clips.batch(range(3))[POOLED].numpy(), np.stack([*VIDEOS.values()]))


def test_exported_samples_come_back(whole: Cache, tmp_path: Path) -> None:
    """Their json has the id of the video."""
    name = "features/tiny/res4_pooled"
    export_webdataset(whole, str(tmp_path / "tars"), [name], tar_clips=4)
    found = import_features(tmp_path / "tars", whole.root)
    assert (found.left_out, found.failures) == ((), ())
    np.testing.assert_array_equal(rows_of(whole.root, POOLED), rows_of(whole.root, name))


class Runs:
    """Would run code if it was unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (Path("ran"),)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (saved({"x": Runs()}), "refused: the file asks for"),
        (pickle.dumps(Runs()), "v: "),
        (saved(torch.zeros(4))[:-40], "cannot be read as a file of tensors"),
        (saved(torch.zeros(1).expand(1 << 28, 8)), "would unpack to"),
        (saved(torch.zeros(4, 4).to_sparse()), "a sparse, quantized or empty"),
        (b"words", "v.pt: "),
    ],
)
def test_files_of_tensors_that_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnusableError, match=words.replace("v: ", r"v\.pt: ")):
        PtFiles(write_pt(tmp_path / "pt", "v.pt", content)).read("v")
    tar = write_tar(tmp_path / "a.tar", ("v.x.pt", content))
    with pytest.raises(UnusableError, match=r"a\.tar:v\.x\.pt"):
        TarFiles(tar).read("v")
    assert not (tmp_path / "ran").exists()


def test_files_of_several_tensors(tmp_path: Path) -> None:
    root = write_pt(tmp_path, "v.pt", {"x": torch.ones(2, 4, dtype=torch.bfloat16), "y": torch.zeros(3), "fps": 25})
    with pytest.raises(FeatureFileError, match=r"v\.pt has x, y\. Choose a tensor by --dataset NAME"):
        PtFiles(root).read("v")
    with pytest.raises(FeatureFileError, match=r"--dataset z: .*v\.pt has x, y"):
        PtFiles(root, "z").read("v")
    assert PtFiles(root, "x").read("v").arrays["pooled"].tolist() == [[1.0] * 4] * 2
    with pytest.raises(FeatureFileError, match="holds list; a tensor or a dict"):
        PtFiles(write_pt(tmp_path, "v.pt", [1, 2])).read("v")
    write_pt(tmp_path, "v.pth", torch.zeros(3))
    with pytest.raises(FeatureFileError, match=r"are of one video"):
        PtFiles(root).videos()


def link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("v.npy")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


GOOD = npy(features(0, T, C))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([("../v.npy", GOOD)], r"refused: '\.\./v\.npy' leads out of the archive"),
        ([("/v.npy", GOOD)], r"refused: '/v\.npy' leads out"),
        ([("a/../../v.npy", GOOD)], "leads out"),
        ([("..\\v.npy", GOOD)], "leads out"),
        ([link(tarfile.SYMTYPE)], r"'v\.npy' is a link, a device"),
        ([link(tarfile.LNKTYPE)], "is a link"),
        ([link(tarfile.CHRTYPE)], "is a link, a device"),
        ([link(tarfile.FIFOTYPE)], "is a link, a device"),
        ([("v.npy", GOOD), ("v.extra.PKL", b"")], r"refused: 'v\.extra\.PKL' is a pickle"),
        ([("v.pyd", b"")], r"'v\.pyd' is a pickle"),
        ([("v.a.npy", GOOD), ("v.b.npy", GOOD)], r"v has a\.npy, b\.npy\. Choose one by --dataset"),
        ([("v.npy", GOOD), ("w.npy", GOOD), ("w.json", b'{"video_id": "v"}')], "are of one video, v"),
        ([("v.npy", GOOD), ("v.json", b"{")], r"a\.tar:v\.json: no JSON"),
        ([("v.jpg", b"")], "has nothing to import as webdataset"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, entries: list[Entry], words: str) -> None:
    tar = write_tar(tmp_path / "a.tar", *entries)
    with pytest.raises(FeatureFileError, match=words):
        open_features(tar)


def test_archives_that_are_cut_off(tmp_path: Path) -> None:
    """At each block: in a header, in values, and before the end mark."""
    whole = write_tar(tmp_path / "a.tar", ("v.npy", GOOD), ("w.npy", GOOD)).read_bytes()
    used = 2 * (tarfile.BLOCKSIZE + -(-len(GOOD) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
    for size in [*range(0, used + 1, tarfile.BLOCKSIZE), 100, used - 100]:
        (tmp_path / "a.tar").write_bytes(whole[:size])
        with pytest.raises(FeatureFileError, match=r"a\.tar.*(cut off|nothing to import)"):
            open_features(tmp_path / "a.tar")
    damaged = bytearray(whole)
    damaged[used // 2 + 3] ^= 1  # in the header of the second member
    (tmp_path / "a.tar").write_bytes(damaged)
    with pytest.raises(FeatureFileError, match="damaged after byte"):
        open_features(tmp_path / "a.tar")


def test_other_archives(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", ("v.npy", GOOD), mode="w:gz")
    with pytest.raises(FeatureFileError, match="is compressed, and only plain tar files are read"):
        open_features(tar)
    tar.write_text("words")
    with pytest.raises(FeatureFileError, match="no tar file, or damaged"):
        open_features(tar)
    objects = npy(np.array([{}], object))
    with pytest.raises(UnusableError, match=r"a\.tar:v\.npy: it holds Python objects"):
        TarFiles(write_tar(tar, ("v.npy", objects))).read("v")
    with pytest.raises(UnusableError, match=r"a\.tar:v\.npy: .* ends|which is .* bytes, and .* follow"):
        TarFiles(write_tar(tar, ("v.npy", GOOD[:-4]))).read("v")


def test_members_that_are_chosen(tmp_path: Path) -> None:
    facts = json.dumps({"video_id": "walk/1.mp4"}).encode()
    tar = write_tar(tmp_path / "a.tar", ("k.a.npy", GOOD), ("k.b.npy", npy(np.zeros(5))), ("k.json", facts))
    for dataset in ("b", "b.npy"):
        files = TarFiles(tar, dataset)
        assert files.videos() == ["walk/1.mp4"]
        assert files.read("walk/1.mp4").shapes == {"pooled": (1, 5)}
    with pytest.raises(FeatureFileError, match=r"--dataset c: .* has a\.npy, b\.npy"):
        TarFiles(tar, "c").videos()
