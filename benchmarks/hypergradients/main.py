"""The command: which contender meets which training, and what is kept of it."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from benchmarks.hypergradients import report
from benchmarks.hypergradients.batched import BATCHES, speedup
from benchmarks.hypergradients.contenders import CONTENDERS, PEERS
from benchmarks.hypergradients.measure import peak, reference, times
from benchmarks.hypergradients.problems import STUDENTS
from benchmarks.options import CommonOptions, Preset
from benchmarks.rows import ResultsFile, Row, git_commit, versions
from teachenv.errors import unknown_name

NAME = "hypergradients"
METRICS = ("time_ratio", "speedup", "extra_bytes", "relative_error")


@dataclass(frozen=True)
class Size:
    """What a preset fixes.

    Attributes:
        seeds: repetitions.
        turns: of a contender and plain training, in a process.
        students: that are trained, unless ``--students`` says otherwise.
        contenders: that differentiate, unless ``--contenders`` says otherwise.
        part: of the usual length of each training, in percent.
        lengths: T of the second part.
        batches: of the third part.
    """

    seeds: int
    turns: int
    students: tuple[str, ...]
    contenders: tuple[str, ...]
    part: int
    lengths: tuple[int, ...]
    batches: tuple[str, ...]


SIZES: dict[Preset, Size] = {
    "smoke": Size(1, 1, ("mlp",), (*PEERS, "rmd:all", "rmd:sqrt", "finite-difference:states"), 3, (), ()),
    "laptop": Size(3, 3, tuple(STUDENTS), tuple(CONTENDERS), 100, (16, 64, 256, 1024, 5000), tuple(BATCHES)),
    "paper": Size(10, 5, tuple(STUDENTS), tuple(CONTENDERS), 100, (16, 64, 256, 1024, 5000, 20_000), tuple(BATCHES)),
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of ``python -m benchmarks hypergradients``."""

    students: tuple[str, ...] | None = None
    """Networks of the first part; by default all of them, in the smoke preset the mlp."""

    contenders: tuple[str, ...] | None = None
    """What differentiates them; by default everything, in the smoke preset one of each kind."""

    threads: int = 1
    """Torch threads of every contender."""

    memory_limit: float = 4.0
    """GiB that a contender may take beyond what its process has at the start."""

    def __post_init__(self) -> None:
        """Checks names and numbers.

        Raises:
            ValueError: an unknown name, or a number out of range.
        """
        super().__post_init__()
        for what, chosen, known in (
            ("student", self.students or (), STUDENTS),
            ("contender", self.contenders or (), CONTENDERS),
        ):
            for name in chosen:
                if name not in known:
                    raise unknown_name(what, name, known)
        if self.threads < 1:
            raise ValueError(f"found --threads {self.threads}, expected at least 1")
        if not self.memory_limit > 0:
            raise ValueError(f"found --memory-limit {self.memory_limit}, expected a positive number of GiB")


@dataclass(frozen=True)
class Case:
    """One contender on one training.

    Attributes:
        task: `"usual"`, `"length"` or `"batched"`, the part of the benchmark.
        student: see `STUDENTS`; of a batch, see `BATCHES`.
        steps: T.
        contender: see `CONTENDERS`; of a batch, how many students.
        seed: of the training.
    """

    task: str
    student: str
    steps: int
    contender: str
    seed: int


