"""Where the samples of a task come from: each is of one of several domains, such as sources of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Domains:
    """The domain of each labelled sample, and whether the sample was corrupted.

    Attributes:
        names: a text for each of the K domains.
        of_samples: the number of the domain of each sample of the pool, and then of a trusted dev set, (n,), int64.
        corrupted: whether each of these samples was corrupted on purpose, (n,), bool; None: none was.

    Raises:
        ValueError: a name twice or none at all, numbers that are of no domain, or parts of different lengths.
    """

    names: tuple[str, ...]
    of_samples: npt.NDArray[np.int64]
    corrupted: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        names, numbers = tuple(self.names), np.asarray(self.of_samples)
        if not names or len({*names}) < len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"domains need different texts as names, found {names}; name each once")
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise ValueError(
                f"domains.of_samples must be whole numbers of shape (n,), found {numbers.dtype} of shape "
                f"{numbers.shape}; give the number of each sample's domain"
            )
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(names):
            raise ValueError(
                f"domains.of_samples goes from {numbers.min()} to {numbers.max()}, expected 0 to {len(names) - 1}, the "
                f"numbers of {', '.join(map(repr, names))}"
            )
        corrupted = None if self.corrupted is None else np.asarray(self.corrupted, dtype=bool)
        if corrupted is not None and corrupted.shape != numbers.shape:
            raise ValueError(
                f"domains.corrupted has shape {corrupted.shape}, expected {numbers.shape}, one truth value a sample"
            )
        for name, value in (("names", names), ("of_samples", numbers.astype(np.int64)), ("corrupted", corrupted)):
            object.__setattr__(self, name, value)  # the dataclass is frozen for everybody else

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.of_samples)

    def at(self, samples: npt.NDArray[Any]) -> Domains:
        """The domains of some of the samples, in their order."""
        return Domains(
            self.names, self.of_samples[samples], None if self.corrupted is None else self.corrupted[samples]
        )

    def shares(self, pool: int) -> tuple[float, ...]:
        """The share that each domain has in the first `pool` samples, (K,); they sum to 1."""
        counts = np.bincount(self.of_samples[:pool], minlength=len(self.names))
        return tuple(float(count) / pool for count in counts)
