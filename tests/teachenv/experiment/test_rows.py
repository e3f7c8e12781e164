import json
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachenv.experiment.row import Row
from teachenv.experiment.rows import MalformedResults, ResultsFile, agreeing, read_rows
from teachenv.experiment.writing import OutputNotWritable, write_atomically

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEY = ("benchmark", "task", "dataset", "student", "method", "seed", "config")


def a_row(**changes):
    fields = {
        "benchmark": "compare",
        "task": "digits",
        "dataset": "digits",
        "student": "mlp",
        "method": "rmd:bilinear",
        "seed": 3,
        "metric": "test_error",
        "value": 0.057,
        "student_steps": 1200,
        "seconds": 1.5,
        "config": {"learning_rate": 0.1, "methods": ["rmd"]},
        "git_commit": "unknown",
        "versions": {"python": "3.11.7"},
    }
    return Row(**(fields | changes))


def key_of(row, **changes):
    return {name: getattr(row, name) for name in KEY} | changes


@given(
    method=st.text(),
    seed=st.integers(0, 2**63),
    value=st.floats(allow_nan=False, allow_infinity=False),
    config=st.dictionaries(st.text(), JSON, max_size=3),
)
def test_a_row_is_one_line_and_comes_back_as_it_was(method, seed, value, config):
    row = a_row(method=method, seed=seed, value=value, config=config)
    line = row.to_json()
    assert "\n" not in line
    assert Row.from_json(line) == row


def test_a_row_keeps_what_it_was_made_with():
    config = {"shape": (2, 3)}
    row = a_row(config=config, value=np.float32(0.5), seed=np.int64(4))
    config["shape"] = (9, 9)
    assert row.config == {"shape": [2, 3]}
    assert (type(row.value), type(row.seed)) == (float, int)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan"), "0.5", None])
@pytest.mark.parametrize("field", ["value", "seconds"])
def test_a_number_that_is_not_finite_is_refused(field, bad):
    with pytest.raises(ValueError, match=f"found {field}=.*expected a finite number"):
        a_row(**{field: bad})


@pytest.mark.parametrize("bad", [{"lr": math.nan}, {"deep": [{"lr": math.inf}]}, {"array": np.zeros(2)}, ["lr"]])
def test_a_config_that_json_cannot_hold_is_refused(bad):
    with pytest.raises(ValueError, match="found config="):
        a_row(config=bad)


@pytest.mark.parametrize(("field", "bad"), [("seed", 0.5), ("student_steps", "12"), ("method", 1), ("metric", None)])
def test_a_field_of_the_wrong_type_is_refused(field, bad):
    with pytest.raises(ValueError, match=f"found {field}="):
        a_row(**{field: bad})


def test_appended_rows_are_in_the_file_and_in_a_later_reading_of_it(tmp_path):
    path = tmp_path / "deep" / "er" / "results.jsonl"
    rows = [a_row(seed=seed) for seed in range(3)]
    results = ResultsFile(path)
    assert results.rows() == []
    results.append(rows[:1])
    results.append([])
    results.append(iter(rows[1:]))
    assert results.rows() == rows
    assert read_rows(path) == rows
    assert ResultsFile(path).rows() == rows
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_all_rows_of_an_append_go_into_one_write_that_is_synced(tmp_path, monkeypatch):
    events = []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda file, data: events.append("write") or write(file, data))
    monkeypatch.setattr(os, "fsync", lambda file: events.append("fsync") or fsync(file))
    ResultsFile(tmp_path / "results.jsonl").append([a_row(seed=seed) for seed in range(50)])
    assert events == ["write", "fsync"]


def test_when_the_disk_is_full_none_of_the_rows_are_left_in_the_file(tmp_path, monkeypatch):
    results = ResultsFile(tmp_path / "results.jsonl")
    results.append([a_row()])
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
        with pytest.raises(OutputNotWritable, match="disk full"):
            results.append([a_row(seed=8), a_row(seed=9)])
    assert read_rows(results.path) == results.rows() == [a_row()]
    assert not results.done(key_of(a_row(seed=8)))


