"""Figures keep the house style, from whatever data: readable letters inside, legends beside, at most eight lines."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from teachenv import plot
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Measure, grouped
from teachenv.plot import series, style

PRINTED = 8 / 2.54  # inches: the width at which a panel is still readable
SMALLEST = 6  # points
LONG = "a name of a method that goes on and on, $x_1$, and on and on, and on and on, and further than that"


def row(method: str, seed: int = 0, steps: int = 0, value: float = 0.5, **more: Any) -> Row:
    named = {"task": "digits", "config": {"stage": "training"}, **more}
    task, config = named.pop("task"), named.pop("config")
    return Row(
        "mine", task, "digits", "mlp", method, seed, "dev_objective", value, steps, 1.0, config, "0" * 40, {}, **named
    )


def teachers(count: int, name: str = "method {}") -> list[Row]:
    return [
        row(name.format(n), seed, steps, 0.1 + n / 50 + steps / 1000 + seed / 100)
        for n in range(count)
        for seed in range(2)
        for steps in (0, 100, 200)
    ]


def bars() -> Figure:
    """Thirteen methods in each of three columns."""
    groups = grouped(teachers(13, "generalized cross-entropy {}"))
    looks = style.distinct([[group.name for group in groups]])
    figure, axes = series.bar_panels(["a", "b", "c"], [groups] * 3)
    for axis in axes:
        series.bars(axis, groups, Measure("dev_objective"), lambda group: looks[group.name])
        style.describe(axis, "test error, % (mean, 95 % interval; dots: teacher seeds)")
    return figure


RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((6, 3, 3))
X = np.linspace(0.1, 1, 5)
FIGURES: dict[str, Callable[[], Figure]] = {
    "coefficients as lines": lambda: plot.coefficients(RANDOM.normal(size=(4, 8)), neutral=0, title=LONG),
    "one action": lambda: plot.coefficients([[1, 2]], names=["a", LONG]),
    "many coefficients": lambda: plot.coefficients(RANDOM.normal(size=(3, 9)), steps=[0, 50, 100000]),
    "more coefficients": lambda: plot.coefficients(RANDOM.random((3, 13)), neutral=np.ones(13)),
    "matrices": lambda: plot.coefficients(RANDOM.normal(size=(2, 3, 3)), neutral=np.eye(3), title=LONG),
    "matrices of named classes": lambda: plot.coefficients([np.eye(2)], names=["horse", "automobile"]),
    "no square": lambda: plot.coefficients([np.full((2, 3), np.nan), np.ones((2, 3))]),
    "loss curves": lambda: plot.loss_curves(X, [-np.log(X) * n for n in range(7)], plain=-np.log(X), title=LONG),
    "one loss": lambda: plot.loss_curves(X, torch.tensor(-np.log(X)), names=["taught"], x_label=LONG),
    "loss surface": lambda: plot.loss_surface(X, X, np.outer(X, X)),
    "flat surfaces": lambda: plot.loss_surface(X, X[:2], {"a": np.zeros((2, 5)), LONG: np.zeros((2, 5))}, title=LONG),
    "a surface with a hole": lambda: plot.loss_surface(X, X, np.where(np.eye(5) == 1, np.inf, 1.0 + np.outer(X, X))),
    "sample weights": lambda: plot.sample_weights(X, X, wrong=[0, 1, 0, 0, 1], title=LONG),
    "one weight": lambda: plot.sample_weights([1.0], [1]),
    "attribution": lambda: plot.attribution(
        RANDOM.normal(size=6), IMAGES, IMAGES[0], labels=["a"] * 5 + [LONG], test_label=1, count=2, title=LONG
    ),
    "attribution by one sample": lambda: plot.attribution([0.0], np.ones((1, 4)), np.ones(4), shape=(2, 2)),
    "suspects": lambda: plot.suspects(IMAGES, range(6), [LONG] * 6, columns=4, title=LONG),
    "a suspect in colours": lambda: plot.suspects(np.zeros((1, 3, 2, 2)), ["cat"], ["dog"]),
    "learning curves": lambda: plot.learning_curves(teachers(3), "dev_objective", y_label=LONG),
    "long names": lambda: plot.learning_curves(teachers(3, LONG + "{}"), "dev_objective", band="range"),
    "many methods": lambda: plot.learning_curves(teachers(9), "dev_objective", band=None),
    "curves of students": lambda: plot.learning_curves(
        [row("a", data={"curve": [0.1, 0.5]}), row("a", 1, data={"curve": [0.1, 0.6]}), row("b", data=None)]
    ),
    "bars": bars,
    "curves with steps": lambda: plot.learning_curves([row("a", data={"curve": [[0, 0.1], [50, 0.5]]}, task=LONG)]),
}


def unseen(figure: Figure) -> set[int]:
    """Labels of ticks beyond the ends of an axis, which are not drawn, and what belongs to hidden axes."""
    hidden = {id(text) for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        beyond = (t for t in [*axis.get_major_ticks(), *axis.get_minor_ticks()] if not low <= t.get_loc() <= high)
        hidden |= {id(text) for tick in beyond for text in (tick.label1, tick.label2)}
    return hidden


def width_of_panel(figure: Figure) -> float:
    """Inches."""
    grids = [axes.get_gridspec() for axes in figure.axes if axes.get_subplotspec() is not None]
    return figure.get_figwidth() / max(grid.ncols for grid in grids)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_keep_the_style(name: str) -> None:
    figure = FIGURES[name]()
    figure.set_dpi(50)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    hidden = unseen(figure)
    letters = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in hidden]
    assert letters
    for text in letters:
        box = text.get_window_extent(renderer)
        found = (text.get_text(), box.extents, figure.bbox.extents)
        assert min(box.x0, box.y0, figure.bbox.x1 - box.x1, figure.bbox.y1 - box.y1) >= -1, found
        assert text.get_fontsize() * min(1, PRINTED / width_of_panel(figure)) >= SMALLEST, found
    for axis in figure.axes:
        legend = axis.get_legend()
        if legend is not None:
            frame, data = legend.get_window_extent(renderer), axis.get_window_extent(renderer)
            assert frame.y1 <= data.y0
            assert 1 <= len(legend.get_texts()) <= style.MOST_LINES


def test_what_lies_outside_would_be_found() -> None:
    """A title that is not wrapped, for comparison."""
    figure, (axis,) = style.panels(["short"])
    axis.set_title(LONG)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = axis.title.get_window_extent(canvas.get_renderer())
    assert box.x0 < 0 or box.x1 > figure.bbox.x1


def test_many_methods_have_panels_of_eight_that_begin_with_the_first() -> None:
    figure = plot.learning_curves([*teachers(16), *(row("method 3", 0, s, task="b") for s in (0, 9))], "dev_objective")
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == ["digits (1 of 3)", "digits (2 of 3)", "digits (3 of 3)", "b"]
    names = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in shown]
    assert [len(panel) for panel in names] == [6, 6, 6, 1]
    assert {panel[0] for panel in names[:3]} == {"method 0"}
    assert len(set(itertools.chain(*names))) == 16
    # A name looks the same everywhere, no two of a panel have one colour, and no two names look alike.
    lines = [axis.get_legend().get_lines() for axis in shown]
    assert all(len({line.get_color() for line in panel}) == len(panel) for panel in lines)
    looks = [[(line.get_color(), line.get_marker()) for line in panel] for panel in lines]
    assert looks[3][0] == looks[0][names[0].index("method 3")]
    assert len(set(itertools.chain(*looks))) == 16
    assert shown[0].get_ylim() == shown[1].get_ylim()


def test_learning_curves_leave_out_tunings_and_older_settings() -> None:
    tuning = [row("a", 0, steps, 9.0, config={"stage": "tuning"}) for steps in (0, 100)]
    older = [row("a", 0, steps, 7.0, config={"stage": "training", "rate": 1}) for steps in (0, 100)]
    newer = [row("a", 0, steps, 0.5 + steps, config={"stage": "training", "rate": 2}) for steps in (0, 100)]
    (line,) = plot.learning_curves([*tuning, *older, *newer], "dev_objective").axes[0].get_lines()
    assert line.get_xydata().tolist() == [[0, 0.5], [100, 100.5]]


def test_samples_that_helped_and_harmed_stand_in_their_order() -> None:
    values = [0.3, -0.1, 0.0, -0.2, 0.1, 0.2]
    figure = plot.attribution(values, IMAGES, IMAGES[0], labels=list("abcdef"), count=2)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["test", "label d\n−2.0e−01", "label b\n−1.0e−01", "label a\n+3.0e−01", "label f\n+2.0e−01"]


# Matrices of Machado, Oliveira and Fernandes (2009), for linear RGB, of people who lack one kind of cones.
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


def linear(color: str) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson's (2020) colour space, in which distances are those that are seen; white to black is 1."""
    cones = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]) @ rgb
    to_lab = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    return np.array(to_lab) @ np.cbrt(cones)


