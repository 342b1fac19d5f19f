"""Checks files of torch.save before torch reads them.

torch.load with weights_only runs no code of a file. But a file can still crash the process. For example, a dict may
have a tuple as a key that is nested a million deep.
"""

import io
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from kinegraph.cache_schemas.regular import open_regular
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.number_files import ArrayFileError, require_expansion
from kinegraph.stages.weights.pickles import ArrayUnpickler

MOST_TUPLES = 1000  # tuples within one tuple, at any depth
OLD_PARTS = 5  # pickles in a file of torch before 1.6; the fourth holds the tensors
# Opcodes that take any key with a hash.
KEYED = (pickle.SETITEM, pickle.SETITEMS, pickle.DICT, pickle.ADDITEMS, pickle.FROZENSET)
_Plain: Any = pickle._Unpickler
# torch takes a file that begins so for an archive, every other file for one of torch before 1.6.
ZIP_BEGINS = b"PK\x03\x04"


def require_sound(path: Path) -> None:
    """Checks the file `path` of torch.save without loading its tensors. Raises WeightsError if the file is damaged or
    could do harm. Raises OSError if the file cannot be read.

    Three kinds of files could do harm: an archive that unpacks to too many bytes, a TorchScript archive, and a file
    with a tuple that holds too many tuples.
    """
    try:
        with open_regular(path) as file:
            is_archive = file.read(len(ZIP_BEGINS)) == ZIP_BEGINS
            file.seek(0)
            pickles = _pickles(file) if is_archive else [file]
            for each in pickles:
                reader = _Nesting(each)
                for _ in range(1 if is_archive else OLD_PARTS):
                    reader.load()
    except (WeightsError, ArrayFileError) as error:
        raise WeightsError(f"{path}: {error}") from error
    except OSError:
        raise
    except Exception as error:  # zipfile and pickle raise errors of any type for a damaged file
        raise WeightsError(f"{path}: cannot be read as a file of tensors: {type(error).__name__}: {error}") from error


def _pickles(file: io.BufferedReader) -> list[Any]:
    """Returns the pickles in `file`, an archive of torch.save, as open files. Usually there is one pickle.

    Raises WeightsError for a TorchScript archive. Raises ArrayFileError for an archive that unpacks to too many bytes.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise WeightsError("refused: a TorchScript archive holds code; torch.save its state_dict()")
        require_expansion(sum(entry.file_size for entry in entries), file.seek(0, io.SEEK_END))
        # torch ignores the case of names
        return [io.BytesIO(archive.read(entry)) for entry in entries if entry.filename.lower().endswith("data.pkl")]


class _Tuple(tuple[Any, ...]):
    """A tuple in a pickle. `num_tuples` is the number of tuples in it at any depth, including the tuple itself."""

    num_tuples: int


class _Part:
    """A placeholder for an object that torch would make from a pickle, such as a tensor. It accepts any arguments and
    does nothing.
    """

    def __call__(self, *_: object) -> "_Part":
        return self

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def take(self, _: object) -> None:
        pass

    append = extend = add = take


class _Nesting(ArrayUnpickler):
    """Reads a pickle and checks how deep its tuples are nested. Raises WeightsError if a tuple contains more than
    MOST_TUPLES tuples.

    Only containers, such as tuples and dicts, are really made. A `_Part` takes the place of every other object.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(ArrayUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        return _Part()

    def persistent_load(self, name: object) -> Any:
        return _Part()

    def _add(self, items: Iterable[Any]) -> None:
        made = _Tuple(items)
        made.num_tuples = 1 + sum(item.num_tuples for item in made if isinstance(item, _Tuple))
        if made.num_tuples > MOST_TUPLES:
            raise WeightsError(f"refused: the file holds a tuple with more than {MOST_TUPLES} tuples in it")
        self.append(made)

    def _last(self, count: int) -> None:
        items = self.stack[-count:]
        del self.stack[-count:]
        self._add(items)

    def _marked(self) -> None:
        self._add(self.pop_mark())

    def _state(self) -> None:
        self.stack.pop()

    def _object(self) -> None:
        del self.stack[-2:]
        self.append(_Part())

    dispatch |= {code[0]: _Plain.dispatch[code[0]] for code in KEYED}
    dispatch[pickle.TUPLE[0]] = _marked
    dispatch[pickle.TUPLE1[0]] = lambda self: self._last(1)
    dispatch[pickle.TUPLE2[0]] = lambda self: self._last(2)
    dispatch[pickle.TUPLE3[0]] = lambda self: self._last(3)
    dispatch[pickle.BUILD[0]] = _state
    dispatch[pickle.NEWOBJ[0]] = _object
