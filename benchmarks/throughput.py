"""How fast the environments are: single, vector and differentiated, each against the plain way to do the same work.

Absolute speeds say more of a machine, and of what else runs on it, than of this library. So every figure is a ratio of
two contenders that take turns within one run: a short piece of the one, a short piece of the other, and the median over
the pieces. Four measurements, ``config["measurement"]`` in the rows:

* ``step``: `TeachEnv.step` over a plain PyTorch loop (`nn.Module`, `torch.optim.SGD`, `F.cross_entropy`) with the same
  minibatches and augmentation. Both evaluate on dev after each step, and the time of that is taken out of both.
* ``vector``: students trained at once over single environments one after the other, under the same actions; and the
  largest difference between the two in any parameter or reward.
* ``paths``: the two ways in which the vector environment can batch students, vmap over loop; which is why
  ``path="auto"`` chooses as it does.
* ``gradient``: an episode under `ActionGradient` over the same episode without it, dev evaluations included in both.

Data only shape the work here, so MNIST and CIFAR-10 are used if they are on the disk already, and procedural stand-ins
of the same shape, named as such in the rows, if they are not. Nothing is downloaded.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from benchmarks.options import CommonOptions, Preset
from benchmarks.rows import ResultsFile, Row, git_commit, versions, write_atomically
from meta.action_gradient import ActionGradient, VectorActionGradient
from teachenv.data.root import candidate_roots
from teachenv.env import TeachEnv
from teachenv.randomness import Purpose, generator
from teachenv.registration import ENVIRONMENTS
from teachenv.students import make_student
from teachenv.tasks import make_task
from teachenv.tasks.base import Task
from teachenv.tasks.synthetic import make_synthetic
from teachenv.vector_env import TeachVectorEnv

NAME = "throughput"
STEP_TARGETS = {"mlp": 1.25, "resnet8": 1.05}
VECTOR_TARGET = 10.0
DIFFERENCE_TARGET = 1e-4


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of ``python -m benchmarks throughput``."""

    threads: int | None = None
    """Torch threads of every contender; by default as many as torch takes."""

    def __post_init__(self) -> None:
        """Checks the numbers."""
        super().__post_init__()
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"found --threads {self.threads}, expected at least 1; leave it out for torch's default")


@dataclass(frozen=True)
class Size:
    """How much of everything a preset measures.

    Attributes:
        seeds: Repetitions, unless ``--seeds`` says otherwise.
        pieces: Turns that each contender takes in a repetition.
        steps: Student steps in a piece of an mlp, or in its differentiated episode.
        conv_steps: The same for a network of convolutions.
        vector_steps: Student steps of each of the vectorised students.
    """

    seeds: int
    pieces: int
    steps: int
    conv_steps: int
    vector_steps: int


