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
        dev_targets: (n, ...), what dev has in their places; see `Settings.dev_noise`.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    dev_targets: torch.Tensor

    @classmethod
    def of(cls, task: Task, dev_targets: torch.Tensor) -> tuple[Task, Rows]:
        """The rows of a task, and the task with pool and dev as views of them: no sample is held twice.

        Args:
            task: the data, label noise in place.
            dev_targets: the pool's targets as dev sees them, where episodes draw dev from the pool.
        """
        if task.dev is None:
            return task, cls(*task.pool, dev_targets)
        inputs, targets = (torch.cat(pair) for pair in zip(task.pool, task.dev, strict=True))
        pool = len(task.pool[0])
        task = task.derived(pool=(inputs[:pool], targets[:pool]), dev=(inputs[pool:], targets[pool:]))
        return task, cls(inputs, targets, targets)
