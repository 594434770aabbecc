"""A browser for the tests of this folder; without one they skip, and say so."""

from collections.abc import Iterator

import pytest
from tests.browser.chromium import Chromium, find_browser


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    binary = find_browser()
    if binary is None:
        pytest.skip("no Chromium on this machine: the viewer's page is not tested (Debian: apt-get install chromium)")
    with Chromium(binary, tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


@pytest.fixture
def browser(chromium: Chromium) -> Iterator[Chromium]:
    """The session's browser with nothing open in it yet."""
    chromium.resize(1280, 800)
    yield chromium
    chromium.open("about:blank")
    chromium.complaints.clear()
