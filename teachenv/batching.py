"""How many students of a problem are trained at once: in one call, or one after the other."""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import torch

from teachenv.errors import unknown_name
from teachenv.mapping import Loop, Mapping, Vmap
from teachenv.problem import Problem
from teachenv.state import stack_episodes
from teachenv.trial import try_pieces_of_many

Batching = Literal["auto", "vmap", "loop"]


def batched(problem: Problem, path: Batching = "auto", students: int | None = None) -> Mapping:
    """The mapping of many students, by vmap or by a loop.

    Args:
        problem: what they are trained on.
        path: `"vmap"`, `"loop"`, or `"auto"`: vmap, but where it is slower or does not work; see `TeachVectorEnv`.
        students: how many they are; None: several.

    Raises:
        ValueError: an unknown path, `"vmap"` for students that cannot be trained so, and why, or a user's own optimiser
            or trim that does for many students something else than for each.
    """
    if path not in get_args(Batching):
        raise unknown_name("path", path, get_args(Batching))
    try_pieces_of_many(problem.dynamics, problem.settings.batch_size, problem.settings.optimizer)
    if path == "loop":
        return Loop()
    student = problem.dynamics.student
    if path == "auto" and (students == 1 or (student.has_convolutions and student.device.type == "cpu")):
        return Loop()
    if problem.dynamics.measure.decodes:
        obstacle: str | None = "it is judged by what it decodes"
    else:
        obstacle = "its forward pass draws random numbers" if student.stochastic else _vmap_error(problem)
    if obstacle is None:
        return problem.vmap()
    if path == "vmap":
        raise ValueError(f'path="vmap" does not work for this student: {obstacle}; use path="loop" or "auto"')
    return Loop()


def _vmap_error(problem: Problem) -> str | None:
    """What keeps two students from being trained under vmap: an error, or other results than one by one."""
    single, neutral = problem.dynamics, problem.neutral_action
    dynamics = single.mapped(Vmap())
    each = [problem.episodes.of(seed) for seed in (0, 1)]
    episodes = stack_episodes(each)
    try:
        with warnings.catch_warnings():
            # Operations that vmap has no rule for: it takes students one by one and says so.
            warnings.filterwarnings("error", message="There is a performance drop")
            students, _ = dynamics.step(dynamics.untrained(episodes), episodes, neutral.expand(2, -1))
            measured = dynamics.metrics(students, *dynamics.dev(episodes))
    except Exception as error:  # whatever a user's network raises
        return (str(error).splitlines() or [type(error).__name__])[0]
    if single.known_pure:
        return None
    for i, episode in enumerate(each):
        student, _ = single.step(single.untrained(episode), episode, neutral)
        pairs = [(single.metrics(student, *single.dev(episode))[0], measured[0][i])]
        pairs += [(t, students.parameters[n][i]) for n, t in student.parameters.items()]
        pairs += [(t, students.buffers[n][i]) for n, t in student.buffers.items() if t.is_floating_point()]
        tolerance = 1e-7 if neutral.dtype == torch.float64 else 1e-3
        if problem.settings.autocast is not None:
            tolerance = 5e-2  # bfloat16 has three digits
        if not all(torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True) for a, b in pairs):
            return "its step under vmap leads to another student than without"
    return None
