"""What is done before the server starts."""

from pathlib import Path

import pytest

from service.run import forget_other_workers
from tests.service.serving import settings_for


@pytest.mark.parametrize(
    ("workers", "kept"), [(1, ["feedback", "service"]), (2, ["feedback", "service-1", "service-2"])]
)
def test_versions_kept_by_workers_that_are_no_more_are_removed(tmp_path: Path, workers: int, kept: list[str]) -> None:
    for name in ("feedback", "service", "service-1", "service-2", "service-3"):
        (tmp_path / "cache" / name / "v-0001").mkdir(parents=True)
    forget_other_workers(settings_for(tmp_path, workers=workers))
    assert sorted(folder.name for folder in (tmp_path / "cache").iterdir()) == kept
