"""Joint orders and mirror pairs mean what the data sets mean."""

from __future__ import annotations

import json

import pytest

from pyranet_fast.errors import UserError
from pyranet_fast.keypoints import flip_pairs_from_names, side_of, sides_of, split_side
from pyranet_fast.pose import LSP, MPII, SKELETONS, Skeleton, resolve_skeleton


@pytest.mark.parametrize("skeleton", [MPII, LSP], ids=lambda s: s.name)
def test_mirroring_swaps_left_and_right_and_nothing_else(skeleton):
    for joint, mirrored in zip(skeleton.joints, skeleton.flip_permutation, strict=True):
        swapped = {"right": "left", "left": "right"}
        words = [swapped.get(word, word) for word in joint.split()]
        assert skeleton.joints[mirrored] == " ".join(words)


@pytest.mark.parametrize("skeleton", [MPII, LSP], ids=lambda s: s.name)
def test_bones_connect_every_joint_and_are_symmetric(skeleton):
    reached = {0}
    for _ in skeleton.bones:
        reached |= {j for bone in skeleton.bones if reached & set(bone) for j in bone}
    assert reached == set(range(len(skeleton)))
    order = skeleton.flip_permutation
    bones = {frozenset(bone) for bone in skeleton.bones}
    assert {frozenset(order[j] for j in bone) for bone in skeleton.bones} == bones


def test_orders_are_the_published_ones():
    assert len(MPII) == 16 and len(LSP) == 14
    assert [MPII.joints[i] for i in (0, 6, 9, 10, 15)] == [
        "right ankle",
        "pelvis",
        "head top",
        "right wrist",
        "left wrist",
    ]
    assert [LSP.joints[i] for i in (0, 6, 11, 12, 13)] == [
        "right ankle",
        "right wrist",
        "left wrist",
        "neck",
        "head top",
    ]
    assert SKELETONS["mpii"] is MPII and SKELETONS["lsp"] is LSP


def test_index_finds_a_joint_or_lists_them():
    assert LSP.index("neck") == 12
    with pytest.raises(ValueError, match="no joint 'nose'; it has right ankle"):
        LSP.index("nose")


def test_wrong_pairs_are_refused():
    with pytest.raises(ValueError, match=r"name joint 7; indices must lie in 0\.\.1"):
        Skeleton("two", ("a", "b"), (), ((0, 7),))
    with pytest.raises(ValueError, match="two flip_pairs"):
        Skeleton("three", ("a", "b", "c"), ((0, 1), (1, 2)), ())


DOG = Skeleton("dog", ("nose", "left ear", "right ear"), ((1, 2),), ((0, 1), (0, 2)))


@pytest.mark.parametrize("skeleton", [MPII, LSP, DOG], ids=lambda s: s.name)
def test_skeletons_go_through_plain_values_and_back(skeleton):
    value = json.loads(json.dumps(skeleton.as_dict()))
    assert resolve_skeleton(value) == skeleton and resolve_skeleton(skeleton) is skeleton
    assert resolve_skeleton(skeleton.as_value()) == skeleton


def test_built_in_skeletons_are_kept_by_name_and_others_whole():
    assert MPII.as_value() == "mpii" and resolve_skeleton("mpii") is MPII
    assert DOG.as_value() == DOG.as_dict()
    other = Skeleton("mpii", DOG.joints, (), ())  # the same name does not make it the same
    assert resolve_skeleton(other.as_value()) == other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joints": None}, "joints must be a list of names, got None"),
        ({"joints": []}, "a list of names"),
        ({"joints": ["a", 3]}, "a list of names"),
        ({"joints": ["a", "a", "b"]}, "two joints are called 'a'"),
        ({"name": 3}, "name must be a string, got 3"),
        ({"bones": [[0, 1, 2]]}, "bones must be a list of pairs of joint indices"),
        ({"bones": [[0, 1.0]]}, "a list of pairs of joint indices"),
        ({"bones": 3}, "a list of pairs of joint indices"),
        ({"flip_pairs": [[1, 5]]}, "name joint 5"),
        ({"flip_pairs": [[0, 1], [1, 2]]}, "two flip_pairs"),
        (
            {"color": "red"},
            "must have the fields name, joints, flip_pairs, bones, got name, joints, flip_pairs, bones, color",
        ),
    ],
)
def test_dictionaries_that_are_no_skeleton(change, message):
    with pytest.raises(UserError, match=message):
        resolve_skeleton({**DOG.as_dict(), **change})


