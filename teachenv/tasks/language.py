"""Language: documents of several domains, each next token of which is a decision; dev and test are of one domain.

Data: `"chains"`, Markov chains over 60 words, made here; `"text"`, the Penn Treebank, WikiText-2 and the English side
of Multi30k, from their files (`teachenv.data.documents`). Inputs are (L,) token numbers, targets the token after each.
The pool is a mixture of domains, of which some may be corrupted copies of others; the trusted dev set and test are of
the target domain. A teacher decides what of the pool is learned (`"domain-weights"`, `"data-weights"`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from teachenv import checks
from teachenv.data.documents import Documents, Tokens, chain_documents, text_documents
from teachenv.data.vocabulary import SPECIAL
from teachenv.errors import unknown_name
from teachenv.randomness import Purpose, generator
from teachenv.tasks.base import VOID, Task
from teachenv.tasks.domains import Domains
from teachenv.tasks.measures import Measure, Network
from teachenv.tasks.splits import Split
from teachenv.tasks.tokens import TokenDecisions, TokenMeasure

Each = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What outputs (n, words, L) and targets (n, L) give of each sample, (n,) or (n, k)."""

DATASETS = ("chains", "text")
CORRUPTIONS = ("replaced", "shuffled")
COPY = "-corrupted"
"""What the name of a corrupted copy of a domain ends with."""

_DOMAINS = {
    "chains": {"target": 0.05, "near": 0.35, "far": 0.35, "near-corrupted": 0.25},
    "text": {"ptb": 0.05, "wikitext-2": 0.35, "multi30k": 0.35, "wikitext-2-corrupted": 0.25},
}
_LENGTHS = {"chains": 16, "text": 32}
_TEXT_WORDS = 2_000
# The part of the tokens of a corrupted document that are replaced.
_REPLACED = 0.5
# Documents that are run at once: logits of a thousand have hundreds of megabytes.
_CHUNK = 64


def language(
    *,
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    pool_size: int | None = None,
    split_seed: int = 0,
    domains: Mapping[str, float] | None = None,
    target: str | None = None,
    kept: Sequence[str] | None = None,
    length: int | None = None,
    vocabulary_size: int | None = None,
    corruption: str = "replaced",
    corrupted_share: float = 1.0,
    dev_documents: int = 200,
    test_documents: int = 500,
) -> Task:
    """Makes a language task.

    A domain with the ending `-corrupted` is a copy of the domain before it: other documents of the same text, of which
    a part is corrupted. `Task.domains` says which domain each document is of, and whether it was corrupted.

    Args:
        data_root: where the files are; None for the usual places (see `teachenv.data.root`).
        dataset: `"chains"` (the default; procedural, no language) or `"text"`.
        pool_size: documents in the pool; None for 2,000.
        split_seed: seed of what is drawn: the documents of pool, dev and test, and the corruption.
        domains: the share of each domain in the pool, by its name; the shares need not sum to 1. Of chains `"target"`,
            `"near"` (likewise, but not the same) and `"far"`; of texts `"ptb"`, `"wikitext-2"`, `"wikitext-2-valid"`
            (of which only the validation text is read) and `"multi30k"`. None: 5 % of the target, 35 % of each of the
            others, and 25 % of a corrupted copy of the first of those.
        target: the domain of dev and test; None: the first of `domains`.
        kept: the domains whose documents stay in the pool, for baselines that know which those are; dev, test and the
            vocabulary are as with all of them. None: all.
        length: number L of tokens of a document; None: 16 of chains, 32 of texts.
        vocabulary_size: words of texts, four special tokens included; None: 2,000.
        corruption: `"replaced"`: half of a document's tokens become words drawn uniformly; `"shuffled"`: its tokens
            come in random order.
        corrupted_share: which part of the documents of a copy are corrupted, in (0, 1].
        dev_documents: documents of the trusted dev set.
        test_documents: documents of test.

    Raises:
        DatasetUnavailable: files cannot be had.
        ValueError: an argument is not as above, or there are too few documents.
    """
    dataset = "chains" if dataset is None else dataset
    if dataset not in DATASETS:
        raise unknown_name("dataset for task 'language'", dataset, DATASETS)
    checks.choice("corruption", corruption, CORRUPTIONS)
    checks.number("corrupted_share", corrupted_share, above=0, most=1)
    shares = _checked_shares(_DOMAINS[dataset] if domains is None else domains)
    target = next(iter(shares)) if target is None else target
    if target not in shares or target.endswith(COPY):
        raise unknown_name("target domain", target, [name for name in shares if not name.endswith(COPY)])
    length = _LENGTHS[dataset] if length is None else checks.integer("length", length, least=2)
    sources = list(dict.fromkeys(name.removesuffix(COPY) for name in shares))
    if dataset == "text":
        size = _TEXT_WORDS if vocabulary_size is None else vocabulary_size
        size = checks.integer("vocabulary_size", size, least=len(SPECIAL) + 1)
        documents = text_documents(sources, target, length, size, data_root)
    elif vocabulary_size is not None:
        raise ValueError(f"'chains' has 60 words, found vocabulary_size={vocabulary_size}; leave it out")
    else:
        documents = chain_documents(sources, target, length)
    rng = generator(split_seed, Purpose.SPLIT)
    held_out = {"dev_documents": ("valid", dev_documents), "test_documents": ("test", test_documents)}
    dev, test = (
        _drawn(rng, documents.parts[target][part], checks.integer(option, count, least=1), option, f"{target} ({part})")
        for option, (part, count) in held_out.items()
    )
    pool_size = checks.integer("pool_size", 2_000 if pool_size is None else pool_size, least=len(shares))
    counts = _counts(shares, pool_size)
    held_out_inputs = {document[:-1].tobytes() for document in [*dev, *test]}
    pool, corrupted = _pool(rng, documents, counts, held_out_inputs, (corruption, corrupted_share))
    names = tuple(shares)
    of_pool = np.repeat(np.arange(len(names)), [counts[name] for name in names])
    stays = np.isin(of_pool, _kept(names, kept))
    pool, corrupted, of_pool = pool[stays], corrupted[stays], of_pool[stays]
    return Task(
        name=f"language-{target}",
        dataset=documents.dataset,
        pool=_split(pool),
        test=_split(test),
        dev=_split(dev),
        num_outputs=len(documents.vocabulary),
        decisions=LanguageDecisions(documents.vocabulary),
        domains=Domains(
            names,
            np.concatenate([of_pool, np.full(len(dev), names.index(target))]),
            np.concatenate([corrupted, np.zeros(len(dev), dtype=bool)]),
        ),
    )


