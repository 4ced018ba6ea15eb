"""`python -m bench.rates`: cost of network configurations on one core, to choose one before a long training run.

Times are of the processor, not of the clock, so that other work on the machine disturbs them less; the fastest of the
rounds counts. A training step is forward, loss, backward and RMSProp; a person is one picture of a batch through the
network as predictions use it, without flipping. ``--isa avx2`` shows what it costs where there is no more.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench import report, runner
from pyranet_fast import cli, ops
from pyranet_fast.models import PyraNet, optimize_for_inference

JOINTS = 16


def seconds(call: Callable[[], Any], rounds: int) -> float:
    """Processor time of the fastest call, after one that counts for nothing."""
    call()
    times = []
    for _ in range(rounds):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return min(times)


def training_step(model: PyraNet, size: int, batch: int, precision: str) -> Callable[[], None]:
    """A step on pictures of noise."""
    model.train()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4, foreach=True)
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last) - 0.5
    joints, weight = torch.rand(batch, JOINTS, 2) * size / 4, torch.ones(batch, JOINTS)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            maps = model(images)
        torch.stack([ops.heatmap_loss(m, joints, weight) for m in maps]).sum().backward()
        optimizer.step()

    return step


def rates(stacks: int, features: int, depth: int, size: int, batch: int, precision: str, rounds: int) -> dict[str, Any]:
    """Images a second in training, and milliseconds a person in prediction."""
    torch.manual_seed(0)
    model = PyraNet(stacks, JOINTS, features=features, depth=depth, pool_windows="sample")
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = sum(p.numel() for p in model.parameters())
    trained = batch / seconds(training_step(model, size, batch, precision), rounds)
    network = optimize_for_inference(model.eval(), precision)
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last) - 0.5
    with torch.inference_mode():
        predicted = seconds(lambda: network(images), rounds) / batch
    return {"parameters": parameters, "images_per_s": trained, "ms": 1e3 * predicted}


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.rates", description=(__doc__ or "").splitlines()[0])
    for name, default in (("stacks", [2]), ("features", [128]), ("depth", [3]), ("size", [128, 160]), ("batch", [16])):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default, help="(default: %(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    runner.add_isa_flag(parser)
    arguments = cli.parse_arguments(parser, argv)
    if arguments.rounds < 1:
        parser.error(f"--rounds must be a positive integer, got {arguments.rounds}")
    runner.limit_isa(arguments.isa)
    torch.set_num_threads(1)
    body = []
    for case in itertools.product(
        arguments.stacks, arguments.features, arguments.depth, arguments.size, arguments.batch, arguments.precision
    ):
        stacks, features, depth, size, batch, precision = case
        found = rates(*case, arguments.rounds)
        body.append(
            [f"{stacks}", f"{features}", f"{depth}", f"{size}", f"{batch}", precision,
             f"{found['parameters'] / 1e6:.2f} M", f"{found['images_per_s']:.1f}", f"{found['ms']:.1f}"]
        )  # fmt: skip
        print(", ".join(body[-1]), file=sys.stderr, flush=True)
    head = ["stacks", "features", "depth", "px", "batch", "precision", "parameters", "trained, images/s", "ms a person"]
    print("\n".join(report.markdown_table(head, body)))
    print(f"\n{runner.machine('cpu', 1)}; `{runner.command()}`")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
