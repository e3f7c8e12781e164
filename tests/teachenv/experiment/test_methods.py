"""Methods as values: what an option is of, and what a list means."""

from typing import Any

import numpy as np
import pytest

import agents.methods
import meta
import meta.methods
import teachenv
from teachenv.experiment import Candidate, Method, fixed
from teachenv.experiment.methods import GRIDS
from teachenv.experiment.setting import Configuration, Setting, candidate_of

ALL = {**GRIDS, **meta.methods.GRIDS, **agents.methods.GRIDS}


def test_an_option_goes_to_the_teacher_the_loss_or_the_environment() -> None:
    method = meta.methods.rmd(scale=0.3, learning_rate=0.02, weight_decay=1, objective_temperature=0.5)
    assert method.candidates == (
        Candidate(
            {"weight_decay": 1.0, "objective_temperature": 0.5, "loss_kwargs": {"scale": 0.3}}, {"learning_rate": 0.02}
        ),
    )
    assert method.learns


def test_options_that_teacher_and_environment_share_are_the_teachers() -> None:
    (candidate,) = agents.methods.ddpg(batch_size=64).candidates
    assert candidate.teacher["batch_size"] == 64
    assert "batch_size" not in candidate.environment


def test_lists_go_side_by_side() -> None:
    method = meta.methods.rmd(scale=[0.5, 1.0], learning_rate=[0.01, 0.03], max_grad_norm=2.0)
    assert [(c.environment["loss_kwargs"]["scale"], c.teacher["learning_rate"]) for c in method.candidates] == [
        (0.5, 0.01),
        (1.0, 0.03),
    ]
    assert all(c.teacher["max_grad_norm"] == 2.0 for c in method.candidates)


def test_a_fixed_loss_has_its_options_and_the_environments() -> None:
    assert fixed("focal", gamma=[1.0, 2.0], weight_decay=0).candidates == tuple(
        Candidate({"loss": "sample-weights", "loss_kwargs": {"base": "focal", "gamma": gamma}, "weight_decay": 0.0})
        for gamma in (1.0, 2.0)
    )
    assert fixed("cross-entropy").make is None


@pytest.mark.parametrize(
    ("build", "error", "says"),
    [
        (lambda: meta.methods.rmd(scael=1.0), TypeError, "did you mean 'scale'"),
        (lambda: meta.methods.rmd(task="digits"), TypeError, "RMD got an unexpected keyword argument 'task'"),
        (lambda: fixed("cross-entropy", gamma=1.0), TypeError, " got an unexpected keyword argument 'gamma'"),
        (
            lambda: meta.methods.rmd(loss="bilinear-sigmoid", q=0.3),
            TypeError,
            "RMD got an unexpected keyword argument 'q'",
        ),
        (
            lambda: meta.methods.rmd(supported_action_spaces=()),
            TypeError,
            "RMD got an unexpected keyword argument 'supp",
        ),
        (lambda: fixed("crossentropy"), ValueError, "did you mean 'cross-entropy'"),
        (
            lambda: meta.methods.rmd(scale=[0.5, 1.0], learning_rate=[0.1]),
            ValueError,
            "1 of learning_rate and 2 of scale",
        ),
        (lambda: agents.methods.sac(scale=[]), ValueError, "0 of scale"),
        (lambda: fixed("focal", weight_decay=[-1.0]), ValueError, "weight_decay must be"),
        (lambda: meta.methods.random(learning_rate="fast"), ValueError, "learning_rate must be"),
    ],
)
def test_what_cannot_be_an_option_is_one_line(build, error, says) -> None:
    with pytest.raises(error) as raised:
        build()
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_grids_have_as_many_candidates() -> None:
    assert {len(method.candidates) for method in ALL.values()} == {4}


