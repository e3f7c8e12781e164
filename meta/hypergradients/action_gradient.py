"""The action gradient as an environment wrapper: what a gradient teacher sees beyond what an RL teacher sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from meta.hypergradients.memory_policies import StateType
from meta.hypergradients.sweep import Method
from meta.hypergradients.tape import Tape, TapeMemory
from meta.wrappers.actions import Passage
from meta.wrappers.base import TeachWrapper
from teachenv.vector_env import TeachVectorEnv


class _Differentiating:
    """What `ActionGradient` and `VectorActionGradient` share: the method, and how many last steps it covers."""

    _tape: Tape

    @property
    def method(self) -> Method:
        """The method that computes the gradients, one of `meta.METHODS`; `"truncated"` where `last` cuts `"rmd"`."""
        return self._tape.method

    def differentiate_last(self, last: int | None) -> None:
        """Differentiates, from the next episode on, its last student steps only; None: all of them.

        Raises:
            ValueError: more than the episode has, or none; or the method is `"forward"`.
        """
        self._tape = self._tape.of_last(last)


class ActionGradient(_Differentiating, TeachWrapper):
    """Adds `info["action_gradient"]` to the step that ends an episode: d(return)/d(actions), (actions taken, n).

    Row t is the derivative of the episode's return J(ω_T) − J(ω_0) with respect to the action that this wrapper is
    given at step t, the other actions constant. An episode whose student diverged gets zeros: its return is a penalty,
    which does not depend on the actions.

    Wrappers in between: `RescaleAction` and `ClipAction` are differentiated too (of the latter, exactly 0 where it
    clips); whatever else changes actions, the steps taken or rewards is refused. Wrappers outside change nothing here:
    the gradient stays that of the actions as they come in, and of the environment's own return. The action space is the
    wrapped environment's; where `ClipAction` has taken its bounds away, those within which it does not clip.

    Args:
        env: a `TeachEnv`, possibly wrapped.
        method: `"rmd"` (exact), `"finite-difference"`, `"truncated"` or `"forward"`; see `meta.hypergradient`.
        memory: what is kept on the way: `"all"`, the adjoints of all student steps, which are then taken once, with
            their graphs, where that is the same to the bit (it is not for attention and LSTMs); `"states"`, the student
            before each action (references to values: no copy, no graph); `"sqrt"` or an integer, so many students, and
            the steps between are taken again, bitwise. `"auto"`: `"all"` where the graphs take at most half of the
            memory that is free, else `"states"`; that too for students that are trained one after the other.
        last: how many student steps at the end are differentiated, for `"truncated"` and `"finite-difference"`; None:
            all of them.
        state_dtype: the type in which students are kept, as in `meta.hypergradient`; None: their own.

    Raises:
        TypeError: the environment is no `TeachEnv`.
        ValueError: an unknown method, memory policy or type, a type with `"forward"`, which rounds no students, or a
            wrapper of unknown derivative.
    """

    def __init__(
        self,
        env: gym.Env[np.ndarray, np.ndarray],
        method: str = "rmd",
        memory: TapeMemory = "auto",
        last: int | None = None,
        state_dtype: StateType | None = None,
    ) -> None:
        """Wraps the environment and empties the tape."""
        super().__init__(env)
        self._passage = Passage(env, type(self).__name__)
        self.action_space = self._passage.outermost_bounded.action_space
        self._tape = Tape(self._teach.problem, method, memory, last, state_dtype)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Steps the environment, and differentiates the episode when it ends.

        Raises:
            RuntimeError: the episode ends, but its first steps were not taken under this wrapper; or another action
                than this one reached the environment.
        """
        before = self._teach.student
        # After a reset, or a set_state, the student is not the one that the last step left.
        if before is not self._tape.expected:
            self._tape.clear()
        expected, slope = self._passage.through(action)
        with self._tape.watching(self._teach.interface):
            observation, reward, terminated, truncated, info = self.env.step(action)
        self._passage.check(expected, self._teach.action)
        self._tape.add(before, self._teach.action, self._teach.student, slope)
        if terminated or truncated:
            info["action_gradient"] = self._gradient(bool(info["diverged"]))
            self._tape.clear()
        return observation, reward, terminated, truncated, info

    def _gradient(self, diverged: bool) -> np.ndarray:
        teach, recorded = self._teach, self._tape.added
        length = int(teach.student.step) // teach.problem.settings.steps_per_action
        if length != recorded:
            raise RuntimeError(
                f"the action gradient needs the whole episode, but {length - recorded} of its {length} actions "
                "were taken before this wrapper saw it (set_state in mid-episode?); reset, or set_state to a state at "
                "its start"
            )
        gradient = np.zeros((length, *(teach.action_space.shape or ())), dtype=teach.action_space.dtype)
        if not diverged:
            last_rows = self._tape.gradient(teach.dynamics, teach.episode, teach.student)
            gradient[length - len(last_rows) :] = last_rows.cpu().numpy()
        return gradient


