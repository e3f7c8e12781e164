"""Losses of whole translations that L2T-DLF's teacher is measured against: its Table 3.

Each is an object that is called with a network in training mode, a minibatch as `teachenv.tasks.translation` makes it,
and a generator that draws translations; it gives a scalar to minimise. Translations are drawn from the network as it
evaluates (without dropout) and scored as it trains. `likelihood` is the weight of token cross-entropy beside a loss of
whole translations, (1 − λ) L + λ CE: every paper below has such a term, since drawn translations alone teach slowly.

A loss may have networks of its own (`modules`, trained together with the student) and follow its steps (`stepped`).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from teachenv.bleu import bleu_gains, sentence_bleus
from teachenv.data.vocabulary import PAD, Vocabulary
from teachenv.decoding import beside, by_length, cut, sample, sayable
from teachenv.modes import evaluating
from teachenv.students.translation import Translator
from teachenv.tasks.base import VOID

_TOGETHER = 32

Forward = Callable[[torch.Tensor], torch.Tensor]
"""(n, 2L) source and words before, to (n, words, L) logits."""


class Candidates(NamedTuple):
    """K drawn translations of each of n sources.

    Attributes:
        tokens: token numbers of the translations, (n, K, L').
        bleu: BLEU of each translation, (n, K).
        repeated: (n, K), whether an earlier one of the same source is the same.
    """

    tokens: torch.Tensor
    bleu: torch.Tensor
    repeated: torch.Tensor


def drawn_candidates(
    model: Translator,
    vocabulary: Vocabulary,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    count: int,
    generator: torch.Generator,
) -> Candidates:
    """Draws translations of each source of a minibatch.

    Args:
        model: a translating network in evaluation mode.
        vocabulary: the words of the targets.
        inputs: sources and the words before, (n, 2L).
        targets: references, (n, L).
        count: number K of translations of each source.
        generator: the generator that draws.
    """
    source = inputs[:, : targets.shape[1]].repeat_interleave(count, 0)
    with torch.no_grad():
        tokens = cut(sample(model, source, generator))
    tokens = tokens.view(len(targets), count, -1)
    same = (tokens[:, :, None] == tokens[:, None]).all(-1).tril(-1).any(-1)
    return Candidates(tokens, sentence_bleus(vocabulary, tokens, targets).to(inputs.device), same)


def log_probabilities(forward: Forward, source: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The log-probability of each word of given translations, 0 at padding: (n, L) and (n, K, L') to (n, K, L')."""
    said, longest = tokens.flatten(0, 1), tokens.shape[2]
    sources = source.repeat_interleave(tokens.shape[1], 0)

    def of_rows(rows: torch.Tensor) -> torch.Tensor:
        part = cut(said[rows])
        logits = sayable(saying(forward, sources[rows], part), 1)
        return F.pad(-F.cross_entropy(logits, part, reduction="none", ignore_index=PAD), (0, longest - part.shape[1]))

    # One drawn translation that does not end would make all others as long.
    return by_length((said != PAD).sum(1), of_rows, _TOGETHER).view(tokens.shape)


def saying(forward: Forward, source: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """Outputs at each word of given translations: (n, L) and (n, L') to (n, words, L')."""
    return forward(beside(source, said))[..., : said.shape[1]]


def expected_bleu(log_p: torch.Tensor, candidates: Candidates, sharpness: float) -> torch.Tensor:
    """Mean over sources of Σ_k q_k BLEU_k, with q_k ∝ p_k^α among different candidates (Shen et al. 2016).

    Args:
        log_p: log-probabilities of the candidates, (n, K).
        candidates: the candidates.
        sharpness: exponent α of the probabilities.
    """
    q = torch.softmax((sharpness * log_p).masked_fill(candidates.repeated, -torch.inf), 1)
    return (q * candidates.bleu.to(q)).sum(1).mean()


class SequenceLoss(ABC):
    """A loss of whole translations, which may have networks of its own.

    Args:
        likelihood: weight λ of the cross-entropy beside the loss.
    """

    def __init__(self, likelihood: float = 0.0) -> None:
        if not 0 <= likelihood <= 1:
            raise ValueError(f"likelihood is a weight between 0 and 1, found {likelihood}")
        self.likelihood = likelihood

    @abstractmethod
    def __call__(
        self, model: Translator, inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """The loss of a minibatch, (n, 2L) and (n, L); a scalar."""

    def modules(self) -> list[nn.Module]:
        """Networks that are trained together with the student."""
        return []

    def stepped(self, model: Translator) -> None:
        """Called after each step of the optimiser."""
        return

    def _with_likelihood(
        self, loss: torch.Tensor, model: Translator, inputs: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        if self.likelihood == 0:
            return loss
        of_tokens = F.cross_entropy(model(inputs), targets, ignore_index=VOID)
        return (1 - self.likelihood) * loss + self.likelihood * of_tokens


class CandidateLoss(SequenceLoss):
    """A loss of K translations that the network draws for each source.

    Args:
        vocabulary: the words of the targets.
        candidates: number K of translations that are drawn, at least 2.
        likelihood: weight λ of the cross-entropy beside the loss.
    """

    def __init__(self, vocabulary: Vocabulary, candidates: int = 4, likelihood: float = 0.0) -> None:
        super().__init__(likelihood)
        if candidates < 2:
            raise ValueError(f"candidates are compared with each other: expected at least 2, found {candidates}")
        self.vocabulary, self.candidates = vocabulary, candidates

    def __call__(
        self, model: Translator, inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Draws candidates, and computes their loss."""
        with evaluating(model):
            candidates = drawn_candidates(model, self.vocabulary, inputs, targets, self.candidates, generator)
        log_p = log_probabilities(model, inputs[:, : targets.shape[1]], candidates.tokens)
        return self._with_likelihood(self.of_candidates(log_p, candidates), model, inputs, targets)

    @abstractmethod
    def of_candidates(self, log_p: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        """The loss, from the log-probabilities (n, K, L') of their words."""


class Reinforce(CandidateLoss):
    """Policy gradient on BLEU (Ranzato et al. 2016): −mean (BLEU(y) − b) log p(y).

    The baseline b of a drawn translation is the mean of the others of its source, which leaves the gradient unbiased;
    Ranzato et al. learn one.
    """

    def of_candidates(self, log_p: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        """The class's formula, from the log-probabilities (n, K, L') of the candidates' words."""
        bleu = candidates.bleu.to(log_p)
        others = (bleu.sum(1, keepdim=True) - bleu) / (bleu.shape[1] - 1)
        return -((bleu - others) * log_p.sum(2)).mean()


class MinimumRisk(CandidateLoss):
    """Minus expected BLEU (Shen et al. 2016); see `expected_bleu`.

    Args:
        vocabulary: the words of the targets.
        candidates: number K of translations that are drawn, at least 2.
        likelihood: weight λ of the cross-entropy beside the loss.
        sharpness: α; 0.005 in the paper, with a hundred candidates.
    """

    def __init__(
        self, vocabulary: Vocabulary, candidates: int = 4, likelihood: float = 0.0, sharpness: float = 0.05
    ) -> None:
        super().__init__(vocabulary, candidates, likelihood)
        if not sharpness > 0:
            raise ValueError(f"sharpness must be positive, found {sharpness}")
        self.sharpness = sharpness

    def of_candidates(self, log_p: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        """The class's formula, from the log-probabilities (n, K, L') of the candidates' words."""
        return -expected_bleu(log_p.sum(2), candidates, self.sharpness)


class SoftmaxMargin(CandidateLoss):
    """−log of exp s(u*) over Σ_u exp(cost(u) − cost(u*) + s(u)) (Edunov et al. 2018, "softmax-margin").

    u* is the candidate of the highest BLEU, a cost is 1 − BLEU, and s(u) is the mean log-probability of u's words. The
    paper takes the candidates from a beam, and finds drawn ones about as good.
    """

    def of_candidates(self, log_p: torch.Tensor, candidates: Candidates) -> torch.Tensor:
        """The class's formula, from the log-probabilities (n, K, L') of the candidates' words."""
        scores = log_p.sum(2) / (candidates.tokens != PAD).sum(2)
        cost = 1 - candidates.bleu.to(scores)
        best = cost.argmin(1, keepdim=True)  # the first of equals, which is no repeated one
        each = (cost - cost.gather(1, best) + scores).masked_fill(candidates.repeated, -torch.inf)
        return (torch.logsumexp(each, 1, keepdim=True) - scores.gather(1, best)).mean()


class ActorCritic(SequenceLoss):
    """Actor-critic (Bahdanau et al. 2017): a critic, which reads the reference, says what each next word is worth.

    The critic Q is a translator from references to translations, as in the paper: its logits are the values of words.
    A word's reward r_t is what it adds to BLEU. With ŷ drawn from a delayed actor p',

        critic:  Σ_t (Q(ŷ_t; ŷ_<t) − r_t − Σ_a p'(a; ŷ_≤t) Q'(a; ŷ_≤t))²
                 + penalty · Σ_t Σ_a (Q(a; ŷ_<t) − mean_b Q(b; ŷ_<t))²
        actor:   −Σ_t Σ_a p(a; ŷ_<t) Q(a; ŷ_<t)

    as means over words, Q' a delayed critic, and the other's networks constant in each. Both are one loss here, whose
    parts have no parameter in common.

    Args:
        vocabulary: the words of the targets.
        critic: a translator of the same vocabulary; its source is the reference.
        actor: the network that will be trained; a delayed copy of it draws.
        likelihood: weight λ of the cross-entropy beside the actor's loss.
        alone: number of first steps in which the critic learns alone.
        penalty: factor of the values' variance in the critic's loss; 1e-3 in the paper.
        delay: part of the way that delayed networks go at each step towards the others; 1e-3 in the paper.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        critic: Translator,
        actor: Translator,
        likelihood: float = 0.0,
        alone: int = 0,
        penalty: float = 1e-3,
        delay: float = 1e-3,
    ) -> None:
        super().__init__(likelihood)
        self.vocabulary, self.critic, self.alone, self.penalty, self.delay = vocabulary, critic, alone, penalty, delay
        self.delayed_actor, self.delayed_critic = (
            copy.deepcopy(net).eval().requires_grad_(False) for net in (actor, critic)
        )
        self.steps = 0

    def __call__(
        self, model: Translator, inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """The sum of the critic's loss and the actor's; λ weighs the actor's part alone."""
        length = targets.shape[1]
        source, reference = inputs[:, :length], targets.where(targets != VOID, PAD)
        with torch.no_grad():
            said = cut(sample(self.delayed_actor, source, generator))
            there = (said != PAD).to(self.delayed_actor.bias.dtype)
            rewards = bleu_gains(self.vocabulary, said, targets).to(there)
            p = sayable(saying(self.delayed_actor, source, said), 1).softmax(1)
            ahead = (p * saying(self.delayed_critic, reference, said)).sum(1)
            # What is to come after a word: nothing after the last.
            wanted = rewards + F.pad((ahead * there)[:, 1:], (0, 1))
        values = saying(self.critic, reference, said)
        chosen = values.gather(1, said[:, None]).squeeze(1)
        spread = (values - values.mean(1, keepdim=True)).square().sum(1)
        words = there.sum()
        critic = (((chosen - wanted).square() + self.penalty * spread) * there).sum() / words
        if self.steps < self.alone:
            return critic
        p = sayable(saying(model, source, said), 1).softmax(1)
        actor = -((p * values.detach()).sum(1) * there).sum() / words
        return critic + self._with_likelihood(actor, model, inputs, targets)

    def modules(self) -> list[nn.Module]:
        """The critic, which is trained together with the student."""
        return [self.critic]

    @torch.no_grad()
    def stepped(self, model: Translator) -> None:
        """Moves the delayed networks a part of the way towards the others."""
        self.steps += 1
        for slow, net in ((self.delayed_actor, model), (self.delayed_critic, self.critic)):
            for old, new in zip(slow.parameters(), net.parameters(), strict=True):
                old.lerp_(new, self.delay)
