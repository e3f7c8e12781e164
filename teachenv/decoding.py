"""How a network translates: the likeliest word after word, the best of a beam, or by drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from teachenv.data.vocabulary import BEGIN, END, PAD
from teachenv.students.translation import Memory, Translator
from teachenv.trees import at, mapped


def greedy(model: Translator, source: torch.Tensor, length: int | None = None) -> torch.Tensor:
    """A translation of each source, the likeliest word at each place.

    Args:
        model: a translating network in evaluation mode.
        source: (n, L) token numbers.
        length: tokens of a translation at most; None: the model's.

    Returns:
        (n, length), padded after the end.
    """
    return _one_by_one(model, source, length, lambda logits: logits.argmax(-1))


def sample(
    model: Translator, source: torch.Tensor, generator: torch.Generator, length: int | None = None
) -> torch.Tensor:
    """A translation of each source, drawn from the model; otherwise as `greedy`.

    Args:
        model: a translating network in evaluation mode.
        source: (n, L) token numbers.
        generator: the generator that draws.
        length: tokens of a translation at most; None: the model's.
    """

    def drawn(logits: torch.Tensor) -> torch.Tensor:
        # By the cumulated probabilities: `torch.multinomial` draws a number for each word of the vocabulary.
        below = logits.softmax(-1).cumsum(-1)
        u = torch.rand(len(logits), 1, dtype=logits.dtype, device=logits.device, generator=generator)
        return torch.searchsorted(below, u * below[:, -1:], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)

    return _one_by_one(model, source, length, drawn)


def _one_by_one(model: Translator, source: torch.Tensor, length: int | None, choose: Any) -> torch.Tensor:
    limit = length or model.length
    with torch.no_grad():
        memory = model.encode(source)
        state, token = model.start(memory), source.new_full((len(source),), BEGIN)
        rows, translations = torch.arange(len(source), device=source.device), source.new_full((len(source), limit), PAD)
        ended = torch.zeros_like(rows, dtype=torch.bool)
        for place in range(limit):
            logits, state = model.advance(token, memory, state)
            token = torch.where(ended, PAD, choose(sayable(logits)))
            translations[rows, place] = token
            ended = ended | (token == END)
            going = int((~ended).sum())
            if not going:
                break
            # A few long translations should not cost as much as all.
            if 2 * going <= len(ended):
                unfinished = ~ended
                rows, token, memory, state = at((rows, token, memory, state), unfinished)
                ended = ended[unfinished]
        return translations


def beam(
    model: Translator, source: torch.Tensor, width: int = 5, length: int | None = None, penalty: float = 1.0
) -> torch.Tensor:
    """The best translation that a beam finds: of highest log-probability over (its length)^penalty.

    Args:
        model: a translating network in evaluation mode.
        source: (n, L) token numbers.
        width: translations that are followed for each source.
        length: tokens of a translation at most; None: the model's.
        penalty: 0: of the highest probability, which prefers short ones.

    Returns:
        (n, length), padded after the end. With a width of 1 it is `greedy`'s.

    Raises:
        ValueError: a width below 1.
    """
    if width < 1:
        raise ValueError(f"a beam has a width of at least 1, found {width}")
    n, limit = len(source), length or model.length
    with torch.no_grad():
        memory = _repeated(model.encode(source), width)
        state = model.start(memory)
        tokens = source.new_full((n * width,), BEGIN)
        scores = torch.full((n, width), -torch.inf, device=source.device)
        scores[:, 0] = 0.0
        ended = torch.zeros(n, width, dtype=torch.bool, device=source.device)
        lengths = torch.zeros(n, width, device=source.device)
        translations, best_translations = source.new_full((n, width, limit), PAD), source.new_full((n, limit), PAD)
        followed = torch.arange(n, device=source.device)
        for place in range(limit):
            logits, state = model.advance(tokens, memory, state)
            log_p = _of_next_words(logits, ended)
            longer = (lengths + ~ended).clamp(min=1)
            total = scores[..., None] + log_p
            _, best = (total / longer[..., None] ** penalty).flatten(1).topk(width)
            words, rows = log_p.shape[-1], torch.arange(len(best), device=source.device)[:, None]
            parents, chosen = best // words, best % words
            scores = total.flatten(1).gather(1, best)
            translations = translations[rows, parents]
            translations[:, :, place] = chosen
            lengths, ended = longer[rows, parents], ended[rows, parents] | (chosen == END)
            picked = (rows * width + parents).flatten()
            state = at(state, picked)
            tokens = chosen.flatten()
            going = ~ended.all(1)
            # A few long translations should not cost as much as all.
            if 2 * int(going.sum()) <= len(going) or place == limit - 1:
                best_translations[followed] = translations[rows[:, 0], (scores / lengths**penalty).argmax(1)]
                followed, scores, lengths, ended, translations = (
                    tensor[going] for tensor in (followed, scores, lengths, ended, translations)
                )
                each = going.repeat_interleave(width)
                tokens, memory, state = at((tokens, memory, state), each)
            if not len(followed):
                break
        return best_translations


def _of_next_words(logits: torch.Tensor, ended: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the next word, (n, width, words); what has ended goes on as it is, by padding alone."""
    log_p = torch.log_softmax(sayable(logits).float(), -1).view(*ended.shape, -1)
    log_p = log_p.masked_fill(ended[..., None], -torch.inf)
    log_p[..., PAD] = torch.where(ended, 0.0, -torch.inf)
    return log_p


def by_length(lengths: torch.Tensor, each: Callable[[torch.Tensor], torch.Tensor], size: int) -> torch.Tensor:
    """What is to be found of many sentences, those of about one length together, so that little is padding.

    Args:
        lengths: (n,) by which they are put in order.
        each: row numbers, (size,), to what is found of them, (size, …).
        size: how many sentences are taken at a time.

    Returns:
        (n, …), as the sentences are ordered.
    """
    order = lengths.argsort(stable=True)
    return torch.cat([each(rows) for rows in order.split(size)])[order.argsort()]  # type: ignore[no-untyped-call]


def translated(decode: Callable[[torch.Tensor], torch.Tensor], source: torch.Tensor, size: int = 64) -> torch.Tensor:
    """Translations of many sources, (n, L) to (n, length), by `greedy` or `beam` of a model, `size` at a time."""
    return by_length((source != PAD).sum(1), lambda rows: decode(cut(source[rows])), size)


def cut(tokens: torch.Tensor) -> torch.Tensor:
    """(n, L) token numbers to (n, L'), without the padding that all end with."""
    return tokens[:, : int((tokens != PAD).any(0).sum())]


def _repeated(memory: Memory, width: int) -> Memory:
    each: Memory = mapped(lambda tensor: tensor.repeat_interleave(width, 0), memory)
    return each


def sayable(logits: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Logits without padding and begin, which no translation contains; words are in dimension `dim`."""
    return logits.index_fill(dim, torch.tensor([PAD, BEGIN], device=logits.device), -torch.inf)


def beside(source: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """What a translator is called with to say given words: (n, L) and (n, L') to (n, 2 max(L, L'))."""
    before = torch.cat([torch.full_like(said[:, :1], BEGIN), said[:, :-1]], 1)
    length = max(source.shape[1], said.shape[1])
    return torch.cat([F.pad(side, (0, length - side.shape[1]), value=PAD) for side in (source, before)], 1)
