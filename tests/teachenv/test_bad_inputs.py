"""What a user can get wrong: each option, the data, actions, resets; and what is odd but means the same."""

import dataclasses
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import teachenv
from teachenv import Settings, TeachEnv, TeachVectorEnv
from teachenv.checks import shown
from teachenv.idle import refuse_idle
from teachenv.losses import Bilinear, make_loss
from teachenv.registration import ENVIRONMENTS
from teachenv.students import make_student
from teachenv.tasks import ClassificationMeasure, Task

nan, inf = float("nan"), float("inf")

# --- the settings: each field with values that it must refuse --------------------------------------------------------

INTEGER = (True, np.bool_(True), 2.0, np.float64(2.0), "2", nan, -1, [2], np.array([2]), 2j)
NUMBER = (True, np.bool_(False), "0.1", nan, inf, -inf, np.float32(nan), -0.1, [0.1], np.array([0.1]), 1j, 10**400)
IN_FLOAT32 = (1e39, 1e-50)
FLAG = ("no", "False", "", 0, 1, np.int64(1), 1.0, [True])
NAME = (3, "", "nonsense", ["sgd"], b"sgd", True)
OPTIONS = (None, [], "hidden", 3, {3: 4})
NETWORK = (3, "", "nonsense", ["mlp"], nn.Linear(64, 10))

BAD = {
    "task": (None, *NAME),
    "task_kwargs": OPTIONS,
    "dataset": (3, "", True),
    "data_root": (3, "", ["a"]),
    "pool_size": (0, *INTEGER),
    "split_seed": (None, *INTEGER),
    "trusted_dev": (0, *INTEGER),
    "imbalance": (None, 0, 0.5, *NUMBER),
    "label_noise": (None, 1, 1.5, *NUMBER),
    "label_noise_kind": (None, *NAME),
    "dev_noise": (None, *FLAG),
    "student": (None, *NETWORK),
    "student_kwargs": OPTIONS,
    "output": ("", True, 2.0, nan, [0], nn.Linear(2, 2), torch.nn.Linear),
    "teacher": NETWORK,
    "teacher_kwargs": OPTIONS,
    "teacher_learning_rate": (*NUMBER, *IN_FLOAT32),
    "loss": (None, Bilinear, nn.CrossEntropyLoss(), *NAME),
    "loss_kwargs": OPTIONS,
    "horizon": (None, 0, *INTEGER),
    "steps_per_action": (None, 0, 7, *INTEGER),
    "batch_size": (None, 0, *INTEGER),
    "learn_from": (None, *NAME),
    "train_size": (0, *INTEGER),
    "dev_size": (0, *INTEGER),
    "dev_measured": (0, *INTEGER),
    "resplit": (None, *FLAG),
    "warm_start": (None, *INTEGER),
    "train_on": (None, *NAME),
    "augment": FLAG,
    "observe_samples": (None, *FLAG),
    "optimizer": (None, *NAME),
    "optimizer_kwargs": OPTIONS,
    "learning_rate": (None, *NUMBER, *IN_FLOAT32),
    "momentum": (None, *NUMBER, *IN_FLOAT32),
    "nesterov": (None, *FLAG),
    "weight_decay": (None, *NUMBER, *IN_FLOAT32),
    "lr_schedule": (None, *NAME),
    "control": (None, 3, (), "", "nonsense", True, b"loss", {"loss": 1}),
    "objective": (None, *NAME),
    "objective_temperature": (None, 0, *NUMBER, *IN_FLOAT32),
    "divergence_penalty": (None, *NUMBER),
    "device": (None, 0, "", True),
    "dtype": (None, torch.float32, *NAME),
    "autocast": (True, *NAME),
}


def assert_one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_every_setting_is_under_test():
    assert set(BAD) == {f.name for f in dataclasses.fields(Settings)}


@pytest.mark.parametrize("name", BAD)
def test_settings_of_another_kind_are_refused_by_name(name):
    for value in BAD[name]:
        with pytest.raises(ValueError, match=name) as error:
            Settings.from_kwargs({name: value})
        assert_one_line(error, shown(value))


ODD = {
    "horizon": (60, np.int64(60), np.uint8(60), np.array(60), torch.tensor(60)),
    "split_seed": (3, np.int32(3)),
    "pool_size": (500, np.int64(500)),
    "learning_rate": (0.25, np.float32(0.25), np.float64(0.25), np.array(0.25), torch.tensor(0.25)),
    "momentum": (1.0, 1, np.int64(1)),
    "resplit": (False, np.bool_(False), np.array(False)),
    "augment": (False, np.bool_(False)),
    "device": ("cpu", torch.device("cpu")),
}


