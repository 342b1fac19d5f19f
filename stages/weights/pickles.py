"""Reads pickles of numpy arrays safely: no file can make numpy or the interpreter follow invalid pointers.

Some flags of numpy.dtype make numpy take bytes of the file for pointers, and a pickle can set these flags. So kinegraph
replaces numpy.dtype, and the functions that make arrays, by its own versions. They accept only numbers. The message of
an error says `refused` if the content could do harm.
"""

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np

from kinegraph.cache_schemas.regular import NotRegularError, open_regular
from kinegraph.stages.errors import WeightsError

NUMBER = re.compile(r"[<>=|]?(\?|b1|[iu][1248]|f(2|4|8|16)|c(8|16|32))")  # names of dtypes in pickles
ORDERS = ("<", ">", "=", "|")
KEYS = (str, bytes, int, float, bool, type(None))


def read_pickle(path: Path) -> Any:
    """Returns the content of the pickle file `path`: numpy arrays, usually in dicts or lists. Strings of Python 2 are
    read as latin-1. Arrays with the byte order of another machine are converted.

    Raises WeightsError if the file is damaged, or holds anything but numpy arrays and plain containers. Other objects
    could run code.
    """
    try:
        with open_regular(path) as file:
            return ArrayUnpickler(file, encoding="latin1").load()
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except NotRegularError as error:
        raise WeightsError(str(error)) from error
    except Exception as error:  # the unpickler raises errors of any type for a damaged stream
        words = str(error) or "it ends too early"
        raise WeightsError(f"{path}: is no pickle of numpy arrays, or a damaged one: {words}") from error


