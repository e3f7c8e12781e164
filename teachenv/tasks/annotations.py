"""Objects of photographs from the files that tell them: COCO's JSON and PASCAL VOC's XML.

What such a file may lack has a default: no `iscrowd` and no `difficult` means an ordinary object, no size that of
the image itself. What it must have and lacks is an error that names the file and the image.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from warnings import warn
from xml.etree import ElementTree

import numpy as np
import torch

from teachenv.data.reading import damaged, read_bytes
from teachenv.errors import DatasetUnavailable
from teachenv.tasks.boxes import Objects
from teachenv.tasks.photographs import same_shape, size_of


@dataclass
class Photograph:
    """An image and its objects, as a file tells them.

    Attributes:
        path: the image's file.
        size: (width, height) of the image that the boxes are in; None: not told.
        boxes: left, top, right, bottom of each object, in pixels of that image.
        labels: the class of each object, from 1 on.
        void: which are crowds (COCO) or difficult (VOC).
    """

    path: Path
    size: tuple[float, float] | None
    boxes: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    void: list[bool] = field(default_factory=list)


Categories = Sequence[Mapping[str, Any]]
"""What COCO's files say of the classes: `id` and, as a rule, `name`."""


def read_coco(path: Path, folder: Path, categories: Categories | None = None) -> tuple[list[Photograph], Categories]:
    """Reads the images of a file of COCO's instances, in the order of their ids, and its categories.

    Args:
        path: the JSON file.
        folder: where its images are.
        categories: those of the training file, whose order numbers the classes; None: this is the training file.

    Raises:
        DatasetUnavailable: the file is missing or damaged, or an entry lacks what it must have.

    Warns:
        UserWarning: some objects are of images that the file does not list; they are left out.
    """
    content = _json(path)
    listed = _entries(path, content, "categories", ("id",))
    numbers = _numbers(path, listed, listed if categories is None else categories)
    entries = _entries(path, content, "images", ("id", "file_name"))
    ids = _ordered(path, "images", entries)
    images = {entry["id"]: Photograph(folder / str(entry["file_name"]), _size(entry)) for entry in entries}
    annotations, strangers = _entries(path, content, "annotations", ("image_id", "category_id", "bbox")), 0
    for entry in annotations:
        image = images.get(_hashable(path, entry["image_id"]))
        if image is None:
            strangers += 1
            continue
        category = _hashable(path, entry["category_id"])
        if category not in numbers:
            raise _wrong(path, f"an object of image {entry['image_id']!r} has category {category!r}", list(numbers))
        image.boxes.append(_box(path, entry))
        image.labels.append(numbers[category])
        image.void.append(entry.get("iscrowd") in (1, "1"))
    if strangers == len(annotations):
        raise _wrong(path, f"none of its {strangers} objects is of an image that it lists", "an annotated image")
    if strangers:
        warn(f"{path} has {strangers} objects of images that it does not list; they are left out", stacklevel=4)
    return [images[number] for number in ids], listed


