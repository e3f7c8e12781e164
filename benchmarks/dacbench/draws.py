"""The random numbers of DACBench's SGD environment, drawn as it draws them, from a generator of their own.

DACBench draws split, weights and order of samples from torch's global generator, which it seeds when an environment is
made and at no other time. The draws below come from the same state, by the same calls (`random_split`, `DataLoader`)
over numbers of samples in place of the samples, so that they are the same whatever the version of torch. The global
generator is left as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split

from benchmarks.dacbench.instance import TEST_BATCH, Instance


class Draws:
    """Splits, networks and minibatches, in the order in which an environment asks for them.

    Args:
        instance: what is trained.
        samples: how many samples the training set has.
        tests: how many the test set has.
    """

    def __init__(self, instance: Instance, samples: int, tests: int) -> None:
        self._instance, self._samples, self._tests = instance, samples, tests
        self._state = torch.Generator().manual_seed(instance.seed).get_state()

    @contextmanager
    def _global(self) -> Iterator[None]:
        """Puts our state into torch's global generator inside the block."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._state)
            yield
            self._state = torch.get_rng_state()

    def episode(self) -> nn.Module:
        """Begins an episode: draws its split, then its network, which is returned."""
        instance, size = self._instance, self._instance.train_size(self._samples)
        with self._global():
            train, validation = random_split(_Numbers(self._samples), [size, self._samples - size])
            self._train = _loader(train, instance.batch_size, shuffle=True, drop_last=True)
            self._validation = _loader(validation, instance.batch_size, shuffle=True)
            return instance.network()

    def minibatches(self) -> torch.Tensor:
        """Indices into the training set of an action's minibatches, (steps, batch): an epoch's, or one."""
        with self._global():
            count = None if self._instance.by_epoch else 1
            return torch.stack(list(islice(self._train, count)))

    def validation(self, ended: bool) -> list[torch.Tensor]:
        """Indices into the training set of the minibatches that validation is measured on after an action.

        Args:
            ended: whether this was the episode's last action.
        """
        with self._global():
            return list(islice(self._validation, self._instance.validation_batches(self._samples, ended)))

    def test(self) -> list[torch.Tensor]:
        """Indices of the test minibatches, in order; a loader that does not shuffle draws a number all the same."""
        with self._global():
            loader = _loader(_Numbers(self._tests), TEST_BATCH)
            return list(islice(loader, self._instance.test_batches(self._tests)))


class _Numbers(Dataset[int]):
    """The numbers of so many samples, in place of the samples."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> int:
        if not 0 <= number < self._count:
            raise IndexError(number)
        return number


def _loader(part: Dataset[int], size: int, **options: bool) -> DataLoader[torch.Tensor]:
    return DataLoader(part, size, **options)  # type: ignore[arg-type] # what it gives are whole minibatches
