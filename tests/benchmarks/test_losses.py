"""All plain losses are compared, each tuned over as many settings."""

from pathlib import Path

import pytest

from benchmarks import losses
from teachenv.experiment.rows import read_rows
from teachenv.losses import PLAIN_LOSSES
from teachenv.losses.plain import reads


def test_every_plain_loss_is_tuned_over_as_many_settings_and_has_its_line(
    undrawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "RATES", (0.1,))
    losses.run(losses.Options("smoke", label_noise=(0.4,), backend="inline", out=tmp_path))
    rows = read_rows(tmp_path / "results.jsonl")
    assert {row.task for row in rows} == {"digits-noisy-40"}
    of_labels = {loss for loss in PLAIN_LOSSES if reads(loss)[0] == "labels"}
    assert {*losses.LOSSES} == of_labels - {"class-balanced"}  # which is for classes of unequal size
    tuned = [row.method for row in rows if row.config["stage"] == "tuning" and row.config["students"] == 1]
    assert {loss: tuned.count(loss) for loss in tuned} == dict.fromkeys(losses.LOSSES, 4)
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {loss} " in table for loss in losses.LOSSES)
    assert table.count("(best fixed)") == 1
