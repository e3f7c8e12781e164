"""The nodes of autograd's graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def nodes_of(ends: Iterable[Any]) -> Iterator[Any]:
    """The nodes of a graph, each once.

    Args:
        ends: where it ends: nodes such as a tensor's `grad_fn`, or None.
    """
    seen, waiting = set(), [*ends]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
            yield node
