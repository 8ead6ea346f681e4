"""A small nuScenes on disk for the tests: two scenes, six cameras, a LiDAR and the maps of a city.

The world stands still: 40 points are seen by every sweep, from a vehicle that drives a curve.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

CAMERAS = (
    *("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT"),
    *("CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"),
)
YAWS_DEG = (0, -55, 55, 180, 110, -110)
SCENES = ("scene-0061", "scene-0103")  # of mini_train and of mini_val
LOCATION = "singapore-onenorth"
START_M = (600.0, 1600.0)
SAMPLES, STEP_US, SWEEPS = 3, 500_000, 4  # sweeps between two samples, the first of which is a key
HW = (18, 32)
INTRINSIC = [[20.0, 0.0, 16.0], [0.0, 20.0, 9.0], [0.0, 0.0, 1.0]]
LIDAR_TO_EGO = ([0.94, 0.0, 1.84], Rotation.from_euler("zyx", [-90.0, 1.0, 0.5], degrees=True))
LAYERS = ("road_segment", "road_block", "lane", "lane_connector", "traffic_light")
WORLD = np.random.default_rng(0).uniform(-30, 30, (40, 3)) * [1, 1, 0.1] + np.array([*START_M, 2])


def pose(translation: Any, rotation: Rotation) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation.as_matrix(), translation
    return matrix


def ego(time_us: int) -> tuple[list[float], Rotation]:
    """Where the vehicle is, and how it is turned."""
    seconds = time_us / 1e6
    place = [START_M[0] + 6 * seconds, START_M[1] + seconds**2, 0.1 * seconds]
    return place, Rotation.from_euler("zyx", [20 + 15 * seconds, seconds, 0.3], degrees=True)


def camera_to_ego(number: int) -> tuple[list[float], Rotation]:
    """As a camera looks along its z axis, with y down."""
    turned = Rotation.from_euler("z", YAWS_DEG[number], degrees=True)
    forward = Rotation.from_matrix([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    return [1.5, 0.1 * number, 1.5], turned * forward


def lidar_to_global(time_us: int) -> np.ndarray:
    return pose(*ego(time_us)) @ pose(*LIDAR_TO_EGO)


def _placed(place: list[float], rotation: Rotation) -> dict[str, Any]:
    x, y, z, w = rotation.as_quat().tolist()
    return {"translation": place, "rotation": [w, x, y, z]}


def seen(time_us: int) -> np.ndarray:
    """The points of the world as a sweep has them; one is as close as the roof of the vehicle."""
    local = (np.c_[WORLD, np.ones(len(WORLD))] @ np.linalg.inv(lidar_to_global(time_us)).T)[:, :3]
    local = np.r_[local, [[0.5, -0.5, 0.2], [0.5, 3.0, 0.2]]]
    number = np.arange(len(local))
    return np.c_[local, number, number % 32].astype(np.float32)


class Tables:
    """The tables while they are filled."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "log", "map")
        }
        channels = ("LIDAR_TOP", *CAMERAS, "RADAR_FRONT")
        self.rows["sensor"] = [{"token": f"sensor-{c}", "channel": c} for c in channels]
        self.rows["calibrated_sensor"] = [
            {
                "token": f"calibrated-{c}",
                "sensor_token": f"sensor-{c}",
                "camera_intrinsic": INTRINSIC if c in CAMERAS else [],
                **_placed(*(camera_to_ego(CAMERAS.index(c)) if c in CAMERAS else LIDAR_TO_EGO)),
            }
            for c in channels
        ]

    def add(self, channel: str, time_us: int, sample: str, *, is_key: bool) -> Path:
        """Add a measurement to the table; return its file, which is still to be written."""
        token = f"{channel}-{sample.split('-')[0]}-{time_us}"
        folder = "samples" if is_key else "sweeps"
        suffix = "pcd.bin" if channel == "LIDAR_TOP" else "jpg"
        file = f"{folder}/{channel}/{token}.{suffix}"
        self.rows["ego_pose"].append({"token": token, **_placed(*ego(time_us))})
        self.rows["sample_data"].append(
            {
                "token": token,
                "sample_token": sample,
                "ego_pose_token": token,
                "calibrated_sensor_token": f"calibrated-{channel}",
                "timestamp": time_us,
                "is_key_frame": is_key,
                "filename": file,
                "prev": "",
                "next": "",
            }
        )
        (self.root / file).parent.mkdir(parents=True, exist_ok=True)
        return self.root / file