@pytest.mark.parametrize("value", ["hand", None, 3, ["mpii"]])
def test_other_values_are_no_skeleton(value):
    with pytest.raises(UserError, match="is not known; expected mpii, lsp or a dictionary"):
        resolve_skeleton(value)


# Naming schemes that are in use: their joints, and the pairs as two lists, the left joints and the right ones.
SCHEMES = {
    "COCO": (
        "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
        "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle",
        "left_eye left_ear left_shoulder left_elbow left_wrist left_hip left_knee left_ankle",
        "right_eye right_ear right_shoulder right_elbow right_wrist right_hip right_knee right_ankle",
    ),
    "COCO-WholeBody": (
        "nose left_eye right_eye left_big_toe left_small_toe left_heel right_big_toe right_small_toe right_heel face-0 "
        "face-1 face-16 left_hand_root left_thumb1 left_thumb2 left_pinky_finger4 right_hand_root right_thumb1 "
        "right_thumb2 right_pinky_finger4",
        "left_eye left_big_toe left_small_toe left_heel left_hand_root left_thumb1 left_thumb2 left_pinky_finger4",
        "right_eye right_big_toe right_small_toe right_heel right_hand_root right_thumb1 right_thumb2 "
        "right_pinky_finger4",
    ),
    "AP-10K": (
        "L_Eye R_Eye Nose Neck Root_of_tail L_Shoulder L_Elbow L_F_Paw R_Shoulder R_Elbow R_F_Paw L_Hip L_Knee L_B_Paw "
        "R_Hip R_Knee R_B_Paw",
        "L_Eye L_Shoulder L_Elbow L_F_Paw L_Hip L_Knee L_B_Paw",
        "R_Eye R_Shoulder R_Elbow R_F_Paw R_Hip R_Knee R_B_Paw",
    ),
    "AnimalPose": (
        "L_Eye R_Eye L_EarBase R_EarBase Nose Throat TailBase Withers L_F_Elbow R_F_Elbow L_B_Elbow R_B_Elbow L_F_Knee "
        "R_F_Knee L_B_Paw R_B_Paw",
        "L_Eye L_EarBase L_F_Elbow L_B_Elbow L_F_Knee L_B_Paw",
        "R_Eye R_EarBase R_F_Elbow R_B_Elbow R_F_Knee R_B_Paw",
    ),
    "Animal Kingdom": (
        "Head_Mid_Top Eye_Left Eye_Right Mouth_Front_Top Mouth_Back_Left Mouth_Back_Right Mouth_Front_Bottom "
        "Shoulder_Left Shoulder_Right Torso_Mid_Back Hip_Left Hip_Right Tail_Top_Back Tail_End_Back",
        "Eye_Left Mouth_Back_Left Shoulder_Left Hip_Left",
        "Eye_Right Mouth_Back_Right Shoulder_Right Hip_Right",
    ),
    "DeepLabCut": (
        "snout leftear rightear tailbase bodypart_left1 bodypart_left2 bodypart_right1 bodypart_right2 frontleftpaw "
        "frontrightpaw eyeleft eyeright",
        "leftear bodypart_left1 bodypart_left2 frontleftpaw eyeleft",
        "rightear bodypart_right1 bodypart_right2 frontrightpaw eyeright",
    ),
    "Horse-10": ("Nose Eye Nearknee Nearfrontfetlock Offknee Offfrontfetlock Wither Ischium Stifle Elbow", "", ""),
    "vinegar fly": (
        "head eyeL eyeR neck thorax abdomen forelegR1 forelegR2 midlegR1 hindlegR3 forelegL1 forelegL2 midlegL1 "
        "hindlegL3 wingL wingR",
        "eyeL forelegL1 forelegL2 midlegL1 hindlegL3 wingL",
        "eyeR forelegR1 forelegR2 midlegR1 hindlegR3 wingR",
    ),
    "locust": (
        "head neck thorax abdomen1 abdomen2 anttipL antbaseL eyeL pleg1L pleg2L anttipR antbaseR eyeR pleg1R pleg2R",
        "anttipL antbaseL eyeL pleg1L pleg2L",
        "anttipR antbaseR eyeR pleg1R pleg2R",
    ),
    "zebra": (
        "snout head neck forelegL1 forelegR1 hindlegL1 hindlegR1 hoofL hoofR tailbase tailtip",
        "forelegL1 hindlegL1 hoofL",
        "forelegR1 hindlegR1 hoofR",
    ),
    "H36M": (
        "Pelvis RHip RKnee RFoot LHip LKnee LFoot Spine Thorax Nose Head LShoulder LElbow LWrist RShoulder RElbow "
        "RWrist",
        "LHip LKnee LFoot LShoulder LElbow LWrist",
        "RHip RKnee RFoot RShoulder RElbow RWrist",
    ),
    "OpenPose BODY_25": (
        "Nose Neck RShoulder RElbow LShoulder LElbow MidHip RHip LHip REye LEye REar LEar LBigToe LSmallToe LHeel "
        "RBigToe RSmallToe RHeel",
        "LShoulder LElbow LHip LEye LEar LBigToe LSmallToe LHeel",
        "RShoulder RElbow RHip REye REar RBigToe RSmallToe RHeel",
    ),
    "MPII short": (
        "rank rkne rhip lhip lkne lank pelv thrx neck head rwri relb rsho lsho lelb lwri",
        "lank lkne lhip lwri lelb lsho",
        "rank rkne rhip rwri relb rsho",
    ),
    "CrowdPose": (
        "left_shoulder right_shoulder left_elbow right_elbow top_head neck",
        "left_shoulder left_elbow",
        "right_shoulder right_elbow",
    ),
    "JRDB": (
        "head|right eye|left eye|right shoulder|center shoulder|left shoulder|center hip|right foot|left foot",
        "left eye|left shoulder|left foot",
        "right eye|right shoulder|right foot",
    ),
    "InterHand": (
        "r_thumb4 r_thumb3 r_index4 r_wrist l_thumb4 l_thumb3 l_index4 l_wrist",
        "l_thumb4 l_thumb3 l_index4 l_wrist",
        "r_thumb4 r_thumb3 r_index4 r_wrist",
    ),
    "ATRW": (
        "left_ear right_ear nose right_shoulder right_front_paw left_shoulder left_front_paw right_hip right_back_paw "
        "left_hip left_back_paw root_of_tail center",
        "left_ear left_shoulder left_front_paw left_hip left_back_paw",
        "right_ear right_shoulder right_front_paw right_hip right_back_paw",
    ),
    "SMPL": (
        "Pelvis L_Hip R_Hip Spine1 L_Knee R_Knee L_Ankle R_Ankle Spine3 L_Foot R_Foot Neck L_Collar R_Collar Head",
        "L_Hip L_Knee L_Ankle L_Foot L_Collar",
        "R_Hip R_Knee R_Ankle R_Foot R_Collar",
    ),
    "Vicon Plug-in Gait": (
        "LFHD RFHD LBHD RBHD C7 T10 CLAV STRN RBAK LSHO LELB LWRA LWRB RSHO RELB RWRA RWRB LASI RASI LPSI RPSI LTHI "
        "RTHI LHEE RHEE",
        "LFHD LBHD LSHO LELB LWRA LWRB LASI LPSI LTHI LHEE",
        "RFHD RBHD RSHO RELB RWRA RWRB RASI RPSI RTHI RHEE",
    ),
    "DeepFashion": (
        "left_collar right_collar left_sleeve right_sleeve left_hem right_hem",
        "left_collar left_sleeve left_hem",
        "right_collar right_sleeve right_hem",
    ),
    "cars": (
        "left_front_wheel left_back_wheel right_front_wheel right_back_wheel upper_left_windshield "
        "upper_right_windshield FL_light FR_light RL_light RR_light",
        "left_front_wheel left_back_wheel upper_left_windshield FL_light RL_light",
        "right_front_wheel right_back_wheel upper_right_windshield FR_light RR_light",
    ),
    "camel case": (
        "nose leftEyeInner rightEyeInner LeftHandThumb1 RightHandThumb1 mixamorig:LeftArm mixamorig:RightArm",
        "leftEyeInner LeftHandThumb1 mixamorig:LeftArm",
        "rightEyeInner RightHandThumb1 mixamorig:RightArm",
    ),
    "pose editors": (
        "hand-l-2 hand-r-2 eye.L eye.R mid_L_toe_3 mid_R_toe_3 front_left_paw front_right_paw lt.knee rt.knee",
        "hand-l-2 eye.L mid_L_toe_3 front_left_paw lt.knee",
        "hand-r-2 eye.R mid_R_toe_3 front_right_paw rt.knee",
    ),
    "not written alike": (
        "LFoot|Rfoot|left_ear|Right-Ear|eye left|RIGHT eye",
        "LFoot|left_ear|eye left",
        "Rfoot|Right-Ear|RIGHT eye",
    ),
    "corners of eyes": (
        "left_eye_left_corner left_eye_right_corner right_eye_left_corner right_eye_right_corner",
        "left_eye_left_corner left_eye_right_corner",
        "right_eye_right_corner right_eye_left_corner",
    ),
    "no sides": (
        "lip L1 L2 L3 L4 L5 heel kneel Tail T1 upper_neck collar lateral bright upright ear shoulder RBAK l R_tail",
        "",
        "",
    ),
}


