"""Which samples a training learns from and is judged on: functions of the episode's seed."""

from __future__ import annotations

import numpy as np
import torch

from teachenv.errors import unknown_name
from teachenv.minibatches import minibatches
from teachenv.randomness import Purpose, generator
from teachenv.settings import Settings
from teachenv.state import Episode
from teachenv.tasks.base import Task


class Episodes:
    """Draws the episodes of a problem: which samples each learns from and is judged on.

    Args:
        task: the data.
        settings: sizes of the splits and of minibatches.
        dev_targets: the pool's targets as dev sees them, see `Settings.dev_noise`.
    """

    def __init__(self, task: Task, settings: Settings, dev_targets: torch.Tensor) -> None:
        self.task, self.settings, self.dev_targets = task, settings, dev_targets

    @property
    def train_size(self) -> int:
        """The number of training samples in an episode."""
        settings, pool = self.settings, len(self.task.pool[0])
        if settings.train_on == "pool":
            return pool
        return pool - settings.dev_size if settings.train_size is None else settings.train_size

    def of(self, seed: int) -> Episode:
        """The episode of a seed: its split and its minibatches (reshuffled each epoch, incomplete ones left out)."""
        settings, pool = self.settings, len(self.task.pool[0])
        split = generator(seed if settings.resplit else settings.split_seed, Purpose.SPLIT).permutation(pool)
        dev = split[: settings.dev_size]
        train = split if settings.train_on == "pool" else split[settings.dev_size : settings.dev_size + self.train_size]
        rng = generator(seed, Purpose.BATCHES)
        batches = minibatches(rng, train, settings.batch_size, settings.horizon, self.task.lengths)
        device = self.task.pool[0].device
        tensors = (torch.from_numpy(np.ascontiguousarray(i)).to(device) for i in (batches, dev, train))
        return Episode((seed,), *tensors)

    def split(self, episode: Episode, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of `"train"`, `"dev"`, `"pool"` or `"test"`; per student for a batch of episodes.

        Raises:
            ValueError: an unknown name.
        """
        if name == "dev":
            return self.task.pool[0][episode.dev], self.dev_targets[episode.dev]
        if name == "train":
            return self.task.pool[0][episode.train], self.task.pool[1][episode.train]
        if name not in ("pool", "test"):
            raise unknown_name("split", name, ("train", "dev", "pool", "test"))
        inputs, targets = self.task.pool if name == "pool" else self.task.test
        batch = episode.dev.shape[:-1]
        return inputs.expand(*batch, *inputs.shape), targets.expand(*batch, *targets.shape)
