"""Packed files: images that cannot be read, files that are not as written, and other processes."""

from __future__ import annotations

import base64
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch

from pyranet_fast.data import Augmentation, CropDataset, PackedSource, open_dataset, worker_init
from pyranet_fast.data.crops import ScaledCrops
from pyranet_fast.data.packed import PackedFile, write_packed
from pyranet_fast.errors import DataWarning, UserError
from pyranet_fast.keypoints import Skeleton
from tests.data.packed_people import same_labels
from tests.data.people import MemorySource, person, smooth_image

# Two people packed by version 0.1.0, zlib and base 85: the second has labels and no picture.
PACKED_BY_0_1_0 = (
    "c-o~^&2JM&6rasHA5I(*L#igokj+v7m4ewX$4*6+jf#S(goNN!S&^At&n64&-R*cRaDycTmmYd3$3z@a)f0!RQdJ2A2M$QUtwIDY@E_#"
    "Dt&%%4o7iiICNYe>-g$54_j_OaW-ea35TYRT1OR}a0HA(p?J}K$vq`|ms$7NyRuPfEkz{f`kY^<MI(7*`e#xpcWmw11N2KJyDv^||npN"
    "1IYUsJ7O4nCqf}!j48MlP!RHHjW*CsWL*dCRNR-N#<t{H5x>SHG4v+67rf2=`D$IRt(RP@}6%N)w(6orZv1pQKcOO|Odg7yj(l`Mml5r"
    "M8p#R6aSVFkq^svv@0n@3|`J7onon9>g-kBTys*j!#>%38%jn5hY_Ar|O0<RKD70dCWl1Hu@t2Ch#c3J*D4h27;9!kHY;4ND<(Ia#qty"
    ";7H$-U@saS2Y?9s)ZQCdMux(Timolq#km!XB>m)eg$&5NYl)Ij1{tcDU2zCd(c9jhsvD<H!XDsK?^-=wBa`L2}XNcZ-G^<&_-8n=<NU("
    "I>Bw^oYqES<RFZE8<jldFO!x1l4!ZvHVOUrt4@F`d!Tvt^cIJ%#q#IisMNdTjTYE2V(|x#Lp!Rwcy1@WZ8)dKGGJp{*Se53<A1`=<>O("
    "a8{IZ<);jAwr^l)ti?;pM@8WPrz4Nn$*mqmn_FA3G>q;(P$QiK{pu`acU2A}z$NJjFysqCd9p{z#^2I$90BHdLlRkga=gPufctH@r=Z#"
    ";@==qu2y139QdUgE4x%WTapI={N<L~+2<7Z>ij3mYUv=|ayxG&9*um8K{-{u~EZuT0-lPHdj$DMJUG<WB3+c_(AzV|y`|MTF==TtvB^P"
    "@9f$zBbYSxcyV!g|3i^QHWZRN!Ymy@R&yyj59cP2^VKGLkqzvY}7!8OcHty}QbCV?XU6ZhyzymD+mu?bH9}>*hN!_Wk1dMZh{iU_{Ng;"
    "5#rhFfcgKKQuTvm`n~0r^ZK9BO|HFgNF``A2~dA^vK~%M*1pyLXu~WWilu8U(YD2VHi^<=DsaxXR^AXF%lt}Or}Os6QiRO+H_`G>v=Sv"
    "fb<X;2E(EtgTAyNriJEH@CE2@+WrBmJ~{>jF(Gzzci(iPU%i`_H3r+!>wO|sPo#m^wIC+a2b*s|N))J3F%9Oyt>6Bzf4}|1v1cFj;@En"
    "6@vmQw-+n%M-+J_Ls=4tWE!WF@"
)


