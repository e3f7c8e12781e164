"""Learning from teaching with labels: the two benchmarks' common training, on texts and images made here."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.__main__ import main as command_line
from benchmarks.lot import report
from benchmarks.lot.methods import LOT, METHODS, PEERS, TABLE, Method
from benchmarks.lot.problem import Problem, nearest_width, parameters_of
from benchmarks.lot.work import Run, train
from benchmarks.lot_images import imitation, networks
from benchmarks.lot_images import main as images_main
from benchmarks.lot_images import problem as images_problem
from benchmarks.lot_images.problem import ImageProblem
from benchmarks.lot_language import main as language_main
from benchmarks.lot_language import problem as language_problem
from benchmarks.lot_language.problem import LanguageProblem
from teachenv import checkpoints
from teachenv.data import language
from teachenv.experiment.cases import Outcome
from teachenv.experiment.row import Row
from teachenv.experiment.rows import read_rows
from teachenv.tasks import synthetic

Options: TypeAlias = language_main.Options | images_main.Options

TEXT = LanguageProblem(
    "numbers", "lstm", {"width": 16, "dropout": 0.2}, batch_size=8, bptt=10, train_size=320, epochs=2,
    learning_rate=5.0, clip=0.5,
)  # fmt: skip
PICTURES = ImageProblem(
    "synthetic", "preresnet-8", task_options={"pool_size": 80}, batch_size=16, epochs=2, learning_rate=0.05
)
PROBLEMS: dict[str, Problem] = {
    "lstm": TEXT,
    "awd-lstm": replace(
        TEXT, model="awd-lstm", options={"embedding": 8, "width": 12, "layers": 2}, schedule="constant", patience=0,
        epochs=3,
    ),
    "transformer-xl": replace(
        TEXT, model="transformer-xl", optimizer_name="adam", learning_rate=1e-2,
        options={"width": 8, "layers": 1, "heads": 2, "head_width": 4, "inner": 16, "memory": 10},
    ),
    "images": PICTURES,
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of test is measured again and again."""
    monkeypatch.setattr(synthetic, "make_synthetic", functools.partial(synthetic.make_synthetic, test_size=12))


@pytest.fixture(scope="module", autouse=True)
def few_sentences() -> Iterator[None]:
    """For the same reason."""
    with pytest.MonkeyPatch.context() as patch:
        for split in ("valid", "test"):
            patch.setitem(language._MADE, split, 50)
        language_problem._corpus.cache_clear()
        yield
    language_problem._corpus.cache_clear()


class Interrupted(Exception):
    pass