@pytest.mark.parametrize("name", ODD)
def test_scalars_of_numpy_are_plain_values(name):
    plain, *others = ODD[name]
    expected = Settings.from_kwargs({name: plain})
    for value in others:
        found = Settings.from_kwargs({name: value})
        assert found == expected
        assert type(getattr(found, name)) is type(plain)
        assert found.fingerprint() == expected.fingerprint()


def test_an_unknown_setting_names_the_nearest_one():
    with pytest.raises(TypeError, match="did you mean 'momentum'"):
        TeachEnv(momentun=0.9)


@pytest.mark.parametrize(
    ("settings", "dtype"), [({"learning_rate": 1e39}, "float64"), ({"weight_decay": 1e-50}, "float64")]
)
def test_float64_holds_more(settings, dtype):
    assert Settings.from_kwargs({**settings, "dtype": dtype}).dtype == dtype


# --- the options of networks, losses, optimisers and schedules -------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "options", "name"),
    [
        (lambda o: make_student("mlp", (64,), 10, o), {"hiden": [3]}, "hidden"),
        (lambda o: make_student("mlp", (64,), 10, o), {"hidden": 32}, "hidden"),
        (lambda o: make_student("mlp", (64,), 10, o), {"hidden": [0]}, "hidden"),
        (lambda o: make_student("mlp", (64,), 10, o), {"hidden": "32"}, "hidden"),
        (lambda o: make_student("lenet", (1, 28, 28), 10, o), {"width": 3}, "takes no options"),
        (lambda o: make_student("wrn", (1, 28, 28), 10, o), {"width": 1.5}, "width"),
        (lambda o: make_student("lstm", (8,), 10, o), {"dropout": 1.0}, "dropout"),
        (lambda o: make_student("lstm", (8,), 10, o), {"dropout": nan}, "dropout"),
        (lambda o: make_loss("bilinear-generalized", o), {"q": 1.1}, "q must be"),
        (lambda o: make_loss("distillation", o), {"temperature": 0}, "temperature"),
        (lambda o: make_loss("distillation", o), {"student_labels": nan}, "student_labels"),
        (lambda o: make_loss("dynamic-network", o), {"seed": 3}, "seed=3 has no effect"),
        (lambda o: make_loss("dynamic-network", o), {"initial": "random", "seed": 1.0}, "seed"),
        (lambda o: make_loss("mixture", o), {"options": {"focal": {"gamma": -1}}}, "gamma"),
        (lambda o: make_loss("mixture", o), {"options": {"foca": {}}}, "focal"),
        (lambda o: make_loss("mixture", o), {"options": {"squared-error": {}}}, "component of the mixture"),
        (lambda o: make_loss("mixture", o), {"components": "cross-entropy"}, "components"),
        (lambda o: make_loss("sample-weights", o), {"base": "label-smoothing", "epsilon": nan}, "epsilon"),
        (lambda o: make_loss("sample-weights", o), {"base": "large-margin", "margin": 2.5}, "margin"),
        (lambda o: make_loss("sample-weights", o), {"base": "hinge", "margin": "1"}, "margin"),
    ],
)  # fmt: skip
def test_options_of_networks_and_losses_are_refused_by_name(build, options, name):
    with pytest.raises((ValueError, TypeError), match=name) as error:
        build(options)
    assert_one_line(error)


