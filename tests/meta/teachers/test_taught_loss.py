"""A learned loss in a plain training loop, and on disk."""

import json
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from agents import DDPG, PPO, SAC, TD3
from meta import RMD, ConstantTeacher, EvolutionStrategies, FiniteDifference, TaughtLoss
from teachenv import LossFamily, TeachEnv, TeachVectorEnv, checkpoints

SETTINGS = {"horizon": 12, "steps_per_action": 3, "learning_rate": 0.3, "loss_kwargs": {"scale": 0.5}}
TEACHERS = [RMD, FiniteDifference, EvolutionStrategies, DDPG, TD3, SAC, PPO]


def taught(teacher=RMD, policy="AttentionPolicy", **changes):
    """A teacher that is far from the zero action."""
    model = teacher(policy, TeachVectorEnv(4, **SETTINGS | changes), seed=0)
    with torch.no_grad():
        for parameter in model.actor_network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def network(state):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    module.load_state_dict(state)
    return module


def plain_loop(env, loss, told=None):
    """A PyTorch loop over the environment's minibatches that knows nothing else of it: (network, losses)."""
    settings, episode, task = env.problem.settings, env.episode, env.problem.task
    module = network(env.student.parameters)
    optimizer = torch.optim.SGD(module.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    inputs, labels = task.pool
    dev = inputs[episode.dev], labels[episode.dev]
    with torch.no_grad():
        first = episode.batches[0]
        accuracies = [(module(inputs[first]).argmax(1) == labels[first]).float().mean().item()]
    losses = []
    for t in range(settings.horizon):
        if t % loss.config["steps_per_action"] == 0:
            measured = {"progress": t / settings.horizon, "train_accuracy": float(np.mean(accuracies))}
            with torch.no_grad():
                measured |= loss.measure(module(dev[0]), dev[1])
            loss.tell(**measured)
            if told is not None:
                told.append(measured)
            accuracies = []
        rows = episode.batches[t]
        outputs = module(inputs[rows])
        accuracies.append((outputs.argmax(1) == labels[rows]).float().mean().item())
        value = loss(outputs, labels[rows])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return module, losses


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("policy", ["AttentionPolicy", "MlpPolicy"])
@pytest.mark.parametrize("family", ["bilinear", "mixture"])
def test_a_plain_loop_follows_the_environments_episode(teacher, policy, family, tmp_path):
    options = {"loss_kwargs": {"components": ["cross-entropy", "brier", "hinge"]}} if family == "mixture" else {}
    model = taught(teacher, policy, loss=family, **options)
    TaughtLoss.of(model).save(tmp_path / "loss")
    loss = TaughtLoss.load(tmp_path / "loss")

    env = TeachEnv(**SETTINGS | {"loss": family} | options)
    observation, _ = env.reset(seed=5)
    told = []
    module, losses = plain_loop(env, loss, told)
    seen = []
    for measured in told:
        expected = [*list(measured.values())[:3], *measured["dev_precision"]]
        np.testing.assert_allclose(observation, expected, rtol=0, atol=1e-6)
        action = model.predict(observation, deterministic=True)[0]
        assert np.abs(action).max() > 0.1
        observation, *_, info = env.step(action)
        seen.append(info["train_loss"])
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter, env.student.parameters[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.mean(np.reshape(losses, (4, 3)), 1), seen, rtol=1e-4)


def test_another_process_gets_bitwise_the_same(in_new_process, tmp_path):
    loss = TaughtLoss.of(taught())
    loss.save(tmp_path)
    program = f"""
import torch
from meta import TaughtLoss
loss = TaughtLoss.load({str(tmp_path)!r})
loss.tell(progress=0.25, train_accuracy=0.5, dev_accuracy=0.4, dev_precision=[0.3] * 10)
logits = torch.linspace(-2, 2, 40).view(4, 10).requires_grad_()
loss(logits, torch.tensor([3, 1, 4, 1])).backward()
print(logits.grad.numpy().tobytes().hex())
"""
    loss.tell(progress=0.25, train_accuracy=0.5, dev_accuracy=0.4, dev_precision=[0.3] * 10)
    logits = torch.linspace(-2, 2, 40).view(4, 10).requires_grad_()
    loss(logits, torch.tensor([3, 1, 4, 1])).backward()
    assert in_new_process(program).strip() == logits.grad.numpy().tobytes().hex()


def test_only_the_student_learns():
    loss = TaughtLoss.of(taught())
    assert not any(p.requires_grad for p in loss.parameters())
    model = taught()
    loss = TaughtLoss.of(model)
    before = {name: p.clone() for name, p in loss.actor.state_dict().items()}
    model.learn(4 * 4)  # a copy, which later learning leaves alone
    assert all(torch.equal(before[name], p) for name, p in loss.actor.state_dict().items())


def test_the_config_says_where_the_loss_comes_from(tmp_path):
    TaughtLoss.of(taught()).save(tmp_path)
    with zipfile.ZipFile(tmp_path / "taught_loss.zip") as archive:
        config = json.loads(archive.read("value.json"))["value"]["config"]
    assert (config["loss"], config["task"], config["dataset"], config["steps_per_action"]) == (
        "bilinear",
        "digits",
        "digits",
        3,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taught_loss.zip"]


class Own(LossFamily):
    def action_size(self, num_outputs, batch_size):
        return 1

    def __call__(self, action, prediction, targets):
        return torch.nn.functional.cross_entropy(prediction.outputs, targets) * (1 + action.sum())


def test_losses_that_cannot_leave_are_refused():
    changes = {"loss": "sample-weights", "loss_kwargs": {}}
    with pytest.raises(ValueError, match="belong to single samples or domains"):
        TaughtLoss.of(RMD("AttentionPolicy", TeachVectorEnv(2, **SETTINGS | changes)))


PROGRESS = {"progress": 0.5, "train_accuracy": 0.3, "dev_accuracy": 0.4, "dev_precision": [0.2] * 10}


def told(loss):
    loss.tell(**PROGRESS)
    return loss


def test_a_family_of_ones_own_is_handed_to_the_file(tmp_path):
    model, family = taught(loss=Own(), loss_kwargs={}), Own()
    loss = told(TaughtLoss.of(model))
    loss.save(tmp_path)
    again = told(TaughtLoss.load(tmp_path, family=family))
    outputs, labels = torch.randn(6, 10), torch.arange(6)
    value = again(outputs, labels)
    assert value == loss(outputs, labels)
    assert value != nn.functional.cross_entropy(outputs, labels)
    with pytest.raises(ValueError, match=r"its loss is your own, which load\(path, family=...\) is given"):
        TaughtLoss.load(tmp_path)
    TaughtLoss.of(taught()).save(tmp_path / "named")
    with pytest.raises(ValueError, match="its loss is bilinear, found family="):
        TaughtLoss.load(tmp_path / "named", family=family)


@pytest.mark.parametrize("loss_kwargs", [{"scale": 0.5}, None])
def test_targets_that_are_ignored_count_for_nothing(loss_kwargs):
    model = taught() if loss_kwargs else taught(loss=Own(), loss_kwargs={})
    loss, other = told(TaughtLoss.of(model)), told(TaughtLoss.of(model, ignore_index=7, reduction="sum"))
    outputs = torch.randn(6, 10).requires_grad_()
    labels = torch.tensor([1, -100, 3, 2, -100, 5])
    kept = [0, 2, 3, 5]
    expected = loss(outputs[kept], labels[kept])
    found = loss(outputs, labels)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, outputs)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, outputs)[0])
    assert (gradient[[1, 4]] == 0).all()
    torch.testing.assert_close(other(outputs, labels.where(labels >= 0, 7)), 4 * expected)
    nothing = loss(outputs, torch.full((6,), -100))
    assert nothing == 0
    assert (torch.autograd.grad(nothing, outputs)[0] == 0).all()
    tokens = outputs.view(2, 3, 10).movedim(-1, 1)
    torch.testing.assert_close(loss(tokens, labels.view(2, 3)), expected)


