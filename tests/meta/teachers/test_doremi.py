"""DoReMi: references first, then the mixture moves to the domains on which proxies are behind."""

from typing import Any

import numpy as np
import pytest

import meta
from teachenv import TeachVectorEnv
from teachenv.losses import DomainWeights

SMALL: dict[str, Any] = {
    "task": {"name": "language", "length": 6, "dev_documents": 8, "test_documents": 8},
    "pool_size": 60,
    "student": {"name": "causal-transformer", "width": 8, "layers": 1, "inner": 8},
    "loss": "domain-weights",
    "objective": "likelihood",
    "batch_size": 8,
    "horizon": 8,
    "steps_per_action": 2,
}


def doremi(**options: Any) -> meta.DoReMi:
    return meta.DoReMi("MixturePolicy", TeachVectorEnv(2, **SMALL), seed=0, **options)


def test_references_take_the_zero_action_and_proxies_the_mixture_of_the_algorithm() -> None:
    teacher, taken, seen = doremi(step_size=3.0), [], []
    act = teacher._act

    def watched(observations: np.ndarray) -> np.ndarray:
        actions = act(observations)
        taken.append(actions)
        seen.append(observations)
        return actions

    teacher._act = watched  # type: ignore[method-assign]
    teacher.learn(2 * 4 * 3)  # two students at a time, four actions each: references, and two proxies each
    assert not np.any(taken[:4])
    log_c, loss = np.log(64), teacher._problem.dynamics.loss
    assert isinstance(loss, DomainWeights)
    reference = teacher._state["reference"].numpy()
    assert (reference > 0).all()
    total = np.zeros(4)
    for first in (4, 8):
        mixtures = np.full((2, 4), 0.25)
        for number in range(first, first + 4):
            losses = (1 - seen[number][:, -4:]) * log_c
            mixtures = mixtures * np.exp(3.0 * np.maximum(losses - reference, 0))
            mixtures = 0.999 * mixtures / mixtures.sum(1, keepdims=True) + 0.001 / 4
            np.testing.assert_allclose(taken[number], loss.action_of(mixtures), atol=1e-5)
            total += mixtures.sum(0)
    assert list(teacher.mixture.values()) == pytest.approx(total / total.sum(), rel=1e-4)
    assert [*teacher.mixture] == ["target", "near", "far", "near-corrupted"]
    action, _ = teacher.predict(seen[0])
    np.testing.assert_allclose(action, np.tile(loss.action_of(total / total.sum()), (2, 1)), atol=1e-5)


def test_without_proxies_there_is_no_mixture_but_the_pools() -> None:
    teacher = doremi().learn(8)
    assert list(teacher.mixture.values()) == pytest.approx([3 / 60, 21 / 60, 21 / 60, 15 / 60])
    assert not np.any(teacher.predict(np.zeros((1, 7), np.float32))[0])


def test_an_action_makes_the_mixture_that_it_is_of_within_the_box() -> None:
    family = DomainWeights(scale=2.0, shares=[0.1, 0.4, 0.5])
    for mixture in ([0.3, 0.5, 0.2], [0.1, 0.4, 0.5]):
        weights = family.coefficients(_tensor(family.action_of(np.array(mixture))))[0]
        np.testing.assert_allclose(weights.numpy() * [0.1, 0.4, 0.5], mixture, rtol=1e-9)
    assert family.action_of(np.array([1 - 2e-9, 1e-9, 1e-9])).tolist() == pytest.approx([1.0, -1.0, -1.0], abs=0.02)
    of_empty = DomainWeights(shares=[0.5, 0.5, 0.0]).action_of(np.array([0.5, 0.3, 0.2]))
    assert np.isfinite(of_empty).all()


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="step_size must be"):
        doremi(step_size=0.0)
    with pytest.raises(ValueError, match="smoothing must be"):
        doremi(smoothing=2.0)
    with pytest.raises(ValueError, match="weighs the domains of a task, found loss='bilinear'"):
        meta.DoReMi("MixturePolicy", TeachVectorEnv(2, horizon=2))