@pytest.mark.parametrize("loss", teachenv.LOSSES)
def test_scales_of_all_losses_are_refused_by_name(loss):
    for options in ({"scal": 1.0}, *({"scale": bad} for bad in (0, nan, "1", True, 1e39))):
        with pytest.raises((ValueError, TypeError), match="scal") as error:
            make_loss(loss, options)
        assert_one_line(error)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"optimizer": "adam", "optimizer_kwargs": {"betas": (0.9,)}}, "betas"),
        ({"optimizer": "adam", "optimizer_kwargs": {"betas": (0.9, nan)}}, "betas"),
        ({"optimizer": "adam", "optimizer_kwargs": {"betas": "ab"}}, "betas"),
        ({"optimizer": "adam", "optimizer_kwargs": {"epsilon": 1e-50}}, "epsilon"),
        (
            {"optimizer": "adam", "optimizer_kwargs": {"momentum": 0.9}},
            "optimizer 'adam' got an unexpected keyword argument 'momentum'",
        ),
        ({"optimizer_kwargs": {"betas": (0.9, 0.99)}}, "optimizer 'sgd' takes no options"),
        ({"lr_schedule": {"name": "step", "gamma": nan}}, "gamma"),
        ({"lr_schedule": {"name": "step", "gamma": 1e30, "milestones": [1, 2]}}, "lr_schedule"),
        ({"lr_schedule": {"name": "cosine", "gamma": 0.1}}, "takes no options"),
    ],
)
def test_options_of_optimisers_and_schedules_are_refused_by_name(settings, name):
    with pytest.raises((ValueError, TypeError), match=name) as error:
        TeachEnv(**own(**settings))
    assert_one_line(error)


# --- options without effect ------------------------------------------------------------------------------------------


def tiny(**changes):
    rng = np.random.default_rng(0)
    fields = {
        "name": "tiny",
        "dataset": "made-up",
        "pool": (rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 3, 60)),
        "test": (rng.normal(size=(9, 5)).astype(np.float32), rng.integers(0, 3, 9)),
        "num_outputs": 3,
    }
    return Task(**(fields | changes))


def student():
    return nn.Linear(5, 3)


OWN = {"task": tiny(), "student": student}
JUDGED = {"task": tiny(measure=ClassificationMeasure(3))}
PAIR = {"teacher": "mlp", "loss": "distillation"}


@pytest.mark.parametrize(
    ("others", "idle"),
    [
        (OWN, {"task_kwargs": {"image_size": 3}}),
        (OWN, {"dataset": "synthetic"}),
        (OWN, {"data_root": "data"}),
        (OWN, {"split_seed": 3}),
        (OWN, {"student_kwargs": {"hidden": [3]}}),
        ({}, {"label_noise_kind": "symmetric"}),
        ({}, {"dev_noise": False}),
        ({}, {"teacher_kwargs": {"hidden": [3]}}),
        ({}, {"teacher_learning_rate": 0.1}),
        ({"teacher": student, "loss": "distillation"}, {"teacher_kwargs": {"hidden": [3]}}),
        ({"loss": Bilinear()}, {"loss_kwargs": {"scale": 1.0}}),
        ({"train_on": "pool"}, {"train_size": 100}),
        ({"optimizer": "adam"}, {"momentum": 0.9}),
        ({"optimizer": "adamw"}, {"nesterov": True}),
        (JUDGED, {"objective": "accuracy"}),
        (JUDGED, {"objective_temperature": 0.2}),
        (PAIR, {"objective": "accuracy"}),
        (PAIR, {"objective_temperature": 0.2}),
        ({"objective": "likelihood"}, {"objective_temperature": 0.2}),
    ],
)
def test_an_option_without_effect_is_refused_and_a_default_never(others, idle):
    task = others.get("task", tiny())
    refuse_idle(Settings.from_kwargs(others), others, task)
    settings, (name, value) = Settings.from_kwargs(others | idle), next(iter(idle.items()))
    refuse_idle(settings, others, task)  # as another id's default
    with pytest.raises(ValueError, match=f"{name}=.* has no effect") as error:
        refuse_idle(settings, others | idle, task)
    assert_one_line(error, shown(value))


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "momentum": 0.0, "nesterov": False},
        {"label_noise": 0.0, "label_noise_kind": "symmetric", "dev_noise": False},
        {"teacher": None, "teacher_kwargs": {}, "teacher_learning_rate": None},
        {"dev_noise": True},
        {"objective": "likelihood", **PAIR},
    ],
)
def test_what_asks_for_nothing_is_taken(settings):
    refuse_idle(Settings.from_kwargs(settings), settings, tiny())


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("TeachDistill-v0", {"student": student}),
        ("TeachDistill-v0", {"student": "lenet"}),
        ("TeachDistill-v0", {"teacher": None, "loss": "bilinear"}),
        ("TeachTranslation-v0", {"student": student}),
        ("TeachTranslation-v0", {"dev_size": 20}),
    ],
)
def test_defaults_of_an_id_make_way_for_what_is_chosen(name, chosen):
    settings = Settings.from_kwargs(chosen, ENVIRONMENTS[name])
    refuse_idle(settings, chosen, tiny())
    assert settings.student_kwargs == {} or "student" not in chosen
    assert settings.teacher is not None or settings.teacher_kwargs == {}


