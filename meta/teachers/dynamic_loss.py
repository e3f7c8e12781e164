"""L2T-DLN's teacher: it moves the loss's weights during the student's training, and learns meanwhile (Hai et al. 2023).

One iteration is one environment step, of N student steps under one action a, from the student ω with the loss's weights
φ = φ₀ + scale · a (`teachenv.losses.dynamic_network`):

    1. student, first stage:  ω_N(a) by N steps on a's loss, and g = −dJ(ω_N)/da (shown by `WindowGradient`)
    2. teacher:               a' = clip(a − γ T_ψ(g, memory), −1, 1), for each coordinate by itself
    3. student, second stage: from ω again, ω_N(a') on the same minibatches (the environment's step), and −dJ(ω_N)/da'
    4. teacher's learning:    ψ follows −dJ(ω_N(a'))/da' · da'/dψ, by Adam
    5. the student, a' and the memory stay; the next iteration begins there.

Only a' is differentiated in 4: g, a and the memory count as constants, which cuts back-propagation through time after
one iteration; `bptt` makes it longer. The student is never trained anew for the teacher's sake: what there is at the
episode's end is the result (`WindowGradient.final_state`).

Followed from the released code, since the paper's text was not to be had: the LSTM, the encoding of g, γ, Adam at 1e-3,
the two stages and what is constant. Not followed: it copies parameters but not running statistics into the committed
student; its dev images are also train images of a later epoch, and augmented; it looks at the test split 2,500 times.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from torch import nn

from meta.hypergradients.window_gradient import WindowGradient, decoded, encoded
from meta.teachers.base import Teacher, checked_norm
from meta.teachers.policies import TeacherPolicy
from meta.teachers.update_rules import (
    INPUTS,
    AdamRule,
    GRURule,
    LSTMRule,
    Memory,
    MlpRule,
    RMSPropRule,
    SGDRule,
    TransformerRule,
    UpdateRule,
)
from teachenv import checks

# A mean square below it is that of no update at all.
_LEAST_SQUARE = 1e-30


class UpdatePolicy(TeacherPolicy):
    """Moves the last action by an update rule, one coordinate like the other.

    It remembers the last action and what the rule remembers: `predict` takes and gives its memory as SB3's recurrent
    policies do, a tuple of arrays whose first dimension is that of the environments.

    Options, beside those of the rule:
        step_size: γ, in units of the action: 1e-3, which is the released code's where the family's scale is 1.
        centred: subtracts from an update its mean over the coordinates (ours). A learned rule begins, and often ends,
            with one and the same step for all of them, whatever their gradients are: what moves the whole loss network
            in one direction then takes all of the step.
        normalised: divides an update by its root mean square over the coordinates, after centring (ours): each step
            then has the length γ √n. A learned rule's own lengths change tenfold as it learns, since a sigmoid bounds
            them.
    """

    rule: ClassVar[type[UpdateRule]]
    actor: UpdateRule

    def _build(self, states: int, actions: int) -> nn.Module:
        options = dict(self._network)
        self.step_size = checks.number("step_size", options.pop("step_size", 1e-3), above=0)
        self.centred, self.normalised = (checks.flag(n, options.pop(n, False)) for n in ("centred", "normalised"))
        if states != INPUTS * actions:
            raise ValueError(
                f"this policy moves {actions} coordinates by as many encoded gradients, found an observation of "
                f"{states} numbers; wrap the environment in meta.WindowGradient"
            )
        return self.rule(**options)

    def initial(self, observations: torch.Tensor) -> Memory:
        """Returns the memory before a training run, for observations (envs, 2n): zero action, and the rule's memory."""
        envs, coordinates = len(observations), observations.shape[1] // INPUTS
        rule_memory = self.actor.initial(observations.reshape(-1, INPUTS))
        by_coordinate = (t.reshape(envs, coordinates, *t.shape[1:]) for t in rule_memory)
        return observations.new_zeros(envs, coordinates), *by_coordinate

    def restarted(self, observations: torch.Tensor, memory: Memory | None, starts: np.ndarray) -> Memory:
        """Returns the memory, made anew for those environments whose training starts."""
        fresh = self.initial(observations)
        if memory is None or starts.all():
            return fresh
        if not starts.any():
            return memory
        which = torch.as_tensor(starts, device=observations.device)
        return tuple(
            torch.where(which.view(-1, *[1] * (old.dim() - 1)), new, old)
            for new, old in zip(fresh, memory, strict=True)
        )

    def forward(self, observation: torch.Tensor, memory: Memory | None = None) -> tuple[torch.Tensor, Memory]:  # type: ignore[override]
        """Returns (the next actions, (envs, n); the memory after them), from observations (envs, 2n)."""
        memory = self.initial(observation) if memory is None else memory
        last, *rule_memory = memory
        inputs = torch.stack(observation.chunk(INPUTS, 1), -1).reshape(-1, INPUTS)
        update, rule_memory_after = self.actor(inputs, tuple(t.reshape(len(inputs), *t.shape[2:]) for t in rule_memory))
        update = update.view_as(last)
        if self.centred:
            update = update - update.mean(1, keepdim=True)
        if self.normalised:
            update = update / update.square().mean(1, keepdim=True).clamp_min(_LEAST_SQUARE).sqrt()
        action = (last - self.step_size * update).clamp(-1.0, 1.0)
        return action, (action, *(t.reshape(*last.shape, *t.shape[1:]) for t in rule_memory_after))

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Returns (actions, memory); without a memory a training starts. It is always deterministic."""
        self.set_training_mode(False)
        observations, several = self.obs_to_tensor(observation)
        assert isinstance(observations, torch.Tensor)
        starts = np.zeros(len(observations), bool) if episode_start is None else np.asarray(episode_start)
        with torch.no_grad():
            memory = None if state is None else tuple(torch.as_tensor(t, device=self.device) for t in state)
            actions, memory = self(observations, self.restarted(observations, memory, starts))
        array = actions.cpu().numpy()
        return (array if several else array[0]), tuple(t.cpu().numpy() for t in memory)


class LSTMPolicy(UpdatePolicy):
    """The paper's stacked LSTM cells; options of `meta.teachers.update_rules.LSTMRule`."""

    rule = LSTMRule


