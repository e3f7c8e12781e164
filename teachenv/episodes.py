"""Which samples a training learns from and is judged on: functions of the episode's seed."""

from __future__ import annotations

import numpy as np
import torch

from teachenv.errors import unknown_name
from teachenv.minibatches import minibatches
from teachenv.randomness import Purpose, generator
from teachenv.rows import Rows
from teachenv.settings import Settings
from teachenv.state import Episode
from teachenv.tasks.base import Task

_DEV_SIZE = 400
"""The samples of a dev split of the pool, where no other number is chosen."""


class Episodes:
    """Draws the episodes of a problem: which samples each learns from and is judged on.

    Dev is drawn from the trusted dev set of a task that has one, else from the pool. What students learn from
    (`Settings.learn_from`) is the pool, the trusted dev set or both, without what is dev now.

    Args:
        task: the data.
        settings: sizes of the splits and of minibatches, and what students learn from.
        rows: the task's labelled samples.
    """

    def __init__(self, task: Task, settings: Settings, rows: Rows) -> None:
        self.task, self.settings, self.rows = task, settings, rows
        of_pool = np.arange(len(rows.inputs)) < len(task.pool[0])
        self._judges = of_pool if task.dev is None else ~of_pool
        self._teaches = {"pool": of_pool, "dev": ~of_pool}.get(settings.learn_from, np.ones_like(of_pool))

    @property
    def most_dev(self) -> int:
        """The number of samples that dev is drawn from."""
        return int(self._judges.sum())

    @property
    def default_dev_size(self) -> int:
        """The number of dev samples where none is chosen."""
        if self.task.dev is None:
            return _DEV_SIZE
        return self.most_dev if self.settings.learn_from == "pool" else max(1, self.most_dev // 2)

    @property
    def dev_size(self) -> int:
        """The number of dev samples in an episode."""
        return self.default_dev_size if self.settings.dev_size is None else self.settings.dev_size

    @property
    def most_train(self) -> int:
        """The number of training samples that dev leaves."""
        held_out = self.dev_size if (self._judges & self._teaches).any() else 0
        return int(self._teaches.sum()) - held_out

    @property
    def train_size(self) -> int:
        """The number of training samples in an episode."""
        if self.settings.train_on == "pool":
            return int(self._teaches.sum())
        return self.most_train if self.settings.train_size is None else self.settings.train_size

    def of(self, seed: int) -> Episode:
        """The episode of a seed: its split and its minibatches (reshuffled each epoch, incomplete ones left out)."""
        settings = self.settings
        order = generator(seed if settings.resplit else settings.split_seed, Purpose.SPLIT).permutation(
            len(self._judges)
        )
        dev, train = order[self._judges[order]][: self.dev_size], order[self._teaches[order]]
        if settings.train_on == "split":
            held_out = np.zeros_like(self._judges)
            held_out[dev] = True
            train = train[~held_out[train]][: self.train_size]
        rng = generator(seed, Purpose.BATCHES)
        batches = minibatches(rng, train, settings.batch_size, settings.horizon, self.task.lengths)
        device = self.rows.inputs.device
        tensors = (torch.from_numpy(np.ascontiguousarray(i)).to(device) for i in (batches, dev, train))
        return Episode((seed,), *tensors)

    def split(self, episode: Episode, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of `"train"`, `"dev"`, `"pool"` or `"test"`; per student for a batch of episodes.

        Raises:
            ValueError: an unknown name.
        """
        if name == "dev":
            return self.rows.inputs[episode.dev], self.rows.dev_targets[episode.dev]
        if name == "train":
            return self.rows.inputs[episode.train], self.rows.targets[episode.train]
        if name not in ("pool", "test"):
            raise unknown_name("split", name, ("train", "dev", "pool", "test"))
        inputs, targets = self.task.pool if name == "pool" else self.task.test
        batch = episode.dev.shape[:-1]
        return inputs.expand(*batch, *inputs.shape), targets.expand(*batch, *targets.shape)
