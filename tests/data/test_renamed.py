"""Names of the release before still work, with a warning; importing the data layer stays cheap."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pyranet_fast as pf
from pyranet_fast import data
from pyranet_fast.data import Augmentation, Person, crop_matrix
from pyranet_fast.errors import renamed

JOINTS, LABELED = np.zeros((2, 2), np.float32), np.array([True, False])
CENTER = np.array([3, 4], np.float32)


def old_person() -> Person:
    with pytest.warns(DeprecationWarning) as caught:
        person = Person(joints=JOINTS, labelled=LABELED, centre=CENTER, scale=1.0)  # type: ignore[call-arg]
    assert sorted(str(warning.message).split(";")[0] for warning in caught) == [
        "argument 'centre' of Person is now 'center'",
        "argument 'labelled' of Person is now 'labeled'",
    ]
    assert all(warning.filename == __file__ for warning in caught)
    return person


def test_a_function() -> None:
    with pytest.warns(DeprecationWarning, match=r"data\.normalise is now pyranet_fast\.data\.normalize"):
        from pyranet_fast.data import normalise
    assert normalise is data.normalize
    assert normalise(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)).shape == (1, 3, 2, 2)
    with pytest.raises(AttributeError, match="no attribute 'denormalise'"):
        data.denormalise  # noqa: B018


def test_arguments_and_attributes_of_a_person() -> None:
    person = old_person()
    assert person.labeled is LABELED and person.center is CENTER
    with pytest.warns(DeprecationWarning, match=r"Person\.labelled is now Person\.labeled"):
        assert person.labelled is LABELED  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match=r"Person\.centre is now Person\.center"):
        person.centre = 2 * CENTER  # type: ignore[attr-defined]
    assert person.center.tolist() == [6, 8]
    with pytest.warns(DeprecationWarning, match="'centre'"):
        assert Person(JOINTS, LABELED, centre=CENTER, scale=1.0).center is CENTER  # type: ignore[call-arg]


def test_arguments_and_attributes_of_an_augmentation() -> None:
    with pytest.warns(DeprecationWarning, match="argument 'colour' of Augmentation is now 'color'"):
        augmentation = Augmentation(colour=0.3)  # type: ignore[call-arg]
    assert augmentation == Augmentation(color=0.3)
    with pytest.warns(DeprecationWarning, match=r"Augmentation\.colour is now Augmentation\.color"):
        assert augmentation.colour == 0.3  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match=r"color must lie in .*, got 2"):
        Augmentation(colour=2)  # type: ignore[call-arg]


def test_argument_of_a_function() -> None:
    with pytest.warns(DeprecationWarning, match="argument 'centre' of crop_matrix is now 'center'"):
        matrix = crop_matrix(centre=(5, 6), scale=1.0, rotation=0.0, input_size=64)  # type: ignore[call-arg]
    np.testing.assert_array_equal(matrix, crop_matrix((5, 6), 1.0, 0.0, 64))


def test_both_names_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Person\(\) got both 'center' and 'centre', its old name"):
        Person(JOINTS, LABELED, CENTER, 1.0, centre=CENTER, center=CENTER)  # type: ignore[call-arg,misc]


@pytest.mark.filterwarnings("error")
def test_new_names_do_not_warn() -> None:
    person = Person(joints=JOINTS, labeled=LABELED, center=CENTER, scale=1.0)
    copy = pickle.loads(pickle.dumps(person))
    assert repr(copy) == repr(person) and vars(person).keys() == {"joints", "labeled", "center", "scale"}

    @renamed(before="after")
    def double(after: int) -> int:
        """Twice."""
        return 2 * after

    assert double(2) == double(after=2) == 4 and double.__doc__ == "Twice."


def test_importing_leaves_heavy_packages_alone() -> None:
    code = (
        "import sys, pyranet_fast.data\n"
        "print(*{'scipy', 'h5py', 'matplotlib', 'torchvision'} & {name.partition('.')[0] for name in sys.modules})"
    )
    paths = os.pathsep.join([str(Path(pf.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0 and run.stdout.strip() == "", run.stdout + run.stderr
