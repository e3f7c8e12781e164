"""Losses of whole translations, against their formulas written out and against exact expectations."""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from teachenv.bleu import bleu_gains, sentence_bleu, sentence_bleus, texts
from teachenv.data.vocabulary import BEGIN, END, PAD, words_of
from teachenv.decoding import sample, sayable
from teachenv.sequence_losses import (
    ActorCritic,
    CandidateLoss,
    Candidates,
    MinimumRisk,
    Reinforce,
    SoftmaxMargin,
    beside,
    drawn_candidates,
    log_probabilities,
)
from teachenv.students.translation import AttentiveLSTM, Translator
from teachenv.tasks.base import VOID

VOCABULARY = words_of(["a b c d"])
WORDS = len(VOCABULARY)
SOURCE = torch.tensor([[4, 5, END], [6, END, PAD]])
TARGETS = torch.tensor([[5, 4, END], [6, END, VOID]])
INPUTS = torch.cat([SOURCE, torch.tensor([[BEGIN, 5, 4], [BEGIN, 6, END]])], 1)


def network(seed: int = 0, length: int = 3) -> Translator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AttentiveLSTM(length, WORDS, 6).double().eval()


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_drawn_candidates_know_their_bleu_and_what_is_repeated() -> None:
    found = drawn_candidates(network(), VOCABULARY, INPUTS, TARGETS, 6, draws())
    for own, bleu, repeated, reference in zip(*found, ("b a", "c"), strict=True):
        rows = [tuple(row) for row in own.tolist()]
        assert [rows.index(row) < k for k, row in enumerate(rows)] == repeated.tolist()
        expected = [sentence_bleu(text, reference) for text in texts(VOCABULARY, own)]
        assert bleu.tolist() == expected
    assert found.repeated.any()


def test_log_probabilities_are_those_of_what_is_drawn() -> None:
    model, every = network(), []
    for said in itertools.product(range(WORDS), repeat=2):
        if not {PAD, BEGIN} & set(said) and said[0] != END:
            every.append(said)
    every.append((END, PAD))
    tokens = torch.tensor(every).expand(2, -1, -1)
    p = log_probabilities(model, SOURCE, tokens).sum(2).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(2, dtype=torch.float64))
    drawn = sample(model, SOURCE[:1].expand(4000, -1), draws(), 2)
    share = (drawn[:, None] == tokens[0]).all(-1).double().mean(0)
    assert float((share - p[0]).abs().max().detach()) < 0.03


CANDIDATES = Candidates(
    torch.tensor([[[5, 4, END], [5, END, PAD], [4, END, PAD]], [[6, END, PAD], [5, 5, END], [5, 5, END]]]),
    torch.tensor([[1.0, 0.3, 0.2], [0.1, 0.4, 0.4]], dtype=torch.float64),
    torch.tensor([[False, False, False], [False, False, True]]),
)


def log_p() -> torch.Tensor:
    values = -torch.rand(2, 3, 3, generator=draws(), dtype=torch.float64)
    return (values * (CANDIDATES.tokens != PAD)).requires_grad_()


def test_minimum_risk_is_its_formula() -> None:
    given = log_p()
    total = given.sum(2)
    first = torch.softmax(0.7 * total[0], 0) @ CANDIDATES.bleu[0]
    second = torch.softmax(0.7 * total[1, :2], 0) @ CANDIDATES.bleu[1, :2]
    found = MinimumRisk(VOCABULARY, sharpness=0.7).of_candidates(given, CANDIDATES)
    torch.testing.assert_close(found, -(first + second) / 2)


def test_softmax_margin_is_its_formula() -> None:
    given = log_p()
    total = torch.zeros((), dtype=torch.float64)
    for row, count, best in ((0, 3, 0), (1, 2, 1)):
        scores = [given[row, k].sum() / int((CANDIDATES.tokens[row, k] != PAD).sum()) for k in range(count)]
        gaps = [CANDIDATES.bleu[row, best] - CANDIDATES.bleu[row, k] for k in range(count)]
        each = [torch.exp(gap + score) for gap, score in zip(gaps, scores, strict=True)]
        total = total - torch.log(torch.exp(scores[best]) / torch.stack(each).sum())
    found = SoftmaxMargin(VOCABULARY).of_candidates(given, CANDIDATES)
    torch.testing.assert_close(found, total / 2)