def test_what_a_taught_loss_does_not_take_is_said():
    loss = told(TaughtLoss.of(taught()))
    with pytest.raises(ValueError, match="found logits of 7 classes, expected 10"):
        loss(torch.zeros(3, 7), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"found targets of shape \(2,\) for logits of shape \(3, 10\)"):
        loss(torch.zeros(3, 10), torch.zeros(2, dtype=torch.int64))
    for wrong, message in (({"reduction": "none"}, "reduction"), ({"ignore_index": 0.5}, "ignore_index must be")):
        with pytest.raises(ValueError, match=message):
            TaughtLoss.of(taught(), **wrong)


OF_EACH_KIND = ["bilinear", "class-weights", "diagonal", "dynamic-network", "mixture"]


@pytest.mark.parametrize("family", OF_EACH_KIND)
@pytest.mark.parametrize("ignore_index", [-100, 3])
def test_targets_that_are_no_classes_are_refused(family, ignore_index):
    options = {"components": ["cross-entropy", "brier"]} if family == "mixture" else {}
    loss = told(TaughtLoss.of(taught(policy="MlpPolicy", loss=family, loss_kwargs=options), ignore_index=ignore_index))
    outputs, labels = torch.randn(6, 10), torch.tensor([0, 1, ignore_index, 4, 5, 9])
    assert loss(outputs, labels).isfinite()
    for label, found in ((-1, "from -1 to 9"), (10, "from 0 to 10")):
        wrong = labels.clone()
        wrong[1] = label
        for call in (loss, loss.measure):
            with pytest.raises(ValueError, match=f"found targets {found}, expected 0 to 9, or ignore_index="):
                call(outputs, wrong)


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (torch.zeros(2, 10), torch.zeros(2), r"found targets of torch\.float32, expected torch\.int64"),
        (torch.zeros(2, 10), torch.zeros(2, dtype=torch.int32), r"targets\.long\(\)"),
        (torch.zeros(2, 10), torch.zeros(2, dtype=torch.bool), r"targets\.long\(\)"),
        (torch.zeros(2, 10), np.zeros(2, dtype=np.int64), "found targets of type ndarray"),
        (torch.zeros(2, 10), [0, 1], "found targets of type list"),
        (np.zeros((2, 10)), torch.zeros(2, dtype=torch.int64), "found logits of type ndarray"),
    ],
)
def test_logits_and_targets_of_other_types_are_refused(outputs, targets, message):
    loss = told(TaughtLoss.of(taught()))
    for call in (loss, loss.measure):
        with pytest.raises(TypeError, match=message):
            call(outputs, targets)


