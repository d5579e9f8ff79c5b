"""Bundles: what was damaged, cut, swapped or forged is never taken for whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.bundle import MODEL, TOKENIZER, ModelBundle, is_version_name, new_version, parse_manifest
from core.errors import CorruptBundle
from tests.support_bundles import make_bundle

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """A bundle that is as it should be; tests change copies."""
    return make_bundle(tmp_path_factory.mktemp("bundle"), ["a", "b"], version="v-0001")


def _copy(bundle: ModelBundle, to: Path) -> Path:
    for path in bundle.directory.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_bundle_that_was_written_opens(whole: ModelBundle) -> None:
    assert ModelBundle.open(whole.directory).manifest == whole.manifest


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_flip, "has sha256"),
        (Path.unlink, "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, the manifest says"),
        (lambda path: path.write_bytes(b""), "has 0 bytes"),
    ],
)
@pytest.mark.parametrize("name", [MODEL, TOKENIZER])
def test_a_damaged_file_is_noticed_and_named(
    whole: ModelBundle, tmp_path: Path, name: str, damage: Callable[[Path], object], told: str
) -> None:
    folder = _copy(whole, tmp_path)
    damage(folder / name)
    with pytest.raises(CorruptBundle) as refused:
        ModelBundle.open(folder)
    assert str(refused.value).startswith(f"v-0001: {name} ")
    assert told in str(refused.value)


def test_a_folder_without_a_manifest_is_no_version(tmp_path: Path) -> None:
    with pytest.raises(CorruptBundle, match=r"manifest\.json is missing, so this version does not exist"):
        ModelBundle.open(tmp_path)


def _rename(manifest: Manifest, name: str) -> None:
    manifest["files"][name] = manifest["files"][MODEL]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda manifest: manifest.update(schema_version=2), "schema_version"),
        (lambda manifest: manifest.update(labels=["a", "a"]), "labels: Value error, labels must differ"),
        (lambda manifest: manifest.update(labels=[]), "labels"),
        (
            lambda manifest: manifest.update(version="../../etc"),
            "version: Value error, '../../etc' is not a version name",
        ),
        (lambda manifest: manifest.update(surprise=1), "surprise"),
        (lambda manifest: manifest["files"].pop(MODEL), "files: Value error, 'model.onnx' is missing"),
        (lambda manifest: manifest["files"][MODEL].update(sha256="../x"), "files.model.onnx.sha256"),
        (lambda manifest: manifest["files"][MODEL].update(size=-1), "files.model.onnx.size"),
        (lambda manifest: _rename(manifest, "../x"), "files: Value error, '../x' is not allowed"),
        (lambda manifest: _rename(manifest, "/etc/passwd"), "files: Value error, '/etc/passwd' is not allowed"),
        (lambda manifest: _rename(manifest, "manifest.json"), "files: Value error, 'manifest.json' is not allowed"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused_with_its_place(
    whole: ModelBundle, change: Callable[[Manifest], object], place: str
) -> None:
    manifest = json.loads(whole.manifest.model_dump_json())
    change(manifest)
    with pytest.raises(CorruptBundle) as refused:
        parse_manifest(json.dumps(manifest).encode(), where="v-0001")
    assert str(refused.value).startswith(f"v-0001: manifest.json: {place}")


@pytest.mark.parametrize("document", [b"", b"{", b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_manifest_that_is_no_json_is_refused(document: bytes) -> None:
    with pytest.raises(CorruptBundle, match=r"v-0001: manifest\.json: document: "):
        parse_manifest(document, where="v-0001")


PATHS = st.lists(st.sampled_from(["..", ".", "", "a", "model.onnx", "~", "C:", "a\\b", "weights"]), max_size=4)


@settings(max_examples=200, deadline=None)
@given(name=st.text(max_size=12) | PATHS.map("/".join))
def test_a_file_name_that_is_allowed_never_leaves_the_folder(whole: ModelBundle, name: str) -> None:
    manifest = json.loads(whole.manifest.model_dump_json())
    _rename(manifest, name)
    try:
        parse_manifest(json.dumps(manifest).encode(), where="v")
    except CorruptBundle:
        return
    folder = Path("/bundles/v")
    inside = (folder / name).resolve()
    assert inside.is_relative_to(folder)
    assert len(inside.parts) - len(folder.parts) in (1, 2)
    assert inside != folder / "manifest.json"


@given(name=st.text(max_size=20) | st.sampled_from(["..", "a/b", "v-0001\n", "V-0001", "-abc", "a" * 65]))
def test_a_version_name_is_safe_as_a_path_and_in_a_url(name: str) -> None:
    if is_version_name(name):
        assert name.isascii()
        assert name.replace("-", "").isalnum()
        assert 4 <= len(name) <= 64


def test_new_version_names_are_version_names_that_sort_by_time() -> None:
    assert is_version_name(new_version())
