"""What nvcc makes of the CUDA kernels for sm_90: registers, stack, widths and conversions, as in the table."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ops import cuda_resources
from tests.ops.cuda_resources import Kernel, bits, findings, kernels_in, readable

pytestmark = pytest.mark.skipif(not cuda_resources.SOURCES.exists(), reason="the source tree is not here")
KERNEL = Kernel("pool_forward<bfloat16, 4, int32>", 54, 0, 18, 64, 2, 64, 0)
USAGE = """
 Function _ZN12pyranet_fast3gpu13argmax_planesI6__halfEEvNS0_15ArgmaxArgumentsIT_EE:
  REG:37 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:800 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _ZN12pyranet_fast3gpu12pool_forwardI13__nv_bfloat16Li4EiEEvNS0_13PoolArgumentsIT_EE:
  REG:54 STACK:24 SHARED:0 LOCAL:0 CONSTANT[0]:4000 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
CODE = """
	code for sm_90
		Function : _ZN12pyranet_fast3gpu12pool_forwardI13__nv_bfloat16Li4EiEEvNS0_13PoolArgumentsIT_EE
        /*0000*/                   LDG.E.64.CONSTANT R4, desc[UR4][R2.64] ;
        /*0010*/                   LDG.E.U8 R4, desc[UR4][R2.64] ;
        /*0020*/              @!P0 LDG.E R4, desc[UR4][R2.64] ;
        /*0030*/                   I2F.S64 R4, R2 ;
        /*0040*/                   F2I.S64.TRUNC R4, R2 ;
        /*0050*/                   I2F.F64.S64 R4, R2 ;
        /*0060*/                   I2F.U64.RP R4, R2 ;
        /*0070*/                   STG.E.128 desc[UR4][R2.64], R4 ;
		Function : _ZN12pyranet_fast3gpu13argmax_planesI6__halfEEvNS0_15ArgmaxArgumentsIT_EE
        /*0000*/                   LDG.E.U16 R4, desc[UR4][R2.64] ;
        /*0010*/                   LDL R4, [R1] ;
"""


@pytest.mark.parametrize("operator", cuda_resources.OPERATORS)
def test_kernels_are_as_in_the_table(operator: str) -> None:
    if (reason := cuda_resources.missing()) is not None:
        pytest.skip(f"{reason}: the kernels are not compiled")
    found = cuda_resources.kernels_of(operator)
    assert found, "nothing was compiled"
    sentences = findings(found, cuda_resources.recorded().get(operator, []))
    assert not sentences, "\n".join([*sentences, "where this is right: python -m tests.ops.cuda_resources --write"])


def test_the_table_is_of_these_operators() -> None:
    table = cuda_resources.recorded()
    assert set(table) == set(cuda_resources.OPERATORS)
    for operator, kernels in table.items():
        assert findings(kernels, kernels) == [], operator
        source = (cuda_resources.SOURCES / "cuda" / f"{operator}.cuh").read_text()
        included = [
            (cuda_resources.SOURCES / path).read_text() for path in re.findall(r'#include "(\S+\.cuh)"', source)
        ]
        own, others = (set(re.findall(r"__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(", text))
                       for text in (source, "".join(included)))  # fmt: skip
        names = {kernel.name.split("<")[0] for kernel in kernels}
        assert own <= names <= own | others


def test_reading() -> None:
    argmax, pool = kernels_in(USAGE, CODE)
    assert argmax == Kernel("argmax_planes<float16>", 37, 0, 1, 16, 0, 0, 0)
    assert pool == Kernel("pool_forward<bfloat16, 4, int32>", 54, 24, 3, 64, 1, 128, 3)


def test_names_and_widths() -> None:
    symbol = "_ZN12pyranet_fast3gpu13argmax_pixelsIdLi1ElLb1EEEvNS0_15ArgmaxArgumentsIT_EE"
    assert readable(symbol) == "argmax_pixels<float64, 1, int64, 1>"
    assert readable("_Z5other") == "_Z5other"
    assert [bits(i) for i in ("LDG.E", "LDG.E.U8.CONSTANT", "STG.E.U16", "LDG.E.S8", "LDG.E.128")] == [
        32,
        8,
        16,
        8,
        128,
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"registers": 63}, "needs 63 registers, 54 in the table"),
        ({"stack": 24}, "spills: 24 bytes"),
        ({"load_bits": 32}, "loads 32 bits at most, 64 in the table"),
        ({"store_bits": 16}, "stores 16 bits at most, 64 in the table"),
        ({"loads": 30}, "has 30 loads, 18 in the table"),
        ({"conversions": 1}, "converts 64-bit integers and floats into each other 1 times"),
        ({"name": "pool_forward<float16, 4, int32>"}, "is not in the table"),
    ],
)
def test_findings(change: dict[str, object], sentence: str) -> None:
    assert findings([KERNEL], [KERNEL]) == []
    found = findings([replace(KERNEL, **change)], [KERNEL])  # type: ignore[arg-type]
    assert any(sentence in s for s in found), found


def test_a_little_more_is_accepted() -> None:
    more = replace(KERNEL, registers=62, stack=16, loads=24, load_bits=128)
    assert findings([more], [KERNEL]) == []
    wide = replace(KERNEL, name="upsample_forward<float32, 1, int64>", conversions=8)
    assert findings([wide], [wide]) == []
    (found,) = findings([replace(wide, conversions=9)], [wide])
    assert "9 conversions of 64 bits, 8 in the table" in found
    assert findings([], [KERNEL]) == [f"{KERNEL.name} is in the table and was not compiled"]


def test_sources_are_followed() -> None:
    names = {p.name for p in cuda_resources.sources_of(cuda_resources.SOURCES / "cuda" / "heatmap_loss.cu")}
    assert {"heatmap_loss.cu", "heatmap_loss.cuh", "gaussian.h", "plan.cuh", "checks.h", "launcher.h"} <= names
    assert "bilinear.h" not in names


def test_without_nvcc_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NVCC", str(tmp_path / "none"))
    cuda_resources.nvcc.cache_clear()
    try:
        with pytest.raises(SystemExit, match="there is no nvcc"):
            cuda_resources.main([])
    finally:
        monkeypatch.undo()
        cuda_resources.nvcc.cache_clear()
