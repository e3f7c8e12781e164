"""One run: a student's warm start, or what it learns after it, with what it scores in the end."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import agents
import meta
from benchmarks.checkpoints import ending, going_on_from
from benchmarks.l2t_dlf_translation.methods import METHODS, Method
from benchmarks.teachers import learned
from teachenv import checkpoints
from teachenv.bleu import corpus_bleu, references, texts
from teachenv.decoding import beam, translated
from teachenv.env import TeachEnv
from teachenv.experiment.precision import matmuls
from teachenv.randomness import Purpose, torch_seed
from teachenv.sequence_losses import ActorCritic, CandidateLoss, MinimumRisk, Reinforce, SequenceLoss, SoftmaxMargin
from teachenv.state import StudentState
from teachenv.students import make_student
from teachenv.students.translation import Translator
from teachenv.tasks.translation import TokenDecisions, TranslationMeasure

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

# What files hold, as `teachenv.checkpoints` has it.
_START, _HALF = "a translator's warm start", "the first part of a translator's warm start"


@dataclass(frozen=True)
class Setting:
    """What all methods share.

    Attributes:
        student: a name in `NETWORKS`.
        data: options of the environment about data, and its dev split.
        dropout: of the student.
        warm_steps: of the warm start.
        warm_batch: its minibatches.
        warm_rate: its learning rate, of Adam; it decays linearly.
        steps: after the warm start.
        steps_per_action: of teachers.
        batch_size: after the warm start.
        teacher_students: trainings of other students that a teacher learns from.
        teacher_rate: learning rate of RMD.
        critic_steps: first steps of the actor-critic in which the critic learns alone.
        data_root: of the data.
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
        """An environment."""
        shared = {**self.data, "data_root": self.data_root, "optimizer": "adam", "lr_schedule": "linear"}
        env = gym.make("TeachTranslation-v0", **copy.deepcopy({**shared, **options})).unwrapped
        assert isinstance(env, TeachEnv)
        return env

    def after(self, start: Path, method: Method, rate: float) -> TeachEnv:
        """The environment of what comes after the warm start."""
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
        dropout: of it.
        path: what `warm_up` kept.
    """

    student: str
    dropout: float
    path: Path

    def __call__(self) -> Translator:
        """The student."""
        name, options = NETWORKS[self.student]
        with going_on_from(self.path):
            kept = checkpoints.load(self.path, _START)
            shape = (2 * kept["length"],)
            made = make_student(name, shape, kept["words"], {**options, "dropout": self.dropout})()
            made.load_state_dict(kept["network"])
        assert isinstance(made, Translator)
        return made


@dataclass(frozen=True)
class Run:
    """What came of a run.

    Attributes:
        scores: `dev_bleu`, and of reported runs `test_bleu`, `test_bleu_beam`, `test_token_accuracy`.
        tokens: of taught students: (student step, the largest coefficients by token, the smallest).
        spread: (student step, quantiles of the coefficients).
        steps: student steps, those of the teacher's students among them, the warm start's not.
        seconds: of it all.
    """

    scores: dict[str, float]
    tokens: list[tuple[int, dict[str, float], dict[str, float]]]
    spread: list[tuple[int, list[float]]]
    steps: int
    seconds: float


def warm_up(setting: Setting, seed: int, path: Path) -> dict[str, float]:
    """Trains a student by cross-entropy; keeps it.

    Args:
        setting: see there.
        seed: of split, minibatches and initialisation.
        path: where it is kept; an interrupted training goes on from a file beside it.

    Returns:
        Its `dev_bleu`.
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
    half = ending(path, "half")
    state, episode, dynamics = env.student, env.episode, env.dynamics
    if half.exists():
        state = _read_half(half, state)
    neutral = env.teaching.neutral_action
    with matmuls("medium"):
        # Without the environment's measurements, which nobody looks at.
        while state.step < setting.warm_steps:
            state, _ = dynamics.step(state, episode, neutral)
            if state.step % _KEPT_EVERY == 0:
                checkpoints.save(half, state, _HALF, (StudentState,))
    task = env.teaching.task
    with dynamics.student.held(state.parameters, state.buffers) as model:
        # Buffers that are computed, not learned, are none of it.
        kept = {"length": task.pool[1].shape[1], "words": task.num_outputs, "network": model.state_dict()}
        scores = _scores(env, model, test=False)
    checkpoints.save(path, kept, _START)
    half.unlink(missing_ok=True)
    return scores


def _read_half(file: Path, begun: StudentState) -> StudentState:
    """The student in a file, if it is of the network of one that has begun."""
    with going_on_from(file):
        kept: StudentState = checkpoints.load(file, _HALF, (StudentState,))
        for name in ("parameters", "slots", "buffers"):
            shapes = [{key: value.shape for key, value in getattr(state, name).items()} for state in (kept, begun)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"its {name} are of other shapes")
    return kept