def test_reinforce_follows_the_gradient_of_expected_bleu() -> None:
    """In the mean: against the expectation over all translations of at most two words."""
    model = network(length=2)
    source, target = torch.tensor([[4, END]]), torch.tensor([[5, END]])
    inputs = torch.cat([source, torch.tensor([[BEGIN, 5]])], 1)
    every = [said for said in itertools.product(range(WORDS), repeat=2) if not {PAD, BEGIN, END} & {said[0]}]
    every = [said for said in every if said[1] not in (PAD, BEGIN)] + [(END, PAD)]
    tokens = torch.tensor(every)[None]
    bleu = sentence_bleus(VOCABULARY, tokens, target)
    exact = torch.autograd.grad(
        -(log_probabilities(model, source, tokens).sum(2).exp() * bleu).sum(), list(model.parameters())
    )
    many = 3000
    found = torch.autograd.grad(
        Reinforce(VOCABULARY, 4)(model, inputs.expand(many, -1), target.expand(many, -1), draws()),
        list(model.parameters()),
    )
    exact_all, found_all = (torch.cat([g.flatten() for g in gradient]) for gradient in (exact, found))
    assert float(F.cosine_similarity(exact_all, found_all, 0)) > 0.97
    assert float(found_all.norm() / exact_all.norm()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("loss", [MinimumRisk, SoftmaxMargin, Reinforce])
def test_candidates_gain_what_their_bleu_says(loss: type[CandidateLoss]) -> None:
    """A step along the gradient moves probability from the worst to the best."""
    given = log_p()
    (gradient,) = torch.autograd.grad(loss(VOCABULARY).of_candidates(given, CANDIDATES), given)
    assert float(gradient[0, 0, 0]) < 0 < float(gradient[0, 2, 0])


def test_cross_entropy_stands_beside_by_its_weight() -> None:
    model = network()
    alone, mixed = (
        loss(model, INPUTS, TARGETS, draws())
        for loss in (SoftmaxMargin(VOCABULARY), SoftmaxMargin(VOCABULARY, likelihood=0.3))
    )
    token = F.cross_entropy(model(INPUTS), TARGETS, ignore_index=VOID)
    torch.testing.assert_close(mixed, 0.7 * alone + 0.3 * token)


@pytest.mark.parametrize("fails", [False, True])
def test_drawing_leaves_the_modes_as_they_were(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network().train()
    next(model.children()).eval()
    before = [part.training for part in model.modules()]
    if fails:
        monkeypatch.setattr("teachenv.sequence_losses.sentence_bleus", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        MinimumRisk(VOCABULARY)(model, INPUTS, TARGETS, draws())
    assert [part.training for part in model.modules()] == before


def test_gains_of_words_add_up_to_bleu() -> None:
    said = torch.tensor([[5, 4, END], [5, 5, 6]])
    gains = bleu_gains(VOCABULARY, said, TARGETS)
    assert gains.sum(1).tolist() == pytest.approx(sentence_bleus(VOCABULARY, said[:, None], TARGETS)[:, 0].tolist())
    assert float(gains[0, 2]) == 0
    assert float(gains[0, 0]) == pytest.approx(sentence_bleu("b", "b a"))


def test_actor_critic_is_its_formula() -> None:
    actor, critic = network(1), network(2)
    loss = ActorCritic(VOCABULARY, critic, actor, penalty=0.1)
    with torch.no_grad():  # delayed networks are others
        for net in (loss.delayed_actor, loss.delayed_critic):
            for parameter in net.parameters():
                parameter.mul_(0.9)
    reference = TARGETS.where(TARGETS != VOID, PAD)
    said = sample(loss.delayed_actor, SOURCE, draws())
    gains, total, words = bleu_gains(VOCABULARY, said, TARGETS), torch.zeros((), dtype=torch.float64), 0
    for row, tokens in enumerate(said.tolist()):
        source, ours = SOURCE[row : row + 1], said[row : row + 1]
        old_p, p = (sayable(net(beside(source, ours))[0], 0).softmax(0) for net in (loss.delayed_actor, actor))
        old_q, q = (net(beside(reference[row : row + 1], ours))[0] for net in (loss.delayed_critic, critic))
        last = max(place for place, token in enumerate(tokens) if token != PAD)
        for place in range(last + 1):
            wanted = gains[row, place] + (0 if place == last else (old_p * old_q).sum(0)[place + 1])
            values = q[:, place]
            total = total + (values[tokens[place]] - wanted.detach()) ** 2
            total = total + 0.1 * ((values - values.mean()) ** 2).sum() - (p[:, place] * values.detach()).sum()
            words += 1
    found = loss(actor, INPUTS, TARGETS, draws())
    torch.testing.assert_close(found, total / words)
    for net in (actor, critic):
        ours = torch.autograd.grad(found, list(net.parameters()), retain_graph=True)
        theirs = torch.autograd.grad(total / words, list(net.parameters()), retain_graph=True)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


def test_the_critic_learns_alone_first_and_delayed_networks_follow() -> None:
    actor, critic = network(1), network(2)
    loss = ActorCritic(VOCABULARY, critic, actor, alone=1, delay=0.25)
    found = loss(actor, INPUTS, TARGETS, draws())
    assert all(g is None for g in torch.autograd.grad(found, list(actor.parameters()), allow_unused=True))
    before = loss.delayed_critic.bias.clone()
    with torch.no_grad():
        critic.bias.add_(1)
    loss.stepped(actor)
    torch.testing.assert_close(loss.delayed_critic.bias, before + 0.25)
    (gradient,) = torch.autograd.grad(loss(actor, INPUTS, TARGETS, draws()), [actor.bias])
    assert float(gradient.abs().sum()) > 0
    assert loss.modules() == [critic]


def test_a_critic_learns_what_words_are_worth() -> None:
    """Where a translation is one word, its value is that word's BLEU."""
    actor, critic = network(1, 1), network(2, 1)
    loss = ActorCritic(VOCABULARY, critic, actor, alone=10_000, penalty=0.0)
    inputs = torch.tensor([[4, BEGIN], [5, BEGIN]]).repeat(20, 1)
    targets = torch.tensor([[5], [6]]).repeat(20, 1)
    optimizer = torch.optim.Adam(critic.parameters(), 0.03)
    generator = draws()
    for _ in range(150):
        optimizer.zero_grad()
        loss(actor, inputs, targets, generator).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    values = critic(torch.cat([targets[:2], inputs[:2, 1:]], 1))[..., 0].detach()
    for row, right in ((0, 5), (1, 6)):
        expected = [sentence_bleu(VOCABULARY.tokens[word], VOCABULARY.tokens[right]) for word in (4, 5, 6, 7)]
        assert np.abs(values[row, 4:8].numpy() - expected).max() < 0.15


@pytest.mark.parametrize("candidates", [0, 1])
def test_candidates_are_several(candidates: int) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Reinforce(VOCABULARY, candidates)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Reinforce(VOCABULARY, 2, likelihood=1.5)
    with pytest.raises(ValueError, match="sharpness must be positive"):
        MinimumRisk(VOCABULARY, 2, sharpness=0.0)
