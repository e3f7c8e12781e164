"""The memory that differentiating a process holds: an account of it, and a place for states to be kept in."""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch.autograd.graph import GradientEdge

from teachenv.graphs import Products
from teachenv.nodes import nodes_of
from teachenv.students.transforms import is_wrapped
from teachenv.trees import bytes_of, mapped, tensors_of, with_tensors

T = TypeVar("T")
R = TypeVar("R", bound=tuple[Any, ...])

_BLOCK, _ALIGNED = 2**25, 64


class MemoryMeter:
    """Accounts for the bytes of states and graphs that a sweep holds.

    Attributes:
        peak: the most bytes that were held at a time.
        graph_bytes: the bytes of the largest graph of a step.
    """

    def __init__(self) -> None:
        self.peak = self._graphs = self.graph_bytes = 0

    def weighed(self, linearize: Callable[[], R], times: int = 1) -> R:
        """Returns what a function returns, an adjoint second, and weighs the adjoint's graph.

        Gradients by `torch.func` refuse the hooks that weigh; the step is then taken without, and the graph walked.

        Args:
            linearize: the function, which builds the graph.
            times: how many graphs like it count as held until `release`.
        """
        weight = GraphBytes()
        try:
            with torch.autograd.graph.saved_tensors_hooks(weight.pack, lambda tensor: tensor):
                result = linearize()
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):
                raise
            weight, result = GraphBytes(), linearize()
            weight.add_saved(result[1])
        weight.add_held(result[1])
        self.graph_bytes = max(self.graph_bytes, weight.bytes)
        self._graphs += times * weight.bytes
        self.peak = max(self.peak, self._graphs)
        return result

    def release(self) -> None:
        """Notes that the graphs weighed so far are gone; from now on there is one at a time."""
        self._graphs = 0
        self.peak = self.graph_bytes

    def states(self, *trees: Any) -> None:
        """Notes that these states are in memory at the same time, beside one graph."""
        self.held(bytes_of(*trees))

    def held(self, size: int) -> None:
        """Notes that so many bytes are held beside one graph."""
        self.peak = max(self.peak, size + self.graph_bytes)


def lost_between_graphs(graph: int, state: int) -> int:
    """Returns about how many bytes stay resident at each step, though nothing holds them, where graphs are kept.

    A graph that holds less than a state does not hold the gradient either, which is let go. glibc does not always find
    its place again for a tensor of the same size: 0.25 to 0.4 of its bytes were lost at each step of the MNIST
    perceptron.

    Args:
        graph: the bytes of a step's graph; 0: there is none.
        state: the bytes of a state, as far as steps are differentiated from it.
    """
    return state * 2 // 5 if 0 < graph < state else 0


