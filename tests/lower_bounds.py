"""Prints constraints for pip: every dependency of the installed project at its lower bound in pyproject.toml.

`make test-lowest` runs the tests with them, so that each bound is a version which was seen to work. torch and
torchvision, which goes with it, are not pinned: each of their releases is gigabytes.

    python tests/lower_bounds.py EXTRA ... > constraints.txt
"""

import re
import sys
from importlib.metadata import requires

NOT_PINNED = {"torch", "torchvision"}


def pins(requirements: list[str], extras: list[str]) -> list[str]:
    """The lower bounds as pins: `'scipy>=1.11'` gives `"scipy==1.11"`.

    Args:
        requirements: as the metadata of an installed project states them.
        extras: those of the project whose requirements count beside the unconditional ones.

    Raises:
        ValueError: a requirement is not a name with one lower bound.
    """
    pinned = set()
    for requirement in requirements:
        bounded, _, condition = requirement.partition(";")
        extra = re.search(r"""extra == ["']([\w-]+)["']""", condition)
        if extra and extra[1] not in extras:
            continue
        parts = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?>=([\w.]+)", re.sub(r"\s", "", bounded))
        if parts is None:
            raise ValueError(f"expected a requirement like 'scipy>=1.11' in pyproject.toml, found {requirement!r}")
        if parts[1] not in NOT_PINNED:
            pinned.add(f"{parts[1]}=={parts[2]}")
    return sorted(pinned)


if __name__ == "__main__":
    print(*pins(requires("teachenv") or [], sys.argv[1:]), sep="\n")
