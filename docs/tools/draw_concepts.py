"""Draws the pictures of the page on concepts and of the index, as SVG: `python docs/tools/draw_concepts.py`.

Colours are those of Okabe and Ito, which people with colour-blindness can tell apart.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

IMAGES = Path(__file__).resolve().parent.parent / "images"
BLUE, ORANGE, GREEN, GREY, YELLOW = "#0072B2", "#D55E00", "#009E73", "#666666", "#E69F00"


def canvas(width: float, height: float) -> Axes:
    """Axes without a frame, a unit an inch."""
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return axes


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str, size: float = 11) -> None:
    """A rounded box with text in its middle."""
    style = "round,pad=0,rounding_size=0.1"
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=color + "22", edgecolor=color, lw=1.5)
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, bend: float = 0, **style: object
) -> None:
    """An arrow, which may be bent."""
    connection = f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=14, lw=1.6, color=color, connectionstyle=connection, **style
        )
    )


def loop() -> None:
    """Teacher and environment: what goes to and fro."""
    axes = canvas(8, 3.1)
    box(axes, 0.2, 0.9, 1.9, 1.3, "Teacher\n\nRL agent, or\ngradient descent", BLUE)
    box(axes, 3.9, 0.35, 3.9, 2.4, "", GREEN)
    axes.text(5.85, 2.5, "Environment: the training of a student", ha="center", va="center", fontsize=10.5, color=GREEN)
    box(axes, 4.1, 1.2, 1.55, 0.95, "Student\nnetwork ω", GREEN, 10)
    box(axes, 6.05, 1.2, 1.55, 0.95, "SGD step on\nthe taught loss", GREEN, 10)
    arrow(axes, (6.05, 1.85), (5.65, 1.85), GREEN)
    arrow(axes, (5.65, 1.5), (6.05, 1.5), GREEN)
    axes.text(5.85, 0.75, "measured on dev: J(ω)", ha="center", va="center", fontsize=10)
    arrow(axes, (2.1, 2.0), (3.9, 2.0), BLUE)
    axes.text(3.0, 2.13, "action: the loss\nof the next step", ha="center", va="bottom", fontsize=9.5)
    arrow(axes, (3.9, 1.45), (2.1, 1.45), ORANGE)
    axes.text(3.0, 1.51, "observation, reward ΔJ", ha="center", va="bottom", fontsize=9.5)
    arrow(axes, (3.9, 0.95), (2.1, 0.95), ORANGE, linestyle="--")
    axes.text(3.0, 0.88, "for gradient teachers\nalso ∂J/∂action", ha="center", va="top", fontsize=9.5)
    save(axes, "loop")


def splits() -> None:
    """What data is used for what."""
    axes = canvas(8, 2.9)
    box(axes, 0.2, 1.75, 5.3, 0.75, "pool: labelled samples", BLUE)
    box(axes, 5.8, 1.75, 2.0, 0.75, "test", GREY)
    axes.text(6.8, 1.6, 'measured once, at the end,\nby evaluate("test")', ha="center", va="top", fontsize=9.5)
    random = np.random.default_rng(0)
    for row, name in enumerate(("episode 1", "episode 2")):
        y = 0.95 - 0.55 * row
        axes.text(0.95, y + 0.15, name, ha="right", va="center", fontsize=9.5)
        for place, dev in enumerate(random.random(34) < 0.4):
            color = YELLOW if dev else BLUE
            axes.add_patch(Rectangle((1.05 + 0.13 * place, y), 0.11, 0.3, color=color))
    axes.text(0.2, 1.55, "drawn anew for each episode:", ha="left", va="center", fontsize=9.5)
    for x, color, text in ((2.55, BLUE, "train"), (3.45, YELLOW, "dev")):
        axes.add_patch(Rectangle((x, 1.47), 0.14, 0.17, color=color))
        axes.text(x + 0.2, 1.55, text, va="center", fontsize=9.5)
    axes.text(
        0.2, 0.12, "students learn from train; the reward is measured on dev", ha="left", va="center", fontsize=9.5
    )
    save(axes, "splits")


def episode() -> None:
    """An episode in time: student steps, J, and rewards."""
    figure, axes = plt.subplots(figsize=(8, 3.4))
    t = np.arange(0, 7)
    j = 0.1 + 0.8 * (1 - np.exp(-t / 2.2))
    axes.plot(t, j, color=BLUE, marker="o", lw=2, zorder=3)
    for k in range(6):
        axes.plot([k, k + 1, k + 1], [j[k], j[k], j[k + 1]], color=GREY, lw=1, linestyle=":")
        text = f"$r_{k + 1}$"
        axes.annotate(text, (k + 1.06, (j[k] + j[k + 1]) / 2), fontsize=11, color=ORANGE, va="center")
        axes.annotate(f"$a_{k}$", (k + 0.5, -0.03), fontsize=11, color=GREEN, ha="center", va="center")
        axes.annotate("", (k + 0.92, 0.04), (k + 0.08, 0.04), arrowprops={"arrowstyle": "-|>", "color": GREEN})
    axes.annotate("", (6.55, j[-1]), (6.55, j[0]), arrowprops={"arrowstyle": "<->", "color": ORANGE, "lw": 1.5})
    axes.text(6.62, (j[0] + j[-1]) / 2, "return\nJ(ω$_T$) − J(ω$_0$)", va="center", fontsize=10, color=ORANGE)
    axes.set(
        xlim=(-0.2, 7.7), ylim=(-0.1, 1), xticks=t, xlabel="student step", ylabel="J: how good the student is on dev"
    )
    axes.set_xticklabels([f"ω$_{k}$" for k in t])
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_yticks([])
    axes.text(0, 0.97, "reward: the increase of J in one step", color=ORANGE, fontsize=10, va="top")
    axes.text(0, 0.9, "action: the loss of that step", color=GREEN, fontsize=10, va="top")
    figure.tight_layout()
    save(axes, "episode")


def actions() -> None:
    """What an action can stand for: a matrix of coefficients, or weights of samples."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(8, 2.9), width_ratios=(1, 1, 1.15))
    random = np.random.default_rng(1)
    for axes, matrix, title in (
        (left, np.eye(5), "zero action: cross-entropy\nΦ = identity"),
        (middle, np.eye(5) + 0.35 * random.uniform(-1, 1, (5, 5)), "another action:\nother coefficients"),
    ):
        axes.imshow(matrix, cmap="RdBu_r", vmin=-1.4, vmax=1.4)
        axes.set_title(title, fontsize=10)
        axes.set(xticks=range(5), yticks=range(5), xlabel="class", ylabel="label")
    weights = 1 + random.uniform(-0.8, 0.8, 8)
    right.bar(range(8), weights, color=BLUE)
    right.axhline(1, color=ORANGE, linestyle="--", lw=1.5)
    right.text(7.6, 1.9, "dashed: zero action", color=ORANGE, ha="right", va="top", fontsize=9)
    right.set_title("or a weight\nfor each sample", fontsize=10)
    right.set(xlabel="sample", ylabel="weight", ylim=(0, 2), xticks=range(8))
    right.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(left, "actions")


