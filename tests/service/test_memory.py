"""What does not fit in memory is refused by the sizes in its manifest."""

from pathlib import Path

import pytest

from core.bundle import FileEntry, Manifest
from core.errors import UnservableBundle
from service.memory import available_bytes, check_fits, needed_bytes, trial_bytes
from tests.support_bundles import make_bundle

GIB = 2**30


def of_size(folder: Path, size: int) -> Manifest:
    manifest = make_bundle(folder, ["a", "b"], version="v-0001").manifest
    return manifest.model_copy(
        update={"files": {**manifest.files, "model.onnx": FileEntry(sha256="0" * 64, size=size)}}
    )


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def machine(free: int) -> str:
    return f"MemTotal:       99999999 kB\nMemAvailable:   {free // 1024} kB\n"


def test_a_version_needs_some_times_its_files(tmp_path: Path) -> None:
    manifest = of_size(tmp_path, GIB)
    assert 3 * GIB < needed_bytes(manifest) < 3.2 * GIB
    assert trial_bytes(manifest) > 2 * needed_bytes(manifest)


def test_the_refusal_has_the_figures(tmp_path: Path) -> None:
    manifest = of_size(tmp_path, GIB)
    check_fits(manifest, max_model_bytes=0, available=4 * GIB)
    check_fits(manifest, max_model_bytes=0, available=None)
    with pytest.raises(
        UnservableBundle, match=r"needs about 3,136 MiB \(files of 1,024 MiB\), 3,072 MiB are available"
    ):
        check_fits(manifest, max_model_bytes=0, available=3 * GIB)
    with pytest.raises(UnservableBundle, match="its files have 1,024 MiB, max_model_bytes allows 512 MiB"):
        check_fits(manifest, max_model_bytes=GIB // 2, available=None)


def test_this_machine_says_what_it_has() -> None:
    available = available_bytes()
    assert available is None or 0 <= available < 2**50


def test_a_machine_that_says_nothing_is_not_asked_further(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GIB),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 8 * GIB),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{GIB}\n",
                "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
            },
            GIB + GIB // 2,
        ),
        (
            {
                "proc/self/cgroup": "0::/app/service\n",
                "sys/fs/cgroup/app/memory.max": f"{3 * GIB}\n",
                "sys/fs/cgroup/app/memory.current": f"{2 * GIB}\n",
                "sys/fs/cgroup/app/service/memory.max": "max\n",
                "sys/fs/cgroup/app/service/memory.current": f"{GIB}\n",
            },
            GIB,
        ),
        (
            {
                "proc/self/cgroup": "12:cpu,cpuacct:/x\n4:memory:/docker/abc\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB // 4}\n",
            },
            3 * GIB // 4,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
            },
            8 * GIB,
        ),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "100\n",
                "sys/fs/cgroup/memory.current": "200\n",
            },
            0,
        ),
    ],
    ids=["no group", "v2 without", "v2", "v2 nested", "v1 in a container", "v1 without", "beyond the limit"],
)
def test_the_tightest_limit_around_the_process_holds(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    write(tmp_path, {"proc/meminfo": machine(8 * GIB), **files})
    assert available_bytes(tmp_path) == expected