SIZES: dict[Preset, Size] = {
    "smoke": Size(seeds=1, pieces=1, steps=10, conv_steps=1, vector_steps=10),
    "laptop": Size(seeds=3, pieces=5, steps=20, conv_steps=1, vector_steps=60),
    "paper": Size(seeds=10, pieces=15, steps=40, conv_steps=4, vector_steps=60),
}


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        measurement: ``"step"``, ``"vector"``, ``"paths"`` or ``"gradient"``; see the top of this file.
        source: Which data: ``"digits"``, ``"mnist"`` or ``"cifar10"``.
        student: Name of the student network.
        students: How many are trained at once; 1 is the single environment.
        method: What is measured, as in the rows.
        settings: Environment settings that differ from the registered environment's.
    """

    measurement: Literal["step", "vector", "paths", "gradient"]
    source: Literal["digits", "mnist", "cifar10"]
    student: str
    students: int
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)


# A small dev split where ten or a hundred evaluations would take longer than what is measured.
_SMALL = {"dev_size": 200}
_SMALL_RESNET = _SMALL | {"batch_size": 32}

CASES = (
    Case("step", "mnist", "mlp", 1, "env-step"),
    Case("step", "cifar10", "resnet8", 1, "env-step", _SMALL),
    Case("vector", "digits", "mlp", 64, "vector-env"),
    Case("paths", "digits", "mlp", 8, "vmap"),
    Case("paths", "mnist", "mlp", 8, "vmap", _SMALL),
    Case("paths", "mnist", "lenet", 8, "vmap", _SMALL),
    Case("paths", "cifar10", "resnet8", 8, "vmap", _SMALL_RESNET),
    Case("gradient", "digits", "mlp", 1, "rmd"),
    Case("gradient", "digits", "mlp", 1, "finite-difference"),
    Case("gradient", "digits", "mlp", 16, "rmd"),
    Case("gradient", "digits", "mlp", 16, "finite-difference"),
    Case("gradient", "mnist", "mlp", 1, "rmd", _SMALL),
    Case("gradient", "mnist", "mlp", 1, "finite-difference", _SMALL),
    Case("gradient", "cifar10", "resnet8", 1, "rmd", _SMALL_RESNET),
    Case("gradient", "cifar10", "resnet8", 1, "finite-difference", _SMALL_RESNET),
)

_ENVIRONMENT_OF = {"digits": "TeachDigits-v0", "mnist": "TeachMNIST-v0", "cifar10": "TeachCIFAR-v0"}


def run(options: Options) -> None:
    """Measures every case that the folder does not hold yet; writes rows, table and figure, and prints the table."""
    folder = options.output_folder(NAME)
    results = ResultsFile(folder / "results.jsonl")
    size = SIZES[options.preset]
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads or before)
    try:
        tasks = {source: _task(source, options.data_root) for source in _ENVIRONMENT_OF}
        work = [(seed, case) for seed in range(options.seeds or size.seeds) for case in CASES]
        for number, (seed, case) in enumerate(work, start=1):
            identity = _identity(case, tasks[case.source], seed, size)
            if results.done(**identity):
                continue
            print(f"[{number}/{len(work)}] {_label(case)}, repetition {seed}", file=sys.stderr, flush=True)
            results.append(_measured(case, tasks[case.source], seed, size, identity))
    finally:
        torch.set_num_threads(before)
    report(results.rows(), folder)


def _measured(case: Case, task: Task, seed: int, size: Size, identity: Mapping[str, Any]) -> list[Row]:
    measure = {"step": _against_torch, "vector": _against_singles, "paths": _vmap_against_loop, "gradient": _gradient}
    start = time.perf_counter()
    values, student_steps = measure[case.measurement](case, task, seed, size)
    about: dict[str, Any] = {
        "student_steps": student_steps,
        "seconds": time.perf_counter() - start,
        "git_commit": git_commit(),
        "versions": versions(),
    }
    return [Row(**identity, metric=metric, value=value, **about) for metric, value in values.items()]


def _identity(case: Case, task: Task, seed: int, size: Size) -> dict[str, Any]:
    settings = _settings(case, task)
    config = {
        "measurement": case.measurement,
        "students": case.students,
        "batch_size": settings.get("batch_size", 32),
        "dev_size": settings.get("dev_size", 400),
        "threads": torch.get_num_threads(),
        "pieces": size.pieces,
        "steps": size.vector_steps if case.measurement == "vector" else _steps(case, size),
    }
    return {
        "benchmark": NAME,
        "task": task.name,
        "dataset": task.dataset,
        "student": case.student,
        "method": case.method,
        "seed": seed,
        "config": config,
    }


def _steps(case: Case, size: Size) -> int:
    return size.steps if case.student == "mlp" else size.conv_steps


def _settings(case: Case, task: Task) -> dict[str, Any]:
    return ENVIRONMENTS[_ENVIRONMENT_OF[case.source]] | {"task": task, "student": case.student} | dict(case.settings)


def _label(case: Case) -> str:
    return f"{case.measurement}: {case.method}, {case.student} on {case.source}, students {case.students}"


def _task(source: str, data_root: Path | None) -> Task:
    if source == "digits":
        return make_task("digits")
    file = {"mnist": "MNIST/raw/train-images-idx3-ubyte", "cifar10": "cifar-10-batches-py/data_batch_1"}[source]
    roots = candidate_roots(data_root)
    if any((folder / file).exists() for root in roots for folder in (root, root / source)):
        return make_task(source, data_root=None if data_root is None else str(data_root), pool_size=5000)
    print(f"{source} is not on this machine: timing on procedural data of its shape", file=sys.stderr, flush=True)
    if source == "cifar10":
        return make_synthetic(pool_size=2000, test_size=10)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2010, 1, 28, 28), dtype=np.float32)
    labels = rng.integers(10, size=len(images))
    pool, test = (images[:2000], labels[:2000]), (images[2000:], labels[2000:])
    return Task("mnist", "procedural-28x28", pool, test, num_outputs=10)  # type: ignore[arg-type] # arrays are accepted


class _Stopwatch:
    """The seconds that calls of a function take."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.seconds = 0.0
        self._function = function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = self._function(*arguments, **options)
        self.seconds += time.perf_counter() - start
        return result


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _against_torch(case: Case, task: Task, seed: int, size: Size) -> tuple[dict[str, float], int]:
    """`TeachEnv.step` over a plain loop, the time of the dev evaluation taken out of both."""
    steps = _steps(case, size)
    env = TeachEnv(**_settings(case, task) | {"horizon": (size.pieces + 1) * steps})
    env.reset(seed=seed)
    evaluation = _Stopwatch(env.dynamics.metrics)
    setattr(env.dynamics, "metrics", evaluation)  # noqa: B010 - an attribute that hides the method, for the clock's sake
    neutral = np.zeros(env.action_space.shape or (), dtype=np.float32)

    def one_env_step() -> float:
        evaluation.seconds = 0.0
        return _timed(lambda: env.step(neutral)) - evaluation.seconds

    plain = _plain_steps(env)
    seconds: list[tuple[float, float]] = []
    for piece in range(size.pieces + 1):
        b = statistics.median(next(plain) for _ in range(steps))
        a = statistics.median(one_env_step() for _ in range(steps))
        if piece:  # the first is the warm-up of both
            seconds.append((a, b))
    values = {
        "step_ratio": statistics.median(a / b for a, b in seconds),
        "student_steps_per_second": 1 / statistics.median(a for a, _ in seconds),
        "plain_steps_per_second": 1 / statistics.median(b for _, b in seconds),
    }
    return values, 2 * (size.pieces + 1) * steps


