"""A head of one's own: a class in a Python file, `<file>.py:<class>`, in a recipe `<file>.py:<class>@<sha256>`."""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from kinegraph.cache_schemas.regular import CONFIG_BYTES, read_regular
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.heads.head import Head, HeadError, HeadOptions, Spec

DIGEST = "@"
WHAT_IT_OFFERS = "docs/own_head.md shows what a head must offer"


def is_own(name: str) -> bool:
    """Whether the name of a head is one of a file."""
    return ".py:" in name


@dataclass(frozen=True)
class OwnHead:
    """A class `class_name` in the Python source `code`; `file` is where the code lies."""

    file: Path
    class_name: str
    code: str

    @classmethod
    def read(cls, name: str) -> "OwnHead":
        """The head `<file>.py:<class>`. Raises HeadError for a file that cannot be read."""
        file, _, class_name = name.rpartition(":")
        try:
            return cls(Path(file), class_name, read_regular(file, CONFIG_BYTES).decode())
        except (OSError, UnicodeDecodeError) as error:
            raise HeadError(
                f"The file of the head {name} cannot be read: {error}. Name it as `file.py:Class`, "
                "relative to the config."
            ) from error

    @property
    def digest(self) -> str:
        """sha256 of the code."""
        return hashlib.sha256(self.code.encode()).hexdigest()

    @classmethod
    def of(cls, identity: str, code: str) -> "OwnHead":
        """The head that a recipe names, with its code at hand."""
        file, _, class_name = identity.partition(DIGEST)[0].rpartition(":")
        return cls(Path(file), class_name, code)

    def __str__(self) -> str:
        """The head as a recipe names it: the file without its folder, the class and the digest."""
        return f"{self.file.name}:{self.class_name}{DIGEST}{self.digest}"

    def head_class(self) -> type[Head]:
        """Runs the code. Raises HeadError where it fails, or has no such head."""
        name = f"kinegraph_own_head_{self.digest}"
        if name not in sys.modules:
            module = ModuleType(name)
            module.__file__ = str(self.file)
            sys.modules[name] = module  # where dataclasses and pydantic look for names of annotations
            try:
                exec(compile(self.code, str(self.file), "exec"), module.__dict__)
            except Exception as error:
                del sys.modules[name]
                raise HeadError(f"{self.file} cannot be imported: {type(error).__name__}: {error}") from error
        found = getattr(sys.modules[name], self.class_name, None)
        if not (isinstance(found, type) and issubclass(found, Head)):
            there = [key for key, value in vars(sys.modules[name]).items() if _is_own_head(value, name)]
            seen = "is no subclass of kinegraph.Head" if found is not None else "is not there"
            raise HeadError(
                f"{self.file}: the class {self.class_name} {seen}. Heads in this file: {', '.join(there) or 'none'}. "
                f"{WHAT_IT_OFFERS}."
            )
        if not issubclass(getattr(found, "option_model", HeadOptions), HeadOptions):
            raise HeadError(f"{self.file}: {self.class_name}.option_model is no subclass of kinegraph.HeadOptions.")
        return found


def _is_own_head(value: object, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Head) and value.__module__ == module


def built(kind: type[Head], spec: Spec, num_classes: int, options: HeadOptions) -> Head:
    """The head, built by code that is not ours; float16 arrays reach it as float32. Raises HeadError in words."""
    try:
        head = kind(spec, num_classes, options)
    except HeadError:
        raise
    except Exception as error:
        _blame(kind, f"{kind.__name__}(spec, num_classes, options) raised", error)
    reads = getattr(head, "reads", None)
    if not reads or isinstance(reads, str):
        raise HeadError(f"{kind.__name__}: reads is {reads!r}; set it to the names of the arrays that forward takes.")
    if absent := [name for name in reads if name not in spec]:
        raise HeadError(
            f"{kind.__name__} reads {', '.join(absent)}, which is not cached. Cached are: {', '.join(sorted(spec))}. "
            "Extract what it reads, or read one of these."
        )
    head.reads = tuple(reads)
    head.register_forward_pre_hook(_widened)
    _require_logits(head, spec, num_classes)
    return head


def _widened(head: nn.Module, inputs: tuple[Mapping[str, Tensor]]) -> tuple[dict[str, Tensor]]:
    """The batch with float16 arrays as float32, as layers want it."""
    return ({name: x.float() if x.dtype == torch.float16 else x for name, x in inputs[0].items()},)


def _require_logits(head: Head, spec: Spec, num_classes: int) -> None:
    """Raises HeadError unless the head gives [2, num_classes] for two clips of zeros."""
    whole = ("proposals/count", "graphs/count", "graphs/objects")
    batch = {
        name: torch.zeros(2, *spec[name], dtype=torch.int16 if name in whole else torch.float32) for name in head.reads
    }
    training = head.training
    try:
        with torch.no_grad():
            logits: Any = head.eval()(batch)
    except Exception as error:
        _blame(type(head), "forward raised, for two clips of zeros,", error)
    head.train(training)
    shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != [2, num_classes]:
        raise HeadError(
            f"{type(head).__name__}: forward returns {shape} for 2 clips and {counted(num_classes, 'class')}; "
            f"logits [2, {num_classes}] are needed."
        )


def _blame(kind: type[Head], what: str, error: Exception) -> NoReturn:
    raise HeadError(f"{kind.__name__}: {what} {type(error).__name__}: {error}. {WHAT_IT_OFFERS}.") from error
