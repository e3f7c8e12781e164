"""What a measure gives in one go is made of its methods, whichever of them a subclass overrides."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import teachenv
import teachenv.tasks.boxes
import teachenv.tasks.language
import teachenv.tasks.segmentation
import teachenv.tasks.translation
from teachenv.tasks.measures import Measure


def kinds(kind: type[Measure] = Measure) -> Iterator[type[Measure]]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("teachenv.") and not each.__abstractmethods__:
            yield each
        yield from kinds(each)


KINDS = sorted({*kinds()}, key=lambda kind: kind.__name__)


def test_all_kinds_are_there() -> None:
    assert {"ClassificationMeasure", "DetectionMeasure", "LanguageMeasure", "MultiLabel", "TranslationMeasure"} <= {
        kind.__name__ for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_subclass_is_asked_for_what_it_overrides(kind: type[Measure]) -> None:
    overridden = {
        "objective": lambda self, outputs, targets: outputs.sum(),
        "score": lambda self, outputs, targets: outputs.max(),
        "features": lambda self, outputs, targets: outputs[:1],
        "report": lambda self, outputs, targets: {"mine": 3.0},
    }
    measure = object.__new__(type("Mine", (type("Between", (kind,), overridden),), {}))
    outputs, targets = torch.tensor([0.5, 0.25]), torch.tensor([0, 1])
    score, features = measure.assess(outputs, targets)
    assert (float(score), features.tolist()) == (0.5, [0.5])
    objective, score, features = measure.judge(lambda inputs: inputs, outputs, targets)
    assert (float(objective), float(score), features.tolist()) == (0.75, 0.5, [0.5])
    assert float(measure.objective_of(lambda inputs: inputs, outputs, targets)) == 0.75
    assert measure.report_of(lambda inputs: inputs, outputs, targets) == {"mine": 3.0}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_shares_work_stays_where_nothing_else_is_overridden(kind: type[Measure]) -> None:
    mine = type("Mine", (kind,), {})
    for name in ("assess", "judge", "objective_of", "report_of"):
        assert getattr(mine, name) is getattr(kind, name)


def test_a_part_that_calls_the_whole_gets_the_inherited_one() -> None:
    class Errors(teachenv.ClassificationMeasure):
        def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return 1 - self.assess(outputs, targets)[0]

    outputs, targets = torch.eye(4)[:, :3], torch.tensor([0, 1, 2, 2])
    accuracy = teachenv.ClassificationMeasure(3).score(outputs, targets)
    for _ in range(2):
        assert Errors(3).assess(outputs, targets)[0] == 1 - accuracy


class Recall(teachenv.ClassificationMeasure):
    """Accuracy averaged over classes: a rare class counts as much as a common one."""

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        right = (outputs.argmax(-1) == targets).to(outputs.dtype)
        each = [right[targets == c].mean() for c in range(self.num_classes)]
        return torch.stack(each).mean()


def test_an_environment_shows_the_score_that_a_subclass_defines() -> None:
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [100, 30, 20])
    x = (random.normal(size=(150, 4)) + y[:, None]).astype(np.float32)
    order = random.permutation(150)
    split = x[order], y[order]
    task = teachenv.Task("own", dataset="own", pool=split, test=split, num_outputs=3, measure=Recall(3))
    env = teachenv.TeachEnv(task=task, student="mlp", horizon=3, dev_size=60, batch_size=50)
    env.reset(seed=0)
    for _ in range(3):
        *_, info = env.step(np.zeros(env.action_space.shape, np.float32))
    outputs = torch.as_tensor(env.predict(x[order]))
    expected = float(Recall(3).score(outputs, torch.as_tensor(y[order])))
    assert env.evaluate("test")["test_accuracy"] == pytest.approx(expected, abs=1e-6)
    assert expected != pytest.approx(float((outputs.argmax(-1) == torch.as_tensor(y[order])).float().mean()), abs=1e-3)
    assert info["dev_accuracy"] >= 0
