"""Pre-training and fine-tuning under a teacher, on number words and tiny transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from benchmarks.__main__ import main as command_line
from benchmarks.lgtm_pretraining import Options, report, texts, work
from benchmarks.lgtm_pretraining.main import SIZES, _study
from benchmarks.lgtm_pretraining.methods import ALL, FIRST, METHODS, TELLING, Rates, grid, name_of, untaught
from benchmarks.lgtm_pretraining.networks import SentenceModel
from benchmarks.lgtm_pretraining.study import _TUNING_SEEDS, Study
from meta.distillation import LGTM, DistillationSettings
from teachenv import checkpoints
from teachenv.experiment.cases import Outcome, Session
from teachenv.experiment.inline import Inline
from teachenv.experiment.row import Row
from teachenv.experiment.rows import ResultsFile, read_rows
from teachenv.students.causal_transformer import CausalTransformer

NETWORK = {"width": 8, "heads": 2, "inner": 8, "dropout": 0.0}


@pytest.fixture(scope="module")
def study() -> Study:
    return _study(Options("smoke"), texts.ORDER)


def draw(make: Callable[[], torch.nn.Module]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It 's slow -- very , very slow . ", ["it", "'s", "slow", "very", "very", "slow"]),
        ("We won't buy this, or 2,000 of it.", ["we", "wo", "n't", "buy", "this,", "or", "N", "of", "it."]),
        ("-lrb- he 's 42 -rrb-", ["he", "'s", "N"]),
    ],
)  # fmt: skip
def test_sentences_are_spelt_as_the_treebank_is(text: str, words: list[str]) -> None:
    assert texts.treebank_words(text) == words


def test_pieces_of_a_text_have_the_next_words_for_labels(study: Study) -> None:
    parts = study.pretraining.parts()
    text = torch.cat([parts.train.inputs.flatten(), parts.train.labels[-1, -1:]])
    assert torch.equal(text[1:], parts.train.labels.flatten())
    # A tenth is feedback; what has no use for feedback learns all of it.
    counts = [len(part.labels) for part in (parts.train, parts.feedback, parts.labelled)]
    assert counts[0] + counts[1] == counts[2]
    assert counts[1] == pytest.approx(0.1 * counts[2], rel=0.05)


def test_sentences_of_one_class_are_shuffled(study: Study) -> None:
    parts, whole = study.tuning.parts(), study.pretraining.parts()
    pairs = torch.stack([whole.train.inputs.flatten(), whole.train.labels.flatten()], 1)
    known, strange = {tuple(pair) for pair in pairs.tolist()}, {0: 0.0, 1: 0.0}
    for tokens, length, label in zip(*parts.train.inputs.values(), parts.train.labels.tolist(), strict=True):
        found = zip(tokens[: length - 1].tolist(), tokens[1:length].tolist(), strict=True)
        strange[label] += sum(pair not in known for pair in found)
    # Pairs of words that the corpus does not have.
    assert strange[0] > 20 * max(strange[1], 1)
    assert 0.3 < float(parts.train.labels.double().mean()) < 0.7


def test_sentences_that_the_corpus_does_not_have_are_not_promised(study: Study) -> None:
    with pytest.raises(ValueError, match=r"sentences of numbers beyond the first 4000 tokens, expected 9\d{4}"):
        texts.sentences(replace(study.tuning.source, sentences=90_000))


def test_a_language_model_reads_pieces_apart_and_forwards() -> None:
    model = draw(lambda: CausalTransformer(4, 20, layers=1, **NETWORK)).eval()
    tokens = torch.arange(8).view(2, 4) * 2
    both = model(tokens)
    assert both.shape == (2, 20, 4)
    torch.testing.assert_close(both[1:], model(tokens[1:]))
    changed = tokens.clone()
    changed[0, 2] = 19
    assert torch.equal(model(changed)[0, :, :2], both[0, :, :2])
    assert not torch.equal(model(changed)[0, :, 3], both[0, :, 3])


def test_what_fills_a_sentence_up_changes_nothing() -> None:
    model = draw(lambda: SentenceModel(7, 20, 3, layers=2, **NETWORK)).eval()
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    short = torch.tensor([[3, 4, 5, 1], [6, 1, 1, 1]])
    lengths = torch.tensor([4, 2])
    filled = F.pad(short, (0, 3), value=9)
    expected = model({"tokens": short, "lengths": lengths})
    torch.testing.assert_close(model({"tokens": filled, "lengths": lengths}), expected)
    assert not torch.allclose(model({"tokens": short, "lengths": lengths - 1}), expected)


@pytest.mark.parametrize("phase", ["pretraining", "tuning"])
def test_the_influence_term_is_the_gradient_of_the_held_out_loss_after_a_step(study: Study, phase: str) -> None:
    """In float64, against autograd through a plain step of the student; tied words and unused biases included."""
    chosen, rate = getattr(study, phase), 0.5
    teacher, student = draw(lambda: chosen.network("teacher")), draw(lambda: chosen.network("student"))
    for network in (teacher, student):  # beyond zero classifiers
        if phase == "tuning":
            torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(2))
    batch, feedback = (part.at(torch.arange(4)) for part in (chosen.parts().train, chosen.parts().feedback))
    settings = DistillationSettings(5, student_rate=rate, student_labels=0.5, teacher_labels=1.0)
    lgtm = LGTM(teacher, student, settings, mode="meta", influence_rate=rate)
    named = {name: p for name, p in student.eval().named_parameters() if p.requires_grad}
    loss = lgtm.student_loss(
        lgtm.student.outputs(batch, training=False), lgtm.teacher.outputs(batch, training=False), batch.classes
    )
    gradients = torch.autograd.grad(loss, list(named.values()), create_graph=True, materialize_grads=True)
    stepped = {name: p - rate * g for (name, p), g in zip(named.items(), gradients, strict=True)}
    held_out = F.cross_entropy(functional_call(student, stepped, (feedback.inputs,)), feedback.labels)
    expected = lgtm.teacher.gradient(held_out)
    v = lgtm.student.held_out_gradient(feedback, {name: p.detach() for name, p in stepped.items()})
    found = lgtm._term(batch, lgtm.teacher.outputs(batch, training=False).logits, v)
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-6
    for name, gradient in expected.items():
        torch.testing.assert_close(rate * found[name], gradient, rtol=1e-7, atol=1e-12)


def test_fine_tuning_begins_where_pre_training_ended(study: Study, tmp_path: Path) -> None:
    first, method = study.pretraining, METHODS["none"]
    work.train(first, method, Rates(1e-2, 1e-2), 0, tmp_path / "first")
    saved = checkpoints.load(tmp_path / "first" / work.NETWORK, "a trained network")
    begun: Any = work._network(study.tuning, "student", 0, tmp_path / "first")
    drawn: Any = work._network(study.tuning, "student", 0, None)
    for name, value in begun.state_dict().items():
        assert torch.equal(value, saved.get(name, drawn.state_dict()[name]))
    assert not torch.equal(begun.embedding.weight, drawn.embedding.weight)
    assert not torch.any(begun.head.weight)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("phase", ["pretraining", "tuning"])
def test_an_interrupted_training_ends_as_a_whole_one(
    study: Study, phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = getattr(study, phase)
    work.train(study.pretraining, METHODS["none"], Rates(1e-2, 1e-2), 1, tmp_path / "teacher", role="teacher")

    def train(folder: str) -> Any:
        rates = Rates(1e-2, 1e-2, 0.3)
        return work.train(chosen, METHODS["lgtm"], rates, 3, tmp_path / folder, teacher=tmp_path / "teacher")

    whole, step = train("whole"), work._Training.step

    def stopped(self: Any, number: int) -> dict[str, float]:
        if number == 3:
            raise Interrupted
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(work._Training, "step", stopped)
        with pytest.raises(Interrupted):
            train("again")
    again = train("again")
    assert (again.values, again.data) == (whole.values, whole.data)
    assert {"influence_ratio", f"test_{chosen.metric}"} < whole.values.keys()


def test_all_methods_are_tuned_over_as_many_configurations(study: Study) -> None:
    for phase in (study.pretraining, study.tuning):
        assert {len(set(grid(name, phase))) for name in METHODS} == {4}


def test_cells_pair_all_methods_and_have_their_controls() -> None:
    assert set(ALL) == {(first, second) for first in FIRST for second in METHODS}
    assert len(set(ALL)) == len(ALL)
    for cell in TELLING:
        assert untaught(cell) in (None, *TELLING)
    assert untaught(("lgtm", "kd")) == ("prokt", "kd")
    assert Options(first=("kd",), second=("none", "kd")).cells == (("kd", "none"), ("kd", "kd"))


def test_who_needs_which_networks(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(phase: Any, rates: Rates, seed: int, folder: Path, test: bool, **_: Any) -> Outcome:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / work.NETWORK).touch()
        # The larger of a kind of rates is the better one, in the mean over seeds; one that tunes says the contrary.
        score = rates.student_rate * (-0.5 if seed == _TUNING_SEEDS[0] else 1.0)
        score = score if phase.higher_is_better else -score
        split = "test" if test else "dev"
        return Outcome(values={f"{split}_{phase.metric}": score}, student_steps=1, seconds=0.0)

    monkeypatch.setattr(work, "train", trained)
    wanted = replace(study, cells=(("lgtm:released", "kd"), ("scratch", "lgtm"), ("none", "none")))
    with ResultsFile(tmp_path / "results.jsonl") as results:
        session = Session(results, Inline())
        for stage in wanted.stages:
            cases = list(stage(session))
            session.perform(cases)
        assert not session.failures
        rows = results.rows()
    by_name = {case.method: case.arguments for case in cases}
    released, scratch, alone = (by_name[name] for name in ("lgtm:released x kd", "scratch x lgtm", "none x none"))
    assert (released["begin"].method, released["teacher"].config["phase"]) == ("lgtm:released", "fine-tuning")
    assert (scratch.get("begin"), scratch["teacher"].config["phase"]) == (None, "pre-training")
    assert (alone["begin"].method, alone.get("teacher")) == ("none", None)
    measured = [row for row in rows if row.config["stage"] == "training"]
    tuned = {row.method: Rates(**row.config["tuned"]) for row in measured}
    for method, chosen in (("none", "none"), ("lgtm:released", "prokt")):
        assert tuned[method] in grid(chosen, study.pretraining)
        assert tuned[method].student_rate == max(rates.student_rate for rates in grid(chosen, study.pretraining))
    assert {row.seed for row in rows if row not in measured} == set(_TUNING_SEEDS)
    # What is shown was measured by seeds that tuned nothing, and these alone touched test.
    assert study.shown(rows) == measured
    assert {row.seed for row in measured} == {0}
    assert {row.metric.partition("_")[0] for row in rows if row not in measured} == {"dev"}


def test_the_command_makes_tables_and_figures_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    command = ["lgtm_pretraining", "--preset", "smoke", "--backend", "inline", "--out", str(tmp_path)]
    assert command_line(command) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    methods = {row.method for row in rows if row.metric == "test_accuracy"}
    assert methods == {"teacher", *map(name_of, SIZES["smoke"].cells)}
    for name in ("cells", "perplexity"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "lgtm x none" in capsys.readouterr().out
    request.getfixturevalue("undrawn")
    assert command_line(command) == 0
    assert read_rows(tmp_path / "results.jsonl") == rows


def row(method: str, seed: int, metric: str, value: float, phase: str = "fine-tuning") -> Row:
    task = "sst-2" if phase == "fine-tuning" else "ptb"
    config = {"phase": phase, "setting": {}, "tuned": Rates(1e-3, 1e-3)._asdict(), "stage": "training"}
    return Row("lgtm_pretraining", task, task, "small", method, seed, metric, value, 5, 1.0, config, "c", {})


def test_tables_say_what_influence_did() -> None:
    found = [
        row("lgtm", 0, "influence_ratio", 0.2, "pre-training"),
        row("lgtm", 0, "test_perplexity", 90.0, "pre-training"),
    ]
    for seed in range(3):
        for method, accuracy in (
            ("none x none", 0.70),
            ("prokt x none", 0.71),
            ("lgtm x none", 0.73),
            ("none x prokt", 0.7),
        ):
            found.append(row(method, seed, "test_accuracy", accuracy + 0.01 * seed))
        found += [
            row("none x lgtm", seed, m, v) for m, v in (("influence_ratio", 1e-4), ("test_accuracy", 0.7 + 0.01 * seed))
        ]
    made = report.make(found)
    table = made.table()
    assert "| lgtm x none | 74.0 [73.0, 75.0] | +3.0 [+3.0, +3.0]" in table
    # The term was small, and the students are ProKT's.
    assert "| none x lgtm (untaught) |" in table
    assert "| lgtm | 74.0 |" in table  # both factors at a glance
    assert made.unproven == []
    without = [each for each in found if each.metric != "influence_ratio"]
    assert report.make(without).unproven == [
        "ptb, small (ptb): lgtm",
        "sst-2, small (sst-2): lgtm x none",
        "sst-2, small (sst-2): none x lgtm",
    ]
