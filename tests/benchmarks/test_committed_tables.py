"""The committed tables come from the committed rows alone, to the last byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from benchmarks import data_mixture, sample_weights, schedules
from benchmarks.attribution import report as attribution
from benchmarks.compare.main import DISTILLATION, LOSSES
from benchmarks.dacbench import report as dacbench
from benchmarks.hypergradients import estimators
from benchmarks.hypergradients import report as hypergradients
from benchmarks.l2t_dlf_images import large
from benchmarks.l2t_dlf_images import report as images
from benchmarks.l2t_dlf_images.methods import methods, published
from benchmarks.l2t_dlf_translation import report as translation
from benchmarks.l2t_dln import report as l2t_dln
from benchmarks.l2t_dln.main import PRESETS
from benchmarks.lgtm import rates_report
from benchmarks.lgtm import report as lgtm
from benchmarks.lgtm_generation import report as lgtm_generation
from benchmarks.lgtm_pretraining import report as lgtm_pretraining
from benchmarks.lot import report as lot
from benchmarks.lot import sizes, sizes_report
from benchmarks.lot.regularisers import STUDENT_STEPS, regularisers
from benchmarks.lot_atari import report as lot_atari
from benchmarks.lot_images import report as imitation
from benchmarks.lot_multimodal import main as multimodal
from benchmarks.rl_and_gradient import report as rl_and_gradient
from benchmarks.rl_and_gradient.main import METHODS as COMPARED
from benchmarks.rl_students import report as rl_students
from benchmarks.throughput import report as throughput
from teachenv.experiment import comparison_report
from teachenv.experiment.comparison_report import Results
from teachenv.experiment.methods import Method
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.rows import read_rows
from teachenv.experiment.trusted_dev import LEARN_FROM

compared = partial(comparison_report.make, "Teachers compared")
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
METRICS, RELEASED = ({name: task.metric for name, task in PRESETS[size].items()} for size in ("laptop", "released"))

REPORTS: dict[str, Callable[[Sequence[Row]], Report]] = {
    "attribution/table": attribution.make,
    "compare/table": lambda rows: compared(Results(rows, LOSSES.methods, 10, "bilinear")),
    "compare_distillation/table": lambda rows: compared(Results(rows, DISTILLATION.methods, 3, "distillation")),
    "dacbench/table": dacbench.make,
    "data_mixture/table": lambda rows: data_mixture.make(
        Results(
            rows,
            {**data_mixture.methods("texts"), **dict.fromkeys(LEARN_FROM, Method())},
            3,
            "domain-weights",
            data_mixture.PERPLEXITY,
        )
    ),
    "hypergradients/table": hypergradients.make,
    "hypergradients/estimators": estimators.report,
    "l2t_dlf_images/table": lambda rows: images.make(Results(rows, {**methods((0.1,)), **published()}, 5, "bilinear")),
    "l2t_dlf_images/large": large.report_of,
    "l2t_dlf_translation/table": translation.make,
    "l2t_dln/table": lambda rows: l2t_dln.make(rows, METRICS),
    "l2t_dln_released/table": lambda rows: l2t_dln.make(rows, RELEASED),
    "lgtm/table": lgtm.make,
    "lgtm/rates": lambda rows: rates_report.make([row for row in rows if row.config["stage"] == "training"]),
    "lgtm_generation/table": lambda rows: lgtm_generation.make(
        [row for row in rows if row.config["stage"] == "training"]
    ),
    "lgtm_pretraining/table": lambda rows: lgtm_pretraining.make(
        [row for row in rows if row.config["stage"] == "training"]
    ),
    "lot_atari/table": lot_atari.make,
    "lot_images/table": lambda rows: lot.make([row for row in rows if "stage" not in row.config], "lot_images"),
    "lot_images/regularisers": lambda rows: lot.of_regularisers(
        [row for row in rows if row.config.get("stage") == "training"],
        "lot_images",
        list(regularisers(None, STUDENT_STEPS)),
    ),
    "lot_images/imitation": lambda rows: imitation.make([row for row in rows if row.method.startswith("imitate:")]),
    **{
        f"{name}_sizes/sizes": lambda rows, name=name: sizes_report.make(
            [row for row in rows if row.config["stage"] == "training"],
            name,
            list(sizes.sized(sizes.shares(sizes.SHARES), None)),
        )
        for name in ("lot_images", "lot_language")
    },
    "lot_language/table": lambda rows: lot.make(rows, "lot_language"),
    "lot_multimodal/table": lambda rows: lot.of_regularisers(
        [row for row in rows if row.config["stage"] == "training"], "lot_multimodal", tuple(multimodal.compared())
    ),
    "rl_and_gradient/table": partial(rl_and_gradient.make, methods=COMPARED, seeds=3),
    "rl_students/table": rl_students.make,
    "sample_weights/table": lambda rows: sample_weights.make(
        Results(rows, {**sample_weights.METHODS, **dict.fromkeys(LEARN_FROM, Method())}, 3, "sample-weights")
    ),
    "schedules/table": lambda rows: schedules.make(
        Results(rows, schedules.methods("learning-rate", 100), 3, "sample-weights")
    ),
    "throughput/table": throughput.make,
}


def test_every_committed_table_is_looked_at() -> None:
    assert {f"{path.parent.name}/{path.stem}" for path in RESULTS.glob("*/*.md")} == set(REPORTS)


@pytest.mark.parametrize("name", REPORTS)
def test_a_committed_table_is_made_from_its_rows(name: str) -> None:
    table = RESULTS / f"{name}.md"
    own = table.with_suffix(".jsonl")  # of a study with files of its own
    rows = read_rows(own if own.exists() else table.with_name("results.jsonl"))
    assert REPORTS[name](rows).table() == table.read_text()
