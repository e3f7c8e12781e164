"""The networks of a student that learns by reinforcement: a policy and a value, perceptrons of their own with tanh.

They are SB3's `MlpPolicy` of PPO, drawn alike: orthogonal weights, a gain of √2 in hidden layers, 0.01 of the policy's
last and 1 of the value's. Acting needs single rows in a hurry and has a NumPy form; all that is learned from goes
through PyTorch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from teachenv.optimizers.base import Tensors
from teachenv.randomness import Purpose, torch_seed
from teachenv.rl.physics import Physics

LOG_STD = "log_std"
"""The parameter of policies whose actions are numbers: the logarithm of their standard deviation."""


def draw(physics: Physics, hidden: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensors:
    """Untrained parameters, `"policy.<layer>.weight"`, `"value.<layer>.bias"` and so on.

    Args:
        physics: the control task.
        hidden: widths of the hidden layers, of policy and value each.
        dtype: type of the parameters.
        seed: the episode's.
    """
    parameters: Tensors = {}
    with torch_seed(seed, Purpose.INIT):
        for part, ends, gain in (("policy", physics.choices or 1, 0.01), ("value", 1, 1.0)):
            widths = (physics.observation_size, *hidden, ends)
            for i, (wide, narrow) in enumerate(itertools.pairwise(widths)):
                weight = torch.empty(narrow, wide, dtype=dtype)
                torch.nn.init.orthogonal_(weight, gain if i == len(hidden) else math.sqrt(2))
                parameters |= {f"{part}.{i}.weight": weight, f"{part}.{i}.bias": torch.zeros(narrow, dtype=dtype)}
    if not physics.choices:
        parameters[LOG_STD] = torch.zeros(1, dtype=dtype)
    return parameters


def outputs(parameters: Tensors, part: str, inputs: torch.Tensor) -> torch.Tensor:
    """What `"policy"` (logits, or the mean action) or `"value"` gives for observations, (..., outputs)."""
    layers = sum(name.startswith(part) for name in parameters) // 2
    for i in range(layers):
        inputs = torch.nn.functional.linear(inputs, parameters[f"{part}.{i}.weight"], parameters[f"{part}.{i}.bias"])
        inputs = inputs.tanh() if i < layers - 1 else inputs
    return inputs


class Distribution(NamedTuple):
    """The distributions of actions in some states.

    Attributes:
        center: log probabilities of the choices, (n, choices); or mean actions, (n, 1).
        log_std: the logarithm of the standard deviation, (1,); None: actions are choices.
    """

    center: torch.Tensor
    log_std: torch.Tensor | None

    @classmethod
    def of(cls, parameters: Tensors, observations: torch.Tensor) -> Distribution:
        """Those of a policy."""
        given = outputs(parameters, "policy", observations)
        log_std = parameters.get(LOG_STD)
        return cls(given.log_softmax(-1) if log_std is None else given, log_std)

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Of actions, choices (n,) or numbers (n, 1)."""
        if self.log_std is None:
            return self.center.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        standard = (actions - self.center) / self.log_std.exp()
        return (-0.5 * standard.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> torch.Tensor:
        """In nats, (n,)."""
        if self.log_std is None:
            return -(self.center.exp() * self.center).sum(-1)
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1).expand(len(self.center))

    def divergence_from(self, other: Distribution) -> torch.Tensor:
        """KL(other ‖ self), (n,): how far this policy has gone from the other one."""
        if self.log_std is None or other.log_std is None:
            return (other.center.exp() * (other.center - self.center)).sum(-1)
        squares = (2 * other.log_std).exp() + (other.center - self.center).square()
        return (self.log_std - other.log_std + squares / (2 * (2 * self.log_std).exp()) - 0.5).sum(-1)


class Actor:
    """Acts by a policy, in NumPy.

    Args:
        parameters: the student's.
        physics: the control task.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], physics: Physics) -> None:
        """Looks at the parameters as arrays."""
        arrays = {name: p.detach().numpy() for name, p in parameters.items() if not name.startswith("value")}
        count = sum(name.startswith("policy") for name in arrays) // 2
        self._layers = [(arrays[f"policy.{i}.weight"].T, arrays[f"policy.{i}.bias"]) for i in range(count)]
        self._std = np.exp(arrays[LOG_STD]) if LOG_STD in arrays else None
        self._dtype, self._choices = self._layers[0][1].dtype, physics.choices

    def best(self, observations: np.ndarray) -> np.ndarray:
        """The most likely actions, (n,) or (n, 1)."""
        given = self._outputs(observations)
        return given if self._std is not None else np.asarray(given.argmax(-1))

    def drawn(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Actions of the policy, (n,) or (n, 1).

        Args:
            observations: (n, observation coordinates).
            noise: (n, 1); Gumbel-distributed numbers for each choice, (n, choices), or normal ones.
        """
        given = self._outputs(observations)
        if self._std is not None:
            return np.asarray(given + self._std * noise.astype(self._dtype))
        # The choice of the largest logit + Gumbel noise is distributed as the softmax says.
        return np.asarray((given + noise).argmax(-1))

    def _outputs(self, observations: np.ndarray) -> np.ndarray:
        x = observations.astype(self._dtype)
        for weight, bias in self._layers[:-1]:
            x = np.tanh(x @ weight + bias)
        weight, bias = self._layers[-1]
        return np.asarray(x @ weight + bias)
