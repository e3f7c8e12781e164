"""Tables, figures and the page of a report are made from rows alone, and show what rows say without running it."""

from __future__ import annotations

import base64
import gzip
import io
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from teachenv.experiment import tables
from teachenv.experiment.comparison_report import Results, make, objective
from teachenv.experiment.methods import fixed
from teachenv.experiment.naming import file_name
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.rows import read_rows
from teachenv.experiment.statistics import iqm
from teachenv.experiment.tables import METHOD, Measure, Section, grouped
from teachenv.plot import series, style

ERROR = Measure("test_error", 100)
EVIL = "<script>alert('|')</script>"
COLUMNS = (
    METHOD,
    tables.interval("mean", ERROR),
    tables.interval("IQM", ERROR, iqm),
    tables.deviation("deviation", ERROR),
    tables.against("plain", "difference", ERROR, ", p {:.2g}"),
    tables.number("median", "test_error", ".1e"),
    tables.published("paper", {"plain": 3.0}, 1),
    tables.seeds(ERROR),
    tables.steps(ERROR),
    tables.seconds(ERROR),
)


def row(method: str, seed: int, value: float, **more: Any) -> Row:
    data = {"curve": [[0, 0.1 + seed / 10], [10, None if seed else 0.3], [20, 0.5]]}
    named = {"data": data, "config": {"loss": {"scale": 0.5}, "note": "<b>"}, **more}
    return Row(
        "mine", "digits", "digits", "mlp", method, seed, "test_error", value, 1000 + seed, 2.0, git_commit="0" * 40,
        versions={"torch": "2"}, **named,
    )  # fmt: skip


ROWS = [row("plain", seed, 0.2 + seed / 100) for seed in range(3)] + [row(EVIL, 0, 0.1), row(EVIL, 1, 0.12)]


def made(rows: list[Row], **more: Any) -> Report:
    groups = grouped(rows)
    drawn: dict[str, Callable[[], Figure | None]] = {
        "bars of <methods>": partial(_bars, groups),
        "curves": partial(series.curves, {"digits": groups}, "steps", "J", band="interval"),
        "nothing": lambda: None,
    }
    return Report("R & D", [Section.of("digits & letters", COLUMNS, groups, "Of `code`.")], drawn, rows, **more)


def _bars(groups: list[tables.Group]) -> Figure:
    figure, axes = style.panels(["digits"])
    series.bars(axes[0], groups, ERROR, lambda group: style.Look("black"))
    return figure


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_standard_columns_say_what_their_names_say() -> None:
    plain, other = (Section.of("", COLUMNS, grouped(ROWS)).body[i] for i in (0, 1))
    assert plain[0] == "plain"
    assert plain[1].startswith("21.00 [20.")
    assert plain[3:] == ["21.00 ± 1.00", "", "2.1e-01", "3.0", "3", "1,002", "2"]
    assert other[4].startswith("-9.50 [-15.85, -3.15], p 0.033")


def test_one_seed_has_no_interval_and_no_difference() -> None:
    body = Section.of("", COLUMNS, grouped([row("plain", 0, 0.2), row("other", 0, 0.1)])).body
    assert body[1][:5] == ["other", "10.00", "10.00", "10.00", ""]


def test_a_cell_cannot_end_its_cell() -> None:
    lines = tables.markdown(["a"], [["b|c\nd"]])
    assert lines == ["| a |", "| --- |", "| b\\|c d |"]


def test_groups_come_in_the_order_that_is_asked_for() -> None:
    assert [group.name for group in grouped(ROWS, ("unknown", EVIL))] == [EVIL, "plain"]


def test_the_page_is_whole_shows_what_rows_say_and_runs_nothing(tmp_path: Path) -> None:
    report = made(ROWS, command="python -m mine --flag '<x>'")
    report.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "table.md", "report.html", "curves.png", f"{file_name('bars of <methods>')}.png",
    }  # fmt: skip
    assert report.html == tmp_path / "report.html"
    assert (tmp_path / "table.md").read_text() == report.table()
    page = Page(report.html.read_text())
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags
    assert "b" not in tags
    assert EVIL in page.text
    assert "python -m mine --flag '<x>'" in page.text
    assert "0" * 40 in page.text
    assert "scale 0.5, note <b>" in page.text
    assert tags.count("svg") == 2
    # Nothing comes from elsewhere, and no two elements have one name.
    links = [value or "" for _, found in page.tags for name, value in found.items() if name.endswith(("href", "src"))]
    assert all(link.startswith(("data:", "#")) for link in links)
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert dict(page.tags)["html"] == {"lang": "en"}
    assert all("aria-label" in found for tag, found in page.tags if tag == "svg")
    assert all("max-width" in (found["style"] or "") for tag, found in page.tags if tag == "svg")