def names_of(text):
    return text.split("|") if "|" in text else text.split()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pairs_of_known_naming_schemes(scheme):
    text, left, right = SCHEMES[scheme]
    joints, left, right = names_of(text), names_of(left), names_of(right)
    expected = [(joints.index(a), joints.index(b)) for a, b in zip(left, right, strict=True)]
    pairs, unpaired = flip_pairs_from_names(joints)
    assert pairs == sorted((min(pair), max(pair)) for pair in expected) and unpaired == []
    sides = Skeleton(scheme, tuple(joints), tuple(pairs), ()).sides
    assert [found.side for found in sides_of(joints)] == list(sides)
    assert {joint for joint, side in zip(joints, sides, strict=True) if side == "left"} == set(left)
    assert {joint for joint, side in zip(joints, sides, strict=True) if side == "right"} == set(right)


@pytest.mark.parametrize(
    ("name", "beside", "side", "bare"),
    [
        ("left_ear", "", "left", "ear"),
        ("Left Ear", "", "left", "ear"),
        ("rightEar", "", "right", "ear"),
        ("RightEar", "", "right", "ear"),
        ("ear-left", "", "left", "ear"),
        ("front_left_paw", "", "left", "front paw"),
        ("lefteye", "", "left", "eye"),
        ("eyeleft", "", "left", "eye"),
        ("left", "", "left", ""),
        ("right ankle", "", "right", "ankle"),
        ("EAR_R", "EAR_L", "right", "ear"),
        ("l_big_toe", "r_big_toe", "left", "big toe"),
        ("LElbow", "RElbow", "left", "elbow"),
        ("elbow.R", "elbow.L", "right", "elbow"),
        ("forelegL1", "forelegR1", "left", "foreleg 1"),
        ("lsho", "rsho", "left", "sho"),
        ("flpaw", "frpaw", "left", "f paw"),
        ("EAR_R", "", "center", "ear r"),
        ("LElbow", "", "center", "l elbow"),
        ("LElbow", "RKnee", "center", "l elbow"),
        ("L1", "L2", "center", "l 1"),
        ("nose", "", "center", "nose"),
        ("lip", "", "center", "lip"),
        ("upright", "", "center", "upright"),
        ("upper neck", "", "center", "upper neck"),
        ("R", "", "center", "r"),
        ("膝", "", "center", "膝"),
        ("  ", "", "center", ""),
    ],
)
def test_sides_in_names(name, beside, side, bare):
    assert split_side(name, [beside]) == (side, bare) and side_of(name, [beside]) == side
    if beside and side != "center":
        assert split_side(beside, [name]) == ({"left": "right", "right": "left"}[side], bare)


