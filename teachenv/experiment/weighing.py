"""What a teacher does to samples: how far it moves their weights, and whether wrong labels get the small ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from teachenv.env import TeachEnv
from teachenv.experiment.setting import OneByOne
from teachenv.experiment.teaching import Moment
from teachenv.losses import DomainWeights, SampleWeights
from teachenv.vector_env import TeachVectorEnv

RMS, AUC = "weight_rms", "wrong_label_auc"


class Weighed:
    """A teacher as it is, of which the weights are kept that it gives to the samples of minibatches.

    The weights are those of `loss="sample-weights"`, of `"data-weights"` and of `"domain-weights"`, as a step has them:
    with `normalise=True` divided by their mean over the minibatch. Of other losses nothing is kept, nor of one that
    actions do not set. Of a student that diverges the weights of the one in its place are kept too.

    It stands in the teacher's place and is a watcher too: asked for an action, it notes whose turn it is, and what then
    reaches the environment, which a wrapper may have made of that action, are the weights.

    Args:
        teacher: what decides the actions, by `predict`.
        students: whom it teaches; it is asked for each action before they take it.
    """

    def __init__(self, teacher: Any, students: TeachVectorEnv | OneByOne) -> None:
        self._teacher = teacher
        env = students.env.unwrapped if isinstance(students, OneByOne) else students
        assert isinstance(env, TeachEnv | TeachVectorEnv)
        loss = env.problem.dynamics.loss
        self._env = env
        self._loss: SampleWeights | DomainWeights | None = None
        if isinstance(loss, SampleWeights | DomainWeights) and env.problem.dynamics.control.loss:
            self._loss = loss
        self._rows = len(env.problem.rows.inputs)
        self._squares, self._weights = 0.0, 0
        # Of the minibatches that the next action weighs: the seeds of their students, and places in the pool.
        self._seeds: tuple[int, ...] = ()
        self._next: list[torch.Tensor] = []
        # By student, or by the seed of one who is taught alone: sums of a sample's weights, and how many they are.
        self._of_student: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def predict(self, observation: Any, **options: Any) -> Any:
        """What the teacher predicts."""
        if self._loss is not None:
            self._note()
        return self._teacher.predict(observation, **options)

    def __call__(self, moment: Moment) -> None:
        """Keeps the weights of an action."""
        if self._loss is None:
            return
        single, dynamics, rows = isinstance(self._env, TeachEnv), moment.env.problem.dynamics, self._env.problem.rows
        actions = torch.from_numpy(moment.actions).reshape(len(self._seeds), -1).to(rows.inputs.device)
        actions = dynamics.control.of_loss(actions)
        for indices in self._next:
            places = dynamics.moves[-1].places(rows, indices)
            read = actions if places is None else actions.gather(-1, places)
            weights: np.ndarray = self._loss.weights(read).double().cpu().numpy()
            self._squares += float(np.square(weights - 1.0).sum())
            self._weights += weights.size
            seen_now = zip(self._seeds, indices.cpu().numpy(), weights, strict=True)
            for number, (seed, samples, each) in enumerate(seen_now):
                zeros = np.zeros(self._rows), np.zeros(self._rows)
                total, seen = self._of_student.setdefault(seed if single else number, zeros)
                total += np.bincount(samples, each, self._rows)
                seen += np.bincount(samples, minlength=self._rows)

    @property
    def measures(self) -> dict[str, float]:
        """The teacher's `weight_rms` and `wrong_label_auc`, as far as there are such.

        `weight_rms` is the root mean square of w − 1 over steps, students and places in minibatches: 0 of a teacher
        that does nothing. `wrong_label_auc` is of tasks with label noise or corrupted samples: each
        student's samples are ranked by their mean weight over the training, the smallest first, and the areas under the
        curve of wrong labels averaged over students; 0.5 of weights that do not tell wrong labels from right ones.
        """
        if not self._weights:
            return {}
        measures = {RMS: (self._squares / self._weights) ** 0.5}
        wrong = self._env.problem.rows.mislabelled.cpu().numpy()
        of_students = (
            _area(wrong[seen > 0], total[seen > 0] / seen[seen > 0]) for total, seen in self._of_student.values()
        )
        areas = [area for area in of_students if area is not None]
        return measures | ({AUC: float(np.mean(areas))} if areas else {})

    def _note(self) -> None:
        env = self._env
        single = isinstance(env, TeachEnv)
        state, episodes = (env.student, env.episode) if isinstance(env, TeachEnv) else (env.students, env.episodes)
        self._seeds, self._next = tuple(episodes.seeds), []
        for ahead in range(env.problem.settings.steps_per_action):
            steps = np.atleast_1d(state.step) + ahead
            indices = env.dynamics.indices(episodes, int(steps[0]) if single else steps)
            self._next.append(indices.reshape(len(self._seeds), -1))


def _area(wrong: np.ndarray, weights: np.ndarray) -> float | None:
    """The area under the curve of wrong labels, ranked by their weights; None: all are wrong, or all right."""
    from sklearn.metrics import roc_auc_score  # slow to import

    return None if wrong.all() or not wrong.any() else float(roc_auc_score(wrong, -weights))
