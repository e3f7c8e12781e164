"""Translation: parallel texts, vocabularies, networks, decoding, and the environment of their training."""

from __future__ import annotations

import functools
import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sacrebleu
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import meta
from teachenv import TeachEnv
from teachenv.bleu import corpus_bleu, references, texts
from teachenv.data import german_number_words
from teachenv.data.translation import load_translation, read_lines
from teachenv.data.vocabulary import BEGIN, END, PAD, UNKNOWN, Vocabulary, pieces_of, words_of
from teachenv.decoding import beam, greedy, sample, translated
from teachenv.errors import DatasetUnavailable
from teachenv.losses import make_loss
from teachenv.minibatches import minibatches
from teachenv.students import make_student
from teachenv.students.prediction import Prediction
from teachenv.students.translation import Translator
from teachenv.tasks import make_task
from teachenv.tasks.base import VOID
from teachenv.tasks.tokens import TokenDecisions
from teachenv.tasks.translation import TranslationMeasure, trimmed

REAL = os.environ.get("TEACHENV_DATA")
WORDS = 12
NETWORKS: dict[str, dict[str, Any]] = {
    "lstm": {"width": 6, "layers": 2},
    "transformer": {"width": 8, "layers": 2, "heads": 2, "inner": 12},
}
SMALL_FILES = pytest.mark.filterwarnings("ignore:the files in .* are not the official")
SMALL: dict[str, Any] = {
    "pool_size": 40, "dev_size": 8, "dev_measured": 8, "batch_size": 4, "horizon": 3, "steps_per_action": 1,
    "learning_rate": 0.05, "optimizer": "sgd", "dtype": "float64",
}  # fmt: skip


def network(name: str, length: int = 7, dropout: float = 0.0) -> Translator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = make_student(name, (2 * length,), WORDS, {**NETWORKS[name], "dropout": dropout})().double().eval()
    assert isinstance(made, Translator)
    return made


def tokens(rows: int = 5, length: int = 7, seed: int = 0) -> torch.Tensor:
    """Sources of several lengths, with their ends."""
    rng = np.random.default_rng(seed)
    found = np.full((rows, length), PAD)
    for row in found:
        size = rng.integers(1, length)
        row[:size], row[size] = rng.integers(4, WORDS, size), END
    return torch.from_numpy(found)


def made(student: str = "lstm", **settings: Any) -> TeachEnv:
    options = {"student": student, "student_kwargs": NETWORKS[student]}
    env = gym.make("TeachTranslation-v0", **{**SMALL, **options, **settings}).unwrapped
    assert isinstance(env, TeachEnv)
    return env


# --- data ------------------------------------------------------------------------------------------------------------


def test_german_has_ones_before_tens() -> None:
    assert german_number_words(123) == "ein hundert drei und zwanzig"
    assert german_number_words(1) == "eins"
    assert german_number_words(201) == "zwei hundert eins"
    assert german_number_words(0) == "null"
    assert len({german_number_words(n) for n in range(1000)}) == 1000


