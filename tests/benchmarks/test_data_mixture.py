"""The benchmark of mixtures: from tuning to table and figures."""

from pathlib import Path

import pytest

from benchmarks import data_mixture
from benchmarks.data_mixture import DOMAINS, METHODS, SIZES, Options, methods
from teachenv.experiment.evidence import check
from teachenv.experiment.rows import read_rows
from teachenv.experiment.tables import grouped
from teachenv.experiment.weighing import AUC, RMS


def test_a_comparison_goes_from_tuning_to_perplexities_and_mixtures(undrawn: None, tmp_path: Path) -> None:
    run = ("target only", "rmd:train + dev", "doremi", "dev only")
    options = Options("smoke", methods=run, backend="inline", out=tmp_path)
    data_mixture.run(options)
    rows = read_rows(tmp_path / "results.jsonl")
    assert {(row.task, row.dataset) for row in rows} == {("chains", "chains")}
    of_test = {row.method: row.value for row in rows if row.metric == "test_perplexity"}
    assert {*of_test} == {*run}
    assert all(1 < value < 1_000 for value in of_test.values())
    weighed = {row.method for row in rows if row.metric == AUC}
    assert weighed == {row.method for row in rows if row.metric == RMS} == {"rmd:train + dev", "doremi"}
    table = (tmp_path / "table.md").read_text()
    assert "| test perplexity (95 %) |" in table
    assert all(f"| {method} " in table for method in run)
    assert {"dev_perplexity.png", "mixtures.png"} <= {path.name for path in tmp_path.iterdir()}
    check("data_mixture", tmp_path, data_mixture.TABLES)
    # The first mixture of a policy that is drawn near the zero action is about that of the pool.
    (row,) = [row for row in rows if row.method == "rmd:train + dev" and row.metric == "dev_objective" and row.data]
    (group,) = grouped([row])
    ((_, mixture), *_) = data_mixture._mixtures(group)[0]
    assert sum(mixture) == pytest.approx(1.0, abs=1e-3)
    assert mixture == pytest.approx([*DOMAINS["chains"].values()], abs=0.2)


def test_every_method_is_tuned_over_as_many_configurations() -> None:
    for data in DOMAINS:
        assert {len(method.candidates) for method in methods(data).values()} == {4}
    assert tuple(methods("chains")) == METHODS
    for sizes in SIZES.values():
        for size in sizes:
            assert size.rungs[0].configurations == size.candidates * len(size.rates)
            assert size.options["horizon"] % size.options["steps_per_action"] == 0


def test_a_task_that_the_preset_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="preset smoke has none of the tasks texts"):
        data_mixture.run(Options("smoke", tasks=("texts",), out=tmp_path))
    with pytest.raises(ValueError, match="did you mean 'doremi'"):
        Options(methods=("dorem",))