def _plain_steps(env: TeachEnv) -> Iterator[float]:
    """Trains the environment's student on its minibatches as anybody would; yields the seconds of each step."""
    settings, episode, task = env.teaching.settings, env.episode, env.teaching.task
    network = make_student(str(settings.student), tuple(task.pool[0].shape[1:]), task.num_outputs)()
    network.load_state_dict(env.student.parameters | env.student.buffers)
    optimizer = torch.optim.SGD(network.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    (inputs, targets), (dev_inputs, dev_targets) = task.pool, env.dynamics.dev(episode)
    for t in range(settings.horizon):
        network.train()
        start = time.perf_counter()
        indices = episode.batches[t]
        x, y = inputs[indices], targets[indices]
        if env.dynamics.augmentation is not None:
            x = env.dynamics.augmentation(x, generator(episode.seeds[0], Purpose.AUGMENTATION, t))
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield time.perf_counter() - start
        network.eval()
        with torch.no_grad():
            outputs = network(dev_inputs)
            env.dynamics.measure.objective(outputs, dev_targets)
            env.dynamics.measure.assess(outputs, dev_targets)


def _against_singles(case: Case, task: Task, seed: int, size: Size) -> tuple[dict[str, float], int]:
    """All students at once over one after the other, in groups between which the vector environment takes its turn."""
    steps, students = size.vector_steps, case.students
    settings = _settings(case, task) | {"horizon": steps + 1}  # one more, so that no episode ends and is reset
    vector, single = TeachVectorEnv(students, **settings), TeachEnv(**settings)
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, *(vector.action_space.shape or ()))).astype(np.float32)
    rewards = np.zeros((steps, students))

    def all_at_once() -> None:
        for t in range(steps):
            rewards[t] = vector.step(actions[t])[1]

    groups = np.array_split(np.arange(students), size.pieces + 1)
    seconds: list[tuple[float, float]] = []  # of one step of one student: vectorised, single
    differences = [0.0]
    for piece, group in enumerate(groups):
        vector.reset(seed=1000 * seed)
        together = _timed(all_at_once) / (steps * students)
        alone = 0.0
        for i in group:
            single.reset(seed=1000 * seed + int(i))
            own = np.zeros(steps)
            start = time.perf_counter()
            for t in range(steps):
                own[t] = single.step(actions[t, i])[1]
            alone += (time.perf_counter() - start) / (steps * len(group))
            differences.append(float(np.abs(own - rewards[:, i]).max()))
            for name, parameter in single.student.parameters.items():
                differences.append(float((parameter - vector.students.parameters[name][i]).abs().max()))
        if piece:  # the first is the warm-up of both
            seconds.append((together, alone))
    values = {
        "vector_speedup": statistics.median(alone / together for together, alone in seconds),
        "student_steps_per_second": 1 / statistics.median(together for together, _ in seconds),
        "single_steps_per_second": 1 / statistics.median(alone for _, alone in seconds),
        "largest_difference": float(np.max(differences)),
    }
    return values, steps * students * (size.pieces + 2)


