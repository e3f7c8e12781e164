"""The labelled samples of a problem in one pair of tensors, which the indices of episodes point into."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from teachenv.tasks.base import Task


@dataclass(frozen=True, eq=False)
class Rows:
    """The pool's samples, and behind them those of a trusted dev set, if the task has one.

    Attributes:
        inputs: (n, ...).
        targets: (n, ...), what students are trained on.
        true_targets: (n, ...), those before label noise.
        dev_targets: (n, ...), what dev has in their places; see `Settings.dev_noise`.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    true_targets: torch.Tensor
    dev_targets: torch.Tensor

    @classmethod
    def of(cls, task: Task, true_targets: torch.Tensor, dev_noise: bool = True) -> tuple[Task, Rows]:
        """The rows of a task, and the task with pool and dev as views of them: no sample is held twice.

        Args:
            task: the data, label noise in place.
            true_targets: the pool's targets before label noise.
            dev_noise: whether dev has the noise, where episodes draw it from the pool.
        """
        if task.dev is None:
            return task, cls(*task.pool, true_targets, task.pool[1] if dev_noise else true_targets)
        inputs, targets = (torch.cat(pair) for pair in zip(task.pool, task.dev, strict=True))
        true_targets = torch.cat([true_targets, task.dev[1]])
        pool = len(task.pool[0])
        task = task.derived(pool=(inputs[:pool], targets[:pool]), dev=(inputs[pool:], targets[pool:]))
        return task, cls(inputs, targets, true_targets, targets)

    @property
    def mislabelled(self) -> torch.Tensor:
        """(n,), whether label noise has changed the sample's label."""
        return (self.targets != self.true_targets).reshape(len(self.targets), -1).any(1)
