"""A teacher that weighs samples by their distillation influence, on the distillation environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from meta.hypergradients.look_ahead import dev_gradient
from meta.influence.derivatives import derivative_along
from meta.influence.wrapper import SampleInfluence
from meta.teachers.fixed import FixedTeacher
from meta.teachers.policies import TeacherPolicy
from teachenv.losses.distillation import Distillation, halves
from teachenv.optimizers import Tensors
from teachenv.problem_checks import check_loss_alone


class InfluenceTeaching(SampleInfluence):
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

    def influence(self) -> torch.Tensor:
        """Computes the influence I_i of each sample of the next minibatch, (batch,), not divided by the largest."""
        teach, dynamics = self._teach, self._teach.dynamics
        state, episode, family = teach.student, teach.episode, dynamics.loss
        assert isinstance(family, Distillation)
        student_update = dynamics.updates(episode)[-1]
        after, _ = student_update.step(state, teach.problem.neutral_action)
        names = student_update.moved(state.parameters)
        _, v = dev_gradient(dynamics, after, episode, names)
        inputs, _ = dynamics.minibatch(episode, state.step)

        def outputs(moved: Tensors) -> torch.Tensor:
            return dynamics.student(
                state.parameters | moved, state.buffers, inputs, training=False, differentiable="batched"
            )[0].outputs

        with torch.no_grad():
            teacher, student = halves(outputs({}))
            _, change = halves(derivative_along(outputs, {name: state.parameters[name] for name in names}, v))
        taught, answered = (torch.softmax(z.detach() / family.temperature, -1) for z in (teacher, student))
        influences: torch.Tensor = ((answered - taught) * change / family.temperature).sum(-1)
        return influences

    def _check_fits(self) -> None:
        problem = self._teach.problem
        check_loss_alone(problem, type(self).__name__)
        if not problem.dynamics.loss.of_pairs:
            raise ValueError(f"distillation influence needs loss='distillation', found loss={problem.settings.loss!r}")


class InfluencePolicy(TeacherPolicy):
    """Weighs each sample by what it observes of it: its influence, times the option `gain` (1), within the box."""

    defaults: ClassVar[Mapping[str, Any]] = {"gain": 1.0}

    def _build(self, states: int, actions: int) -> nn.Module:
        return nn.Module()

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Returns the weight of each sample, (batch of observations, samples), in [-1, 1]."""
        action: torch.Tensor = (self._network["gain"] * observation).clamp(-1.0, 1.0)
        return action


class InfluenceTeacher(FixedTeacher):
    """Weights by distillation influence on `TeachDistill-v0`; learning leaves the teacher as it is.

    Sample i weighs 1 + scale · Î_i in the loss of the teacher network, Î its influence over the largest of the
    minibatch. It is akin to LGTM's reweighting (Ren et al. 2023, eq. 9) and not the same: what is weighed here is the
    environment's KL(S_i ‖ T_i), beside uniform weights and with influences that are scaled into the action's box; the
    paper adds CE(T_i, S_i), weighed by I_i as they are. That is `meta.LGTM(mode="reweight")`.

    Args:
        policy: `"InfluencePolicy"`.
        env: an `InfluenceTeaching` environment, or what one can be put around.
        **kwargs: further options of `EpisodicTeacher`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"InfluencePolicy": InfluencePolicy}
    wrapper = InfluenceTeaching