def _checked_shares(domains: object) -> dict[str, float]:
    given = checks.options("domains", domains)
    if not given:
        raise ValueError("domains is empty; expected the share of each domain by its name, such as {'ptb': 1.0}")
    return {name: checks.number(f"domains[{name!r}]", share, above=0) for name, share in given.items()}


def _kept(names: Sequence[str], kept: Sequence[str] | None) -> list[int]:
    """The numbers of the domains that stay in the pool."""
    chosen = names if kept is None else checks.listed("kept", kept, "names of domains")
    for name in chosen:
        if name not in names:
            raise unknown_name("domain in kept", name, names)
    if not chosen:
        raise ValueError("kept is empty, expected the names of domains; leave it out for all")
    return [names.index(name) for name in chosen]


def _counts(shares: Mapping[str, float], size: int) -> dict[str, int]:
    """How many documents each domain has in the pool: in proportion to the shares, and at least one."""
    exact = np.array(list(shares.values())) * size / sum(shares.values())
    counts = np.maximum(1, np.floor(exact)).astype(int)
    while counts.sum() != size:
        step = 1 if counts.sum() < size else -1
        able = step > 0 or counts > 1
        counts[np.where(able, step * (exact - counts), -np.inf).argmax()] += step
    return dict(zip(shares, counts.tolist(), strict=True))


def _pool(
    rng: np.random.Generator,
    documents: Documents,
    counts: Mapping[str, int],
    held_out: set[bytes],
    corruption: tuple[str, float],
) -> tuple[Tokens, np.ndarray]:
    """The pool's documents, domain by domain, and which of them were corrupted.

    Args:
        rng: draws the documents.
        documents: those that there are.
        counts: how many of each domain, or corrupted copy of it.
        held_out: inputs of dev and test, as bytes: a document with the same does not come into the pool.
        corruption: how copies are corrupted, and which part of their documents.
    """
    kind, share = corruption
    drawn, parts, corrupted = dict[str, Tokens](), list[Tokens](), list[np.ndarray]()
    for source in documents.parts:
        of_train = documents.parts[source]["train"]
        of_train = of_train[[document[:-1].tobytes() not in held_out for document in of_train]]
        # A domain and its copy have different documents.
        count = sum(counts.get(name, 0) for name in (source, source + COPY))
        drawn[source] = _drawn(rng, of_train, count, "pool_size", f"{source} (train) and its copy")
    for name, count in counts.items():
        source = name.removesuffix(COPY)
        is_copy = name != source
        part, drawn[source] = drawn[source][:count].copy(), drawn[source][count:]
        chosen = rng.permutation(count) < round(share * count) * is_copy
        part[chosen] = _corrupted(rng, part[chosen], kind, len(documents.vocabulary))
        parts.append(part)
        corrupted.append(chosen)
    return np.concatenate(parts), np.concatenate(corrupted)


