"""`python -m tests.ops.cuda_resources`: what nvcc makes of the CUDA kernels, held to the table beside this file.

Compiles csrc/cuda/*.cu for compute capability 9.0 as setup.py does, without a GPU, and reads the machine code.

That is registers, stack, loads and stores of global memory and their widths, conversions between 64-bit integers and
floats. It needs nvcc, and cuobjdump, which comes with Triton too.

One line a finding; the exit status is 1 where there is one. --write makes the table anew. What was compiled is kept in
build/cuda_resources by the sources of each operator, so a rerun compiles what changed.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc"
TABLE = Path(__file__).with_suffix(".csv")
BUILT = ROOT / "build" / "cuda_resources"
OPERATORS = sorted(p.stem for p in (SOURCES / "cuda").glob("*.cu") if p.stem not in ("module", "probe"))
FLAGS = ["-O3", "-std=c++20", "--expt-relaxed-constexpr", "-arch=sm_90", "-cubin", "-DUSE_CUDA"]
MOST_STACK = 16
"""Bytes; ptxas sets up to four values aside, stored before the loops, where that saves a step of registers."""
MORE_REGISTERS = 8
"""Than in the table, which another release of nvcc may need: registers are handed out in steps of 8."""
MORE_ACCESSES = 1.25


@dataclass(frozen=True)
class Kernel:
    """A kernel's machine code.

    Attributes:
        name: with its template arguments, as in ``pool_forward<bfloat16, 4, int32>``.
        registers: of a thread.
        stack: bytes of a thread: what does not fit in registers.
        loads, load_bits: instructions that load from global memory, and the widest of them; stores likewise.
        conversions: between signed 64-bit integers and floating point.
    """

    name: str
    registers: int
    stack: int
    loads: int
    load_bits: int
    stores: int
    store_bits: int
    conversions: int


# --- compiling -------------------------------------------------------------------------------------------------------


@functools.cache
def nvcc() -> str | None:
    """The compiler, found as setup.py does."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    wanted = os.environ.get("NVCC", "").strip()
    return next(filter(None, map(shutil.which, [wanted] if wanted else ["nvcc", f"{home}/bin/nvcc"])), None)


@functools.cache
def cuobjdump() -> str | None:
    """The reader of machine code: CUDA's, or the one that comes with Triton."""
    from tests.ops.triton_resources import tool

    try:
        of_triton = tool("cuobjdump")
    except ImportError:
        of_triton = ""
    beside = str(Path(nvcc() or "").parent / "cuobjdump")
    return next(filter(None, map(shutil.which, ["cuobjdump", beside, of_triton])), None)


def missing() -> str | None:
    """What is not here that this needs, in a sentence."""
    if nvcc() is None:
        return "there is no nvcc (PATH, CUDA_HOME or NVCC)"
    return "there is no cuobjdump: neither CUDA's nor Triton's" if cuobjdump() is None else None


def sources_of(file: Path) -> list[Path]:
    """A file and what it includes of csrc, through other files too."""
    found = [file]
    for source in found:
        for name in re.findall(r'#include "([^"]+)"', source.read_text()):
            if (SOURCES / name).exists() and SOURCES / name not in found:
                found.append(SOURCES / name)
    return sorted(found)


