"""The command `python -m benchmarks lot_atari`: in which environments policies are trained, with which settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.lot_atari import report, throughput, work
from benchmarks.lot_atari.methods import METHODS, STUDIES, Method
from benchmarks.lot_atari.work import Rate, Training
from benchmarks.options import Names, ParallelOptions, Preset, Tables
from teachenv.experiment.cases import Case, Stage, one_at_a_time
from teachenv.experiment.row import Row
from teachenv.experiment.rows import agreeing

NAME = "lot_atari"

Study = Literal["table", "peers", "n", "alpha", "share", "size", "students", "throughput"]

_GAMES = ("BeamRider", "Breakout", "UpNDown", "Gravitar")
# The released code's, with its cosine; 20 million steps in the paper.
_GAME = Training(
    "Breakout",
    20_000_000,
    8,
    Rate(2.5e-4, 2.5e-6, "cosine"),
    {
        "n_steps": 128,
        "batch_size": 256,
        "n_epochs": 4,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_range": 0.1,
        "clip_range_vf": 0.1,
        "ent_coef": 0.01,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
    },
    segment=500,
)
# As they are usually tuned for PPO.
_CONTROL = {
    "CartPole-v1": Training(
        "CartPole-v1",
        60_000,
        8,
        Rate(1e-3, 0.0, "linear"),
        {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8},
    ),
    "Acrobot-v1": Training(
        "Acrobot-v1",
        150_000,
        16,
        Rate(3e-4, 0.0, "linear"),
        {"n_steps": 256, "batch_size": 256, "n_epochs": 4, "gamma": 0.99, "gae_lambda": 0.94},
    ),
    # Shorter than usual, and therefore with more passes and at a higher rate.
    "LunarLander-v3": Training(
        "LunarLander-v3",
        120_000,
        16,
        Rate(6e-4, 0.0, "linear"),
        {
            "n_steps": 128,
            "batch_size": 256,
            "n_epochs": 10,
            "gamma": 0.999,
            "gae_lambda": 0.98,
            "ent_coef": 0.01,
        },
    ),
    "Pendulum-v1": Training(
        "Pendulum-v1",
        100_000,
        4,
        Rate(1e-3, 0.0, "linear"),
        {"n_steps": 256, "batch_size": 128, "n_epochs": 10, "gamma": 0.9, "gae_lambda": 0.95},
    ),
}
ENVIRONMENTS: Mapping[str, Training] = {
    **{game: replace(_GAME, environment=game) for game in _GAMES},
    **_CONTROL,
}


@dataclass(frozen=True)
class Size:
    """Which environments a preset trains in, and for how long.

    Attributes:
        environments: number of seeds, by the environment's id.
        game_steps: steps of an Atari game; None: the paper's.
        control_steps: factor on those of the others.
        turns: how many each contender takes in the study of throughput.
        game_studies: what is asked of Atari games, unless `--study` says otherwise.
        control_studies: likewise what is asked of the other environments.
        share_steps: steps of an Atari game in the study share; None: `game_steps`.
    """

    environments: Mapping[str, int]
    game_steps: int | None
    control_steps: float = 1.0
    turns: int = 9
    game_studies: tuple[Study, ...] = ("table",)
    control_studies: tuple[Study, ...] = ("table", "n")
    share_steps: int | None = None


_ALL: tuple[Study, ...] = ("table", "peers", "n")
SIZES: Mapping[Preset, Size] = {
    "smoke": Size({"CartPole-v1": 1, "Pendulum-v1": 1}, 2_048, 0.1, 1),
    # Control is where ten seeds can be had.
    "laptop": Size(
        {"CartPole-v1": 10, "Acrobot-v1": 10, "LunarLander-v3": 10, "Breakout": 3, "UpNDown": 3},
        102_400,
        share_steps=1_024_000,
    ),
    "paper": Size(dict.fromkeys(_GAMES, 10), None, game_studies=_ALL, control_studies=_ALL),
}


@dataclass(frozen=True)
class Options(ParallelOptions):
    """Options of `python -m benchmarks lot_atari`."""

    study: tuple[Study, ...] | None = None
    """Which study to run: table (with students and without), peers (mutual learning, self-distillation), n (student
    steps for each of the policy's), alpha, share (α so large that LoT's term is a part of the policy's loss; games have
    ten times the steps there), size (of the student), students (two), throughput (environment steps a second); by
    default table, in control n too, in the paper preset table, peers and n."""

    environments: tuple[str, ...] | None = None
    """BeamRider, Breakout, UpNDown, Gravitar (any other Atari game as well), CartPole-v1, Acrobot-v1, LunarLander-v3,
    Pendulum-v1; by default the preset's."""

    methods: tuple[str, ...] | None = None
    """Which of the studies' methods; by default all."""

    videos: bool = False
    """Also write a video of each Atari policy of seed 0."""

    def _names(self) -> Names:
        # Any Atari game will do, and no game has a version in its name.
        environments = [name for name in self.environments or () if "-v" in name]
        return {"method": (self.methods, METHODS), "environment": (environments, ENVIRONMENTS)}


