"""Which labels of a dataset are wrong: samples ranked by what students say of them that were trained without them.

Each of a few rounds cuts the samples into folds, trains a student on all folds but one, and asks it for the
probabilities p of the samples in that one. From them and the labels y as given come two things:

- the confusion T: which share of the samples that look like class c is labelled y (Northcutt et al. 2021, the
  confident joint, here of the most probable class), and
- what each sample's class may be, by Bayes: r_c ∝ p_c T_{c,y}.

The next round trains on the distributions r in the place of the labels, so that a wrong label teaches its error less
and less; p stays out of sample in each. Rounds help where errors are systematic: if 40 % of each class carry the next
class's label, students trained on these labels once cannot tell the two apart, and after a few rounds they can.

A sample's score is the largest r_c of another class minus r_y, from −1 to 1; above 0 the likely class is another than
the one given. Beside it stands what the error does: `gains`, the derivative of held-out likelihood with respect to a
change of the sample's label. With q_i the distribution that sample i is trained on, −Σ_c q_ic log p_ic its loss, and J
the mean log-likelihood of held-out samples (under their r) after the *whole* training on the given labels,

    gain_i = dJ/dq_i,likely − dJ/dq_i,given,

the first-order change of J if the label were corrected, by `meta.hypergradient` over the loss family `"label-weights"`.
The rounds, and that scores are not made from gains, are our choice: `docs/attribution.md` has what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from meta.influence.held_out import HeldOut
from meta.influence.samples import Inputs, Samples, samples_of
from meta.influence.tables import data_frame, write_csv
from teachenv import checks, plot
from teachenv.experiment.progress import bar
from teachenv.randomness import Purpose, generator
from teachenv.tasks.base import Task

_HEADER = ("sample", "given", "likely", "score", "gain")


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """Which labels may be wrong; arrays are in the order of the samples.

    Attributes:
        scores: (N,) in [-1, 1], larger is more suspect: the probability of the likeliest other class minus that of the
            label as given. Above 0 the other class is the likelier one.
        given: (N,) the labels as given.
        likely: (N,) the likeliest class of each sample, which may be the one given.
        probabilities: (N, C) of each class, with the confusion between classes taken into account.
        gains: (N,) what the mean log-likelihood of held-out samples gains, to first order, if the label is changed from
            `given` to `likely`; 0 where both are the same.
        confusion: (C, C) which share of the samples that look like the class of a row is labelled as that of a column.
        classes: what the numbers of classes stand for.
        inputs: (N, ...) the samples, or such by name.
    """

    scores: np.ndarray
    given: np.ndarray
    likely: np.ndarray
    probabilities: np.ndarray
    gains: np.ndarray
    confusion: np.ndarray
    classes: tuple[Any, ...]
    inputs: Inputs

    def __repr__(self) -> str:
        suspects = int((self.scores > 0).sum())
        return f"LabelIssues(samples={len(self.scores)}, suspects={suspects}, classes={len(self.classes)})"

    def ranked(self) -> np.ndarray:
        """The samples' numbers, the most suspect first."""
        order: np.ndarray = np.argsort(-self.scores, kind="stable")
        return order

    def suspects(self) -> np.ndarray:
        """The numbers of the samples whose likely class is another than the one given, the most suspect first."""
        ranked = self.ranked()
        first = int((self.scores > 0).sum())
        return ranked[:first]

    def to_csv(self, path: Any) -> None:
        """Writes a line for each sample, the most suspect first: `sample,given,likely,score,gain`."""
        rows = ((*row[:3], *(f"{number:.6g}" for number in row[3:])) for row in self._rows())
        write_csv(path, _HEADER, rows)

    def to_frame(self) -> Any:
        """A pandas DataFrame with the lines of `to_csv`, indexed by the samples' numbers.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        return data_frame(list(self._rows()), columns=_HEADER).set_index("sample")

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for i in self.ranked().tolist():
            given, likely = self.classes[self.given[i]], self.classes[self.likely[i]]
            yield i, given, likely, float(self.scores[i]), float(self.gains[i])

    def plot(self, path: Any, *, count: int = 24, shape: Sequence[int] | None = None) -> None:
        """Draws the most suspect samples as images, with the labels given and the likely ones.

        Args:
            path: the file, which ends in .png, .svg or .pdf; without an ending all three are written.
            count: how many are drawn.
            shape: height and width of a sample, (height, width) or (height, width, channels), where samples are rows of
                numbers. None: samples are images, (channels, height, width).

        Raises:
            ValueError: samples are no images, or not of this shape.
        """
        if isinstance(self.inputs, dict):
            raise ValueError(
                f"samples have several inputs, {', '.join(map(repr, self.inputs))}, and are no images; draw one of "
                "them with teachenv.plot.suspects(issues.inputs['name'][issues.suspects()[:24]], given, likely)"
            )
        shown = self.ranked()[: checks.integer("count", count, least=1)]
        given, likely = ([self.classes[label] for label in labels[shown]] for labels in (self.given, self.likely))
        plot.save(plot.suspects(self.inputs[shown], given, likely, shape=shape), path)


def label_issues(
    data: Task | tuple[Any, Any],
    *,
    trusted: tuple[Any, Any] | None = None,
    folds: int = 5,
    repeats: int = 5,
    rounds: int = 6,
    steps: int | None = None,
    seed: int = 0,
    **options: Any,
) -> LabelIssues:
    """Ranks the samples of a dataset by how likely their labels are wrong.

        x, y = teachenv.data.load_digits()
        issues = meta.label_issues((x, y))
        issues.to_csv("suspects.csv")

    Args:
        data: (inputs, labels), or a `teachenv.Task`, whose pool is looked at and whose dev set is trusted. Arrays,
            tensors and data frames of numbers serve as inputs, (N, ...); labels are whole numbers or texts, (N,). Of a
            pair each column of a table is brought to mean 0 and variance 1, and images, (N, channels, height, width),
            as a whole; a task's inputs stay as they are, and so do several inputs by name, a dictionary of arrays,
            which need a `student` that takes them.
        trusted: (inputs, labels) in the same form whose labels are known to be right; students are trained on them,
            too.
        folds: into how many parts the samples are cut; students judge one that were trained on the others.
        repeats: how often they are cut anew in each round; a sample's probabilities are the mean.
        rounds: how often students are trained on the labels that the round before them found.
        steps: steps of each training run; None: ten epochs, at most 1,000.
        seed: seed of folds and training runs.
        **options: of the students and their training, as `teachenv.TeachEnv` has them: `student` (a name, or a
            function that builds a module), `optimizer`, `learning_rate`, `momentum`, `nesterov`, `weight_decay`,
            `lr_schedule`, `batch_size`, `augment`, `device`, `dtype`, `autocast`.

    Raises:
        TypeError: data that is no pair of arrays and no task, or an unknown option.
        ValueError: fewer than two classes, most of them with a single sample, labels that are no classes, trusted
            samples with other columns than data, too few samples for the folds, or training runs that diverge.
    """
    asked = {"folds": (folds, 2), "repeats": (repeats, 1), "rounds": (rounds, 1)}
    folds, repeats, rounds = (checks.integer(name, value, least=least) for name, (value, least) in asked.items())
    samples = samples_of(data, trusted)
    trainings = HeldOut.of(samples, folds, repeats, steps, options)
    return _judged(samples, trainings, rounds, checks.integer("seed", seed, least=0))


def _judged(samples: Samples, trainings: HeldOut, rounds: int, seed: int) -> LabelIssues:
    count, number = samples.count, trainings.dynamics.task.pool[1]
    onehot = torch.nn.functional.one_hot(number, len(samples.classes)).to(trainings.dynamics.student.dtype)
    labels, given = onehot, onehot[:count]
    random = generator(seed, Purpose.SPLIT)
    with bar("rounds", rounds) as advance:
        for _ in range(rounds):
            episodes = trainings.episodes(random)
            p = trainings.probabilities(episodes, labels - onehot)
            confusion = _confusion(p, given)
            posterior = p * confusion[:, number[:count]].t()
            posterior /= posterior.sum(1, keepdim=True)
            labels = torch.cat([posterior, onehot[count:]])
            advance()
    of_given = (posterior * given).sum(1)
    likely = posterior.argmax(1, keepdim=True)
    derivative = trainings.derivative(episodes, labels)
    gains = derivative.gather(1, likely) - derivative.gather(1, number[:count, None])
    return LabelIssues(
        scores=_array((posterior - 2 * given).amax(1) - of_given),
        given=_array(number[:count]),
        likely=_array(likely[:, 0]),
        probabilities=_array(posterior),
        gains=_array(gains[:, 0]),
        confusion=_array(confusion),
        classes=samples.classes,
        inputs=samples.shown,
    )


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array


def _confusion(p: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """(C, C): of the samples that look most like the class of a row, the shares labelled as that of each column."""
    classes = p.shape[1]
    looks = torch.nn.functional.one_hot(p.argmax(1), classes).to(p)
    # One sample more in each row, so that a class that nothing looks like, and a label that none has, keep a chance.
    counts = looks.t() @ given + 1 / classes
    return counts / counts.sum(1, keepdim=True)
