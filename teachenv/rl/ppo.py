"""PPO as pure functions (Schulman et al. 2017): rollouts, advantages and the update, equal to Stable-Baselines3's.

The loss of a minibatch, with r the ratio of the action's probability to that when it was taken, and Â its advantage
(generalised advantage estimation, normalised in the minibatch):

    −mean min(r Â, clip(r, 1 − ε, 1 + ε) Â) + c_v mean (V − R)² − c_e mean H

An episode that its time limit cut off goes on in the value of its last state. The update is differentiable in every
coefficient: its gradients are then taken with their graphs, and a training step of Adam is a function like others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from teachenv.optimizers import Adam
from teachenv.optimizers.base import Rate, Tensors
from teachenv.rl.coefficients import Coefficients
from teachenv.rl.policy import Distribution, outputs


@dataclass(frozen=True, eq=False)
class Rollout:
    """What the copies of a control task went through; T steps of N copies.

    Attributes:
        observations: (T, N, coordinates).
        actions: choices (T, N), or numbers (T, N, 1), as they were drawn.
        rewards: (T, N).
        starts: whether an episode begins there, 1.0 or 0.0, (T + 1, N).
        log_prob: of the actions when they were taken, (T, N).
        values: the value network's, of the states and of those after the last step, (T + 1, N).
        beyond: value of the state in which the time limit cut the episode off, (T, N); 0 elsewhere.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    starts: torch.Tensor
    log_prob: torch.Tensor
    values: torch.Tensor
    beyond: torch.Tensor

    def advantages(self, discount: Rate, trace: float) -> torch.Tensor:
        """Generalised advantage estimates, (T, N); differentiable in the discount."""
        goes_on = 1.0 - self.starts
        rewards = self.rewards + discount * self.beyond
        deltas = rewards + discount * self.values[1:] * goes_on[1:] - self.values[:-1]
        estimates, last = [], torch.zeros_like(deltas[0])
        for t in reversed(range(len(deltas))):
            last = deltas[t] + discount * trace * goes_on[t + 1] * last
            estimates.append(last)
        return torch.stack(estimates[::-1])


class Losses(NamedTuple):
    """Means over the minibatches of an update.

    Attributes:
        loss: the whole one.
        value: the value network's.
    """

    loss: torch.Tensor
    value: torch.Tensor


class Minibatch(NamedTuple):
    """Rows of a rollout, (n, ...) each.

    Attributes:
        observations: what was observed.
        actions: what was done.
        log_prob: its log probability then.
        advantages: its advantage.
        returns: the value network's target.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    log_prob: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor


@dataclass(frozen=True)
class PPO:
    """PPO's update.

    Attributes:
        epochs: how often each sample is used.
        batch_size: samples of a minibatch.
        trace: λ of the advantages.
        max_grad_norm: norm to which a gradient is clipped.
        optimizer: Adam with SB3's ε.
    """

    epochs: int
    batch_size: int
    trace: float
    max_grad_norm: float
    optimizer: Adam = field(default_factory=lambda: Adam(epsilon=1e-5))

    def update(
        self,
        parameters: Tensors,
        slots: Tensors,
        step: int,
        rollout: Rollout,
        coefficients: Coefficients,
        random: np.random.Generator,
    ) -> tuple[Tensors, Tensors, int, Losses]:
        """Learns from a rollout: `epochs` passes over its shuffled samples.

        The result has a graph where a coefficient requires a gradient.

        Args:
            parameters: the student's.
            slots: Adam's.
            step: Adam's steps before.
            rollout: what is learned from.
            coefficients: of loss and step.
            random: shuffles the samples.

        Returns:
            New parameters and slots, Adam's steps, and the losses.
        """
        graph = any(isinstance(c, torch.Tensor) and c.requires_grad for c in vars(coefficients).values())
        if not graph:
            parameters = {name: p.detach() for name, p in parameters.items()}
        advantages = rollout.advantages(coefficients.discount, self.trace)
        samples = Minibatch(
            rollout.observations.flatten(0, 1),
            rollout.actions.flatten(0, 1),
            rollout.log_prob.flatten(),
            advantages.flatten(),
            (advantages + rollout.values[:-1]).flatten(),
        )
        losses: list[Losses] = []
        for _ in range(self.epochs):
            order = torch.as_tensor(random.permutation(len(samples.log_prob)))
            for rows in torch.split(order, self.batch_size):
                minibatch = Minibatch(*(each[rows] for each in samples))
                gradient, loss = self._gradient(parameters, minibatch, coefficients, graph)
                parameters, slots = self.optimizer.update(parameters, gradient, slots, coefficients.learning_rate, step)
                losses.append(loss)
                step += 1
        return parameters, slots, step, Losses(*(torch.stack(each).mean() for each in zip(*losses, strict=True)))

    def _gradient(
        self, parameters: Tensors, minibatch: Minibatch, coefficients: Coefficients, graph: bool
    ) -> tuple[Tensors, Losses]:
        """The gradient of a minibatch's loss, clipped to its largest norm, and the losses."""
        with torch.enable_grad():
            inputs = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in parameters.items()}
            losses = _losses(inputs, minibatch, coefficients)
            gradients = torch.autograd.grad(losses.loss, list(inputs.values()), create_graph=graph)
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
            factor = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            clipped = {name: g * factor for name, g in zip(inputs, gradients, strict=True)}
        return clipped, Losses(*(each.detach() for each in losses))


def _losses(parameters: Tensors, minibatch: Minibatch, coefficients: Coefficients) -> Losses:
    distribution = Distribution.of(parameters, minibatch.observations)
    advantages = minibatch.advantages
    if len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = (distribution.log_prob(minibatch.actions) - minibatch.log_prob).exp()
    clip = torch.as_tensor(coefficients.clip, dtype=ratio.dtype)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    gain = torch.min(advantages * ratio, advantages * clipped).mean()
    value = (outputs(parameters, "value", minibatch.observations).squeeze(-1) - minibatch.returns).square().mean()
    entropy = distribution.entropy().mean()
    return Losses(-gain + coefficients.value * value - coefficients.entropy * entropy, value)
