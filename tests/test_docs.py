"""The documentation: public names have pages, links lead on, and the tutorials' pages are of their scripts."""

import runpy
from pathlib import Path

import pytest

import teachenv.experiment

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / "docs" / "tools"
LINKS = runpy.run_path(str(TOOLS / "links.py"))
PAGES = runpy.run_path(str(TOOLS / "tutorial_pages.py"))


def outside(markdown: str, page: str = "how-to/page.md") -> tuple[str, list[str], dict[str, Path]]:
    warnings: list[str] = []
    copied: dict[str, Path] = {}
    text = LINKS["outside"](
        markdown, page, ROOT, "https://host/us", copied, lambda *said: warnings.append(said[0] % said[1:])
    )
    return text, warnings, copied


def test_links_to_source_files_lead_to_the_repository() -> None:
    text, warnings, _ = outside("[a](../../teachenv/env.py), [b](../../meta/teachers#top), [c](../concepts.md#dev)")
    assert text == (
        "[a](https://host/us/blob/main/teachenv/env.py), [b](https://host/us/tree/main/meta/teachers#top), "
        "[c](../concepts.md#dev)"
    )
    assert warnings == []


def test_a_link_to_no_file_is_a_warning_that_names_it() -> None:
    _, warnings, _ = outside("[a](../../teachenv/nothing.py)")
    assert warnings == ["how-to/page.md links to teachenv/nothing.py, which is not in the repository: fix the link"]


def test_figures_of_results_are_copied() -> None:
    figure = "benchmarks/results/compare/teacher_training.png"
    text, _, copied = outside(f"![J](../../{figure})")
    assert text == f"![J](../images/{figure})"
    assert copied == {f"images/{figure}": ROOT / figure}


def test_names_in_code_become_links_but_not_within_links() -> None:
    html = '<p><code>meta.RMD</code> <a href="x"><code>meta.RMD</code></a> <code>meta.nothing</code></p>'
    assert LINKS["names"](html, {"meta.RMD": "../r/"}) == html.replace(
        "<code>meta.RMD</code>", '<a href="../r/"><code>meta.RMD</code></a>', 1
    )


def test_pages_of_tutorials_are_of_their_scripts_as_they_are() -> None:
    assert list((ROOT / "docs" / "tutorials").glob("*.py"))
    assert PAGES["outdated"]() == []


def test_a_script_is_cut_into_text_and_code() -> None:
    script = "# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1  # one\nprint(x)\n"
    assert [tuple(cell) for cell in PAGES["cells"](script)] == [
        (True, "# Title\n\nText."),
        (False, "x = 1  # one\nprint(x)"),
    ]
    with pytest.raises(ValueError, match=r"begins with a line '# %%'.*found 'import x'"):
        PAGES["cells"]("import x\n")


def test_experiment_imports_what_it_names() -> None:
    assert list(teachenv.experiment._NAMES) == teachenv.experiment.__all__
    for name in teachenv.experiment.__all__ * 2:  # an import could put a module in the place of the name
        assert callable(getattr(teachenv.experiment, name)), name


def test_every_public_name_has_a_page() -> None:
    pytest.importorskip("griffe", reason="comes with the extra docs")
    import agents
    import meta

    reference = runpy.run_path(str(TOOLS / "api.py"))["read"](ROOT)
    pages = reference.pages()
    for package in (teachenv, teachenv.experiment, meta, agents):
        for name in package.__all__:
            page, _ = reference.links()[f"{package.__name__}.{name}"]
            assert name in pages[page]
    assert len({page.casefold() for page in pages}) == len(pages)
    # The function, and not the package that is called alike.
    assert reference.links()["meta.influence"] == ("api/meta/influence-function.md", "")