def write(path: Path, lines: list[str]) -> Path:
    text = ("\n".join(lines) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_sides_that_do_not_fit_are_named(tmp_path: Path) -> None:
    source = write(tmp_path / "a.de", ["eins", "zwei", "drei"])
    with pytest.raises(DatasetUnavailable, match=r"a\.de has 3 lines and .*a\.en has 2"):
        read_lines(source, write(tmp_path / "a.en", ["one", "two"]))
    with pytest.raises(DatasetUnavailable, match=r"b\.en, line 2: found an empty line"):
        read_lines(source, write(tmp_path / "b.en", ["one", " ", "three"]))
    (tmp_path / "c.en").write_bytes(b"one\ntwo\n\xff\xfe\n")
    with pytest.raises(DatasetUnavailable, match=r"c\.en, line 3: found no UTF-8"):
        read_lines(source, tmp_path / "c.en")
    lines = read_lines(source, write(tmp_path / "d.en.gz", ["one", "two\x85two", "thr@@ ee"]))
    assert lines.target == ["one", "two\x85two", "three"]
    assert lines.at(np.array([2, 0])).source == ["drei", "eins"]


@pytest.fixture
def iwslt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in fairseq's layout, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split, lines in {"train": 30, "valid": 4, "test": 4}.items():
        for side, word in (("de", "wort"), ("en", "word")):
            text = [" ".join([word] * (1 + i % 5)) for i in range(lines)]
            write(tmp_path / "iwslt14.tokenized.de-en" / f"{split}.{side}", text)
    return tmp_path


def test_a_missing_side_is_named(iwslt: Path) -> None:
    (iwslt / "iwslt14.tokenized.de-en" / "valid.en").unlink()
    with pytest.raises(DatasetUnavailable, match=r"(?s)lacks .*valid\.en.*prepare-iwslt14"):
        load_translation("iwslt14", data_root=iwslt)


@SMALL_FILES
def test_sentences_that_are_too_long_are_named_or_left_out(iwslt: Path) -> None:
    task = make_task("translation", dataset="iwslt14", data_root=iwslt, vocabulary_size=20)
    assert task.pool[0].shape == (34, 2 * 6)
    options: dict[str, Any] = {"dataset": "iwslt14", "data_root": iwslt, "vocabulary_size": 20, "max_length": 5}
    with pytest.raises(ValueError, match=r"train\.de, line 5: found a sentence of 6 tokens .*max_length=5.*drop"):
        make_task("translation", **options)
    assert len(make_task("translation", longer="drop", **options).pool[0]) == 34 - 6
    write(iwslt / "iwslt14.tokenized.de-en" / "test.en", ["word"] * 3 + [" ".join(["word"] * 9)])
    with pytest.raises(ValueError, match=r"test\.en, line 4: found a sentence of 10 tokens"):
        make_task("translation", longer="drop", **options)


def test_other_files_than_the_official_ones_have_another_name(tmp_path: Path) -> None:
    for stem in ("train", "val", "test_2016_flickr"):
        for side in ("de", "en"):
            write(tmp_path / "task1" / "raw" / f"{stem}.{side}.gz", [f"{stem} {side}"] * 3)
    with pytest.warns(UserWarning, match="not the official multi30k"):
        assert load_translation("multi30k", data_root=tmp_path).dataset == "multi30k-subset-3"


@given(st.lists(st.sampled_from(["Ein", "Hund", "läuft,", "zwei.", "Hunde", "(schnell)"]), min_size=1, max_size=8))
def test_pieces_of_words_give_back_the_text(words: list[str]) -> None:
    text = " ".join(words)
    assert PIECES.decode([BEGIN, *PIECES.encode(text), END, 5, PAD]) == text


@pytest.fixture(scope="module", autouse=True)
def pieces(tmp_path_factory: pytest.TempPathFactory) -> None:
    global PIECES
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        PIECES = pieces_of(["Ein Hund läuft, zwei Hunde laufen.", "Ein (schneller) Hund."] * 3, 60)


PIECES: Vocabulary


def test_a_byte_pair_encoding_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = ["ein Hund", "zwei Hunde"] * 5
    first = pieces_of(texts, 30)
    monkeypatch.setattr("teachenv.data.vocabulary._trained", None)
    assert pieces_of(texts, 30).digest == first.digest
    with pytest.raises(TypeError):
        pieces_of(texts, 29)
    with pytest.raises(ValueError, match="expected more than the 4"):
        pieces_of(texts, 4)


def test_words_that_are_missing_are_unknown() -> None:
    vocabulary = words_of(["b a b", "c b"])
    assert vocabulary.tokens[4:] == ("b", "a", "c")
    assert vocabulary.encode("a d") == [5, UNKNOWN]


def test_what_only_pads_is_cut_off() -> None:
    task = make_task("translation", pool_size=50)
    inputs, targets = task.pool[0][:6], task.pool[1][:6]
    length = targets.shape[1]
    x, y = trimmed(inputs, targets)
    longest = max(int((inputs[:, :length] != PAD).sum(1).max()), int((targets != VOID).sum(1).max()))
    assert y.shape == (6, longest)
    assert x.shape == (6, 2 * longest)
    assert torch.equal(x[:, :longest], inputs[:, :longest])
    assert torch.equal(x[:, longest:], inputs[:, length : length + longest])
    many = trimmed(inputs.view(2, 3, -1), targets.view(2, 3, -1))
    assert torch.equal(many[0].view(6, -1), x)


def test_minibatches_are_of_one_length_and_hold_each_sample_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 1000)
    batches = minibatches(np.random.default_rng(1), np.arange(1000), 10, 100, lengths)
    assert np.array_equal(np.sort(batches.ravel()), np.arange(1000))
    spread = np.ptp(lengths[batches], axis=1)
    assert spread.mean() < 2 < np.ptp(lengths[np.arange(1000).reshape(100, 10)], axis=1).mean()
    # Short and long ones in no order.
    means = lengths[batches].mean(1)
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.3