def test_flip_pairs_from_names():
    assert flip_pairs_from_names(["nose", "left_ear", "right_ear", "tail"]) == ([(1, 2)], [])
    assert flip_pairs_from_names(["rsho", "lip", "lsho"]) == ([(0, 2)], [])
    assert flip_pairs_from_names(["a", "b"]) == ([], [])
    assert flip_pairs_from_names([]) == ([], [])
    assert flip_pairs_from_names(["left_ear", "nose"]) == ([], ["left_ear"])
    assert flip_pairs_from_names(["L_ear", "nose"]) == ([], [])
    assert flip_pairs_from_names(["tail", "R_eye", "left_ear", "right_ear", "L_eye"]) == ([(1, 4), (2, 3)], [])
    assert flip_pairs_from_names(MPII.joints)[0] == sorted(MPII.flip_pairs)


@pytest.mark.parametrize(
    ("joints", "pairs", "unpaired"),
    [
        (["left_ear", "ear left", "right_ear"], [(0, 2)], ["ear left"]),  # spelled the same way, so no guess
        (["ear left", "left_ear", "right_ear"], [(1, 2)], ["ear left"]),
        (["L_ear", "l_ear", "R_ear"], [(0, 2)], ["l_ear"]),
        (["left_ear", "Left.Ear", "RightEar"], [], ["left_ear", "Left.Ear", "RightEar"]),
        (["left_front_paw", "front_left_paw", "front_right_paw"], [(1, 2)], ["left_front_paw"]),
        (["ll", "lr", "rl", "rr"], [], ["ll", "lr", "rl", "rr"]),
    ],
)
def test_two_joints_for_one_place_are_named_and_not_guessed(joints, pairs, unpaired):
    assert flip_pairs_from_names(joints) == (pairs, unpaired)


