"""What L2T-DLN's teacher sees: the gradient of the dev error through a window of student steps (Hai et al. 2023).

A window is the student steps of one action. Seen from the student at its beginning, J at its end is a function of the
action, and its derivative is exact: reverse mode through the window's steps, with which the paper's first and second
stages both end. Neither needs anything of the environment but its pure step: the first one is taken from the student as
it is and then forgotten, the second one is the environment's own.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch

from meta.hypergradients.hypergradient import hypergradient
from meta.hypergradients.memory_policies import MemoryOption, check_options, memory_policy
from meta.hypergradients.training import Training
from meta.wrappers.actions import check_actions_unchanged
from meta.wrappers.base import RememberingWrapper
from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.problem_checks import check_loss_alone
from teachenv.randomness import Purpose, generator
from teachenv.state import StudentState

Window = Literal["next", "last"]
Source = Literal["dev", "pool"]

_P = 10.0
_TINY = 1e-8  # the released code's
_BYTE_BUDGET = 4 << 30  # two such processes beside the rest of a laptop


def encoded(gradient: torch.Tensor) -> torch.Tensor:
    """Encodes a gradient of any size as a network reads it: (..., n) to (..., 2n) in [-1, 1].

    For each entry g two numbers (Andrychowicz et al. 2016, p = 10, as the released code has it), (log(|g| + 1e-8)/10,
    sign g) where |g| ≥ e⁻¹⁰, else (−1, e¹⁰ g). The first numbers of all entries come first, then the second ones.
    Beyond e¹⁰ the first one is cut off (ours: an observation is bounded).
    """
    size = gradient.abs()
    large = size >= math.exp(-_P)
    magnitude = torch.where(large, ((size + _TINY).log() / _P).clamp(max=1.0), -1.0)
    return torch.cat([magnitude, torch.where(large, gradient.sign(), math.exp(_P) * gradient)], -1)


def decoded(observation: torch.Tensor) -> torch.Tensor:
    """Decodes a gradient that was encoded, up to rounding: (..., 2n) to (..., n)."""
    magnitude, sign = observation.chunk(2, -1)
    return sign * torch.where(magnitude > -1.0, (_P * magnitude).exp() - _TINY, math.exp(-_P))


class WindowGradient(RememberingWrapper):
    """Shows the gradient of the dev error through a window with respect to its action.

    Observation, (2n,) in [-1, 1]: `encoded` −dJ(ω_N)/da over `unit`, where ω_N is the student after the N steps of the
    window. J is the environment's (`objective="likelihood"` makes it the paper's, minus the cross-entropy). Zeros,
    encoded, where there is no such window: at the end, with `window="last"` at the beginning, and of a student that
    diverges.

    Reward and action stay as they are. Added to the info of `step`:
        window_gradient: −dJ(ω_N)/da of the window just trained, (n,): what a teacher learns from.
        window_error: −J(ω_N) there.
        previewed_error: −J at the end of the window that was shown before; with `window="last"`, of the last one.
        previewed_gradient: its gradient, (n,): what the teacher's observation said before this action.

    Args:
        env: a `TeachEnv`.
        window: `"next"`, the paper's: the window to come, under the action that the last one had, on the minibatches
            that it will have. `"last"`: the window just trained; its gradient is that of the info, so that a window is
            differentiated once instead of twice.
        dev_batch: dev samples that J is taken on, drawn anew for each window (the released code: 100); None: all that
            the environment measures on.
        dev_from: where they are drawn: `"dev"`, or `"pool"`, from all labelled samples but those that the window itself
            trains on. With `train_on="pool"` every sample then has both roles by turns, as in the released code, whose
            halves change places every 250 windows: dev is not held out then.
        carry: whether a training run begins under the action that the last one ended with, as far as the first window
            shown is concerned, and `DynamicLossTeacher` goes on from there: the loss then is improved over many runs.
            Windows may be whole training runs. False: each training run has a teacher that begins anew.
        unit: how far the loss's own numbers move when a coordinate of the action moves by 1, such as the `scale` of a
            loss network: a gradient by the action over it is one by these numbers, whatever the size of the box.
        memory: the memory policy of `meta.hypergradient`. Graphs of a loss network over pixels or boxes are large:
            `"auto"` keeps those of all steps of a window only if they fit.
        byte_budget: how many bytes states and graphs may take with `memory="auto"`; None: 4 GiB.

    Raises:
        TypeError: the environment is no `TeachEnv`.
        ValueError: a wrapper that changes actions, an unknown window, source or memory policy, a budget beside a policy
            that was named, more dev samples than there are, or none of the pool, or a unit that is not positive.
    """

    state_name = "window_gradient"

    def __init__(
        self,
        env: gym.Env[np.ndarray, np.ndarray],
        window: Window = "next",
        dev_batch: int | None = None,
        dev_from: Source = "dev",
        carry: bool = False,
        unit: float = 1.0,
        memory: MemoryOption = "auto",
        byte_budget: int | None = None,
    ) -> None:
        """Wraps the environment and checks the options."""
        super().__init__(env)
        check_actions_unchanged(env, type(self).__name__)
        if window not in get_args(Window):
            raise unknown_name("window", window, get_args(Window))
        if dev_from not in get_args(Source):
            raise unknown_name("source of dev samples", dev_from, get_args(Source))
        check_loss_alone(self._teach.problem, type(self).__name__)
        settings = self._teach.problem.settings
        if dev_from == "dev":
            most, which = (
                settings.dev_measured or self._teach.problem.episodes.dev_size,
                "the dev samples that are measured",
            )
        else:
            trained = settings.batch_size * settings.steps_per_action
            most, which = len(self._teach.problem.task.pool[0]) - trained, "the pool without a window's minibatches"
        if dev_batch is None and dev_from == "pool":
            raise ValueError('dev_from="pool" needs dev_batch: how many samples a window is judged by')
        if dev_batch is not None and not 1 <= checks.integer("dev_batch", dev_batch) <= most:
            raise ValueError(f"dev_batch={dev_batch}, expected None or 1 to {most}, {which}")
        memory_policy(memory)  # it is refused here if there is none
        check_options(memory, byte_budget)
        if byte_budget is None and memory == "auto":
            byte_budget = _BYTE_BUDGET
        self.window, self.dev_batch, self.dev_from, self.memory = window, dev_batch, dev_from, memory
        self.carry, self.byte_budget = checks.flag("carry", carry), byte_budget
        self.unit = checks.number("unit", unit, above=0)
        size, dtype = self._teach.problem.neutral_action.numel(), self._teach.action_space.dtype
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (2 * size,), dtype)  # type: ignore[arg-type]
        self._shown = (math.nan, torch.zeros(0))
        self._action = self._teach.problem.neutral_action
        self._final: dict[str, Any] | None = None

    @property
    def final_state(self) -> dict[str, Any] | None:
        """The environment's snapshot at the last episode's end, which outlives a reset; None before the first end.

        A teacher that learns while it teaches has this student to show for it, and SB3 resets an environment in the
        step that ends its episode: `env.unwrapped.set_state(env.final_state)`, then `evaluate`.
        """
        return self._final

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the training of a new student, and shows the gradient of its first window."""
        _, info = self.env.reset(**kwargs)
        self._shown = self._nothing(-float(info["objective"]))
        if not self.carry:
            self._action = self._teach.action
        if self.window == "next":
            self._shown = self.through(self._teach.student, self._action)
        return self._observation(), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Trains the student through the window, and differentiates it."""
        before = self._teach.student
        _, reward, terminated, truncated, info = self.env.step(action)
        self._action = self._teach.action
        info["previewed_error"], info["previewed_gradient"] = self._shown[0], self._shown[1].cpu().numpy()
        if info["diverged"]:
            self._shown = self._nothing(-float(info["objective"]))
        else:
            self._shown = self.through(before, self._action)
        info["window_error"], info["window_gradient"] = self._shown[0], self._shown[1].cpu().numpy()
        if terminated or truncated:
            self._final, self._shown = self._teach.get_state(), self._nothing(self._shown[0])
        elif self.window == "next":
            self._shown = self.through(self._teach.student, self._action)
        return self._observation(), reward, terminated, truncated, info

    def _remembered(self) -> dict[str, Any]:
        return {"shown": self._shown, "action": self._action, "final": self._final}

    def _remember(self, remembered: dict[str, Any]) -> None:
        self._shown, self._action, self._final = remembered["shown"], remembered["action"], remembered["final"]

    def through(self, student: StudentState, action: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Returns (−J after a window that begins at a student, its gradient by the window's action, (n,))."""
        teach, step = self._teach, int(student.step)
        dynamics, episode, length = teach.dynamics, teach.episode, teach.problem.settings.steps_per_action
        if self.dev_batch is not None:
            rng = generator(episode.seeds[0], Purpose.DEV_BATCH, step)
            candidates = episode.dev[: dynamics.dev_measured].cpu().numpy()
            if self.dev_from == "pool":
                trained = episode.batches[step : step + length].cpu().numpy()
                candidates = np.setdiff1d(np.arange(len(teach.problem.task.pool[0])), trained)
            dev_indices = rng.choice(candidates, self.dev_batch, replace=False)
            episode = replace(episode, dev=torch.from_numpy(dev_indices).to(episode.dev))
            # All that are drawn are measured.
            dynamics = replace(dynamics, dev_measured=None)
        process = Training(dynamics, episode)
        derivative = hypergradient(
            process, student, [action], memory=self.memory, byte_budget=self.byte_budget, steps_per_action=length
        )
        return -float(derivative.objective), -derivative.actions[0]

    def _nothing(self, error: float) -> tuple[float, torch.Tensor]:
        return error, torch.zeros_like(self._teach.problem.neutral_action)

    def _observation(self) -> np.ndarray:
        observation: np.ndarray = encoded(self._shown[1].nan_to_num() / self.unit).cpu().numpy()
        return observation
