"""Builds a head that the user wrote as a class in a Python file. Its name in a config is `<file>.py:<class>`.

Its name in the record of a run is `<file>.py:<class>@<sha256>`, with the sha256 of the file.
"""

import hashlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

from kinegraph.cache_schemas.arrays import every_array
from kinegraph.cache_schemas.regular import CONFIG_BYTES, read_regular
from kinegraph.cache_schemas.words import counted, sentence
from kinegraph.stages.heads.clip_graphs import ClipGraph
from kinegraph.stages.heads.head import MASK, Head, HeadError, HeadOptions, Spec, are_videos

DIGEST = "@"
NAME_IT = "Name it in train.head as `file.py:Class`; the file is relative to the config."
WHAT_IT_OFFERS = "docs/own_head.md shows what a head must offer"


def is_own(name: str) -> bool:
    """Returns whether `name` is the name of a head that the user wrote, such as "my_heads.py:MyHead"."""
    return ".py:" in name


@dataclass(frozen=True)
class OwnHead:
    """A head that the user wrote. It is the class `class_name` in the Python source `code`, which was read from the
    file `file`.
    """

    file: Path
    class_name: str
    code: str

    @classmethod
    def read(cls, name: str) -> "OwnHead":
        """Reads the file of a head that the user wrote, and returns the OwnHead. `name` is "<file>.py:<class>". The
        code is not run.

        Raises HeadError if the file cannot be read, or if `name` names no class.
        """
        file, _, class_name = name.rpartition(":")
        if not class_name:
            raise HeadError(f"The head {name} names no class. {NAME_IT}")
        try:
            return cls(Path(file), class_name, read_regular(file, CONFIG_BYTES).decode())
        except (OSError, UnicodeDecodeError) as error:
            raise HeadError(f"The file of the head {name} cannot be read: {sentence(error)} {NAME_IT}") from error

    @property
    def digest(self) -> str:
        """Returns the sha256 of the code, as hexadecimal digits."""
        return hashlib.sha256(self.code.encode()).hexdigest()

    @classmethod
    def of(cls, identity: str, code: str) -> "OwnHead":
        """Returns the OwnHead of a trained run. `identity` is the name of the head in the record of the run,
        "<file>.py:<class>@<sha256>". `code` is the Python source.
        """
        file, _, class_name = identity.partition(DIGEST)[0].rpartition(":")
        return cls(Path(file), class_name, code)

    def __str__(self) -> str:
        """Returns the name of the head in the record of a run: "<file>.py:<class>@<sha256>". The folder of the file is
        left out.
        """
        return f"{self.file.name}:{self.class_name}{DIGEST}{self.digest}"

    def head_class(self) -> type[Head]:
        """Runs the Python source and returns the class of the head. A second call returns the same class and does not
        run the source again.

        Raises HeadError if the source raises an exception, or if it has no subclass of Head with the name `class_name`.
        """
        name = f"kinegraph_own_head_{self.digest}"
        if name not in sys.modules:
            module = ModuleType(name)
            module.__file__ = str(self.file)
            sys.modules[name] = module  # dataclasses and pydantic look up annotations there
            try:
                exec(compile(self.code, str(self.file), "exec"), module.__dict__)
            except (Exception, SystemExit) as error:
                del sys.modules[name]
                raise HeadError(f"{_where(self.file, error)}: cannot be imported: {_said_by(error)}") from error
        kind = getattr(sys.modules[name], self.class_name, None)
        if not (isinstance(kind, type) and issubclass(kind, Head)):
            there = [key for key, value in vars(sys.modules[name]).items() if _is_own_head(value, name)]
            seen = "is no subclass of kinegraph.Head" if kind is not None else "is not there"
            heads = f"Heads in this file: {', '.join(there)}. {NAME_IT}"
            listed = heads if there else f"No head is there. {WHAT_IT_OFFERS}."
            raise HeadError(f"{self.file}: the class {self.class_name} {seen}. {listed}")
        if not issubclass(getattr(kind, "option_model", HeadOptions), HeadOptions):
            raise HeadError(f"{self.file}: {self.class_name}.option_model is no subclass of kinegraph.HeadOptions.")
        return kind


def _is_own_head(value: object, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Head) and value.__module__ == module


