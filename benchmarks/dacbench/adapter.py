"""DACBench's SGD environment on the dynamics of this library: its actions, states and rewards, its random numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.dacbench.draws import Draws
from benchmarks.dacbench.instance import BASE_RATE, LARGEST_RATE, Instance
from teachenv.problem import Problem
from teachenv.settings import Settings
from teachenv.state import Episode, Gradient, StudentState
from teachenv.tasks.base import Task

State = dict[str, Any]


class SGDEnv:
    """A training run of which each action is the learning rate, as `dacbench.envs.SGDEnv` 0.5.6 has it.

    For the same seed and actions states and rewards are those of DACBench, to float tolerance: an episode's split,
    weights and order of samples are drawn as DACBench draws them. It has what DACBench's agents and its
    `run_benchmark` call. The student is an environment's, with `control="learning-rate"`: a rate η becomes the action
    log10(η / 0.005), which here may lie outside of [−1, 1].

    Action: the learning rate, a number ≥ 0 (or a sequence whose first element it is).

    State: `step`, actions so far; `loss` of the last minibatch before its update; with epochs `average_loss`, the mean
    over the epoch; `validation_loss` and `validation_accuracy`; `done`; at the end `test_losses`, (samples,), and
    `test_accuracies`, (minibatches,).

    Reward: 0; at the end minus the test loss; `crash_penalty` when the training crashes.

    Where actions hold for one step, DACBench steps along the gradient of the minibatch before: the first action moves
    nothing. So it is here.

    Args:
        instance: what is trained.
        task: the training set as pool, in the order of DACBench's data set, and the test set.

    Raises:
        ValueError: the network draws random numbers (dropout), which the two libraries draw differently.
    """

    def __init__(self, instance: Instance, task: Task) -> None:
        self.instance = instance
        self.action_space = gym.spaces.Box(0.0, LARGEST_RATE, (1,), np.float32)
        problem = Problem(Settings.from_kwargs(instance.options(task)))
        self._dynamics, self._task = problem.dynamics, problem.task
        if self._dynamics.student.stochastic:
            raise ValueError(
                "the network draws random numbers in its forward pass, which DACBench draws differently: leave its "
                "dropout out"
            )
        self._neutral = problem.neutral_action
        self._draws = Draws(instance, len(task.pool[0]), len(task.test[0]))

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[State, dict[str, Any]]:
        """Draws a split and a network.

        Args:
            seed: has no effect, as in DACBench, whose seed is the instance's alone.
            options: likewise.
        """
        self.student = self._untrained(self._draws.episode())
        none = torch.empty(0, dtype=torch.int64)
        self._episode = Episode((self.instance.seed,), none.view(0, self.instance.batch_size), none, none)
        self._pending: Gradient | None = None
        self._state: State = {"step": 0, "loss": 0, "validation_loss": 0, "validation_accuracy": 0, "done": False}
        if self.instance.by_epoch:
            self._state["average_loss"] = 0
        return dict(self._state), {}

    def _untrained(self, network: nn.Module) -> StudentState:
        parameters, buffers = self._dynamics.student.tensors_of(network)
        return StudentState(parameters, self._dynamics.optimizer.init(parameters), buffers, 0)

    def step(self, action: Any) -> tuple[State, float, bool, bool, dict[str, Any]]:
        """Trains for an epoch, or for a step, at the learning rate."""
        rate = float(np.asarray(action).flat[0])
        losses = self._trained(torch.full_like(self._neutral, _coordinate(rate)))
        self._state["step"] += 1
        self._state["loss"] = losses[-1]
        if self.instance.by_epoch:
            self._state["average_loss"] = sum(losses) / len(losses)
        if not math.isfinite(losses[-1]) or not any(p.isfinite().any() for p in self.student.parameters.values()):
            self._state["done"] = True
            return dict(self._state), self.instance.crash_penalty, False, True, {}
        ended: bool = self._state["step"] >= self.instance.cutoff
        self._state["done"] = ended
        validated, accuracies = self._measured(self._task.pool, self._draws.validation(ended))
        self._state |= {"validation_loss": float(validated.mean()), "validation_accuracy": float(accuracies.mean())}
        reward = 0.0
        if ended:
            tested, accuracies = self._measured(self._task.test, self._draws.test())
            self._state |= {"test_losses": tested, "test_accuracies": accuracies}
            reward = -float(tested.sum()) / len(self._task.test[0])
        return dict(self._state), reward, False, ended, {}

    def close(self) -> None:
        """There is nothing to close."""

    def _trained(self, action: torch.Tensor) -> list[float]:
        """Trains for an action; returns the loss of each minibatch before its update."""
        new = self._draws.minibatches()
        self._episode = replace(self._episode, batches=torch.cat([self._episode.batches, new]))
        (update,) = self._dynamics.updates(self._episode)
        if self._pending is not None:
            self.student = update.apply(self.student, action, self._pending)
            self._pending = None
        losses = []
        for _ in range(len(new)):
            gradient = update.gradient(self.student, action)
            losses.append(float(gradient.outcome.loss))
            if self.instance.by_epoch:
                self.student = update.apply(self.student, action, gradient)
            else:  # the next action takes this step
                self._pending = gradient
                self.student = replace(self.student, buffers=gradient.buffers)
        return losses

    def _measured(
        self, split: tuple[torch.Tensor, torch.Tensor], batches: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each sample, (samples,), and the accuracy in each minibatch, (minibatches,)."""
        chosen = torch.cat(batches)
        inputs, targets = (tensor[chosen] for tensor in split)
        outputs = self._dynamics.outputs(self.student, inputs)
        right = torch.split(outputs.argmax(1) == targets, [len(batch) for batch in batches])
        losses = F.nll_loss(outputs, targets, reduction="none")
        return losses, torch.stack([each.float().mean() for each in right])


def _coordinate(rate: float) -> float:
    """The action that makes the base rate this one."""
    return math.log10(rate / BASE_RATE) if rate > 0 else -math.inf