@pytest.mark.parametrize("vision", VISION)
def test_colours_can_be_told_apart(vision: str) -> None:
    seen = {name: oklab(np.clip(np.array(VISION[vision]) @ linear(name), 0, 1)) for name in plot.PALETTE}
    distances = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(seen, 2)}
    assert len(distances) == 28
    assert min(distances.values()) > 0.07, min(distances, key=distances.__getitem__)


def test_colours_stand_out_from_white() -> None:
    contrast = {name: 1.05 / (linear(name) @ [0.2126, 0.7152, 0.0722] + 0.05) for name in plot.PALETTE}
    assert min(contrast.values()) > 2.2


def test_no_two_names_look_alike_and_no_two_of_a_panel_have_one_colour() -> None:
    panels = [
        [f"{n}" for n in range(8)],
        ["0", "8", "9", "3"],
        ["10", "8", "1"],
        ["0", *(f"{n}" for n in range(8, 15))],
    ]
    looks = style.distinct(panels)
    assert [looks[f"{n}"] for n in range(8)] == [style.Look(color) for color in style.PALETTE]
    assert len(set(looks.values())) == 15
    assert all(len({looks[name].color for name in panel}) == len(panel) for panel in panels)
    # There are 32 looks.
    many = style.distinct([[f"{n}" for n in range(33)]])
    assert len(set(many.values())) == 32


