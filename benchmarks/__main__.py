"""The command line: `python -m benchmarks NAME [options]`.

Worker processes import this module again, so it must stay cheap: nothing heavy is imported before a benchmark is
chosen.
"""

import os
import signal
import sys

if __name__ == "__main__":

    def _end(number: int, frame: object) -> None:
        os.write(2, b"ended before anything was run\n")
        os._exit(128 + number)

    # Before the other imports, which a signal may meet; until something is run there is nothing to clean up.
    for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(_number) is not signal.SIG_IGN:
            signal.signal(_number, _end)

import difflib
import importlib
import textwrap
from collections.abc import Sequence

from benchmarks.registry import BENCHMARKS, Entry

_PROGRAM = "python -m benchmarks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the arguments name.

    Args:
        arguments: without the program's name; by default those of the process.

    Returns:
        The exit code: 0, 2 after an error that the user can fix (one line on stderr says how), 130 after Ctrl-C, 143
        after a request to end (SIGTERM).

    Raises:
        SystemExit: from the parser of the options, after `--help`.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name not in BENCHMARKS:
        print("error:", _unknown(name), file=sys.stderr)
        return 2
    from teachenv.experiment.command import ended

    return ended(lambda: _run(name, rest))


def _run(name: str, rest: Sequence[str]) -> None:
    from teachenv.experiment.parsing import parsed

    entry = BENCHMARKS[name]
    module_name, _, class_name = entry.options.partition(":")
    module = importlib.import_module(module_name)
    description = f"{entry.summary}\n\nTime on two cores: {_times(entry)}."
    options = parsed(getattr(module, class_name), f"{_PROGRAM} {name}", description, rest)
    if options.check:
        from teachenv.experiment.evidence import check

        check(name, options.output_folder(name), module.TABLES)
    else:
        module.run(options)


def _unknown(name: str) -> str:
    if not name or name.startswith("-"):
        problem = f"found {name!r}" if name else "found nothing"
        return f"{problem}, expected the name of a benchmark first; list them with {_PROGRAM} --help"
    near = difflib.get_close_matches(name.lower().replace("-", "_"), BENCHMARKS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of: {', '.join(BENCHMARKS)}."
    return f"found no benchmark {name!r}; {hint} {_PROGRAM} --help describes them"


def _times(entry: Entry) -> str:
    return ", ".join(f"{preset} {minutes}" for preset, minutes in entry.minutes.items())


def _help() -> str:
    lines = [
        f"usage: {_PROGRAM} NAME [--preset smoke|laptop|paper] [--seeds N] [--out DIR] [--data-root DIR] [...]",
        "",
        "Each run appends rows to DIR/results.jsonl (DIR is runs/NAME by default), continues where an earlier run",
        "stopped, and makes its tables and figures from the rows. Times are for two cores.",
        "",
        "benchmarks:",
    ]
    for name, entry in BENCHMARKS.items():
        lines.append(f"  {name}")
        lines += textwrap.wrap(entry.summary, width=110, initial_indent=" " * 6, subsequent_indent=" " * 6)
        lines.append(f"      [{_times(entry)}]")
    lines += [
        "",
        f"All options of one: {_PROGRAM} NAME --help",
        "Errors are one line; set TEACHENV_TRACEBACK=1 for the traceback.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
