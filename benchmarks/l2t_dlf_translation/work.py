"""One run: a student's warm start, or what it learns after it, with what it scores in the end."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import agents
import meta
from benchmarks.l2t_dlf_translation.methods import Method
from teachenv import checkpoints
from teachenv.bleu import corpus_bleu, corpus_signature, references, texts
from teachenv.checkpoints import going_on_from
from teachenv.decoding import beam, translated
from teachenv.env import TeachEnv
from teachenv.experiment import loop
from teachenv.experiment.cases import Outcome
from teachenv.experiment.evidence import MOVED, MOVED_MOST
from teachenv.experiment.precision import matmuls
from teachenv.experiment.setting import OneByOne
from teachenv.experiment.teachers import learned
from teachenv.experiment.teaching import Moment, Moved, places, teach
from teachenv.problem import Problem
from teachenv.randomness import Purpose, torch_seed
from teachenv.sequence_losses import ActorCritic, CandidateLoss, MinimumRisk, Reinforce, SequenceLoss, SoftmaxMargin
from teachenv.state import StudentState
from teachenv.students import make_student
from teachenv.students.translation import Translator
from teachenv.tasks.tokens import TokenDecisions

# Seeds of episodes: the warm start's, those that tune, those that teachers learn on, those that are reported.
START_SEED, TUNING_SEED, TEACHER_SEED, FINAL_SEED = 400_000, 900_000, 500_000, 0

NETWORKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "lstm-1": ("lstm", {"width": 256, "layers": 1}),
    "lstm-2": ("lstm", {"width": 256, "layers": 2}),
    "transformer-2": ("transformer", {"width": 256, "layers": 2}),
    "transformer-6": ("transformer", {"width": 256, "layers": 6}),
}
"""Students: L2T-DLF's three, and a transformer of two layers."""

# The largest and the smallest coefficients that a row keeps, at so many actions.
TOKENS, TIMES = 10, 5

_BEAM, _KEPT_EVERY = 5, 500
_SCORES = ("dev_bleu", "test_bleu", "test_token_accuracy", MOVED, MOVED_MOST)

START = "start.pt"
"""The file of a warm start."""

# What files hold, as `teachenv.checkpoints` has it.
_START, _HALF = "a translator's warm start", "the first part of a translator's warm start"


@dataclass(frozen=True)
class Setting:
    """How students are trained, the same for all methods.

    Attributes:
        student: a name in `NETWORKS`.
        data: options of the environment about data, and its dev split.
        dropout: fraction that the student drops.
        warm_steps: student steps of the warm start.
        warm_batch: samples in a minibatch of it.
        warm_rate: its learning rate, of Adam; it decays linearly.
        steps: student steps after the warm start.
        steps_per_action: student steps under each action of a teacher.
        batch_size: translations in a minibatch after the warm start.
        teacher_students: training runs of other students that a teacher learns from.
        teacher_rate: learning rate of RMD's teacher.
        critic_steps: first steps of the actor-critic in which the critic learns alone.
        data_root: the folder of the data sets; None: the usual places.
    """

    student: str
    data: Mapping[str, Any]
    dropout: float
    warm_steps: int
    warm_batch: int
    warm_rate: float
    steps: int
    steps_per_action: int
    batch_size: int
    teacher_students: int
    teacher_rate: float
    critic_steps: int
    data_root: str | None = None

    def make(self, **options: Any) -> TeachEnv:
        """Makes an environment of the setting."""
        shared = {**self.data, "data_root": self.data_root, "optimizer": "adam", "lr_schedule": "linear"}
        env = gym.make("TeachTranslation-v0", **copy.deepcopy({**shared, **options})).unwrapped
        assert isinstance(env, TeachEnv)
        return env

    def after(self, start: Path, method: Method, rate: float) -> TeachEnv:
        """Makes the environment of what comes after the warm start."""
        return self.make(
            student=Started(self.student, self.dropout, start),
            horizon=self.steps,
            steps_per_action=self.steps_per_action,
            batch_size=self.batch_size,
            learning_rate=rate,
            **method.environment,
        )


@dataclass(frozen=True)
class Started:
    """Builds a student as its warm start left it.

    Attributes:
        student: a name in `NETWORKS`.
        dropout: fraction that the student drops.
        path: what `warm_up` kept.
    """

    student: str
    dropout: float
    path: Path

    def __call__(self) -> Translator:
        """Builds the network and loads its weights."""
        name, options = NETWORKS[self.student]
        with going_on_from(self.path):
            start = checkpoints.load(self.path, _START)
            shape = (2 * start["length"],)
            student = make_student(name, shape, start["words"], {**options, "dropout": self.dropout})()
            student.load_state_dict(start["network"])
        assert isinstance(student, Translator)
        return student


