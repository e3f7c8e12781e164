"""The options of an environment whose students learn by reinforcement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from teachenv import checks
from teachenv.rl.coefficients import CONTROLS, Coefficients
from teachenv.rl.physics import PHYSICS

USUAL: Mapping[str, Mapping[str, Any]] = {
    "CartPole-v1": {},
    "Acrobot-v1": {"horizon": 12, "discount": 0.99, "trace": 0.94},
    "Pendulum-v1": {
        "horizon": 40,
        "rollout_steps": 256,
        "epochs": 10,
        "batch_size": 256,
        "discount": 0.9,
        "trace": 0.95,
    },
}
"""Defaults that differ by task: PPO as it is usually tuned, for so long that it has learned much and not all."""


@dataclass(frozen=True)
class ControlSettings:
    """Options of `TeachControlEnv`; all are JSON values. Of other tasks than CartPole, `USUAL` has other defaults.

    Attributes:
        task: `"CartPole-v1"`, `"Acrobot-v1"` or `"Pendulum-v1"`.
        horizon: PPO's updates in an episode, an action before each.
        control: what an action sets, names in `teachenv.rl.CONTROLS`, a coordinate for each.
        copies: how many copies of the task act side by side.
        rollout_steps: steps of each copy before an update.
        epochs: how often an update uses each sample.
        batch_size: samples of a minibatch.
        learning_rate: Adam's, at most 1.
        discount: γ.
        trace: λ of generalised advantage estimation.
        clip: PPO's clip range.
        entropy: weight of the entropy bonus.
        value: weight of the value network's loss.
        max_grad_norm: norm to which gradients are clipped.
        hidden: widths of the hidden layers, of the policy and the value network each.
        evaluation_episodes: episodes of which J is the mean return; they begin alike after each update.
        test_episodes: episodes of `evaluate("test")`, which begin otherwise.
        divergence_penalty: minus the reward of a step in which the student diverges.
        dtype: type of the student's numbers.

    Raises:
        ValueError: an option is of another type, out of its range, or goes with no other.
    """

    task: str = "CartPole-v1"
    horizon: int = 20
    control: tuple[str, ...] = tuple(CONTROLS)
    copies: int = 8
    rollout_steps: int = 64
    epochs: int = 4
    batch_size: int = 128
    learning_rate: float = 1e-3
    discount: float = 0.98
    trace: float = 0.8
    clip: float = 0.2
    entropy: float = 0.003
    value: float = 0.5
    max_grad_norm: float = 0.5
    hidden: tuple[int, ...] = (64, 64)
    evaluation_episodes: int = 16
    test_episodes: int = 64
    divergence_penalty: float = 1.0
    dtype: Literal["float32", "float64"] = "float32"
    coefficients: Coefficients = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks each option."""
        self._set("task", checks.choice("task", self.task, PHYSICS))
        for name in ("horizon", "copies", "rollout_steps", "epochs", "batch_size"):
            self._set(name, checks.integer(name, getattr(self, name), least=1))
        for name in ("evaluation_episodes", "test_episodes"):
            self._set(name, checks.integer(name, getattr(self, name), least=1))
        for name, most in (("learning_rate", 1.0), ("clip", None), ("max_grad_norm", None)):
            self._set(name, checks.number(name, getattr(self, name), above=0, most=most))
        for name in ("entropy", "value", "divergence_penalty"):
            self._set(name, checks.number(name, getattr(self, name), least=0))
        self._set("discount", checks.number("discount", self.discount, least=0, below=1))
        self._set("trace", checks.number("trace", self.trace, least=0, most=1))
        self._set("dtype", checks.choice("dtype", self.dtype, ("float32", "float64")))
        self._set("hidden", checks.integers("hidden", self.hidden, least=1))
        self._check_control()
        chosen = Coefficients(self.entropy, self.value, self.clip, self.discount, self.learning_rate)
        self._set("coefficients", chosen)

    def _check_control(self) -> None:
        control = tuple(
            checks.choice("control", name, CONTROLS) for name in checks.listed("control", self.control, "names")
        )
        if not control or len(set(control)) < len(control):
            raise ValueError(f"control must be different names, at least one of {tuple(CONTROLS)}, found {control}")
        self._set("control", control)
        for name in ("entropy", "value"):
            if name in control and not getattr(self, name):
                raise ValueError(
                    f"control holds {name!r}, whose actions change {name}=0 by a factor, to no effect; give {name} a "
                    "value above 0, or leave it out of control"
                )
        if "discount" in control and self.discount < 0.9:
            raise ValueError(
                f"control holds 'discount', whose actions make 1 - discount ten times as large: discount must be at "
                f"least 0.9, found {self.discount:g}; or leave it out of control"
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen for everybody else

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any]) -> ControlSettings:
        """Settings from keyword arguments, with what is usual for the task where none is given.

        Raises:
            TypeError: an unknown keyword, with the nearest known one.
            ValueError: see `ControlSettings`.
        """
        known = [f.name for f in fields(cls) if f.init]
        checks.known_options("the environment", kwargs, known, "teachenv.rl.ControlSettings")
        task = checks.choice("task", kwargs.get("task", cls.task), PHYSICS)
        return cls(**{**USUAL[task], **kwargs})

    def fingerprint(self) -> dict[str, str]:
        """A text for each setting, by which snapshots of other environments are told."""
        kept = [f.name for f in fields(self) if f.init and f.name != "divergence_penalty"]
        return {name: repr(getattr(self, name)) for name in kept}
