"""A cache at a URL: whole objects through fsspec, s3:// above all (through s3fs)."""

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec
import xxhash

from cache_schemas.errors import StorageError
from cache_schemas.file_systems import open_file_system
from cache_schemas.files import Buffer
from cache_schemas.storage import Span

CHUNK_BYTES = 16 << 20  # of one request, where an object only passes through
PROBES = "probes"
CONFLICT, PRECONDITION_FAILED, RANGE_NOT_SATISFIABLE, NOT_IMPLEMENTED = 409, 412, 416, 501


class ObjectStorage:
    """Objects below an fsspec URL like s3://bucket/prefix.

    Endpoint, credentials and retries are left to fsspec and what implements the URL: their environment variables and
    config files. Safe under fork and spawn: every process opens the file system for itself. Raises StorageError where
    the store does not do what is asked, UnknownStorage where nothing is installed that opens the URL.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._systems: dict[int, tuple[fsspec.AbstractFileSystem, str]] = {}
        self._is_exclusive: bool | None = None
        self._at("")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_systems": {}}

    def _at(self, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """This process' file system, and what it calls an object."""
        process = os.getpid()
        if process not in self._systems:  # a parent's is kept, unused: closing it would wait for threads left behind
            self._systems[process] = open_file_system(self.root)
        system, root = self._systems[process]
        return system, f"{root}/{name}"

    def put(self, name: str, parts: Iterable[Buffer]) -> tuple[int, str]:
        content = b"".join(parts)
        self._pipe(name, content)
        return len(content), xxhash.xxh3_128_hexdigest(content)

    def create(self, name: str, content: bytes) -> bool:
        """Where the server ignores the condition, an object that was there before is left alone all the same."""
        return not self.exists(name) and self._create(name, content)

    def creates_exclusively(self) -> bool:
        """Found by trying, once: not every server that speaks S3 heeds `If-None-Match`."""
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
        paths = [root + span.name for span in spans]
        with self._explained(", ".join({span.name for span in spans})):
            answers = system.cat_ranges(paths, [s.start for s in spans], [s.stop for s in spans], on_error="return")
        return [self._content(span.name, answer) for span, answer in zip(spans, answers, strict=True)]

    def _content(self, name: str, answer: bytes | Exception) -> bytes:
        if not isinstance(answer, Exception):
            return answer
        if _status(answer) == RANGE_NOT_SATISFIABLE:  # it ends before the range begins
            return b""
        with self._explained(name):
            raise answer

    def exists(self, name: str) -> bool:
        try:
            self.read([Span(name, 0, 1)])  # one request; s3fs asks twice whether there is none
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

    def names(self, folder: str) -> Iterator[str]:
        system, path = self._at(folder)
        try:
            with self._explained(folder):
                found = system.find(path)
        except FileNotFoundError:
            return
        for name in found:
            if name.startswith(f"{path}/") and not name.endswith("/"):  # consoles make objects of folders
                yield folder + name.removeprefix(path)

    def delete(self, name: str) -> None:
        system, path = self._at(name)
        try:
            with self._explained(name):
                system.rm_file(path)
        except FileNotFoundError:
            return

    def sweep(self) -> None:
        """Nothing to do: an interrupted put leaves no object. (Parts of large ones are the bucket's to expire.)"""

    def local_path(self, name: str) -> None:
        return None

    def _create(self, name: str, content: bytes) -> bool:
        """Put on the condition that there is no such object; without it, where the store knows no conditions."""
        try:
            self._pipe(name, content, mode="create")
            return True
        except StorageError as error:
            cause, status = error.__cause__, _status(error.__cause__)
            if status == NOT_IMPLEMENTED or isinstance(cause, NotImplementedError):
                self._pipe(name, content)
                return True
            if status not in (CONFLICT, PRECONDITION_FAILED) and not isinstance(cause, FileExistsError):
                raise
        # A put whose answer was lost is repeated by the client, and then refused because of itself.
        return self.exists(name) and self.get(name) == content

    def _pipe(self, name: str, content: bytes, **settings: str) -> None:
        system, path = self._at(name)
        try:
            with self._explained(name):
                system.pipe_file(path, content, **settings)
        except FileNotFoundError as error:
            raise StorageError(f"{self.root}/{name} cannot be written: is there such a bucket? ({error})") from error

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Names the URL in whatever goes wrong, but for what is not found."""
        try:
            yield
        except (FileNotFoundError, MemoryError):
            raise
        except Exception as error:  # every implementation has errors of its own; botocore's are not even OSError
            raise StorageError(
                f"{self.root}/{name}: {type(error).__name__}: {error}. Check the URL, and what fsspec is told by the "
                "environment or its config files: credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...), endpoint "
                "(FSSPEC_S3_ENDPOINT_URL)."
            ) from error


def _status(error: BaseException | None) -> int:
    """What the server answered, as far as the error says: s3fs keeps botocore's as its cause."""
    response = getattr(error.__cause__, "response", None) if error else None
    return int(response["ResponseMetadata"]["HTTPStatusCode"]) if isinstance(response, dict) else 0
