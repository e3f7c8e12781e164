"""Accounting for the memory that differentiating a process holds: the bytes of states and of graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from teachenv.trees import bytes_of


class Held:
    """Accounts for the bytes of states and graphs that a walk holds."""

    def __init__(self) -> None:
        self.peak = self._graphs = self._largest = 0

    @contextmanager
    def graph(self, times: int = 1) -> Iterator[Weight]:
        """Weighs the graph that is built inside; so many like it count as held until `release`."""
        weight = Weight()
        with torch.autograd.graph.saved_tensors_hooks(weight.pack, lambda tensor: tensor):
            yield weight
        self._largest = max(self._largest, weight.bytes)
        self._graphs += times * weight.bytes
        self.peak = max(self.peak, self._graphs)

    def release(self) -> None:
        """The graphs weighed so far are gone, but for one at a time."""
        self._graphs = 0
        self.peak = self._largest

    def states(self, *trees: Any) -> None:
        """These states are held now, beside one graph."""
        self.peak = max(self.peak, bytes_of(*trees) + self._largest)


class Weight:
    """The bytes of tensors saved for a backward pass, what they share counted once."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Counts a tensor as it is saved."""
        storage = tensor.untyped_storage()
        # Of a view of something larger (one action of all) only its own part; of an expanded tensor what there is.
        own = min(storage.nbytes(), tensor.numel() * tensor.element_size())
        self._storages[storage.data_ptr()] = max(own, self._storages.get(storage.data_ptr(), 0))
        return tensor

    @property
    def bytes(self) -> int:
        """What was counted."""
        return sum(self._storages.values())
