import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teachenv.tasks.augmentation import FlipAndCrop


class ChosenDraws:
    """Stands in for a generator, so that a test decides on flips and offsets."""

    def __init__(self, flip: bool, down: int, right: int) -> None:
        self.flip, self.offsets = flip, [down, right]

    def random(self, n: int) -> np.ndarray:
        return np.full(n, 0.0 if self.flip else 0.9)

    def integers(self, low: int, high: int, size: int) -> np.ndarray:
        offset = self.offsets.pop(0)
        assert low <= offset < high
        return np.full(size, offset)


@given(
    flip=st.booleans(),
    down=st.integers(-3, 3),
    right=st.integers(-3, 3),
    height=st.integers(4, 9),
    width=st.integers(4, 9),
)
def test_it_equals_flip_then_pad_then_crop(flip, down, right, height, width):
    images = torch.arange(2 * 3 * height * width, dtype=torch.float64).reshape(2, 3, height, width)
    flipped = images.flip(-1) if flip else images
    padded = torch.nn.functional.pad(flipped, (3, 3, 3, 3), mode="reflect")
    expected = padded[:, :, 3 + down : 3 + down + height, 3 + right : 3 + right + width]
    assert torch.equal(FlipAndCrop(3)(images, ChosenDraws(flip, down, right)), expected)


def test_offsets_and_flips_are_drawn_for_each_image_and_cover_their_range():
    ramp = (100.0 * torch.arange(16)[:, None] + torch.arange(16)).expand(4000, 1, 16, 16)
    out = FlipAndCrop(4)(ramp, np.random.default_rng(0))
    middle, beside = out[:, 0, 8, 8], out[:, 0, 8, 9]
    flipped = beside < middle
    assert 0.45 < float(flipped.double().mean()) < 0.55
    rows = torch.div(middle, 100, rounding_mode="floor") - 8
    assert torch.equal(rows.unique(), torch.arange(-4.0, 5.0))
    columns = (middle % 100)[~flipped] - 8
    assert torch.equal(columns.unique(), torch.arange(-4.0, 5.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_dtype_shape_and_input_are_kept(dtype):
    images = torch.rand(5, 3, 32, 32).to(dtype)
    before = images.clone()
    out = FlipAndCrop()(images, np.random.default_rng(0))
    assert (out.dtype, out.shape, out.device) == (images.dtype, images.shape, images.device)
    assert torch.equal(images, before)
    assert not torch.equal(out, images)


def test_the_generator_decides_everything():
    images = torch.rand(16, 3, 8, 8)
    before = torch.get_rng_state()
    first, again, other = (FlipAndCrop()(images, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_padding_only_flips_remain():
    images = torch.rand(64, 1, 5, 7)
    out = FlipAndCrop(0)(images, np.random.default_rng(0))
    kept = (out == images).flatten(1).all(1)
    turned = (out == images.flip(-1)).flatten(1).all(1)
    assert (kept ^ turned).all()
    assert kept.any()
    assert turned.any()


def test_it_can_be_sent_to_another_process():
    augment = FlipAndCrop(2)
    assert pickle.loads(pickle.dumps(augment)) == augment


def test_inputs_that_cannot_be_augmented_are_errors():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="expected images"):
        FlipAndCrop()(torch.rand(4, 64), rng)
    with pytest.raises(ValueError, match="smaller padding"):
        FlipAndCrop(4)(torch.rand(1, 3, 4, 32), rng)
    with pytest.raises(ValueError, match="padding is -1"):
        FlipAndCrop(-1)