def test_other_policies_and_teachers_without_environment_are_refused(tmp_path):
    constant = ConstantTeacher("ConstantPolicy", TeachVectorEnv(2, **SETTINGS))
    with pytest.raises(ValueError, match="expected that of an AttentionPolicy or MlpPolicy"):
        TaughtLoss.of(constant)
    taught().save(tmp_path / "model")
    with pytest.raises(ValueError, match="load it with env="):
        TaughtLoss.of(RMD.load(tmp_path / "model"))


def test_an_object_without_what_a_teacher_has_is_refused_in_one_line():
    with pytest.raises(TypeError, match="found a Linear without predict and env and actor_network") as error:
        TaughtLoss.of(nn.Linear(2, 2))
    assert "\n" not in str(error.value)


class OwnTeacher:
    """A user's, with what the protocol `HasActor` says and nothing more."""

    def __init__(self):
        model = taught()
        self.env, self.actor_network = model.env, model.actor_network

    def predict(self, observation, deterministic=True):
        return self.actor_network(torch.as_tensor(observation)).detach().numpy(), None


def test_the_loss_of_a_teacher_of_ones_own():
    own = OwnTeacher()
    loss = TaughtLoss.of(own)
    for name, weights in own.actor_network.state_dict().items():
        assert torch.equal(loss.actor.state_dict()[name], weights)


