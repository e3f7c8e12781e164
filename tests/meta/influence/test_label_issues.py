"""Labels that are likely wrong, and what a change of a label does to held-out samples."""

import csv
import importlib

import numpy as np
import pytest
import torch

import meta
from teachenv import Measure, Task
from teachenv.randomness import Purpose, generator

held_out = importlib.import_module("meta.influence.held_out")  # the attribute `meta.influence` is the function
samples_of = importlib.import_module("meta.influence.samples").samples_of
CLASSES, COUNT = 3, 121
ONCE = {"folds": 3, "repeats": 1, "rounds": 1, "steps": 20, "student": {"name": "mlp", "hidden": [8]}}
QUICK = {"folds": 3, "repeats": 2, "rounds": 4, "steps": 40, "student": {"name": "mlp", "hidden": [8]}}


def blobs(count=COUNT, seed=0):
    """Inputs and right labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    return rng.normal(size=(count, 4)) + 3.0 * np.eye(CLASSES, 4)[labels], labels


def pair_noise(labels, rate=0.35):
    """A part of each class gets the label of the next one."""
    wrong = np.zeros(len(labels), dtype=bool)
    for c in range(CLASSES):
        rows = np.flatnonzero(labels == c)
        wrong[rows[: round(rate * len(rows))]] = True
    return np.where(wrong, (labels + 1) % CLASSES, labels), wrong


def found(scores, wrong):
    """The chance that a wrong label has a higher score than a right one."""
    return (scores[wrong][:, None] > scores[~wrong][None]).mean()


def test_wrong_labels_come_first_and_the_likely_ones_are_right():
    inputs, labels = blobs()
    given, wrong = pair_noise(labels)
    issues = meta.label_issues((inputs, given), **QUICK)
    assert found(issues.scores, wrong) > 0.97
    assert (issues.gains[wrong & (issues.likely == labels)] > 0).mean() > 0.9
    assert (issues.likely == labels).mean() > 0.9
    assert (issues.given == given).all()
    assert (issues.scores[issues.suspects()] > 0).all()
    assert len(issues.suspects()) == (issues.scores > 0).sum() == (issues.likely != issues.given).sum()
    assert (np.diff(issues.scores[issues.ranked()]) <= 0).all()
    assert (issues.gains[issues.likely == issues.given] == 0).all()
    np.testing.assert_allclose(issues.probabilities.sum(1), 1, atol=1e-5)
    next_class = issues.confusion[np.arange(CLASSES), (np.arange(CLASSES) + 1) % CLASSES]
    np.testing.assert_allclose(next_class, 0.35, atol=0.1)


def test_rounds_find_what_one_round_does_not():
    inputs, labels = blobs(300)
    given, wrong = pair_noise(labels, 0.45)
    once, often = (
        found(meta.label_issues((inputs, given), **QUICK | {"rounds": rounds}).scores, wrong) for rounds in (1, 6)
    )
    assert often > once + 0.01


def test_a_gain_is_the_slope_of_held_out_likelihood_along_the_change_of_the_label():
    inputs, labels = blobs(40)
    samples = samples_of((inputs, labels), None)
    student = {"name": "mlp", "hidden": [5]}
    trainings = held_out.HeldOut.of(samples, 2, 1, 12, {"student": student, "dtype": "float64"})
    episodes = trainings.episodes(generator(0, Purpose.SPLIT))
    targets = torch.full((40, CLASSES), 1 / CLASSES, dtype=torch.float64)
    sample = int(episodes.train[1, 3])

    def objective(change):
        state = trainings.trained(episodes, change)
        rows = episodes.dev
        outputs = trainings.dynamics.outputs(state, trainings.dynamics.task.pool[0][rows])
        return (targets[rows] * torch.log_softmax(outputs, -1)).sum(-1).mean(-1)

    derivative = trainings.derivative(episodes, targets)
    for c in range(CLASSES):
        step = torch.zeros(40, CLASSES, dtype=torch.float64)
        step[sample, c] = 1e-5
        # A sample is in the training of one of two folds.
        slope = ((objective(step) - objective(-step)) / 2e-5).sum()
        torch.testing.assert_close(derivative[sample, c], slope, rtol=1e-5, atol=1e-9)


def test_texts_and_numbers_are_the_same_labels():
    inputs, labels = blobs()
    given, _ = pair_noise(labels)
    names = np.array(["ash", "birch", "cedar"])
    numbers, texts = (meta.label_issues((inputs, y), **ONCE) for y in (given, names[given].tolist()))
    np.testing.assert_array_equal(numbers.scores, texts.scores)
    assert texts.classes == ("ash", "birch", "cedar")
    apart = meta.label_issues((inputs, 10 * given + 5), **ONCE)
    assert apart.classes == (5, 15, 25)


def test_trusted_samples_are_learned_from_and_not_judged():
    inputs, labels = blobs()
    given, _ = pair_noise(labels)
    trusted = blobs(12, seed=5)
    issues = meta.label_issues((inputs, given), trusted=trusted, **ONCE)
    assert issues.scores.shape == (COUNT,)
    assert not np.array_equal(issues.scores, meta.label_issues((inputs, given), **ONCE).scores)
    task = Task("blobs", "made-up", pool=(inputs, given), test=trusted, num_outputs=CLASSES, dev=trusted)
    without = Task("blobs", "made-up", pool=(inputs, given), test=trusted, num_outputs=CLASSES)
    of_dev, of_argument = meta.label_issues(task, **ONCE), meta.label_issues(without, trusted=trusted, **ONCE)
    np.testing.assert_array_equal(of_dev.scores, of_argument.scores)


def test_columns_of_any_scale_count_alike_and_constant_ones_not_at_all():
    inputs, labels = blobs()
    given, _ = pair_noise(labels)
    scaled = np.column_stack([1e3 * inputs[:, 0] - 7, inputs[:, 1:], np.full(COUNT, 3.3)])
    plain = np.column_stack([inputs, np.zeros(COUNT)])
    results = [meta.label_issues((x, given), **ONCE).scores for x in (plain, scaled)]
    np.testing.assert_allclose(*results, atol=1e-3)


@pytest.mark.parametrize("kind", [np.float64, np.int64, torch.int64])
def test_large_numbers_that_differ_by_little_count(kind):
    inputs, _ = blobs()
    thousands, late = np.round(1000 * inputs), np.round(1000 * inputs) + 1.7e12  # times in milliseconds
    data = [torch.from_numpy(x).to(kind) if kind is torch.int64 else x.astype(kind) for x in (thousands, late)]
    of_both = [samples_of((x, np.arange(COUNT) % CLASSES), None).task.pool[0] for x in data]
    torch.testing.assert_close(*of_both, rtol=0, atol=1e-4)
    assert float(of_both[0].std()) > 0.9


def test_tokens_of_a_task_stay_tokens():
    tokens, labels = np.random.default_rng(0).integers(0, 9, (30, 5)), np.arange(30) % CLASSES
    task = Task("words", "made-up", pool=(tokens, labels), test=(tokens, labels), num_outputs=CLASSES)
    student = lambda: torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Flatten(), torch.nn.Linear(20, 3))  # noqa: E731
    issues = meta.label_issues(task, **ONCE | {"student": student})
    assert (issues.inputs == tokens).all()
    assert issues.scores.shape == (30,)


class Reader(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(9, 4), torch.nn.Linear(20, 3)

    def forward(self, tokens, lengths=None):
        seen = 1.0 if lengths is None else (torch.arange(5) < lengths[:, None])[..., None]
        return self.head((self.embedding(tokens) * seen).flatten(1))


def test_inputs_by_name_stay_as_they_are(tmp_path):
    """They are not standardised: the scores are those of a task of tokens."""
    tokens, labels = np.random.default_rng(0).integers(0, 9, (30, 5)), np.arange(30) % CLASSES
    of_task = Task("words", "made-up", pool=(tokens, labels), test=(tokens, labels), num_outputs=CLASSES)
    expected = meta.label_issues(of_task, **ONCE | {"student": Reader, "steps": 4})
    given = {"tokens": tokens, "lengths": np.full(30, 5)}
    issues = meta.label_issues((given, labels), **ONCE | {"student": Reader, "steps": 4})
    np.testing.assert_allclose(issues.scores, expected.scores, atol=1e-6)
    assert np.array_equal(issues.inputs["tokens"], tokens)
    with pytest.raises(ValueError, match="several inputs, 'tokens', 'lengths', and are no images; draw one of them"):
        issues.plot(tmp_path / "suspects.png")


def test_a_convolutional_network_judges_images(tmp_path):
    inputs, labels = blobs(30)
    images = np.repeat(inputs, 4, 1).reshape(-1, 1, 4, 4)
    student = lambda: torch.nn.Sequential(  # noqa: E731
        torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8, CLASSES)
    )
    issues = meta.label_issues((images, labels), **ONCE | {"student": student})
    assert issues.scores.shape == (30,)
    issues.plot(tmp_path / "images.png", count=5)
    assert (tmp_path / "images.png").read_bytes().startswith(b"\x89PNG")


def test_files_name_the_classes(tmp_path):
    inputs, labels = blobs(30)
    names = np.array(["ash", "birch", "cedar"])
    issues = meta.label_issues((inputs, names[labels]), **ONCE)
    issues.to_csv(tmp_path / "suspects.csv")
    with open(tmp_path / "suspects.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["sample"]) for line in lines] == issues.ranked().tolist()
    frame = issues.to_frame()
    assert [str(i) for i in frame.index] == [line["sample"] for line in lines]
    assert list(frame.columns) == list(lines[0])[1:]
    assert frame["given"].tolist() == [line["given"] for line in lines]
    assert repr(issues) == f"LabelIssues(samples=30, suspects={len(issues.suspects())}, classes=3)"
    first = issues.ranked()[0]
    assert lines[0]["given"] == names[labels[first]]
    assert lines[0]["likely"] == names[issues.likely[first]]
    issues.plot(tmp_path / "suspects.svg", count=3, shape=(2, 2))
    assert b"<svg" in (tmp_path / "suspects.svg").read_bytes()
    with pytest.raises(ValueError, match=r"are no images.*shape=\(8, 8\).*table.iloc"):
        issues.plot(tmp_path / "suspects.png")
    with pytest.raises(ValueError, match="shape must be a list of integers, found 4"):
        issues.plot(tmp_path / "suspects.png", shape=4)


def test_defaults_give_way_where_they_do_not_fit():
    inputs, labels = blobs(30)
    of_adam = {"optimizer": "adam", "learning_rate": 0.01}
    named, alone = meta.label_issues((inputs, labels), **ONCE | of_adam), {"name": "adam", "learning_rate": 0.01}
    together = meta.label_issues((inputs, labels), **ONCE | {"optimizer": alone})
    np.testing.assert_array_equal(named.scores, together.scores)


class NoLabels(Measure):
    """Of targets that are numbers."""

    def objective(self, outputs, targets):
        return -(outputs[:, 0] - targets).square().mean()

    def score(self, outputs, targets):
        return torch.zeros_like(outputs[0, 0])


X, Y = blobs(30)
OF_ANOTHER_POOL = {"loss": "bilinear", "pool_size": 30, "trusted_dev": 5, "imbalance": 3.0, "label_noise": 0.3}
"""Options of an environment under which the samples, their order or their labels are others than those given."""


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (X, {}, r"data: expected a pair \(inputs, targets\) or a Dataset .* found a ndarray"),
        ((X, Y[:20]), {}, "same number of samples"),
        ((X, np.zeros(30, int)), {}, "all samples have the label 0; expected at least two classes"),
        ((X, Y + 0.5), {}, r"labels such as 0.5 are no classes; expected whole numbers or texts"),
        ((X, np.eye(3)[Y]), {}, r"expected one a sample, \(n,\); labels.argmax\(1\)"),
        ((X, np.where(Y == 2, np.inf, Y)), {}, "labels such as inf are no classes"),
        ((X, np.where(Y == 2, 1e300, Y)), {}, r"labels such as 1e\+300 are no classes"),
        ((X, [f"patient {i}" for i in range(30)]), {}, "30 of the 30 classes have a single sample, .* identifiers"),
        ((X, np.arange(30) // 1.3 // 1), {}, "of the 23 classes have a single sample"),
        ((X[:0], Y[:0]), {}, "data: no samples; expected at least one"),
        ((X[:0], []), {}, "data: no samples; expected at least one"),
        ((X[:, 0], Y), {}, r"found samples that are single numbers; reshape to \(n, 1\)"),
        ((X[:, 0], Y), {"student": lambda: torch.nn.Linear(1, 3)}, r"reshape the inputs to \(n, 1\)"),
        (({"x": X}, Y), {}, "student 'mlp' takes one array, but samples of task 'samples' have the inputs 'x'"),
        (({"x": X}, Y), {"trusted": (X[:, :2], Y)}, "trusted: inputs are an array .* expected a dictionary of 'x'"),
        ((X, ["a", None, "b"] * 10), {}, "10 samples have no label, sample 1 first; leave them out"),
        (
            (X, "kind"),
            {},
            r"labels are 'kind', expected one a sample, .* of a table give the column itself, table\[\"label",
        ),
        ((np.where(X > 2, np.nan, X), Y), {}, "NaN or infinity"),
        ((X, Y), {"trusted": (X[:, :2], Y)}, r"shape \(4,\) in data but \(2,\) in trusted"),
        ((X, Y), {"trusted": (X, Y + 3)}, r"trusted: unknown label 3, expected one of \[0, 1, 2\]"),
        ((X, Y), {"trusted": (X, ["a"] * 30)}, "texts in one of data and trusted"),
        ((X, Y), {"folds": 1}, "folds must be"),
        ((X, Y), {"folds": 20}, "30 samples are too few for 20 folds"),
        *(
            ((X, Y), {name: value}, f"label_issues got an unexpected keyword argument '{name}'")
            for name, value in OF_ANOTHER_POOL.items()
        ),
        ((X, Y), {"learning_rat": 0.1}, "learning_rate"),
        ((X, Y), {"learning_rate": 1e30}, "diverge: choose a smaller learning_rate"),
        ((X, Y), {"batch_size": 25}, "batch_size=25 is larger than the 20 samples of a training run"),
        (
            Task("numbers", "made-up", (X, X[:, 0]), (X, X[:, 0]), 1, measure=NoLabels()),
            {},
            "do not have one label each; expected classification",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(data, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        meta.label_issues(data, **ONCE | options)