def _drawn(rng: np.random.Generator, documents: Tokens, count: int, option: str, where: str) -> Tokens:
    if count > len(documents):
        raise ValueError(
            f"{option} asks for {count} documents of {where}, which has {len(documents)}; make it smaller, or length"
        )
    chosen: Tokens = documents[rng.permutation(len(documents))[:count]]
    return chosen


def _corrupted(rng: np.random.Generator, documents: Tokens, kind: str, words: int) -> Tokens:
    if kind == "shuffled":
        return rng.permuted(documents, axis=1)
    others = rng.integers(len(SPECIAL), words, documents.shape)
    return np.where(rng.random(documents.shape) < _REPLACED, others, documents)


def _split(documents: Tokens) -> Split:
    tokens = torch.from_numpy(documents)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


class LanguageMeasure(TokenMeasure):
    """How well next tokens are predicted: J is the mean log-likelihood of a token, or the smoothed accuracy.

    With the mean cross-entropy l of a token, the perplexity is exp(l). The score is the likelihood on a scale of its
    own, 1 − l / log C for C words: 1 of a student that is certain and right, 0 of one that gives all words the same
    probability, or is worse. Reported are `perplexity` and `token_accuracy`. A student whose outputs are not finite
    counts there as one that gives all words the same probability.

    Args:
        temperature: temperature τ of the smoothed accuracy.
        likelihood: whether J is the mean log-likelihood −l, whose perplexity is exp(−J), rather than the mean
            probability of the right token at temperature τ.
    """

    score_name = "likelihood"
    reports_in_parts = True

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The likelihood of given outputs (n, words, L) on the scale from 0 to 1."""
        mean = _log_likelihoods(outputs, targets).sum() / (targets != VOID).sum().clamp(min=1)
        return _scaled(mean, outputs.shape[1])

    def _means(self, each: Each, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The means over tokens of what sums over documents say, without gigabytes of logits at a time."""
        pieces = zip(torch.split(inputs, _CHUNK), torch.split(targets, _CHUNK), strict=True)
        sums = torch.cat([each(network(x), y) for x, y in pieces])
        return sums.sum(0) / (targets != VOID).sum().clamp(min=1)

    def objective_of(self, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The objective of a network."""
        return self._means(self._sums, network, inputs, targets)

    def judge(
        self, network: Network, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The objective, the score, and no features."""
        words = 0

        def both(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            nonlocal words
            words, likelihoods = outputs.shape[1], _log_likelihoods(outputs, targets)
            return torch.stack([likelihoods if self.likelihood else self._sums(outputs, targets), likelihoods], 1)

        objective, likelihood = self._means(both, network, inputs, targets)
        return objective, _scaled(likelihood, words), objective.new_zeros(0)

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of what `report_of` gives: `perplexity` and `token_accuracy`."""
        return ("perplexity", "token_accuracy")

    def report_of(self, network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """The perplexity, and the accuracy of tokens."""

        def both(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            outputs = torch.where(outputs.isfinite().all(), outputs, 0.0).double()
            return torch.stack([_log_likelihoods(outputs, targets), self._right(outputs, targets).double()], 1)

        likelihood, accuracy = self._means(both, network, inputs, targets).tolist()
        return {"perplexity": math.exp(-likelihood), "token_accuracy": accuracy}


def _log_likelihoods(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The log-likelihood of each document's tokens, (n,)."""
    losses = F.cross_entropy(outputs, targets.clamp(min=0), reduction="none")
    return -(losses * (targets != VOID)).sum(1)


def _scaled(mean: torch.Tensor, words: int) -> torch.Tensor:
    return (1.0 + mean / math.log(words)).clamp(0.0, 1.0)


class LanguageDecisions(TokenDecisions):
    """Each token of a document is classified; see `TokenDecisions`."""

    def measure(self, num_classes: int, temperature: float) -> Measure:
        """The measure of language models, with the smoothed accuracy as J."""
        return LanguageMeasure(temperature, likelihood=False)

    def judged_by(self, num_classes: int, temperature: float, objective: str) -> Measure:
        """The measure of language models; J is the mean log-likelihood of a token if it is asked for."""
        if objective == "likelihood":
            return LanguageMeasure(temperature, likelihood=True)
        if objective in ("accuracy", "token-accuracy"):
            return self.measure(num_classes, temperature)
        raise ValueError(
            f"objective={objective!r} belongs to other tasks; expected 'likelihood', 'accuracy' or 'token-accuracy' "
            "here"
        )