class NumberType:
    """A safe replacement of numpy.dtype in pickles. The unpickler makes a NumberType for each numpy.dtype in the file.
    `dtype` is the type of numpy, with the byte order of the file.
    """

    def __init__(self, code: object, align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or not NUMBER.fullmatch(code):
            raise WeightsError(f"refused: the pickle holds values of type {code!r:.80}, and only numbers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Sets the byte order of this type from `state`, the tuple that numpy writes for a type. Raises WeightsError if
        the tuple describes a type with fields or flags.

        The tuple is (version, byte order, subarray, names, fields, itemsize, alignment, flags).
        """
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ORDERS or (*state[2:5],) != (None,) * 3:
            raise WeightsError("refused: the pickle holds a type of numbers with fields or flags of its own")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


class PlainArray(np.ndarray):
    """A numpy array in a pickle. The unpickler makes it where the pickle asks for numpy.ndarray. The array is empty
    until the unpickler calls `__setstate__`, which sets its values.

    `__setstate__` may be called once.
    """

    def __new__(cls, *arguments: object) -> NoReturn:
        raise WeightsError("refused: the pickle makes an array by hand")

    def __setstate__(self, state: Any) -> None:
        """Sets the values of the array from `state`: (version, shape, type, whether the values are in Fortran order,
        bytes).

        Raises WeightsError if the array has values already, or if shape, type and bytes do not fit each other.
        """
        _, shape, kind, is_fortran, raw = state
        if self.size:
            raise WeightsError("refused: the pickle gives an array its values twice")
        values = _values(raw, kind, shape).astype(kind.dtype.newbyteorder("="), copy=False)
        checked: Any = 1, values.shape, values.dtype, bool(is_fortran), values.tobytes()
        super().__setstate__(checked)


def _raw(raw: object) -> bytes | bytearray:
    """Returns the bytes of an array from `raw`, which is bytes, or text in pickles of Python 2.

    Raises WeightsError if `raw` is of another type.
    """
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(raw, bytes | bytearray):
        raise WeightsError(f"refused: the pickle holds an array made from {type(raw).__name__}, not from bytes")
    return raw


def _values(raw: object, kind: object, shape: object) -> np.ndarray:
    """Returns the bytes `raw` as an array of the shape `shape`, in C order. The numbers have the type and byte order of
    `kind`.

    Raises WeightsError if `kind` is no NumberType, if `shape` is no shape, or if `raw` has too many or too few bytes.
    """
    raw = _raw(raw)
    if not isinstance(kind, NumberType):
        raise WeightsError("refused: the pickle holds an array without a type of numbers")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise WeightsError(f"refused: the pickle holds an array of shape {shape!r:.80}")
    if math.prod(shape) * kind.dtype.itemsize != len(raw):
        raise WeightsError(f"the pickle holds {len(raw)} bytes for an array of {kind.dtype}{list(shape)}")
    return np.frombuffer(raw, kind.dtype).reshape(shape)


def _empty(subtype: object, shape: object, code: object) -> Any:
    """Returns an array without values, in place of numpy's `_reconstruct`. The pickle sets the values later. `shape`
    and `code` are not used.

    Raises WeightsError if `subtype` is another class than numpy.ndarray.
    """
    if subtype is not NDARRAY:
        raise WeightsError("refused: the pickle holds an array of a class of its own")
    array_class: Any = PlainArray
    return np.empty(0, np.uint8).view(array_class)


def _scalar(kind: object, raw: object = b"") -> Any:
    return _values(raw, kind, ()).astype(kind.dtype.newbyteorder("="))[()]  # type: ignore[attr-defined]


def _from_buffer(raw: object, kind: object, shape: object, order: object, axes: object = None) -> np.ndarray:
    """Returns an array with the values in the bytes `raw`, of the type `kind` and the shape `shape`. Replaces numpy's
    function _frombuffer, which pickles call.

    `order` is the order of the values in `raw`: "C" by rows, "F" by columns, or "K" by rows of an array whose axes are
    then permuted to `axes`. Raises WeightsError for any other `order`.
    """
    if order == "K" and isinstance(axes, tuple) and all(type(axis) is int for axis in axes):
        return _from_buffer(raw, kind, shape, "C").transpose(axes)
    if order not in ("C", "F") or axes is not None:
        raise WeightsError(f"refused: the pickle holds an array whose values lie in the order {order!r:.80}")
    values = _values(raw, kind, shape)
    if order == "F":
        values = values.reshape(-1).reshape(values.shape, order="F")
    return values.astype(values.dtype.newbyteorder("="))


def _latin1(text: str, encoding: str) -> bytes:
    """Returns `text` encoded in latin-1. Replaces `_codecs.encode` in pickles that Python 3 wrote for Python 2.

    Raises WeightsError if `encoding` is not "latin1".
    """
    if encoding != "latin1":
        raise WeightsError(f"bytes encoded as {encoding!r}; pickles of arrays use latin1")
    return text.encode("latin1")


def no_bytes() -> bytes:
    return b""


def _ordered(items: Iterable[Any] = ()) -> OrderedDict[Any, Any]:
    pairs = [(key, value) for key, value in items]
    _check_keys(key for key, _ in pairs)
    return OrderedDict(pairs)


def _check_keys(keys: Iterable[object]) -> None:
    """Raises WeightsError if a key of a dict or an item of a set is not a plain value, such as a text or a number.

    Other keys, such as tuples, may be nested so deep that computing their hash ends the process.
    """
    if bad := [key for key in keys if not isinstance(key, KEYS)]:
        raise WeightsError(f"refused: the pickle holds a key that is a {type(bad[0]).__name__}, not a name or number")


class _Named:
    """A name in a pickle, such as numpy.ndarray. The pickle may pass the name to a function as an argument, but cannot
    call it.
    """


NDARRAY = _Named()
# Names as numpy 1 writes them. numpy 2 writes numpy._core.
OF_NUMPY: dict[str, Any] = {
    "numpy.ndarray": NDARRAY,
    "numpy.dtype": NumberType,
    "numpy.core.multiarray._reconstruct": _empty,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
}
ADMITTED = OF_NUMPY | {
    "collections.OrderedDict": _ordered,
    "__builtin__.bytes": no_bytes,
    "builtins.bytes": no_bytes,
    "_codecs.encode": _latin1,
}


_Base: Any = pickle._Unpickler  # the unpickler in C has no hook for BUILD and for keys


class ArrayUnpickler(_Base):  # type: ignore[misc]
    """Reads a pickle from the open file `file`. The pickle may have plain containers (dicts, lists, ...), and the types
    and functions in ADMITTED. `encoding` is the encoding of texts from Python 2.

    Raises WeightsError for any other type or function. No size in the file can make the reader allocate more memory
    than the file is long.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_Base.dispatch)

    def __init__(self, file: io.BufferedReader, encoding: str = "ASCII") -> None:
        self._bounded = _Bounded(file)
        super().__init__(self._bounded, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full_name not in ADMITTED:
            raise WeightsError(f"refused: the pickle asks for {module}.{name}, and only numpy arrays are read")
        return ADMITTED[full_name]

    def _build(self) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) not in (NumberType, PlainArray):
            raise WeightsError(f"refused: the pickle sets the state of a {type(self.stack[-1]).__name__}")
        self.stack[-1].__setstate__(state)

    def _set_item(self) -> None:
        _check_keys([self.stack[-2]])
        self.load_setitem()

    def _set_items(self) -> None:
        _check_keys(self.stack[::2])
        self.load_setitems()

    def _dict(self) -> None:
        _check_keys(self.stack[::2])
        self.load_dict()

    def _add_items(self) -> None:
        _check_keys(self.stack)
        self.load_additems()

    def _frozen_set(self) -> None:
        _check_keys(self.stack)
        self.load_frozenset()

    def _bytearray(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self._bounded.check(size)
        self.append(bytearray(self.read(size)))

    def _refuse(self) -> NoReturn:
        raise WeightsError("refused: the pickle makes an object, and only arrays and plain containers are read")

    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items
    dispatch[pickle.DICT[0]] = _dict
    dispatch[pickle.ADDITEMS[0]] = _add_items
    dispatch[pickle.FROZENSET[0]] = _frozen_set
    dispatch[pickle.BYTEARRAY8[0]] = _bytearray
    dispatch |= dict.fromkeys((code[0] for code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX)), _refuse)


class _Bounded:
    """A file that is open for reading, with a limit for each request. A request for more bytes than the file has raises
    EOFError before memory is allocated, because a damaged pickle may state a size of petabytes.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)

    def check(self, size: int) -> None:
        if size > self._size:
            raise EOFError(f"it claims a part of {size} bytes, and has {self._size}")

    def read(self, size: int) -> bytes:
        self.check(size)
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline()

    def readinto(self, buffer: bytearray) -> int:
        return self._file.readinto(buffer)
