"""Observations of the last rollouts, from which LoT's students take steps of their own."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from stable_baselines3.common.utils import obs_as_tensor


class LastRollouts:
    """Observations of the last rollouts; iterating gives minibatches of them, drawn from NumPy's global generator.

    Args:
        rollouts: the number of rollouts that are kept.
        batch_size: the number of observations in a minibatch.
        device: the device that minibatches are put on.

    Attributes:
        rollouts: the observations of each rollout by name, (steps · environments, ...); a space that is no dictionary
            has the name `""`.
    """

    def __init__(self, rollouts: int, batch_size: int, device: torch.device) -> None:
        """Begins without a rollout."""
        self.rollouts: deque[dict[str, np.ndarray]] = deque(maxlen=rollouts)
        self._batch_size, self._device = batch_size, device

    def add(self, observations: np.ndarray | dict[str, np.ndarray]) -> None:
        """Adds the observations of a rollout, (steps, environments, ...); copied, since SB3 overwrites its buffer."""
        by_name = observations if isinstance(observations, dict) else {"": observations}
        self.rollouts.append({name: v.reshape(-1, *v.shape[2:]).copy() for name, v in by_name.items()})

    def __iter__(self) -> LastRollouts:
        return self

    def __next__(self) -> torch.Tensor | dict[str, torch.Tensor]:
        sizes = [len(next(iter(rollout.values()))) for rollout in self.rollouts]
        ends = np.cumsum(sizes)
        indices = np.random.randint(ends[-1], size=self._batch_size)  # noqa: NPY002 - LoT's own stream
        which = np.searchsorted(ends, indices, side="right")
        rows = indices - (ends - sizes)[which]
        batch = {
            name: np.stack([self.rollouts[i][name][row] for i, row in zip(which, rows, strict=True)])
            for name in self.rollouts[0]
        }
        return obs_as_tensor(batch.get("", batch), self._device)
