"""Prints the test files of what changed since a commit (by default the last one), for `make quick`.

A changed test file is its own test. A changed module's tests are `tests/.../test_NAME.py` in the mirrored folder; if
there is no such file, all test files that import the module.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


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
    mirrored = Path("tests") / file.parent / f"test_{file.stem}.py"
    if (ROOT / mirrored).exists():
        return [mirrored]
    package = ".".join(file.parent.parts if file.stem == "__init__" else file.with_suffix("").parts)
    parent, _, name = package.rpartition(".")
    imports = (f"from {package} import", f"import {package}\n", f"from {parent} import {name}")
    return [
        test.relative_to(ROOT)
        for test in sorted((ROOT / "tests").rglob("test_*.py"))
        if any(line in test.read_text(encoding="utf-8") for line in imports)
    ]


if __name__ == "__main__":
    files = changed_files(sys.argv[1] if len(sys.argv) > 1 else "HEAD")
    print(*sorted({str(test) for file in files for test in tests_of(file)}))
