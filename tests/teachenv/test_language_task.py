"""Documents of several domains: the task, the weights of domains, and what a teacher sees of them."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

import meta
from teachenv import Task, TeachEnv
from teachenv.data.documents import _transitions, text_documents
from teachenv.data.vocabulary import SPECIAL
from teachenv.domain_observer import domain_losses
from teachenv.experiment.teaching import teach
from teachenv.experiment.weighing import Weighed
from teachenv.losses import make_loss
from teachenv.tasks import make_task
from teachenv.tasks.domains import Domains
from teachenv.tasks.language import LanguageMeasure

SMALL: dict[str, Any] = {
    "pool_size": 40,
    "task_kwargs": {"length": 6, "dev_documents": 12, "test_documents": 70},
    "student_kwargs": {"width": 8, "layers": 1, "heads": 2, "inner": 8},
    "batch_size": 10,
    "horizon": 4,
    "steps_per_action": 2,
}


def make(**options: Any) -> TeachEnv:
    env = gym.make("TeachLanguage-v0", **{**SMALL, **options}).unwrapped
    assert isinstance(env, TeachEnv)
    return env


def actions_of(env: TeachEnv, seed: int = 0) -> np.ndarray:
    size = (env.problem.actions, *env.action_space.shape)
    return np.random.default_rng(seed).uniform(-0.8, 0.8, size).astype(env.action_space.dtype)


# --- the task --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corruption", ["replaced", "shuffled"])
def test_a_copy_has_documents_of_its_own_of_which_a_part_is_corrupted(corruption: str) -> None:
    domains = {"near": 1.0, "target": 0.5, "near-corrupted": 0.5}
    options = {"domains": domains, "target": "target", "corruption": corruption, "length": 8}
    whole = make_task("language", pool_size=200, corrupted_share=0.4, **options)
    known = whole.domains
    assert known is not None
    assert known.names == ("near", "target", "near-corrupted")
    assert np.bincount(known.of_samples[:200]).tolist() == [100, 50, 50]
    assert (known.of_samples[200:] == 1).all()
    assert known.corrupted is not None
    assert known.corrupted.sum() == 20
    assert (known.of_samples[known.corrupted] == 2).all()
    # The chain of the domain thinks little of what was corrupted.
    chances = torch.from_numpy(np.log(_transitions("near")))
    inputs, targets = (part - len(SPECIAL) for part in whole.pool)
    likelihood = chances[inputs, targets].mean(1).numpy()
    bad = known.corrupted[:200]
    honest = known.of_samples[:200] != 1
    assert likelihood[bad].mean() < likelihood[~bad & honest].mean() - 1.5
    assert torch.equal(whole.pool[0][:, 1:], whole.pool[1][:, :-1])


def test_domains_can_be_left_out_of_the_pool_alone() -> None:
    options = {"pool_size": 40, "dev_documents": 5, "test_documents": 5}
    whole, some = make_task("language", **options), make_task("language", kept=["target", "far"], **options)
    assert whole.domains is not None
    assert some.domains is not None
    stays = torch.from_numpy(np.isin(whole.domains.of_samples[:40], [0, 2]))
    assert all(torch.equal(part[stays], kept) for part, kept in zip(whole.pool, some.pool, strict=True))
    assert whole.dev is not None
    assert some.dev is not None
    assert torch.equal(whole.dev[0], some.dev[0])
    assert torch.equal(whole.test[0], some.test[0])
    assert {*some.domains.of_samples.tolist()} == {0, 2}


def test_domains_follow_the_samples_into_other_pools() -> None:
    inputs = torch.arange(30.0).view(30, 1)
    domains = Domains(("a", "b"), np.arange(30) % 2, np.arange(30) < 5)
    task = Task(name="t", dataset="d", pool=(inputs, torch.arange(30) % 3), test=(-inputs - 1, torch.arange(30) % 3))
    with pytest.raises(ValueError, match="domains must be one number for each of the 30 samples"):
        Task(name="t", dataset="d", pool=task.pool, test=task.test, domains=domains.at(np.arange(3)))
    with pytest.raises(TypeError, match="domains must be a Domains or None"):
        Task(name="t", dataset="d", pool=task.pool, test=task.test, domains=[0] * 30)  # type: ignore[arg-type]
    task = Task(name="t", dataset="d", pool=task.pool, test=task.test, domains=domains)
    for other in (task.with_dev(6, 0), task.with_dev(6, 0).subset_pool(7, 1), task.with_imbalance(3.0, 0)):
        rows = torch.cat([other.pool[0], other.dev[0]]) if other.dev else other.pool[0]
        numbers = rows[:, 0].long().numpy()
        assert other.domains is not None
        assert other.domains.of_samples.tolist() == (numbers % 2).tolist()
        assert other.domains.corrupted is not None
        assert other.domains.corrupted.tolist() == (numbers < 5).tolist()


def write_texts(root: Path) -> None:
    """Small files in the places of the three corpora."""
    import gzip

    line = " mr. smith owns N <unk> shares of co. at u.s. prices "
    (root / "ptb").mkdir()
    for part, repeats in (("train", 60), ("valid", 20), ("test", 20)):
        words = [f"{line}word{chr(97 + i % 26)} {chr(97 + i // 26)}x" for i in range(repeats)]
        (root / "ptb" / f"ptb.{part}.txt").write_text("\n".join(words))
    (root / "wikitext-2").mkdir()
    wiki = "\n = Heading = \n \n The Species is 60 @.@ 5 cm long , known as the <unk> , N 's own . \n"
    (root / "wikitext-2" / "valid.txt").write_text(wiki * 40)
    raw = root / "multi30k" / "task1" / "raw"
    raw.mkdir(parents=True)
    for stem in ("train", "val", "test_2016_flickr"):
        for side in ("de", "en"):
            with gzip.open(raw / f"{stem}.{side}.gz", "wt") as stream:
                stream.write("Two young, White males don't sit near 2 bushes.\n" * 40)


@pytest.mark.filterwarnings("ignore:the files in .* are not the official")
def test_texts_come_in_one_form_and_one_vocabulary(tmp_path: Path) -> None:
    write_texts(tmp_path)
    names = ("ptb", "wikitext-2-valid", "multi30k")
    documents = text_documents(names, "ptb", 9, 60, tmp_path)
    words = documents.vocabulary.tokens
    first = {name: " ".join(words[t] for t in documents.parts[name]["train"][0]) for name in names}
    assert first["ptb"].startswith("mr smith owns <number> <unk> shares of co at us")
    assert first["wikitext-2-valid"] == "heading <eos> the species is <number> <number> cm long known"
    assert first["multi30k"] == "two young white males don't sit near <number> bushes <eos>"
    assert {*documents.parts["ptb"]} == {"train", "valid", "test"}
    assert {*documents.parts["multi30k"]} == {"train"}
    kwargs = {"domains": {**dict.fromkeys(names, 1.0), "multi30k-corrupted": 1.0}, "length": 9, "dev_documents": 4}
    options = {"dataset": "text", "task_kwargs": {**kwargs, "test_documents": 5}, "data_root": str(tmp_path)}
    env = make(**options, pool_size=30, batch_size=4)
    assert env.reset(seed=0)[1]["dataset"] == env.task.dataset
    assert all(name in env.task.dataset for name in ("ptb-subset", "wikitext-2-subset", "multi30k-subset"))
    assert env.task.name == "language-ptb"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "chain"}, "did you mean 'chains'"),
        ({"domains": {}}, "domains is empty"),
        ({"domains": {"nearr": 1.0}}, "did you mean 'near'"),
        ({"domains": {"near": -1.0}}, r"domains\['near'\] must be"),
        ({"domains": {"near": 1.0}, "target": "far"}, "unknown target domain 'far'"),
        ({"domains": {"near-corrupted": 1.0}}, "unknown target domain 'near-corrupted'"),
        ({"vocabulary_size": 100}, "'chains' has 60 words, found vocabulary_size=100; leave it out"),
        ({"corruption": "lost"}, "unknown corruption 'lost'"),
        ({"corrupted_share": 0.0}, "corrupted_share must be"),
        ({"pool_size": 100_000}, "which has 6000; make it smaller, or length"),
        ({"dev_documents": 5_000}, r"dev_documents asks for 5000 documents of target \(valid\), which has 1000"),
        ({"kept": ["nea"]}, "unknown domain in kept 'nea', did you mean 'near'"),
        ({"kept": []}, "kept is empty"),
        ({"dataset": "text", "domains": {"wikitext-2-valid": 1.0}}, "has no text to test on"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_a_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_task("language", **options)
    assert "\n" not in str(error.value)


# --- weights of domains ----------------------------------------------------------------------------------------------


def test_the_weights_of_domains_average_to_one_over_the_pool() -> None:
    env = make(loss_kwargs={"scale": 3.0})
    loss, (domains, pool) = env.dynamics.loss, (env.task.domains, len(env.task.pool[0]))
    assert domains is not None
    action = torch.tensor([0.9, -0.3, 0.1, -1.0])
    weights = loss.coefficients(action)[0]
    assert weights[torch.from_numpy(domains.of_samples[:pool])].mean() == pytest.approx(1.0)
    torch.testing.assert_close((weights / weights[0]).log(), 3.0 * (action - action[0]))
    # As sampling from the mixture α: Σ_k α_k E_k[l] is the pool's mean of w l.
    losses = torch.rand(pool, generator=torch.Generator().manual_seed(0))
    of_pool = torch.from_numpy(domains.of_samples[:pool])
    means = torch.stack([losses[of_pool == k].mean() for k in range(4)])
    alpha = torch.tensor(domains.shares(pool)) * weights
    assert float(alpha.sum()) == pytest.approx(1.0)
    torch.testing.assert_close((weights[of_pool] * losses).mean(), (alpha * means).sum())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_zero_action_trains_as_the_plain_loss_does_bitwise(dtype: str) -> None:
    students = []
    for loss in ("domain-weights", "sample-weights", "data-weights"):
        env = make(loss=loss, dtype=dtype, horizon=6)
        env.reset(seed=3)
        for _ in range(3):
            env.step(np.zeros(env.action_space.shape, env.action_space.dtype))
        students.append(env.student.parameters)
    for other in students[1:]:
        assert all(torch.equal(p, other[name]) for name, p in students[0].items())


def unrolled(env: TeachEnv, actions: np.ndarray, seed: int) -> np.ndarray:
    """The derivative of the return by one backward pass through a loop over the network itself, with plain SGD."""
    env.reset(seed=seed)
    settings, dynamics, episode = env.problem.settings, env.dynamics, env.episode
    module, domains = dynamics.student.factory().double(), env.task.domains
    assert domains is not None
    parameters = {name: p.clone().requires_grad_() for name, p in env.student.parameters.items()}
    leaf, pool = torch.tensor(actions, requires_grad=True), len(env.task.pool[0])
    of_samples, shares = torch.from_numpy(domains.of_samples), torch.tensor(domains.shares(pool), dtype=torch.float64)

    def losses(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        outputs = functional_call(module, parameters, (inputs,))
        return F.cross_entropy(outputs, targets, reduction="none").mean(1)

    for step in range(settings.horizon):
        action, samples = leaf[step // settings.steps_per_action], episode.batches[step]
        if settings.loss == "data-weights":
            weights = 1 + action[samples]
        else:
            weights = (2.0 * action[of_samples[samples]]).exp() / (shares * (2.0 * action).exp()).sum()
        loss = (weights * losses(*dynamics.minibatch(episode, step))).mean()
        gradient = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        updated = zip(parameters.items(), gradient, strict=True)
        parameters = {name: p - settings.learning_rate * g for (name, p), g in updated}
    return torch.autograd.grad(-losses(*dynamics.dev(episode)).mean(), leaf)[0].numpy()


@pytest.mark.parametrize("loss", ["domain-weights", "data-weights"])
def test_the_gradient_of_a_mixture_is_that_of_unrolled_autograd(loss: str) -> None:
    sgd = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.5}
    env = make(loss=loss, dtype="float64", **sgd)
    actions = actions_of(env)
    wanted = unrolled(env, actions, 5)
    wrapped = meta.ActionGradient(env)
    wrapped.reset(seed=5)
    for action in actions:
        *_, info = wrapped.step(action)
    np.testing.assert_allclose(info["action_gradient"], wanted, rtol=1e-8, atol=1e-12)
    assert np.abs(wanted).max() > 1e-4


def test_forward_mode_agrees_on_the_gradient_of_a_mixture() -> None:
    found = []
    for name in ("rmd", "forward"):
        env = make(dtype="float64", horizon=2, steps_per_action=1, control=("loss", "learning-rate"))
        wrapped = meta.ActionGradient(env, method=name)
        wrapped.reset(seed=1)
        for action in actions_of(env):
            *_, info = wrapped.step(action)
        found.append(info["action_gradient"])
    assert found[0].shape == (2, 5)
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-8)


def test_many_students_are_each_student_and_so_are_their_gradients() -> None:
    single, many = make(dtype="float64"), gym.make_vec("TeachLanguage-v0", num_envs=2, dtype="float64", **SMALL)
    actions = np.stack([actions_of(single, seed) for seed in range(2)], 1)
    together = meta.VectorActionGradient(many)
    seen = [together.reset(seed=4)[0]]
    for each in actions:
        observations, _, _, _, infos = together.step(each)
        seen.append(observations)
    alone = meta.ActionGradient(single)
    for i in range(2):
        observation, info = alone.reset(seed=4 + i)
        for number, each in enumerate(actions):
            np.testing.assert_allclose(seen[number][i], observation, atol=1e-9)
            observation, _, _, _, info = alone.step(each[i])
        np.testing.assert_allclose(infos["action_gradient"][i], info["action_gradient"], rtol=1e-7, atol=1e-10)


def test_weights_of_domains_need_domains() -> None:
    with pytest.raises(ValueError, match="needs samples that belong to domains, but task 'digits"):
        TeachEnv(task="digits", loss="domain-weights")
    with pytest.raises(ValueError, match="shares has 2 numbers, expected one for each of 4 domains: target"):
        make(loss_kwargs={"shares": [0.5, 0.5]})
    with pytest.raises(ValueError, match="need the share of each domain in the pool, found none"):
        make_loss("domain-weights").action_size(3, 4)
    with pytest.raises(TypeError, match=r"weighted domains of 'focal': .*'normalise'"):
        make_loss("domain-weights", {"base": "focal", "normalise": True})


@pytest.mark.parametrize("learn_from", ["dev", "pool and dev"])
def test_students_may_learn_from_the_trusted_documents(learn_from: Any) -> None:
    env = make(learn_from=learn_from, batch_size=4)
    env.reset(seed=0)
    assert len(env.episode.dev) == 6
    assert (env.episode.train >= 40).any()
    *_, info = env.step(np.array([0.5, 0, 0, 0], np.float32))
    assert np.isfinite(info["train_loss"])


# --- what is measured and observed -----------------------------------------------------------------------------------


def test_a_teacher_observes_how_well_each_domain_is_known() -> None:
    env = make(horizon=2, steps_per_action=1)
    env.reset(seed=2)
    observation = env.step(np.zeros(4, np.float32))[0]
    seen = dict(zip(env.OBSERVATION_FIELDS, observation.tolist(), strict=True))
    domains, train = env.task.domains, env.episode.train.numpy()
    assert domains is not None
    for number, name in enumerate(domains.names):
        samples = np.resize(train[domains.of_samples[train] == number], 16)
        inputs, targets = env.problem.rows.inputs[samples], env.problem.rows.targets[samples]
        loss = float(F.cross_entropy(env.predict(inputs), targets))
        wanted = np.clip(1 - loss / np.log(env.task.num_outputs), 0, 1)
        assert seen[f"train_likelihood_{name}"] == pytest.approx(wanted, abs=1e-5)
        # What is read back of observations, wherever the fields are in them.
        for order in (slice(None), slice(None, None, -1)):
            fields, rows = env.OBSERVATION_FIELDS[order], np.tile(observation[order], (2, 1))
            losses = domain_losses(rows, fields, domains.names, env.task.num_outputs)
            assert losses.shape == (2, len(domains.names))
            assert losses[:, number] == pytest.approx(min(loss, np.log(env.task.num_outputs)), abs=1e-4)
    assert env.observation_space.contains(observation)


@pytest.mark.parametrize("objective", ["likelihood", "accuracy"])
def test_perplexity_is_of_the_mean_likelihood_of_all_tokens(objective: str) -> None:
    env = make(objective=objective)  # 70 documents are more than one piece of those that are run at once
    env.reset(seed=0)
    env.step(np.zeros(4, np.float32))
    found, (inputs, targets) = env.evaluate("test"), env.task.test
    outputs = env.predict(inputs)
    loss = float(F.cross_entropy(outputs, targets))
    assert found["test_perplexity"] == pytest.approx(np.exp(loss), rel=1e-5)
    assert found["test_token_accuracy"] == pytest.approx(float((outputs.argmax(1) == targets).double().mean()))
    if objective == "likelihood":
        assert found["test_objective"] == pytest.approx(-loss, rel=1e-5)
    many = gym.make_vec("TeachLanguage-v0", num_envs=2, **{**SMALL, "horizon": 2}, objective=objective).unwrapped
    many.reset(seed=0)
    many.step(np.zeros((2, 4), np.float32))
    assert many.evaluate_final("test")["test_perplexity"][0] == pytest.approx(found["test_perplexity"], rel=1e-4)


def test_a_student_that_is_not_finite_is_reported_as_one_that_knows_nothing() -> None:
    class Broken:
        def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.full((len(inputs), 64, 6), torch.nan)

    tokens = torch.ones(5, 6, dtype=torch.int64)
    report = LanguageMeasure(0.2, likelihood=True).report_of(Broken(), tokens, tokens)  # type: ignore[arg-type]
    assert report["perplexity"] == pytest.approx(64)


def test_an_unknown_objective_is_named() -> None:
    with pytest.raises(ValueError, match="objective='margin' belongs to other tasks; expected 'likelihood'"):
        make(objective="margin")


class Knows:
    """A teacher that gives little weight to the domain of corrupted documents."""

    def predict(self, observation: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
        return np.tile(np.float32([0, 0, 0, -1]), (len(observation), 1)), None


def test_weights_of_domains_are_seen_to_find_corrupted_documents() -> None:
    env = gym.make_vec("TeachLanguage-v0", num_envs=2, **SMALL).unwrapped
    weighed = Weighed(Knows(), env)  # type: ignore[arg-type]
    teach(env, weighed, 0, watch=weighed)  # type: ignore[arg-type]
    assert weighed.measures["wrong_label_auc"] == 1.0
    assert weighed.measures["weight_rms"] > 0.3
