"""`python -m bench.loading`: how fast people are read, cropped and augmented on one core, and what packing changes.

    python -m bench.loading --root DATA lsp+lspet packed:people.pack

Every data set is timed on the same people, chosen by index; those after the first must hold the people of the first
in its order, and are compared with it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import cv2
import numpy as np

from pyranet_fast import cli
from pyranet_fast.data import Augmentation, CachedSource, CropDataset, Subset, open_dataset
from pyranet_fast.data.dataset import with_images


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.loading", description=__doc__)
    parser.add_argument("datasets", nargs="+", help="as train's --dataset")
    parser.add_argument("--root", default=None)
    parser.add_argument("--split", default="train")
    parser.add_argument("--input-size", type=int, default=256)
    parser.add_argument("--people", type=int, default=500)
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    first, plain = 0.0, []
    for number, name in enumerate(arguments.datasets):
        people = with_images(open_dataset(name, arguments.root, arguments.split))
        chosen = np.random.default_rng(0).permutation(len(people))[: arguments.people]
        people = Subset(people, chosen)
        speed = _speed(people, arguments.input_size)
        first = first or speed
        cached = _speed(
            CachedSource(people, augmentation=Augmentation(), input_size=arguments.input_size, threads=1),
            arguments.input_size,
        )
        print(f"{name}: {speed:.0f} people/s, {speed / first:.2f} of the first; {cached:.0f} from decoded pixels")
        crops = CropDataset(people, arguments.input_size, augmentation=None)
        seen = [crops[index]["image"].numpy().astype(np.float32) for index in range(len(crops))]
        plain = plain or seen
        if number:
            errors = np.array([np.mean(np.square(a - b)) for a, b in zip(seen, plain, strict=True)])
            away = float(np.mean([np.abs(a - b).mean() for a, b in zip(seen, plain, strict=True)]))
            psnr = 10 * np.log10(255**2 / np.maximum(errors, 1e-2))
            print(
                f"  network input beside the first: mean absolute difference {away:.2f} of 255, "
                f"PSNR {np.median(psnr):.1f} dB (median; 5th percentile {np.percentile(psnr, 5):.1f})"
            )
    return 0


def _speed(people: Subset | CachedSource, input_size: int) -> float:
    """People a second, the best of three epochs after one that warms up."""
    crops = CropDataset(people, input_size, augmentation=Augmentation())
    took = []
    for epoch in range(4):
        started = time.perf_counter()
        for index in range(len(crops)):
            crops[(epoch, index)]
        took.append(time.perf_counter() - started)
    return len(crops) / min(took[1:])


if __name__ == "__main__":
    sys.exit(cli.run(main))
