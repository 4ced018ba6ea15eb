"""LSP and LSP-extended as released, and every way in which a folder can be wrong."""

from __future__ import annotations

import numpy as np
import pytest

from pyranet_fast.data import CropDataset, LSPExtendedSource, LSPSource, open_dataset
from pyranet_fast.errors import UserError
from tests.data.people import lsp_joints, lspet_joints, write_release


@pytest.fixture
def lsp(tmp_path):
    """A release of five images."""
    write_release(tmp_path, "lsp_dataset", lsp_joints(5), 5, 4)
    return tmp_path


@pytest.fixture
def lspet(tmp_path):
    """A release of four images."""
    write_release(tmp_path, "lspet_dataset", lspet_joints(4), 4, 5)
    return tmp_path


def test_lsp_labels(lsp):
    source = LSPSource(lsp, "2-4")
    assert len(source) == 3 and source.metric.key == "pck" and len(source.skeleton) == 14
    assert [source.image_name(i) for i in range(3)] == ["im0002.jpg", "im0003.jpg", "im0004.jpg"]
    someone = source.person(1)
    expected = lsp_joints(5)[:2, :, 2].T - 1  # person 3; pixels from 1 become pixels from 0
    np.testing.assert_allclose(someone.joints, expected, atol=1e-5)
    assert someone.labeled.all()  # occluded joints are labeled
    assert source.image(1).shape == (63, 40, 3)
    np.testing.assert_allclose(someone.center, [19.5, 31.0])
    assert someone.scale == pytest.approx(1.05 * 63 / 200)
    torso = np.linalg.norm(expected[9] - expected[2])
    assert source.reference_length(1) == pytest.approx(torso, rel=1e-5)


def test_lsp_images_are_rgb(lsp):
    import cv2

    red = np.zeros((30, 30, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(lsp / "lsp_dataset" / "images" / "im0001.jpg"), red)
    pixel = LSPSource(lsp, "1-1").image(0)[15, 15].astype(int)
    assert pixel[0] > 200 and pixel[1] < 60 and pixel[2] < 60


def test_lspet_labels(lspet):
    source = LSPExtendedSource(lspet)
    assert len(source) == 4
    someone = source.person(2)
    assert someone.labeled.tolist() == [j != 3 for j in range(14)]
    seen = (lspet_joints(4)[:, :2, 2] - 1)[someone.labeled]
    np.testing.assert_allclose(someone.joints[someone.labeled], seen, atol=1e-5)
    # The unlabeled joint, far away, has no say in where the person is.
    np.testing.assert_allclose(someone.center, (seen.min(0) + seen.max(0)) / 2, atol=1e-4)
    assert 200 * someone.scale < 4 * np.ptp(seen, axis=0).max()
    weight = CropDataset(source, 64, augmentation=None)[2]["weight"]
    assert weight.tolist() == [float(j != 3) for j in range(14)]


def test_lspet_without_torso_has_no_unit(tmp_path):
    joints = lspet_joints(3)
    joints[9, 2, 1] = 0
    write_release(tmp_path, "lspet_dataset", joints, 3, 5)
    source = LSPExtendedSource(tmp_path)
    assert np.isnan(source.reference_length(1)) and source.reference_length(0) > 0


def test_lspet_with_nobody_labeled(tmp_path):
    joints = lspet_joints(3)
    joints[:, 2, 1] = 0
    write_release(tmp_path, "lspet_dataset", joints, 3, 5)
    with pytest.raises(UserError, match=r"im00002\.jpg has no labeled joint"):
        LSPExtendedSource(tmp_path)


def test_an_open_range_goes_to_the_end(lsp):
    assert len(LSPSource(lsp, "3-")) == 3


@pytest.mark.parametrize("images", ["1-6", "0-3", "4-2", "6-"])
def test_ranges_outside(lsp, images):
    with pytest.raises(UserError, match=rf"images '{images}' asks for more than .* images 1 to 5"):
        LSPSource(lsp, images)


@pytest.mark.parametrize("images", ["", "all", "1:3", "-5"])
def test_ranges_that_are_none(lsp, images):
    with pytest.raises(UserError, match="images must be a range such as '1-1000'"):
        LSPSource(lsp, images)


def test_missing_folders(lsp):
    with pytest.raises(UserError, match=r"root folder .*nowhere does not exist"):
        LSPSource(lsp / "nowhere")
    with pytest.raises(UserError, match=r"holds no folder lspet_dataset/$"):
        LSPExtendedSource(lsp)
    with pytest.raises(UserError, match="give the folder above"):
        LSPSource(lsp / "lsp_dataset")
    (lsp / "lsp_dataset" / "images").rename(lsp / "elsewhere")
    with pytest.raises(UserError, match="images does not exist"):
        LSPSource(lsp, "1-")
    (lsp / "lsp_dataset" / "joints.mat").unlink()
    with pytest.raises(UserError, match=r"joints\.mat does not exist"):
        LSPSource(lsp, "1-")


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        (np.zeros((14, 3, 5)), r"shape \(14, 3, 5\) .* \(3, 14, N\)"),
        (np.zeros((3, 16, 5)), r"shape \(3, 16, 5\)"),
        (np.zeros((3, 14)), r"shape \(3, 14\)"),
        (np.zeros((3, 14, 0)), "joints has shape"),
        (np.full((3, 14, 5), np.nan), "not finite"),
        (np.full((3, 14, 5), "x", dtype=object), "type"),
    ],
)
def test_joints_of_the_wrong_shape(tmp_path, joints, message):
    write_release(tmp_path, "lsp_dataset", joints, 5, 4)
    with pytest.raises(UserError, match=message):
        LSPSource(tmp_path, "1-")


