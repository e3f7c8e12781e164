"""Files of values that are read without running any code: a zip of `value.json` and `tensors.safetensors`.

What a value may be made of, in any nesting: None, booleans, numbers, text, bytes, lists, tuples, dictionaries, NumPy
arrays, scalars and generators, torch tensors (read onto the CPU); dataclasses and named tuples of the types that the
caller names; and other objects, for which the caller brings a `Codec`. Everything comes back bitwise and of the same
type.

A file is written whole or not at all. It says what kind of thing it holds, and a checksum of its tensors, so that one
that is damaged, cut, empty or of something else is refused in a line that names it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch

from teachenv import checks
from teachenv.files import remove_leftovers, whole_file

_JSON, _TENSORS, _FORMAT = "value.json", "tensors.safetensors", 1
# The key that tells an object of JSON that stands for something else than a dictionary.
_TAG, _CONTENT = "~", "of"
_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


class Refused(ValueError):
    """A value that is not read from a file, though the file is whole; the message says why."""


@dataclass(frozen=True)
class Codec:
    """How objects of some kind are written as plain values, and made of them again.

    Attributes:
        name: what the file calls the kind.
        fits: whether an object is of the kind.
        pack: object to a value of what files may hold, or of other codecs.
        unpack: that value to the object. It gets data that anybody may have written: it must run nothing of it, and may
            raise `Refused` with a message that begins with what the object is.
    """

    name: str
    fits: Callable[[Any], bool]
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def record(kind: type) -> Codec:
    """The codec of a dataclass or of a named tuple: its fields by name."""
    names = getattr(kind, "_fields", None) or [field.name for field in dataclasses.fields(kind)]

    def pack(value: Any) -> dict[str, Any]:
        return {name: getattr(value, name) for name in names}

    return Codec(kind.__name__, lambda value: type(value) is kind, pack, lambda fields: kind(**fields))


Known = Sequence[Codec | type]
"""Codecs, and dataclasses or named tuples, which stand for their `record`."""


def save(file: str | os.PathLike[str] | IO[bytes], value: Any, kind: str, known: Known = ()) -> None:
    """Writes a value into a file.

    Args:
        file: a path, whose folder is made if need be; or a file that is open for writing.
        value: what is written: plain values and tensors in any nesting, and objects that `known` has a codec for.
        kind: what it is, as errors call it: "a teacher of class RMD".
        known: what else than plain values it may hold; the first codec that fits is taken.

    Raises:
        TypeError: it holds something else; the error says where.
        OSError: the file could not be written.
    """
    writer = _Writer(_codecs(known))
    content = writer.encoded(value, ())
    tensors = safetensors.torch.save(writer.tensors)
    about = {"format": _FORMAT, "kind": kind, "sha256": hashlib.sha256(tensors).hexdigest(), "value": content}
    text = json.dumps(about, allow_nan=False, indent=1).encode()
    if not isinstance(file, str | os.PathLike):
        _write(file, text, tensors)
        return
    with whole_file(file) as partial, open(partial, "wb") as opened:
        _write(opened, text, tensors)


def load(
    file: str | os.PathLike[str] | IO[bytes], kind: str, known: Known = (), replaced: Mapping[str, Any] | None = None
) -> Any:
    """Reads what `save` wrote, running nothing.

    Args:
        file: a path, or a file that is open for reading.
        kind: what the file must hold, in the words that `save` was called with.
        known: the codecs that `save` was called with.
        replaced: values by their place ("options.rate"), in the place of the file's, which are not read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, cut, damaged, of another format, or holds another kind of thing.
    """
    name = os.fspath(file) if isinstance(file, str | os.PathLike) else str(getattr(file, "name", "the file"))
    if isinstance(file, str | os.PathLike):
        remove_leftovers(file)
        try:
            content = Path(file).read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(f"{name} is not there; expected a file that holds {kind}") from None
        except IsADirectoryError:
            raise IsADirectoryError(f"{name} is a folder; expected a file that holds {kind}") from None
    else:
        content = file.read()
    if not content:
        raise ValueError(f"{name} is empty; expected a file that holds {kind}; delete it, and save again")
    if foreign := _foreign(content):
        raise ValueError(
            f"{name} holds no {kind.removeprefix('a ')}: it is {foreign}; choose a file that teachenv saved"
        )
    with _damaged(name, kind):
        about, tensors = _read(content)
    if about["kind"] != kind:
        raise ValueError(f"{name} holds {about['kind']}, expected {kind}; choose another file")
    with _damaged(name, kind):
        return _Reader(_codecs(known), tensors, replaced or {}).decoded(about["value"], ())


@contextmanager
def going_on_from(file: Path) -> Iterator[None]:
    """Work that continues from a file: what does not fit (weights of another network, say) is one error that names it.

    Args:
        file: the file that was read.

    Raises:
        ValueError: it does not fit.
    """
    try:
        yield
    except Exception as error:
        if str(file) in str(error):
            raise  # an error of reading it, which names it already
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{file} does not fit the work that continues from it ({reason[:200]}); remove it to start again"
        ) from error


def _codecs(known: Known) -> list[Codec]:
    return [each if isinstance(each, Codec) else record(each) for each in known]


def _write(file: IO[bytes], text: bytes, tensors: bytes) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in ((_JSON, text), (_TENSORS, tensors)):
            # Without a date: the same value makes the same file.
            archive.writestr(zipfile.ZipInfo(name), content)


def _foreign(content: bytes) -> str | None:
    """What a file is that something else has written; None: it may be ours, whole or not."""
    if not content.startswith(b"PK"):
        return f"no zip file, it begins with {content[:8]!r}"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = sorted(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None
    if names == sorted((_JSON, _TENSORS)):
        return None
    if any(name.endswith("data.pkl") for name in names):
        return "a file of torch.save, which may run code when it is read"
    return f"a zip of {', '.join(names[:3]) or 'nothing'}{' and more' if len(names) > 3 else ''}"


def _read(content: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("it is compressed")
        about, tensors = json.loads(archive.read(_JSON)), archive.read(_TENSORS)
    written = about.get("format")
    if isinstance(written, int) and written > _FORMAT:
        raise Refused(
            f"found format {written}, expected {_FORMAT}; a newer version of teachenv wrote it: update teachenv"
        )
    if written != _FORMAT:
        raise ValueError(f"found format {checks.shown(written)}, expected {_FORMAT}")
    if hashlib.sha256(tensors).hexdigest() != about["sha256"]:
        raise ValueError("its tensors are not those that it was written with")
    return about, safetensors.torch.load(tensors)


@contextmanager
def _damaged(name: str, kind: str) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise Refused(f"{name}: {error}") from error
    except Exception as error:  # whatever a damaged file makes of its readers
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{name} is damaged, cut off or no file of {kind} ({reason[:200]}); delete it, and save or train again"
        ) from error


class _Writer:
    """Turns a value into JSON and numbered tensors."""

    def __init__(self, codecs: list[Codec]) -> None:
        self.codecs = codecs
        self.tensors: dict[str, torch.Tensor] = {}
        self._numbers: dict[int, str] = {}
        self._kept: list[Any] = []
        self._storages: set[int] = set()

    def encoded(self, value: Any, path: tuple[Any, ...]) -> Any:
        """A value's JSON form; its tensors are set aside under numbers."""
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else _tagged("float", repr(value))
        if kind is list:
            return [self.encoded(each, (*path, i)) for i, each in enumerate(value)]
        if kind is tuple:
            return _tagged("tuple", [self.encoded(each, (*path, i)) for i, each in enumerate(value)])
        for codec in self.codecs:
            if codec.fits(value):
                return _tagged(codec.name, self.encoded(codec.pack(value), path))
        if isinstance(value, dict):
            return self._dictionary(value, path)
        if isinstance(value, torch.Tensor):
            return _tagged("tensor", self._number(value, value, path))
        if isinstance(value, np.ndarray):
            return _tagged("array", self._number(value, _of_array(value, path), path))
        if isinstance(value, np.generic):
            return _tagged("scalar", self._number(value, _of_array(np.asarray(value), path), path))
        if kind is bytes:
            return _tagged("bytes", base64.b64encode(value).decode())
        if kind is np.random.Generator and type(value.bit_generator).__name__ in _GENERATORS:
            return _tagged("generator", self.encoded(value.bit_generator.state, path))
        raise TypeError(
            f"{_where(path)} is of type {kind.__module__}.{kind.__qualname__}, which a file of plain values cannot "
            "hold; expected numbers, text, lists, tuples, dictionaries, arrays or tensors"
        )

    def _dictionary(self, value: dict[Any, Any], path: tuple[Any, ...]) -> Any:
        if all(type(key) is str for key in value) and _TAG not in value:
            return {key: self.encoded(each, (*path, key)) for key, each in value.items()}
        pairs = [[self.encoded(key, path), self.encoded(each, (*path, key))] for key, each in value.items()]
        return _tagged("dict", pairs)

    def _number(self, original: Any, tensor: torch.Tensor, path: tuple[Any, ...]) -> str:
        """The name of a tensor in the file; the same object has one."""
        if id(original) in self._numbers:
            return self._numbers[id(original)]
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
            raise TypeError(f"{_where(path)} is a tensor of {tensor.dtype} and {tensor.layout}, expected a dense one")
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses what shares memory, and writes nothing but the tensor itself of a view.
        storage = tensor.untyped_storage().data_ptr()
        tensor = tensor.clone() if storage in self._storages else tensor
        self._storages.add(tensor.untyped_storage().data_ptr())
        name = self._numbers[id(original)] = str(len(self.tensors))
        self.tensors[name] = tensor
        self._kept.append(original)  # else another object could get its id
        return name


