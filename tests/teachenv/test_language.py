"""Corpora of language models, and the models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from teachenv.data import columns, load_language, number_words
from teachenv.errors import DatasetUnavailable
from teachenv.students.language import AWDLSTM, LANGUAGE_MODELS, TransformerXL, make_language_model
from teachenv.students.language.transformer_xl import shifted

SMALL: dict[str, dict[str, Any]] = {
    "lstm": {"width": 16},
    "awd-lstm": {"embedding": 12, "width": 20},
    "transformer-xl": {"width": 16, "heads": 2, "head_width": 8, "inner": 32, "memory": 40},
}
WORDS = 30
REAL = os.environ.get("TEACHENV_DATA")


def model(name: str, **options: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_language_model(name, WORDS, **SMALL[name] | options).double()


def text(length: int = 17, batch: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, WORDS, (length, batch)))


def test_the_number_words_are_a_text_that_is_always_the_same() -> None:
    corpus, again = load_language("numbers"), load_language("numbers")
    assert np.array_equal(corpus.train, again.train)
    assert corpus.vocabulary == again.vocabulary
    words = [corpus.vocabulary[i] for i in corpus.train]
    first = words[: words.index("<eos>") + 1]
    left, right = " ".join(first[:-1]).split(" is ")
    assert right == number_words(sum(map(NUMBERS.index, left.split(" and "))))
    assert len({tuple(array[:30]) for array in (corpus.train, corpus.valid, corpus.test)}) == 3


def test_the_most_frequent_words_are_told_apart() -> None:
    whole, few = load_language("numbers"), load_language("numbers", words=12, train_size=500)
    assert few.dataset == "numbers-12-words-subset-500"
    assert few.vocabulary == (*whole.vocabulary[:11], "<unk>")
    for split in ("train", "valid", "test"):
        all_words, kept = (getattr(corpus, split)[:500] for corpus in (whole, few))
        assert np.array_equal(kept, np.minimum(all_words, 11))
    again = load_language("numbers", words=len(whole.vocabulary))
    assert np.array_equal(again.test, whole.test)
    for words in (1, len(whole.vocabulary) + 1):
        with pytest.raises(ValueError, match=f"found words={words}, expected 2 to {len(whole.vocabulary)}"):
            load_language("numbers", words=words)


NUMBERS = [number_words(n) for n in range(1000)]


def test_numbers_have_one_name_each() -> None:
    assert len(set(NUMBERS)) == 1000
    assert NUMBERS[0] == "zero"
    assert NUMBERS[115] == "one hundred fifteen"
    assert NUMBERS[940] == "nine hundred forty"
    with pytest.raises(ValueError, match="0 to 999"):
        number_words(1000)


@pytest.mark.filterwarnings("ignore:the files in .* are not the official")
@pytest.mark.parametrize(
    ("folder", "file"), [("wikitext-2", "wiki.{}.tokens"), ("wikitext-2", "{}.txt"), ("x/wikitext-2", "wiki.{}.tokens")]
)
def test_wikitext_is_read_from_either_layout(folder: str, file: str, tmp_path: Path) -> None:
    place = tmp_path / folder
    place.mkdir(parents=True)
    for split, lines in {"train": "a b\na c <unk>\n", "valid": "a d\n", "test": "b\n\n"}.items():
        (place / file.format(split)).write_text(lines)
    with pytest.warns(UserWarning, match="found 7 train tokens, official 2,088,628"):
        corpus = load_language("wikitext-2", data_root=place.parent)
    assert corpus.dataset == "wikitext-2-subset-7"
    assert corpus.vocabulary == ("<eos>", "a", "<unk>", "b", "c")
    assert corpus.train.tolist() == [1, 3, 0, 1, 4, 2, 0]
    assert corpus.valid.tolist() == [1, 2, 0]  # d is unknown
    assert corpus.test.tolist() == [3, 0, 0]
    few = load_language("wikitext-2", data_root=place.parent, train_size=4)
    assert (few.dataset, len(few.train), few.vocabulary) == ("wikitext-2-subset-4", 4, corpus.vocabulary)
    with pytest.raises(ValueError, match="1 to 7"):
        load_language("wikitext-2", data_root=place.parent, train_size=8)


@pytest.mark.skipif(REAL is None or not (Path(REAL) / "ptb").is_dir(), reason="PTB is not on this machine")
def test_the_penn_treebank() -> None:
    corpus = load_language("ptb", data_root=REAL)
    assert (corpus.dataset, len(corpus.vocabulary)) == ("ptb", 10_000)
    assert [len(part) for part in (corpus.train, corpus.valid, corpus.test)] == [929_589, 73_760, 82_430]


def test_files_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teachenv.data.language._download_ptb", _no_network)
    with pytest.raises(DatasetUnavailable, match=r"(?s)ptb\.train\.txt.*TEACHENV_DATA"):
        load_language("ptb", data_root=tmp_path)
    for split in ("train", "valid", "test"):
        (tmp_path / f"ptb.{split}.txt").write_text("\n")
    with pytest.raises(DatasetUnavailable, match="no word"):
        load_language("ptb", data_root=tmp_path)
    with pytest.raises(ValueError, match=r"ptv.*ptb"):
        load_language("ptv")


def _no_network(directory: Path) -> None:
    raise OSError("no network")


@given(length=st.integers(2, 60), batch=st.integers(1, 9))
def test_columns_are_the_text_side_by_side(length: int, batch: int) -> None:
    tokens = np.arange(length)
    if length // batch < 2:
        with pytest.raises(ValueError, match="too few"):
            columns(tokens, batch)
        return
    found = columns(tokens, batch)
    assert found.shape == (length // batch, batch)
    assert np.array_equal(found.T.ravel(), tokens[: found.size])


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_text_may_be_read_in_pieces(name: str) -> None:
    reader, tokens = model(name).eval(), text()
    whole, state, pieces = reader(tokens), None, []
    assert whole.logits.shape == (17, 3, WORDS)
    assert whole.penalty is None
    for start, stop in ((0, 5), (5, 6), (6, 17)):
        spoken = reader(tokens[start:stop], state)
        pieces.append(spoken.logits)
        state = spoken.state
    torch.testing.assert_close(torch.cat(pieces), whole.logits, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_no_word_is_seen_before_its_time(name: str) -> None:
    reader, tokens = model(name).eval(), text()
    other = tokens.clone()
    other[9] = (other[9] + 1) % WORDS
    one, two = reader(tokens).logits, reader(other).logits
    assert torch.equal(one[:9], two[:9])
    assert (one[9:] - two[9:]).abs().amax((1, 2)).min() > 0


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_every_parameter_learns_and_the_state_has_no_graph(name: str) -> None:
    reader = model(name).train()
    state = reader(text()).state
    assert all(not tensor.requires_grad for pair in state for tensor in pair)
    spoken = reader(text(seed=1), state)
    loss = F.cross_entropy(spoken.logits.flatten(0, 1), text(seed=2).flatten())
    (loss if spoken.penalty is None else loss + spoken.penalty).backward()
    assert {n for n, p in reader.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0} == set()


def test_memory_is_as_long_as_it_may_be() -> None:
    """With a short memory what lies before it is not seen, except through the states that are remembered."""
    reader = model("transformer-xl", memory=4, layers=1).eval()
    state = reader(text(10)).state
    assert [len(part) for part in state] == [4]
    far, near = text(10), text(10)
    far[2] = (far[2] + 1) % WORDS
    near[8] = (near[8] + 1) % WORDS
    after = text(3, seed=1)
    plain = reader(after, state).logits
    assert torch.equal(reader(after, reader(far).state).logits, plain)
    assert not torch.equal(reader(after, reader(near).state).logits, plain)


@given(queries=st.integers(1, 6), more=st.integers(0, 5))
def test_scores_are_shifted_to_their_keys(queries: int, more: int) -> None:
    scores = torch.randn(2, queries, queries + more, generator=torch.Generator().manual_seed(0))
    found = shifted(scores)
    for i in range(queries):
        for j in range(i + more + 1):
            assert torch.equal(found[:, i, j], scores[:, i, j + queries - 1 - i])


def test_attention_is_the_papers_formula() -> None:
    """One head, one layer, against a double loop over queries and keys."""
    reader = model("transformer-xl", layers=1, heads=1, dropout=0.0)
    assert isinstance(reader, TransformerXL)
    layer: Any = reader.layers[0]
    tokens, before = text(5, 1), text(7, 1, 1)
    state = reader(before).state
    states = torch.cat([state[0], reader.embedding(tokens) * 4.0])[:, 0]  # √16
    u, v = reader.content_bias[0], reader.place_bias[0]
    rows = []
    for i in range(5):
        q, scores = layer.query(states[7 + i]), []
        for j in range(7 + i + 1):
            distance = torch.tensor(float(i + 7 - j), dtype=torch.float64)
            rates = 10_000 ** -(torch.arange(0, 16, 2, dtype=torch.float64) / 16)
            r = layer.place(torch.cat([(distance * rates).sin(), (distance * rates).cos()]))
            scores.append(((q + u) @ layer.key(states[j]) + (q + v) @ r) / 8**0.5)
        weights = torch.stack(scores).softmax(0)
        rows.append(layer.out(weights @ layer.value(states[: 7 + i + 1])))
    attended = layer.attended(states[7:] + torch.stack(rows))
    expected = reader.head(layer.fed(attended + layer.feed(attended)))
    torch.testing.assert_close(reader(tokens, state).logits[:, 0], expected, rtol=1e-9, atol=1e-12)


def test_awd_drops_weights_and_whole_words() -> None:
    options = {"dropout": 0.0, "hidden_dropout": 0.0, "input_dropout": 0.0}
    plain = {"word_dropout": 0.0, "weight_dropout": 0.0, "activation": 0.0, "temporal_activation": 0.0}
    reader = model("awd-lstm", **options, **plain)
    assert torch.equal(reader.train()(text()).logits, reader.eval()(text()).logits)
    dropping = model("awd-lstm", **options, **plain | {"weight_dropout": 0.5}).train()
    first, second = dropping(text()).logits, dropping(text()).logits
    # At the first word there is no hidden state that a weight could take up.
    torch.testing.assert_close(first[0], second[0])
    assert not torch.allclose(first[1:], second[1:])
    words = model("awd-lstm", **options, **plain | {"word_dropout": 0.5}).train()
    one = torch.arange(WORDS)[None]
    twice = words(torch.cat([one, one], 1)).logits[0]
    torch.testing.assert_close(twice[:WORDS], twice[WORDS:])


def test_awds_penalty_is_of_the_last_layer() -> None:
    free = {"dropout": 0.0, "hidden_dropout": 0.0, "input_dropout": 0.0, "word_dropout": 0.0, "weight_dropout": 0.0}
    reader = model("awd-lstm", **free, activation=0.5, temporal_activation=0.25).train()
    assert isinstance(reader, AWDLSTM)
    kept: list[torch.Tensor] = []
    reader.dropout.register_forward_hook(lambda module, given, found: kept.append(found))
    penalty = reader(text()).penalty
    (states,) = kept
    torch.testing.assert_close(penalty, 0.5 * (states**2).mean() + 0.25 * ((states[1:] - states[:-1]) ** 2).mean())


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"gru.*lstm"):
        make_language_model("gru", WORDS)
    with pytest.raises(TypeError, match="depth"):
        make_language_model("lstm", WORDS, depth=3)