def test_bad_calls_are_explained():
    loss = TaughtLoss.of(taught())
    logits, labels = torch.zeros(4, 10), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="call tell"):
        loss(logits, labels)
    told = {"progress": 0.0, "train_accuracy": 0.1, "dev_accuracy": 0.1, "dev_precision": [0.1] * 10}
    with pytest.raises(ValueError, match="found 9 precisions, expected one for each of 10"):
        loss.tell(**told | {"dev_precision": [0.1] * 9})
    for wrong in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"fractions in \[0, 1\]"):
            loss.tell(**told | {"dev_accuracy": wrong})
    loss.tell(**told)
    with pytest.raises(ValueError, match="logits of 7 classes, expected 10"):
        loss(torch.zeros(4, 7), labels)
    margin = TaughtLoss.of(taught(loss="mixture", loss_kwargs={}))
    margin.tell(**told)
    with pytest.raises(ValueError, match="pass features and head_weight"):
        margin(logits, labels)


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"taught_loss\.zip is not there; expected a folder"):
        TaughtLoss.load(tmp_path)
    loss = TaughtLoss.of(taught())
    loss.save(tmp_path)
    good = (tmp_path / "taught_loss.zip").read_bytes()
    for damaged in (b"", good[:50], good[:-30], b"{}"):
        (tmp_path / "taught_loss.zip").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"taught_loss\.zip (is empty|is damaged|holds no taught loss)"):
            TaughtLoss.load(tmp_path)
    loss.config["format"] = 9
    loss.save(tmp_path)
    with pytest.raises(ValueError, match="its format is 9"):
        TaughtLoss.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {}}, "no taught loss that can be read: it has no weights"),
        ({"weights": []}, "no taught loss that can be read"),
        ({"config": {"format": 1}}, "no taught loss that can be read: 'loss'"),
    ],
)
def test_a_file_that_lacks_something_is_refused(changes, message, tmp_path):
    loss = TaughtLoss.of(taught())
    content = {"config": loss.config, "weights": dict(loss.actor.state_dict())}
    checkpoints.save(tmp_path / "taught_loss.zip", content | changes, "a taught loss")
    with pytest.raises(ValueError, match=message):
        TaughtLoss.load(tmp_path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(value, tmp_path):
    loss = TaughtLoss.of(taught())
    loss.save(tmp_path)
    loss.actor.keys.weight.data[0, 0] = value
    with pytest.raises(ValueError, match=r"this loss has weights that are not finite \(keys.weight\)"):
        loss.save(tmp_path)
    TaughtLoss.load(tmp_path)
    content = {"config": loss.config, "weights": dict(loss.actor.state_dict())}
    checkpoints.save(tmp_path / "taught_loss.zip", content, "a taught loss")
    with pytest.raises(ValueError, match=r"taught_loss.zip has weights that are not finite \(keys.weight\)"):
        TaughtLoss.load(tmp_path)


def test_ignored_targets_are_not_measured():
    loss = TaughtLoss.of(taught(), ignore_index=7)
    rng = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(40, 10, generator=rng), torch.arange(40) % 10
    counts = labels != 7
    wanted = loss.measure(outputs[counts], labels[counts])
    assert loss.measure(outputs, labels) == wanted
    # Of images, classes are the second dimension.
    images = outputs.view(4, 10, 10).movedim(2, 1)
    assert loss.measure(images, labels.view(4, 10)) == wanted
    with pytest.raises(ValueError, match="found logits of 9 classes, expected 10"):
        loss.measure(outputs[:, :9], labels)
    with pytest.raises(ValueError, match="found targets of ignore_index=7 alone"):
        loss.measure(outputs[~counts], labels[~counts])
