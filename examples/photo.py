"""Predict and draw the joints in a photo:  python photo.py PHOTO.jpg [OVERLAY.png]"""

import sys

import pyranet_fast as pf
from pyranet_fast.data.image_io import read_image, write_image
from pyranet_fast.pose import resolve_skeleton
from pyranet_fast.visualization import draw_pose

photo = sys.argv[1]
overlay = sys.argv[2] if len(sys.argv) > 2 else "pose.png"

predictor = pf.Predictor()  # the network in the package; or the path of a checkpoint
image = read_image(photo)
pose = predictor(image)  # box=(x, y, width, height) where there are several people

skeleton = resolve_skeleton(pose.skeleton)
for name, (x, y), score in zip(skeleton.joints, pose.joints, pose.scores, strict=True):
    print(f"{name:<16}{x:8.1f}{y:8.1f}{score:7.2f}")
print(f"about {pose.chances.mean():.0%} of the joints are expected to be right")
write_image(overlay, draw_pose(image, pose.joints, pose.scores, skeleton))
