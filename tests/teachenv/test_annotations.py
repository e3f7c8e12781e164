"""Annotation files that lack something: a default that is right, or one line that names file and image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from teachenv.errors import DatasetUnavailable
from teachenv.tasks import make_task
from teachenv.tasks.annotations import read_coco, read_voc, resized_objects

Content = dict[str, Any]


def picture(path: Path, size: tuple[int, int] = (80, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path)
    return path


def content() -> Content:
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 40} for i in (5, 2)],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 7, "bbox": [10, 5, 40, 20], "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 3, "bbox": [0, 0, 80, 40], "iscrowd": 1},
            {"id": 3, "image_id": 2, "category_id": 3, "bbox": [3, 3, 0, 5], "iscrowd": 0},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


def coco(folder: Path, changed: Content | None = None) -> Path:
    for i in (2, 5):
        picture(folder / "images" / f"{i}.png")
    file = folder / "instances.json"
    file.write_text(json.dumps(content() if changed is None else changed))
    return file


def objects_of(file: Path) -> list[Any]:
    photographs, _ = read_coco(file, file.parent / "images")
    return [
        (o.labels.tolist(), o.void.tolist(), o.boxes.tolist())  # type: ignore[union-attr]
        for o in resized_objects(photographs, 160)
    ]


EXPECTED = [([], [], []), ([2, 1], [False, True], [[20, 20, 100, 100], [0, 0, 160, 160]])]


def test_a_whole_file(tmp_path: Path) -> None:
    assert objects_of(coco(tmp_path)) == EXPECTED


def without(content: Content, key: str, *names: str) -> Content:
    for entry in content[key]:
        for name in names:
            entry.pop(name, None)
    return content


def with_entry(content: Content, key: str, place: int, **values: Any) -> Content:
    content[key][place] |= values
    return content


@pytest.mark.parametrize(
    "changed",
    [
        without(content(), "images", "width"),
        without(content(), "images", "height"),
        without(content(), "images", "width", "height"),
        with_entry(content(), "images", 0, width=0, height=0),
        with_entry(content(), "images", 0, width=None),
        without(content(), "annotations", "id"),
        without(content(), "categories", "name"),
        without(content(), "annotations", "area", "segmentation"),
    ],
)
def test_what_a_file_may_lack(changed: Content, tmp_path: Path) -> None:
    assert objects_of(coco(tmp_path, changed)) == EXPECTED


def test_without_crowds_every_object_is_ordinary(tmp_path: Path) -> None:
    found = objects_of(coco(tmp_path, without(content(), "annotations", "iscrowd")))
    assert found[1] == ([2, 1], [False, False], EXPECTED[1][2])


def test_boxes_are_in_pixels_of_the_size_that_is_told(tmp_path: Path) -> None:
    """Images may have been resized since."""
    changed = content()
    for image in changed["images"]:
        image |= {"width": 160, "height": 80}
    for annotation in changed["annotations"]:
        annotation["bbox"] = [2 * edge for edge in annotation["bbox"]]
    assert objects_of(coco(tmp_path, changed)) == EXPECTED


def test_another_shape_than_the_images_is_announced(tmp_path: Path) -> None:
    file = coco(tmp_path, with_entry(content(), "images", 0, width=40, height=80))
    with pytest.warns(UserWarning, match=r"1 images have another shape .*5\.png"):
        assert objects_of(file) == EXPECTED


def test_objects_outside_of_their_image_are_announced(tmp_path: Path) -> None:
    changed = content()
    changed["annotations"] += [
        {"image_id": 2, "category_id": 3, "bbox": [90, 3, 9, 5]},
        {"image_id": 2, "category_id": 3, "bbox": [-10, -10, 30, 20]},
    ]
    with pytest.warns(UserWarning, match=r"1 objects lie outside of their images .*2\.png"):
        found = objects_of(coco(tmp_path, changed))
    assert found[0] == ([1], [False], [[0, 0, 40, 40]])


def test_objects_of_images_that_are_not_listed_are_announced(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"instances\.json has 1 objects of images"):
        assert objects_of(coco(tmp_path, with_entry(content(), "annotations", 2, image_id=9))) == EXPECTED


def emptied(content: Content, key: str) -> Content:
    return content | {key: []}


WRONG: dict[str, tuple[Any, str]] = {
    "no box": (without(content(), "annotations", "bbox"), "image 5.* has no bbox"),
    "no image of an object": (without(content(), "annotations", "image_id"), "has no image_id"),
    "no category of an object": (without(content(), "annotations", "category_id"), "has no category_id"),
    "no name of a file": (without(content(), "images", "file_name"), "entry 0 of its images has no file_name"),
    "no id of an image": (without(content(), "images", "id"), "has no id"),
    "no images": (emptied(content(), "images"), "it has no images"),
    "no annotations": (emptied(content(), "annotations"), "it has no annotations"),
    "no categories": (emptied(content(), "categories"), "it has no categories"),
    "captions": ({"images": [], "annotations": []}, "it has no categories"),
    "a list": ([1, 2], "its content is a list"),
    "unknown category": (with_entry(content(), "annotations", 0, category_id=9), "image 5 has category 9"),
    "three edges": (with_entry(content(), "annotations", 0, bbox=[1, 2, 3]), r"image 5 has the box \[1, 2, 3\]"),
    "a box of words": (with_entry(content(), "annotations", 0, bbox=["a"] * 4), "has the box"),
    "a negative width": (with_entry(content(), "annotations", 0, bbox=[9, 9, -3, 3]), "has the box"),
    "an endless box": (with_entry(content(), "annotations", 0, bbox=[0, 0, float("inf"), 3]), "has the box"),
    "ids of texts and numbers": (with_entry(content(), "images", 1, id="2"), "several types"),
    "an image twice": (with_entry(content(), "images", 1, id=5), "its images have the id 5 twice"),
    "a category twice": (with_entry(content(), "categories", 1, id=3), "its categories have the id 3 twice"),
    "an id that is a list": (with_entry(content(), "images", 1, id=[2]), r"the id \[2\]"),
    "only strangers": (
        content() | {"images": [{"id": str(i), "file_name": f"{i}.png"} for i in (2, 5)]},
        "none of its 3 objects is of an image",
    ),
}


def refused(load: Callable[[], Any], file: Path, problem: str) -> None:
    with pytest.raises(DatasetUnavailable, match=problem) as caught:
        load()
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", WRONG)
def test_what_a_file_must_have(kind: str, tmp_path: Path) -> None:
    changed, problem = WRONG[kind]
    file = coco(tmp_path, changed)
    refused(lambda: objects_of(file), file, problem)


@pytest.mark.parametrize("damage", ["half", "garbage", "empty", "deep"])
def test_what_is_no_json(damage: str, tmp_path: Path) -> None:
    file = coco(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(
        {"half": whole[: len(whole) // 2], "garbage": b"\xff\x00", "empty": b"", "deep": b"[" * 200_000}[damage]
    )
    refused(lambda: objects_of(file), file, "it is no JSON")


def test_test_images_have_the_classes_of_training(tmp_path: Path) -> None:
    _, train = read_coco(coco(tmp_path / "train"), tmp_path)
    changed = content()
    changed["categories"] = changed["categories"][1:]
    changed["annotations"] = changed["annotations"][:1]
    file = coco(tmp_path / "val", changed)
    assert read_coco(file, file.parent / "images", train)[0][1].labels == [2]
    changed["categories"][0]["name"] = "wolf"
    file.write_text(json.dumps(changed))
    refused(lambda: read_coco(file, file.parent, train), file, "category 7 is 'wolf'; expected 'dog'")


# --- PASCAL VOC ------------------------------------------------------------------------------------------------------

SIZE = "<size><width>80</width><height>40</height></size>"
BOX = "<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>50</xmax><ymax>25</ymax></bndbox>"


def voc(folder: Path, inside: str) -> tuple[Path, Path]:
    image, file = picture(folder / "a.png"), folder / "a.xml"
    file.write_text(f"<annotation>{inside}</annotation>")
    return file, image


@pytest.mark.parametrize(
    ("inside", "void"),
    [
        (f"{SIZE}<object><name>dog</name><difficult>0</difficult>{BOX}</object>", False),
        (f"{SIZE}<object><name>dog</name><difficult> 1 </difficult>{BOX}</object>", True),
        (f"{SIZE}<object><name>dog</name>{BOX}</object>", False),
        (f"<object><name> dog\n</name>{BOX}</object>", False),
        (f"<size><width>0</width><height>0</height></size><object><name>dog</name>{BOX}</object>", False),
        (
            f"<object><name>dog</name><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>{BOX}</object>",
            False,
        ),
    ],
)
def test_what_an_xml_file_may_lack(inside: str, void: bool, tmp_path: Path) -> None:
    (found,) = resized_objects([read_voc(*voc(tmp_path, inside), ("cat", "dog"))], 160)
    assert (found.labels.tolist(), found.boxes.tolist()) == ([2], [[20, 20, 100, 100]])
    assert found.is_void().tolist() == [void]


@pytest.mark.parametrize(
    ("inside", "problem"),
    [
        (f"<object><name>wolf</name>{BOX}</object>", "called 'wolf'"),
        (f"<object>{BOX}</object>", "called ''"),
        ("<object><name>dog</name></object>", "the box of a dog is"),
        (f"<object><name>dog</name>{BOX.replace('50', 'x')}</object>", "the box of a dog is"),
        (f"<object><name>dog</name>{BOX.replace('50', '5')}</object>", "the box of a dog is"),
        ("<object>", "it is no XML"),
        ("</annotation><annotation>", "it is no XML"),
    ],
)
def test_what_an_xml_file_must_have(inside: str, problem: str, tmp_path: Path) -> None:
    file, image = voc(tmp_path, inside)
    refused(lambda: read_voc(file, image, ("cat", "dog")), file, problem)


def test_another_xml_file(tmp_path: Path) -> None:
    file, image = voc(tmp_path, "")
    file.write_text("<html/>")
    refused(lambda: read_voc(file, image, ("cat", "dog")), file, "its content is <html>")


@pytest.mark.parametrize("damage", ["missing", "empty", "binary"])
@pytest.mark.parametrize(("task", "folder"), [("detection", "Main"), ("segmentation", "Segmentation")])
def test_a_list_of_images_that_cannot_be_used_is_named(task: str, folder: str, damage: str, tmp_path: Path) -> None:
    lists = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / folder
    lists.mkdir(parents=True)
    for part in ("train", "val"):
        (lists / f"{part}.txt").write_text("a\n")
    (lists / "val.txt").unlink()
    if damage != "missing":
        (lists / "val.txt").write_bytes(b"\n" if damage == "empty" else b"\xff\x00")
    problem = {"missing": "is missing", "empty": "names no image", "binary": "no UTF-8"}[damage]
    refused(lambda: make_task(task, dataset="voc2012", data_root=tmp_path), lists / "val.txt", problem)


def test_an_image_without_objects(tmp_path: Path) -> None:
    (found,) = resized_objects([read_voc(*voc(tmp_path, SIZE), ("cat", "dog"))], 160)
    assert found.boxes.shape == (0, 4)


# --- the task --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the files in .* are not the official")
def test_a_task_of_files_without_what_they_may_lack_is_the_same(tmp_path: Path) -> None:
    tasks = []
    for name, changed in (("whole", content()), ("bare", without(content(), "images", "width", "height"))):
        for part in ("train", "val"):
            root = tmp_path / name / "coco"
            for i in (2, 5):
                picture(root / f"{part}2017" / f"{i}.png")
            (root / "annotations").mkdir(exist_ok=True)
            (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(changed))
        tasks.append(make_task("detection", dataset="coco", data_root=tmp_path / name, image_size=64))
    assert tasks[0].dataset == tasks[1].dataset == "coco-subset-2"
    assert torch.equal(tasks[0].pool[1], tasks[1].pool[1])


@pytest.mark.filterwarnings("ignore:the files in .* are not the official")
@pytest.mark.parametrize("mask", ["another shape", "colours", "floats", "no class"])
def test_labels_of_pixels_that_do_not_fit_are_named(mask: str, tmp_path: Path) -> None:
    pixels: dict[str, Any] = {
        "another shape": np.zeros((80, 40), np.uint8),
        "colours": np.zeros((40, 80, 3), np.uint8),
        "floats": np.zeros((40, 80), np.float32),
        "no class": np.full((40, 80), 200, np.uint8),
    }
    name = "a.tif" if mask == "floats" else "a.png"
    picture(tmp_path / "CamVid" / "x" / "a.png")
    Image.fromarray(pixels[mask]).save(tmp_path / "CamVid" / name)
    (tmp_path / "CamVid" / "y").mkdir()
    (tmp_path / "CamVid" / name).rename(tmp_path / "CamVid" / "y" / name)
    for part in ("train", "val", "test"):
        (tmp_path / "CamVid" / f"{part}.txt").write_text(f"x/a.png y/{name}\n")
    refused(
        lambda: make_task("segmentation", dataset="camvid", data_root=tmp_path),
        tmp_path / "CamVid" / "y" / name,
        {"another shape": "expected the same", "no class": "no pixel"}.get(mask, "has pixels of mode"),
    )
