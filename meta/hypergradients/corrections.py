"""Corrections of predicted numbers to the bit, in two bits a number where the prediction is good.

A floating-point number is seen as the integer of its bits, so that the difference of two is how many representable
numbers they are apart (units in the last place). Two bits hold −1, 0 and 1, or say that the difference is larger; then
it follows in a byte, or if that is not enough in as many bytes as the number has. Where most predictions are right to
the bit, bytes of four zeros are left out, and a bit of each byte says so.
"""

from __future__ import annotations

import numpy as np
import torch

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_BLOCK = 2**25
PADDED = 4
"""What the lengths of predicted tensors are multiples of: so many numbers share a byte."""


class Corrections:
    """A stack of corrections: what was put first is taken last.

    They lie in blocks of 32 MiB, since an allocator would have millions of pieces to keep apart.

    Attributes:
        bytes: the bytes in use.
        numbers: the numbers that are corrected.
    """

    def __init__(self) -> None:
        """Begins empty."""
        self.bytes = self.numbers = 0
        self._blocks: list[torch.Tensor] = []
        self._pieces: list[tuple[int, int, int]] = []
        self._end = _BLOCK
        self._scratch: list[torch.Tensor] = []

    def push(self, predicted: torch.Tensor, actual: torch.Tensor) -> None:
        """Writes down what takes a prediction to the actual numbers; both have one dimension, a multiple of PADDED."""
        integers = _INTEGERS[actual.element_size()]
        difference, clamped, symbols = self._scratch_like(actual.view(integers))
        torch.sub(actual.view(integers), predicted.view(integers), out=difference)
        symbols.copy_(torch.clamp(difference, -2, 2, out=clamped)).bitwise_and_(3)  # -2 and 2 both become 2
        larger = difference[_places(symbols, 2)]
        wide = (larger < -127) | (larger > 127)
        quarters = symbols.view(torch.uint8).view(4, -1)
        packed = quarters[0].add(quarters[1], alpha=4).add_(quarters[2], alpha=16).add_(quarters[3], alpha=64)
        self._put(larger[wide])
        self._put(torch.where(wide, -128, larger).to(torch.int8))
        for piece in _without_zeros(packed):
            self._put(piece)
        self.numbers += actual.numel()

    def pop(self, predicted: torch.Tensor) -> torch.Tensor:
        """Returns the actual numbers of a prediction, which is overwritten by them."""
        integers = _INTEGERS[predicted.element_size()]
        present, packed = self._take(torch.uint8), self._take(torch.uint8)
        packed = _with_zeros(packed, present, len(predicted) // PADDED).view(torch.int8)
        larger, wide = self._take(torch.int8).to(integers), self._take(integers)
        whole, _, symbols = self._scratch_like(predicted.view(integers))
        for i, quarter in enumerate(symbols.view(4, -1)):  # to the top of the byte and back: its sign goes along
            torch.bitwise_left_shift(packed, 6 - 2 * i, out=quarter)
        places = _places(symbols.bitwise_right_shift_(6), -2)
        whole.copy_(symbols)
        if len(wide):
            larger[larger == -128] = wide
        if len(places):
            whole[places] = larger
        predicted.view(integers).add_(whole)
        self.numbers -= predicted.numel()
        return predicted

    def _scratch_like(self, integers: torch.Tensor) -> list[torch.Tensor]:
        """Returns memory for two such tensors and one of bytes; to map new memory each time would double the cost."""
        if not self._scratch or self._scratch[0].shape != integers.shape or self._scratch[0].dtype != integers.dtype:
            self._scratch = [torch.empty_like(integers, dtype=dtype) for dtype in (None, None, torch.int8)]
        return self._scratch

    def _put(self, values: torch.Tensor) -> None:
        raw = values.view(torch.uint8)
        if self._end + len(raw) > _BLOCK or not self._blocks:
            self._blocks.append(torch.empty(max(_BLOCK, len(raw)), dtype=torch.uint8, device=raw.device))
            self._end = 0
        begin, self._end = self._end, self._end + len(raw)
        self._blocks[-1][begin : self._end] = raw
        self._pieces.append((len(self._blocks), begin, self._end))
        self.bytes += len(raw)

    def _take(self, dtype: torch.dtype) -> torch.Tensor:
        block, begin, end = self._pieces.pop()
        raw = self._blocks[block - 1][begin:end]
        self.bytes, self._end = self.bytes - len(raw), begin
        while self._blocks and (not self._pieces or self._pieces[-1][0] < len(self._blocks)):
            self._blocks.pop()
            self._end = self._pieces[-1][2] if self._pieces else _BLOCK
        return raw.view(dtype) if dtype.itemsize == 1 else raw.clone().view(dtype)  # which must be aligned


def _places(symbols: torch.Tensor, symbol: int) -> torch.Tensor:
    """Returns where a symbol is; on a CPU NumPy finds it five times as fast as PyTorch."""
    if symbols.is_cuda:
        return (symbols == symbol).nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(symbols.numpy() == symbol))


def _without_zeros(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (bytes that are not zero, a bit for each byte), if that is less; else (all bytes, nothing)."""
    if not packed.is_cuda:  # where it would wait for the device
        values = packed.numpy()
        present = values != 0
        if np.count_nonzero(present) < 0.6 * len(values):
            return torch.from_numpy(values[present]), torch.from_numpy(np.packbits(present))
    return packed, packed[:0]


def _with_zeros(packed: torch.Tensor, present: torch.Tensor, size: int) -> torch.Tensor:
    if not len(present):
        return packed
    values = np.zeros(size, dtype=np.uint8)
    values[np.unpackbits(present.numpy(), count=size).view(bool)] = packed.numpy()
    return torch.from_numpy(values)