@pytest.mark.parametrize("parallel", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_every_method_makes_an_environment_and_a_teacher_that_acts_in_it(name: str, parallel: int) -> None:
    setting = Setting("TeachDigits-v0", {"horizon": 2, "dev_size": 20, "batch_size": 4})
    method = ALL[name]
    for i in range(len(method.candidates)):
        configuration = Configuration({"learning_rate": 0.1}, i)
        env: Any = setting.make(2, method, configuration)
        if parallel == 1:
            env = setting.make_single(method, configuration)
        teacher = setting.teacher(method, configuration, seed=0, parallel=parallel)
        assert (teacher is None) == (method.make is None)
        if teacher is not None:
            actions, _ = teacher.predict(env.reset(seed=0)[0], deterministic=True)
            assert actions.shape == env.action_space.shape


def test_one_student_at_a_time_teaches_what_a_batch_of_one_teaches() -> None:
    options = {
        "horizon": 8,
        "dev_size": 20,
        "batch_size": 4,
        "steps_per_action": 2,
        "loss": "bilinear",
        "warm_start": 50,
    }
    setting, method = Setting("TeachDigits-v0", options), meta.methods.rmd(learning_rate=0.003)
    configuration = Configuration({"learning_rate": 0.1})
    assert method.make is not None
    alone = setting.teacher(method, configuration, seed=3, parallel=1)
    batch: Any = method.make(setting.make(1, method, configuration), 3, candidate_of(method, configuration).teacher)
    for teacher in (alone, batch):
        teacher.learn(24)
    observation = np.full(alone.observation_space.shape, 0.4, np.float32)
    one, other = alone.predict(observation)[0], batch.predict(observation[None])[0][0]
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert np.abs(one).max() > 1e-3


@pytest.mark.parametrize(
    ("loss", "grid"),
    [("generalized-cross-entropy", {"q": [0.5, 0.7]}), ("class-balanced", {"beta": [0.9, 0.999]})],
)
def test_every_plain_loss_is_a_fixed_method_with_its_options(loss: str, grid: dict[str, list[float]]) -> None:
    setting, method = Setting("TeachDigits-v0", {"horizon": 2, "dev_size": 20}), fixed(loss, **grid)
    ((option, values),) = grid.items()
    for i, value in enumerate(values):
        env = setting.make_single(method, Configuration({}, i))
        assert (env.dynamics.loss.base, env.dynamics.loss.options[option]) == (loss, value)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "method",
    [
        meta.methods.rmd("SamplePolicy", loss="sample-weights", observe_samples=True),
        meta.methods.rmd("LossPolicy", loss="sample-weights", observe_samples=True, normalise=True),
        agents.methods.ddpg("SamplePolicy", loss="sample-weights", observe_samples=True),
        agents.methods.td3("SamplePolicy", loss="sample-weights", observe_samples=True),
        agents.methods.sac("SamplePolicy", loss="sample-weights", observe_samples=True),
        meta.methods.meta_weight_net(learning_rate=[1e-3, 3e-3], base="focal"),
        meta.methods.self_paced(until=[1.0, 2.0]),
    ],
)
def test_methods_that_see_samples_teach_the_students_of_any_setting(method: Method) -> None:
    setting = Setting("TeachDigits-v0", {"horizon": 2, "dev_size": 20, "batch_size": 4})
    for i in range(len(method.candidates)):
        configuration = Configuration({}, i)
        env = setting.make(2, method, configuration)
        teacher = setting.teacher(method, configuration, seed=0, parallel=2)
        if method.learns:
            teacher.learn(4)
        assert teacher.predict(env.reset(seed=0)[0], deterministic=True)[0].shape == (2, 4)


def test_a_candidate_is_a_copy_that_libraries_may_change() -> None:
    method = agents.methods.ddpg()
    taken = candidate_of(method, Configuration({}))
    taken.teacher["policy_kwargs"]["net_arch"]["pi"].append(7)
    assert candidate_of(method, Configuration({})).teacher["policy_kwargs"]["net_arch"]["pi"] == []


def test_a_configuration_of_a_method_with_more_candidates_is_taken_as_far_as_there_are_any() -> None:
    method = Method((Candidate({"weight_decay": 0.5}),))
    assert candidate_of(method, Configuration({}, 3)).environment == {"weight_decay": 0.5}


def test_an_own_teacher_is_a_method() -> None:
    def constant(env, seed, options):
        return meta.ConstantTeacher("ConstantPolicy", env, seed=seed, **options)

    setting = Setting(None, {"task": "digits", "horizon": 2, "dev_size": 20})
    method = Method(make=constant)
    assert setting.teacher(method, Configuration({}), seed=0, parallel=2) is not None
    assert isinstance(setting.make_single(method, Configuration({})), teachenv.TeachEnv)


def test_options_of_the_loss_for_all_methods_stand_beside_the_candidates_own() -> None:
    setting = Setting("TeachDigits-v0", {"loss_kwargs": {"q": 0.4}, "horizon": 2, "dev_size": 20})
    method = meta.methods.rmd(loss="bilinear-generalized", scale=0.25)
    assert setting.make_single(method, Configuration({})).problem.settings.loss_kwargs == {"q": 0.4, "scale": 0.25}


def test_a_teacher_learns_at_its_own_rate_also_where_nothing_chooses_the_students() -> None:
    setting, method = Setting("TeachDigits-v0", {"horizon": 2, "dev_size": 20}), Method(episode_rate=0.25)
    rates = [
        each.make_single(method, Configuration({})).problem.settings.learning_rate
        for each in (setting.lasting(), setting)
    ]
    assert rates == [rates[0], 0.25 * rates[0]]
