"""Transformers as teachers and students: a tiny random BERT, made here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import meta
from meta.distillation import LGTM, Batch, DistillationSettings
from meta.distillation.text import TextClassifier, Tokenizer
from teachenv.data import Texts

WORDS = [*"abcdefghijklmnop"]


@pytest.fixture(scope="module")
def checkpoint(make_bert: Callable[..., Path]) -> Path:
    return make_bert(WORDS, 16, 3)


def texts(count: int = 8, seed: int = 0) -> Texts:
    rng = np.random.default_rng(seed)

    def sentence() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(2, 7)))

    return Texts([sentence() for _ in range(count)], [sentence() for _ in range(count)], rng.integers(0, 2, count))


def test_texts_become_batches(checkpoint: Path) -> None:
    tokenizer, given = Tokenizer(checkpoint, max_length=10), texts()
    batch = tokenizer(given)
    assert set(batch.inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(tensor.shape == (8, 10) for tensor in batch.inputs.values())
    assert batch.labels.tolist() == given.labels.tolist()
    few = batch.at(torch.tensor([3, 1]))
    assert torch.equal(few.inputs["input_ids"], batch.inputs["input_ids"][[3, 1]])
    alone = tokenizer(Texts(given.first, None, given.labels))
    assert alone.inputs["token_type_ids"].sum() == 0 < batch.inputs["token_type_ids"].sum()


@pytest.mark.parametrize("damage", ["half", "garbage", "empty"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"])
def test_a_damaged_file_of_a_checkpoint_is_named(name: str, damage: str, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "bert"))
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes({"half": whole[: len(whole) // 2], "garbage": b"\xff\x00", "empty": b""}[damage])
    with pytest.raises(OSError, match=name) as caught:
        Tokenizer(folder) if name.startswith("token") else TextClassifier(folder, 2)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_network_is_refused(make_bert: Callable[..., Path], checkpoint: Path) -> None:
    folder = make_bert([*WORDS, "another"], 16, 1)
    for file in checkpoint.glob("config.json"):
        shutil.copy(file, folder)
    with pytest.raises(ValueError, match="has 22 tokens and its network knows 21"):
        Tokenizer(folder)


def test_a_student_begins_with_the_teachers_first_layers(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    teacher, student = TextClassifier(checkpoint, 2), TextClassifier(checkpoint, 2, layers=2)
    batch = Tokenizer(checkpoint, 12)(texts())
    taught, own = (network.eval()(batch.inputs) for network in (teacher, student))
    assert len(taught.hidden) == 3
    torch.testing.assert_close(own.hidden, taught.hidden[:2])
    # Classifiers of zeros: nothing is said at first.
    assert own.logits.abs().max() == 0
    assert TextClassifier(checkpoint, 2, zero_classifier=False).eval()(batch.inputs).logits.abs().max() > 0
    assert not caplog.records
    with pytest.raises(ValueError, match="1 to 3"):
        TextClassifier(checkpoint, 2, layers=4)


def test_the_mean_is_of_tokens_that_are_there(checkpoint: Path) -> None:
    network = TextClassifier(checkpoint, 2, zero_classifier=False, pooling="mean").eval()
    given = texts()
    padded, longer = (network(Tokenizer(checkpoint, length)(given).inputs) for length in (16, 24))
    torch.testing.assert_close(padded.logits, longer.logits)
    torch.testing.assert_close(padded.hidden, longer.hidden)
    inputs = Tokenizer(checkpoint, 16)(given).at(slice(0, 1)).inputs
    there = int(inputs["attention_mask"].sum())
    states = network.encoder(**inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(padded.hidden[1][:1], states[2][:, :there].mean(1))
    with pytest.raises(ValueError, match=r"pooling.*max"):
        TextClassifier(checkpoint, 2, pooling="max")  # type: ignore[arg-type]


def test_influence_on_bert(checkpoint: Path) -> None:
    """Exact by one forward pass, through attention masks; the oracle goes sample by sample."""
    student = TextClassifier(checkpoint, 2, zero_classifier=False).double()
    batch, held_out = (Tokenizer(checkpoint, 12)(texts(seed=s)) for s in (0, 1))

    def losses(network: torch.nn.Module, given: Batch) -> torch.Tensor:
        return F.cross_entropy(network(given.inputs).logits, given.labels, reduction="none")

    v = meta.held_out_gradient(student, losses, held_out)
    exact, oracle = (meta.influence(student, losses, batch, v, method=m) for m in ("exact", "per-sample"))
    torch.testing.assert_close(exact, oracle, rtol=1e-9, atol=1e-12)
    assert exact.abs().min() > 0
    radii = [0.01, 0.003, 0.001]
    errors = [
        (meta.influence(student, losses, batch, v, method="finite-difference", radius=r) - exact).norm() for r in radii
    ]
    assert np.polyfit(np.log(radii), np.log(errors), 1)[0] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("mode", ["released", "meta", "reweight"])
def test_lgtm_on_bert(checkpoint: Path, mode: str) -> None:
    teacher, student = TextClassifier(checkpoint, 2), TextClassifier(checkpoint, 2, layers=2)
    lgtm = LGTM(teacher, student, DistillationSettings(4, 1e-2, 1e-2), mode=mode, influence_rate=1.0)  # type: ignore[arg-type]
    batch, feedback = (Tokenizer(checkpoint, 12)(texts(seed=s)) for s in (0, 1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        logged = [lgtm.step(batch, feedback) for _ in range(3)]
    assert all(np.isfinite(list(numbers.values())).all() for numbers in logged)
    assert logged[-1]["influence_ratio"] > 0
    assert all(torch.isfinite(p).all() for p in teacher.parameters())