@pytest.mark.parametrize(
    ("name", "chosen", "options"),
    [
        ("TeachTranslation-v0", {"student": "transformer"}, {"student_kwargs": {}}),
        ("TeachTranslation-v0", {"student": {"name": "transformer", "heads": 2}}, {"student_kwargs": {"heads": 2}}),
        ("TeachTranslation-v0", {"student": "lstm"}, {"student_kwargs": {"width": 64}}),
        ("TeachTranslation-v0", {"student_kwargs": {"layers": 2}}, {"student_kwargs": {"width": 64, "layers": 2}}),
        ("TeachDistill-v0", {"student_kwargs": {"hidden": [8]}}, {"student_kwargs": {"hidden": [8]}}),
        (
            "TeachDistill-v0",
            {"student": {"name": "mlp", "activation": "relu"}},
            {"student_kwargs": {"hidden": [16], "activation": "relu"}, "teacher_kwargs": {"hidden": [128]}},
        ),
        ("TeachDistill-v0", {"teacher": "lenet"}, {"teacher_kwargs": {}, "student_kwargs": {"hidden": [16]}}),
        ("TeachTranslation-v0", {"optimizer": {"name": "sgd", "momentum": 0.5}}, {"momentum": 0.5}),
    ],
)
def test_options_of_an_id_are_for_its_own_pieces(name, chosen, options):
    settings = Settings.from_kwargs(chosen, ENVIRONMENTS[name])
    assert {option: getattr(settings, option) for option in options} == options


@pytest.mark.parametrize(
    ("part", "own", "other", "option", "values"),
    [
        ("task", "segmentation", "detection", "image_size", (32, 64)),
        ("student", "mlp", "lenet", "hidden", ([4], [8])),
        ("teacher", "mlp", "lenet", "hidden", ([4], [8])),
        ("loss", "bilinear-generalized", "bilinear", "q", (0.2, 0.3)),
        ("optimizer", "adam", "sgd", "betas", ([0.5, 0.9], [0.6, 0.9])),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_defaults_of_a_part_are_for_the_piece_that_they_name(part, own, other, option, values, together):
    default, chosen = values
    defaults = {part: {"name": own, option: default}} if together else {part: own, f"{part}_kwargs": {option: default}}

    def options(kwargs):
        return getattr(Settings.from_kwargs(kwargs, defaults), f"{part}_kwargs")

    assert options({}) == options({part: own}) == options({part: {"name": own}}) == {option: default}
    assert options({part: {"name": own, option: chosen}}) == options({f"{part}_kwargs": {option: chosen}})
    assert options({f"{part}_kwargs": {option: chosen}}) == {option: chosen}
    assert options({part: other}) == options({part: {"name": other}}) == {}


# --- data ------------------------------------------------------------------------------------------------------------

X, Y = np.arange(12.0, dtype=np.float32).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])


