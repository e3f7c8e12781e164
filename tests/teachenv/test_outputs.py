"""Networks whose answer is no tensor: tuples, dictionaries, data classes, outputs that only training has."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import meta
from teachenv import Task, TeachEnv

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = np.arange(40) % 3
TASK = Task("own", "own", (X[:30], Y[:30]), (X[30:], Y[30:]))
SETTINGS = {"task": TASK, "horizon": 2, "batch_size": 5, "dev_size": 10}
ACTION = np.full(9, 0.3, np.float32)


@dataclass
class Answer:
    hidden: torch.Tensor
    scores: torch.Tensor


class Network(nn.Module):
    """Two layers, and what `answer` makes of (logits, hidden layer, training)."""

    def __init__(self, answer):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)
        self.answer = answer

    def forward(self, x):
        hidden = self.first(x).tanh()
        return self.answer(self.second(hidden), self.third(hidden), self.training)


def plain(logits, auxiliary, training):
    return logits


def summed(logits, auxiliary, training):
    return logits + 0.3 * auxiliary if training else logits


ANSWERS = {
    "a tuple": (lambda z, a, t: (a, z), 1),
    "a list from its end": (lambda z, a, t: [a, z], -1),
    "a dictionary": (lambda z, a, t: {"hidden": a, "scores": z}, "scores"),
    "a place in a dictionary": (lambda z, a, t: {"hidden": a, "scores": z}, 1),
    "a data class": (lambda z, a, t: Answer(a, z), "scores"),
    "logits": (lambda z, a, t: {"hidden": a, "logits": z}, None),
    "a function": (lambda z, a, t: ((a,), {"z": z}), lambda answer: answer[1]["z"]),
    "a tuple in training alone": (lambda z, a, t: (z, a) if t else z, 0),
}


def trained(answer, output, **more):
    env = TeachEnv(**SETTINGS, student=lambda: Network(answer), output=output, **more)
    env.reset(seed=0)
    env.step(ACTION)
    return env


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_part_that_was_named_is_trained(kind):
    answer, output = ANSWERS[kind]
    found, expected = trained(answer, output), trained(plain, None)
    for name, parameter in expected.student.parameters.items():
        assert torch.equal(found.student.parameters[name], parameter)
    assert found.evaluate() == expected.evaluate()


def test_a_function_trains_auxiliary_outputs_too():
    found = trained(lambda z, a, t: (z, a) if t else z, lambda o: o[0] + 0.3 * o[1] if isinstance(o, tuple) else o)
    expected = trained(summed, None)
    untrained = trained(lambda z, a, t: (z, a) if t else z, 0)
    for name, parameter in expected.student.parameters.items():
        torch.testing.assert_close(found.student.parameters[name], parameter)
    assert not torch.equal(found.student.parameters["third.weight"], untrained.student.parameters["third.weight"])


def test_both_networks_of_a_pair_answer_so():
    action = np.full(5, 0.3, np.float32)
    pairs = []
    for answer, output in ((lambda z, a, t: (a, z), 1), (plain, None)):
        factory = lambda answer=answer: Network(answer)  # noqa: E731
        env = TeachEnv(**SETTINGS, student=factory, teacher=factory, loss="distillation", output=output)
        env.reset(seed=0)
        env.step(action)
        pairs.append(env)
    assert pairs[0].evaluate() == pairs[1].evaluate()


def test_a_training_of_ones_own_names_its_output():
    options = {"data": (X[:30], Y[:30]), "steps": 2, "batch_size": 5}
    scores = []
    for answer, output in (ANSWERS["a tuple"], (plain, None)):
        own = meta.OwnTraining(module=lambda answer=answer: Network(answer), output=output, **options)
        scores.append(meta.attribute(own, (X[30:], Y[30:])))
    assert np.array_equal(scores[0].values, scores[1].values)


@pytest.mark.parametrize(
    ("answer", "output", "message"),
    [
        (
            lambda z, a, t: (a, z),
            None,
            "returns tuple of Tensor, Tensor in training mode, .*as output=0, output='name'",
        ),
        (lambda z, a, t: (a, z), 2, "returns tuple of Tensor, Tensor in training .* a tensor as its part 2"),
        (lambda z, a, t: {"scores": z}, "score", "returns dict with keys 'scores' in .* as its part 'score'"),
        (lambda z, a, t: z if t else {"s": z}, 3, "returns dict with keys 's' in evaluation mode"),
        (
            lambda z, a, t: (a, z),
            lambda answer: None,
            "output of the student Network makes NoneType of what it returns",
        ),
        (lambda z, a, t: (a, z), lambda answer: answer[7], "fails on inputs .*index out of range"),
    ],
)
def test_an_answer_without_the_part_is_described(answer, output, message):
    with pytest.raises(ValueError, match=message):
        trained(answer, output)


def test_networks_by_name_have_no_parts():
    with pytest.raises(ValueError, match="output=1 has no effect with networks by name"):
        TeachEnv(**SETTINGS, student="mlp", output=1)
