"""The same few people in every form that MPII's annotations come in."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
from scipy.io import savemat

from tests.data.people import smooth_image


def raw_people(count: int = 6) -> list[dict]:
    """Raw annotations, pixels from 1; person 2 lacks its knees, person 3 its head top."""
    rng = np.random.default_rng(5)
    people = []
    for number in range(count):
        joints = np.column_stack([rng.integers(5, 95, (16, 2)), rng.integers(0, 2, 16)]).astype(float)
        if number == 2:
            joints[[1, 4]] = 0
        if number == 3:
            joints[9] = 0
        people.append(
            {
                "img_paths": f"{number:09d}.jpg",
                "isValidation": float(number % 2),
                "objpos": [40.0 + number, 50.0],
                "scale_provided": 0.4 + number / 10,
                "joint_self": joints.tolist(),
            }
        )
    return people


def heads_of(people: list[dict]) -> np.ndarray:
    """Head boxes (N, 2, 2), two corners, such that upper neck to head top is 0.8 of the diagonal."""
    boxes = []
    for person in people:
        joints = np.array(person["joint_self"])
        span = np.linalg.norm(joints[8, :2] - joints[9, :2])
        corner = joints[9, :2]
        boxes.append([corner, corner + np.array([0.75, 1.0]) * span])
    return np.array(boxes)


def split_of(people: list[dict], split: str) -> list[dict]:
    return [p for p in people if bool(p["isValidation"]) == (split == "val")]


def write_images(root: Path, people: list[dict]) -> Path:
    folder = root / "mpii"
    (folder / "images").mkdir(parents=True)
    for person in people:
        assert cv2.imwrite(str(folder / "images" / person["img_paths"]), smooth_image(100, 100))
    return folder


def write_json(folder: Path, people: list[dict], name: str = "mpii_annotations.json") -> None:
    (folder / name).write_text(json.dumps(people))


def write_hdf5(folder: Path, people: list[dict], split: str, **change: object) -> None:
    people = split_of(people, split)
    scale = np.array([p["scale_provided"] for p in people])
    center = np.array([p["objpos"] for p in people])
    center[:, 1] += 15 * scale
    joints = np.array([p["joint_self"] for p in people])
    boxes = heads_of(people)
    content = {
        "imgname": np.array([p["img_paths"].encode() for p in people]),
        "part": np.trunc(joints[..., :2]),
        "visible": joints[..., 2],
        "center": center,
        "scale": 1.25 * scale,
        "normalize": 0.6 * np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=1),
        **change,
    }
    with h5py.File(folder / ("train.h5" if split == "train" else "valid.h5"), "w") as file:
        for name, value in content.items():
            if value is not None:
                file[name] = value


def write_detections(folder: Path, people: list[dict], boxes: np.ndarray | None = None) -> None:
    people = split_of(people, "val")
    joints = np.array([p["joint_self"] for p in people])[..., :2]
    boxes = heads_of(people) if boxes is None else boxes
    content = {"headboxes_src": boxes.transpose(1, 2, 0), "pos_gt_src": joints.transpose(1, 2, 0)}
    savemat(folder / "detections_our_format.mat", content)


def struct_array(items: list[dict]) -> np.ndarray:
    """A MATLAB struct array."""
    names = list(dict.fromkeys(key for item in items for key in item))
    array = np.empty((1, len(items)), dtype=[(name, object) for name in names])
    for index, item in enumerate(items):
        array[0, index] = tuple(item.get(name, np.empty((0, 0))) for name in names)
    return array


def rect_of(person: dict, box: np.ndarray) -> dict:
    """An annorect element; is_visible is empty, a number or a character, as in the release."""
    points = [
        {"x": x, "y": y, "id": joint, "is_visible": (np.empty((0, 0)), int(seen), str(int(seen)))[joint % 3]}
        for joint, (x, y, seen) in enumerate(person["joint_self"])
        if x > 0
    ]
    return {
        "x1": box[0, 0], "y1": box[0, 1], "x2": box[1, 0], "y2": box[1, 1],
        "scale": person["scale_provided"],
        "objpos": {"x": person["objpos"][0], "y": person["objpos"][1]},
        "annopoints": {"point": struct_array(points)},
    }  # fmt: skip


def write_matlab(folder: Path, people: list[dict], *, single: bool = True, extra: tuple[dict, ...] = ()) -> None:
    """The official file: one image a person, then a test image, one with no annorect at all, and ``extra`` ones."""
    images, public, apart = [], [], []
    for person, box in zip(people, heads_of(people), strict=True):
        rects = [rect_of(person, box)]
        if person is people[0]:  # somebody overlapped, and somebody without joints
            rects += [rects[0], {**rects[0], "annopoints": np.empty((0, 0))}]
        images.append({"image": {"name": person["img_paths"]}, "annorect": struct_array(rects)})
        public.append(1)
        apart.append(np.array([[1], [3]]) if person is people[0] else 1)
    nobody = struct_array([{"scale": 1.0, "objpos": {"x": 1, "y": 2}}])
    images.append({"image": {"name": "test.jpg"}, "annorect": nobody})
    images.append({"image": {"name": "empty.jpg"}, "annorect": np.empty((0, 0))})
    public += [0, 1]
    apart += [1, np.empty((0, 0))]
    for image in extra:
        images.append(image)
        public.append(1)
        apart.append(1)
    cells = np.empty((len(apart), 1), dtype=object)
    for index, value in enumerate(apart):
        cells[index, 0] = value
    release = {"annolist": struct_array(images), "img_train": np.array(public)}
    if single:
        release["single_person"] = cells
    savemat(folder / "mpii_human_pose_v1_u12_1.mat", {"RELEASE": release})
