"""MPII's annotation files that are none, or hold something else."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from pyranet_fast.data import MPIISource
from pyranet_fast.errors import UserError
from tests.data.mpii_people import raw_people, rect_of, struct_array, write_hdf5, write_images, write_json, write_matlab


@pytest.fixture
def folder(tmp_path):
    """root/mpii with six images and no annotations."""
    return write_images(tmp_path, raw_people())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON or is truncated"),
        (b"{not json", "is not JSON or is truncated"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[]", "must hold at least one person, got an empty list"),
        (b"{}", "must hold a list of people, got dict"),
        (b"[3]", "entry 0 must be an object, got int"),
        (b"[{}]", "entry 0: field 'img_paths' must be an image name, got None"),
    ],
)
def test_json_that_is_none(folder, content, message):
    (folder / "mpii_annotations.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"mpii_annotations\.json.*{message}"):
        MPIISource(folder.parent, "train")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("joint_self", [[1, 2, 3]], r"numbers of shape \(16, 3\)"),
        ("joint_self", [[1, 2], [3]], r"numbers of shape \(16, 3\)"),
        ("objpos", "here", r"must be numbers of shape \(2,\), got 'here'"),
        ("objpos", [None, 3], "numbers of shape"),
        ("scale_provided", float("nan"), "must be finite, got nan"),
        ("scale_provided", 0, "must be above 0, got 0"),
        ("scale_provided", "1.5", "must be a number, got '1.5'"),
        ("isValidation", None, "must be a number, got None"),
    ],
)
def test_json_with_wrong_fields(folder, field, value, message):
    people = raw_people()
    people[4][field] = value
    write_json(folder, people)
    with pytest.raises(UserError, match=rf"entry 4 \(000000004\.jpg\): field '{field}' .*{message}"):
        MPIISource(folder.parent, "train")
    del people[4][field]
    write_json(folder, people)
    with pytest.raises(UserError, match=f"field '{field}' is missing"):
        MPIISource(folder.parent, "train")


def test_a_truncated_gz(folder):
    path = folder / "mpii_annotations.json.gz"
    whole = gzip.compress(json.dumps(raw_people()).encode())
    for content in (whole[: len(whole) // 2], whole[:5], b"no gzip"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"json\.gz cannot be unpacked: it is truncated or not a gzip file"):
            MPIISource(folder.parent, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imgname": None}, "no dataset 'imgname'"),
        ({"part": None}, "no dataset 'part'"),
        ({"part": np.zeros((3, 14, 2))}, r"part must hold numbers of shape .*, got shape \(3, 14, 2\)"),
        ({"center": np.full((3, 2), np.nan)}, "center holds values that are not finite"),
        ({"scale": np.array([1.0, np.nan, 1.0])}, "scale holds values that are not finite"),
        ({"scale": np.array([1.0, 0.0, 1.0])}, r"scale of person 1 \(000000003\.jpg\) must be positive, got 0"),
        ({"scale": np.array([b"a", b"b", b"c"])}, "scale must hold numbers of shape"),
        ({"imgname": np.zeros(3)}, "imgname must hold N names"),
    ],
)
def test_hdf5_with_wrong_content(folder, change, message):
    write_hdf5(folder, raw_people(), "val", **change)
    with pytest.raises(UserError, match=rf"valid\.h5.*{message}"):
        MPIISource(folder.parent, "val")


def test_files_that_are_none(folder):
    from scipy.io import savemat

    write_hdf5(folder, raw_people(), "val")
    whole = (folder / "valid.h5").read_bytes()
    for content in (b"no HDF5", b"", whole[: len(whole) // 2], whole[:-100]):
        (folder / "valid.h5").write_bytes(content)
        with pytest.raises(UserError, match=r"valid\.h5 cannot be read"):
            MPIISource(folder.parent, "val")
    matlab = folder / "mpii_human_pose_v1_u12_1.mat"
    write_matlab(folder, raw_people())
    matlab.write_bytes(matlab.read_bytes()[:400])
    with pytest.raises(UserError, match=r"u12_1\.mat cannot be read"):
        MPIISource(folder.parent, "train")
    savemat(matlab, {"joints": np.zeros(3)})
    with pytest.raises(UserError, match="no struct RELEASE with annolist; it holds joints"):
        MPIISource(folder.parent, "train")
    write_json(folder, raw_people())
    (folder / "detections_our_format.mat").write_bytes(b"no MATLAB")
    with pytest.raises(UserError, match=r"detections_our_format\.mat cannot be read"):
        MPIISource(folder.parent, "val")
    savemat(folder / "detections_our_format.mat", {"headboxes_src": np.zeros((2, 2, 3))})
    with pytest.raises(UserError, match="headboxes_src and pos_gt_src must have shapes"):
        MPIISource(folder.parent, "val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": -1.0}, "scale must be positive, got -1"),
        ({"scale": "big"}, "scale must be a finite number, got 'big'"),
        ({"objpos": {"x": np.nan, "y": 1.0}}, "x must be a finite number, got nan"),
        ({"annopoints": {"point": struct_array([{"x": 5.0, "y": 5.0, "id": 16}])}}, "must be 0 to 15, got 16"),
        ({"annopoints": {"point": struct_array([{"x": 5.0, "y": 5.0}])}}, "lacks x, y or id"),
    ],
)
def test_matlab_with_wrong_values(folder, change, message):
    people = raw_people()
    rect = {**rect_of(people[1], np.zeros((2, 2))), **change}
    image = {"image": {"name": "wrong.jpg"}, "annorect": struct_array([rect])}
    write_matlab(folder, people, extra=(image,))
    with pytest.raises(UserError, match=rf"wrong\.jpg.*person 1.*{message}"):
        MPIISource(folder.parent, "train")
