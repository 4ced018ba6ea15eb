"""Train on your own joints: pens with a tip, a middle and an end.

python own_joints.py FOLDER [FLAGS of pyranet_fast.train]

Labels are one file in COCO's keypoint format (docs/data.md). This example generates both images and labels.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

import pyranet_fast as pf
from pyranet_fast import train

folder = Path(sys.argv[1])
(folder / "images").mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(0)


def make_labels(name: str, count: int) -> Path:
    """Draw pens on noise, and write where their joints are."""
    images, annotations = [], []
    for number in range(count):
        picture = rng.integers(60, 120, (96, 96, 3), dtype=np.uint8)
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(24, 36)
        middle = rng.uniform(40, 56, 2)
        half = length * np.array([np.cos(angle), np.sin(angle)])
        tip, end = middle + half, middle - half
        cv2.line(picture, *(tuple(map(int, point)) for point in (tip, end)), (230, 230, 230), 4)
        cv2.circle(picture, tuple(map(int, tip)), 4, (40, 40, 250), -1)
        file = f"{name}_{number:03d}.png"
        cv2.imwrite(str(folder / "images" / file), picture)
        low, high = np.minimum(tip, end) - 4, np.maximum(tip, end) + 4
        keypoints = [value for point in (tip, middle, end) for value in (*point.tolist(), 2)]
        images.append({"id": number, "file_name": file, "width": 96, "height": 96})
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "keypoints": keypoints, "num_keypoints": 3,
             "bbox": [*low.tolist(), *(high - low).tolist()]}
        )  # fmt: skip
    category = {"id": 1, "name": "pen", "keypoints": ["tip", "middle", "end"], "skeleton": [[1, 2], [2, 3]]}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return path


labels = make_labels("train", 96), make_labels("val", 16)
train.main([
    "--dataset", f"coco:{labels[0]},{labels[1]}", "--root", str(folder), "--output", str(folder / "output"),
    "--stacks", "1", "--features", "32", "--depth", "2", "--input-size", "64", "--batch-size", "16", "--epochs", "6",
    "--lr", "2.5e-3", "--schedule", "cosine", *sys.argv[2:],
])  # fmt: skip

pose = pf.Predictor(folder / "output" / "last.pt", search=False)(folder / "images" / "val_000.png")
print({name: joint.round(1).tolist() for name, joint in zip(("tip", "middle", "end"), pose.joints, strict=True)})
