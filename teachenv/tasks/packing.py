"""Samples of several named inputs, such as token ids with an attention mask, as one tensor.

What handles data (the draw of a minibatch, batches of students, snapshots, fingerprints) knows a task's inputs as one
tensor, (n, ...). Inputs that a user gives as a dictionary of arrays are laid side by side, (n, total), and are taken
apart again where the network is called, by keywords.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

Kind = Literal["floating-point numbers", "whole numbers", "truth values", "pixels"]

_EXACT = 2**24
"""Up to here float32 has every whole number."""
_WHOLE: tuple[Kind, ...] = ("whole numbers", "truth values")


@dataclass(frozen=True)
class Part:
    """One of a sample's inputs.

    Attributes:
        name: its key, which is the name of an argument of the network's forward.
        shape: its shape in one sample.
        kind: what it consists of.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind


@dataclass(frozen=True)
class Packing:
    """How the inputs of a sample lie in one tensor: each flat, one after the other.

    The tensor is int64 where all inputs are whole numbers or truth values, and uint8 where all are pixels. Else it is
    floating point: pixels are in [0, 1] there, and whole numbers go up to 2²⁴, so that float32 has them exactly.

    Attributes:
        parts: the inputs, in their order.
    """

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, inputs: Mapping[Any, torch.Tensor], where: str) -> Packing:
        """The packing of a pool's inputs.

        Args:
            inputs: each (n, ...), by name.
            where: what they are, for messages.

        Raises:
            ValueError: there are none, a name is no text, or what an input consists of cannot be told.
            TypeError: complex numbers.
        """
        if not inputs or not all(isinstance(name, str) and name for name in inputs):
            raise ValueError(
                f"{where}: inputs are a dictionary with {_keys(inputs)}, expected arrays by the names that the "
                "network's forward has for them"
            )
        parts = tuple(Part(name, tuple(part.shape[1:]), _kind(name, part, where)) for name, part in inputs.items())
        for part in parts:
            if 0 in part.shape:
                raise ValueError(
                    f"{where}: {part.name!r} of one sample has shape {part.shape}, no numbers; leave it out"
                )
        return cls(parts)

    @property
    def names(self) -> str:
        """The names of the inputs, for messages."""
        return ", ".join(repr(part.name) for part in self.parts)

    @property
    def size(self) -> int:
        """How many numbers a sample has."""
        return sum(self._sizes)

    def pack(self, inputs: Mapping[Any, torch.Tensor], where: str) -> torch.Tensor:
        """The inputs as one tensor, (n, total).

        Args:
            inputs: each (n, ...), by name; those of one call have one number of samples.
            where: what they are, for messages.

        Raises:
            ValueError: another name, shape, kind or number of samples than expected, or a whole number that is too
                large.
            TypeError: complex numbers.
        """
        if set(inputs) != {part.name for part in self.parts}:
            raise ValueError(
                f"{where}: inputs have {_keys(inputs)}, expected {self.names}, as in the pool; give the same in "
                "all splits"
            )
        for part in self.parts:
            self._check(part, inputs[part.name], where)
        lengths = {name: len(tensor) for name, tensor in inputs.items()}
        if len(set(lengths.values())) > 1:
            listed = " and ".join(f"{length} of {name!r}" for name, length in lengths.items())
            raise ValueError(f"{where}: inputs have different numbers of samples, {listed}; expected as many of each")
        tensors = [inputs[part.name].reshape(-1, math.prod(part.shape)) for part in self.parts]
        if all(part.kind in _WHOLE for part in self.parts):
            return torch.cat([tensor.to(torch.int64) for tensor in tensors], 1)
        if all(tensor.dtype == torch.uint8 for tensor in tensors):
            return torch.cat(tensors, 1)
        floats = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
        dtype = torch.float32 if not floats or len(floats) < len(tensors) else floats[0]
        for each in floats:
            dtype = torch.promote_types(dtype, each)
        pairs = zip(self.parts, tensors, strict=True)
        return torch.cat([_floating(part, tensor, dtype, where) for part, tensor in pairs], 1)

    def unpack(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The inputs by name, each (..., *shape).

        Args:
            inputs: (..., total), from `pack`; what is floating point may be in another precision since.
        """
        pieces = torch.split(inputs, self._sizes, -1)
        return {
            part.name: _restored(part.kind, piece.reshape(*piece.shape[:-1], *part.shape))
            for part, piece in zip(self.parts, pieces, strict=True)
        }

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Refuses a floating type that does not have the whole numbers that it shall hold.

        Raises:
            TypeError: it is half precision, and some inputs are whole numbers while others are not.
        """
        mixed = len({part.kind in _WHOLE for part in self.parts}) > 1
        if mixed and torch.finfo(dtype).eps > torch.finfo(torch.float32).eps:
            raise TypeError(
                f"dtype is {dtype}, which has few whole numbers, but inputs {self.names} lie in one tensor, whole "
                "numbers among them; expected torch.float32 or torch.float64"
            )

    @property
    def _sizes(self) -> list[int]:
        return [math.prod(part.shape) for part in self.parts]

    def _check(self, part: Part, tensor: torch.Tensor, where: str) -> None:
        kind = _kind(part.name, tensor, where)
        if tuple(tensor.shape[1:]) != part.shape:
            raise ValueError(
                f"{where}: {part.name!r} of one sample has shape {tuple(tensor.shape[1:])}, expected {part.shape} as "
                "in the pool; pad or cut all to one"
            )
        if kind != part.kind and not (part.kind == "pixels" and tensor.is_floating_point()):
            raise ValueError(
                f"{where}: {part.name!r} has {kind} ({tensor.dtype}), expected {part.kind} as in the pool; convert it"
            )


def augmented(augmentation: Any, packing: Packing | None, inputs: torch.Tensor, random: Any) -> torch.Tensor:
    """A minibatch's inputs after a task's augmentation, which gets inputs that are named as a dictionary.

    Args:
        augmentation: a `teachenv.tasks.base.Augmentation`.
        packing: how named inputs lie in `inputs`; None: they have no names.
        inputs: (batch, ...).
        random: the generator that it draws from.

    Raises:
        ValueError: it returns named inputs of another form.
        TypeError: it returns no dictionary where it gets one.
    """
    if packing is None:
        return augmentation(inputs, random)  # type: ignore[no-any-return]
    result = augmentation(packing.unpack(inputs), random)
    if not isinstance(result, Mapping):
        raise TypeError(f"it returns {type(result).__name__}, expected a dictionary with {packing.names}, as it gets")
    return packing.pack(result, "what it returns")


def _keys(inputs: Mapping[Any, Any]) -> str:
    return f"the keys {', '.join(map(repr, inputs))}" if inputs else "no keys"


def _kind(name: str, tensor: torch.Tensor, where: str) -> Kind:
    """What an input consists of.

    Raises:
        ValueError: bytes that are no images.
        TypeError: complex numbers.
    """
    if tensor.dim() < 1:
        raise ValueError(f"{where}: {name!r} is a single number, expected an array with an entry for each sample")
    if tensor.is_complex():
        raise TypeError(f"{where}: {name!r} is {tensor.dtype}, expected real numbers: take their parts apart")
    if tensor.is_floating_point():
        return "floating-point numbers"
    if tensor.dtype == torch.bool:
        return "truth values"
    if tensor.dtype != torch.uint8:
        return "whole numbers"
    if tensor.dim() != 4:
        raise ValueError(
            f"{where}: {name!r} is of type uint8 and shape {tuple(tensor.shape)}, but bytes are pixels of images, (n, "
            "channels, height, width); give a mask as bool, whole numbers as int64, and other numbers as floats"
        )
    return "pixels"


def _floating(part: Part, tensor: torch.Tensor, dtype: torch.dtype, where: str) -> torch.Tensor:
    if part.kind == "whole numbers" and tensor.numel():
        largest = max(map(abs, map(int, tensor.to(torch.int64).aminmax())))  # PyTorch has no abs of unsigned types
        if largest > _EXACT:
            raise ValueError(
                f"{where}: {part.name!r} has numbers as large as {largest}, expected at most {_EXACT} in whole numbers "
                "beside floating-point inputs; number them from 0 on"
            )
    return tensor.to(dtype).div_(255) if tensor.dtype == torch.uint8 else tensor.to(dtype)


def _restored(kind: Kind, tensor: torch.Tensor) -> torch.Tensor:
    """An input in a dtype of its kind; numbers that are whole or floating-point in all inputs stay as they are."""
    if kind == "truth values":
        return tensor != 0
    return tensor.to(torch.int64) if kind == "whole numbers" else tensor