def of(x=X, y=Y, **changes):
    return tiny(pool=(x, y), test=(x, y), **changes)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X, Y[:, None]),
        (X, Y.astype(np.float64)),
        (X, Y.astype(np.float32)[:, None]),
        (X, Y.astype(np.uint8)),
        (X, Y.astype(np.uint64)),
        (X, torch.from_numpy(Y).int()),
        (X, list(Y)),
        (X.astype(">f4"), Y.astype(">i4")),
        (read_only(X), read_only(Y)),
        (X[::-1][::-1], Y[::-1][::-1]),
        (np.asfortranarray(X), np.repeat(Y, 2)[::2]),
        (torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)),
        (X.astype(np.float16), Y),
        (X.astype(np.longdouble), Y),
        (X.tolist(), Y.tolist()),
    ],
    ids=range(15),
)
def test_data_in_any_form_is_the_same_task(x, y):
    task = of(x, y).to(torch.float32)
    for inputs, targets in (task.pool, task.test):
        assert torch.equal(inputs, torch.from_numpy(X))
        assert not inputs.requires_grad
        assert torch.equal(targets, torch.from_numpy(Y))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.array([0, 1, 2, 0, 1, 3])}, r"lie in \[0, 3\]"),
        ({"y": np.array([0, 1, 2, 0, 1, -1])}, r"lie in \[-1, 2\]"),
        ({"y": Y + 0.5}, "targets are numbers for regression, 1 a sample, but num_outputs is 3"),
        ({"y": Y * nan}, "targets such as nan are no class indices"),
        ({"y": Y * 1e30}, "are no class indices"),
        ({"y": np.eye(3)[Y]}, r"targets have shape \(6, 3\)"),
        ({"y": Y.astype(bytes)}, r"targets are of dtype \|S21"),
        ({"y": Y[:5]}, "same number of samples"),
        ({"x": X.astype(object)}, "inputs are of dtype object"),
        ({"x": X.astype(complex)}, "inputs are of dtype complex128"),
        ({"x": [[1.0], [2.0, 3.0]]}, "inputs make no array"),
        ({"x": torch.from_numpy(X).to_sparse()}, "sparse"),
        ({"x": X * nan}, "inputs contain NaN"),
        ({"x": X[:0], "y": Y[:0]}, "no samples"),
        ({"x": np.float32(3.0)}, "same number of samples"),
        ({"num_outputs": 3.0}, "num_outputs must be an integer"),
        ({"num_outputs": True}, "num_outputs must be an integer"),
        ({"measure": ClassificationMeasure}, "an instance of teachenv.Measure"),
        ({"lengths": np.ones(5, dtype=np.int64)}, "lengths must be one number for each of the 6"),
        ({"name": ""}, "name must be a text"),
        ({"dataset": None}, "dataset must be a text"),
    ],
)
def test_bad_data_is_one_line(changes, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        of(**changes)
    assert_one_line(error)


# --- actions and resets ----------------------------------------------------------------------------------------------


def own(**settings):
    return {**OWN, "horizon": 4, "batch_size": 8, "dev_size": 20} | settings


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_actions_outside_the_box_by_rounding_are_clipped_and_others_refused(dtype):
    env, edge = TeachEnv(**own(dtype=dtype)), TeachEnv(**own(dtype=dtype))
    envs = TeachVectorEnv(2, **own(dtype=dtype))
    for each in (env, edge, envs):
        each.reset(seed=0)
    step = np.finfo(dtype).eps
    beyond = np.full(9, 1 + step, dtype=dtype)
    assert (beyond > 1).all()
    assert env.step(beyond)[1] == edge.step(np.ones(9, dtype=dtype))[1]
    assert env.action.max() == 1
    envs.step(-beyond[None].repeat(2, 0))
    assert envs.actions.min() == -1
    for value in (1.01, 1 + 20 * step, inf, nan):
        with pytest.raises(ValueError, match=r"np\.clip|NaN"):
            env.step(np.full(9, value, dtype=dtype))


def test_options_of_reset_are_known_or_refused():
    env, envs = TeachEnv(**own()), TeachVectorEnv(2, **own())
    for options in (None, {}):
        first = env.reset(seed=np.int64(3), options=options)[0]
        assert np.array_equal(first, envs.reset(seed=np.int64(3), options=options)[0][0]) or np.allclose(
            first, envs.reset(seed=3)[0][0]
        )
    for each in (env, envs):
        with pytest.raises(ValueError, match="reset has no option 'mask'"):
            each.reset(options={"mask": 1})
        with pytest.raises(ValueError, match="reset's options must be"):
            each.reset(options=[True])
        for seed in (-1, "3", 1.0, True):
            with pytest.raises(ValueError, match="seed must be an integer"):
                each.reset(seed=seed)
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.ones(1, dtype=bool)})


@pytest.mark.parametrize(
    "mask",
    [[True, False, True], np.ones(3), np.ones(2, dtype=bool), np.zeros(3, dtype=bool), np.array([1, 0, 1]), True],
)
def test_a_bad_reset_mask_is_refused_and_changes_nothing(mask):
    envs = TeachVectorEnv(3, **own())
    observation, _ = envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"reset_mask must be an array of bool, of shape \(3,\)"):
        envs.reset(options={"reset_mask": mask})
    assert np.array_equal(envs.get_state()["standing"]["observation"], observation)