def test_lspet_with_the_joints_of_lsp(tmp_path):
    write_release(tmp_path, "lspet_dataset", lsp_joints(3), 3, 5)
    with pytest.raises(UserError, match=r"\(14, 3, N\) are expected here \(LSP's joints.mat is \(3, 14, N\)\)"):
        LSPExtendedSource(tmp_path)


def test_joints_file_that_is_none(lsp):
    from scipy.io import savemat

    path = lsp / "lsp_dataset" / "joints.mat"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"joints\.mat cannot be read"):
        LSPSource(lsp, "1-")
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"joints\.mat cannot be read"):
        LSPSource(lsp, "1-")
    savemat(path, {"points": np.zeros(3)})
    with pytest.raises(UserError, match="no variable 'joints'; it holds points"):
        LSPSource(lsp, "1-")


def test_images_and_joints_of_different_number(lsp):
    images = lsp / "lsp_dataset" / "images"
    (images / "Thumbs.db").write_bytes(b"no image, and not counted")
    assert len(LSPSource(lsp, "1-")) == 5
    data = (images / "im0001.jpg").read_bytes()
    (images / "im0006.jpg").write_bytes(data)
    with pytest.raises(UserError, match=r"has 6 images, but joints\.mat has 5 people$"):
        LSPSource(lsp, "1-")
    (images / "im0006.jpg").unlink()
    (images / "im0003.jpg").unlink()
    with pytest.raises(UserError, match=r"has 4 images, .* 5 people; the first one missing is number 3"):
        LSPSource(lsp, "1-")


def test_names_of_other_releases(lsp):
    images = lsp / "lsp_dataset" / "images"
    (images / "im0002.jpg").rename(images / "im00002.JPG")
    assert LSPSource(lsp, "1-").image_name(1) == "im00002.JPG"


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "truncated"])
def test_damaged_images_are_named(lsp, content):
    path = lsp / "lsp_dataset" / "images" / "im0003.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    source = LSPSource(lsp, "1-")
    with pytest.raises(UserError, match=r"im0003\.jpg"):
        source.image(2)
    skipping = CropDataset(source, 64, augmentation=None, on_error="skip")
    assert [skipping[i]["valid"] for i in range(5)] == [True, True, False, True, True]


class TestOpenDataset:
    """Names that commands take."""

    def test_unknown(self, lsp):
        with pytest.raises(UserError, match=r"unknown dataset 'coco'; there are demo, lsp"):
            open_dataset("coco", lsp, "train")
        with pytest.raises(UserError, match=r"unknown split 'trian'; there are train, val, test"):
            open_dataset("lsp", lsp, "trian")
        with pytest.raises(UserError, match="needs a root"):
            open_dataset("lsp", None, "train")

    def test_too_few_images(self, lsp):
        with pytest.raises(UserError, match=r"'1-1000' asks for more than .* images 1 to 5"):
            open_dataset("lsp", lsp, "train")
        with pytest.raises(UserError, match="'1001-' asks for more than"):
            open_dataset("lsp", lsp, "val")

    def test_demo(self):
        train, val, test = (open_dataset("demo", None, split) for split in ("train", "val", "test"))
        assert (len(train), len(val), len(test)) == (4096, 512, 512)
        assert len(open_dataset("demo", None, "train", count=7)) == 7
        assert not np.array_equal(val.person(0).joints, test.person(0).joints)

    def test_real(self, data_root):
        for folder in ("lsp_dataset", "lspet_dataset"):
            if not (data_root / folder).is_dir():
                pytest.skip(f"no {folder}")
        train = open_dataset("lsp+lspet", data_root, "train")
        test = open_dataset("lsp", data_root, "test")
        assert len(train) == 11000 and len(open_dataset("lsp", data_root, "train")) == 1000
        assert len(test) in (500, 1000) and test.image_name(0) == "im1001.jpg"
        assert train.image_name(999) == "im1000.jpg" and train.image_name(1000) == "im00001.jpg"
        # Joints lie in the crop, and people of both sets have the same size in it.
        fills = []
        for index in [*range(0, 1000, 20), *range(1000, 11000, 200)]:
            sample = CropDataset(train, 64, augmentation=None)[index]
            seen = sample["weight"] > 0
            assert seen.sum() >= train.person(index).labeled.sum() - 1
            fills.append(np.ptp(sample["joints"][seen].numpy(), axis=0).max() / 16)
        lsp, lspet = np.median(fills[:50]), np.median(fills[50:])
        assert lsp == pytest.approx(0.756 / 1.05, abs=0.05) and lspet == pytest.approx(lsp, abs=0.06)
