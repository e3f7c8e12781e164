"""What a release says of itself is the same everywhere."""

import re
from pathlib import Path

import teachenv

ROOT = Path(__file__).parent.parent


def test_citation_and_changelog_are_of_this_version() -> None:
    citation = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert citation is not None
    assert citation[1] == teachenv.__version__
    versions = re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert versions[0] == teachenv.__version__


def test_the_changelog_names_every_environment() -> None:
    from teachenv.registration import ENVIRONMENTS, RL_ENVIRONMENTS

    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert {*re.findall(r"`(Teach\w+-v\d+)`", text)} == {*ENVIRONMENTS, *RL_ENVIRONMENTS}