# --- networks and decoding -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_words_are_predicted_from_those_before_and_from_the_source(name: str) -> None:
    model, source = network(name), tokens()
    before = torch.full((5, 7), BEGIN)
    before[:, 1:] = torch.from_numpy(np.random.default_rng(1).integers(4, WORDS, (5, 6)))
    found = model(torch.cat([source, before], 1))
    assert found.shape == (5, WORDS, 7)
    later = before.clone()
    later[:, 4] = (later[:, 4] - 3) % (WORDS - 4) + 4
    changed = model(torch.cat([source, later], 1))
    torch.testing.assert_close(changed[..., :4], found[..., :4], rtol=1e-12, atol=1e-14)
    assert (changed[..., 4:] - found[..., 4:]).abs().amax((1, 2)).min() > 0
    other = source.clone()
    other[:, 0] = (other[:, 0] - 3) % (WORDS - 4) + 4
    assert (model(torch.cat([other, before], 1)) - found).abs().amax((1, 2)).min() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_changes_nothing(name: str) -> None:
    model, source = network(name, 12), tokens()
    before = torch.full((5, 7), BEGIN)
    short = model(torch.cat([source, before], 1))
    longer = torch.cat([F.pad(source, (0, 5), value=PAD), F.pad(before, (0, 5), value=PAD)], 1)
    torch.testing.assert_close(model(longer)[..., :7], short, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_word_after_word_is_as_all_at_once(name: str) -> None:
    model, source = network(name), tokens()
    before = torch.full((5, 7), BEGIN)
    before[:, 1:] = torch.from_numpy(np.random.default_rng(1).integers(4, WORDS, (5, 6)))
    whole = model(torch.cat([source, before], 1))
    memory = model.encode(source)
    state = model.start(memory)
    for place in range(7):
        logits, state = model.advance(before[:, place], memory, state)
        torch.testing.assert_close(logits, whole[..., place], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns(name: str) -> None:
    model = network(name, dropout=0.1).train()
    before = torch.full((5, 7), BEGIN)
    loss = F.cross_entropy(model(torch.cat([tokens(), before], 1)), tokens(seed=1))
    loss.backward()
    assert {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0} <= {
        # A bias of keys shifts all scores of a query alike.
        n
        for n, _ in model.named_parameters()
        if n.endswith("key.bias")
    }


def likeliest(model: Translator, source: torch.Tensor, length: int, penalty: float) -> tuple[float, list[int]]:
    """Of all translations, by trying them."""
    memory, best = model.encode(source[None]), (-np.inf, [PAD])

    def go_on(state: Any, token: int, score: float, said: list[int]) -> None:
        nonlocal best
        logits, after = model.advance(torch.tensor([token]), memory, state)
        logits[:, [PAD, BEGIN]] = -torch.inf
        for word, log_p in enumerate(logits[0].log_softmax(0).tolist()):
            if not np.isfinite(log_p):
                continue
            if word == END or len(said) + 1 == length:
                total = (score + log_p) / (len(said) + 1) ** penalty
                best = max(best, (total, [*said, word]))
            else:
                go_on(after, word, score + log_p, [*said, word])

    with torch.no_grad():
        go_on(model.start(memory), BEGIN, 0.0, [])
    return best


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best(name: str, penalty: float) -> None:
    model, source = network(name), tokens(3)
    with torch.no_grad():
        model.bias.copy_(torch.linspace(0, 1, WORDS))
        model.bias[END] = 1.5
    found = beam(model, source, 1000, length=3, penalty=penalty)
    for row, own in zip(found.tolist(), source, strict=True):
        _, expected = likeliest(model, own, 3, penalty)
        assert [n for n in row if n != PAD] == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_decoding(name: str) -> None:
    model, source = network(name), tokens()
    first = greedy(model, source)
    assert torch.equal(beam(model, source, 1), first)
    assert first.shape == (5, 7)
    for decoded in (first, beam(model, source, 3), sample(model, source, torch.Generator().manual_seed(0))):
        for row in decoded.tolist():
            said = row[: row.index(END) + 1] if END in row else row
            assert not {PAD, BEGIN} & set(said)
            assert set(row[len(said) :]) <= {PAD}
    # Greedy words are the likeliest given those before them.
    before = torch.cat([torch.full((5, 1), BEGIN), first[:, :-1]], 1)
    logits = model(torch.cat([source, before], 1))
    logits[:, [PAD, BEGIN]] = -torch.inf
    there = first != PAD
    assert torch.equal(logits.argmax(1)[there], first[there])
    one, two = (sample(model, source, torch.Generator().manual_seed(s)) for s in (1, 1))
    assert torch.equal(one, two)
    with pytest.raises(ValueError, match="at least 1"):
        beam(model, source, 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_translations_do_not_depend_on_the_other_sentences(name: str) -> None:
    model, source = network(name), tokens(40)
    with torch.no_grad():
        model.bias[END] = 0.4  # they end at different places
    alone = torch.cat([greedy(model, row) for row in source.split(1)])  # type: ignore[no-untyped-call]
    ends = (alone != PAD).sum(1)
    assert ends.min() < 3 < ends.max()
    assert torch.equal(greedy(model, source), alone)
    together = translated(functools.partial(greedy, model), source, 7)
    assert torch.equal(together, alone)


def test_samples_are_drawn_from_the_model() -> None:
    model = network("lstm")
    source = tokens(1).expand(4000, -1)
    drawn = sample(model, source, torch.Generator().manual_seed(0), 1)[:, 0]
    logits, _ = model.advance(torch.tensor([BEGIN]), model.encode(source[:1]), model.start(model.encode(source[:1])))
    logits[:, [PAD, BEGIN]] = -torch.inf
    expected = logits.softmax(-1)[0].detach().numpy()
    assert np.abs(np.bincount(drawn.numpy(), minlength=WORDS) / 4000 - expected).max() < 0.03


# --- losses and measures ---------------------------------------------------------------------------------------------


def test_diagonal_losses_are_their_formulas() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=rng, dtype=torch.float64)
    labels, action = torch.tensor([0, 3, 1, 1, 2, 0]), torch.tensor([0.5, -1.0, 0.0, 1.0], dtype=torch.float64)
    weights = torch.tensor([1.0, 1, 1, 0, 1, 1], dtype=torch.float64)
    own = logits.log_softmax(1)[torch.arange(6), labels]
    phi = (1 + 0.5 * action)[labels]
    prediction = Prediction(logits, weights=weights)
    plain, sigmoid = (make_loss(name)(action, prediction, labels) for name in ("diagonal", "diagonal-sigmoid"))
    torch.testing.assert_close(plain, -(weights * phi * own).sum() / 5)
    torch.testing.assert_close(sigmoid, -(weights * torch.sigmoid(phi * own)).sum() / 5)
    with pytest.raises(ValueError, match="scale must be a finite number above 0"):
        make_loss("diagonal", {"scale": 0.0})


def measure(objective: str = "token-accuracy", **options: Any) -> TranslationMeasure:
    return TranslationMeasure(words_of([" ".join("abcdefgh")]), objective=objective, **options)


def test_token_accuracy_is_a_mean_over_tokens() -> None:
    logits = torch.randn(2, WORDS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([[4, 5, END], [6, END, VOID]])
    own = measure(temperature=0.5)
    p = (logits / 0.5).softmax(1)
    expected = (p[0, 4, 0] + p[0, 5, 1] + p[0, END, 2] + p[1, 6, 0] + p[1, END, 1]) / 5
    torch.testing.assert_close(own.objective(logits, targets), expected)
    q = logits.log_softmax(1)
    expected = (q[0, 4, 0] + q[0, 5, 1] + q[0, END, 2] + q[1, 6, 0] + q[1, END, 1]) / 5
    torch.testing.assert_close(measure("likelihood").objective(logits, targets), expected)


class Talking:
    """A network as measures see it."""

    def __init__(self, model: Translator) -> None:
        self.model = model

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(inputs)
        return found

    @contextmanager
    def module(self) -> Iterator[Translator]:
        yield self.model


def sentences() -> tuple[torch.Tensor, torch.Tensor]:
    source, target = tokens(4, seed=2), tokens(4, seed=3)
    before = torch.cat([torch.full((4, 1), BEGIN), target[:, :-1]], 1)
    return torch.cat([source, before], 1), target.where(target != PAD, VOID)


def test_expected_bleu_is_that_of_drawn_translations() -> None:
    model, (inputs, targets) = network("lstm"), sentences()
    own = measure("expected-bleu", candidates=5, sharpness=0.3)
    found = own.objective_of(Talking(model), inputs, targets)
    drawn = sample(model, inputs[:, :7].repeat_interleave(5, 0), torch.Generator().manual_seed(0), 7)
    total = 0.0
    for i in range(4):
        distinct = {tuple(row) for row in drawn[5 * i : 5 * i + 5].tolist()}
        weights, scores = [], []
        for row in distinct:
            said = torch.tensor(row)
            before = torch.cat([torch.tensor([BEGIN]), said[:-1]])
            logits = model(torch.cat([inputs[i, :7], before])[None])[0]
            logits[[PAD, BEGIN]] = -torch.inf
            log_p = logits.log_softmax(0)
            weights.append(sum(log_p[word, place] for place, word in enumerate(row) if word != PAD))
            (text,) = texts(own.vocabulary, said[None])
            reference = references(own.vocabulary, targets[i : i + 1])
            scores.append(sacrebleu.sentence_bleu(text, reference, smooth_method="add-k", smooth_value=1).score)
        q = torch.softmax(0.3 * torch.stack(weights), 0)  # type: ignore[arg-type]
        total += float(q.detach() @ torch.tensor(scores, dtype=torch.float64)) / 100
    assert float(found.detach()) == pytest.approx(total / 4, rel=1e-9)
    gradient = torch.autograd.grad(found, list(model.parameters()), allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in gradient)


def test_no_sum_in_number_words_is_in_the_data_twice() -> None:
    data = load_translation("numbers")
    sentences = [*data.train.source, *data.valid.source, *data.test.source]
    assert len(set(sentences)) == len(sentences) == 4800


def test_bleu_is_sacrebleus_own(tmp_path: Path) -> None:
    """Of the same files, by its command line."""
    data = load_translation("numbers").test
    hypotheses = [line.replace("hundred", "thousand", i % 2) for i, line in enumerate(data.target)]
    for name, lines in (("hyp", hypotheses), ("ref", data.target)):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "ref"), "-i", str(tmp_path / "hyp"), "-b", "-w", "6"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert corpus_bleu(hypotheses, data.target) == pytest.approx(float(printed) / 100, abs=1e-8)


def test_unknown_words_match_nothing() -> None:
    own = measure()
    said = torch.tensor([[4, UNKNOWN, UNKNOWN, UNKNOWN, END]])
    assert corpus_bleu(texts(own.vocabulary, said), references(own.vocabulary, said)) < 0.5


# --- the environment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "loss", "objective"),
    [
        ("lstm", "diagonal-sigmoid", "expected-bleu"),
        ("transformer", "diagonal", "token-accuracy"),
    ],
)
def test_the_action_gradient_is_that_of_differences(student: str, loss: str, objective: str) -> None:
    env = meta.ActionGradient(made(student, loss=loss, objective=objective, warm_start=3))
    size = env.action_space.shape
    assert size == (63,)
    rng = np.random.default_rng(0)
    actions, direction = rng.uniform(-0.3, 0.3, (3, 63)), rng.uniform(-1, 1, (3, 63))

    def final(actions: np.ndarray) -> dict[str, Any]:
        env.reset(seed=0)
        for action in actions:
            *_, info = env.step(action)
        return info

    gradient = final(actions)["action_gradient"]
    step = 1e-5
    ahead, behind = (final(actions + sign * step * direction)["objective"] for sign in (1, -1))
    slope = (ahead - behind) / (2 * step)
    assert abs(slope) > 1e-9
    assert float((gradient * direction).sum()) == pytest.approx(
        slope, rel=1e-4 if objective == "expected-bleu" else 1e-6
    )


def test_the_zero_action_is_a_plain_loop_with_cross_entropy() -> None:
    env = made(dtype="float32", momentum=0.0)
    env.reset(seed=0)
    task, episode = env.problem.task, env.episode
    model = make_student("lstm", tuple(task.pool[0].shape[1:]), task.num_outputs, NETWORKS["lstm"])()
    model.load_state_dict(dict(env.student.parameters) | dict(env.student.buffers))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(3):
        env.step(np.zeros(63, dtype=np.float32))
        inputs, targets = trimmed(*(part[episode.batches[step]] for part in task.pool))
        logits = model(inputs).movedim(1, -1).reshape(-1, task.num_outputs)
        known = (targets.reshape(-1) != VOID).float()
        losses = F.cross_entropy(logits, targets.reshape(-1).clamp(min=0), reduction="none")
        optimizer.zero_grad()
        ((known * losses).sum() / known.sum()).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(env.student.parameters[name], parameter), name


def test_students_learn_to_translate() -> None:
    env = made(
        student_kwargs={"width": 32}, pool_size=None, horizon=150, steps_per_action=50, batch_size=32,
        optimizer="adam", learning_rate=5e-3, dtype="float32",
    )  # fmt: skip
    observation, _ = env.reset(seed=0)
    seen = [observation]
    for _ in range(3):
        observation, *_ = env.step(np.zeros(63, dtype=np.float32))
        seen.append(observation)
    assert env.OBSERVATION_FIELDS == ("progress", "train_bleu", "dev_bleu")
    assert seen[0][2] < 0.05
    assert seen[-1][1:].min() > 0.4
    found = env.evaluate("test")
    assert found["test_bleu"] == pytest.approx(1 - found["test_error"], abs=1e-6)
    assert found["test_bleu"] > 0.4
    assert found["test_token_accuracy"] > 0.8


@pytest.mark.parametrize("objective", ["token-accuracy", "expected-bleu"])
def test_a_vector_environment_is_as_many_environments(
    objective: str, few_test_sentences: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    few_test_sentences(monkeypatch)
    options = {**SMALL, "student": "lstm", "student_kwargs": NETWORKS["lstm"], "objective": objective}
    several = gym.make_vec("TeachTranslation-v0", num_envs=2, **options)
    assert several.unwrapped.path == "loop"  # type: ignore[attr-defined]
    first, _ = several.reset(seed=[3, 4])
    action = np.random.default_rng(0).uniform(-1, 1, (2, 63))
    observations, rewards, *_ = several.step(action)
    found = several.unwrapped.evaluate("test")  # type: ignore[attr-defined]
    for i, seed in enumerate((3, 4)):
        env = made(objective=objective)
        begun, _ = env.reset(seed=seed)
        np.testing.assert_allclose(first[i], begun, atol=1e-9)
        observation, reward, *_ = env.step(action[i])
        np.testing.assert_allclose(observations[i], observation, rtol=1e-6, atol=1e-9)
        assert rewards[i] == pytest.approx(reward, abs=1e-9)
        assert {name: float(value[i]) for name, value in found.items()} == pytest.approx(env.evaluate("test"), abs=1e-6)


def test_objectives_of_translation_are_no_others() -> None:
    with pytest.raises(ValueError, match="is of translation"):
        gym.make("TeachDigits-v0", objective="expected-bleu")
    with pytest.raises(ValueError, match=r"path=\"vmap\" does not work.*decodes"):
        gym.make_vec("TeachTranslation-v0", num_envs=2, path="vmap", **SMALL)
    with pytest.raises(ValueError, match="whole words"):
        made(task_kwargs={"vocabulary_size": 100})


@pytest.mark.skipif(REAL is None or not (Path(REAL) / "multi30k").is_dir(), reason="Multi30k is not on this machine")
def test_multi30k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    task = make_task("translation", dataset="multi30k", data_root=REAL)
    assert task.dataset == "multi30k"
    assert len(task.pool[0]) == 30_014
    assert task.num_outputs == 8_000
    lines = load_translation("multi30k", data_root=REAL).test
    assert isinstance(task.decisions, TokenDecisions)
    assert references(task.decisions.vocabulary, task.test[1]) == lines.target


@SMALL_FILES
def test_a_teacher_of_another_vocabulary_is_refused(iwslt: Path, tmp_path: Path) -> None:
    def own(size: int) -> TeachEnv:
        return made(dataset="iwslt14", data_root=str(iwslt), task_kwargs={"vocabulary_size": size}, pool_size=30)

    first = own(20)
    teacher = meta.RMD("AttentionPolicy", first, seed=0).learn(3)
    teacher.save(tmp_path / "teacher")
    again = meta.RMD.load(tmp_path / "teacher", env=first)
    again.learn(3, reset_num_timesteps=False)
    for side, word in (("de", "wart"), ("en", "ward")):
        write(iwslt / "iwslt14.tokenized.de-en" / f"train.{side}", [" ".join([word] * (1 + i % 5)) for i in range(30)])
    other = own(20)
    assert other.action_space == first.action_space
    with pytest.raises(ValueError, match=r"trained on a vocabulary of \d+ tokens .* found an environment of"):
        meta.RMD.load(tmp_path / "teacher", env=other)
    teacher.set_env(other)
    with pytest.raises(ValueError, match="trained on a vocabulary"):
        teacher.learn(3)
