"""Prints what an extra of pyproject.toml needs, for pip to install without the project: `requirements.py docs`."""

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

project = tomllib.loads((Path(__file__).resolve().parent.parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
print(*project["project"]["optional-dependencies"][sys.argv[1]], sep="\n")