def interrupt_after_each_checkpoint(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are written; each call of what writes them ends with an `Interrupted`."""
    save, files = checkpoints.save, list[Path]()

    def save_once(file: Any, *arguments: Any) -> None:
        save(file, *arguments)
        files.append(file)
        raise Interrupted

    monkeypatch.setattr(checkpoints, "save", save_once)
    return files


@pytest.mark.parametrize(
    ("problem", "method"),
    [
        ("lstm", replace(LOT, student_steps=3)),
        ("awd-lstm", LOT),
        ("transformer-xl", replace(LOT, students=2, labels=True)),
        ("lstm", PEERS["self-distillation"]),
        ("images", replace(LOT, student_steps=2)),
        ("images", Method(average=0.9, label_smoothing=0.1)),
    ],
)
def test_an_interrupted_training_ends_as_a_whole_one(
    problem: str, method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(PROBLEMS[problem], method, 0, tmp_path / "whole")
    files = interrupt_after_each_checkpoint(monkeypatch)
    runs = PROBLEMS[problem].epochs * (2 if method.self_distillation else 1)
    for _ in range(runs):
        with pytest.raises(Interrupted):
            train(PROBLEMS[problem], method, 0, tmp_path / "parts")
    again = train(PROBLEMS[problem], method, 0, tmp_path / "parts")
    assert len(files) == runs
    assert again.seconds > 0
    assert replace(again, seconds=0.0) == replace(whole, seconds=0.0)


@pytest.mark.parametrize(("problem", "student_steps"), [*((problem, 2) for problem in PROBLEMS), ("images", 1)])
def test_without_a_weight_students_leave_the_model_alone(problem: str, student_steps: int, tmp_path: Path) -> None:
    methods = (Method(), replace(LOT, alpha=0.0, student_steps=student_steps))
    alone, beside = (Run(replace(PROBLEMS[problem], epochs=1), method, 0) for method in methods)
    records = [run.finish(tmp_path / str(n)) for n, run in enumerate((alone, beside))]
    assert len({tuple(point.values["teacher"] for point in record.curve) for record in records}) == 1
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(tensor, beside.model.state_dict()[name]), name
    assert beside.lot is not None
    assert beside.lot.updates == student_steps * beside.steps


def test_steps_are_counted(tmp_path: Path) -> None:
    problem = replace(TEXT, epochs=1)
    methods = {**TABLE, **PEERS}
    found = {name: train(problem, m, 0, tmp_path / name.replace(":", "-")) for name, m in methods.items()}
    steps = problem.steps
    assert {name: counted(f, steps) for name, f in found.items()} == {
        "teacher-only": (1, 1),
        "teacher-only:total-steps": (2, 2),
        "lot": (1, 2),
        "dml": (1, 2),
        "self-distillation": (2, 2),
    }
    assert all(found[name].student_steps == steps * METHODS[name].updates for name in found)
    several = train(problem, replace(LOT, student_steps=3, students=2), 0, tmp_path / "several")
    assert counted(several, steps) == (1, 7)
    assert {name for name, f in found.items() if "student_test_perplexity" in f.values} == {"lot", "dml"}


def counted(found: Outcome, epoch: int) -> tuple[float, float]:
    """Epochs of what is kept, and of all networks."""
    return found.data["teacher_steps"] / epoch, found.student_steps / epoch


def test_learning_helps(tmp_path: Path) -> None:
    words = len(TEXT.data.vocabulary)
    found = train(replace(TEXT, train_size=2000, epochs=6), Method(), 0, tmp_path / "run")
    assert found.values["test_perplexity"] < 0.75 * words
    assert found.values["valid_perplexity"] == min(value for _, value, _ in found.data["curve"])


def test_a_uniform_model_has_the_perplexity_of_the_vocabulary() -> None:
    network = TEXT.network("teacher")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert TEXT.evaluate(network, "valid") == pytest.approx(len(TEXT.data.vocabulary), rel=1e-5)


def test_readers_read_everything() -> None:
    """In an epoch each word but a rest is a target once; students go round from another place."""
    text = TEXT._train
    joint = torch.cat([TEXT.batch(0, step, for_students=False)[1] for step in range(TEXT.steps)])
    assert torch.equal(joint, text[1 : 1 + len(joint)])
    assert len(text) - len(joint) <= TEXT.bptt
    (own, first), targets = TEXT.batch(0, 0, for_students=True)
    assert own
    assert torch.equal(first[1:], targets[:-1])
    pieces = torch.cat([TEXT.batch(0, step, for_students=True)[1] for step in range(TEXT.steps + 1)])
    place = next(i for i in range(len(text)) if torch.equal(text[(i + torch.arange(20)) % len(text)], pieces[:20]))
    assert torch.equal(pieces, text[(place + torch.arange(len(pieces))) % len(text)])
    assert place != 1


def test_images_of_an_epoch_are_each_seen_once() -> None:
    problem = replace(PICTURES, augment=False)
    pool = problem.data.train[0]
    for own in (False, True):
        seen = torch.cat([problem.batch(0, step, for_students=own)[0] for step in range(problem.steps)])
        numbers = [int((pool == image).flatten(1).all(1).nonzero()[0, 0]) for image in seen]
        assert len(set(numbers)) == len(numbers) == problem.steps * problem.batch_size
    first, other = (problem.batch(0, 0, for_students=own)[0] for own in (False, True))
    assert not torch.equal(first, other)
    valid = {image.numpy().tobytes() for image in problem.data.valid[0]}
    assert not valid & {image.numpy().tobytes() for image in pool}


@pytest.mark.parametrize(
    "problem",
    [
        TEXT, PROBLEMS["awd-lstm"], PROBLEMS["transformer-xl"], PICTURES, replace(PICTURES, model="cnn"),
        replace(PICTURES, model="mlp-200"),
    ],
    ids=lambda problem: problem.model,
)  # fmt: skip
def test_students_have_the_share_of_parameters_that_is_nearest(problem: Problem) -> None:
    def parameters(problem: Problem, role: Any) -> int:
        return parameters_of(problem.network(role))

    state = torch.get_rng_state()
    found = {share: problem.with_students(share) for share in (4.0, 1.0, 0.25, 1 / 16)}
    assert torch.equal(torch.get_rng_state(), state)
    own = parameters(problem, "teacher")
    shares = {share: parameters(other, "student") / own for share, other in found.items()}
    assert shares[1.0] == 1.0
    assert found[1.0] == problem
    assert all(parameters(other, "teacher") == own for other in found.values())
    assert sorted(shares.values(), reverse=True) == list(shares.values())
    assert shares[4.0] == pytest.approx(4.0, rel=0.2)


def test_the_nearest_width_is_nearest() -> None:
    for width, share in itertools.product((1, 7, 50), (1 / 64, 1 / 3, 0.5, 1.0, 2.5)):
        errors = {w: abs(w * (w + 3) - share * width * (width + 3)) for w in range(1, 4 * width)}
        assert errors[nearest_width(lambda w: w * (w + 3), width, share)] == min(errors.values())


def test_a_network_without_a_width_has_no_students_of_a_share() -> None:
    with pytest.raises(ValueError, match=r"network 'vit' has one width; .* need mlp-200, cnn"):
        networks.of_share("vit", 0.25, (3, 32, 32), 10)


@pytest.mark.parametrize("problem", [TEXT, PICTURES], ids=["text", "images"])
def test_imitability_is_the_mean_divergence_of_all_decisions(problem: Problem) -> None:
    model, student = problem.network("teacher"), problem.with_students(0.25).network("student")
    with torch.no_grad():
        taught, given = (torch.cat([z.flatten(0, -2) for z, _ in problem.read(n, "valid")]) for n in (model, student))
    expected = F.kl_div(given.log_softmax(-1), taught.log_softmax(-1), log_target=True, reduction="batchmean")
    assert problem.imitability(model, student, "valid") == pytest.approx(float(expected), rel=1e-4)
    assert problem.imitability(model, model, "train") == 0.0
    probabilities = taught.softmax(-1)
    information = (probabilities * taught.log_softmax(-1)).sum(-1).mean() + np.log(taught.shape[-1])
    assert problem.imitability(model, None, "valid") == pytest.approx(float(information), rel=1e-3, abs=1e-6)


def test_spurious_labels_are_the_others_shuffled() -> None:
    problem = replace(PICTURES, shuffled=0.5)
    own, learned = problem.data.train[1], problem.labels(0)
    assert 0.2 < float((own != learned).double().mean()) <= 0.5
    assert torch.equal(own.bincount(), learned.bincount())
    assert torch.equal(replace(problem, shuffled=0.0).labels(0), own)
    assert not torch.equal(problem.labels(1), learned)


def test_a_student_comes_nearer_to_the_teacher_that_it_imitates(tmp_path: Path) -> None:
    found = imitation.imitate(replace(PICTURES, epochs=6), 0, tmp_path)
    steps, train_, test = np.array(found.data).T
    assert steps[-1] == found.student_steps == 6 * PICTURES.steps
    assert train_[-1] < 0.5 * train_.max()
    assert test[-1] < test.max()
    assert (found.values["imitation_kl_train"], found.values["imitation_kl_test"]) == (train_[-1], test[-1])


def test_an_interrupted_imitation_ends_as_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spurious = replace(PICTURES, epochs=1, **imitation.KINDS["spurious"])
    whole = imitation.imitate(spurious, 0, tmp_path / "whole")
    files = interrupt_after_each_checkpoint(monkeypatch)
    stops = len(whole.data) + spurious.epochs
    for _ in range(stops):
        with pytest.raises(Interrupted):
            imitation.imitate(spurious, 0, tmp_path / "parts")
    again = imitation.imitate(spurious, 0, tmp_path / "parts")
    assert len(files) == stops
    assert replace(again, seconds=0.0) == replace(whole, seconds=0.0)


def test_the_language_command_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setitem(language_main.EPOCHS, "smoke", 1)  # type: ignore[arg-type]
    command = ["lot_language", "--preset", "smoke", "--train-size", "2000", "--seeds", "1", "--backend", "inline"]
    command += ["--out", str(tmp_path), "--model", "lstm", "transformer-xl", "--study", "table", "peers"]
    assert command_line(command) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.task for row in rows} == {"numbers-lstm", "numbers-transformer-xl"}
    assert {row.dataset for row in rows} == {"numbers-subset-2000"}
    assert {row.method for row in rows} == {*TABLE, *PEERS}
    students = {row.method for row in rows if row.metric == "student_test_perplexity"}
    assert students == {"lot", "dml"}
    assert not list((tmp_path / "checkpoints").glob("*"))
    table = (tmp_path / "table.md").read_text()
    assert table.count("\n| self-distillation") == 2  # with or without a mark
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    request.getfixturevalue("undrawn")
    assert command_line(command) == 0
    assert read_rows(tmp_path / "results.jsonl") == rows


def test_the_image_command_asks_all_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = images_main.Size("synthetic", "preresnet-8", 1, 1, 20)
    monkeypatch.setitem(images_main.SIZES, "smoke", size)  # type: ignore[arg-type]
    monkeypatch.setattr(images_problem, "has_bfloat16", lambda: True)
    command = ["lot_images", "--preset", "smoke", "--backend", "inline", "--out", str(tmp_path)]
    command += ["--study", "n", "form", "imitation", "--methods", "lot:n-2", "lot:l2"]
    assert command_line(command) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    methods = {"lot:n-2", "lot:l2", *(f"imitate:{kind}" for kind in imitation.KINDS)}
    assert {row.method for row in rows} == methods
    assert "| spurious |" in (tmp_path / "imitation.md").read_text()
    assert {row.versions["precision"] for row in rows} == {"bfloat16"}
    for table in ("table", "imitation"):
        assert "; networks in bfloat16" in (tmp_path / f"{table}.md").read_text()
    for picture in ("curves", "imitation"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_images_are_read_in_the_precision_that_rows_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, _ = PICTURES.batch(0, 0, for_students=False)
    network = PICTURES.network("teacher").eval()
    exact = network(inputs).detach()
    for fast, precision in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(images_problem, "has_bfloat16", lambda fast=fast: fast)
        logits = PICTURES.reader()(network, inputs).logits.detach()
        error = float((logits - exact).abs().max() / exact.abs().max())
        assert PICTURES.precision == precision
        assert (error < 1e-5) == (not fast)
        assert error < 0.05


def test_a_table_does_not_mix_settings(undrawn: None, tmp_path: Path) -> None:
    command = [
        "lot_language",
        "--preset",
        "smoke",
        "--train-size",
        "4000",
        "--backend",
        "inline",
        "--out",
        str(tmp_path),
    ]
    command += ["--methods", "teacher-only", "--out", str(tmp_path)]

    def shown(*more: str) -> str:
        assert command_line([*command, *more]) == 0
        return (tmp_path / "table.md").read_text()

    short = shown("--epochs", "1")
    long = shown("--epochs", "2", "--seeds", "2")
    both = shown("--epochs", "1", "--model", "awd-lstm")
    assert len(read_rows(tmp_path / "results.jsonl")) == 3 * (1 + 2 + 1)
    steps = [int(table.splitlines()[-1].split("|")[7]) for table in (short, long)]
    assert steps[1] == 2 * steps[0]
    assert short in both
    assert both.count("| teacher-only |") == 2
    assert shown("--epochs", "2") == long


def test_the_released_preset_is_the_released_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """α, N, epochs and labels of each run, and models alone at its teacher's steps and at all of its steps."""
    ran: dict[str, tuple[Problem, Options]] = {}

    def note(name: str, options: Options, problems: dict[str, Problem], *_: Any, **__: Any) -> None:
        ran.update({task: (problem, options) for task, problem in problems.items()})

    monkeypatch.setattr("benchmarks.lot.main.run", note)
    models = ("lstm", "transformer-xl")
    for corpus in ("ptb", "wikitext-103"):
        language_main.run(language_main.Options("released", corpus=corpus, model=models))  # type: ignore[arg-type]
    images_main.run(images_main.Options("released"))
    recipes = {}
    for task, (problem, options) in ran.items():
        table = options.studies(task)["table"]
        method = table["lot:released"]
        assert method.labels
        assert [m.updates for m in table.values()] == [1, 1 + method.student_steps, 1 + method.student_steps]
        recipes[task] = (method.alpha, method.student_steps, problem.epochs, problem.learning_rate)
    assert recipes == {
        "ptb-lstm": (1.0, 5, 60, 30.0),
        "ptb-transformer-xl": (0.5, 5, 10, 1e-3),
        "wikitext-103-lstm": (0.1, 4, 3, 40.0),
        "wikitext-103-transformer-xl": (0.1, 4, 4, 1e-3),
        "cifar100": (0.5, 2, 180, 1.0),
    }


def test_the_released_preset_has_its_recipes_alone() -> None:
    with pytest.raises(ValueError, match=r"--model awd-lstm.*ptb-transformer-xl"):
        language_main.problems(language_main.Options("released", model=("awd-lstm",)))
    options = language_main.Options("released", study=("n",))
    with pytest.raises(ValueError, match="--study n with --preset released, expected table"):
        language_main.lot.run("lot_language", options, {}, 1, dict)
    with pytest.raises(ValueError, match="lot:released"):
        language_main.Options("released", methods=("lot:releases",))


def test_differences_are_of_pairs() -> None:
    def row(method: str, seed: int, value: float) -> Row:
        data = {"curve": [[1, value, None]], "teacher_steps": 10}
        config: dict[str, Any] = {}
        return Row(
            "lot_images", "cifar10", "cifar10", "net", method, seed, "test_accuracy", value, 20, 1.0, config, "0" * 40,
            {}, data,
        )  # fmt: skip

    rows = [row("teacher-only", seed, 0.5 + seed / 10) for seed in range(3)]
    rows += [row("lot", seed, 0.52 + seed / 10) for seed in range(3)]
    table = report.make(rows, "lot_images").table()
    assert "| lot | 62.00 ± 10.00 |" in table
    assert "| +2.00 [+2.00, +2.00] |" in table


@pytest.mark.parametrize(
    ("options", "wrong", "message"),
    [
        (language_main.Options, {"methods": ("lott",)}, "lot"),
        (language_main.Options, {"corpus": "ptv"}, "ptb"),
        (images_main.Options, {"model": "resnet"}, "resnet-18"),
        (images_main.Options, {"epochs": 0}, "at least 1"),
        (images_main.Options, {"label_noise": (1.0,)}, "share from 0 up to 1"),
        (language_main.Options, {"alpha": (0.0,)}, "--alpha 0, expected a finite number above 0"),
        (language_main.Options, {"student_steps": (0,)}, "--student-steps 0"),
    ],
)
def test_mistakes_are_named(options: Any, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options("smoke", **wrong)
