"""Operators beside native PyTorch: all forms in turn, round by round, and a copy of as many bytes as must move."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from bench import timing

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
ROUNDS = 30
COPY = "copy"
ROWS: list[dict[str, Any]] = []
"""What this process has measured; bench/conftest.py writes it where --record asks for it."""


def moved(*tensors: Tensor | Iterable[Tensor]) -> int:
    """Bytes of tensors: what an operator reads and writes at least."""
    flat = [t for entry in tensors for t in ([entry] if isinstance(entry, Tensor) else entry)]
    return sum(t.numel() * t.element_size() for t in flat)


def rows_of(
    case: dict[str, Any], times: dict[str, list[float]], first: dict[str, float], size: int, ours: list[str]
) -> list[dict[str, Any]]:
    """A row for every form: quartiles, first call, bytes a second, and their share of a copy's in the same rounds."""
    plain = timing.best(times, [name for name in times if name not in (*ours, COPY)])
    rows = []
    for name, own in times.items():
        row = {**case, "form": name, **timing.summary(own), "first_s": timing.figure(first[name], 3)}
        row["MB"] = timing.figure(size / 1e6)
        row["GB_per_s"] = timing.figure(size / row["ms"] / 1e6)
        if name != COPY:
            row["of_copy"] = timing.median_ratio(times[COPY], own)
        if plain is not None and name in ours:
            row["times_the_best_plain"] = timing.median_ratio(times[plain], own)
        rows.append(row)
    return rows


def compare(
    benchmark: Any,
    ours: Callable[[], Any],
    native: dict[str, Callable[[], Any]],
    *,
    case: dict[str, Any],
    size: int,
    rounds: int = ROUNDS,
) -> float:
    """Time ours, every native form and a copy; record the rows and print the ratio to the best native form.

    Args:
        benchmark: pytest-benchmark's fixture.
        ours, native: calls without arguments; their first call is the cold one.
        case: operator, shape, dtype, layout, direction and what else tells this case from others.
        size: bytes that must move, see `moved`.
        rounds: how often each is timed.
    """
    steps = {"ours": ours, **{f"eager {name}": step for name, step in native.items()}}
    steps[COPY] = timing.copy_of(size, "cpu")
    first = {name: timing.seconds(step, "cpu") for name, step in steps.items()}
    times = timing.in_rounds(steps, rounds, "cpu")
    rows = rows_of(case, times, first, size, ["ours"])
    ROWS.extend(rows)
    row = rows[0]
    ratio: float = row["times_the_best_plain"]
    benchmark.extra_info.update(row, native_ms={r["form"]: r["ms"] for r in rows[1:]}, threads=torch.get_num_threads())
    benchmark.pedantic(ours, rounds=rounds, warmup_rounds=1)
    others = " / ".join(f"{r['form']} {r['ms']:.3f}" for r in rows[1:])
    print(
        f"\nours {row['ms']:.3f} ms, {others} ms, ratio {ratio:.1f}; {row['GB_per_s']:.1f} GB/s, "
        f"{row['of_copy']:.0%} of a copy; first call {row['first_s'] * 1e3:.1f} ms"
    )
    return ratio


def described(operator: str, shape: Iterable[int], dtype: torch.dtype, layout: str, backward: bool) -> dict[str, Any]:
    """The case of an operator's rows."""
    names = {torch.float32: "fp32", torch.bfloat16: "bf16"}
    direction = "forward+backward" if backward else "forward"
    return {
        "operator": operator, "shape": list(shape), "dtype": names[dtype], "layout": layout, "direction": direction,
        "device": "cpu",
    }  # fmt: skip
