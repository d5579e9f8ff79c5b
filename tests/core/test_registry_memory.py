"""What a registry keeps in memory: enough to ask less, and not without end."""

from pathlib import Path
from typing import Any

import pytest

from core.bundle import ModelBundle
from core.errors import RegistryUnavailable
from core.registry import Registry
from tests.support_bundles import make_bundle

WHO: dict[str, Any] = {"reason": "a test", "actor": "test"}


def test_what_was_read_of_the_promotions_is_known_without_the_store(tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    log = Registry(folder.as_uri(), "default").promotions
    for version in ("v-0001", "v-0002", "v-0003"):
        log.promote_by_operator(version, **WHO)
    log.rollback(**WHO, hold_until=None)
    folder.rename(tmp_path / "away")
    folder.write_text("")  # a file where the folder was
    with pytest.raises(RegistryUnavailable):
        log.rollback_target()
    assert log.rollback_target(fresh=False) == "v-0001"
    assert log.bad_versions(fresh=False) == {"v-0003"}
    assert log.live_since(fresh=False) == log.entries(fresh=False)[-1]


def test_manifests_do_not_pile_up_in_memory(tmp_path: Path) -> None:
    registry = Registry((tmp_path / "registry").as_uri(), "default")
    bundle = make_bundle(tmp_path / "made", ["a", "b"], version="v-0000")
    fields = bundle.manifest.model_dump(exclude={"files", "version"})
    versions = [f"v-{number:04}" for number in range(70)]
    for version in versions:
        registry.publish(ModelBundle.write(bundle.directory, **fields, version=version))
        registry.manifest(version)
        registry.manifest("v-0000")
    assert len(registry._manifests) == 64
    assert list(registry._manifests)[-2:] == ["v-0069", "v-0000"]
    assert [registry.manifest(version).version for version in versions] == versions