def run(options: Options) -> None:
    """Measures what the folder does not hold yet, in one process after the other; writes rows, table and figures."""
    size = SIZES[options.preset]
    folder = options.output_folder(NAME)
    results = ResultsFile(folder / "results.jsonl")
    cases = _cases(options, size)
    exact: dict[tuple[str, int, int], dict[str, Any]] = {}
    ended: set[str] = set()  # contenders that failed on a length: they would on a longer one, too
    for number, case in enumerate(cases, start=1):
        config: dict[str, Any] = {
            "steps": case.steps,
            "turns": 1 if case.task == "length" else size.turns,
            "threads": options.threads,
        }
        if case.task == "batched":
            config |= {"students": BATCHES[case.student].students, "settings": BATCHES[case.student].settings}
        else:
            config |= {"batch_size": STUDENTS[case.student].batch, "memory_limit": options.memory_limit}
        identity: dict[str, Any] = {
            "benchmark": NAME,
            "task": case.task,
            "dataset": config.get("settings", {}).get("task", "procedural"),
            "student": case.student,
            "method": case.contender,
            "seed": case.seed,
            "config": config,
        }
        # What failed is tried again: a peer may have been installed since.
        metric = "speedup" if case.task == "batched" else "time_ratio"
        if results.done(**identity, metrics=[metric]) or (case.task == "length" and case.contender in ended):
            continue
        print(
            f"[{number}/{len(cases)}] {case.contender}: {case.student}, T = {case.steps}", file=sys.stderr, flush=True
        )
        if case.task == "batched":
            of_batch: dict[str, Any] = {"students": config["students"], "steps": case.steps, "turns": size.turns}
            found = alone(speedup, batch=case.student, seed=case.seed, threads=options.threads, **of_batch)
            results.append(_rows(identity, case, found))
            continue
        arguments: dict[str, Any] = {"student": case.student, "steps": case.steps, "seed": case.seed}
        arguments["threads"] = options.threads
        limit = int(options.memory_limit * 2**30)
        found = alone(peak, contender=case.contender, limit=limit, **arguments)
        if "failed" not in found:
            found |= alone(times, contender=case.contender, turns=config["turns"], **arguments)
        if "failed" in found:
            print(f"  {case.contender} failed: {found['failed']}", file=sys.stderr, flush=True)
            if case.task == "length":
                ended.add(case.contender)
        gradient = found.pop("gradient", None)
        if gradient is not None and case.task == "usual":
            key = case.student, case.steps, case.seed
            if key not in exact:
                exact[key] = alone(reference, **arguments)
            if "failed" in exact[key]:
                raise RuntimeError(f"the float64 reference of {case.student}, T = {case.steps}: {exact[key]['failed']}")
            wanted = exact[key]["gradient"]
            found["relative_error"] = float((gradient.double() - wanted).norm() / wanted.norm())
        results.append(_rows(identity, case, found))
    report.write(results.rows(), folder)


def _cases(options: Options, size: Size) -> list[Case]:
    contenders = options.contenders or size.contenders
    usual = [
        Case("usual", student, max(2, STUDENTS[student].steps * size.part // 100), contender, seed)
        for seed in range(options.seeds or size.seeds)
        for student in options.students or size.students
        for contender in contenders
    ]
    lengths = [Case("length", "mlp", steps, contender, 0) for steps in sorted(size.lengths) for contender in contenders]
    batches = [
        Case("batched", name, BATCHES[name].steps, f"{BATCHES[name].students} students", seed)
        for seed in range(options.seeds or size.seeds)
        for name in size.batches
    ]
    return usual + batches + lengths


def _rows(identity: dict[str, Any], case: Case, found: dict[str, Any]) -> list[Row]:
    about: dict[str, Any] = {"git_commit": git_commit(), "versions": versions(), "student_steps": case.steps}
    if "failed" in found:
        note = {"failed": found["failed"]}
        return [Row(**identity, metric="failed", value=1.0, seconds=0.0, data=note, **about)]
    values = {metric: found.get(metric) for metric in METRICS}
    data = {"path": found["path"]} if "path" in found else None
    return [
        Row(**identity, metric=metric, value=float(value), seconds=found["seconds"], data=data, **about)
        for metric, value in values.items()
        if value is not None
    ]


def alone(function: Callable[..., Any], **arguments: Any) -> Any:
    """Calls a function in a new process; one that dies gives `failed`."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, **arguments).result()
        except BrokenProcessPool:
            return {"failed": "its process died (out of memory?)"}