class GRUPolicy(UpdatePolicy):
    """GRU cells in the place of LSTM cells; options of `meta.teachers.update_rules.GRURule`."""

    rule = GRURule


class MemorylessPolicy(UpdatePolicy):
    """A perceptron of as many parameters as the LSTM's; options of `meta.teachers.update_rules.MlpRule`."""

    rule = MlpRule


class TransformerPolicy(UpdatePolicy):
    """Attention over the last gradients; options of `meta.teachers.update_rules.TransformerRule`."""

    rule = TransformerRule


class SGDPolicy(UpdatePolicy):
    """Gradient descent on the loss's weights; options of `meta.teachers.update_rules.SGDRule`."""

    rule = SGDRule


class RMSPropPolicy(UpdatePolicy):
    """RMSprop on the loss's weights; options of `meta.teachers.update_rules.RMSPropRule`."""

    rule = RMSPropRule


class AdamPolicy(UpdatePolicy):
    """Adam on the loss's weights; options of `meta.teachers.update_rules.AdamRule`."""

    rule = AdamRule


class DynamicLossTeacher(Teacher[torch.Tensor]):
    """L2T-DLN's teacher, which learns online, within the training that it steers; see the module.

    It works with any loss family; the paper's is `loss="dynamic-network"`. Logged: `train/window_error` (−J after the
    second stage), `train/previewed_error` (after the first), `train/distance` (root mean square of the action),
    `train/at_edge` (fraction of coordinates at the edge of the box), and, of a rule that learns, `train/gradient_norm`
    and `train/learning_rate`.

    Args:
        policy: `"LSTMPolicy"` (the paper's), `"MemorylessPolicy"` (a perceptron of the same number of parameters),
            `"GRUPolicy"`, `"TransformerPolicy"`, `"SGDPolicy"`, `"RMSPropPolicy"`, `"AdamPolicy"` (rules that do not
            learn; the gradient moves the loss's weights directly), or a policy class of their kind.
        env: a `WindowGradient` environment, or a `TeachEnv` that one is put around.
        learning_rate: the step size of Adam on ψ; 1e-3 in the released code.
        bptt: the number of iterations that a gradient of ψ goes back through, and after which ψ is updated; 1 in the
            paper. Within them the memory and earlier actions are followed; students at the beginning of each count as
            constants.
        max_grad_norm: the norm to which the gradient of ψ is clipped; None: not clipped, as in the released code.
        together: whether the students of several environments have one loss, which the teacher moves by the mean of
            their gradients (ours): one student's gradient through a few steps is mostly noise. Their training runs must
            have the same length. False: each student has a loss of its own.
        **kwargs: further options of `Teacher`.

    Raises:
        ValueError: `bptt` or a norm that is not positive.

    Example:
        >>> import gymnasium as gym, meta, teachenv
        >>> env = gym.make("TeachDigits-v0", loss="dynamic-network", steps_per_action=5, horizon=20)
        >>> env = meta.WindowGradient(env)
        >>> teacher = meta.DynamicLossTeacher("LSTMPolicy", env, seed=0).learn(4)
        >>> env.unwrapped.set_state(env.final_state)
        >>> 0.0 <= env.unwrapped.evaluate("test")["test_error"] <= 1.0
        True
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "LSTMPolicy": LSTMPolicy,
        "MemorylessPolicy": MemorylessPolicy,
        "GRUPolicy": GRUPolicy,
        "TransformerPolicy": TransformerPolicy,
        "SGDPolicy": SGDPolicy,
        "RMSPropPolicy": RMSPropPolicy,
        "AdamPolicy": AdamPolicy,
    }
    wrapper = WindowGradient
    moved = (*Teacher.moved, "_memory")

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        learning_rate: float | Schedule = 1e-3,
        bptt: int = 1,
        max_grad_norm: float | None = None,
        together: bool = False,
        **kwargs: Any,
    ) -> None:
        """Builds the policy; wraps the environment in the window's gradient if it is not yet."""
        self.bptt, self.max_grad_norm = checks.integer("bptt", bptt, least=1), checked_norm(max_grad_norm)
        self.together = checks.flag("together", together)
        self._memory: Memory | None = None
        super().__init__(policy, env, learning_rate, **kwargs)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        assert self.env is not None
        if not any(self.env.env_is_wrapped(WindowGradient)):
            raise ValueError(
                "DynamicLossTeacher learns from the gradient through a window: pass a TeachEnv, or wrap each "
                "environment of your VecEnv in meta.WindowGradient"
            )
        return result

    def _collect(self, callback: BaseCallback) -> torch.Tensor | None:
        """Teaches for `bptt` windows; returns a function of ψ whose gradient is that of the mean error after them."""
        assert self.env is not None
        assert isinstance(self.policy, UpdatePolicy)
        self.policy.set_training_mode(True)
        callback.on_rollout_start()
        total = torch.zeros((), device=self.device)
        memory = self._memory
        for _ in range(self.bptt):
            assert isinstance(self._last_obs, np.ndarray)
            assert self._last_episode_starts is not None
            observations = torch.as_tensor(self._last_obs, device=self.device)
            if self.together:
                observations = encoded(decoded(observations).mean(0)).expand_as(observations)
            moved, memory = self.policy(
                observations, self.policy.restarted(observations, memory, self._last_episode_starts)
            )
            actions = moved.detach().cpu().numpy()
            step = self._step(actions)
            self._last_obs = step.observations
            self._last_episode_starts = step.dones & ~np.array(self.env.get_attr("carry"))
            self._memory = tuple(t.detach() for t in memory)
            if not self._report_episode(step, callback):
                return None
            gradient = torch.as_tensor(np.stack([info["window_gradient"] for info in step.infos]), device=self.device)
            total = total + (gradient.nan_to_num() * moved).sum() / len(step.infos)
            self._log(actions, step.infos)
        callback.on_rollout_end()
        return total / self.bptt

    def _improve(self, error: torch.Tensor, /) -> None:
        optimizer = self._optimizer()
        if optimizer is None:  # a rule that does not learn
            return
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        self._follow(self.max_grad_norm)

    def _log(self, actions: np.ndarray, infos: list[dict[str, Any]]) -> None:
        for name in ("window_error", "previewed_error"):
            self.logger.record(f"train/{name}", float(np.mean([info[name] for info in infos])))
        self.logger.record("train/distance", float(np.sqrt(np.mean(actions**2))))
        self.logger.record("train/at_edge", float(np.mean(np.abs(actions) == 1.0)))