def write(root: Path, version: str = "v1.0-mini") -> None:
    """Write everything."""
    tables = Tables(root)
    for number, name in enumerate(SCENES):
        tables.rows["scene"].append({"token": name, "name": name, "log_token": f"log{number}"})
        tables.rows["log"].append({"token": f"log{number}", "location": LOCATION})
        previous = None
        for step in range(SAMPLES):
            sample, start = f"{number}-{step}", step * STEP_US
            tables.rows["sample"].append({"token": sample, "timestamp": start, "scene_token": name})
            for sweep in range(SWEEPS):
                time_us = start + sweep * STEP_US // SWEEPS
                seen(time_us).tofile(tables.add("LIDAR_TOP", time_us, sample, is_key=sweep == 0))
                row = tables.rows["sample_data"][-1]
                if previous is not None:
                    row["prev"], previous["next"] = previous["token"], row["token"]
                previous = row
            for index, camera in enumerate(CAMERAS):
                picture = Image.new("RGB", HW[::-1], (40 * index, 80 * number, 60 * step))
                picture.save(tables.add(camera, start + 10_000 + index, sample, is_key=True))
                tables.add(camera, start + 90_000 + index, sample, is_key=False)  # without a file
            tables.add("RADAR_FRONT", start, sample, is_key=True)
    (root / version).mkdir()
    for name, rows in tables.rows.items():
        (root / version / f"{name}.json").write_text(json.dumps(rows))
    write_map(root, expansion())


def write_map(root: Path, layers: dict[str, Any]) -> Path:
    path = root / "maps" / "expansion" / f"{LOCATION}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(layers))
    return path


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    """Write a JSON file again after an edit in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def blob(generator: np.random.Generator, centre: tuple[float, float], radius_m: float) -> Any:
    """Return the corners of a star-shaped outline, in centimetres as digits."""
    count = int(generator.integers(5, 14))
    angles = np.sort(generator.uniform(0, 2 * np.pi, count))
    radii = radius_m * generator.uniform(0.4, 1.0, count)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + centre
    return np.round(corners, 2).tolist()


class Expansion:
    """A map expansion while it is filled."""

    def __init__(self) -> None:
        names = (*LAYERS, "drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area")
        tables = ("node", "polygon", "line", *names, "road_divider", "lane_divider")
        self.tables: dict[str, Any] = {name: [] for name in tables}
        self.tables |= {"version": "1.3", "canvas_edge": [1585.6, 2025.0]}
        self.tables |= {"arcline_path_3": {}, "connectivity": {}}

    def nodes(self, points: Any) -> list[str]:
        table = self.tables["node"]
        first = len(table)
        table += [{"token": f"n{first + i}", "x": x, "y": y} for i, (x, y) in enumerate(points)]
        return [node["token"] for node in table[first:]]

    def outline(self, corners: Any, *holes: Any) -> str:
        token = f"p{len(self.tables['polygon'])}"
        inner = [{"node_tokens": self.nodes(hole)} for hole in holes]
        row = {"token": token, "exterior_node_tokens": self.nodes(corners), "holes": inner}
        self.tables["polygon"].append(row)
        return token

    def area(self, layer: str, corners: Any, *holes: Any) -> None:
        row = {"token": f"{layer}{len(self.tables[layer])}"}
        row |= {"polygon_token": self.outline(corners, *holes)}
        if layer == "stop_line":
            row |= {"stop_line_type": "YIELD"}
        self.tables[layer].append(row)

    def drivable(self, *outlines: str) -> None:
        row = {"token": f"d{len(self.tables['drivable_area'])}", "polygon_tokens": list(outlines)}
        self.tables["drivable_area"].append(row)

    def line(self, layer: str, points: Any) -> None:
        token = f"l{len(self.tables['line'])}"
        self.tables["line"].append({"token": token, "node_tokens": self.nodes(points)})
        row = {"token": f"{layer}{len(self.tables[layer])}", "line_token": token}
        self.tables[layer].append(row)


def expansion() -> dict[str, Any]:
    """A map around the drive: holes, several pieces, touching borders, nothing, and a bow tie."""
    rng = np.random.default_rng(1)
    made = Expansion()
    x, y = START_M

    def near(spread_m: float) -> tuple[float, float]:
        dx, dy = rng.uniform(-spread_m, spread_m, 2)
        return x + dx, y + dy

    comb = [(x - 60 + 4 * i, y + (-70 if i % 2 else 70)) for i in range(30)]
    teeth = [*comb, (x + 60, y + 90), (x - 60, y + 90)]
    square = [(x - 10, y - 10), (x + 10, y - 10), (x + 10, y + 10), (x - 10, y + 10)]
    big = [(x + 7 * (a - x), y + 7 * (b - y)) for a, b in square]
    made.drivable(made.outline(big, square, blob(rng, (x + 40, y), 9)), made.outline([]))
    made.drivable(*(made.outline(blob(rng, near(60), 8)) for _ in range(4)))
    for layer in ("ped_crossing", "walkway", "stop_line", "carpark_area"):
        for _ in range(12):
            centre, radius_m = near(60), rng.uniform(2, 20)
            made.area(layer, blob(rng, centre, radius_m), blob(rng, centre, radius_m / 3))
    made.area("walkway", teeth)
    made.area("walkway", [(x - 9, y), (x + 9, y + 8), (x + 9, y), (x - 9, y + 8)])  # a bow tie
    made.area("stop_line", [(x + 30, y - 5), (x + 50, y - 5), (x + 50, y + 5), (x + 30, y + 5)])
    made.area("carpark_area", [(x + 500, y), (x + 510, y), (x + 510, y + 10)])
    for layer in ("road_divider", "lane_divider"):
        for _ in range(6):
            made.line(layer, [near(80) for _ in range(int(rng.integers(2, 9)))])
        made.line(layer, [])
        made.line(layer, comb)
    return made.tables
