"""Lists, describes, probes and copies videos at URLs, through fsspec. Torch-free.

A request that fails because of the network is repeated. If the video is at fault, a DecodeError is raised.
"""

import errno
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, TypeVar
from urllib.parse import unquote

import fsspec
from fsspec.callbacks import Callback

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.file_systems import open_file_system
from kinegraph.cache_schemas.words import counted, sentence
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.probing import Probe, probe
from kinegraph.stages.decode.source import sampled_digest
from kinegraph.stages.decode.stream import Seekable
from kinegraph.stages.errors import UsageError
from kinegraph.stages.remote.faults import (
    CredentialsError,
    NetworkError,
    NoRanges,
    Stopped,
    fault_of,
    in_words,
    too_large,
)
from kinegraph.stages.remote.info import RemoteInfo
from kinegraph.stages.remote.urls import HTTP, origin

T = TypeVar("T")
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0
# Longest silence of an HTTP server. fsspec's limit of five minutes for a whole file is too short for large files.
SILENCE_SECONDS = 60.0
HEADER_BLOCK_BYTES, HEADER_BLOCKS = 1 << 20, 8
ONE_PART = {"max_concurrency": 1}  # otherwise s3fs holds ten parts of 50 MB in memory
COPY_SETTINGS = {"s3": ONE_PART, "s3a": ONE_PART}
log = logging.getLogger("kinegraph")