@dataclass
class Emphasis:
    """A watcher that keeps what a teacher makes of the tokens.

    Attributes:
        tokens: (student step, the largest coefficients by token, the smallest).
        spread: (student step, quantiles of the coefficients).
    """

    tokens: list[tuple[int, dict[str, float], dict[str, float]]] = field(default_factory=list)
    spread: list[tuple[int, list[float]]] = field(default_factory=list)

    def __call__(self, moment: Moment) -> None:
        """Keeps the coefficients of an action."""
        problem = moment.env.problem
        values = problem.dynamics.coefficients(torch.as_tensor(moment.actions)).ravel().numpy()
        quantiles = np.quantile(values, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        self.spread.append((moment.step, quantiles.round(4).tolist()))
        if moment.number in places(problem.actions, TIMES):
            names, order = _vocabulary(problem).tokens, np.argsort(values)
            largest, smallest = (
                {names[i]: round(float(values[i]), 4) for i in at} for at in (order[::-1][:TOKENS], order[:TOKENS])
            )
            self.tokens.append((moment.step, largest, smallest))


def warm_up(setting: Setting, seed: int, folder: Path) -> None:
    """Trains a student by cross-entropy.

    Args:
        setting: what all methods share.
        seed: decides split, minibatches and initialisation.
        folder: where it is kept; an interrupted training goes on from a file beside it.
    """
    name, options = NETWORKS[setting.student]
    env = setting.make(
        student=name,
        student_kwargs={**options, "dropout": setting.dropout},
        horizon=setting.warm_steps,
        steps_per_action=1,
        batch_size=setting.warm_batch,
        learning_rate=setting.warm_rate,
        loss="diagonal",
    )
    env.reset(seed=START_SEED + seed)
    warming, half = _WarmUp(env), folder / "half"
    with matmuls("medium"):
        stops = [*range(_KEPT_EVERY, setting.warm_steps, _KEPT_EVERY), setting.warm_steps]
        loop.train(warming, stops, half, _HALF, (StudentState,))
    task, state = env.problem.task, warming.student
    with env.dynamics.student.held(state.parameters, state.buffers) as model:
        # Buffers that are computed, not learned, are none of it.
        start = {"length": task.pool[1].shape[1], "words": task.num_outputs, "network": model.state_dict()}
        checkpoints.save(folder / START, start, _START)
    half.unlink(missing_ok=True)


class _WarmUp:
    """A student that learns by cross-entropy, without the environment's measurements; see `loop.Learner`."""

    def __init__(self, env: TeachEnv) -> None:
        self.env, self.student = env, env.student

    def step(self, number: int) -> None:
        """Takes one step along cross-entropy."""
        self.student, _ = self.env.dynamics.step(self.student, self.env.episode, self.env.problem.neutral_action)

    def evaluate(self, record: loop.Record) -> dict[str, Any]:
        """Measures nothing: nobody looks at a student before its warm start is over."""
        return {}

    def state(self) -> StudentState:
        """All that changes in training: the student's state."""
        return self.student

    def load(self, state: StudentState) -> None:
        """Goes on from a state, if it is of the same network."""
        for name in ("parameters", "slots", "buffers"):
            shapes = [{key: value.shape for key, value in getattr(s, name).items()} for s in (state, self.student)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"its {name} are of other shapes")
        self.student = state


def run(setting: Setting, method: Method, rate: float, seed: int, final: bool, start: Path, folder: Path) -> Outcome:
    """Trains a student after its warm start.

    Args:
        setting: what all methods share.
        method: what the student learns from.
        rate: learning rate of the student.
        seed: seed of the repetition.
        final: whether it is for the report, and test may be looked at; else it is for tuning.
        start: folder of the warm start.
        folder: where an interrupted teacher is taken up again.
    """
    begun, seeds = time.perf_counter(), (FINAL_SEED if final else TUNING_SEED) + seed
    env, emphasis, moved = setting.after(start / START, method, rate), Emphasis(), Moved()
    spent = setting.steps if method.trains else 0
    with matmuls("medium"):
        env.reset(seed=seeds)
        if method.teacher is not None:
            teacher = _taught(setting, method, rate, seed, start / START, folder)
            spent += setting.teacher_students * setting.steps

            def watch(moment: Moment) -> None:
                emphasis(moment)
                moved(moment)

            scores = teach(OneByOne(env), teacher, env.episode.seeds[0], test=final, watch=watch).scores
            scores = {**scores, MOVED: moved.mean, MOVED_MOST: moved.largest}
        elif method.trains and method.sequence is None:
            scores = teach(OneByOne(env), None, seeds, test=final).scores
        else:
            if method.sequence is not None:
                _put_into(env, _by_sequences(setting, env, method, rate, start / START, seed))
            scores = {**env.evaluate("dev"), **(env.evaluate("test") if final else {})}
        values = {name: scores[name] for name in _SCORES if name in scores}
        if final:
            values["test_bleu_beam"] = _beam_bleu(env)
    return Outcome(
        values=values,
        student_steps=spent,
        seconds=time.perf_counter() - begun,
        data=vars(emphasis) if method.teacher is not None else None,
        versions={"matmul_precision": "medium", "bleu": corpus_signature()},
    )


def _taught(setting: Setting, method: Method, rate: float, seed: int, start: Path, folder: Path) -> Any:
    """A teacher that has learned from the training runs of other students, from the same start."""
    env = setting.after(start, method, rate)
    seed += TEACHER_SEED
    teacher: Any
    if method.teacher == "rmd":
        teacher = meta.RMD("AttentionPolicy", env, setting.teacher_rate, seed=seed, policy_kwargs={"keys": 5})
    else:
        networks = {"keys": 5, "net_arch": {"pi": [], "qf": [64]}}
        teacher = agents.DDPG(
            "AttentionPolicy", env, seed=seed, learning_rate=1e-3, noise=0.3, buffer_size=1000, policy_kwargs=networks
        )
    return learned(teacher, setting.teacher_students * setting.steps, folder)[0]


def _by_sequences(setting: Setting, env: TeachEnv, method: Method, rate: float, start: Path, seed: int) -> Translator:
    """Trains by a loss of whole translations, on the minibatches and at the rates of the environment."""
    model = Started(setting.student, setting.dropout, start)()
    loss = _sequence_loss(setting, env, method, model)
    networks = nn.ModuleList([model, *loss.modules()])
    optimizer = torch.optim.Adam(networks.parameters(), rate)
    draws = torch.Generator().manual_seed(seed)
    networks.train()
    for step in range(setting.steps):
        for group in optimizer.param_groups:
            group["lr"] = env.dynamics.rate(step)
        inputs, targets = env.dynamics.minibatch(env.episode, step)
        optimizer.zero_grad()
        with torch_seed(seed, Purpose.DROPOUT, step):
            loss(model, inputs, targets, draws).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.stepped(model)
    return model.eval()


def _sequence_loss(setting: Setting, env: TeachEnv, method: Method, model: Translator) -> SequenceLoss:
    vocabulary = _vocabulary(env.problem)
    if method.sequence == "actor-critic":
        name, options = NETWORKS[setting.student]
        with torch_seed(env.episode.seeds[0], Purpose.INIT):
            critic = make_student(name, (2 * model.length,), len(vocabulary), options)()
        assert isinstance(critic, Translator)
        return ActorCritic(vocabulary, critic, model, alone=setting.critic_steps, **method.options)
    kinds: dict[str, type[CandidateLoss]] = {
        "rl": Reinforce,
        "minimum-risk": MinimumRisk,
        "softmax-margin": SoftmaxMargin,
    }
    assert method.sequence is not None
    return kinds[method.sequence](vocabulary, **method.options)


def _put_into(env: TeachEnv, model: nn.Module) -> None:
    """Makes a network the environment's student."""
    tensors = {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    before = env.student
    parameters, buffers = ({name: tensors[name] for name in named} for named in (before.parameters, before.buffers))
    student = replace(before, parameters=parameters, buffers=buffers)
    env.set_state({**env.get_state(), "student": student})


def _vocabulary(problem: Problem) -> Any:
    assert isinstance(problem.decisions, TokenDecisions)
    return problem.decisions.vocabulary


@torch.no_grad()
def _beam_bleu(env: TeachEnv) -> float:
    """BLEU of the student's translations of test by a beam."""
    inputs, targets = env.problem.task.test
    source, vocabulary = inputs[:, : targets.shape[1]], _vocabulary(env.problem)
    with env.dynamics.student.held(env.student.parameters, env.student.buffers) as model:
        assert isinstance(model, Translator)
        translations = translated(functools.partial(beam, model, width=_BEAM), source)
    return corpus_bleu(texts(vocabulary, translations), references(vocabulary, targets))