def _vmap_against_loop(case: Case, task: Task, seed: int, size: Size) -> tuple[dict[str, float], int]:
    """The two paths of the vector environment, and which of them `path="auto"` takes."""
    steps = _steps(case, size)
    settings = _settings(case, task) | {"horizon": (size.pieces + 1) * steps + 1}
    paths: tuple[Literal["vmap", "loop"], ...] = ("vmap", "loop")
    vmap, loop = (TeachVectorEnv(case.students, path=path, **settings) for path in paths)
    chosen = TeachVectorEnv(case.students, **settings).path
    neutral = np.zeros(vmap.action_space.shape or (), dtype=np.float32)
    seconds: dict[str, list[float]] = {path: [] for path in paths}
    for env in (vmap, loop):
        env.reset(seed=seed)
    for piece in range(size.pieces + 1):
        for env in (vmap, loop):
            taken = statistics.median(_timed(lambda env=env: env.step(neutral)) for _ in range(steps))  # type: ignore[misc]
            if piece:
                seconds[env.path].append(taken)
    ratios = [b / a for a, b in zip(seconds["vmap"], seconds["loop"], strict=True)]
    values = {
        "vmap_speedup": statistics.median(ratios),
        "student_steps_per_second": case.students / statistics.median(seconds["vmap"]),
        "loop_steps_per_second": case.students / statistics.median(seconds["loop"]),
        "auto_is_vmap": float(chosen == "vmap"),
    }
    return values, 2 * (size.pieces + 1) * steps * case.students


def _gradient(case: Case, task: Task, seed: int, size: Size) -> tuple[dict[str, float], int]:
    """Episodes with the action gradient over episodes without it."""
    horizon = 2 * _steps(case, size)
    settings = _settings(case, task) | {"horizon": horizon}
    plain: gym.Env[Any, Any] | TeachVectorEnv
    taught: gym.Env[Any, Any] | VectorActionGradient
    if case.students == 1:
        plain, taught = TeachEnv(**settings), ActionGradient(TeachEnv(**settings), case.method)
    else:
        plain = TeachVectorEnv(case.students, **settings)
        taught = VectorActionGradient(TeachVectorEnv(case.students, **settings), case.method)
    neutral = np.zeros(plain.action_space.shape or (), dtype=np.float32)

    def episode(env: Any) -> float:
        env.reset(seed=seed)
        return _timed(lambda: [env.step(neutral) for _ in range(horizon)])

    pieces = [(episode(plain), episode(taught)) for _ in range(size.pieces + 1)][1:]
    values = {
        "gradient_ratio": statistics.median(with_gradient / without for without, with_gradient in pieces),
        "student_steps_per_second": horizon * case.students / statistics.median(p[1] for p in pieces),
        "plain_steps_per_second": horizon * case.students / statistics.median(p[0] for p in pieces),
    }
    return values, 2 * (size.pieces + 1) * horizon * case.students


