"""Contenders take turns, and memory is measured at its peak, in a process of its own."""

from __future__ import annotations

from functools import partial

import torch

from teachenv.experiment import alone
from teachenv.experiment.timing import Times, in_turns, peak, seconds_of


def test_contenders_take_turns_at_least_so_often_and_so_long() -> None:
    calls: list[str] = []
    contenders = {name: partial(seconds_of, calls.append, name) for name in ("a", "b")}
    times = in_turns(contenders, 2)
    assert calls == ["a", "b"] * 3  # one round to warm up
    assert [len(own) for own in times.turns.values()] == [2, 2]
    calls.clear()
    times = in_turns(contenders, 2, seconds=0.05)
    assert len(calls) == 2 * len(times.turns["a"]) + 2 > 6


def test_ratios_are_of_the_same_turn() -> None:
    times = Times({"fast": [1.0, 10.0, 4.0], "slow": [3.0, 20.0, 20.0]})
    assert (times.median("fast"), times.ratio("slow", "fast")) == (4.0, 3.0)


def allocated(megabytes: int) -> int:
    return int(torch.ones(megabytes, 2**18).sum())


def measured() -> tuple[int | None, int, int, str]:
    """In a process of its own: what it grew by, a value, its threads, and what it says beyond a limit."""
    grown, value = peak(partial(allocated, 64))
    try:
        peak(partial(allocated, 512), most=2**28)
    except RuntimeError as error:
        return grown, value, torch.get_num_threads(), str(error)
    return grown, value, torch.get_num_threads(), ""


def test_a_process_of_its_own_tells_its_peak_and_keeps_to_a_limit() -> None:
    grown, value, threads, error = alone(measured)
    assert (value, threads) == (64 * 2**18, torch.get_num_threads())
    if grown is not None:  # as on Linux
        assert 64 * 2**20 < grown < 2**30
        assert "memory" in error
