"""Images of every format: black is 0 and white is 1, or the file is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from teachenv.errors import DatasetUnavailable
from teachenv.tasks import make_task
from teachenv.tasks.photographs import opened, read_images, same_shape, size_of, standardized

GREY = np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
SIXTEEN = GREY.astype(np.uint16) * 257
FLOATS = (GREY / 255).astype(np.float32)


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels)


def see_through(image: Image.Image) -> Image.Image:
    image.putalpha(image.convert("L").point(lambda level: 255 - level // 2))
    return image


def big_endian(path: Path) -> None:
    picture(SIXTEEN.astype(">u2")).save(path)


def palette_with_a_hole(path: Path) -> None:
    picture(GREY).convert("P").save(path, transparency=bytes([0, 128] + [255] * 254))


# What is written, and what it is the same as in 8 bits.
FORMATS: dict[str, tuple[str, Callable[[Path], Any], np.ndarray]] = {
    "8 bits, png": ("a.png", lambda path: picture(GREY).save(path), GREY),
    "8 bits, bmp": ("a.bmp", lambda path: picture(GREY).save(path), GREY),
    "16 bits, png": ("a.png", lambda path: picture(SIXTEEN).save(path), GREY),
    "16 bits, tiff": ("a.tif", lambda path: picture(SIXTEEN).save(path), GREY),
    "16 bits, tiff, big endian": ("a.tif", big_endian, GREY),
    "16 bits, pgm": (
        "a.pgm",
        lambda path: path.write_bytes(b"P5 32 24 65535\n" + SIXTEEN.astype(">u2").tobytes()),
        GREY,
    ),
    "10 bits, pgm": (
        "a.pgm",
        lambda path: path.write_bytes(b"P5 32 24 1023\n" + (FLOATS * 1023).round().astype(">u2").tobytes()),
        GREY,
    ),
    "16 bits, jpeg 2000": ("a.jp2", lambda path: picture(SIXTEEN).save(path), GREY),
    "16 bits a colour, ppm": (
        "a.ppm",
        lambda path: path.write_bytes(b"P6 32 24 65535\n" + (COLOURS.astype(">u2") * 257).tobytes()),
        COLOURS,
    ),
    "floats, tiff": ("a.tif", lambda path: picture(FLOATS).save(path), GREY),
    "1 bit, png": ("a.png", lambda path: picture(GREY > 127).save(path), (GREY > 127).astype(np.uint8) * 255),
    "1 bit, tiff": ("a.tif", lambda path: picture(GREY > 127).save(path), (GREY > 127).astype(np.uint8) * 255),
    "palette": ("a.png", lambda path: picture(GREY).convert("P").save(path), GREY),
    "palette with a hole": ("a.png", palette_with_a_hole, GREY),
    "palette, gif": ("a.gif", lambda path: picture(GREY).save(path), GREY),
    "grey with alpha": ("a.png", lambda path: see_through(picture(GREY)).save(path), GREY),
    "colours": ("a.png", lambda path: picture(COLOURS).save(path), COLOURS),
    "colours with alpha": ("a.png", lambda path: see_through(picture(COLOURS)).save(path), COLOURS),
    "cmyk": ("a.tif", lambda path: picture(COLOURS).convert("CMYK").save(path), COLOURS),
    "rotated by its metadata": ("a.png", lambda path: picture(GREY).save(path, exif=b"Exif\0\0" + rotated()), GREY),
}


def rotated() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return exif.tobytes().removeprefix(b"Exif\0\0")


@pytest.mark.parametrize("size", [(24, 32), (16, 16)])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_as_the_same_in_8_bits(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    name, write, same = FORMATS[kind]
    write(tmp_path / name)
    picture(same).save(tmp_path / "same.png")
    assert size_of(tmp_path / name) == (32, 24)
    found, expected = (read_images([path], size)[0] for path in (tmp_path / name, tmp_path / "same.png"))
    assert found.shape == (3, *size)
    assert found.dtype == np.float32
    # Resized levels of 8 bits are rounded; a compressed or shifted image may be a level further off.
    np.testing.assert_allclose(found, expected, atol=2 / 255)
    assert abs(float(found.mean() - expected.mean())) < 0.003


def test_eight_bits_are_read_to_the_last_digit(tmp_path: Path) -> None:
    picture(COLOURS).save(tmp_path / "a.png")
    expected = np.asarray(picture(COLOURS).resize((16, 12), Image.Resampling.BILINEAR), np.float32)
    np.testing.assert_array_equal(read_images([tmp_path / "a.png"], (12, 16))[0], expected.transpose(2, 0, 1) / 255)


WRONG: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "32 bits": (
        "a.tif",
        lambda path: picture(GREY.astype(np.int32) * 1000).save(path),
        "mode I.*which number is white",
    ),
    "floats of levels": ("a.tif", lambda path: picture(FLOATS * 255).save(path), "floats from 0 to 255"),
    "negative floats": ("a.tif", lambda path: picture(FLOATS - 0.5).save(path), "floats from -0.5"),
    "no numbers": ("a.tif", lambda path: picture(FLOATS * np.float32("nan")).save(path), "floats from nan"),
    "lab": ("a.tif", lambda path: Image.new("LAB", (32, 24)).save(path), "mode LAB.*white"),
    "half a png": ("a.png", lambda path: cut(path, COLOURS, 0.5), "damaged"),
    "half a jpeg": ("a.jpg", lambda path: cut(path, COLOURS, 0.5), "damaged"),
    "half a tiff": ("a.tif", lambda path: cut(path, COLOURS, 0.5), "damaged"),
    "the head of a png": ("a.png", lambda path: cut(path, COLOURS, 0.01), "damaged"),
    "empty": ("a.png", lambda path: path.write_bytes(b""), "damaged"),
    "garbage": ("a.png", lambda path: path.write_bytes(GREY.tobytes()), "damaged"),
    "a png with another magic number": ("a.png", lambda path: cut(path, COLOURS, 1.0, b"\x88"), "damaged"),
    "a page": ("a.jpg", lambda path: path.write_bytes(b"<html>not found</html>"), "damaged"),
    "a folder": ("a.png", lambda path: path.mkdir(), "cannot be read"),
    "nothing": ("a.png", lambda path: None, "is missing"),
}


def cut(path: Path, pixels: np.ndarray, part: float, head: bytes = b"") -> None:
    picture(pixels).save(path)
    content = path.read_bytes()
    path.write_bytes((head + content[len(head) :])[: round(part * len(content))])


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_read_is_named_in_one_line(kind: str, tmp_path: Path) -> None:
    name, write, problem = WRONG[kind]
    write(tmp_path / name)
    with pytest.raises(DatasetUnavailable, match=problem) as caught:
        read_images([tmp_path / name], (16, 16))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_takes_too_much_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(GREY).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DatasetUnavailable, match=r"a\.png is damaged: .*DecompressionBomb"):
        opened(tmp_path / "a.png")


@pytest.mark.parametrize("level", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_a_channel_that_is_constant_is_only_centred(level: float, noise: float) -> None:
    rng = np.random.default_rng(0)
    pool, test = (rng.random((50, 3, 20, 20), dtype=np.float32) for _ in range(2))
    pool[:, 1] = level + noise * rng.standard_normal(pool[:, 1].shape)
    found, other = standardized(pool, test)
    assert np.abs(found[:, 1]).max() < 1e-5
    np.testing.assert_allclose(other[:, 1], test[:, 1] - level, atol=1e-5)
    np.testing.assert_allclose(found[:, 0].std(), 1, atol=1e-3)
    np.testing.assert_allclose(other[:, 2], (test[:, 2] - pool[:, 2].mean()) / pool[:, 2].std(), atol=1e-4)


def test_mean_and_deviation_of_many_pixels_are_exact() -> None:
    """Pixel by pixel in memory, as images are read: float32 had 2e-4 too much here, and a mean 0.1 too low of 4,500."""
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (60, 96, 96, 3)).astype(np.float32).transpose(0, 3, 1, 2) / 255
    found, other = standardized(pool, pool[:2])
    np.testing.assert_allclose(found.mean((0, 2, 3), dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(found.std((0, 2, 3), dtype=np.float64), 1, atol=1e-6)
    np.testing.assert_array_equal(other, found[:2])


def folder_of(root: Path, pixels: Callable[[int], np.ndarray]) -> Path:
    for part in ("train", "val"):
        for label in range(2):
            (root / "mine" / part / str(label)).mkdir(parents=True)
            for i in range(3):
                picture(pixels(label)).save(root / "mine" / part / str(label) / f"{i}.png")
    return root


def test_classes_of_16_bits_lie_where_those_of_8_bits_do(tmp_path: Path) -> None:
    def sixteen(label: int) -> np.ndarray:
        return np.random.default_rng(label).normal(15_000 + 30_000 * label, 3000, (32, 32)).clip(0, 65_535)

    means = []
    for name, pixels in (
        ("16", lambda label: sixteen(label).astype(np.uint16)),
        ("8", lambda label: (sixteen(label) / 257).round().astype(np.uint8)),
    ):
        root = folder_of(tmp_path / name, pixels)
        inputs, targets = make_task("image-folder", data_root=root, dataset="mine", image_size=16).pool
        means.append([float(inputs[targets == label].mean()) for label in range(2)])
    np.testing.assert_allclose(means[0], means[1], atol=0.01)
    assert means[0][1] - means[0][0] > 1.9


def test_images_of_one_colour_channel_can_be_learned_from(tmp_path: Path) -> None:
    def green(label: int) -> np.ndarray:
        pixels = np.zeros((20, 20, 3), np.uint8)
        pixels[..., 1] = 100 * label + 50
        return pixels

    inputs, targets = make_task(
        "image-folder", data_root=folder_of(tmp_path, green), dataset="mine", image_size=16
    ).pool
    assert float(inputs[:, [0, 2]].abs().max()) == 0
    assert sorted({round(float(value), 3) for value in inputs[:, 1].flatten()}) == [-1, 1]
    assert bool((inputs[:, 1].mean((1, 2)) > 0).eq(targets == 1).all())


def test_proportions() -> None:
    assert same_shape((640, 480), (96, 72))
    assert same_shape((640, 427), (96, 64))
    assert not same_shape((640, 480), (480, 640))
    assert not same_shape((100, 50), (100, 52))
