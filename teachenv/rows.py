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
        pool: how many of them are the pool's.
        domains: (n,) int64, the number of each sample's domain; None: the task has no domains.
        corrupted: (n,) bool, which samples the task says were corrupted; None: none was.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    true_targets: torch.Tensor
    dev_targets: torch.Tensor
    pool: int
    domains: torch.Tensor | None = None
    corrupted: torch.Tensor | None = None

    @classmethod
    def of(cls, task: Task, true_targets: torch.Tensor, dev_noise: bool = True) -> tuple[Task, Rows]:
        """The rows of a task, and the task with pool and dev as views of them: no sample is held twice.

        Args:
            task: the data, label noise in place.
            true_targets: the pool's targets before label noise.
            dev_noise: whether dev has the noise, where episodes draw it from the pool.
        """
        pool, known = len(task.pool[0]), _known(task)
        if task.dev is None:
            return task, cls(*task.pool, true_targets, task.pool[1] if dev_noise else true_targets, pool, *known)
        inputs, targets = (torch.cat(pair) for pair in zip(task.pool, task.dev, strict=True))
        true_targets = torch.cat([true_targets, task.dev[1]])
        task = task.derived(pool=(inputs[:pool], targets[:pool]), dev=(inputs[pool:], targets[pool:]))
        return task, cls(inputs, targets, true_targets, targets, pool, *known)

    @property
    def mislabelled(self) -> torch.Tensor:
        """(n,), whether label noise has changed the sample's label, or the task says that it was corrupted."""
        changed = (self.targets != self.true_targets).reshape(len(self.targets), -1).any(1)
        return changed if self.corrupted is None else changed | self.corrupted


def _known(task: Task) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The domain of each of a task's labelled samples, and whether it was corrupted, on the samples' device."""
    if task.domains is None:
        return None, None
    device, corrupted = task.pool[0].device, task.domains.corrupted
    domains = torch.from_numpy(task.domains.of_samples).to(device)
    return domains, None if corrupted is None else torch.from_numpy(corrupted).to(device)
