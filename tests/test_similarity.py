"""COCO's object keypoint similarity beside pycocotools, and areas of people by their joints."""

from __future__ import annotations

import numpy as np
import pytest

from pyranet_fast.metrics import keypoint_similarity, oks_sigmas, pose_areas
from pyranet_fast.pose import LSP, MPII


def test_similarity_is_cocos():
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    sigmas = [0.079 if s is None else s for s in oks_sigmas(LSP.joints)]
    truth = rng.uniform(0, 200, (3, 14, 2))
    labeled = rng.random((3, 14)) < 0.7
    found = truth[[2, 0, 1, 0]] + rng.normal(0, 12, (4, 14, 2))
    areas = rng.uniform(3e3, 2e4, 3)

    def entry(number, joints, visible, **more):
        keypoints = np.column_stack([joints, 2 * visible]).ravel().tolist()
        return {"id": number, "image_id": 1, "category_id": 1, "keypoints": keypoints, "iscrowd": 0} | more

    given = coco.COCO()
    given.dataset = {
        "images": [{"id": 1}],
        "categories": [{"id": 1}],
        "annotations": [
            entry(i + 1, truth[i], labeled[i], area=areas[i], bbox=[0, 0, 1, 1], num_keypoints=int(labeled[i].sum()))
            for i in range(3)
        ],
    }
    given.createIndex()
    results = [entry(i, found[i], np.ones(14), score=1 - 0.1 * i) for i in range(4)]
    for result in results:
        del result["id"], result["iscrowd"]
    evaluation = COCOeval(given, given.loadRes(results), "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    evaluation.params.useCats, evaluation.params.imgIds, evaluation.params.catIds = 1, [1], [1]
    evaluation._prepare()
    expected = np.array(evaluation.computeOks(1, 1))
    ours = keypoint_similarity(found, truth, sigmas, areas=areas, labeled=labeled)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_constants_and_areas():
    assert oks_sigmas(LSP.joints)[LSP.joints.index("left wrist")] == 0.062 and None not in oks_sigmas(LSP.joints)
    assert oks_sigmas(MPII.joints)[MPII.joints.index("pelvis")] is None
    joints = np.zeros((2, 14, 2))
    joints[0, 3] = (30, 80)
    np.testing.assert_allclose(pose_areas(joints), [0.53 * (30 + 16) * (80 + 16), 0])
    nobody = np.zeros((2, 14), bool)
    assert keypoint_similarity(joints, joints, [None] * 14, labeled=nobody).tolist() == [[0, 0], [0, 0]]
    assert keypoint_similarity(joints[:1], joints[:1], [None] * 14)[0, 0] == 1
    assert keypoint_similarity(np.empty((0, 14, 2)), joints, [None] * 14).shape == (0, 2)
    with pytest.raises(ValueError, match=r"expected \(N, 13, 2\)"):
        keypoint_similarity(joints, joints, [None] * 13)
