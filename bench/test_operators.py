"""`python -m pytest bench`: operators against native PyTorch on the CPU; see `bench.operators`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import operators


@pytest.mark.parametrize("case", operators.cpu_cases(), ids=str)
def test_against_native(benchmark: Any, measured: list[dict[str, Any]], case: operators.OperatorCase) -> None:
    rows, step = operators.measure_on_cpu(case)
    measured.extend(rows)
    row, others = rows[0], rows[1:]
    benchmark.extra_info.update(row, native_ms={r["form"]: r["ms"] for r in others}, threads=torch.get_num_threads())
    benchmark.pedantic(step, rounds=operators.ROUNDS, warmup_rounds=1)
    natives = " / ".join(f"{r['form']} {r['ms']:.3f}" for r in others)
    print(
        f"\nours {row['ms']:.3f} ms, {natives} ms, ratio {row['times_the_best_plain']:.1f}; "
        f"{row['GB_per_s']:.1f} GB/s, {row['of_copy']:.0%} of a copy; first call {row['first_s'] * 1e3:.1f} ms"
    )