class _Guarded(Head):
    """The base class that `build_own_head` puts before the user's class. Its methods call the methods of the user's
    class and check the results.

    Float16 arrays become float32, because layers have float32 weights. An exception in the user's code becomes a
    HeadError with the file and the line. Torch's OutOfMemoryError is raised unchanged, because the command has a
    message of its own for a GPU with too little memory.
    """

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the logits [B, num_classes] that the user's `forward` computes for the B clips of `batch`. Raises
        HeadError if the user's code raises an exception, or if the result has another shape or type.
        """
        kind, clips = _user_class(self), len(batch[self.reads[0]])
        try:
            logits: Any = super().forward(_widened(batch))
        except (HeadError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:
            _blame(kind, f".forward, given {counted(clips, 'clip')}, raised", error, [*batch], "forward gets")
        if not isinstance(logits, Tensor) or [*logits.shape] != [clips, self.num_classes]:
            shape = [*logits.shape] if isinstance(logits, Tensor) else type(logits).__name__
            raise HeadError(
                f"{_named(kind)}.forward returns {shape} for {counted(clips, 'clip')} and "
                f"{counted(self.num_classes, 'class')}; logits [{clips}, {self.num_classes}] are needed."
            )
        if not logits.is_floating_point():
            raise HeadError(f"{_named(kind)}.forward returns {logits.dtype}; floating-point logits are needed.")
        if self.training and torch.is_grad_enabled() and not logits.requires_grad:
            raise HeadError(
                f"{_named(kind)}.forward returns logits without a gradient, so nothing can be trained. Compute them "
                "from parameters of the head, without detach, argmax or no_grad."
            )
        return logits

    def clip_graphs(self, batch: Mapping[str, Tensor]) -> dict[str, ClipGraph]:
        """Returns the graphs that the user's `clip_graphs` computes for `batch`, as {name of a graph: ClipGraph}.
        Raises HeadError if the user's code raises an exception, or if the names differ from those of `graph_links`.
        """
        kind = _user_class(self)
        try:
            graphs: Any = super().clip_graphs(_widened(batch))
        except (HeadError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:
            _blame(kind, ".clip_graphs raised", error, [*batch], "clip_graphs gets")
        if not isinstance(graphs, dict) or [*graphs] != [*self.graph_links]:
            seen = [*graphs] if isinstance(graphs, dict) else type(graphs).__name__
            raise HeadError(
                f"{_named(kind)}.clip_graphs returns {seen}; {[*self.graph_links]} are needed, as in `graph_links`."
            )
        return graphs


def _widened(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a copy of `batch` in which float16 arrays are float32, because layers have float32 weights."""
    return {name: x.float() if x.dtype == torch.float16 else x for name, x in batch.items()}


def _user_class(head: Head) -> type[Head]:
    return type(head).__mro__[2]  # after the class that `build_own_head` makes, and _Guarded


def build_own_head(kind: type[Head], spec: Spec, num_classes: int, options: HeadOptions) -> Head:
    """Builds a head from the user's class `kind`, tries it on a batch of zeros, and returns it. The head gets float16
    arrays as float32.

    `spec` maps the name of each cached array to its shape for one clip. Raises HeadError if the user's code raises an
    exception, if `reads` names an array that is not cached, or if the logits have a wrong shape. `forward` of the
    returned head raises HeadError for the same reasons.
    """
    try:
        head: Head = type(kind.__name__, (_Guarded, kind), {"__module__": kind.__module__})(spec, num_classes, options)
    except HeadError:
        raise
    except (Exception, SystemExit) as error:
        _blame(kind, "(spec, num_classes, options) raised", error, [*spec], "Cached are")
    reads = getattr(head, "reads", None)
    if not reads or isinstance(reads, str):
        raise HeadError(
            f"{_file(kind)}: {kind.__name__}.reads is {reads!r}; set it to the names of the arrays that forward takes."
        )
    if absent := [name for name in reads if name not in spec]:
        raise HeadError(
            f"{_named(kind)} reads {', '.join(absent)}, which is not cached. Cached are: {', '.join(sorted(spec))}. "
            "Extract what it reads, or read one of these."
        )
    head.reads, head.num_classes = tuple(reads), num_classes
    _try_on_zeros(head, spec)
    return head


def _try_on_zeros(head: Head, spec: Spec) -> None:
    """Runs `head` on a batch of two clips of zeros, with the shapes in `spec`. Raises HeadError unless `forward`
    returns logits [2, num_classes].
    """
    masked = {}
    if are_videos(spec):  # one video of two windows, and one of one
        spec = {name: (2, *shape[1:]) for name, shape in spec.items()}
        masked = {MASK: torch.tensor([[True, True], [True, False]])}
    whole = {spec.name: spec.dtype for spec in every_array() if spec.dtype.startswith(("int", "uint"))}
    batch = {name: torch.zeros(2, *spec[name], dtype=getattr(torch, whole.get(name, "float32"))) for name in head.reads}
    batch |= masked
    training = head.training
    with torch.no_grad():
        head.eval()(batch)
    head.train(training)


def _blame(kind: type[Head], what: str, error: BaseException, arrays: Sequence[str], offer: str) -> NoReturn:
    """Raises HeadError for `error`, an exception in the code of a head that the user wrote. The message has the file,
    the line, and the text of `error`.

    - `kind`: the class of the head. The message has its name.
    - `what`: what the code did, such as ".forward raised".
    - `arrays`: the names of the existing arrays. The message lists them if `error` is a KeyError for another name.
    - `offer`: the words before this list, such as "forward gets".
    """
    where = _where(_file(kind), error)
    key = error.args[0] if isinstance(error, KeyError) and error.args else ""
    is_absent = isinstance(key, str) and key and key not in arrays
    there = f" {offer}: {', '.join(sorted(arrays))}." if is_absent else ""
    raise HeadError(f"{where}: {kind.__name__}{what} {_said_by(error)}{there} {WHAT_IT_OFFERS}.") from error


def _file(kind: type[Head]) -> Path:
    return Path(str(sys.modules[kind.__module__].__file__))


def _named(kind: type[Head]) -> str:
    return f"{_file(kind)}: {kind.__name__}"


def _where(file: Path, error: BaseException) -> str:
    """Returns the file and the line of an error for a message, such as "my_heads.py, line 12". It is the innermost line
    of `file` in the traceback. If the traceback has no line of `file`, returns only the file.
    """
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno)
    return f"{file}, line {lines[-1]}" if lines else str(file)


def _said_by(error: BaseException) -> str:
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    advice = " A head may import installed packages, but no file beside it." if isinstance(error, ImportError) else ""
    return sentence(f"{type(error).__name__}: {words}".removesuffix(": ")) + advice
