"""What the project imports is declared, and each bound is one that `make test-lowest` can pin."""

import ast
import re
import runpy
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("teachenv", "meta", "agents", "benchmarks")
BOUNDS = re.findall(r'"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)"', (ROOT / "pyproject.toml").read_text())
PINS = runpy.run_path(str(ROOT / "tests" / "lower_bounds.py"))["pins"]
NAMES = {"trak": "traker"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_declared(package: str) -> None:
    imported = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).split(".")[0])
    assert imported - set(sys.stdlib_module_names) - set(PACKAGES)
    declared = {plain(name) for name, _ in BOUNDS}
    distributions = packages_distributions()
    # Packages of extras that are not installed here have no distribution to be looked up: most are called alike.
    foreign = {name for name in imported - set(PACKAGES) if name not in sys.stdlib_module_names}
    missing = {
        name for name in foreign if not declared & {plain(d) for d in distributions.get(name, [NAMES.get(name, name)])}
    }
    assert missing == set()


def test_bounds_become_pins() -> None:
    requirements = [
        "numpy>=1.26",
        "torch>=2.6",
        'pytest>=8.3; extra == "dev"',
        'gymnasium[box2d]>=1.3; extra == "control"',
    ]
    assert PINS(requirements, ["dev"]) == ["numpy==1.26", "pytest==8.3"]
    assert PINS([f"{name}>={bound}" for name, bound in BOUNDS], []) != []
    with pytest.raises(
        ValueError, match=r"expected a requirement like 'scipy>=1\.11' in pyproject\.toml, found 'a==1'"
    ):
        PINS(["a==1"], [])