class Arena:
    """Keeps states side by side in large blocks of memory of their own.

    Where each tensor has memory of its own, those that stay lie between those that go, and what an allocator gets back
    comes in pieces that it cannot use again: resident memory grows to twice what is in use. A block of 32 MiB is mapped
    by itself (glibc never takes that much from its heap), and given back when the last state in it is let go.
    """

    def __init__(self) -> None:
        self._block: torch.Tensor | None = None
        self._used = 0

    def clear(self) -> None:
        """Frees the places of all that was put here: taken again, they save the page faults of new memory."""
        self._used = 0

    def put(self, tree: T) -> T:
        """Copies a structure's tensors here, but for those here already; returns it as it is if `place` gives None."""
        places = self.place([tensor for tensor in tensors_of(tree) if not _in_an_arena(tensor)])
        if places is None:
            return tree
        free_places = iter(places)
        copies = [tensor if _in_an_arena(tensor) else next(free_places).copy_(tensor) for tensor in tensors_of(tree)]
        return with_tensors(tree, copies)

    def place(self, tree: T) -> T | None:
        """Returns memory for a structure like this one; None where that would gain nothing.

        Small states fit into the gaps, and very large tensors have blocks of their own anyway; other devices have
        allocators that round sizes.
        """
        tensors = tensors_of(tree)
        sizes = [-(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED for tensor in tensors]
        if not 2**18 <= sum(sizes) <= _BLOCK // 2 or any(tensor.device.type != "cpu" for tensor in tensors):
            return None
        places = []
        if self._block is None or self._used + sum(sizes) > _BLOCK:
            self._block, self._used = torch.empty(_BLOCK, dtype=torch.uint8), 0
        for tensor, size in zip(tensors, sizes, strict=True):
            place = self._block[self._used : self._used + tensor.numel() * tensor.element_size()]
            places.append(place.view(tensor.dtype).view(tensor.shape))
            self._used += size
        return with_tensors(tree, places)


class ReusedMemory:
    """Memory for tensors, each piece used again when nothing holds the tensor that was there: no state and no graph.

    A state that no graph holds is let go after a step. An allocator puts what the graph does hold into its place, and
    has no room for the next state there: of the MNIST perceptron 0.7 of each state stayed resident.
    """

    def __init__(self) -> None:
        self._free: dict[int, deque[np.ndarray]] = {}

    def place(self, tree: T) -> T:
        """Returns memory for a structure like this one, which is no part of another call's until it is let go.

        What is small, not contiguous, or on another device than the CPU has memory of its own.
        """
        for size, count in Counter(tensor.nbytes for tensor in tensors_of(tree)).items():
            # Enough for two states: the graphs of many steps, let go at once, leave more than will be used again.
            self._free.setdefault(size, deque(maxlen=2 * count))
        places: T = mapped(self._placed, tree)
        return places

    def _placed(self, like: torch.Tensor) -> torch.Tensor:
        size = like.nbytes
        if size < 2**16 or like.device.type != "cpu" or not like.is_contiguous():
            return torch.empty_like(like)
        free = self._free[size]
        piece = free.pop() if free else torch.empty(size, dtype=torch.uint8).numpy()
        lent = piece.view()  # a tensor's memory holds the array that it was made from, so this dies with it
        weakref.finalize(lent, free.append, piece).atexit = False
        return torch.from_numpy(lent).view(like.dtype).view(like.shape)


def _in_an_arena(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in an arena's block; True too for one as large as a block, which gains nothing from it."""
    return tensor.untyped_storage().nbytes() >= _BLOCK


class GraphBytes:
    """The bytes of tensors saved for a backward pass, what they share counted once."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Counts a tensor that is saved for the backward pass, and returns it without its graph.

        With it, a gradient that is taken inside a step would hold the graph that holds it, for ever.
        """
        self.add(tensor)
        with torch._C.DisableTorchFunction():  # the network's own detach is replaced where this runs
            return tensor.detach()

    def add(self, tensor: torch.Tensor) -> None:
        """Counts a tensor; those of `torch.func`'s transforms, and tangents that are zeros, have no memory to count."""
        if is_wrapped(tensor) or tensor._is_zerotensor():
            return
        storage = tensor.untyped_storage()
        # Of a view of something larger (one action of all) only its own part; of an expanded tensor what there is.
        size = min(storage.nbytes(), tensor.numel() * tensor.element_size())
        self._storages[storage.data_ptr()] = max(size, self._storages.get(storage.data_ptr(), 0))

    def add_held(self, adjoint: Any) -> None:
        """Counts the tensors that an adjoint holds on to, and the leaves that its graph does."""
        for end in _ends_of(adjoint):
            tensor = end if isinstance(end, torch.Tensor) else getattr(end.node, "variable", None)
            if tensor is not None:
                self.add(tensor)

    def add_saved(self, adjoint: Any) -> None:
        """Counts what the nodes of an adjoint's graph have saved, as far as autograd shows it."""
        ends = [end.grad_fn if isinstance(end, torch.Tensor) else end.node for end in _ends_of(adjoint)]
        for node in nodes_of(ends):
            saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
            for tensor in tensors_of([*saved, getattr(node, "saved_tensors", ())]):
                self.add(tensor)

    @property
    def bytes(self) -> int:
        """The bytes counted so far."""
        return sum(self._storages.values())


def _ends_of(function: Any) -> Iterator[torch.Tensor | GradientEdge]:
    """Where the graph of an adjoint begins and ends: tensors or places that it, or a function in it, holds on to."""
    if isinstance(function, Products):
        yield from function.ends
    for cell in getattr(function, "__closure__", None) or ():
        if callable(cell.cell_contents):
            yield from _ends_of(cell.cell_contents)
        yield from tensors_of(cell.cell_contents)