def test_a_torn_last_line_is_cut_off_wherever_it_is_torn(tmp_path):
    path = tmp_path / "results.jsonl"
    first, second = a_row(seed=0, task="ziffern-größe"), a_row(seed=1)
    whole = f"{first.to_json()}\n".encode()
    line = second.to_json().encode()
    for length in (1, 2, len(line) // 2, len(line) - 1):
        path.write_bytes(whole + line[:length])
        with pytest.warns(RuntimeWarning, match=r"results\.jsonl, line 2: cut off"):
            results = ResultsFile(path)
        assert path.read_bytes() == whole
        results.append([second])
        assert ResultsFile(path).rows() == [first, second]


def test_a_file_with_nothing_but_a_torn_line_becomes_empty(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"\0" * 40)
    with pytest.warns(RuntimeWarning, match="line 1: cut off"):
        assert ResultsFile(path).rows() == []
    assert read_rows(path) == []


@pytest.mark.parametrize("last", ["my notes, without an end of line", '{"mine": "the only copy"}', "{garbage", "0"])
@pytest.mark.parametrize("before", ["", "row"])
def test_a_last_line_that_no_row_begins_with_is_refused_and_left_as_it_is(tmp_path, before, last):
    path = tmp_path / "results.jsonl"
    path.write_text((f"{a_row().to_json()}\n" if before else "") + last)
    content = path.read_bytes()
    with pytest.raises(MalformedResults, match=f"line {2 if before else 1}: expected one row as JSON"):
        ResultsFile(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("what", ["file", "long", "folder"])
def test_where_there_can_be_no_results_is_said_in_one_line(tmp_path, what):
    says = {"file": "is a file, expected a folder", "long": "choose a shorter one", "folder": "expected a file; remove"}
    folder = tmp_path / (300 * "x" if what == "long" else "out")
    if what == "file":
        folder.write_text("mine")
    if what == "folder":
        (folder / "results.jsonl").mkdir(parents=True)
    with pytest.raises(OutputNotWritable, match=says[what]) as caught:
        ResultsFile(folder / "results.jsonl")
    assert "\n" not in str(caught.value)


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(a_row(seed=0).to_json())
    ResultsFile(path).append([a_row(seed=1)])
    assert read_rows(path) == [a_row(seed=0), a_row(seed=1)]


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        "",
        '{"benchmark": ',
        "[" * 100_000,
        "\0" * 50,
        a_row().to_json().replace('"seed":3', '"seed":"zero"'),
        a_row().to_json().replace("0.057", "NaN"),
        a_row().to_json().replace('"metric"', '"measure"'),
        a_row().to_json().replace('"versions"', '"extra": 1, "versions"'),
    ],
)
def test_any_other_malformed_line_is_an_error_that_names_it_and_changes_nothing(tmp_path, line):
    path = tmp_path / "results.jsonl"
    good = a_row().to_json()
    content = f"{good}\n{line}\n{good}\n"
    path.write_text(content)
    with pytest.raises(MalformedResults, match=r"results\.jsonl, line 2: expected one row"):
        ResultsFile(path)
    assert path.read_text() == content