def compiled(operator: str) -> Path:
    """The file with an operator's machine code; compiles it where its sources have changed."""
    from torch.utils import cpp_extension

    file, compiler = SOURCES / "cuda" / f"{operator}.cu", nvcc()
    assert compiler is not None
    digest = hashlib.sha256(subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout)
    digest.update(" ".join(FLAGS).encode())
    for source in sources_of(file):
        digest.update(source.read_bytes())
    cubin = BUILT / f"{operator}-{digest.hexdigest()[:16]}.cubin"
    if not cubin.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        target = re.search(r'TORCH_TARGET = "(\w+)"', (ROOT / "setup.py").read_text())
        assert target is not None
        includes = [f"-I{path}" for path in (SOURCES, *cpp_extension.include_paths())]
        making = cubin.with_suffix(f".{os.getpid()}")
        command = [compiler, *FLAGS, f"-DTORCH_TARGET_VERSION={target[1]}", *includes, str(file), "-o", str(making)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{run.stdout}{run.stderr}")
        for old in BUILT.glob(f"{operator}-*.cubin"):
            old.unlink(missing_ok=True)
        making.rename(cubin)
    return cubin


# --- reading ---------------------------------------------------------------------------------------------------------

_TYPES = {"f": "float32", "d": "float64", "i": "int32", "l": "int64", "x": "int64"}


def readable(symbol: str) -> str:
    """A kernel's name from its symbol: ``_ZN12pyranet_fast3gpu12pool_forwardI13__nv_bfloat16Li4EiEEv…``."""
    found = re.match(r"_ZN12pyranet_fast3gpu(\d+)", symbol)
    if found is None:
        return symbol
    rest = symbol[found.end() :]
    name, rest = rest[: int(found[1])], rest[int(found[1]) :]
    arguments = []
    if rest.startswith("I"):
        rest = rest[1:]
        while not rest.startswith("E"):
            if number := re.match(r"L[ib](\d+)E", rest):
                arguments.append(number[1])
                rest = rest[number.end() :]
            elif length := re.match(r"\d+", rest):
                end = length.end() + int(length[0])
                arguments.append(rest[length.end() : end].removeprefix("__nv_").replace("__half", "float16"))
                rest = rest[end:]
            else:
                arguments.append(_TYPES[rest[0]])
                rest = rest[1:]
    return f"{name}<{', '.join(arguments)}>" if arguments else name


def bits(instruction: str) -> int:
    """The width of an access by its modifiers, as in ``LDG.E.64.CONSTANT``."""
    widths = [int(m[1]) for part in instruction.split(".") if (m := re.fullmatch(r"[US]?(8|16|64|128)", part))]
    return widths[0] if widths else 32


def kernels_in(usage: str, code: str) -> list[Kernel]:
    """The kernels of a file, by what ``cuobjdump -res-usage`` and ``-sass`` say of it."""
    used = {name: (int(registers), int(stack)) for name, registers, stack in
            re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+)", usage)}  # fmt: skip
    kernels = []
    for part in re.split(r"^\s*Function : ", code, flags=re.MULTILINE)[1:]:
        symbol = part.split(maxsplit=1)[0]
        loads, stores = (re.findall(rf"\b{op}\.[\w.]+", part) for op in ("LDG", "STG"))
        conversions = re.findall(r"\b(?:I2F\.(?:\w+\.)*S64|F2I\.(?:\w+\.)*S64)\b", part)
        kernels.append(
            Kernel(
                readable(symbol),
                *used[symbol],
                len(loads), max(map(bits, loads), default=0),
                len(stores), max(map(bits, stores), default=0),
                len(conversions),
            )
        )  # fmt: skip
    return sorted(kernels, key=lambda kernel: kernel.name)


def kernels_of(operator: str) -> list[Kernel]:
    """An operator's kernels, compiled where that is needed."""
    cubin, reader = str(compiled(operator)), cuobjdump()
    assert reader is not None
    usage, code = (
        subprocess.run([reader, flag, cubin], capture_output=True, text=True, check=True).stdout
        for flag in ("-res-usage", "-sass")
    )
    return kernels_in(usage, code)


# --- the table -------------------------------------------------------------------------------------------------------


def recorded() -> dict[str, list[Kernel]]:
    """The table: an operator's kernels."""
    table: dict[str, list[Kernel]] = {}
    with TABLE.open(newline="") as file:
        for operator, name, *numbers in list(csv.reader(file))[1:]:
            table.setdefault(operator, []).append(Kernel(name, *map(int, numbers)))
    return table


def write(table: dict[str, list[Kernel]]) -> None:
    """Replace the table."""
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["operator", *(field.name for field in fields(Kernel))])
        writer.writerows([operator, *astuple(kernel)] for operator in sorted(table) for kernel in table[operator])


def findings(found: Iterable[Kernel], expected: Iterable[Kernel]) -> list[str]:
    """What is worse than in the table, and what is wrong whatever the table says: a sentence each."""
    sentences = []
    before = {kernel.name: kernel for kernel in expected}
    after = {kernel.name: kernel for kernel in found}
    sentences += [f"{name} is in the table and was not compiled" for name in before.keys() - after.keys()]
    for name, kernel in after.items():
        if kernel.stack > MOST_STACK:
            sentences.append(f"{name} spills: {kernel.stack} bytes of stack; expected at most {MOST_STACK}")
        if kernel.conversions and "int32" in name:  # whose offsets have 32 bits
            sentences.append(f"{name} converts 64-bit integers and floats into each other {kernel.conversions} times")
        old = before.get(name)
        if old is None:
            sentences.append(f"{name} is not in the table")
            continue
        if kernel.conversions > old.conversions:
            sentences.append(f"{name} has {kernel.conversions} conversions of 64 bits, {old.conversions} in the table")
        if kernel.registers > old.registers + MORE_REGISTERS:
            sentences.append(f"{name} needs {kernel.registers} registers, {old.registers} in the table")
        for what in ("load", "store"):
            count, width = getattr(kernel, f"{what}s"), getattr(kernel, f"{what}_bits")
            old_count, old_width = getattr(old, f"{what}s"), getattr(old, f"{what}_bits")
            if width < old_width:
                sentences.append(f"{name} {what}s {width} bits at most, {old_width} in the table")
            if count > MORE_ACCESSES * old_count + 2:
                sentences.append(f"{name} has {count} {what}s, {old_count} in the table")
    return sorted(sentences)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, compare and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.ops.cuda_resources", description=(__doc__ or "").splitlines()[2]
    )
    parser.add_argument("operators", nargs="*", choices=[[], *OPERATORS], metavar="OPERATOR", help="(default: all)")
    parser.add_argument("--write", action="store_true", help="replace the operators' part of the table")
    arguments = parser.parse_args(argv)
    if (reason := missing()) is not None:
        sys.exit(f"cuda_resources: {reason}")
    operators = arguments.operators or OPERATORS
    found = {operator: kernels_of(operator) for operator in operators}
    table = recorded() if TABLE.exists() else {}
    if arguments.write:
        table = {operator: kernels for operator, kernels in (table | found).items() if operator in OPERATORS}
        write(table)
    sentences = [s for operator in operators for s in findings(found[operator], table.get(operator, []))]
    print(*sentences, f"{sum(map(len, found.values()))} kernels, {len(sentences)} findings", sep="\n")
    return int(bool(sentences))


if __name__ == "__main__":
    sys.exit(main())