def run(setting: Setting, method: str, rate: float, seed: int, final: bool, start: Path, checkpoint: Path) -> Run:
    """Trains a student after its warm start.

    Args:
        setting: see there.
        method: a name in `METHODS`.
        rate: learning rate of the student.
        seed: of the repetition.
        final: whether it is for the report, and test may be looked at; else it is for tuning.
        start: what `warm_up` kept.
        checkpoint: where an interrupted teacher is taken up again, without suffix.
    """
    begun, made = time.perf_counter(), METHODS[method]
    env = setting.after(start, made, rate)
    tokens: list[Any] = []
    spread: list[Any] = []
    spent = setting.steps if made.trains else 0
    with matmuls("medium"):
        env.reset(seed=(FINAL_SEED if final else TUNING_SEED) + seed)
        if made.sequence is not None:
            scores = _scores(env, _by_sequences(setting, env, made, rate, start, seed), final)
        else:
            if made.teacher is not None:
                teacher = _taught(setting, made, rate, seed, start, checkpoint)
                spent += setting.teacher_students * setting.steps
                tokens, spread = _follow(env, teacher)
            elif made.trains:
                _follow(env, None)
            with env.dynamics.student.held(env.student.parameters, env.student.buffers) as model:
                scores = _scores(env, model, final)
    return Run(scores, tokens, spread, spent, round(time.perf_counter() - begun, 2))


def _follow(env: TeachEnv, teacher: Any) -> tuple[list[Any], list[Any]]:
    """A training under a teacher (None: the zero action), from where the environment stands."""
    if teacher is None:
        state = env.student
        while state.step < env.teaching.settings.horizon:
            state, _ = env.dynamics.step(state, env.episode, env.teaching.neutral_action)
        env.set_state({**env.get_state(), "student": state})
        return [], []
    observation, _ = env.reset(seed=env.episode.seeds[0])
    shown = set(np.linspace(0, env.teaching.actions - 1, TIMES).round().astype(int).tolist())
    names, tokens, spread, ended, number = _vocabulary(env).tokens, [], [], False, 0
    while not ended:
        step = env.student.step
        action = teacher.predict(observation, deterministic=True)[0]
        observation, _, ended, _, _ = env.step(action)
        values = env.dynamics.loss.coefficients(torch.as_tensor(action)).ravel().numpy()
        spread.append((step, np.quantile(values, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]).round(4).tolist()))
        if number in shown:
            order = np.argsort(values)
            largest, smallest = order[::-1][:TOKENS], order[:TOKENS]
            tokens.append((step, *({names[i]: round(float(values[i]), 4) for i in at} for at in (largest, smallest))))
        number += 1
    return tokens, spread


def _taught(setting: Setting, method: Method, rate: float, seed: int, start: Path, checkpoint: Path) -> Any:
    """A teacher that has learned from the trainings of other students, from the same start."""
    env = setting.after(start, method, rate)
    own = TEACHER_SEED + seed
    teacher: Any
    if method.teacher == "rmd":
        teacher = meta.RMD("AttentionPolicy", env, setting.teacher_rate, seed=own, policy_kwargs={"keys": 5})
    else:
        networks = {"keys": 5, "net_arch": {"pi": [], "qf": [64]}}
        teacher = agents.DDPG(
            "AttentionPolicy", env, seed=own, learning_rate=1e-3, noise=0.3, buffer_size=1000, policy_kwargs=networks
        )
    return learned(teacher, ending(checkpoint, "zip"), setting.teacher_students * env.teaching.actions)


def _by_sequences(setting: Setting, env: TeachEnv, method: Method, rate: float, start: Path, seed: int) -> Translator:
    """What a loss of whole translations trains, on the minibatches and at the rates of the environment."""
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
    vocabulary = _vocabulary(env)
    if method.sequence == "actor-critic":
        name, options = NETWORKS[setting.student]
        with torch_seed(env.episode.seeds[0], Purpose.INIT):
            critic = make_student(name, (2 * model.length,), len(vocabulary), options)()
        assert isinstance(critic, Translator)
        return ActorCritic(vocabulary, critic, model, alone=setting.critic_steps, **method.options)
    made: dict[str, type[CandidateLoss]] = {
        "rl": Reinforce,
        "minimum-risk": MinimumRisk,
        "softmax-margin": SoftmaxMargin,
    }
    assert method.sequence is not None
    return made[method.sequence](vocabulary, **method.options)


def _vocabulary(env: TeachEnv) -> Any:
    decisions = env.teaching.decisions
    assert isinstance(decisions, TokenDecisions)
    return decisions.vocabulary


class _Alone:
    """A module as measures see a student."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(inputs)
        return found

    @contextmanager
    def module(self) -> Iterator[nn.Module]:
        yield self.model


@torch.no_grad()
def _scores(env: TeachEnv, model: nn.Module, test: bool) -> dict[str, float]:
    """BLEU on all of dev; and if asked for that on test, greedy and by a beam, with the accuracy of tokens."""
    measure, task, dev = env.dynamics.measure, env.teaching.task, env.episode.dev
    assert isinstance(measure, TranslationMeasure)
    inputs, targets = (part[dev] for part in task.pool)
    found = {"dev_bleu": measure.bleu(_Alone(model), inputs, targets)}
    if not test:
        return found
    inputs, targets = task.test
    found |= {f"test_{name}": value for name, value in measure.report_of(_Alone(model), inputs, targets).items()}
    assert isinstance(model, Translator)
    source = inputs[:, : targets.shape[1]]
    said = translated(functools.partial(beam, model, width=_BEAM), source)
    vocabulary = _vocabulary(env)
    return found | {"test_bleu_beam": corpus_bleu(texts(vocabulary, said), references(vocabulary, targets))}
