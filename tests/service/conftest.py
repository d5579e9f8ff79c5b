"""One service for the tests that change nothing about it; the others start their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.serving import Served, champion, serving, settings_for


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with one toy model, without API keys."""
    home = tmp_path_factory.mktemp("home")
    champion(home, "v-0001")
    with serving(settings_for(home, max_request_bytes=20_000, max_inputs=8, max_text_chars=1_000)) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home."""
    path = tmp_path / "home"
    path.mkdir()
    return path
