"""Streams of random numbers in the place of the global generators, in several threads."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from meta.saving.generators import Stream, generators
from teachenv.randomness import Purpose, all_seeded, torch_seed


def of_stream(seed: int) -> list[Any]:
    draws, stream = [], Stream(seed)
    for _ in range(200):
        with stream():
            draws.append((random.random(), np.random.rand(), torch.rand(3).tolist()))  # noqa: NPY002
    return draws


def of_seeded(seed: int) -> list[Any]:
    draws: list[Any] = []
    for step in range(200):
        with all_seeded(seed, Purpose.DROPOUT, step):
            draws.append((random.random(), np.random.rand(), torch.rand(3).tolist()))  # noqa: NPY002
    return draws


def of_torch(seed: int) -> list[Any]:
    draws = []
    for step in range(200):
        with torch_seed(seed, Purpose.DROPOUT, step):
            draws.append(torch.rand(3).tolist())
    return draws


@pytest.mark.parametrize("others", [of_stream, of_seeded, of_torch])
def test_threads_draw_from_streams_what_they_draw_alone(others: Callable[[int], list[Any]]) -> None:
    drawn = [of_stream, others, of_stream, others]
    before = [str(part) for part in generators()]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda seed: drawn[seed](seed), range(4)))
    assert found == [drawn[seed](seed) for seed in range(4)]
    assert [str(part) for part in generators()] == before
