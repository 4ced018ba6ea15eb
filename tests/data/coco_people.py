"""A few dogs in COCO's keypoint format."""

from __future__ import annotations

import json

import cv2
import numpy as np

from tests.data.people import smooth_image

DOG = {"id": 7, "name": "dog", "keypoints": ["nose", "left_ear", "right_ear", "tail"], "skeleton": [[1, 2], [1, 3]]}


def dogs(count: int = 12, category: dict = DOG) -> dict:
    """One dog in each of ``count`` images; the second one's tail is not labeled."""
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(count):
        keypoints = np.column_stack([rng.integers(20, 60, (4, 2)), rng.integers(1, 3, 4)])
        if number == 1:
            keypoints[3] = 0
        annotations.append(
            {
                "id": 100 + number,
                "image_id": number,
                "category_id": category["id"],
                "bbox": [10, 15, 60.0, 50.5],
                "keypoints": keypoints.ravel().tolist(),
                "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                "iscrowd": 0,
            }
        )
    images = [{"id": n, "file_name": f"pack/{n:03d}.jpg", "width": 100, "height": 80} for n in range(count)]
    return {"images": images, "annotations": annotations, "categories": [category]}


def write(root, content, name="dogs.json", images="images"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))
    for number, image in enumerate(content["images"]):
        path = root / images / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), smooth_image(80, 100, number))
    return root


def changed(root, path: str, value: object):
    """Write the file with one value changed; ``path`` is such as ``annotations.2.bbox``."""
    content = json.loads((root / "dogs.json").read_text())
    *steps, last = path.split(".")
    place = content
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    (root / "dogs.json").write_text(json.dumps(content))
