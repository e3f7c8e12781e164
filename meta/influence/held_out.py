"""Students that judge the samples they were not trained on: the training runs behind `meta.label_issues`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from meta.hypergradients.hypergradient import hypergradient
from meta.hypergradients.training import Training
from meta.influence.samples import Samples
from teachenv import checks
from teachenv.batching import batched
from teachenv.dynamics import Dynamics
from teachenv.env import TeachEnv
from teachenv.minibatches import minibatches
from teachenv.randomness import SEED_BOUND, Purpose, generator
from teachenv.state import Episode, StudentState
from teachenv.tasks.measures import Measure
from teachenv.trees import bytes_of

DEFAULTS: dict[str, Any] = {
    "student": {"name": "mlp", "hidden": [128], "activation": "relu"},
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.01,
}
"""Options of the students' training where the caller gives none."""
OPTIONS = (
    "student",
    "student_kwargs",
    "output",
    "optimizer",
    "optimizer_kwargs",
    "learning_rate",
    "momentum",
    "nesterov",
    "weight_decay",
    "lr_schedule",
    "batch_size",
    "augment",
    "device",
    "dtype",
    "autocast",
)
"""What a caller may say of the students and their training, by the names of `teachenv.TeachEnv`."""
_EPOCHS, _MOST_STEPS = 10, 1000
_FEW_SAMPLES, _SMALL_BATCH, _LARGE_BATCH = 2500, 32, 64
# What states and graphs of one derivative may take, and the inputs that go through all students at once.
_BYTE_BUDGET = 2**30
_BYTES_OF_INPUTS = 2**27


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Trainings on all folds of the samples but one, of which there is one for each fold, all at once.

    Attributes:
        samples: the samples; the trusted ones are in each training run.
        dynamics: the training of one student for each fold, whose actions move the labels.
        folds: how many folds there are.
        repeats: how often the samples are cut into folds.
        steps: steps of a training run.
        batch_size: samples in a minibatch.
    """

    samples: Samples
    dynamics: Dynamics
    folds: int
    repeats: int
    steps: int
    batch_size: int

    @classmethod
    def of(cls, samples: Samples, folds: int, repeats: int, steps: int | None, options: Mapping[str, Any]) -> HeldOut:
        """Makes the students.

        Args:
            samples: what they are trained on.
            folds: into how many parts they are cut.
            repeats: how often.
            steps: steps of a training run; None: ten epochs, at most 1,000.
            options: some of `OPTIONS`, which take the places of `DEFAULTS`.

        Raises:
            TypeError: an option that is none of these.
            ValueError: fewer samples than folds, or a bad value of an option.
        """
        if samples.count < 2 * folds:
            raise ValueError(f"{samples.count} samples are too few for {folds} folds; expected at least {2 * folds}")
        checks.known_options("label_issues", options, OPTIONS)
        trained = len(samples.labels) - _fold_size(samples.count, folds)
        few = trained < _FEW_SAMPLES
        usual = min(trained, _SMALL_BATCH if few else _LARGE_BATCH)
        batch_size = checks.integer("batch_size", options.get("batch_size", usual), least=1)
        if batch_size > trained:
            raise ValueError(f"batch_size={batch_size} is larger than the {trained} samples of a training run")
        ten_epochs = min(_MOST_STEPS, _EPOCHS * (trained // batch_size))
        steps = ten_epochs if steps is None else checks.integer("steps", steps, least=1)
        decided = {"task": samples.task, "loss": "label-weights", "dev_size": 1, "train_on": "pool"}
        lengths = {"horizon": steps, "steps_per_action": steps, "batch_size": batch_size}
        env = TeachEnv(defaults=DEFAULTS, **{**options, **decided, **lengths})
        dynamics = replace(env.dynamics.mapped(batched(env.problem)), measure=_SoftLikelihood())
        return cls(samples, dynamics, folds, repeats, steps, batch_size)

    def episodes(self, random: np.random.Generator) -> Episode:
        """Cuts the samples into folds, several times: the training runs that leave out one, as a batch of episodes.

        Folds are of one size; where the samples cannot be cut so, the first ones of the order are in two of them.
        """
        count, size = self.samples.count, _fold_size(self.samples.count, self.folds)
        trusted = np.arange(count, len(self.samples.labels))
        orders = [random.permutation(count) for _ in range(self.repeats)]
        places = (np.arange(self.folds)[:, None] * size + np.arange(size)) % count
        left_out = np.concatenate([order[places] for order in orders])
        trained = np.stack([np.concatenate([np.delete(order, out), trusted]) for order in orders for out in places])
        seeds = tuple(int(random.integers(SEED_BOUND)) for _ in trained)
        batches = [
            minibatches(generator(seed, Purpose.BATCHES), rows, self.batch_size, self.steps, self.dynamics.task.lengths)
            for seed, rows in zip(seeds, trained, strict=True)
        ]
        device = self.dynamics.student.device
        return Episode(seeds, *(torch.from_numpy(rows).to(device) for rows in (np.stack(batches), left_out, trained)))

    def trained(self, episodes: Episode, change: torch.Tensor) -> StudentState:
        """The students after their training on changed labels.

        Args:
            episodes: a training run for each fold.
            change: (samples, C), what is added to the one-hot labels.
        """
        state, action = self.dynamics.init(episodes), self._action(change)
        for _ in range(self.steps):
            state, _ = self.dynamics.step(state, episodes, action)
        return state

    def probabilities(self, episodes: Episode, change: torch.Tensor) -> torch.Tensor:
        """What students say of the samples that they were not trained on, (samples that are not trusted, C).

        Raises:
            ValueError: the training runs diverge.
        """
        state, inputs = self.trained(episodes, change), self.dynamics.task.pool[0]
        pieces = torch.split(episodes.dev, self._at_once, 1)
        outputs = [self.dynamics.outputs(state, inputs[piece]) for piece in pieces]
        p = torch.softmax(torch.cat(outputs, 1), -1)
        if not bool(torch.isfinite(p).all()):
            raise ValueError("the training runs diverge: choose a smaller learning_rate")
        total, times = p.new_zeros(self.samples.count, p.shape[-1]), p.new_zeros(self.samples.count, 1)
        rows = episodes.dev.flatten()
        total.index_add_(0, rows, p.flatten(0, 1))
        times.index_add_(0, rows, p.new_ones(len(rows), 1))
        return total / times

    def derivative(self, episodes: Episode, targets: torch.Tensor) -> torch.Tensor:
        """dJ/dq of each sample's label distribution at the given labels, (samples that are not trusted, C).

        J is the mean of Σ_c r_c log p_c over the samples that a student was not trained on, or over as many of them as
        one step's memory has room for; the result is the mean over the students that were trained on the sample.

        Args:
            episodes: training runs, on the labels as given.
            targets: r, (samples, C).
        """
        of_all = self.dynamics.task.pool[0]
        judged = episodes.dev[:, : self._at_once]
        inputs, soft = of_all[judged], targets[judged]
        process = Training(self.dynamics, episodes, lambda state: self.dynamics.objective_on(state, inputs, soft))
        action, initial = self._action(torch.zeros_like(targets)), self.dynamics.init(episodes)
        gradient = hypergradient(process, initial, [action], steps_per_action=self.steps, byte_budget=_BYTE_BUDGET)
        total = gradient.actions[0].view(-1, *targets.shape).sum(0)
        times = torch.bincount(episodes.train.flatten(), minlength=len(targets))[:, None]
        return (total / times.clamp(min=1))[: self.samples.count]

    @property
    def _at_once(self) -> int:
        """How many samples go through each student at once."""
        return max(1, _BYTES_OF_INPUTS // (self.folds * self.repeats * bytes_of(self.dynamics.task.pool[0][0])))

    def _action(self, change: torch.Tensor) -> torch.Tensor:
        return change.flatten().expand(self.folds * self.repeats, -1)


def _fold_size(count: int, folds: int) -> int:
    return -(-count // folds)


class _SoftLikelihood(Measure):
    """Mean of Σ_c r_c log p_c, r the distributions of the samples' classes."""

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The objective, targets (n, C)."""
        return (targets * torch.log_softmax(outputs, -1)).sum(-1).mean()

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Not asked for."""
        return torch.zeros_like(outputs[..., 0].sum())
