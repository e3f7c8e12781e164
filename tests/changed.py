"""Prints the test files of what changed since a commit (by default the last one), for `make quick`.

A changed test file is its own test. A changed module's tests are the first of these that there are:
`tests/.../test_NAME.py` in the mirrored folder; `test_FOLDER.py` of its folder's name, there and in `tests/contracts`;
those that import the module, or modules that import it, and so on, or, if that is fewer, all in the mirrored folder.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("teachenv", "meta", "agents", "benchmarks")
CONTRACTS = Path("tests/contracts")
PUBLIC_NAMES = Path("tests/teachenv/test_import.py")


def changed_files(since: str) -> list[Path]:
    """Python files that differ from a commit, new ones among them, relative to the repository's root."""
    commands = (["git", "diff", "--name-only", since], ["git", "ls-files", "--others", "--exclude-standard"])
    names = [
        name
        for command in commands
        for name in subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    ]
    return [Path(name) for name in names if name.endswith(".py") and (ROOT / name).exists()]


def tests_of(file: Path) -> list[Path]:
    """The test files of a changed file, relative to the repository's root."""
    if file.parts[0] == "tests":
        return [file] if file.name.startswith("test_") else []
    if len(file.parts) == 2 and file.stem == "__init__":
        return _there([PUBLIC_NAMES])
    named = _there([Path("tests") / file.parent / f"test_{file.stem}.py"]) or _of_folder(file.parent)
    return sorted(named or min(filter(None, (_of_importers(file), _in_folder(file.parent))), key=len))


def _there(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if (ROOT / file).exists()]


def _of_folder(folder: Path) -> list[Path]:
    """The tests of a folder as a whole: of its name, and the contract of the pieces in it."""
    return _there([Path("tests") / folder.parent / f"test_{folder.name}.py", CONTRACTS / f"test_{folder.name}.py"])


def _in_folder(folder: Path) -> list[Path]:
    """All tests in a mirrored folder, or in the nearest one that there is."""
    mirrored = ROOT / "tests" / folder
    if not mirrored.exists():
        return _in_folder(folder.parent)
    return [test.relative_to(ROOT) for test in mirrored.glob("test_*.py")]


def _of_importers(file: Path) -> list[Path]:
    """The tests that import a module, or the nearest modules that import it."""
    level, seen = {_module(file)}, set[str]()
    while level:
        importers = {other for module in level for other in _importers().get(module, ())}
        if tests := [Path(other) for other in importers if other.startswith("tests/")]:
            return tests
        seen |= level
        level = importers - seen
    return []


def _module(file: Path) -> str:
    return ".".join(file.parent.parts if file.stem == "__init__" else file.with_suffix("").parts)


@functools.cache
def _modules() -> dict[str, Path]:
    """The files of all modules but tests."""
    files = (path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {_module(file): file for file in files}


@functools.cache
def _importers() -> dict[str, set[str]]:
    """By module: the modules, and the paths of the test files, that import it."""
    importers: dict[str, set[str]] = {}
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    for name, file in [*_modules().items(), *((test.relative_to(ROOT).as_posix(), test) for test in tests)]:
        for imported in _imports(ROOT / file):
            importers.setdefault(imported, set()).add(name)
    return importers


def _imports(file: Path) -> set[str]:
    """The modules that a file imports, also within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # The module itself, or a module in the package.
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & _modules().keys()
            names |= inner or {node.module}
    return names & _modules().keys()


if __name__ == "__main__":
    files = changed_files(sys.argv[1] if len(sys.argv) > 1 else "HEAD")
    print(*sorted({str(test) for file in files for test in tests_of(file)}))
