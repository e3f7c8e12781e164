"""Pieces of a user's own that do not keep their contract: each is one clear error when the environment is made."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import meta
import teachenv
from teachenv.optimizers import OPTIMIZERS, Entry, Optimizer, along
from teachenv.students import Prediction
from teachenv.tasks.decisions import Decided, Decisions

SMALL = {"batch_size": 8, "dev_size": 40, "horizon": 4}
X = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
LABELS = np.arange(90) % 2
PRIVATE = np.random.default_rng(1)


def task(y=LABELS, outputs=2, **parts):
    return teachenv.Task("own", "own", (X, y), (X[:9], y[:9]), outputs, **parts)


class Temperature(teachenv.LossFamily):
    """Cross-entropy at a temperature."""

    def action_size(self, num_outputs, batch_size):
        return 1

    def __call__(self, action, prediction, targets):
        return F.cross_entropy(prediction.outputs / 2.0**action, targets)


class Accuracy(teachenv.Measure):
    def objective(self, outputs, targets):
        return -F.cross_entropy(outputs, targets)

    def score(self, outputs, targets):
        return (outputs.argmax(-1) == targets).float().mean()


class Plain(Optimizer):
    """Gradient descent."""

    needs_gradient = True

    def __init__(self, weight_decay=0.0):
        pass

    def init(self, parameters):
        return {}

    def update(self, parameters, gradient, slots, rate, step=0, out=None):
        return {n: p - along(rate, p) * gradient[n] for n, p in parameters.items()}, slots

    def reverse(self, d_parameters, d_slots, rate, step=0, parameters=None, gradient=None, slots=None):
        return {n: -along(rate, d) * d for n, d in d_parameters.items()}, d_parameters, d_slots


class Counting(Plain):
    """Counts its steps in a slot that belongs to no parameter."""

    def init(self, parameters):
        return {"count": torch.zeros(())}

    def update(self, parameters, gradient, slots, rate, step=0, out=None):
        return super().update(parameters, gradient, slots, rate)[0], {"count": slots["count"] + 1}


def own(base, **methods):
    """An object of a class that differs from another one in some methods."""
    return type(base.__name__, (base,), methods)()


def refused(settings, message, make=teachenv.TeachEnv):
    """The environment is refused, in one line, and the global generators stay where they were."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    with pytest.raises(ValueError, match=message) as error:
        make(**(SMALL | settings))
    assert len(str(error.value).splitlines()) == 1
    drawn = torch.rand(2), np.random.rand(2)  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    assert torch.equal(drawn[0], torch.rand(2))
    assert np.array_equal(drawn[1], np.random.rand(2))  # noqa: NPY002


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (lambda x, rng: x + torch.randn_like(x), "draws from the global generator of torch.*draw from the rng"),
        (lambda x, rng: x + float(np.random.rand()), "draws from the global generator of NumPy"),  # noqa: NPY002
        (lambda x, rng: x + float(PRIVATE.random()), "something else in a second call"),
        (lambda x, rng: x.numpy(), r"returns a NumPy array of shape \(8, 4\), expected"),
        (lambda x, rng: x.double(), "type float64, expected"),
        (lambda x, rng: x[:4], r"returns a tensor of shape \(4, 4\)"),
        (lambda x, rng: (x, x), "returns 2 values"),
        (lambda x: x, "fails with TypeError"),
    ],
)
def test_an_augmentation_is_a_function_of_inputs_and_rng(augment, message):
    refused({"task": task(augment=augment)}, f"^the augmentation of task 'own' .*{message}")
    assert teachenv.TeachEnv(task=task(augment=augment), augment=False, **SMALL).dynamics.known_pure


@pytest.mark.parametrize(
    ("trim", "message"),
    [
        (lambda x, y: x, "expected two tensors"),
        (lambda x, y: (x.numpy(), y), "as inputs a NumPy array"),
        (lambda x, y: (x, y[:4]), r"as targets a tensor of shape \(4,\)"),
        (lambda x, y: (x + torch.rand(()), y), "draws from the global generator"),
    ],
)
def test_a_trim_keeps_samples_and_draws_nothing(trim, message):
    refused({"task": task(trim=trim)}, f"^the trim of task 'own' .*{message}")