class _Reader:
    """Turns what `_Writer` made into the value."""

    def __init__(self, codecs: list[Codec], tensors: dict[str, torch.Tensor], replaced: Mapping[str, Any]) -> None:
        self.codecs = {codec.name: codec for codec in codecs}
        self.tensors, self.replaced = tensors, replaced

    def decoded(self, content: Any, path: tuple[Any, ...]) -> Any:
        """The value behind its JSON form."""
        if self.replaced and _where(path) in self.replaced:
            return self.replaced[_where(path)]
        if isinstance(content, list):
            return [self.decoded(each, (*path, i)) for i, each in enumerate(content)]
        if not isinstance(content, dict):
            return content
        if _TAG not in content:
            return {key: self.decoded(each, (*path, key)) for key, each in content.items()}
        tag, inner = content[_TAG], content[_CONTENT]
        if tag in self.codecs:
            plain = self.decoded(inner, path)
            try:
                return self.codecs[tag].unpack(plain)
            except Refused as error:
                raise Refused(f"{_where(path)} is {error}") from error
        if tag == "tuple":
            return tuple(self.decoded(each, (*path, i)) for i, each in enumerate(inner))
        if tag == "dict":
            return {self.decoded(key, path): self.decoded(each, (*path, key)) for key, each in inner}
        if tag == "float":
            return float(inner)
        if tag == "bytes":
            return base64.b64decode(inner, validate=True)
        if tag == "tensor":
            return self.tensors[inner]
        if tag == "array":
            return self.tensors[inner].numpy()
        if tag == "scalar":
            return self.tensors[inner].numpy()[()]
        if tag == "generator":
            return _generator(self.decoded(inner, path))
        raise Refused(f"{_where(path)} is of the unknown kind {tag!r}; a newer version may have written it")


def _tagged(tag: str, content: Any) -> dict[str, Any]:
    return {_TAG: tag, _CONTENT: content}


def _of_array(array: np.ndarray, path: tuple[Any, ...]) -> torch.Tensor:
    try:
        native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        return torch.from_numpy(native)
    except TypeError as error:
        raise TypeError(f"{_where(path)} is an array of {array.dtype}, expected numbers or booleans") from error


def _generator(state: dict[str, Any]) -> np.random.Generator:
    if state["bit_generator"] not in _GENERATORS:
        raise ValueError(f"unknown generator {state['bit_generator']!r}")
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)


def _where(path: tuple[Any, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "the value"