@pytest.mark.parametrize(
    ("joints", "pairs", "sides"),
    [
        (("right a", "left b", "c"), ((0, 1),), "right left center"),
        (("fin 1", "fin 2", "tail"), ((0, 1),), "left right center"),  # the first is left
        (("fin 1", "fin 2", "tail"), ((1, 0),), "right left center"),
        (("paw", "right hoof"), ((0, 1),), "left right"),  # one name tells both
        (("right paw", "hoof"), ((1, 0),), "right left"),
        (("left a", "left b"), ((0, 1),), "left right"),
        (("r_fin", "l_wing"), ((0, 1),), "right left"),
        (("L1", "R1", "left x"), (), "center center left"),  # letters are sides of pairs only
        (("L_a", "R_a", "L_b", "R_b"), ((0, 3), (2, 1)), "left right left right"),
    ],
)
def test_given_pairs_decide_and_names_say_which_is_left(joints, pairs, sides):
    assert Skeleton("given", joints, pairs, ()).sides == tuple(sides.split())


def test_pairs_in_words():
    assert DOG.mirroring == "mirror pairs: left ear/right ear; on their own: nose"
    assert Skeleton("a", ("x", "y"), (), ()).mirroring == "mirror pairs: none; on their own: x, y"
    assert Skeleton("a", ("x", "y"), ((0, 1),), ()).mirroring == "mirror pairs: x/y"


def test_any_skeleton_can_be_drawn():
    import numpy as np

    from pyranet_fast.visualization import draw_pose

    image = np.full((100, 100, 3), 128, np.uint8)
    joints = [[50, 20], [80, 80], [20, 80]]
    drawn = draw_pose(image, joints, None, DOG, long_side=None).astype(int)
    assert drawn[80, 80, 2] > drawn[80, 80, 0] + 50 and drawn[80, 20, 0] > drawn[80, 20, 2] + 50
    odd = Skeleton("odd", (" ", "膝"), (), ())
    assert draw_pose(image, joints[:2], None, odd).std() > 0
