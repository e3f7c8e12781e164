"""Policies that weigh each sample by one thing that they observe of it."""

from __future__ import annotations

import torch
from torch import nn

from meta.teachers.policies import TeacherPolicy, sample_box
from teachenv.spaces import SampleBox

_LEAST = 1e-12
"""The least probability of a label whose loss is told apart: a loss of 27.6."""


class LossNetwork(nn.Module):
    """Meta-Weight-Net's V(ℓ; Θ) (Shu et al. 2019, section 2.2): a perceptron 1-100-1 with ReLU, and a sigmoid.

    It sees the sample's cross-entropy ℓ = −log p, p the observed `label_probability`, and gives the action 2V − 1 =
    tanh(½ logit V), so that a sample weighs 2V in `loss="sample-weights"`, and V over the minibatch's mean with
    `normalise=True`. The paper's ℓ is that of the training pass; the observed one is of a pass in evaluation mode,
    which is the same but for dropout and batch norm. Drawn as `nn.Linear` does, as in the released code: V is about ½.

    Args:
        space: the observation space, in which `label_probability` is.
        hidden: the number of hidden units.
    """

    def __init__(self, space: SampleBox, hidden: int = 100) -> None:
        super().__init__()
        self.place = space.place("label_probability")
        self.network = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Takes observations (batch, states) to the action of each sample, (batch, samples), in (-1, 1)."""
        losses = -states[:, self.place].clamp(min=_LEAST).log()
        weights: torch.Tensor = torch.tanh(0.5 * self.network(losses.unsqueeze(-1)).squeeze(-1))
        return weights


class LossPolicy(TeacherPolicy):
    """`LossNetwork`: each sample weighs as a learned function of its loss says; option `hidden` (100)."""

    network_class = LossNetwork

    def _build(self, states: int, actions: int) -> nn.Module:
        return LossNetwork(sample_box(self.observation_space, actions), **self._network)
