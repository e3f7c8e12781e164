"""What a memory policy is: what it keeps of a process's steps, and how it makes the way back of that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from meta.hypergradients.process import Adjoint, Process
from meta.hypergradients.steps import Sizes, Steps

_NEW_BYTES_A_SECOND = 2e9
"""How fast a system gives memory; of a large student's graphs that is half of the time."""


@dataclass(frozen=True)
class Pace:
    """How long steps take, in seconds.

    Attributes:
        step: of a step without a graph.
        back: of a step back: it is taken with its graph, and differentiated.
    """

    step: float
    back: float


@dataclass(frozen=True)
class MemoryPolicy(ABC):
    """What is kept between the forward and the backward pass.

    Attributes:
        name: how it is called in options and results.
        keeps_states: whether it keeps states, so that `state_dtype` has something to round.
    """

    name: str | int
    keeps_states: ClassVar[bool] = True

    @property
    def without_graphs(self) -> MemoryPolicy:
        """The policy that is followed in its place where a method has no graphs to keep."""
        return self

    def spacing(self, steps: int) -> int | None:
        """Returns k if the policy keeps every k-th of so many states and nothing else; None if it works otherwise."""
        return None

    def check(self, process: Process, state: Any) -> None:
        """Refuses what the policy cannot be followed for.

        Args:
            process: what is differentiated.
            state: where it begins.

        Raises:
            ValueError: the policy asks more of a process than `process` has.
        """
        return

    @abstractmethod
    def predicted_bytes(self, sizes: Sizes) -> int:
        """Returns the bytes of memory that are held at the peak, besides the initial state."""

    def resident_bytes(self, sizes: Sizes) -> int:
        """Returns the bytes that a process may grow by: those held, and those between that are not used again."""
        return self.predicted_bytes(sizes)

    @abstractmethod
    def predicted_steps(self, sizes: Sizes) -> int:
        """Returns how many steps are taken without a graph, on the way forwards and again."""

    def predicted_seconds(self, sizes: Sizes, pace: Pace) -> float:
        """Returns how long the whole takes: steps forwards and back, and memory that is taken for the first time."""
        taken = self.resident_bytes(sizes) / _NEW_BYTES_A_SECOND
        return self.predicted_steps(sizes) * pace.step + sizes.steps * pace.back + taken

    def possible(self, sizes: Sizes) -> bool:
        """Returns whether the policy can be followed, however much memory there is."""
        return True

    @abstractmethod
    def keep(self, steps: Steps, state: Any, begin: int) -> dict[int, Any]:
        """Takes the steps from x_begin on.

        Returns:
            What `restore` needs, each under its step t, and the final state under `steps.total`.
        """

    @abstractmethod
    def restore(self, steps: Steps, kept: dict[int, Any], final: Any) -> Iterator[tuple[int, Adjoint]]:
        """Yields (t, adjoint of step t) from the last step to the first; each adjoint is called before the next.

        Args:
            steps: the steps of the process.
            kept: what `keep` returned, without the final state. It is emptied, so that nothing is held too long.
            final: the final state.
        """
