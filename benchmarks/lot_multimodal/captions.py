"""Captions of images, made of a template, a name of the class, and two attributes that are measured on the image.

Nobody wrote these captions: they name the class that an image is labelled with, in one of several words, and the colour
and brightness its pixels have. Where a class label is wrong, the caption's name is wrong with it; its attributes are
still right.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.lot_images.problem import Images
from teachenv.errors import unknown_name
from teachenv.randomness import Purpose, generator

NAMES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "cifar10": (
        ("airplane", "plane", "jet"),
        ("automobile", "car", "sedan"),
        ("bird", "songbird", "fowl"),
        ("cat", "kitten", "tomcat"),
        ("deer", "stag", "doe"),
        ("dog", "puppy", "hound"),
        ("frog", "toad", "amphibian"),
        ("horse", "pony", "mare"),
        ("ship", "boat", "vessel"),
        ("truck", "lorry", "pickup"),
    ),
    # A shape that is filled with narrow stripes, or with wide ones.
    "synthetic": tuple(
        tuple(f"{stripes} {shape}" for shape in names)
        for stripes in ("narrow", "wide")
        for names in (("disc", "circle"), ("ring", "hoop"), ("square", "box"), ("diamond", "rhomb"), ("cross", "plus"))
    ),
}
"""The names of each class, by the data set's name; the first is the data set's own."""

TEMPLATES = (
    "a photo of a {name}",
    "a {brightness} photo of a {name}",
    "a {colour} {name}",
    "there is a {name} in this {brightness} picture",
    "this {brightness} and {colour} picture shows a {name}",
)
"""What captions are made from, each as often as the others; the first one is also the prompt for a class."""

COLOURS, BRIGHTNESSES = ("red", "green", "blue", "grey"), ("dark", "plain", "bright")
_GREY = COLOURS.index("grey")


class Captions(NamedTuple):
    """The captions of a data set, as numbers of words; 0 fills up.

    Attributes:
        vocabulary: the words; the number of a word is its place, and place 0 is empty.
        train: (n, L) captions of the training images.
        valid: likewise of the validation images.
        test: likewise of the test images, whose names are right.
        prompts: (classes, names, L): the first template with each name of each class.
    """

    vocabulary: tuple[str, ...]
    train: torch.Tensor
    valid: torch.Tensor
    test: torch.Tensor
    prompts: torch.Tensor


@functools.lru_cache(maxsize=4)
def make_captions(images: Images, task: str) -> Captions:
    """Writes the captions of all images; they are the same in every process.

    Args:
        images: the images with the classes that captions tell.
        task: the data set's name, in `NAMES`.

    Raises:
        ValueError: its classes have no names here.
    """
    if task not in NAMES:
        raise unknown_name("data set with names of classes", task, NAMES)
    names, thresholds, writer = NAMES[task], Thresholds.of(images.train[0]), Writer(NAMES[task])

    def captions(number: int, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return writer.numbers(_texts(images, labels, names, thresholds, generator(0, Purpose.SPLIT, number)))

    return Captions(
        vocabulary=writer.vocabulary,
        train=captions(1, *images.train),
        valid=captions(2, *images.valid),
        test=captions(3, *images.test),
        prompts=torch.stack(
            [writer.numbers(TEMPLATES[0].format(name=name) for name in of_class) for of_class in names]
        ),
    )


class Writer:
    """Writes texts as numbers of words.

    Attributes:
        vocabulary: all words that captions can have, sorted, after an empty one.
    """

    def __init__(self, names: Sequence[Sequence[str]]) -> None:
        fields = {"colour": " ".join(COLOURS), "brightness": " ".join(BRIGHTNESSES)}
        words = [template.format(name=name, **fields).split() for template in TEMPLATES for of in names for name in of]
        self.vocabulary = ("", *sorted({word for text in words for word in text}))
        self._length = max(len(template.split()) for template in TEMPLATES) + max(
            len(name.split()) - 1 for of_class in names for name in of_class
        )
        self._numbers = {word: number for number, word in enumerate(self.vocabulary)}

    def numbers(self, lines: Iterable[str]) -> torch.Tensor:
        """The numbers of each line's words, filled up with 0: (n, L)."""
        rows = [[self._numbers[word] for word in line.split()] for line in lines]
        return torch.tensor([row + [0] * (self._length - len(row)) for row in rows])


class Thresholds(NamedTuple):
    """From where on an image is called what; measured on training images.

    Attributes:
        dark: images whose mean pixel is below are dark.
        bright: images whose mean pixel is above are bright; a third of the training images each.
        coloured: images of which one channel's mean is above that of all by more are coloured; half of them.
    """

    dark: float
    bright: float
    coloured: float

    @classmethod
    def of(cls, images: torch.Tensor) -> Thresholds:
        """The thresholds of these images, (n, 3, height, width)."""
        light, tint = _measured(images)
        dark, bright = np.quantile(light, (1 / 3, 2 / 3))
        return cls(float(dark), float(bright), float(np.median(tint.max(1))))


def attributes(images: torch.Tensor, thresholds: Thresholds) -> tuple[np.ndarray, np.ndarray]:
    """Measures each image's colour and brightness: places in `COLOURS` and in `BRIGHTNESSES`, (n,) each."""
    light, tint = _measured(images)
    colour = np.where(tint.max(1) > thresholds.coloured, tint.argmax(1), _GREY)
    return colour, (light >= thresholds.dark).astype(int) + (light > thresholds.bright)


def _measured(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The mean of all pixels, (n,), and by how much each channel's mean lies above it, (n, 3)."""
    channels = images.double().mean((2, 3)).numpy()
    light = channels.mean(1)
    return light, channels - light[:, None]


def _texts(
    images: torch.Tensor,
    labels: torch.Tensor,
    names: Sequence[Sequence[str]],
    thresholds: Thresholds,
    rng: np.random.Generator,
) -> list[str]:
    colours, brightnesses = attributes(images, thresholds)
    draws = rng.random((len(labels), 2))
    lines = []
    for label, colour, brightness, (which, name) in zip(labels.tolist(), colours, brightnesses, draws, strict=True):
        names_of_label = names[label]
        template = TEMPLATES[int(which * len(TEMPLATES))]
        words = {"colour": COLOURS[colour], "brightness": BRIGHTNESSES[brightness]}
        lines.append(template.format(name=names_of_label[int(name * len(names_of_label))], **words))
    return lines
