"""The policy that keeps states on disk.

They go side by side into one file and are read back one by one, so that memory holds one of them. The file has no name
(`tempfile.TemporaryFile`: unlinked at once on POSIX, deleted on closing on Windows): it is gone when it is closed, at
the end and after an exception, and when the process ends, however it ends. It is read and not mapped: pages of a mapped
file count as resident memory of the process.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import torch

from meta.hypergradients.policy import MemoryPolicy, Pace
from meta.hypergradients.process import Adjoint
from meta.hypergradients.steps import Sizes, Steps
from teachenv.trees import tensors_of, with_tensors

_FILLED = 0.9
"""How much of a disk's free room a plan takes."""
_BYTES_A_SECOND = 2e9
"""How fast a plan takes it to be written and read."""


@dataclass(frozen=True)
class Disk(MemoryPolicy):
    """Keeps every state in a file of a folder.

    Attributes:
        folder: the folder; None: the system's for temporary files (`TMPDIR`).
    """

    folder: str | None = None

    def predicted_bytes(self, sizes: Sizes) -> int:
        """Returns the bytes of two states, before and after a step, and of one graph."""
        return 2 * sizes.live + sizes.graph

    def possible(self, sizes: Sizes) -> bool:
        """Returns whether the folder has room for the file."""
        try:
            free = shutil.disk_usage(self.folder or tempfile.gettempdir()).free
        except OSError:
            return False
        return sizes.steps * sizes.needed <= _FILLED * free

    def predicted_seconds(self, sizes: Sizes, pace: Pace) -> float:
        """Returns how long the steps take, and the file."""
        return super().predicted_seconds(sizes, pace) + 2 * sizes.steps * sizes.needed / _BYTES_A_SECOND

    def predicted_steps(self, sizes: Sizes) -> int:
        """Returns the steps forwards."""
        return sizes.steps

    def keep(self, steps: Steps, state: Any, begin: int) -> dict[int, Any]:
        """Writes what differentiating reads of each state, as it comes by."""
        file = _File(self.folder)
        kept: dict[int, Any] = {}
        try:
            for t in range(begin, steps.total):
                kept[t] = file.put(steps.stored(steps.needed(state, t), t))
                after = steps.step(state, t)
                if t - begin < 2:  # all are alike
                    steps.meter.states(state, after)
                state = after
        except BaseException:
            file.close()
            raise
        return kept | {steps.total: state}

    def restore(self, steps: Steps, kept: dict[int, Any], final: Any) -> Iterator[tuple[int, Adjoint]]:
        """Reads the states back, one at a time."""
        after, file = final, next(iter(kept.values())).file
        try:
            for t in sorted(kept, reverse=True):
                state = kept.pop(t).read()
                yield t, functools.partial(steps.pullback, state, t, after)
                after = steps.compared(state)
        finally:
            file.close()


@dataclass(frozen=True)
class _OnDisk:
    """A state in a file.

    Attributes:
        file: the file.
        begin: where in it the state begins.
        skeleton: the state with nothing in the places of its tensors.
        layout: shape, type and device of each tensor.
    """

    file: _File
    begin: int
    skeleton: Any
    layout: Sequence[tuple[torch.Size, torch.dtype, torch.device]]

    def read(self) -> Any:
        """Returns the state."""
        self.file.stream.seek(self.begin)
        tensors = []
        for shape, dtype, device in self.layout:
            tensor = torch.empty(shape, dtype=dtype)
            self.file.stream.readinto(_bytes_of(tensor))  # type: ignore[attr-defined]  # a buffered stream has it
            tensors.append(tensor.to(device))
        return with_tensors(self.skeleton, tensors)


class _File:
    """A file without a name, which states are written to one after the other.

    Raises:
        OSError: there is no place for it, or no more of it.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder, self._size = folder or tempfile.gettempdir(), 0
        self._layout: list[tuple[torch.Size, torch.dtype, torch.device]] = []
        with self._explained():
            self.stream: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by the policy

    def put(self, state: Any) -> _OnDisk:
        """Writes a state to the end of the file."""
        tensors = tensors_of(state)
        layout = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        if layout != self._layout:
            self._layout = layout
        place = _OnDisk(self, self._size, with_tensors(state, itertools.repeat(_NOTHING)), self._layout)
        with self._explained():
            for tensor in tensors:
                self._size += self.stream.write(_bytes_of(tensor.detach().cpu().contiguous()))
            self.stream.flush()
        return place

    def close(self) -> None:
        """Closes the file, which deletes it."""
        with contextlib.suppress(OSError):  # what could not be written is not needed
            self.stream.close()

    def __del__(self) -> None:
        """Closes the file of a walk that was given up between its ways forwards and back."""
        with contextlib.suppress(AttributeError):  # there was no place for it
            self.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            problem = f"is full after {self._size:,} bytes of states" if full else "cannot be written to"
            raise OSError(
                error.errno,
                f"memory='disk': the folder {self._folder!r} {problem} ({error.strerror}); name one with room "
                "(folder=..., or TMPDIR), or take state_dtype='bfloat16', memory='reversible' or memory='log'",
            ) from error


_NOTHING = torch.empty(0)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