def test_a_trim_counts_dimensions_from_the_end():
    cut = task(trim=lambda x, y: (x[:, :3], y))
    refused({"task": cut, "num_envs": 2}, "minibatches of two students", teachenv.TeachVectorEnv)
    teachenv.TeachVectorEnv(2, task=task(trim=lambda x, y: (x[..., :4], y)), **SMALL).reset(seed=0)


@pytest.mark.parametrize("part", ["augment", "trim"])
def test_data_that_a_function_of_a_users_changes_is_not_known_to_be_pure(part):
    function = {"augment": lambda x, rng: x + rng.random(), "trim": lambda x, y: (x, y)}[part]
    assert teachenv.TeachEnv(task=task(), **SMALL).dynamics.known_pure
    assert not teachenv.TeachEnv(task=task(**{part: function}), **SMALL).dynamics.known_pure


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda *a: F.cross_entropy(a[2].outputs, a[3], reduction="none"), r"shape \(8,\).*losses.mean"),
        (lambda *a: F.cross_entropy(a[2].outputs, a[3]) / 2.0 ** a[1], r"shape \(1,\)"),
        (lambda *a: 1.0, "is 1.0, expected a tensor"),
        (lambda *a: None, "is None, expected a tensor"),
        (lambda *a: F.cross_entropy(a[2].outputs, a[3]).detach(), "does not depend on the student"),
        (lambda *a: F.cross_entropy(a[2].outputs.double(), a[3]), "is of torch.float64, expected torch.float32"),
        (lambda *a: a[2].logits.mean(), "fails with AttributeError"),
        (lambda *a: F.cross_entropy(a[2].outputs, a[3]) * torch.rand(()), "draws from the global generator"),
    ],
)
def test_a_loss_is_a_scalar_with_a_gradient(method, message):
    loss = own(Temperature, __call__=method)
    refused({"task": task(), "loss": loss}, f"loss Temperature .*{message}")
    refused({"task": task(), "loss": loss, "num_envs": 8}, message, teachenv.TeachVectorEnv)


@pytest.mark.parametrize("size", [-1, 1.0, None, (1,)])
def test_the_size_of_an_action_is_a_number_of_coordinates(size):
    loss = own(Temperature, action_size=lambda self, num_outputs, batch_size: size)
    refused({"task": task(), "loss": loss}, "action_size of loss Temperature must be an integer")


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (lambda self: (), "expected pairs"),
        (lambda self: None, "expected pairs"),
        (lambda self: (self,), "expected pairs"),
        (lambda self: ((self, None),), "expected pairs"),
        (lambda self: (("bilinear", ""),), "expected pairs"),
        (lambda self: ((self, "body."),), "no parameter's name begins with 'body.'; choose among"),
        (lambda self: ((self, ""), (self, "1.")), "'1.weight' begins with both '' and '1.'"),
    ],
)
def test_sides_move_each_parameter_once_at_most(sides, message):
    refused({"task": task(), "loss": own(Temperature, sides=sides)}, rf"^sides\(\) of loss Temperature.*{message}")


def test_parameters_that_no_side_moves_stay_and_are_differentiated_through():
    settings = {"task": task(), "dtype": "float64", "loss": own(Temperature, sides=lambda self: ((self, "3."),))}
    env = meta.ActionGradient(teachenv.TeachEnv(**settings, **SMALL))
    actions = np.random.default_rng(0).uniform(-0.9, 0.9, (4, 1))

    def taught(actions):
        env.reset(seed=0)
        before = env.unwrapped.student.parameters
        steps = [env.step(action) for action in actions]
        return sum(step[1] for step in steps), steps[-1][-1]["action_gradient"], before

    _, gradient, before = taught(actions)
    after = env.unwrapped.student.parameters
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"3.weight", "3.bias"}
    shift = np.zeros((4, 1))
    shift[1] = 1e-5
    difference = (taught(actions + shift)[0] - taught(actions - shift)[0]) / 2e-5
    assert gradient[1, 0] == pytest.approx(difference, rel=1e-4)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"objective": lambda self, z, y: F.cross_entropy(z, y, reduction="none")}, r"objective .* shape \(8,\)"),
        ({"objective": lambda self, z, y: 1.0}, "objective .* is 1.0, expected a tensor"),
        ({"objective": lambda self, z, y: z.double().mean()}, "objective .* is of torch.float64"),
        ({"objective": lambda self, z, y: z.logits}, "objective .* fails with AttributeError"),
        ({"score": lambda self, z, y: z.mean() * 0 + 6}, r"score .* is 6, expected numbers in \[0, 1\]"),
        ({"score": lambda self, z, y: (z.argmax(-1) == y).float()}, r"score .* shape \(8,\)"),
        ({"score": lambda self, z, y: 0.5}, "score .* is 0.5, expected a tensor"),
        ({"feature_names": ("a", "b"), "features": lambda self, z, y: z.new_zeros(1)}, r"features .* shape \(1,\)"),
        ({"feature_names": ("a",), "features": lambda self, z, y: z.new_zeros(1) - 3}, "features .* contain -3"),
        ({"feature_names": lambda self: ("a",)}, "feature_names .* is a method, expected a tuple of names"),
        ({"reported": ("error",)}, "report .* lacks 'error'"),
        ({"reported": "error"}, "reported .* is 'error', expected a tuple"),
        ({"score_name": None}, "score_name .* is None"),
    ],
)
def test_a_measure_keeps_its_contract(parts, message):
    refused({"task": task(measure=own(Accuracy, **parts))}, message)


