"""See `teachenv.experiment.timing`."""

from teachenv.experiment.timing import grown as grown
from teachenv.experiment.timing import limit as limit
from teachenv.experiment.timing import reset_peak as reset_peak
