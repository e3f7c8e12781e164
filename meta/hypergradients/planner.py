"""Chooses a memory policy: the fastest that is predicted to fit.

Seconds are predicted from those of a step and of a step back, which are measured first where that is a small part of
the whole: T steps back, the steps of the policy's walks, and what it writes and reads or encodes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meta.hypergradients.policy import MemoryPolicy, Pace
from meta.hypergradients.steps import Sizes, Steps
from teachenv import checks
from teachenv.machine import spare_memory
from teachenv.trees import tensors_of

_MEASURED_FROM = 64
"""The least number of steps for which their pace is measured: that takes 3 of them forwards and back, 9 of 512."""
_BACK = 7 / 3
"""Double backward over gradient, by count of operations, where the pace is not measured."""


@dataclass(frozen=True)
class Plan:
    """A choice of memory policy.

    Attributes:
        policy: what is followed.
        text: what was predicted and why it was chosen, in a sentence or two.
        seconds: how long the whole is predicted to take; None where the pace was not measured.
    """

    policy: MemoryPolicy
    text: str
    seconds: float | None


def planned(
    policies: Sequence[MemoryPolicy], steps: Steps, sizes: Sizes, state: Any, begin: int, byte_budget: int | None
) -> Plan:
    """Returns the fastest policy within a budget; if none is within what is free, the one that needs the least memory.

    Args:
        policies: what there is to choose from.
        steps: the steps of the process.
        sizes: what they would hold.
        state: the state before the first step that is differentiated.
        begin: that step.
        byte_budget: how much memory there is; None: `teachenv.machine.spare_memory`.

    Raises:
        ValueError: no policy fits into a budget that was given.
    """
    given = byte_budget is not None
    budget = spare_memory(tensors_of(state))
    if byte_budget is not None:
        budget = checks.integer("byte_budget", byte_budget, least=1)
    measured = pace_of(steps, state, begin) if sizes.steps >= _MEASURED_FROM else None
    pace = measured or Pace(1.0, 1.0 + _BACK)
    possible = [policy for policy in policies if policy.possible(sizes)]
    if steps.by_differences:
        possible = [policy for policy in possible if policy.without_graphs is policy]
    # A budget of the user's is of states and graphs; one of what is free is of all that the process grows by.
    needs = {p.name: p.predicted_bytes(sizes) if given else p.resident_bytes(sizes) for p in possible}
    seconds = {policy.name: policy.predicted_seconds(sizes, pace) for policy in possible}
    fitting = [policy for policy in possible if needs[policy.name] <= budget]
    if given and not fitting:
        raise ValueError(
            f"byte_budget={byte_budget:,} is too small for every policy: over {sizes.steps} steps "
            + ", ".join(f"{name!r} needs {needed:,}" for name, needed in needs.items())
            + '; raise it, or differentiate fewer steps (method="truncated")'
        )
    if fitting:
        chosen = min(fitting, key=lambda policy: (seconds[policy.name], needs[policy.name]))
    else:
        chosen = min(possible, key=lambda policy: needs[policy.name])
    reason = "the fastest of those that fit into" if fitting else "none fits, but this takes the least, into"

    def described(policy: MemoryPolicy) -> str:
        took = f" in {seconds[policy.name]:.3g} s" if measured else ""
        return f"{policy.name!r}: {needs[policy.name]:,} bytes{took}"

    text = f"{described(chosen)}, {reason} {budget:,} bytes ({'as given' if given else 'this process may take'}). "
    text += "; ".join(described(policy) for policy in possible if policy is not chosen)
    return Plan(chosen, text, seconds[chosen.name] if measured else None)


def pace_of(steps: Steps, state: Any, t: int) -> Pace:
    """Measures a step and a step back: the medians of a few, after a first one where there are several."""
    process = steps.process
    cotangent = process.value(state)[1]
    back = process.pullback_by_differences if steps.by_differences else process.pullback
    forwards, backwards = [], []
    count = 1 + min(8, max(2, (steps.total - t) // _MEASURED_FROM))
    for at in range(t, min(t + count, steps.total)):
        start = time.perf_counter()
        after = process.step(state, steps.action(at), at)
        middle = time.perf_counter()
        back(state, steps.action(at), at, cotangent)
        state = after
        forwards.append(middle - start)
        backwards.append(time.perf_counter() - middle)
    return Pace(*(statistics.median(seconds[1:] or seconds) for seconds in (forwards, backwards)))