class Pairs(Decisions):
    """Two decisions a sample."""

    def output_shape(self, num_classes, target_shape):
        return (num_classes, *target_shape)

    def measure(self, num_classes, temperature):
        return Accuracy()

    def __call__(self, prediction, targets):
        return Decided(Prediction(prediction.outputs.transpose(1, 2).flatten(0, 1)), targets.flatten(), None)


def paired(**methods):
    labels = np.stack([LABELS, 1 - LABELS], 1)
    network = {"student": lambda: nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2)))}
    return {"task": task(labels, decisions=own(Pairs, **methods))} | network


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"output_shape": lambda *a: 4}, "output_shape .* is 4, expected the shape"),
        ({"output_shape": lambda *a: (2.0, 2)}, r"output_shape .* is \(2.0, 2\), expected the shape"),
        ({"measure": lambda *a: None}, "is None, expected a teachenv.Measure"),
        ({"measure": lambda *a: own(Accuracy, score=lambda self, z, y: 3.0)}, "score of measure Accuracy is 3.0"),
        ({"__call__": lambda self, p, y: (p, y)}, "return 2 values .*expected a Decided"),
        ({"__call__": lambda self, p, y: Decided(p, y, None)}, r"logits of shape \(8, 2, 2\) of 8 samples"),
        ({"__call__": lambda self, p, y: Decided(p.outputs, y, None)}, "as prediction, expected a Prediction"),
        ({"__call__": lambda self, p, y: Decided(Prediction(p.outputs[:, 0]), y, None)}, r"shape \(8, 2\).* as labels"),
        ({"__call__": lambda self, p, y: Decided(Prediction(p.outputs[:, 0]), y[:, 0], 1.0)}, "the rest .* is 1.0"),
    ],
)
def test_decisions_keep_their_contract(methods, message):
    teachenv.TeachEnv(**paired(), **SMALL)
    refused(paired(**methods), message)


def test_an_objective_without_a_derivative_is_for_teachers_without_gradients():
    measure = own(Accuracy, objective=lambda self, z, y: (z.argmax(-1) == y).to(z.dtype).mean())
    env = meta.ActionGradient(teachenv.TeachEnv(task=task(measure=measure), **SMALL))
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, dtype=np.float32)
    assert not any(env.step(action)[2] for _ in range(3))
    with pytest.raises(ValueError, match=r"the objective has no derivative .* uses no gradients"):
        env.step(action)


def test_a_measure_without_memory():
    calls = itertools.count()
    measure = own(Accuracy, objective=lambda self, z, y: z.mean() + next(calls))
    refused({"task": task(measure=measure)}, "returns something else in a second call")


class Regression(teachenv.Measure):
    def objective(self, outputs, targets):
        return -(outputs - targets).square().mean()

    def score(self, outputs, targets):
        return 1 / (1 + (outputs - targets).square().mean())