def test_a_reset_mask_resets_those_students_and_leaves_the_others_in_training():
    mask, zeros = np.array([False, True, False]), np.zeros((3, 9), dtype=np.float32)
    envs, unbroken = TeachVectorEnv(3, **own()), TeachVectorEnv(3, **own())
    with pytest.raises(gym.error.ResetNeeded):
        envs.reset(options={"reset_mask": mask})
    for each in (envs, unbroken):
        each.reset(seed=0)
        each.step(zeros)
    before = envs.evaluate_final()
    options = {"reset_mask": mask}
    observation, infos = envs.reset(seed=5, options=options)
    assert options == {"reset_mask": mask}
    assert infos["student_step"].tolist() == [1, 0, 1]
    assert np.array_equal(infos["_objective"], mask)
    assert {name: list(value) for name, value in envs.evaluate_final().items()} == {
        n: list(v) for n, v in before.items()
    }
    fresh = TeachVectorEnv(3, **own())
    assert np.allclose(observation[1], fresh.reset(seed=5)[0][1])
    for _ in range(3):  # the first and the last student go on as they would have
        step, other = envs.step(zeros), unbroken.step(zeros)
        for a, b in zip(step[:3], other[:3], strict=True):
            assert np.allclose(a[[0, 2]], b[[0, 2]])
    assert step[2].tolist() == [True, False, True]
    # Without a seed the generators of the others stay where they are.
    envs.reset(options=options)
    assert envs.students.step.tolist() == [0, 0, 0]


# --- students that are not finite ------------------------------------------------------------------------------------


class Reporting(ClassificationMeasure):
    @property
    def reported(self):
        return ("confidence",)

    def report(self, outputs, targets):
        return {"confidence": float(outputs.softmax(1).amax(1).mean())}


def wild():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    "settings", [{}, {"objective": "likelihood"}, {"task": tiny(measure=Reporting(3))}], ids=[0, 1, 2]
)
def test_a_diverged_student_is_said_to_be_and_measured_by_finite_numbers(settings):
    settings = own(student=wild, learning_rate=1e30, horizon=8, **settings)
    env, envs = TeachEnv(**settings), TeachVectorEnv(2, path="loop", **settings)
    zeros = np.zeros((2, 9), dtype=np.float32)
    env.reset(seed=0)
    envs.reset(seed=0)
    assert not env.evaluate()["diverged"]
    assert not envs.evaluate()["diverged"].any()
    ended = False
    while not ended:
        *_, ended, _, info = env.step(zeros[0])
        last = envs.step(zeros)[-1]
    assert info["diverged"]
    assert last["final_info"]["diverged"][0]
    for split in ("dev", "test"):
        single, batch = env.evaluate(split), envs.evaluate_final(split)
        assert single["diverged"] == 1
        assert all(math.isfinite(value) for value in single.values())
        assert single[f"{split}_accuracy"] + single[f"{split}_error"] == 1
        assert batch["diverged"][0]
        assert {name: float(value[0]) for name, value in batch.items()} == pytest.approx(single)
    outputs, targets = torch.zeros(9, 3), env.problem.task.test[1]
    assert single["test_accuracy"] == pytest.approx(float((targets == 0).double().mean()))
    expected = env.problem.dynamics.measure.objective(outputs, targets)
    assert single["test_objective"] == pytest.approx(float(expected))


def broken():
    module = student()
    nn.init.constant_(module.weight, nan)
    return module


class Scoreless(ClassificationMeasure):
    def assess(self, outputs, targets):
        score, features = super().assess(outputs, targets)
        return score * nan, features


@pytest.mark.parametrize(
    ("settings", "blamed"),
    [
        ({"student": broken}, "untrained student's outputs on dev are not finite"),
        ({"student": broken, "warm_start": 3}, "untrained student's outputs on dev are not finite"),
        ({"task": tiny(measure=Scoreless(3))}, "untrained student"),
        ({"student": wild, "warm_start": 8, "learning_rate": 1e30}, r"warm start of 8 steps at learning_rate=1e\+30"),
    ],
    ids=["untrained", "before its warm start", "score", "warm start"],
)
def test_a_student_that_does_not_begin_is_blamed_on_what_broke_it(settings, blamed):
    for env in (TeachEnv(**own(**settings)), TeachVectorEnv(2, **own(**settings))):
        with pytest.raises(ValueError, match=blamed) as error:
            env.reset(seed=0)
        assert_one_line(error)
        with pytest.raises(gym.error.ResetNeeded):
            env.step(np.zeros(env.action_space.shape, dtype=np.float32))


@pytest.mark.parametrize("num_envs", [0, -1, 2.0, "2", True, None, nan])
def test_a_number_of_students_is_an_integer(num_envs):
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1"):
        TeachVectorEnv(num_envs, **own())