@dataclass(frozen=True)
class Line:
    """One line of the table: a case's repetitions together.

    Attributes:
        what: Which two contenders.
        label: Student, data, and how many students.
        values: The ratio in each repetition.
        bound: What the ratio should keep to, ``("<=", 1.25)``, if the project promises it.
        speed: Median student steps per second of the contender that the line is about.
        note: What else was measured.
    """

    what: str
    label: str
    values: tuple[float, ...]
    bound: tuple[Literal["<=", ">="], float] | None
    speed: float
    note: str

    @property
    def ratio(self) -> float:
        """The median over repetitions."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """The target, and whether it was reached."""
        if self.bound is None:
            return ""
        sign, limit = self.bound
        reached = self.ratio <= limit if sign == "<=" else self.ratio >= limit
        return f"{sign} {limit:g}: {'reached' if reached else 'missed'}"

    def cells(self) -> tuple[str, ...]:
        """The line as the table shows it."""
        spread = f"{self.ratio:.2f} [{min(self.values):.2f}, {max(self.values):.2f}]"
        return self.what, self.label, spread, self.verdict, f"{self.speed:,.0f}", self.note


HEADER = ("ratio of", "student", "median [range]", "target", "student steps/s", "")
_RATIOS = {"step": "step_ratio", "vector": "vector_speedup", "paths": "vmap_speedup", "gradient": "gradient_ratio"}


def lines(rows: list[Row]) -> list[Line]:
    """The table's lines, made from the rows alone."""
    groups: dict[str, dict[str, list[float]]] = {}
    firsts: dict[str, Row] = {}
    for row in rows:
        key = repr((row.task, row.dataset, row.student, row.method, sorted(row.config.items())))
        firsts.setdefault(key, row)
        groups.setdefault(key, {}).setdefault(row.metric, []).append(row.value)
    return [_line(firsts[key], metrics) for key, metrics in groups.items()]


def _line(row: Row, metrics: Mapping[str, list[float]]) -> Line:
    measurement = row.config["measurement"]
    bound: tuple[Literal["<=", ">="], float] | None = None
    note = ""
    if measurement == "step":
        what, bound = "env.step / plain PyTorch loop", ("<=", STEP_TARGETS[row.student])
    elif measurement == "vector":
        what, bound = "vector / single environments (speed)", (">=", VECTOR_TARGET)
        difference = max(metrics["largest_difference"])
        within = "within" if difference <= DIFFERENCE_TARGET else "NOT within"
        note = f"largest difference {difference:.1e}, {within} {DIFFERENCE_TARGET:g}"
    elif measurement == "paths":
        what, note = "vmap / loop (speed)", f"auto: {'vmap' if metrics['auto_is_vmap'][0] else 'loop'}"
    else:
        what = f"episode with {row.method} / without"
    students = row.config["students"]
    label = f"{row.student}, {row.dataset}, {students} × batch {row.config['batch_size']}"
    speed = statistics.median(metrics["student_steps_per_second"])
    return Line(what, label, tuple(metrics[_RATIOS[measurement]]), bound, speed, note)


def report(rows: list[Row], folder: Path) -> None:
    """Writes ``table.md`` and ``throughput.png`` into the folder and prints the table."""
    table = lines(rows)
    cells = [HEADER, ("---",) * len(HEADER), *(line.cells() for line in table)]
    write_atomically(folder / "table.md", "".join(f"| {' | '.join(row)} |\n" for row in cells))
    write_atomically(folder / "throughput.png", _figure(table))
    shown = Table("ratio of", "median", "target", "steps/s")
    for line in table:
        about = "\n  ".join(filter(None, (line.what, line.label, line.note)))
        shown.add_row(about, f"{line.ratio:.2f}", line.verdict, f"{line.speed:,.0f}")
    console = Console()
    console.print(shown)
    console.print(f"rows, table and figure: {folder}", highlight=False, markup=False)


def _figure(table: list[Line]) -> bytes:
    """Horizontal bars of the ratios, on a logarithmic axis around 1, with the targets as marks."""
    figure = Figure(figsize=(11, 0.45 * len(table) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for y, line in enumerate(table):
        axes.barh(y, line.ratio - 1, left=1, color="tab:blue" if line.bound else "tab:gray", height=0.6)
        axes.plot([min(line.values), max(line.values)], [y, y], color="black", linewidth=1)
        if line.bound:
            axes.plot([line.bound[1]] * 2, [y - 0.4, y + 0.4], color="tab:red", linewidth=2)
        axes.annotate(f" {line.ratio:.2f}", (max(*line.values, 1), y), va="center", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(table)), [f"{line.what}\n{line.label}" for line in table], fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("ratio (median; line: range over repetitions; red: target)")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