@pytest.mark.parametrize("loss", [None, "class-weights", "diagonal", "mixture", "dynamic-network", "sample-weights"])
def test_a_loss_of_labels_is_not_for_numbers(loss):
    chosen = {} if loss is None else {"loss": loss}
    regression = task(X.sum(1, keepdims=True), 1, measure=Regression())
    refused({"task": regression} | chosen, "is for class labels.*, but targets .*float32.*fixed\\(.squared-error")


def test_a_loss_of_labels_is_named_with_the_loss_that_it_weighs():
    chosen = {"loss": "sample-weights", "loss_kwargs": {"base": "focal"}}
    regression = task(X.sum(1, keepdims=True), 1, measure=Regression())
    refused(
        {"task": regression} | chosen, "loss='sample-weights' with loss_kwargs={'base': 'focal'} is for class labels"
    )


def test_numbers_are_learnt_by_a_loss_that_fits_and_without_a_warm_start():
    regression = task(X.sum(1, keepdims=True), 1, measure=Regression())
    fits = {"task": regression, "loss": "sample-weights", "loss_kwargs": {"base": "squared-error"}}
    refused(fits | {"warm_start": 2}, "warm_start=2 takes steps of cross-entropy.*leave it at 0")
    env = teachenv.TeachEnv(**fits, learning_rate=0.01, **SMALL)
    env.reset(seed=0)
    assert env.step(np.zeros(8, dtype=np.float32))[1] > 0


@pytest.fixture
def registered(monkeypatch):
    """Registers an optimiser under the name `"own"`."""

    def register(base=Plain, **parts):
        monkeypatch.setitem(OPTIMIZERS, "own", Entry(type("Own", (base,), parts)))
        return {"task": task(), "optimizer": "own"}

    return register


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"needs_gradient": None}, "does not say whether its reverse reads the gradient"),
        ({"init": lambda self, p: None}, "init returns None, expected a dict"),
        ({"update": lambda self, p, g, s, rate, step=0, out=None: p}, "update returns a dict, expected two"),
        (
            {"update": lambda self, p, g, s, rate, step=0, out=None: ({n: t.sub_(g[n]) for n, t in p.items()}, s)},
            "update changes its parameters",
        ),
        (
            {"update": lambda self, p, g, s, rate, step=0, out=None: ({n: t.double() for n, t in p.items()}, s)},
            "update returns as parameters 'layer.weight' a tensor .* float64",
        ),
        ({"reverse": lambda self, *rest: None}, "reverse returns None.*raise NotImplementedError"),
        (
            {
                "needs_gradient": False,
                "reverse": lambda self, d, s, rate, step, p, g, old: ({n: t * g[n] for n, t in d.items()}, d, s),
            },
            "reverse fails with TypeError.*set needs_gradient = True",
        ),
    ],
)
def test_an_optimizer_keeps_its_contract(registered, parts, message):
    refused(registered(**parts), f"^optimizer 'own'.*{message}")


def test_a_slot_of_no_parameter_is_for_one_student_and_one_loss(registered):
    settings = registered(Counting)
    env = teachenv.TeachEnv(**settings, **SMALL)
    env.reset(seed=0)
    env.step(np.zeros(4, dtype=np.float32))
    assert env.student.slots["count"] == 1
    refused(settings | {"teacher": "mlp", "loss": "distillation"}, "slot 'count' that is not named after a parameter")
    refused(settings | {"num_envs": 2}, "slot 'count' .* expected a leading dimension 2", teachenv.TeachVectorEnv)


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (lambda rate, g: along(rate, g) * g / g.norm(), "with one rate, leads elsewhere than of each alone"),
        (lambda rate, g: rate * g, "tensor of shape .*teachenv.optimizers.along"),
    ],
)
def test_an_optimizer_of_many_students_moves_each_as_if_alone(registered, direction, message):
    def update(self, parameters, gradient, slots, rate, step=0, out=None):
        return {n: p - direction(rate, gradient[n]) for n, p in parameters.items()}, slots

    settings = registered(update=update)
    teachenv.TeachEnv(**settings, **SMALL)
    refused(settings | {"num_envs": 2}, message, teachenv.TeachVectorEnv)


def test_an_optimizer_without_a_reverse_rule_trains(registered):
    def reverse(self, *arguments):
        raise NotImplementedError

    env = teachenv.TeachEnv(**registered(reverse=reverse), **SMALL)
    env.reset(seed=0)
    assert np.isfinite(env.step(np.zeros(4, dtype=np.float32))[1])
    assert not env.dynamics.known_pure