if TYPE_CHECKING:
    _VectorWrapper = gym.vector.VectorWrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
else:
    _VectorWrapper = gym.vector.VectorWrapper  # Gymnasium 1.1 to 1.3 have no type parameters here


class VectorActionGradient(_Differentiating, _VectorWrapper):
    """`ActionGradient` for a batch: differentiates all students that end in a step in one computation.

    Adds `info["action_gradient"]`, (B, actions in an episode, n), with Gymnasium's mask `info["_action_gradient"]`, to
    steps that end an episode. Rows outside the mask are zeros, as are those of diverged students.

    Args:
        env: a `TeachVectorEnv`, possibly in wrappers that `ActionGradient` allows.
        method: `"rmd"`, `"finite-difference"`, `"truncated"` or `"forward"`, as in `ActionGradient`.
        memory: what is kept on the way, as in `ActionGradient`.
        last: how many student steps at the end are differentiated; None: all of them.
        state_dtype: the type in which students are kept, as in `ActionGradient`.

    Raises:
        TypeError: the environment is no `TeachVectorEnv`.
        ValueError: an unknown method, memory policy or type, a type with `"forward"`, which rounds no students, or a
            wrapper of unknown derivative.
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray],
        method: str = "rmd",
        memory: TapeMemory = "auto",
        last: int | None = None,
        state_dtype: StateType | None = None,
    ) -> None:
        """Wraps the environment and empties the tape."""
        super().__init__(env)
        if not isinstance(env.unwrapped, TeachVectorEnv):
            kind = type(env.unwrapped).__name__
            raise TypeError(f"VectorActionGradient differentiates a TeachVectorEnv, found {kind}")
        self._teach: TeachVectorEnv = env.unwrapped
        self._passage = Passage(env, type(self).__name__)
        bounded = self._passage.outermost_bounded
        self.action_space, self.single_action_space = bounded.action_space, bounded.single_action_space
        self._tape = Tape(self._teach.problem, method, memory, last, state_dtype)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Resets all students, or those of a `reset_mask`; what is kept of the others stays."""
        mask = (options or {}).get("reset_mask")
        before = self._teach.students if isinstance(mask, np.ndarray) and not mask.all() else None
        result = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]  # Gymnasium's own take lists too
        if before is not None:
            self._tape.restart(before, self._teach.students)
        return result

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps the environments, and differentiates the episodes that end.

        Raises:
            RuntimeError: an episode ends whose first steps were not taken under this wrapper; or other actions than
                these reached the environment.
        """
        teach, tape = self._teach, self._tape
        # Except with SAME_STEP, those whose episodes are over wait for their next one, which a step may begin.
        before, episodes, resting = teach.students, teach.episodes, teach.ended
        # After a reset, or a set_state, the students are not those that the last step left.
        if before is not tape.expected:
            tape.clear()
        expected, slope = self._passage.through(actions)
        with tape.watching(teach.interface):
            observation, rewards, terminated, truncated, infos = self.env.step(actions)
        self._passage.check(expected, teach.actions)
        ended = terminated | truncated
        began = resting.any() or (ended & ~teach.ended).any()
        tape.add(before, teach.actions, teach.students, slope, began=bool(began))
        if ended.any():
            length, size = teach.problem.actions, teach.problem.neutral_action.numel()
            gradient = np.zeros((teach.num_envs, length, size), dtype=teach.single_action_space.dtype)
            # Students that did not diverge and end together began together, a whole episode ago.
            rows = np.flatnonzero(ended & ~infos.get("final_info", infos)["diverged"])
            if len(rows):
                if tape.added < length:
                    raise RuntimeError(
                        f"the action gradient needs whole episodes, but only the last {tape.added} of {length} actions "
                        "were taken under this wrapper; reset, or set_state to their start"
                    )
                assert teach.final_students is not None
                ended_rows = rows.tolist() if len(rows) < teach.num_envs else None
                last_rows = tape.gradient(teach.dynamics, episodes, teach.final_students, ended_rows)
                gradient[rows, length - len(last_rows) :] = last_rows.movedim(0, 1).cpu().numpy()
            infos["action_gradient"], infos["_action_gradient"] = gradient, ended
        return observation, rewards, terminated, truncated, infos
