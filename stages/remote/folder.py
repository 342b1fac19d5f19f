"""Makes a temporary folder that is removed even if its process is killed. Torch-free.

The process locks a file beside its folder. The kernel releases the lock when the process dies, however it dies. A later
process removes each folder whose file is not locked. This works across containers, too.
"""

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK, GONE, GATE = ".lock", ".gone", "gate"


class StagingError(RuntimeError):
    """Raised if the folder for copies of videos cannot be used, or if its disk is full."""


class OwnFolder:
    """A new empty folder below the folder `base`, or below the system's temporary folder if `base` is None. `path` is
    the path of the new folder.

    Folders that dead processes of this user left behind are removed first. Raises StagingError if the folder cannot be
    made.
    """

    def __init__(self, base: str | None) -> None:
        self._base = Path(base or tempfile.gettempdir()) / f"kinegraph-staging-{os.getuid()}"
        try:
            _make_private(self._base)
            with _locked(self._base / GATE):  # no process may sweep between making a folder and making its lock
                _sweep(self._base)
                self.path = self._base / uuid.uuid4().hex
                self._lock = os.open(_beside(self.path, LOCK), os.O_CREAT | os.O_RDWR, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                self.path.mkdir()
        except OSError as error:
            raise StagingError(
                f"{self._base}: {error.strerror}. Videos at URLs are copied there: name a folder of a local disk in "
                "run.staging.folder."
            ) from error

    def remove(self) -> None:
        """Removes the folder with all its files. After this call, other threads can make no new file in the folder."""
        gone = _beside(self.path, GONE)
        with suppress(OSError):
            self.path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        _beside(self.path, LOCK).unlink(missing_ok=True)
        os.close(self._lock)


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


def _make_private(base: Path) -> None:
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = base.lstat()
    if status.st_uid != os.getuid() or not base.is_dir() or base.is_symlink():
        raise PermissionError(None, "is not a folder of this user")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sweep(base: Path) -> None:
    for lock in base.glob(f"*{LOCK}"):
        with suppress(OSError):  # a living process holds the lock, or its process removes it at this moment
            descriptor = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                folder = lock.with_suffix("")
                for left in (folder, _beside(folder, GONE)):
                    shutil.rmtree(left, ignore_errors=True)
                lock.unlink()
            finally:
                os.close(descriptor)
