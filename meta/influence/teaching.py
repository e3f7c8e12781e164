"""A teacher that weighs samples by their distillation influence, on the distillation environment."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from meta.influence.derivatives import derivative_along
from meta.teachers.fixed import FixedTeacher
from meta.teachers.policies import TeacherPolicy
from meta.wrappers.actions import check_actions_unchanged
from meta.wrappers.base import TeachWrapper
from teachenv.losses.distillation import Distillation, halves
from teachenv.optimizers import Tensors
from teachenv.trees import leaves


class InfluenceTeaching(TeachWrapper):
    """Shows the distillation influence of each sample of the minibatch that the next action weighs.

    Observation, (batch,) in [-1, 1]: I_i = ⟨∇_s CE(T_i, S_i), v⟩ (Ren et al. 2023, eq. 8; `meta.influence`), v the
    gradient of the student's cross-entropy on dev after the step that it would take under the teacher as it is; over
    the largest size in the minibatch. Zeros at the end, and where no sample has any. Reward, action and info stay as
    they are.

    Args:
        env: a `TeachEnv` with `loss="distillation"` and one student step an action.

    Raises:
        TypeError: the environment is no `TeachEnv`.
        ValueError: another loss family, several student steps an action, or a wrapper that changes actions.
    """

    def __init__(self, env: gym.Env[np.ndarray, np.ndarray]) -> None:
        """Wraps the environment, and checks that its actions weigh the samples of one minibatch."""
        super().__init__(env)
        check_actions_unchanged(env, type(self).__name__)
        settings = self._teach.problem.settings
        if not self._teach.dynamics.loss.of_pairs:
            raise ValueError(f"distillation influence needs loss='distillation', found loss={settings.loss!r}")
        self._check_weighs_samples()
        dtype = np.float64 if settings.dtype == "float64" else np.float32
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (settings.batch_size,), dtype)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins the training of a new pair of networks, and shows the influences in its first minibatch."""
        _, info = self.env.reset(**kwargs)
        return self._observe(), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Trains both networks on the minibatch, weighed by the action, and shows the influences in the next one."""
        _, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            return np.zeros_like(self.observation_space.low), reward, terminated, truncated, info  # type: ignore[attr-defined]
        return self._observe(), reward, terminated, truncated, info

    def influence(self) -> torch.Tensor:
        """Computes the influence I_i of each sample of the next minibatch, (batch,), not divided by the largest."""
        teach, dynamics = self._teach, self._teach.dynamics
        state, episode, family = teach.student, teach.episode, dynamics.loss
        assert isinstance(family, Distillation)
        student_update = dynamics.updates(episode)[-1]
        after, _ = student_update.step(state, teach.problem.neutral_action)
        names = student_update.moved(state.parameters)
        parameters = leaves({name: after.parameters[name] for name in names})
        with torch.enable_grad():
            tried_student = type(state)(after.parameters | parameters, after.slots, after.buffers, after.step)
            v = torch.autograd.grad(
                -dynamics.objective(tried_student, episode), list(parameters.values()), materialize_grads=True
            )
        inputs, _ = dynamics.minibatch(episode, state.step)

        def outputs(moved: Tensors) -> torch.Tensor:
            return dynamics.student(
                state.parameters | moved, state.buffers, inputs, training=False, differentiable="batched"
            )[0].outputs

        with torch.no_grad():
            teacher, student = halves(outputs({}))
            along = dict(zip(names, v, strict=True))
            _, change = halves(derivative_along(outputs, {name: state.parameters[name] for name in names}, along))
        taught, answered = (torch.softmax(z.detach() / family.temperature, -1) for z in (teacher, student))
        influences: torch.Tensor = ((answered - taught) * change / family.temperature).sum(-1)
        return influences

    def _observe(self) -> np.ndarray:
        influences = self.influence()
        scaled = influences / influences.abs().max().clamp(min=torch.finfo(influences.dtype).tiny)
        observation: np.ndarray = np.nan_to_num(scaled.cpu().numpy()).astype(self.observation_space.dtype)
        return observation


class InfluencePolicy(TeacherPolicy):
    """Weighs each sample by what it observes of it: its influence, times the option `gain` (1), within the box."""

    def _build(self, states: int, actions: int) -> nn.Module:
        return nn.Module()

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Returns the weight of each sample, (batch of observations, samples), in [-1, 1]."""
        action: torch.Tensor = (self._network.get("gain", 1.0) * observation).clamp(-1.0, 1.0)
        return action


class InfluenceTeacher(FixedTeacher):
    """LGTM's reweighting (Ren et al. 2023, eq. 9) as a teacher of `TeachDistill-v0`; learning leaves it as it is.

    Sample i weighs 1 + scale · Î_i in the loss of the teacher network, Î its influence over the largest of the
    minibatch: the paper's w_i = I_i are added to uniform weights, and scaled, since an action lies in a box.

    Args:
        policy: `"InfluencePolicy"`.
        env: an `InfluenceTeaching` environment, or what one can be put around.
        **kwargs: further options of `EpisodicTeacher`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"InfluencePolicy": InfluencePolicy}
    wrapper = InfluenceTeaching
