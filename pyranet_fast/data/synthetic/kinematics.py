"""Poses of an articulated body in three dimensions.

Lengths are in units of the person's height. The body's axes are x to the person's left, y up and z
forward; the camera looks along -z, so a person who faces it has the left side on the right of the image.
Angles are in degrees. Working in three dimensions gives foreshortening, depth order and left/right
for free.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

Point3D = npt.NDArray[np.float64]  # (3,)
RotationMatrix = npt.NDArray[np.float64]  # (3, 3)


@dataclass
class Proportions:
    """Lengths (of the person's height) and girth (1 = average)."""

    thigh: float
    shank: float
    torso: float
    upper_arm: float
    forearm: float
    shoulder: float
    hip: float
    head: float
    girth: float


@dataclass
class Arm:
    """Shoulder flexion (forward), abduction, internal rotation; elbow flexion."""

    flexion: float
    abduction: float
    internal: float
    elbow: float

    def __post_init__(self) -> None:
        """Keep to the limits of the joints."""
        self.flexion = min(max(self.flexion, -50.0), 170.0)
        self.abduction = min(max(self.abduction, -15.0), 175.0)
        self.internal = min(max(self.internal, -90.0), 90.0)
        self.elbow = min(max(self.elbow, 0.0), 145.0)


@dataclass
class Leg:
    """Hip flexion (forward) and abduction; knee flexion; ankle plantar flexion."""

    flexion: float
    abduction: float
    knee: float
    ankle: float = 0.0

    def __post_init__(self) -> None:
        """Keep to the limits of the joints."""
        self.flexion = min(max(self.flexion, -30.0), 125.0)
        self.abduction = min(max(self.abduction, -12.0), 60.0)
        self.knee = min(max(self.knee, 0.0), 145.0)


@dataclass
class Pose:
    """Joint angles in degrees; limbs are (left, right)."""

    root: tuple[float, float, float]  # yaw, pitch forward, roll
    spine: tuple[float, float, float]  # flexion, sideways, twist
    neck: tuple[float, float, float]  # flexion, sideways, turn
    arms: tuple[Arm, Arm]
    legs: tuple[Leg, Leg]


@dataclass
class Body:
    """Points of a posed body (3D, camera axes) and the frames its parts are drawn in."""

    points: dict[str, Point3D]
    pelvis: RotationMatrix
    chest: RotationMatrix
    head: RotationMatrix
    proportions: Proportions


# The order of MPII's 16 joints.
MPII_POINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "pelvis", "thorax", "upper_neck", "head_top",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip


def sample_proportions(rng: Generator) -> Proportions:
    """Draw proportions around the average adult's."""
    limb, width = rng.normal(1, 0.035, 5), rng.normal(1, 0.07, 3)
    return Proportions(
        thigh=0.242 * limb[0],
        shank=0.240 * limb[0] * (1 + 0.3 * (limb[1] - 1)),
        torso=0.288 * limb[2],
        upper_arm=0.178 * limb[3],
        forearm=0.148 * limb[3] * (1 + 0.3 * (limb[4] - 1)),
        shoulder=0.108 * width[0],
        hip=0.052 * width[1],
        head=float(np.clip(rng.normal(0.128, 0.008), 0.11, 0.15)),
        girth=float(np.clip(0.98 * math.exp(rng.normal(0.02, 0.13)), 0.78, 1.4)),
    )


def sample_pose(rng: Generator, variety: float = 1.0) -> Pose:
    """Draw a pose: a way of standing, two arms, a view.

    Below 1, ``variety`` is how much of the unusual remains: views from the side and the back, lying, legs other
    than standing and walking, and arms that point at the camera or hide are that much rarer.
    """
    shares = np.array(_LEG_SHARES) * [1.0 if name in _USUAL_LEGS else variety for name in _LEG_NAMES]
    name = _LEG_NAMES[int(rng.choice(len(_LEG_NAMES), p=shares / shares.sum()))]
    legs, lean = _LEGS[name](rng)
    if rng.random() < 0.5:
        legs = (legs[1], legs[0])
    shares = np.array(_ARM_SHARES) * [1.0 if kind in _USUAL_ARMS else variety for kind in range(len(_ARMS))]
    shares /= shares.sum()
    if rng.random() < 0.45:  # both arms do the same, nearly
        kind = _ARMS[int(rng.choice(len(_ARMS), p=shares))]
        arms = (kind(rng), kind(rng))
    else:
        first, second = rng.choice(len(_ARMS), size=2, p=shares)
        arms = (_ARMS[int(first)](rng), _ARMS[int(second)](rng))
    if name == "run" and rng.random() < 0.7:
        swing = legs[0].flexion < legs[1].flexion  # arms swing against the legs
        ahead, behind = Arm(40 + _n(rng, 12), 10, 25, 85 + _n(rng, 15)), Arm(-38, 12, 5, 80 + _n(rng, 15))
        arms = (ahead, behind) if swing else (behind, ahead)

    yaw = _n(rng, 32) if rng.random() < 1 - 0.38 * variety else 180 + _n(rng, 32)
    if rng.random() < 0.28 * variety:
        yaw = float(rng.choice((-90, 90))) + _n(rng, 25)
    if rng.random() < 1 - 0.08 * variety:
        roll = _n(rng, 6)
    else:  # lying, falling, cartwheels
        roll = float(rng.uniform(-110, 110))
    return Pose(
        root=(yaw, 0.4 * lean + _n(rng, 5), roll),
        spine=(0.6 * lean + _n(rng, 6), _n(rng, 7), _n(rng, 10)),
        neck=(_n(rng, 10) - 0.35 * lean, _n(rng, 8), _n(rng, 25)),
        arms=arms,
        legs=legs,
    )


def build(pose: Pose, size: Proportions, camera_pitch: float = 0.0) -> Body:
    """Place every point of a body in that pose; the pelvis is the origin."""
    yaw, pitch, roll = pose.root
    pelvis = _x(camera_pitch) @ _z(roll) @ _y(yaw) @ _x(pitch)
    flex, side, twist = pose.spine
    waist_turn = pelvis @ _x(flex / 2) @ _z(side / 2) @ _y(twist / 2)
    chest = waist_turn @ _x(flex / 2) @ _z(side / 2) @ _y(twist / 2)
    bend, tilt, turn = pose.neck
    neck_turn = chest @ _x(bend * 0.5 + 8)
    head = neck_turn @ _x(bend * 0.5 - 8) @ _z(tilt) @ _y(turn)

    points: dict[str, Point3D] = {"pelvis": np.zeros(3)}
    points["waist"] = waist_turn @ np.array([0, 0.42 * size.torso, 0])
    points["thorax"] = points["waist"] + chest @ np.array([0, 0.58 * size.torso, 0])
    points["upper_neck"] = points["thorax"] + neck_turn @ np.array([0, 0.052, 0.008])
    points["head_top"] = points["upper_neck"] + head @ np.array([0, size.head, 0])
    points["head"] = points["upper_neck"] + head @ np.array([0, 0.5 * size.head, 0.006])

    for name, sign, arm, leg in (
        ("left", 1.0, pose.arms[0], pose.legs[0]),
        ("right", -1.0, pose.arms[1], pose.legs[1]),
    ):
        # A raised arm lifts the shoulder and brings it inward.
        raised = max(0.0, max(arm.abduction, arm.flexion) - 70) / 100
        shoulder = np.array([sign * size.shoulder * (1 - 0.16 * raised), 0.03 * raised, 0.0])
        turn_arm = chest @ _x(-arm.flexion) @ _z(sign * arm.abduction) @ _y(-sign * arm.internal)
        turn_forearm = turn_arm @ _x(-arm.elbow)
        points[f"{name}_shoulder"] = points["thorax"] + chest @ shoulder
        points[f"{name}_elbow"] = points[f"{name}_shoulder"] - size.upper_arm * turn_arm[:, 1]
        points[f"{name}_wrist"] = points[f"{name}_elbow"] - size.forearm * turn_forearm[:, 1]
        hand = (turn_forearm @ _x(-12))[:, 1]
        points[f"{name}_hand"] = points[f"{name}_wrist"] - 0.072 * hand

        turn_leg = pelvis @ _x(-leg.flexion) @ _z(sign * leg.abduction) @ _y(sign * 8)
        turn_shank = turn_leg @ _x(leg.knee)
        points[f"{name}_hip"] = pelvis @ np.array([sign * size.hip, -0.01, 0.0])
        points[f"{name}_knee"] = points[f"{name}_hip"] - size.thigh * turn_leg[:, 1]
        points[f"{name}_ankle"] = points[f"{name}_knee"] - size.shank * turn_shank[:, 1]
        foot = turn_shank @ _x(leg.ankle)
        points[f"{name}_heel"] = points[f"{name}_ankle"] + foot @ np.array([0, -0.022, -0.022])
        points[f"{name}_toe"] = points[f"{name}_ankle"] + foot @ np.array([0, -0.03, 0.098])
    # MPII's thorax is the shoulders' middle, its pelvis the hips'.
    points["thorax"] = 0.5 * (points["left_shoulder"] + points["right_shoulder"])
    points["pelvis"] = 0.5 * (points["left_hip"] + points["right_hip"])
    return Body(points, pelvis, chest, head, size)


# Ways of standing: two legs, and how far the trunk leans forward.
Legs = tuple[tuple[Leg, Leg], float]


def _n(rng: Generator, deviation: float) -> float:
    return float(rng.normal(0, deviation))


def _legs_stand(rng: Generator) -> Legs:
    spread = abs(_n(rng, 5))
    a, b = (Leg(_n(rng, 5) + 2, 2 + spread + _n(rng, 2), 2 + abs(_n(rng, 6))) for _ in range(2))
    return (a, b), _n(rng, 4)


def _legs_relaxed(rng: Generator) -> Legs:
    bent = 15 + abs(_n(rng, 15))
    return (Leg(_n(rng, 3), 4, 2), Leg(bent * 0.7, 8 + _n(rng, 4), bent, -0.3 * bent)), _n(rng, 4)


def _legs_walk(rng: Generator) -> Legs:
    stride = rng.uniform(12, 32)
    ahead = Leg(stride, 2, 6 + abs(_n(rng, 6)), -5)
    behind = Leg(-0.7 * stride, 2, 8 + abs(_n(rng, 15)), 15)
    return (ahead, behind), 3 + _n(rng, 3)


def _legs_run(rng: Generator) -> Legs:
    front, back = rng.uniform(35, 80), rng.uniform(35, 100)
    return (Leg(front, 2, front + _n(rng, 15)), Leg(-18 + _n(rng, 6), 2, back, 25)), 12 + _n(rng, 6)


def _legs_sit(rng: Generator) -> Legs:
    spread, knee = abs(_n(rng, 9)), rng.uniform(60, 105)
    a, b = (Leg(85 + _n(rng, 8), 4 + spread, knee + _n(rng, 10)) for _ in range(2))
    return (a, b), _n(rng, 9)


def _legs_squat(rng: Generator) -> Legs:
    deep = rng.uniform(55, 115)
    a, b = (Leg(deep + _n(rng, 5), 14 + abs(_n(rng, 8)), 1.05 * deep + _n(rng, 6), -18) for _ in range(2))
    return (a, b), 22 + _n(rng, 9)


def _legs_lunge(rng: Generator) -> Legs:
    deep = rng.uniform(40, 85)
    return (Leg(deep, 4, deep, 0), Leg(-22, 4, rng.uniform(5, 45), 20)), 5 + _n(rng, 9)


def _legs_wide(rng: Generator) -> Legs:
    spread = rng.uniform(18, 42)
    a, b = (Leg(_n(rng, 8) + 5, spread + _n(rng, 5), abs(_n(rng, 12))) for _ in range(2))
    return (a, b), _n(rng, 8)


def _legs_kick(rng: Generator) -> Legs:
    raised = Leg(rng.uniform(45, 100), 6 + abs(_n(rng, 14)), abs(_n(rng, 40)))
    return (raised, Leg(-4, 3, 8, 5)), -5 + _n(rng, 6)


def _legs_bend(rng: Generator) -> Legs:
    lean = rng.uniform(35, 85)
    # Leaning tips the pelvis by part of the lean; the hips give way so that the legs stay upright.
    a, b = (Leg(0.4 * lean + _n(rng, 6), 5 + abs(_n(rng, 5)), 8 + abs(_n(rng, 10))) for _ in range(2))
    return (a, b), lean


_LEGS: dict[str, Callable[[Generator], Legs]] = {
    "stand": _legs_stand,
    "relaxed": _legs_relaxed,
    "walk": _legs_walk,
    "run": _legs_run,
    "sit": _legs_sit,
    "squat": _legs_squat,
    "lunge": _legs_lunge,
    "wide": _legs_wide,
    "kick": _legs_kick,
    "bend": _legs_bend,
}
_LEG_NAMES = tuple(_LEGS)
_USUAL_LEGS = ("stand", "relaxed", "walk", "wide")
_LEG_SHARES = (0.20, 0.12, 0.16, 0.10, 0.11, 0.06, 0.07, 0.08, 0.05, 0.05)

# Ways of holding an arm: how often, the mean of (flexion, abduction, internal rotation, elbow), their deviations.
_ARM_KINDS: tuple[tuple[float, tuple[float, float, float, float], tuple[float, float, float, float]], ...] = (
    (0.30, (2, 9, 15, 14), (12, 5, 20, 10)),  # hanging
    (0.08, (-12, 42, 55, 95), (8, 6, 10, 10)),  # hand on the hip
    (0.10, (10, 158, 0, 22), (15, 14, 30, 18)),  # up
    (0.09, (8, 88, 0, 15), (15, 14, 40, 14)),  # stretched out
    (0.08, (10, 85, -75, 85), (12, 15, 15, 20)),  # waving
    (0.09, (80, 8, 10, 28), (20, 10, 25, 22)),  # reaching forward
    (0.10, (18, 10, 25, 95), (14, 6, 25, 18)),  # bent
    (0.05, (38, 8, 62, 105), (8, 5, 10, 10)),  # crossed in front
    (0.03, (-32, 14, 45, 60), (8, 6, 15, 15)),  # behind the back
    (0.08, (45, 45, 0, 60), (45, 40, 45, 40)),  # anything
)
_USUAL_ARMS = range(5)
_ARM_SHARES = tuple(share for share, _, _ in _ARM_KINDS)


def _arm_kind(mean: tuple[float, ...], deviation: tuple[float, ...]) -> Callable[[Generator], Arm]:
    def draw(rng: Generator) -> Arm:
        return Arm(*(float(v) for v in rng.normal(mean, deviation)))

    return draw


_ARMS = tuple(_arm_kind(mean, deviation) for _, mean, deviation in _ARM_KINDS)


def _x(degrees: float) -> RotationMatrix:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _y(degrees: float) -> RotationMatrix:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _z(degrees: float) -> RotationMatrix:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
