"""Record the masks that the official devkit draws in ``vector_map.npz``, for test_vector_map.py.

Run once, in an environment with nuscenes-devkit 1.2.0, Shapely 2.0.7 and OpenCV 4.11.0:

    python -m tests.datasets.record_vector_map

Where lines leave a patch, rounding errors of Shapely decide about single pixels. On the patches
below, the devkit draws the same masks with Shapely 1.8.5.
"""

import tempfile
from pathlib import Path

import numpy as np
from nuscenes.map_expansion.map_api import NuScenesMap
from shapely.geometry import MultiLineString
from tests.support_nuscenes import LOCATION, START_M, make_map, write_map

LAYERS = (
    *("drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area"),
    *("road_divider", "lane_divider"),
)
PATCHES = (  # x and y relative to the start of the drive, height, width (metres), angle (degrees)
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
    """Draw the masks of all patches with the devkit, and write them to ``vector_map.npz``."""
    # the devkit iterates over a MultiLineString, which Shapely 2 does not support
    MultiLineString.__iter__ = lambda self: iter(self.geoms)
    with tempfile.TemporaryDirectory() as root:
        write_map(Path(root), make_map())
        city = NuScenesMap(root, LOCATION)
        x, y = START_M
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