def test_bars_of_more_methods_than_colours_have_other_markers() -> None:
    lines = [line for line in bars().axes[0].get_lines() if line.get_markersize() == 7]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines) == 13


def test_a_figure_is_saved_as_png_svg_and_pdf(tmp_path: Path) -> None:
    figure = plot.loss_curves(X, -np.log(X), names=["taught loss"])
    written = plot.save(figure, tmp_path / "folder" / "fig.1")
    assert [path.name for path in written] == ["fig.1.png", "fig.1.svg", "fig.1.pdf"]
    png, svg, pdf = (path.read_bytes() for path in written)
    assert png.startswith(b"\x89PNG")
    assert b">taught loss<" in svg
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf  # TrueType, which conferences ask for
    assert b"/Type3" not in pdf
    assert b"date" not in svg
    assert b"CreationDate" not in pdf
    assert plot.save(figure, tmp_path / "one.svg") == [tmp_path / "one.svg"]
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "one.svg"}


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot.coefficients([1.0]), "values has shape (1,), expected (steps, coefficients) or (steps, rows"),
        (lambda: plot.coefficients([["a"]]), "values must be an array of numbers of shape (steps, coefficients)"),
        (lambda: plot.coefficients(np.zeros((0, 3))), "values has shape (0, 3), expected (steps, coefficients)"),
        (lambda: plot.coefficients(np.ones((2, 3)), steps=[1]), "steps has shape (1,), expected (2,)"),
        (lambda: plot.coefficients(np.ones((2, 3)), names=["a"]), "names must be a list of 3 names, found ['a']"),
        (lambda: plot.coefficients(np.ones((2, 3)), neutral=[1]), "neutral has shape (1,), expected () or (3,)"),
        (lambda: plot.loss_curves(X, np.ones((9, 5))), "losses has 9 curves, expected at most 8"),
        (lambda: plot.loss_curves(X, np.ones((8, 5)), plain=X), "losses has 8 curves, expected at most 7"),
        (lambda: plot.loss_curves(X, np.ones(4)), "losses has shape (4,), expected (curves, 5) or (5,)"),
        (lambda: plot.loss_curves(X, X, plain=[1]), "plain has shape (1,), expected (5,)"),
        (lambda: plot.loss_surface(X, X[:2], np.ones((5, 2))), "losses has shape (5, 2), expected (2, 5)"),
        (lambda: plot.loss_surface(X, X, np.full((5, 5), np.nan)), "losses has no finite value"),
        (lambda: plot.loss_surface(X[:1], X, np.ones((5, 1))), "found 1 values of x and 5 of y, expected at least two"),
        (lambda: plot.loss_surface(X, X, {}), "losses has no finite value"),
        (lambda: plot.sample_weights(X, X[:2]), "weights has shape (2,), expected (5,)"),
        (lambda: plot.sample_weights(X, X, wrong=[1]), "wrong has shape (1,), expected (5,)"),
        (lambda: plot.attribution([0, 1], IMAGES, IMAGES[0]), "inputs are 6 samples, expected 2"),
        (lambda: plot.attribution(np.ones(6), IMAGES, IMAGES), "test has shape (6, 3, 3), expected (3, 3)"),
        (lambda: plot.attribution(np.ones(6), IMAGES, IMAGES[0], labels=[1]), "labels must be a list of 6 labels"),
        (lambda: plot.attribution(np.ones(6), IMAGES, IMAGES[0], count=0), "count must be an integer of at least 1"),
        (lambda: plot.attribution(np.ones(6), np.ones((6, 9)), np.ones(9)), "give the height and width of a sample"),
        (lambda: plot.suspects(IMAGES, [1], [2]), "given must be a list of 6 labels, found [1]"),
        (lambda: plot.suspects(IMAGES, [1] * 6, [2] * 6, shape=(2, 2)), "shape=(2, 2) does not fit samples of shape"),
        (lambda: plot.suspects(IMAGES[:0], [], []), "inputs has shape (0, 3, 3), expected at least one sample"),
        (lambda: plot.learning_curves([], "dev_objective"), "none of 0 rows has the metric 'dev_objective' at two"),
        (
            lambda: plot.learning_curves([row("a")]),
            "none of 1 rows has a curve in its data; the metrics of training runs",
        ),
        (lambda: plot.save(Figure(), "f", formats=["eps"]), "unknown formats[0] 'eps': expected one of"),
        (lambda: plot.save(Figure(), "f", formats=[]), "formats is empty, expected some of png, svg, pdf"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(draw: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        draw()


def test_matplotlib_is_imported_where_something_is_drawn(in_new_process) -> None:
    in_new_process(
        "import sys, teachenv\n"
        "assert 'teachenv.plot' not in sys.modules\n"
        "save = teachenv.plot.save\n"
        "assert 'matplotlib' not in sys.modules\n"
        "teachenv.plot.coefficients([[1.0, 2.0]])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