def test_a_file_of_the_version_before_is_read(tmp_path):
    path = tmp_path / "two.pack"
    path.write_bytes(zlib.decompress(base64.b85decode(PACKED_BY_0_1_0)))
    with pytest.warns(DataWarning, match="two, packed: 1 of 2 people were packed without a picture"):
        people = open_dataset(f"packed:{path}", None, "train")
    assert isinstance(people, PackedSource) and people.name == "two, packed"
    assert len(people) == 2 and people.available() == [0]
    assert people.notes[0] == "a note" and (people.reach, people.detail) == (0.5, 8.0)
    assert people.skeleton == Skeleton("dot", ("left", "right"), ((0, 1),), ((0, 1),))
    assert people.metric.key == "pck-box"
    assert [people.image_name(i) for i in range(2)] == ["0.jpg", "1.jpg"]
    records = [people.record(i) for i in range(2)]
    assert [r.image_id for r in records] == [7, 8] and [r.place for r in records] == [(3, 1), (4, 2)]
    first, second = people.person(0), people.person(1)
    np.testing.assert_allclose(first.joints, [[1.7, 4.1], [6.7, 4.9]], atol=1e-6)
    assert first.labeled.tolist() == [True, True] and first.center.tolist() == [4.5, 4.5] and first.scale == 0.04
    assert people.reference_length(0) == 6.4
    np.testing.assert_allclose(people.to_original(0, first.joints), [[10, 12], [22.5, 14]], atol=1e-6)
    image = people.image(0)
    np.testing.assert_allclose(people.frame(0, image), [-2, -0.4, 16, 12], atol=1e-9)
    assert image.shape == (10, 10, 3) and np.abs(image.mean((0, 1)) - [68, 78, 90]).max() < 3
    np.testing.assert_array_equal(second.joints, np.array([[10, 12], [22.5, 14]], np.float32))
    assert second.labeled.tolist() == [True, False]
    with pytest.raises(UserError, match=r"no picture of 1\.jpg; when packed: image 1\.jpg cannot be read"):
        people.image(1)


class TestUnreadableImages:
    """People without a picture."""

    @staticmethod
    def source():
        images = [smooth_image(90, 80, 1), None, smooth_image(80, 90, 2)]
        return MemorySource(images, [person(seed=seed) for seed in (1, 2, 3)])

    def test_raise(self, tmp_path):
        with pytest.raises(UserError, match=r"^image 1\.jpg cannot be read$"):
            write_packed(tmp_path / "a.pack", {"train": self.source()})
        assert list(tmp_path.iterdir()) == []

    def test_skip(self, tmp_path):
        said = []
        about = write_packed(tmp_path / "a.pack", {"val": self.source()}, on_error="skip", say=said.append)
        assert about["val"]["people"] == 3 and about["val"]["pictures"] == 2
        assert said == [
            "without a picture: 1.jpg: image 1.jpg cannot be read",
            "memory: 1 of 3 people, in 1 picture, is packed without a picture: 1 whose picture cannot be read (1.jpg)",
        ]
        with pytest.warns(DataWarning, match="1 of 3 people were packed without a picture"):
            packed = open_dataset(f"packed:{tmp_path}/a.pack", None, "val")
        assert isinstance(packed, PackedSource) and packed.available() == [0, 2]
        assert packed.failures == {1: "image 1.jpg cannot be read"}
        same_labels(self.source(), packed, 1)  # labels that need no image are there
        with pytest.raises(UserError, match=r"a\.pack has no picture of 1\.jpg; when packed: image 1\.jpg cannot"):
            packed.image(1)
        crops = ScaledCrops(packed, 32, on_error="skip")
        assert [crops[number]["valid"] for number in range(len(crops))] == [True, False, True]

    def test_nobody(self, tmp_path):
        with pytest.raises(UserError, match="no image of the 1 people can be read"):
            write_packed(tmp_path / "a.pack", {"train": MemorySource([None], [person()])}, on_error="skip")

    def test_an_old_file_survives_a_failure(self, tmp_path):
        (tmp_path / "a.pack").write_bytes(b"old")
        with pytest.raises(UserError, match="cannot be read"):
            write_packed(tmp_path / "a.pack", {"train": self.source()})
        assert [p.name for p in tmp_path.iterdir()] == ["a.pack"]
        assert (tmp_path / "a.pack").read_bytes() == b"old"
        with pytest.raises(UserError, match="output must be a file to write, got the folder"):
            write_packed(tmp_path, {"train": self.source()})


