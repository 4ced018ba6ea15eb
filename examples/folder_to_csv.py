"""Write the joints of each image's person to a CSV, one row per image:  python folder_to_csv.py FOLDER JOINTS.csv"""

import csv
import sys
from pathlib import Path

import pyranet_fast as pf

folder, table = Path(sys.argv[1]), Path(sys.argv[2])
paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))

predictor = pf.Predictor(search=False)  # faster; people fill their images
names = predictor.skeleton.joints
with table.open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["image", "mean_score", *(f"{name} {axis}" for name in names for axis in ("x", "y", "score"))])
    # Sixteen images at a time go through the network together, and no more are in memory.
    for start in range(0, len(paths), 16):
        batch = paths[start : start + 16]
        for path, pose in zip(batch, predictor.predict_batch(batch), strict=True):
            rows = zip(pose.joints.tolist(), pose.scores.tolist(), strict=True)
            values = [round(value, 3) for (x, y), score in rows for value in (x, y, score)]
            writer.writerow([path.name, round(pose.mean_score, 3), *values])
print(f"{len(paths)} images in {table}")
