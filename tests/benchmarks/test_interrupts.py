"""Signals end a run in one line, with the signal's exit code, and leave nothing running and nothing half written."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from teachenv.experiment import interrupts
from teachenv.experiment.interrupts import Interrupted

ROOT = Path(__file__).parents[2]
SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")]


def started(command: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_signals,
    )


def heed_signals() -> None:
    """What runs in the background, or under nohup, inherits that some signals are ignored."""
    for number, _, _ in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


# Others go the same way from there on.
@pytest.mark.parametrize(("number", "code", "said"), SIGNALS[:1])
def test_a_signal_among_the_imports_is_one_line(number: int, code: int, said: str, tmp_path: Path) -> None:
    # The parser is the first import that takes its time.
    (tmp_path / "tyro.py").write_text(f"import os, time; os.kill(os.getpid(), {int(number)}); time.sleep(60)")
    process = started([sys.executable, "-m", "benchmarks", "compare"], tmp_path)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert errors == f"{said}; the same command continues where it stopped\n"


TOY = """
import time
from dataclasses import dataclass

from benchmarks.options import ParallelOptions
from teachenv.experiment.cases import Case
from teachenv.files import whole_file


@dataclass(frozen=True)
class Options(ParallelOptions):
    pass


def save(name, folder):
    with whole_file(name) as partial:
        partial.touch()
        time.sleep(600)


def run(options):
    known = dict(benchmark="toy", dataset="none", student="none", method="none", seed=0, config={}, function=save)
    cases = [
        Case(**known, task=name, label=name, arguments={"name": options.out.absolute() / name}, last="value")
        for name in ("first.zip", "second.zip")
    ]
    options.execute("toy", [lambda session: cases], None)
"""
SCRIPT = """
import sys
from benchmarks.__main__ import main
from benchmarks.registry import BENCHMARKS, Entry

BENCHMARKS["toy"] = Entry("toy_of_signals:Options", "?", {})
if __name__ == "__main__":
    sys.exit(main(["toy", *sys.argv[1:]]))
"""


# A terminal's Ctrl-C, which other processes receive too: the tests of backends.
def test_a_signal_in_a_run_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "toy_of_signals.py").write_text(TOY)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", "--out", "out", "--workers", "2"]
    process = started(command, tmp_path)
    try:
        while len(list(tmp_path.glob("out/.*.part.zip"))) < 2:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        # Ends when the last process that holds the pipes is gone.
        _, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):  # raised, as it should be, when all of them are gone
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.endswith("; the same command continues where it stopped\n")
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "code", "said"), SIGNALS)
def test_a_signal_in_a_run_is_raised_and_handlers_are_given_back(number: int, code: int, said: str) -> None:
    before = [signal.getsignal(known) for known, _, _ in SIGNALS]
    ignored = signal.getsignal(number) is signal.SIG_IGN  # as in the background of a script
    with pytest.raises(Interrupted) if not ignored else contextlib.nullcontext() as caught, interrupts.raised():
        signal.raise_signal(number)
        if not ignored:
            pytest.fail("it was not raised")
    if not ignored:
        assert caught.value.number == number
    assert interrupts.exit_code(number) == code
    assert interrupts.message(number).strip().startswith(said)
    assert [signal.getsignal(known) for known, _, _ in SIGNALS] == before


def test_help_needs_neither_the_parser_nor_the_progress_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tyro", "rich", "torch", "gymnasium"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["--help"]) == 0
    assert "compare" in capsys.readouterr().out