def test_pieces_of_this_package_are_not_tried(monkeypatch):
    def tried(*arguments, **options):
        raise AssertionError

    for name in ("_minibatch", "OptimizerTrial", "try_loss", "try_measure"):
        monkeypatch.setattr(teachenv.trial, name, tried)
    teachenv.TeachVectorEnv(2, task=task(), **SMALL)
    with pytest.raises(AssertionError):
        teachenv.TeachEnv(task=task(), loss=Temperature(), **SMALL)


# --- what is asked of students ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (X[:, :3], r"a batch of samples of shape \(n, 4\) of task 'own', found shape \(90, 3\)"),
        (X[0], r"found shape \(4,\); put a single sample into a batch"),
        (1.0, r"found shape \(\)"),
        ("text", "takes an array of samples.*found 'text'"),
        (None, "found None"),
    ],
)
def test_what_is_predicted_are_samples_of_the_task(inputs, message):
    for env in (teachenv.TeachEnv(task=task(), **SMALL), teachenv.TeachVectorEnv(2, task=task(), **SMALL)):
        env.reset(seed=0)
        with pytest.raises((TypeError, ValueError), match=message):
            env.predict(inputs)


def test_of_two_networks_the_students_outputs_are_predicted():
    settings = {"task": task(), "teacher": "mlp", "loss": "distillation"} | SMALL
    single, many = teachenv.TeachEnv(**settings), teachenv.TeachVectorEnv(2, **settings)
    single.reset(seed=0)
    many.reset(seed=[0, 1])
    inputs, labels = single.task.test
    outputs = single.predict(inputs)
    assert outputs.shape == (9, 2)
    accuracy = float((outputs.argmax(-1) == labels).double().mean())
    assert single.evaluate("test")["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert many.predict(inputs).shape == (2, 9, 2)
    torch.testing.assert_close(many.predict(inputs)[0], outputs)


def test_a_snapshot_of_many_keeps_those_that_ended_in_the_last_step():
    envs, other = (teachenv.TeachVectorEnv(2, task=task(), **SMALL) for _ in range(2))
    envs.reset(seed=0)
    for step in range(5):
        other.set_state(envs.get_state())
        assert (other.final_students is None) == (step == 0)
        if step:
            wanted, found = envs.evaluate_final(), other.evaluate_final()
            assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
            np.testing.assert_array_equal(envs.final_students.step, other.final_students.step)
        envs.step(np.zeros(envs.action_space.shape, dtype=np.float32))
    older = envs.get_state()
    del older["stepped"]
    other.set_state(older)
    assert other.final_students is None


class AllWithAll(teachenv.LossFamily):
    """(n, 1) against (n,) is (n, n) in PyTorch, without a word."""

    def action_size(self, num_outputs, batch_size):
        return 1

    def __call__(self, action, prediction, targets):
        return (1 + action[0]) * (prediction.outputs - targets).square().mean()


class OwnError(teachenv.Measure):
    def __init__(self, one_each):
        self.one_each = one_each

    def objective(self, outputs, targets):
        return -((outputs[:, 0] if self.one_each else outputs) - targets).square().mean()

    def score(self, outputs, targets):
        return outputs.sum() * 0


def test_pieces_that_compare_all_outputs_with_all_targets_are_refused():
    numbers = X.sum(1)
    weights = {"loss": "sample-weights", "loss_kwargs": {"base": "squared-error"}} | SMALL
    message = r"compares the outputs of each .* outputs have shape \(8, 1\) and targets \(8,\); .* outputs\[:, 0\]"
    with pytest.raises(ValueError, match=f"loss AllWithAll {message}"):
        teachenv.TeachEnv(task=task(numbers, 1), loss=AllWithAll(), **SMALL)
    with pytest.raises(ValueError, match=f"objective of measure OwnError {message}"):
        teachenv.TeachEnv(task=task(numbers, 1, measure=OwnError(False)), **weights)
    teachenv.TeachEnv(task=task(numbers[:, None], 1), loss=AllWithAll(), **SMALL)
    teachenv.TeachEnv(task=task(numbers, 1, measure=OwnError(True)), **weights)