def run(options: Options) -> None:
    """Trains what the folder does not hold yet; writes rows, tables and figures."""
    stages: list[Stage] = [lambda session: _cases(options)]
    if "throughput" in (options.study or ()):
        stages.insert(0, one_at_a_time(lambda session: _throughput(options)))
    options.execute(NAME, stages, lambda rows: report.make(_shown(rows, options)))


def _shown(rows: list[Row], options: Options) -> list[Row]:
    """What the report shows: all environments and studies with runs as long as this preset's, and throughput."""
    size, environments = SIZES[options.preset], dict.fromkeys(row.task for row in rows if row.task != "throughput")
    identities = [
        _case(_training(name, size, study), label, method, 0).identity
        for name in environments
        for study, methods in STUDIES.items()
        for label, method in methods.items()
    ]
    return agreeing(rows, [*identities, {"task": "throughput", "config": {"turns": size.turns}}])


def _case(training: Training, label: str, method: Method, seed: int, videos: Path | None = None) -> Case:
    """The case of one training run; `videos`: folder of videos, if one is wanted."""
    case = Case(
        benchmark=NAME,
        task=training.environment,
        dataset="ale" if training.atari else "gymnasium",
        student=training.policy,
        method=label,
        seed=seed,
        config={"training": asdict(training), "method": {k: v for k, v in asdict(method).items() if v is not None}},
        label=f"{training.environment}: {label}, seed {seed}",
        function=work.play,
        last="episode_return",
    )
    arguments: dict[str, Any] = {"training": training, "method": method, "seed": seed}
    if videos is not None and seed == 0:
        readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{training.environment}-{label}")
        arguments["video"] = videos / f"{readable}-{case.digest}.mp4"
    return replace(case, arguments=arguments)


def _cases(options: Options) -> list[Case]:
    size, cases = SIZES[options.preset], []
    videos = options.output_folder(NAME) / "videos" if options.videos else None
    for name in options.environments or size.environments:
        atari = _training(name, size, "table").atari
        for seed in range(options.seeds or size.environments.get(name, 3)):
            for study in options.study or (size.game_studies if atari else size.control_studies):
                training = _training(name, size, study)
                for label, method in STUDIES.get(study, {}).items():
                    if options.methods is None or label in options.methods:
                        cases.append(_case(training, label, method, seed, videos))
    # A seed of all environments before the next one.
    return sorted(cases, key=lambda case: case.seed)


def _training(name: str, size: Size, study: str) -> Training:
    training = ENVIRONMENTS.get(name) or replace(_GAME, environment=name)
    if not training.atari:
        return replace(training, steps=round(training.steps * size.control_steps))
    if size.game_steps is None:
        return training
    if study == "share" and size.share_steps is not None:
        return replace(training, steps=size.share_steps, segment=100)
    return replace(training, steps=size.game_steps, segment=50)


def _throughput(options: Options) -> list[Case]:
    turns, threads = SIZES[options.preset].turns, 2
    return [
        Case(
            benchmark=NAME,
            task="throughput",
            dataset="ale",
            student="CnnPolicy",
            method=baseline,
            seed=0,
            config={"game": _GAME.environment, "turns": turns, "threads": threads, "num_envs": _GAME.num_envs},
            label=f"throughput beside {baseline}",
            function=throughput.measure,
            arguments={"baseline": baseline, "training": _GAME, "turns": turns},
            last="steps_per_second",
            resources={"num_cpus": threads},
        )
        for baseline in ("ppo", "make_atari_env")
    ]


TABLES: Tables = {"table": report.make}
