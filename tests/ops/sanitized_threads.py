"""`python -m tests.ops.sanitized_threads`: that the loops of the operators run in threads which the sanitizer watches.

`make sanitize` runs it before the tests: a race that is made on purpose must be found, and every operator that has a
loop must run it in threads of sanitized_threads.cpp.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys

import torch

from .direct_calls import valid_arguments

# Their work is so small, or of one piece, that they have no parallel loop here.
MOST_WITHOUT = 6


def main() -> int:
    """Print what was found; 1 where the sanitizer would not find a race."""
    code = "import ctypes; ctypes.CDLL(None).race()"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if found.returncode == 0 or "data race" not in found.stderr:
        print(f"a race made on purpose was not found: {found.stderr[-500:]}", file=sys.stderr)
        return 1
    count = ctypes.CDLL(None).loops_in_threads
    count.restype = ctypes.c_int64
    without = []
    for name, make in valid_arguments().items():
        before = count()
        getattr(torch.ops.pyranet_fast, name)(*make())
        if count() == before:
            without.append(name)
    print(f"{count()} loops in threads; a race made on purpose was found; no loop in {', '.join(without) or 'none'}")
    return 1 if len(without) > MOST_WITHOUT else 0


if __name__ == "__main__":
    sys.exit(main())