class Remote:
    """Makes the requests of one process to URLs. Any thread may call its methods.

    If the network seems to be at fault, a method makes up to `tries` requests. If all fail, the method tests the
    network with the video that was last read without an error. If this test succeeds, the URL is at fault, and the
    method raises DecodeError. Otherwise it raises NetworkError, which stops the run.

    Every method also raises CredentialsError if the store refuses the credentials, UnknownStorage if no installed
    package opens the URL, and Stopped soon after the event `stopping` is set.
    """

    def __init__(self, tries: int, stopping: threading.Event | None = None) -> None:
        self.tries, self.stopping = tries, stopping or threading.Event()
        self._witness: str | None = None

    def info(self, url: str) -> RemoteInfo:
        """Returns the RemoteInfo of the video at `url`: the size, the etag and the time of the last change that its
        store reports.
        """
        return self._patiently(url, lambda: self._info(url))

    def list_files(self, root: str) -> Iterator[tuple[str, str]]:
        """Yields (path below `root`, URL) for each file below the URL `root`, at any depth, in the order of the paths.

        Makes one request per folder. Raises DecodeError (`missing`) if `root` does not exist.
        """
        names = self._patiently(root, lambda: self._walk(root))
        top, is_http = self._at(root)[1].rstrip("/"), root.startswith(HTTP)
        for name in names:
            below = name.removeprefix(f"{top}/")
            yield unquote(below) if is_http else below, f"{root.rstrip('/')}/{below}"

    def read(self, url: str, limit_bytes: int) -> bytes:
        """Returns all bytes of the document at `url`, for example of a list of videos. Raises DecodeError
        (`unreadable`) if the document has more than `limit_bytes`.
        """
        return self._patiently(url, lambda: self._read(url, limit_bytes))

    def probe(self, url: str, probe_file: Callable[[Seekable], Probe] = probe) -> Probe:
        """Opens the video at `url` and returns the result of `probe_file`, a function that is called with the open
        file.

        Only the parts of the file that `probe_file` reads are requested. Raises NoRanges if the server cannot send a
        part of a file.
        """
        return self._patiently(url, lambda: self._probe(url, probe_file))

    def digest(self, url: str, size: int) -> str:
        """Returns the digest of the video at `url`, which has `size` bytes. Only three small parts of the video are
        read. A copy of the video on this machine has the same digest (`source_identity`).
        """
        system, path = self._at(url)

        def read_part(start: int, stop: int) -> bytes:
            content: bytes = system.cat_file(path, start=start, end=stop)
            # Some servers return the whole file.
            return content if len(content) <= stop - start else content[start:stop]

        return self._patiently(url, lambda: sampled_digest(size, read_part))

    def copy(self, url: str, target: Path, info: RemoteInfo, max_bytes: int) -> None:
        """Copies the video at `url` to the file `target`. `info` is the RemoteInfo of the URL.

        If the copy has another size than `info` states, the video is copied again. Never writes more than `max_bytes`.
        Raises DecodeError if `info` states no size and the video has more than `max_bytes`. Raises OSError if the disk
        is full.
        """
        self._patiently(url, lambda: self._copy(url, target, info, max_bytes))

    def _read(self, url: str, limit_bytes: int) -> bytes:
        """Returns all bytes of the document at `url`. Raises DecodeError if there are more than `limit_bytes`."""
        # The document is copied to a file, because only a copy can be stopped at the limit.
        system, path = self._at(url)
        words = f"{url} has more than {limit_bytes >> 20} MiB, the limit for such a file; is it the right one?"
        progress = _Progress(limit_bytes, DecodeError("unreadable", words), self.stopping)
        with TemporaryDirectory(prefix="kinegraph-") as folder:
            target = Path(folder) / "document"
            system.get_file(path, str(target), callback=progress, **COPY_SETTINGS.get(url.partition("://")[0], {}))
            progress.call()
            return target.read_bytes()

    def _info(self, url: str) -> RemoteInfo:
        system, path = self._at(url)
        try:
            answer = system.info(path)
        except PermissionError:
            system.cat_file(path, start=0, end=1)  # S3 states its reason only in answers with a body
            raise
        if answer.get("type") == "directory":
            raise IsADirectoryError(url)
        return RemoteInfo.from_store(answer)

    def _walk(self, root: str) -> list[str]:
        system, path = self._at(root)
        paths = []
        for _, _, files in system.walk(path, detail=True, on_error="raise"):  # `find` would skip folders that fail
            paths += [entry["name"] for entry in files.values()]
        return sorted(paths)

    def _probe(self, url: str, probe_file: Callable[[Seekable], Probe]) -> Probe:
        system, path = self._at(url)
        blocks = {"cache_type": "blockcache", "cache_options": {"maxblocks": HEADER_BLOCKS}}
        with system.open(path, "rb", block_size=HEADER_BLOCK_BYTES, **blocks) as file:
            watched = _GuardedFile(file)
            try:
                result = probe_file(watched)
            finally:
                watched.check()
        self._witness = url
        return result

    def _copy(self, url: str, target: Path, info: RemoteInfo, max_bytes: int) -> None:
        system, path = self._at(url)
        most_bytes = max_bytes if info.size is None else min(info.size, max_bytes)
        too_much = (
            too_large(url, most_bytes + 1, most_bytes)
            if info.size is None
            else ConnectionError(f"more than {most_bytes} bytes came")
        )
        progress = _Progress(most_bytes, too_much, self.stopping)
        system.get_file(path, str(target), callback=progress, **COPY_SETTINGS.get(url.partition("://")[0], {}))
        size = target.stat().st_size
        if info.size not in (None, size):
            raise ConnectionError(f"{size} of {info.size} bytes came")
        self._witness = url

    def _at(self, url: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """Returns (file system of `url`, path of the file in that file system)."""
        system = _system(os.getpid(), origin(url))
        return system, system._strip_protocol(url)

    def _patiently(self, url: str, action: Callable[[], T]) -> T:
        self._at(url)
        wait_seconds = FIRST_WAIT_SECONDS
        for attempt in range(1, self.tries + 1):
            try:
                result = action()
            except (DecodeError, UsageError, CacheError, NoRanges, Stopped):
                raise
            except Exception as error:  # each implementation has its own errors
                if self.stopping.is_set():
                    raise Stopped from error
                self._judge(url, error)
                if attempt == self.tries:
                    raise self._given_up(url, error) from error
                log.warning("%s: %s. Trying again in %.0f s.", url, in_words(error), wait_seconds)
            else:
                return result
            if stopping.wait(self.stopping, wait_seconds):
                raise Stopped
            wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
        raise AssertionError("tries is at least 1")

    def _judge(self, url: str, error: Exception) -> None:
        """Raises the error that the user should see for `error`. Returns without an error if the network is at fault,
        so that the caller tries again.

        Raises DecodeError if the video is missing or refused, and CredentialsError for wrong credentials. Raises
        `error` itself if the disk of this machine cannot be written.
        """
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise error
        fault = fault_of(error)
        if fault == "missing":
            raise DecodeError("missing", f"no file {url}") from error
        if fault == "refused":
            raise DecodeError("unreadable", f"{url}: {in_words(error)}") from error
        if fault == "credentials":
            raise CredentialsError(
                f"{url}: {sentence(in_words(error))} Tell fsspec other credentials, by the environment (AWS_PROFILE, "
                "AWS_ACCESS_KEY_ID, ...) or its config files. No video is marked as failed."
            ) from error

    def _given_up(self, url: str, error: Exception) -> DecodeError | NetworkError:
        tried = f"{counted(self.tries, 'try', 'tries')}, the last: {in_words(error)}"
        with suppress(Exception):
            if self._witness not in (None, url):
                system, path = self._at(str(self._witness))
                system.cat_file(path, start=0, end=1)
                return DecodeError("unreadable", f"{url}: {tried}; {self._witness} can be read")
        return NetworkError(
            f"{url}: {tried}. Finished shards are kept, and no clip is marked as failed. Run the same command again "
            "when the network is back, or with more run.staging.tries."
        )


class _GuardedFile:
    """Wraps the open file `file` and stores the first error of a read or seek. After this error, the file seems to be
    at its end, so that FFmpeg stops reading. `check` raises the error.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._failure: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        return self._guard(lambda: self._file.read(size), b"")

    def seek(self, to: int, whence: int = 0) -> int:
        return self._guard(lambda: self._file.seek(to, whence), -1)

    def tell(self) -> int:
        return self._file.tell()

    def check(self) -> None:
        """Raises the first error of `read` or `seek`, if there was one. Raises NoRanges in its place if the error shows
        that the server cannot send parts of a file.
        """
        if isinstance(self._failure, ValueError):  # fsspec's error for a server without ranges
            raise NoRanges from self._failure
        if self._failure is not None:
            raise self._failure

    def _guard(self, action: Callable[[], T], failed: T) -> T:
        if self._failure is None:
            try:
                return action()
            except Exception as error:
                self._failure = error
        return failed


class _Progress(Callback):  # type: ignore[misc]  # fsspec has no types
    """A callback that fsspec calls while it copies a file. The callback stops the copy by raising an error.

    It raises Stopped if the event `stopping` is set, and the error `too_much` if more than `max_bytes` were copied.
    """

    def __init__(self, max_bytes: int, too_much: Exception, stopping: threading.Event) -> None:
        super().__init__()
        self._max_bytes, self._too_much, self._stopping = max_bytes, too_much, stopping

    def call(self, hook_name: str | None = None, **kwargs: Any) -> None:
        if self._stopping.is_set():
            raise Stopped
        if self.value > self._max_bytes:
            raise self._too_much


@functools.cache  # fsspec's cache would hold an instance, with connections, for each thread
def _system(process: int, place: str) -> fsspec.AbstractFileSystem:
    """Returns the file system for `place`, the beginning of a URL that names the store, for example `s3://bucket`.

    All threads of a process share one file system per place. `process` is the id of this process. A forked process gets
    its own file system, because it must not use that of its parent.
    """
    return open_file_system(place, **_settings(place.partition("://")[0]))[0]


def _settings(scheme: str) -> dict[str, Any]:
    """Returns the settings with which fsspec opens URLs of `scheme`. For HTTP, they limit the time without an answer.
    The user's own settings of fsspec have priority. For other schemes, the result is empty.
    """
    if scheme not in HTTP:
        return {}
    with suppress(ImportError):
        from aiohttp import ClientTimeout

        client: dict[str, Any] = {}
        for each in HTTP:
            client |= fsspec.config.conf.get(each, {}).get("client_kwargs", {})
        limit = ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
        return {"client_kwargs": {"timeout": limit} | client}
    return {}