def read_voc(path: Path, image: Path, classes: Sequence[str]) -> Photograph:
    """Reads the objects of an image of PASCAL VOC from its XML file.

    Args:
        path: the XML file.
        image: the image that the file is about.
        classes: their names, in the order of their numbers from 1 on.

    Raises:
        DatasetUnavailable: the file is missing or damaged, or an object lacks what it must have.
    """
    try:
        root = ElementTree.fromstring(read_bytes(path))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise damaged(path, f"it is no XML ({error})") from error
    if root.tag != "annotation":
        raise _wrong(path, f"its content is <{root.tag}>", "<annotation>")
    size = {part: root.findtext(f"size/{part}") for part in ("width", "height")}
    photograph = Photograph(image, _size(size))
    for entry in root.iter("object"):
        name = (entry.findtext("name") or "").strip()
        if name not in classes:
            raise _wrong(path, f"an object is called {name!r}", classes)
        edges = [_number(entry.findtext(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")]
        left, top, right, bottom = edges
        if any(edge is None for edge in edges) or right < left or bottom < top:  # type: ignore[operator]
            raise _wrong(path, f"the box of a {name} is {edges}", "xmin, ymin, xmax and ymax")
        # VOC counts pixels from 1, and the last one is inside.
        photograph.boxes.append([left - 1, top - 1, right, bottom])  # type: ignore[operator, list-item]
        photograph.labels.append(classes.index(name) + 1)
        photograph.void.append((entry.findtext("difficult") or "").strip() == "1")
    return photograph


def resized_objects(photographs: Sequence[Photograph], side: int) -> list[Objects]:
    """The objects of images that are resized to a square; boxes are cut at the edges.

    Args:
        photographs: the images.
        side: side of the square, in pixels.

    Warns:
        UserWarning: objects lie outside of their image, or a file tells another shape of an image than it has; the
            boxes are then taken to be in pixels of the image as it is.
    """
    objects, outside, contradicted = [], [], []
    for photograph in photographs:
        actual = size_of(photograph.path)
        width, height = photograph.size or actual
        if not same_shape((width, height), actual):
            contradicted.append(photograph.path)
            width, height = actual
        boxes = torch.tensor(photograph.boxes, dtype=torch.float32).view(-1, 4)
        area = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes = (boxes * torch.tensor([side / width, side / height]).repeat(2)).clamp(0, side)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        outside += [photograph.path] * int((area & ~inside).sum())
        labels, void = torch.tensor(photograph.labels).long(), torch.tensor(photograph.void).bool()
        objects.append(Objects(boxes[inside], labels[inside], void[inside]))
    for paths, fault in (
        (outside, "objects lie outside of their images and are left out"),
        (contradicted, "images have another shape than their annotations say; boxes are taken as of the images"),
    ):
        if paths:
            warn(f"{len(paths)} {fault}, the first in {paths[0]}", stacklevel=3)
    return objects


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise _wrong(path, f"its content is a {type(content).__name__}", "COCO's images, annotations and categories")
    return content


def _entries(path: Path, content: Mapping[str, Any], key: str, needed: Collection[str]) -> list[Mapping[str, Any]]:
    """A list of the file, of which each entry has what is needed."""
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        raise _wrong(path, f"it has no {key}", f"a list of {key}, as COCO's instances have")
    for place, entry in enumerate(entries):
        lacking = [name for name in needed if not isinstance(entry, dict) or name not in entry]
        if lacking:
            about = f" (image {entry['image_id']!r})" if isinstance(entry, dict) and "image_id" in entry else ""
            raise _wrong(path, f"entry {place} of its {key}{about} has no {', '.join(lacking)}", ", ".join(needed))
    return entries


def _ordered(path: Path, key: str, entries: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The ids of entries, each of which occurs once."""
    ids = [_hashable(path, entry["id"]) for entry in entries]
    if len(set(ids)) < len(ids):
        ((twice, _),) = Counter(ids).most_common(1)
        raise _wrong(path, f"its {key} have the id {twice!r} twice", "an id for each")
    try:
        return sorted(ids)
    except TypeError as error:
        raise _wrong(path, f"the ids of its {key} are of several types ({error})", "numbers") from error


def _numbers(path: Path, listed: Categories, of_train: Categories) -> dict[Any, int]:
    """The class of each category; COCO's numbers have gaps, ours do not."""
    _ordered(path, "categories", listed)
    names = {category["id"]: category.get("name") for category in of_train}
    for category in listed:
        name = names.get(category["id"], category.get("name"))
        if name != category.get("name"):
            raise _wrong(path, f"category {category['id']!r} is {category.get('name')!r}", f"{name!r} as in training")
    return {category: number for number, category in enumerate(sorted(names), 1)}


def _box(path: Path, entry: Mapping[str, Any]) -> list[float]:
    box = entry["bbox"]
    numbers = [_number(value) for value in box] if isinstance(box, list) and len(box) == 4 else [None]
    if any(number is None for number in numbers) or min(numbers[2:]) < 0:  # type: ignore[type-var, operator]
        raise _wrong(path, f"an object of image {entry['image_id']!r} has the box {box!r}", "[x, y, width, height]")
    x, y, width, height = np.array(numbers, dtype=np.float32)  # in which the boxes are used
    return [float(edge) for edge in (x, y, x + width, y + height)]


def _size(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """Width and height, if both are told; programs that do not know them write 0."""
    width, height = (_number(entry.get(part)) for part in ("width", "height"))
    return (width, height) if width and height and min(width, height) > 0 else None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _hashable(path: Path, number: Any) -> Any:
    if isinstance(number, (int, str)):
        return number
    raise _wrong(path, f"found the id {number!r}", "a number")


def _wrong(path: Path, problem: str, expected: object) -> DatasetUnavailable:
    return DatasetUnavailable(f"{path}: {problem}; expected {expected}. Correct the file, or copy an intact one there.")