@pytest.mark.parametrize("many", [1, 100])
def test_the_rows_of_a_page_can_be_taken_from_it(many: int, tmp_path: Path) -> None:
    rows = [row("plain", seed, 0.1, data={"curve": [[step, 0.5] for step in range(100)]}) for seed in range(many)]
    kept = re.search('href="data:application/([a-z]+);base64,([^"]+)"', made(rows).page())
    assert kept is not None
    content = base64.b64decode(kept[2])
    (tmp_path / "rows.jsonl").write_bytes(gzip.decompress(content) if kept[1] == "gzip" else content)
    assert kept[1] == ("gzip" if many > 1 else "jsonl")
    assert read_rows(tmp_path / "rows.jsonl") == rows
    assert made(rows).page() == made(rows).page()


def test_curves_are_along_the_points_that_all_seeds_have() -> None:
    _, axes = style.panels(["one"])
    curves = [[(0, 1.0), (1, None), (2, 3.0), (3, 9.0)], [(0, 3.0), (1, 2.0), (2, 5.0)]]
    assert list(series.curve(axes[0], curves, scale=(1, 10), band="range")) == [20, 40]
    assert list(axes[0].get_lines()[0].get_xdata()) == [0, 2]


@pytest.mark.parametrize("name", ["$^$", r"\frac{$x$", "n" * 300, "_hidden", "损失", "\x1b[31m\0\t", "\ud800", "a\nb"])
def test_methods_of_any_name_are_shown_everywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    rows = [row(name, seed, 0.1 + seed / 100) for seed in range(2)]
    monkeypatch.setattr("sys.stdout", terminal := io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    made(rows).write(tmp_path)
    assert terminal.errors == "strict"
    assert {path.name for path in tmp_path.iterdir()} >= {"table.md", "report.html", "curves.png"}
    legend = re.search(r'id="curves-legend_1">.*?<text[^>]*>(.*?)</text>', (tmp_path / "report.html").read_text(), re.S)
    assert legend is not None
    assert legend[1].strip()
    # Of letters that Matplotlib's font lacks it tells who looks at the pictures.
    assert all("Glyph" in str(warning.message) for warning in recwarn)


def test_on_a_narrow_terminal_long_headers_make_room_for_the_cells(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    header = ("method", "test error % (95 %)", "a long name of a column", "another long name")
    Section("digits", "", header, [("cross-entropy (best fixed)", "3.59 [3.40, 3.94]", "1", "2")]).print("R")
    assert "3.59 [3.40, 3.94]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"env": "TeachDistill-v0", "loss": None}, "J = − cross-entropy"),
        ({"env": "teachenv:TeachDistill-v0", "loss": "distillation"}, "J = − cross-entropy"),
        ({"env": "TeachDigits-v0", "loss": "bilinear"}, "J with τ = 0.2"),
        ({"env": None, "loss": None, "options": {"objective_temperature": 1.0}}, "J with τ = 1"),
        ({"env": "Unknown-v0", "loss": None, "options": {"objective": "likelihood"}}, "J = − cross-entropy"),
    ],
)
def test_which_j_rows_have_is_known_by_their_environment_too(config, shown) -> None:
    rows = [row("prokt", 0, 0.1, config={"options": {}, "own": {}, **config})]
    assert objective(grouped(rows)[0]) == shown


def test_j_of_a_task_with_further_measures_has_no_temperature() -> None:
    error = row("rmd", 0, 0.1, config={"env": None, "loss": "linear", "options": {}, "own": {}})
    rows = [error, replace(error, metric="test_mse")]
    assert objective(grouped(rows)[0]) == "J"


@pytest.mark.parametrize(("error", "said"), [(0.9, False), (1.2, True)])
def test_an_error_over_100_percent_is_explained(error: float, said: bool) -> None:
    config = {"stage": "training", "final_students": 4, "loss": None, "env": None, "options": {}, "own": {}}
    results = Results([row("plain", 0, error, config=config)], {"plain": fixed("squared-error")}, 1)
    assert ("100 % where the score is negative" in make("mine", results).table()) == said
