"""Figures in one style, from plain data: arrays, and result rows.

Each function returns a Matplotlib figure, which `save` writes as PNG, SVG and PDF:

    figure = teachenv.plot.sample_weights(losses, weights)
    teachenv.plot.save(figure, "figures/weights")

The style is meant for papers. Letters stay readable where a panel is printed 8 cm wide, colours can be told apart with
colour blindness, legends cover no data, and a panel has at most eight lines. Matplotlib is imported when something is
drawn.
"""

from teachenv.plot.files import save
from teachenv.plot.gradients import smoothness
from teachenv.plot.learning import learning_curves
from teachenv.plot.samples import attribution, sample_weights, suspects
from teachenv.plot.style import PALETTE
from teachenv.plot.teaching import coefficients, loss_curves, loss_surface

__all__ = [
    "PALETTE",
    "attribution",
    "coefficients",
    "learning_curves",
    "loss_curves",
    "loss_surface",
    "sample_weights",
    "save",
    "smoothness",
    "suspects",
]