def test_reading_does_not_mend(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(a_row().to_json() + '\n{"bench')
    with pytest.raises(MalformedResults, match="line 2"):
        read_rows(path)
    assert path.read_text().endswith('{"bench')


def test_a_row_that_is_written_again_replaces_the_older_one(tmp_path):
    results = ResultsFile(tmp_path / "results.jsonl")
    curve = [a_row(student_steps=steps, value=0.5) for steps in (0, 100)]
    results.append([*curve, a_row(metric="dev_objective")])
    results.append([a_row(student_steps=100, value=0.25)])
    expected = [curve[0], a_row(student_steps=100, value=0.25), a_row(metric="dev_objective")]
    assert results.rows() == expected
    assert ResultsFile(results.path).rows() == expected
    assert len(read_rows(results.path)) == 4


@pytest.mark.parametrize("name", KEY)
def test_done_looks_at_every_part_of_the_key(tmp_path, name):
    results = ResultsFile(tmp_path / "results.jsonl")
    row = a_row()
    assert not results.done(key_of(row))
    results.append([row])
    other = {"seed": 4, "config": {"learning_rate": 0.2, "methods": ["rmd"]}}.get(name, "other")
    for opened in (results, ResultsFile(results.path)):
        assert opened.done(key_of(row))
        assert not opened.done(key_of(row, **{name: other}))


def test_done_compares_configs_as_they_are_read_back(tmp_path):
    results = ResultsFile(tmp_path / "results.jsonl")
    results.append([a_row(config={"a": (1, 2), "b": {10: "x", 9: "y"}})])
    assert results.done(key_of(a_row(), config={"b": {"9": "y", "10": "x"}, "a": [1, 2]}))
    assert results.done(key_of(a_row(), config={"b": {9: "y", 10: "x"}, "a": (1, 2)}))
    assert not results.done(key_of(a_row(), config={"b": {9: "y", 10: "x"}, "a": (2, 1)}))


def test_done_can_ask_for_all_metrics_of_a_job(tmp_path):
    results = ResultsFile(tmp_path / "results.jsonl")
    results.append([a_row(metric="test_error")])
    assert results.done(key_of(a_row()), metrics=["test_error"])
    assert not results.done(key_of(a_row()), metrics=["test_error", "dev_objective"])
    results.append([a_row(metric="dev_objective")])
    assert results.done(key_of(a_row()), metrics=["test_error", "dev_objective"])


def test_an_output_folder_that_cannot_be_is_one_error_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputNotWritable, match=r"cannot write .*choose another folder"):
        ResultsFile(tmp_path / "file" / "results.jsonl")
    with pytest.raises(OutputNotWritable, match="cannot write"):
        write_atomically(tmp_path / "file" / "table.md", "text")
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(OutputNotWritable, match="cannot write"):
        ResultsFile(tmp_path / "results.jsonl")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_error_at_once(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputNotWritable, match="Permission denied"):
            ResultsFile(tmp_path / "results.jsonl")
    finally:
        tmp_path.chmod(0o700)


def test_opening_leaves_no_trace_in_the_folder(tmp_path):
    ResultsFile(tmp_path / "results.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["größe\n", b"\x89PNG\r\n\0", ""])
def test_write_atomically_writes_exactly_the_content(tmp_path, content):
    path = tmp_path / "new" / "file"
    write_atomically(path, "older and longer than the rest")
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "table.md"
    write_atomically(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputNotWritable, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_get_the_permissions_that_the_user_gives_new_files(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_rows_agree_with_identities_in_all_that_these_name():
    rows = [
        a_row(method=method, seed=seed, config={"setting": {"epochs": epochs, "widths": [1, 2]}, "own": method})
        for method in ("a", "b")
        for seed in (0, 1)
        for epochs in (1, 2)
    ]

    def found(*identities):
        return [(row.method, row.seed, row.config["setting"]["epochs"]) for row in agreeing(rows, identities)]

    setting = {"epochs": 1, "widths": (1, 2)}
    assert found({"config": {"setting": setting}}) == [("a", 0, 1), ("a", 1, 1), ("b", 0, 1), ("b", 1, 1)]
    # Seeds do not count; a part of the config that rows lack does.
    assert found({"method": "a", "seed": 5, "config": {"setting": setting, "own": "a"}}) == [("a", 0, 1), ("a", 1, 1)]
    assert found({"method": "a", "config": {"setting": setting, "missing": None}}) == []
    assert found({"method": "a", "task": "other"}) == []
    assert len(found({"method": "a"}, {"config": {"own": "a"}}, {"method": "b"})) == len(rows)
    assert found() == []
