from collections.abc import Iterator

import pytest

DRAWS_PAGES = "test_compare"


@pytest.fixture(scope="module", autouse=True)
def pages_without_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures are drawn once, as PNG, and not once more for the page, but for one benchmark that has every kind."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.module.__name__.endswith(DRAWS_PAGES):
            patch.setattr("teachenv.plot.files.svg", lambda figure, name: "<svg ></svg>")
        yield
