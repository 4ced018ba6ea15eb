"""``python -m pyranet_fast.complexity``: parameters and GFLOPs of PyraNet and its baselines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from . import cli
from .errors import UserError
from .models import VARIANTS, PyraNet, complexity

PAPER = {
    ("plain", 8): "23.7 M / 41.2",
    ("B*", 8): "26.9 M / 45.9",
}
"""What the paper prints; its GFLOPs count batch norm, ReLU and pooling too."""


def describe(config: dict[str, Any], size: int) -> dict[str, Any]:
    """Parameters (millions) and GFLOPs of ``PyraNet(**config)`` at size x size pixels, batch 1."""
    # On the meta device nothing is allocated or computed: only shapes count.
    with torch.device("meta"):
        model = PyraNet(**config)
    found = complexity(model, (1, 3, size, size))
    return {**model.config, "input_size": size, "params_m": found.params / 1e6, "gflops": found.flops / 1e9}


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One description for each variant and number of stacks asked for."""
    for stacks in options.stacks:
        for variant in options.variants:
            # The paper's plain hourglass is without variance control, its ablation adds it as a step.
            control = getattr(options, "variance_control", variant != "plain")
            yield describe(
                {
                    "stacks": stacks,
                    "joints": options.joints,
                    "features": options.features,
                    "variant": variant,
                    "levels": options.levels,
                    "depth": options.depth,
                    "base_width": options.base_width,
                    "variance_control": control,
                },
                options.input_size,
            )


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        prog="python -m pyranet_fast.complexity",
        description="Count parameters and GFLOPs of PyraNet and its baselines: 2 FLOPs per multiply-add, "
        "convolutions only, batch size 1. Without options: the models of the paper.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--stacks", type=int, nargs="+", default=[8, 2], metavar="N", help="numbers of hourglass stacks")
    p.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=["plain", "B*", "B"], help="residual modules to compare"
    )
    p.add_argument("--joints", type=int, default=16, help="number of score maps")
    p.add_argument("--features", type=int, default=256, help="channels of an hourglass, a multiple of 4")
    p.add_argument("--levels", type=int, default=4, help="pyramid levels C")
    p.add_argument("--depth", type=int, default=4, help="hourglass levels")
    p.add_argument(
        "--base-width", type=int, default=9, help="the pyramid of a PRM has 1/N of its channels, rounded down"
    )
    p.add_argument("--input-size", type=int, default=256, help="image side in pixels, a multiple of 4 * 2^depth")
    p.add_argument(
        "--variance-control",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="variance control of section 4.2 (default: off for plain, as in the baseline of the paper, else on)",
    )
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return p


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        UserError: the flags describe an invalid network.
    """
    p = parser()
    options = cli.parse_arguments(p, arguments)
    default = all(getattr(options, name) == p.get_default(name) for name in ("features", "joints", "input_size"))
    try:
        if options.json:
            print(json.dumps(list(rows(options)), indent=2))
            return
        for number, row in enumerate(rows(options)):
            if number == 0:
                print(f"{'model':38} {'params':>10} {'GFLOPs':>8}   paper")
            name = f"{row['variant']}, {row['stacks']} stack{'s' if row['stacks'] > 1 else ''}"
            name += "" if row["variance_control"] else ", no variance control"
            paper = PAPER.get((row["variant"], row["stacks"]), "") if default else ""
            print(f"{name:38} {row['params_m']:8.3f} M {row['gflops']:8.2f}   {paper}".rstrip(), flush=True)
    except ValueError as error:
        raise UserError(str(error)) from error


if __name__ == "__main__":
    sys.exit(cli.run(main))
