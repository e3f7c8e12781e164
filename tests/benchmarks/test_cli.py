import dataclasses
import importlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from benchmarks.__main__ import main
from benchmarks.compare import main as compare
from benchmarks.l2t_dlf_images import main as l2t_dlf_images
from benchmarks.options import CommonOptions, Preset
from benchmarks.registry import BENCHMARKS, Entry
from teachenv.errors import DatasetUnavailable
from teachenv.experiment.cases import CasesFailed
from teachenv.experiment.jobs import failure

MODULE = '''
from dataclasses import dataclass

from benchmarks.options import CommonOptions


@dataclass(frozen=True)
class Options(CommonOptions):
    """Options of the toy."""

    width: int = 3
    """How wide the toy is."""


def run(options):
    raise NotImplementedError("replaced by each test")
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The module of a registered benchmark called toy_benchmark."""
    (tmp_path / "toy_benchmark_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    entry = Entry("toy_benchmark_module:Options", "Does it play?", {"smoke": "1 s", "laptop": "2 s", "paper": "3 d"})
    monkeypatch.setitem(BENCHMARKS, "toy_benchmark", entry)
    yield importlib.import_module("toy_benchmark_module")
    del sys.modules["toy_benchmark_module"]


@pytest.fixture
def ran(toy, monkeypatch):
    """The options that the toy benchmark was run with."""
    calls = []
    monkeypatch.setattr(toy, "run", calls.append)
    return calls


def failing_with(error):
    def run(options):
        raise error

    return run


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_registered_benchmark_keeps_the_contract(name):
    entry = BENCHMARKS[name]
    module_name, _, class_name = entry.options.partition(":")
    assert module_name == f"benchmarks.{name}"
    assert entry.summary.endswith((".", "?"))
    module = importlib.import_module(module_name)
    options = getattr(module, class_name)
    presets = get_args(get_type_hints(options)["preset"])
    assert set(entry.minutes) == {*presets} >= {*get_args(Preset)}
    assert issubclass(options, CommonOptions)
    assert options.__dataclass_params__.frozen
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(options))
    assert callable(module.run)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_benchmark_with_its_sentence_and_times(flag, toy, capsys):
    assert main([flag]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for name, entry in BENCHMARKS.items():
        times = ", ".join(f"{preset} {minutes}" for preset, minutes in entry.minutes.items())
        assert f"{name} {entry.summary} [{times}]" in words


def test_listing_the_benchmarks_imports_none_of_them():
    code = (
        "import sys; from benchmarks.__main__ import main, BENCHMARKS; main(['--help']);"
        "heavy = {'torch', 'gymnasium', 'tyro', 'rich'};"
        "heavy |= {*(entry.options.partition(':')[0] for entry in BENCHMARKS.values())};"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "compare" in done.stdout


def test_python_dash_m_reaches_main():
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "benchmarks", "nothing-like-it"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected one of: compare" in done.stderr


def test_help_of_a_benchmark_explains_common_and_own_options(toy, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["toy_benchmark", "--help"])
    assert exit_.value.code == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "usage: python -m benchmarks toy_benchmark" in words
    assert "Does it play?" in words
    assert "smoke 1 s, laptop 2 s, paper 3 d" in words
    assert "--preset {smoke,laptop,paper}" in words
    assert "(default: laptop)" in words
    for explained in ("How wide the toy is.", "another seed", "Folder of the rows", "Folder of the data sets"):
        assert explained in words


def test_options_reach_the_benchmark(toy, ran, tmp_path):
    arguments = [
        "--preset",
        "smoke",
        "--seeds",
        "4",
        "--out",
        str(tmp_path),
        "--data-root",
        "elsewhere",
        "--width",
        "7",
    ]
    assert main(["toy_benchmark", *arguments]) == 0
    assert ran == [toy.Options(preset="smoke", seeds=4, out=tmp_path, data_root=Path("elsewhere"), width=7)]


def test_without_options_the_laptop_preset_goes_to_a_folder_named_after_the_benchmark(toy, ran):
    assert main(["toy_benchmark"]) == 0
    (options,) = ran
    assert options == toy.Options()
    assert options.preset == "laptop"
    assert options.output_folder("toy_benchmark") == Path("runs/toy_benchmark")
    assert dataclasses.replace(options, out=Path("here")).output_folder("toy_benchmark") == Path("here")


BAD = [
    (["toy_benchmark", "--preset", "huge"], "huge"),
    (["toy_benchmark", "--widht", "3"], "no option --widht; did you mean --width? (see python -m benchmarks toy_b"),
    (["toy_benchmark", "--seeds", "many"], "many"),
    (["toy_benchmark", "--seeds", "0"], "found --seeds 0, expected at least 1"),
    (["toy_benchmark", "--width", "-3"], "found --width -3, expected at least 1"),
    (["compare", "--workers", "0"], "found --workers 0, expected at least 1"),
    (["compare", "--horizon", "-1"], "found --horizon -1, expected at least 1"),
    (["compare", "--methods"], "found --methods without a value"),
    (["compare", "--methods", "rmdd"], "did you mean 'rmd'?"),
    (["compare", "--label-noise", "nan"], "found nan"),
    (["compare", "--label-noise", "0.1234567", "0.12345678"], "expected settings that differ"),
    (["compare", "--env", "TeachDigit-v0"], "did you mean 'TeachDigits-v0'?"),
    (["compare", "--env", "CartPole-v1"], "which trains no student, expected one of TeachCIFAR-v0, "),
    (["compare", "--env", "TeachSegmentation-v0"], "whose samples have many labels each"),
    (["compare", "--env", "TeachCIFAR-v0", "--data-root", "no-such-folder"], "CIFAR-10 was not found"),
    (["compare", "--dataset", "nonsense"], "expected one of 'digits'"),
    (["compare", "--out", "/dev/null"], "/dev/null is a file, expected a folder"),
    (["compare", "--out", "/proc/none"], "cannot write /proc/none/results.jsonl"),
    (["l2t_dlf_images", "--device", "nonsense"], "expected one of torch's"),
    (["l2t_dln", "--tasks", "x"], "unknown task 'x'"),
    (["lot_language", "--epochs", "0"], "found --epochs 0"),
    (["hypergradients", "--memory-limit", "nan"], "found --memory-limit nan"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_options_are_one_line_before_any_work(toy, ran, arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(
        "teachenv.experiment.cases.Session.perform", failing_with(AssertionError("this would have run"))
    )
    monkeypatch.setattr(socket, "socket", failing_with(OSError("offline")))
    assert main([*arguments, "--preset", "smoke"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert ran == []


def test_what_is_named_twice_is_run_once(tmp_path):
    from benchmarks.compare import Options

    options = Options(methods=("rmd", "ddpg", "rmd"), label_noise=(0.4, 0.40))
    assert (options.methods, options.label_noise) == (("rmd", "ddpg"), (0.4,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["comapre"], "did you mean 'compare'?"),
        (["toy-benchmark"], "did you mean 'toy_benchmark'?"),
        (["zzz"], "expected one of: compare, "),
        (["--preset", "smoke"], "expected the name of a benchmark first"),
        ([], "expected the name of a benchmark first"),
    ],
)
def test_an_unknown_name_is_one_line_that_helps(toy, arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize("other", ["results.jsonl", "comparison.json"])
def test_a_folder_with_results_of_something_else_is_refused_and_left_as_it_is(other, tmp_path):
    shipped = Path(importlib.import_module("benchmarks").__file__).parent / "results" / "throughput" / "results.jsonl"
    content = shipped.read_bytes() if other == "results.jsonl" else b"{}"
    (tmp_path / other).write_bytes(content)
    with pytest.raises(ValueError, match=r"holds results of .*, expected those of losses; choose another .* --out$"):
        CommonOptions(out=tmp_path).execute("losses", [], lambda rows: pytest.fail("a report was made"))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(other, content)]


@pytest.mark.parametrize("error", [ValueError("two\n  lines"), PermissionError(13, "two lines", "file"), OSError()])
def test_errors_of_the_user_are_one_line_and_code_two(toy, monkeypatch, capsys, error):
    monkeypatch.setattr(toy, "run", failing_with(error))
    assert main(["toy_benchmark"]) == 2
    captured = capsys.readouterr().err
    assert captured.startswith("error: ")
    assert captured.count("\n") == 1
    assert "two lines" in captured or "OSError" in captured


def test_a_data_set_that_is_not_there_is_an_error_of_the_user(toy, monkeypatch, capsys):
    monkeypatch.setattr(toy, "run", failing_with(DatasetUnavailable("put it there")))
    assert main(["toy_benchmark"]) == 2
    assert capsys.readouterr().err == "error: put it there\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), RuntimeError("bug"), KeyError("bug")])
def test_errors_of_the_code_keep_their_traceback(toy, monkeypatch, error):
    monkeypatch.setattr(toy, "run", failing_with(error))
    with pytest.raises(type(error), match="bug"):
        main(["toy_benchmark"])


def test_the_traceback_of_an_error_of_the_user_can_be_had(toy, monkeypatch):
    monkeypatch.setenv("TEACHENV_TRACEBACK", "1")
    monkeypatch.setattr(toy, "run", failing_with(ValueError("where?")))
    with pytest.raises(ValueError, match="where"):
        main(["toy_benchmark"])


@pytest.mark.parametrize("error", [ValueError("found 3, expected 4"), ZeroDivisionError("bug")])
def test_of_work_that_failed_each_piece_is_a_line(error, toy, monkeypatch, capsys):
    failures = [failure(f"seed {seed}", error) for seed in range(2)]
    monkeypatch.setattr(toy, "run", failing_with(CasesFailed(failures, Path("there"))))
    assert main(["toy_benchmark"]) == 1
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: 'seed 0' failed: {failures[0].reason}, and 1 more, such as 'seed 1'; there keeps")
    assert others == [f"  seed {seed}: {failures[0].reason}" for seed in range(2)]


def test_an_interrupted_run_says_how_to_continue(toy, monkeypatch, capsys):
    monkeypatch.setattr(toy, "run", failing_with(KeyboardInterrupt()))
    assert main(["toy_benchmark"]) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_rows_whose_tuning_is_taken_over_are_there():
    wanted = {compare.SHIPPED / kind.shipped / "results.jsonl" for kind in (compare.LOSSES, compare.DISTILLATION)}
    assert all(path.is_file() for path in {*wanted, l2t_dlf_images.SHIPPED})
