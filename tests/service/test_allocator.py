"""The allocator keeps to few heaps, however many threads allocate."""

import subprocess
import sys

import pytest

from core.cores import usable_cores

_HEAPS = """
import ctypes, re, sys, tempfile, threading
from service.allocator import limit_heaps

if "limit" in sys.argv:
    limit_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
all_at_once = threading.Barrier(40)

def allocate():
    all_at_once.wait()
    for _ in range(100):
        libc.malloc(3000)

threads = [threading.Thread(target=allocate) for _ in range(40)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile("r") as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(len(re.findall("<heap nr", file.read())))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_heaps_are_bounded() -> None:
    def heaps(*arguments: str) -> int:
        return int(subprocess.run([sys.executable, "-c", _HEAPS, *arguments], check=True, capture_output=True).stdout)

    most = max(2, usable_cores())
    assert heaps("limit") <= most < heaps()
