"""The skeleton of a COCO keypoint file, from its category: names, bones and which joints mirror each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyranet_fast.errors import UserError
from pyranet_fast.pose.sides import pairs_by_name
from pyranet_fast.pose.skeleton import Skeleton


def skeleton_of(category: Mapping[str, Any], where: str) -> tuple[Skeleton, tuple[str, ...]]:
    """Build the skeleton of a category.

    Args:
        category: object with ``name``, ``keypoints`` (K names), optionally ``skeleton`` (pairs of joint numbers
            from 1) and ``flip_pairs`` (pairs of names, or of joint indices from 0). Without ``flip_pairs`` joints
            whose names differ in their side alone mirror each other.
        where: what messages call it.

    Returns:
        The skeleton, and notes for the user.

    Raises:
        UserError: a field is not as above, or a joint has a side in its name and no partner.
    """
    name = category.get("name", "person")
    joints = category.get("keypoints")
    if not isinstance(name, str) or not name:
        raise UserError(f"{where}: name is {name!r}; a text is accepted")
    if not isinstance(joints, list) or not joints or not all(isinstance(j, str) and j.strip() for j in joints):
        raise UserError(f"{where}: keypoints is {joints!r}; a list of joint names is accepted")
    bones = []
    for pair in _list_of_pairs(category.get("skeleton") or [], f"{where}: skeleton", "joint numbers from 1"):
        if not all(type(number) is int and 1 <= number <= len(joints) for number in pair):
            raise UserError(f"{where}: skeleton holds {pair!r}; pairs of joint numbers 1 to {len(joints)} are accepted")
        bones.append((pair[0] - 1, pair[1] - 1))
    notes: tuple[str, ...] = ()
    if "flip_pairs" in category:
        flips = _given_pairs(category["flip_pairs"], joints, where)
    else:
        flips, lonely = pairs_by_name(joints)
        if lonely:
            raise UserError(
                f"{where}: joint {lonely[0]!r} has a side in its name and no partner on the other side; "
                "give the category a field flip_pairs: pairs of joint names, or [] for none"
            )
        if not flips:
            notes = (
                f"{where}: no left and right found in the joint names, so a mirrored picture keeps every joint's "
                "name; if joints have sides, give the category a field flip_pairs, or [] to say that there are none",
            )
    try:
        return Skeleton(f"coco:{name}", tuple(joints), tuple(flips), tuple(bones)), notes
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _given_pairs(value: Any, joints: Sequence[str], where: str) -> list[tuple[int, int]]:
    where = f"{where}: flip_pairs"
    accepted = f"pairs of joint names, or of joint indices 0 to {len(joints) - 1}, are accepted"
    pairs: list[tuple[int, int]] = []
    for pair in _list_of_pairs(value, where, "joint names or indices from 0"):
        indices = []
        for joint in pair:
            if isinstance(joint, str) and joint in joints:
                indices.append(joints.index(joint))
            elif type(joint) is int and 0 <= joint < len(joints):
                indices.append(joint)
            else:
                raise UserError(f"{where} holds {joint!r}; {accepted}")
        first, second = min(indices), max(indices)
        if first == second:
            raise UserError(f"{where} holds {pair!r}; two different joints are accepted")
        if (first, second) not in pairs:  # some write both directions
            pairs.append((first, second))
    return pairs


def _list_of_pairs(value: Any, where: str, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where} is {value!r}; a list of pairs of {what} is accepted")
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(f"{where} holds {pair!r}; a list of pairs of {what} is accepted")
    return value
