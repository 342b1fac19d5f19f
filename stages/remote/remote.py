"""Lists, describes, probes and copies videos at URLs, through fsspec. Torch-free.

Requests that fail because of the network are repeated. Where one video is at fault, a DecodeError is raised.
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
from kinegraph.cache_schemas.words import sentence
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.source import sampled_digest
from kinegraph.stages.decode.stream import Probe, Seekable, probe
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
    """Makes the requests of one process to URLs. Any thread may call it. Once the event `stopping` is set, waiting
    ends.

    A request for a video is tried `tries` times while the network seems at fault. Then the video of the last request
    that succeeded is requested again. If the store answers, the network works, so the video that failed is at fault,
    and DecodeError is raised for it. Otherwise NetworkError is raised, which stops the run. Every method also raises
    CredentialsError where the store refuses the credentials, Stopped once `stopping` is set, and UnknownStorage where
    no installed package opens the URL.
    """

    def __init__(self, tries: int, stopping: threading.Event | None = None) -> None:
        self.tries, self.stopping = tries, stopping or threading.Event()
        self._witness: str | None = None

    def info(self, url: str) -> RemoteInfo:
        """Returns size and version of a video, as its store reports them."""
        return self._patiently(url, lambda: self._info(url))

    def listed(self, root: str) -> Iterator[tuple[str, str]]:
        """Yields (path below `root`, URL) of every file below the URL `root`, with one request per folder.

        Raises DecodeError (`missing`) where `root` does not exist.
        """
        names = self._patiently(root, lambda: self._walked(root))
        top, is_http = self._at(root)[1].rstrip("/"), root.startswith(HTTP)
        for name in names:
            below = name.removeprefix(f"{top}/")
            yield unquote(below) if is_http else below, f"{root.rstrip('/')}/{below}"

    def read(self, url: str, limit_bytes: int) -> bytes:
        """Returns all bytes of a document. Raises DecodeError (`unreadable`) for a document of more than
        `limit_bytes`.
        """
        return self._patiently(url, lambda: self._read(url, limit_bytes))

    def probe(self, url: str, look: Callable[[Seekable], Probe] = probe) -> Probe:
        """Returns the result of `look`, which reads the parts of the file that FFmpeg asks for.

        Raises NoRanges where the server returns whole files only.
        """
        return self._patiently(url, lambda: self._probed(url, look))

    def digest(self, url: str, size: int) -> str:
        """Returns the digest of a video, equal to that of `source_identity`. Three small parts of the video are read
        for it.
        """
        system, path = self._at(url)

        def part(start: int, stop: int) -> bytes:
            content: bytes = system.cat_file(path, start=start, end=stop)
            # Some servers return the whole file.
            return content if len(content) <= stop - start else content[start:stop]

        return self._patiently(url, lambda: sampled_digest(size, part))

    def copy(self, url: str, target: Path, info: RemoteInfo, max_bytes: int) -> None:
        """Copies a video to the file `target`. `info` is the result of `info` for the same URL.

        Where the copy has another size than `info` states, the video is copied again. Never writes more than
        `max_bytes`. Raises DecodeError where a video of unknown size has more bytes, and OSError where the disk has no
        room.
        """
        self._patiently(url, lambda: self._copy(url, target, info, max_bytes))

    def _read(self, url: str, limit_bytes: int) -> bytes:
        """Returns all bytes of a document. They are first copied to a file, because copies stop at `limit_bytes`."""
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
            told = system.info(path)
        except PermissionError:
            system.cat_file(path, start=0, end=1)  # S3 states its reason only in answers with a body
            raise
        if told.get("type") == "directory":
            raise IsADirectoryError(url)
        return RemoteInfo.told(told)

    def _walked(self, root: str) -> list[str]:
        system, path = self._at(root)
        paths = []
        for _, _, files in system.walk(path, detail=True, on_error="raise"):  # `find` would skip folders that fail
            paths += [entry["name"] for entry in files.values()]
        return sorted(paths)

    def _probed(self, url: str, look: Callable[[Seekable], Probe]) -> Probe:
        system, path = self._at(url)
        blocks = {"cache_type": "blockcache", "cache_options": {"maxblocks": HEADER_BLOCKS}}
        with system.open(path, "rb", block_size=HEADER_BLOCK_BYTES, **blocks) as file:
            watched = _Watched(file)
            try:
                result = look(watched)
            finally:
                watched.check()
        self._witness = url
        return result

    def _copy(self, url: str, target: Path, info: RemoteInfo, max_bytes: int) -> None:
        system, path = self._at(url)
        told = max_bytes if info.size is None else min(info.size, max_bytes)
        too_much = (
            too_large(url, told + 1, told) if info.size is None else ConnectionError(f"more than {told} bytes came")
        )
        progress = _Progress(told, too_much, self.stopping)
        system.get_file(path, str(target), callback=progress, **COPY_SETTINGS.get(url.partition("://")[0], {}))
        size = target.stat().st_size
        if info.size not in (None, size):
            raise ConnectionError(f"{size} of {info.size} bytes came")
        self._witness = url

    def _at(self, url: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """Returns (file system of a URL, path of the URL in that file system)."""
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
        """Raises the error that `error` means, unless the network is at fault.

        Raises DecodeError where the video is missing or refused, CredentialsError for wrong credentials, and `error`
        itself where the disk of this machine cannot be written.
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
                "AWS_ACCESS_KEY_ID, ...) or its config files; nothing is marked as failed for want of them."
            ) from error

    def _given_up(self, url: str, error: Exception) -> DecodeError | NetworkError:
        tried = f"{self.tries} tries, the last: {in_words(error)}"
        with suppress(Exception):
            if self._witness not in (None, url):
                system, path = self._at(str(self._witness))
                system.cat_file(path, start=0, end=1)
                return DecodeError("unreadable", f"{url}: {tried}; {self._witness} can be had")
        return NetworkError(
            f"{url}: {tried}. What is sealed stays, and nothing is marked as failed: run the same command again when "
            "the network is back, or with more run.staging.tries."
        )


class _Watched:
    """An open file that reads as ended after the first error, and keeps that error.

    FFmpeg would otherwise continue to read, and PyAV would print every error after the first.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._failure: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        return self._noted(lambda: self._file.read(size), b"")

    def seek(self, to: int, whence: int = 0) -> int:
        return self._noted(lambda: self._file.seek(to, whence), -1)

    def tell(self) -> int:
        return self._file.tell()

    def check(self) -> None:
        """Raises the error that occurred, if any. Raises NoRanges for the error of a server that returns whole files
        only.
        """
        if isinstance(self._failure, ValueError):  # fsspec's error for a server without ranges
            raise NoRanges from self._failure
        if self._failure is not None:
            raise self._failure

    def _noted(self, action: Callable[[], T], failed: T) -> T:
        if self._failure is None:
            try:
                return action()
            except Exception as error:
                self._failure = error
        return failed


class _Progress(Callback):  # type: ignore[misc]  # fsspec has no types
    """Ends a copy when the caller has stopped, or when the copy grows beyond `max_bytes`. It then raises Stopped or
    `too_much`.
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
    """Returns the file system of `place`, a host or bucket.

    All threads of a process share it. The number of the process is a parameter, because a file system does not survive
    a fork.
    """
    return open_file_system(place, **_settings(place.partition("://")[0]))[0]


def _settings(scheme: str) -> dict[str, Any]:
    """Returns the settings that fsspec receives for URLs of `scheme`, empty for other schemes than HTTP.

    For HTTP, the time without an answer is limited in place of the time of the whole transfer. The user's own settings
    of fsspec replace these settings.
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
