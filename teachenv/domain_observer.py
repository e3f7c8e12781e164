"""What a teacher that weighs domains sees of them: how well the student has learned each domain's training samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from teachenv.losses.plain import cross_entropy
from teachenv.model import Model
from teachenv.optimizers import Tensors
from teachenv.samples import SampleObserver
from teachenv.state import Episode, StudentState
from teachenv.tasks.base import Task
from teachenv.tasks.domains import Domains

_SAMPLES = 16
"""Training samples that are looked at of each domain."""


def _field(domain: str) -> str:
    return f"train_likelihood_{domain}"


def domain_losses(
    observations: np.ndarray, fields: Sequence[str], domains: Sequence[str], num_outputs: int
) -> np.ndarray:
    """The mean loss on each domain's training samples, as it is read from what `DomainLikelihoods` observes.

    Args:
        observations: (..., n), of an environment whose task has domains.
        fields: the names of the n fields, the environment's `OBSERVATION_FIELDS`.
        domains: the names of the K domains.
        num_outputs: C, the number of classes.

    Returns:
        The losses (..., K) in nats, float64; a loss above log C is observed as log C.
    """
    places = [list(fields).index(_field(domain)) for domain in domains]
    likelihoods: np.ndarray = observations[..., places].astype(np.float64)
    return (1.0 - likelihoods) * math.log(num_outputs)


class DomainLikelihoods(SampleObserver):
    """How well the student predicts training samples of each domain, in evaluation mode.

    The field `train_likelihood_NAME` is 1 − l / log C, clipped to [0, 1]: l is the mean cross-entropy of the decisions
    (tokens, of language) in 16 training samples of the domain NAME, the same all episode long, and C the number of
    classes. It is 0 of a student that knows nothing (equal probabilities), 1 of one that is certain and right. Of a
    domain with fewer training samples those count several times; of one without any, its samples that are held out.

    It costs one forward pass of 16 K samples for each action, K domains.

    Args:
        task: a task with domains.
    """

    fields = ()

    def __init__(self, task: Task) -> None:
        assert task.domains is not None
        self.domains: Domains = task.domains
        self.of_minibatch = tuple(map(_field, task.domains.names))

    def begin(self, model: Model, episode: Episode) -> torch.Tensor:
        """The samples that are looked at, (K · 16,) or (B, K · 16) places in the rows."""
        train = episode.train.cpu().numpy()
        places = [self._places(of_one) for of_one in train.reshape(-1, train.shape[-1])]
        return torch.from_numpy(np.stack(places).reshape(*train.shape[:-1], -1)).to(episode.train.device)

    def _places(self, train: np.ndarray) -> np.ndarray:
        of_samples, places = self.domains.of_samples, []
        for domain in range(len(self.domains.names)):
            some = train[of_samples[train] == domain]
            some = some if len(some) else np.flatnonzero(of_samples == domain)
            places.append(np.resize(some, _SAMPLES))
        return np.concatenate(places)

    def observe(self, model: Model, state: StudentState, episode: Episode, memory: Any) -> tuple[torch.Tensor, Any]:
        """(K,) or (B, K); see `SampleObserver.observe`."""
        inputs, targets = model.rows.inputs[memory], model.rows.targets[memory]

        def likelihoods(
            parameters: Tensors, buffers: Tensors, inputs: torch.Tensor, targets: torch.Tensor
        ) -> torch.Tensor:
            prediction, _ = model.student(
                parameters, buffers, inputs, training=False, differentiable=model.mapping.form
            )
            decided = model.decisions(prediction, targets)
            losses = cross_entropy(decided.prediction, decided.labels).view(len(self.domains.names), -1)
            counted = decided.prediction.weights
            weights = torch.ones_like(losses) if counted is None else counted.view(losses.shape)
            means = (weights * losses).sum(1) / weights.sum(1).clamp(min=1)
            return 1.0 - means / math.log(decided.prediction.outputs.shape[1])

        with torch.no_grad():
            return model.mapping(likelihoods)(state.parameters, state.buffers, inputs, targets).clamp(0.0, 1.0), memory
