"""The allocator's setting: kept pages do not come back as page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from pyranet_fast.cli import keep_pages
done = keep_pages() if sys.argv[1] == "keep" else None
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 << 20)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(done, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator other than glibc's")
def test_pages_are_kept():
    def run(mode: str, **environment: str) -> tuple[str, int]:
        output = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True,
                                env={"PATH": "/usr/bin:/bin", **environment}).stdout.split()  # fmt: skip
        return output[0], int(output[1])

    done, faults = run("keep")
    assert done == "True" and faults < 1000
    assert run("leave")[1] > 10_000
    assert run("keep", MALLOC_ARENA_MAX="2")[0] == "False"  # somebody has chosen
