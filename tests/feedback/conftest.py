"""A home with a toy model, made once and copied, since every test needs one."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.feedback.harness import publish


@pytest.fixture(autouse=True, scope="session")
def _plain_logs() -> Iterator[None]:
    """Log as the programs do, into nowhere: structlog's own tracebacks for terminals take seconds each."""
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(file=io.StringIO()),
    )
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def home_with_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be copied only: its model answers `alpha` to everything, and is certain of it."""
    path = tmp_path_factory.mktemp("template") / "home"
    publish(path, "v-0001", favour="alpha")
    return path


@pytest.fixture
def home(home_with_model: Path, tmp_path: Path) -> Path:
    """A home of the test's own."""
    return Path(shutil.copytree(home_with_model, tmp_path / "home"))
