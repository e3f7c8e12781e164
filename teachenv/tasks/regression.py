"""What a student that predicts numbers is judged by."""

from __future__ import annotations

import torch

from teachenv.tasks.measures import Measure


class Regression(Measure):
    """The coefficient of determination R², and minus the mean squared error as its smooth stand-in.

    The objective is J = −mean (z − y)², over samples and outputs, in the targets' unit squared: bring targets to
    variance 1 where rewards shall have a scale that does not depend on it. The score, `r2`, is
    1 − Σ (y − z)² / Σ (y − ȳ)² over the samples at hand, the mean over outputs: at most 1, 0 for a student that
    answers the mean ȳ, and negative for a worse one. Observations show negative ones as 0. An output whose targets are
    all the same has R² = 0, or 1 if all are met.

    Targets are numbers, (n,) or (n, outputs). An evaluation also has `mse`, the mean squared error, and `mae`, the mean
    absolute one. `test_error` is 1 − R², the share of the variance that is left over.
    """

    target_kind = "numbers"
    score_name = "r2"

    def __repr__(self) -> str:
        return "Regression()"

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Minus the mean squared error."""
        return -(outputs - targets.reshape(outputs.shape)).square().mean()

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """R², the mean over outputs."""
        given = targets.reshape(outputs.shape)
        left = (given - outputs).square().sum(0)
        total = (given - given.mean(0)).square().sum(0)
        # Their rounded mean may lie beside targets that are all the same.
        varied = (given != given[:1]).any(0) & (total > 0)
        of_constant = (left == 0).to(left.dtype)
        return torch.where(varied, 1 - left / torch.where(varied, total, 1), of_constant).mean()

    @property
    def reported(self) -> tuple[str, ...]:
        """`mse` and `mae`."""
        return ("mse", "mae")

    def report(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """The mean squared error and the mean absolute error."""
        error = (outputs - targets.reshape(outputs.shape)).double()
        return {"mse": float(error.square().mean()), "mae": float(error.abs().mean())}
