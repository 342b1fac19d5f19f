"""Stores the objects of a cache at a URL, such as s3://bucket/prefix. fsspec, a library for many kinds of URL, makes
the requests. For s3:// it needs the package s3fs.
"""

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import fsspec
import xxhash
from fsspec.asyn import sync

from kinegraph.cache_schemas.answers import etag_of, status_of
from kinegraph.cache_schemas.errors import StorageError
from kinegraph.cache_schemas.file_systems import open_file_system
from kinegraph.cache_schemas.files import Buffer
from kinegraph.cache_schemas.names import checked_name
from kinegraph.cache_schemas.patience import Patience, error_text, is_away
from kinegraph.cache_schemas.storage import ROOT, Span
from kinegraph.cache_schemas.words import sentence

CHUNK_BYTES = 16 << 20  # size of one request when an object is only digested
# A put that takes longer is cancelled and repeated. botocore asks for `100 Continue`; aiohttp waits for that for ever.
PUT_SECONDS, SLOWEST_BYTES_PER_SECOND = 60.0, 250_000
PROBES = "probes"
CONFLICT, PRECONDITION_FAILED, RANGE_NOT_SATISFIABLE, NOT_IMPLEMENTED = 409, 412, 416, 501
Answer = TypeVar("Answer")


class ObjectStorage:
    """The objects of a cache below `root`, a URL that fsspec opens, such as s3://bucket/prefix.

    Endpoint and credentials come from the environment variables and config files of the package that opens the URL.
    Requests are repeated for a while if the store does not answer. An ObjectStorage may be pickled, and may be used
    after a fork.

    Raises StorageError if the store does not do what is asked. Raises UnknownStorage if no installed package opens the
    URL.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._systems: dict[int, tuple[fsspec.AbstractFileSystem, str]] = {}
        self._is_exclusive: bool | None = None
        self._patience = Patience(self.root)
        self._at("")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_systems": {}, "_patience": Patience(self.root)}

    def _at(self, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """Returns (file system, path of the object `name` in the file system). Each process opens the file system once
        and keeps it. Raises StorageError if the file system cannot be opened.
        """
        process = os.getpid()
        if process not in self._systems:  # a parent's system is kept, because closing it would wait for its threads
            try:
                self._systems[process] = open_file_system(self.root)
            except OSError as error:  # some file systems connect at once, as ftp does
                raise StorageError(f"{self.root}: {sentence(error_text(error))} {self._advice}") from error
        system, root = self._systems[process]
        return system, f"{root}/{name if name in ROOT else checked_name(name)}"

    def put(self, name: str, parts: Iterable[Buffer]) -> tuple[int, str]:
        content = b"".join(parts)
        self._pipe(name, content)
        return len(content), xxhash.xxh3_128_hexdigest(content)

    def create(self, name: str, content: bytes) -> bool:
        """Writes the object `name` with the bytes `content`, unless the object exists already. Returns whether this
        call created the object.
        """
        # looked for first, because some servers ignore the condition that a put must not replace an object
        return not self.exists(name) and self._create(name, content)

    def creates_exclusively(self) -> bool:
        """Returns whether the store refuses to create an object that exists already. Some servers that speak S3 replace
        the object, so the first call tries it with a test object.
        """
        if self._is_exclusive is None:
            probe = f"{PROBES}/{uuid.uuid4().hex}"
            try:
                self._is_exclusive = self._create(probe, b"first") and not self._create(probe, b"second")
            finally:
                self.delete(probe)
        return self._is_exclusive

    def get(self, name: str) -> bytes:
        return self.read([Span(name)])[0]

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        system, root = self._at("")
        paths = [root + checked_name(span.name) for span in spans]

        def ask() -> list[bytes | Exception]:
            answers: list[bytes | Exception]
            answers = system.cat_ranges(paths, [s.start for s in spans], [s.stop for s in spans], on_error="return")
            for answer in answers:
                if isinstance(answer, Exception) and is_away(answer):
                    raise answer
            return answers

        answers = self._ask(", ".join({span.name for span in spans}), ask)
        return [self._content(span.name, answer) for span, answer in zip(spans, answers, strict=True)]

    def _content(self, name: str, answer: bytes | Exception) -> bytes:
        if not isinstance(answer, Exception):
            return answer
        if status_of(answer) == RANGE_NOT_SATISFIABLE:  # the object ends before the range begins
            return b""
        with self._explained(name):
            raise answer

    def exists(self, name: str) -> bool:
        try:
            self.read([Span(name, 0, 1)])  # one request; `exists` of s3fs makes two where there is no object
        except FileNotFoundError:
            return False
        return True

    def digest(self, name: str) -> tuple[int, str]:
        digest, size = xxhash.xxh3_128(), 0
        while True:
            (block,) = self.read([Span(name, size, size + CHUNK_BYTES)])
            digest.update(block)
            size += len(block)
            if len(block) < CHUNK_BYTES:
                return size, digest.hexdigest()

    def written_at(self, name: str) -> float | None:
        system, path = self._at(name)
        try:
            return float(self._ask(name, lambda: system.modified(path)).timestamp())
        except StorageError as error:
            if isinstance(error.__cause__, NotImplementedError):
                return None
            raise

    def stamp(self, name: str) -> str | None:
        system, path = self._at(name)
        try:
            return _stamp(self._ask(name, lambda: system.info(path)))
        except FileNotFoundError:
            return None

    def stamps(self, folder: str) -> Iterator[tuple[str, str | None]]:
        system, path = self._at(folder)
        try:
            infos = self._ask(folder, lambda: system.find(path, detail=True))
        except FileNotFoundError:
            return
        for name, info in infos.items():
            if name.startswith(f"{path}/") and not name.endswith("/"):  # web consoles make an object for each folder
                yield folder + name.removeprefix(path), _stamp(info)

    def names(self, folder: str) -> Iterator[str]:
        return (name for name, _ in self.stamps(folder))

    def delete(self, name: str) -> None:
        system, path = self._at(name)
        try:
            self._ask(name, lambda: system.rm_file(path))
        except FileNotFoundError:
            return

    def sweep(self) -> None:
        """Does nothing, because an interrupted upload leaves no object. The rules of the bucket, not kinegraph, remove
        the parts of an interrupted large upload.
        """

    def local_path(self, name: str) -> None:
        return None

    def _create(self, name: str, content: bytes) -> bool:
        """Asks the store to write the object `name` with the bytes `content`, but only if the object does not exist.
        Some stores do not know such a condition and replace an existing object.

        Returns whether the store has the object with exactly this content afterwards.
        """
        try:
            self._pipe(name, content, mode="create")
            return True
        except StorageError as error:
            cause, status = error.__cause__, status_of(error.__cause__)
            if status == NOT_IMPLEMENTED or isinstance(cause, NotImplementedError):
                self._pipe(name, content)
                return True
            if status not in (CONFLICT, PRECONDITION_FAILED) and not isinstance(cause, FileExistsError):
                raise
        # The client repeats a put whose answer was lost. The store then refuses the second put because of the first.
        return self.exists(name) and self.get(name) == content

    def _pipe(self, name: str, content: bytes, **settings: str) -> None:
        system, path = self._at(name)
        try:
            self._ask(name, lambda: _piped(system, path, content, **settings))
        except FileNotFoundError as error:
            raise StorageError(f"{self.root}/{name} cannot be written: is there such a bucket? ({error})") from error

    def _ask(self, name: str, ask: Callable[[], Answer]) -> Answer:
        with self._explained(name):
            return self._patience.outlast(ask)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turns errors of the `with` block into StorageError. The message has the URL of the object `name`.
        FileNotFoundError and MemoryError are raised unchanged.
        """
        try:
            yield
        except (FileNotFoundError, MemoryError):
            raise
        except Exception as error:  # each implementation has its own errors; errors of botocore are not even OSError
            seen = f"{self.root}/{name}: {sentence(error_text(error))}"
            if self._patience.answered and is_away(error):
                raise StorageError(
                    f"{seen} It answered before. Finished shards are kept. When it answers again, run the same "
                    "command again."
                ) from error
            raise StorageError(f"{seen} {self._advice}") from error

    @property
    def _advice(self) -> str:
        advice = "Check the URL, and what fsspec is told by the environment or its config files"
        if self.root.startswith("s3"):
            return f"{advice}: credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...), endpoint (FSSPEC_S3_ENDPOINT_URL)."
        return f"{advice}."


def _stamp(info: Mapping[str, Any]) -> str | None:
    """Returns a text that changes if the object changes, or None if the store reports no etag. `info` is what fsspec's
    method `info` returns for the object.
    """
    etag = etag_of(info)
    return None if etag is None else f"{etag} {info.get('size')}"


def _piped(system: fsspec.AbstractFileSystem, path: str, content: bytes, **settings: str) -> None:
    """Writes the object `path` with the bytes `content`. `settings` are further arguments for the file system of
    fsspec.

    Raises FSTimeoutError if writing takes longer than PUT_SECONDS plus the time that `content` needs at
    SLOWEST_BYTES_PER_SECOND. A file system that is not asynchronous has no such limit.
    """
    if not system.async_impl:
        system.pipe_file(path, content, **settings)
        return
    seconds = PUT_SECONDS + len(content) / SLOWEST_BYTES_PER_SECOND
    sync(system.loop, system._pipe_file, path, content, timeout=seconds, **settings)
