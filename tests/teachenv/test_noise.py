import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teachenv.tasks.noise import NOISE_KINDS, corrupt_labels

rates = st.floats(0.0, 1.0, exclude_max=True)
seeds = st.integers(0, 2**32 - 1)


def labels(n: int, num_classes: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, num_classes, n))


@given(n=st.integers(0, 200), num_classes=st.integers(2, 12), rate=rates, kind=st.sampled_from(NOISE_KINDS), seed=seeds)
def test_exactly_the_stated_number_of_labels_changes(n, num_classes, rate, kind, seed):
    clean = labels(n, num_classes, seed)
    noisy = corrupt_labels(clean, rate, kind, num_classes, seed)
    assert int((noisy != clean).sum()) == round(rate * n)
    assert noisy.dtype == clean.dtype
    assert ((noisy >= 0) & (noisy < num_classes)).all()


@given(n=st.integers(1, 200), num_classes=st.integers(2, 12), rate=rates, seed=seeds)
def test_pair_noise_moves_to_the_next_class_and_wraps(n, num_classes, rate, seed):
    clean = labels(n, num_classes, seed)
    noisy = corrupt_labels(clean, rate, "pair", num_classes, seed)
    changed = noisy != clean
    assert torch.equal(noisy[changed], (clean[changed] + 1) % num_classes)


def test_symmetric_noise_is_uniform_over_the_other_classes():
    clean = torch.full((20_000,), 3)
    noisy = corrupt_labels(clean, 0.8, "symmetric", 5, seed=1)
    counts = torch.bincount(noisy, minlength=5)
    assert counts[3] == 4_000
    expected = 4_000
    # A multinomial count has a standard deviation of sqrt(16000 * 1/4 * 3/4) = 55; five of them never happen.
    assert all(abs(int(counts[c]) - expected) < 5 * 55 for c in (0, 1, 2, 4))


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_the_seed_decides_everything_and_the_input_is_untouched(kind):
    clean = labels(500, 10)
    before = clean.clone()
    first = corrupt_labels(clean, 0.4, kind, 10, seed=7)
    assert torch.equal(first, corrupt_labels(clean, 0.4, kind, 10, seed=7))
    assert not torch.equal(first, corrupt_labels(clean, 0.4, kind, 10, seed=8))
    assert torch.equal(clean, before)


def test_global_generators_are_not_used():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - it is the global state we watch
    corrupt_labels(labels(50, 10), 0.5, "symmetric", 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_a_narrow_dtype_does_not_overflow():
    clean = torch.full((10,), 254, dtype=torch.uint8)
    assert corrupt_labels(clean, 0.9, "pair", 256, seed=0).max() == 255


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0, float("nan")])
def test_a_rate_outside_its_range_is_an_error(rate):
    with pytest.raises(ValueError, match=r"expected a fraction in \[0, 1\)"):
        corrupt_labels(labels(5, 2), rate, "pair", 2, seed=0)


def test_an_unknown_kind_is_an_error_with_a_suggestion():
    with pytest.raises(ValueError, match=r"'symetric'.*did you mean 'symmetric'\?"):
        corrupt_labels(labels(5, 2), 0.1, "symetric", 2, seed=0)


def test_targets_that_are_not_class_indices_are_errors():
    with pytest.raises(TypeError, match="integer class indices"):
        corrupt_labels(torch.rand(5), 0.1, "pair", 2, seed=0)
    with pytest.raises(ValueError, match=r"shape \(n,\)"):
        corrupt_labels(torch.zeros(5, 2, dtype=torch.int64), 0.1, "pair", 2, seed=0)
    with pytest.raises(ValueError, match=r"lie in \[0, 4\]"):
        corrupt_labels(torch.arange(5), 0.1, "pair", 4, seed=0)
    with pytest.raises(ValueError, match="at least 2 classes"):
        corrupt_labels(torch.zeros(5, dtype=torch.int64), 0.1, "pair", 1, seed=0)