def damaged(file, tmp_path, change):
    data = bytearray(file.read_bytes())
    changed = change(data)
    path = tmp_path / "damaged.pack"
    path.write_bytes(data if changed is None else changed)
    return path


def flip(at):
    def change(data):
        data[at] ^= 0xFF

    return change


def version(data):
    data[8:12] = struct.pack("<I", 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: b"",
            r"is no file of packed people: it begins with b''; .*expected a file written by .*data\.pack",
        ),
        (lambda data: b"\x89PNG\r\n\x1a\n" + bytes(100), r"is no file of packed people: it begins with b'.x89PNG"),
        (lambda data: data[:20], "is truncated: it has 20 bytes"),
        (lambda data: data[:-1], r"is truncated: it has \d+ bytes of \d+"),
        (lambda data: data[:200], "is truncated: it has 200 bytes of"),
        (lambda data: data + b"x", "is changed: it has"),
        (version, "has format version 7; this version of pyranet_fast reads up to 1: please upgrade"),
        (flip(50), "is damaged: its header is not as written"),
    ],
    ids=["empty", "foreign", "20 bytes", "a byte less", "header", "a byte more", "version", "header changed"],
)
def test_files_that_are_not_as_written(file, tmp_path, change, message):
    path = damaged(file, tmp_path, change)
    with pytest.raises(UserError, match=message):
        PackedSource(path, "train")


def test_changed_arrays_and_pictures(file, tmp_path):
    header = PackedFile(file).header
    pictures = file.stat().st_size - sum(about["bytes"] for about in header["splits"].values())
    path = damaged(file, tmp_path, flip(pictures - header["pictures_at"] + 5))
    with pytest.raises(UserError, match="its arrays are not as written; pack the people again"):
        PackedSource(path, "val")
    # A picture is checked when it is read: the others can still be used.
    people = PackedSource(damaged(file, tmp_path, flip(pictures + 100)), "train")
    with pytest.raises(UserError, match=r"picture of train-3-000000 is damaged: its bytes are not as written"):
        people.image(0)
    people.image(1)
    assert not CropDataset(people, 64, augmentation=None, on_error="skip")[0]["valid"]


def test_paths_and_splits(file, tmp_path):
    for path, message in ((tmp_path / "none", "does not exist"), (tmp_path, "is no file")):
        with pytest.raises(UserError, match=message):
            open_dataset(f"packed:{path}", None, "train")
    with pytest.raises(UserError, match=r"demo\.pack has no split 'test'; it has train, val$"):
        open_dataset(f"packed:{file}", None, "test")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_processes(file, method):
    dataset = CropDataset(PackedSource(file, "train"), 32, augmentation=Augmentation(), seed=2)
    loader = torch.utils.data.DataLoader(
        dataset, 3, num_workers=1, worker_init_fn=worker_init, multiprocessing_context=method
    )
    images = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(images, torch.stack([dataset[index]["image"] for index in range(len(dataset))]))


def test_a_copy_is_of_the_same_file(demo, tmp_path):
    path = tmp_path / "a.pack"
    write_packed(path, {"train": demo[0]}, input_size=32)
    state = pickle.dumps(PackedSource(path, "train"))
    assert len(state) < 1000
    assert len(pickle.loads(state)) == 6
    write_packed(path, {"train": demo[1]}, input_size=32)
    with pytest.raises(UserError, match=r"a\.pack was replaced while it was in use"):
        pickle.loads(state)
