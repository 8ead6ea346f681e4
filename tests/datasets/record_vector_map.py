"""Record what the official devkit draws: ``vector_map.npz``, for test_vector_map.py.

Run once, with nuscenes-devkit 1.2.0, Shapely 2.0.7 and OpenCV 4.11.0 in an environment of its own:

    python tests/datasets/record_vector_map.py

Of lines that leave a patch, Shapely's last digit decides about single pixels; the patches below are
those on which the devkit draws the same with Shapely 1.8.5.
"""

import tempfile
from pathlib import Path

import numpy as np
import nuscenes_files
from nuscenes.map_expansion.map_api import NuScenesMap
from shapely.geometry import MultiLineString

LAYERS = (
    *("drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area"),
    *("road_divider", "lane_divider"),
)
PATCHES = (  # x and y from the start of the drive, height, width (metres), angle (degrees)
    (0.0, 0.0, 100.0, 100.0, 0.0),
    (0.0, 0.0, 100.0, 100.0, 90.0),
    (0.0, 0.0, 100.0, 100.0, -180.0),
    (0.0, 0.0, 100.0, 100.0, 45.0),
    (12.34, -7.5, 100.0, 100.0, 17.3),
    (-25.0, 20.5, 100.0, 100.0, -123.4),
    (8.25, 14.75, 60.0, 100.0, 71.9),
    (3.0, -16.0, 40.0, 40.0, -33.3),
)
CANVAS = (200, 200)


def main() -> None:
    # the devkit loops over a MultiLineString, which Shapely 2 allows no more
    MultiLineString.__iter__ = lambda self: iter(self.geoms)
    with tempfile.TemporaryDirectory() as root:
        nuscenes_files.write_map(Path(root), nuscenes_files.expansion())
        city = NuScenesMap(root, nuscenes_files.LOCATION)
        x, y = nuscenes_files.START_M
        masks = [
            city.get_map_mask((x + dx, y + dy, height, width), angle, list(LAYERS), CANVAS)
            for dx, dy, height, width, angle in PATCHES
        ]
    packed = np.packbits(np.array(masks, bool))
    np.savez_compressed(
        Path(__file__).with_name("vector_map.npz"), patches=PATCHES, layers=LAYERS, packed=packed
    )


if __name__ == "__main__":
    main()