def objective() -> None:
    """Accuracy, and J: the same, smoothed so that it has a slope."""
    figure, axes = plt.subplots(figsize=(8, 3.1))
    margin = np.linspace(-3, 3, 601)
    axes.plot(margin, margin > 0, color=GREY, lw=2, label="accuracy: right or wrong, no slope")
    for temperature, color in ((1.0, YELLOW), (0.2, BLUE)):
        label = f"J at temperature τ = {temperature:g}" + (" (the default)" if temperature == 0.2 else "")
        axes.plot(margin, 1 / (1 + np.exp(-margin / temperature)), color=color, lw=2, label=label)
    axes.set(xlabel="logit of the right class less the other's", ylabel="value of one dev sample", xlim=(-3, 3))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=10)
    figure.tight_layout()
    save(axes, "objective")


def teachers() -> None:
    """What an RL teacher and a gradient teacher learn from."""
    axes = canvas(8, 2.7)
    places = [0.5 + 1.15 * k for k in range(6)]
    for k, x in enumerate(places):
        box(axes, x, 1.15, 0.6, 0.5, "J" if k == 5 else f"ω$_{k}$", ORANGE if k == 5 else GREEN, 11)
        if k < 5:
            arrow(axes, (x + 0.6, 1.4), (places[k + 1], 1.4), GREEN)
    for k in range(4):
        middle = places[k] + 0.87
        axes.text(middle, 1.85, f"$a_{k}$", ha="center", fontsize=11, color=BLUE)
        arrow(axes, (middle, 1.8), (middle, 1.45), BLUE)
        arrow(axes, (middle + 0.12, 1.45), (middle + 0.12, 1.8), ORANGE, linestyle="--")
        arrow(axes, (places[k + 1] + 0.3, 1.1), (places[k] + 0.4, 1.1), ORANGE, bend=-0.45, linestyle="--")
    arrow(axes, (places[5] + 0.3, 1.1), (places[4] + 0.4, 1.1), ORANGE, bend=-0.45, linestyle="--")
    axes.text(
        0.5,
        2.4,
        "Forwards: actions (blue) set the losses of student steps, the last student has J.",
        fontsize=10,
        va="center",
    )
    axes.text(
        0.5,
        0.4,
        "Backwards: reverse mode carries ∂J/∂ω from step to step (dashed), and leaves ∂J/∂a at each action.\n"
        "An RL teacher sees neither: it estimates from many episodes' rewards which actions pay.",
        fontsize=10,
        va="center",
    )
    save(axes, "teachers")


def save(axes: Axes, name: str) -> None:
    """Writes a picture; without a date, so that the same code gives the same file."""
    with plt.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        axes.figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
    plt.close("all")


if __name__ == "__main__":
    for draw in (loop, splits, episode, actions, objective, teachers):
        draw()
