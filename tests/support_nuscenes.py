"""Write a small nuScenes data set: two scenes, six cameras, a LiDAR and the map of a city.

The world is static: every sweep sees the same 40 points, from a vehicle that drives a curve.
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
SCENES = ("scene-0061", "scene-0103")  # in mini_train and in mini_val
LOCATION = "singapore-onenorth"
START_M = (600.0, 1600.0)
SAMPLES, STEP_US, SWEEPS = 3, 500_000, 4  # sweeps per sample; the first is the key sweep
HW = (18, 32)
INTRINSIC = [[20.0, 0.0, 16.0], [0.0, 20.0, 9.0], [0.0, 0.0, 1.0]]
LIDAR_TO_EGO = ([0.94, 0.0, 1.84], Rotation.from_euler("zyx", [-90.0, 1.0, 0.5], degrees=True))
LAYERS = ("road_segment", "road_block", "lane", "lane_connector", "traffic_light")
WORLD = np.random.default_rng(0).uniform(-30, 30, (40, 3)) * [1, 1, 0.1] + np.array([*START_M, 2])


def make_pose(translation: Any, rotation: Rotation) -> np.ndarray:
    """Return the 4 x 4 matrix of a translation and a rotation."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation.as_matrix(), translation
    return matrix


def ego_pose(time_us: int) -> tuple[list[float], Rotation]:
    """Return position in metres and rotation of the vehicle."""
    seconds = time_us / 1e6
    position = [START_M[0] + 6 * seconds, START_M[1] + seconds**2, 0.1 * seconds]
    return position, Rotation.from_euler("zyx", [20 + 15 * seconds, seconds, 0.3], degrees=True)


def camera_to_ego(number: int) -> tuple[list[float], Rotation]:
    """Return position and rotation of a camera, whose z axis looks forward and y axis down."""
    turned = Rotation.from_euler("z", YAWS_DEG[number], degrees=True)
    forward = Rotation.from_matrix([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    return [1.5, 0.1 * number, 1.5], turned * forward


def lidar_to_global(time_us: int) -> np.ndarray:
    """Return the pose of the LiDAR in the city."""
    return make_pose(*ego_pose(time_us)) @ make_pose(*LIDAR_TO_EGO)


def _pose_fields(position: list[float], rotation: Rotation) -> dict[str, Any]:
    """Return a pose as the tables store it."""
    x, y, z, w = rotation.as_quat().tolist()
    return {"translation": position, "rotation": [w, x, y, z]}


def simulate_sweep(time_us: int) -> np.ndarray:
    """Return the points of a sweep; one of them is as close as the roof of the vehicle."""
    local = (np.c_[WORLD, np.ones(len(WORLD))] @ np.linalg.inv(lidar_to_global(time_us)).T)[:, :3]
    local = np.r_[local, [[0.5, -0.5, 0.2], [0.5, 3.0, 0.2]]]
    number = np.arange(len(local))
    return np.c_[local, number, number % 32].astype(np.float32)


class Tables:
    """Builds the tables of nuScenes row by row."""

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
                **_pose_fields(
                    *(camera_to_ego(CAMERAS.index(c)) if c in CAMERAS else LIDAR_TO_EGO)
                ),
            }
            for c in channels
        ]

    def add(self, channel: str, time_us: int, sample: str, *, is_key: bool) -> Path:
        """Add a measurement to the tables; return the path of its file, which is not written."""
        token = f"{channel}-{sample.split('-')[0]}-{time_us}"
        folder = "samples" if is_key else "sweeps"
        suffix = "pcd.bin" if channel == "LIDAR_TOP" else "jpg"
        file = f"{folder}/{channel}/{token}.{suffix}"
        self.rows["ego_pose"].append({"token": token, **_pose_fields(*ego_pose(time_us))})
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


def write_nuscenes(root: Path, version: str = "v1.0-mini") -> None:
    """Write tables, images, sweeps and the map."""
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
                simulate_sweep(time_us).tofile(
                    tables.add("LIDAR_TOP", time_us, sample, is_key=sweep == 0)
                )
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
    write_map(root, make_map())


def write_map(root: Path, layers: dict[str, Any]) -> Path:
    """Write a map expansion of the city; return its path."""
    path = root / "maps" / "expansion" / f"{LOCATION}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(layers))
    return path


def edit_json(path: Path, edit: Callable[[Any], Any]) -> None:
    """Read a JSON file, change its content in place with ``edit``, and write it again."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def draw_star(generator: np.random.Generator, centre: tuple[float, float], radius_m: float) -> Any:
    """Return the corners of a random star-shaped outline, in metres rounded to centimetres."""
    count = int(generator.integers(5, 14))
    angles = np.sort(generator.uniform(0, 2 * np.pi, count))
    radii = radius_m * generator.uniform(0.4, 1.0, count)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + centre
    return np.round(corners, 2).tolist()


class MapBuilder:
    """Builds the tables of a map expansion."""

    def __init__(self) -> None:
        names = (*LAYERS, "drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area")
        tables = ("node", "polygon", "line", *names, "road_divider", "lane_divider")
        self.tables: dict[str, Any] = {name: [] for name in tables}
        self.tables |= {"version": "1.3", "canvas_edge": [1585.6, 2025.0]}
        self.tables |= {"arcline_path_3": {}, "connectivity": {}}

    def add_nodes(self, points: Any) -> list[str]:
        """Add nodes at x and y; return their tokens."""
        table = self.tables["node"]
        first = len(table)
        table += [{"token": f"n{first + i}", "x": x, "y": y} for i, (x, y) in enumerate(points)]
        return [node["token"] for node in table[first:]]

    def add_outline(self, corners: Any, *holes: Any) -> str:
        """Add a polygon with holes; return its token."""
        token = f"p{len(self.tables['polygon'])}"
        inner = [{"node_tokens": self.add_nodes(hole)} for hole in holes]
        row = {"token": token, "exterior_node_tokens": self.add_nodes(corners), "holes": inner}
        self.tables["polygon"].append(row)
        return token

    def add_area(self, layer: str, corners: Any, *holes: Any) -> None:
        """Add an area with holes to a layer."""
        row = {"token": f"{layer}{len(self.tables[layer])}"}
        row |= {"polygon_token": self.add_outline(corners, *holes)}
        if layer == "stop_line":
            row |= {"stop_line_type": "YIELD"}
        self.tables[layer].append(row)

    def add_drivable_area(self, *outlines: str) -> None:
        """Add a drivable area that consists of outlines."""
        row = {"token": f"d{len(self.tables['drivable_area'])}", "polygon_tokens": list(outlines)}
        self.tables["drivable_area"].append(row)

    def add_line(self, layer: str, points: Any) -> None:
        """Add a line to a layer."""
        token = f"l{len(self.tables['line'])}"
        self.tables["line"].append({"token": token, "node_tokens": self.add_nodes(points)})
        row = {"token": f"{layer}{len(self.tables[layer])}", "line_token": token}
        self.tables[layer].append(row)


def make_map() -> dict[str, Any]:
    """Return a map with holes, split areas, touching borders, empty outlines and a bow tie."""
    rng = np.random.default_rng(1)
    builder = MapBuilder()
    x, y = START_M

    def draw_point(distance_m: float) -> tuple[float, float]:
        dx, dy = rng.uniform(-distance_m, distance_m, 2)
        return x + dx, y + dy

    comb = [(x - 60 + 4 * i, y + (-70 if i % 2 else 70)) for i in range(30)]
    teeth = [*comb, (x + 60, y + 90), (x - 60, y + 90)]
    square = [(x - 10, y - 10), (x + 10, y - 10), (x + 10, y + 10), (x - 10, y + 10)]
    big = [(x + 7 * (a - x), y + 7 * (b - y)) for a, b in square]
    builder.add_drivable_area(
        builder.add_outline(big, square, draw_star(rng, (x + 40, y), 9)), builder.add_outline([])
    )
    builder.add_drivable_area(
        *(builder.add_outline(draw_star(rng, draw_point(60), 8)) for _ in range(4))
    )
    for layer in ("ped_crossing", "walkway", "stop_line", "carpark_area"):
        for _ in range(12):
            centre, radius_m = draw_point(60), rng.uniform(2, 20)
            builder.add_area(
                layer, draw_star(rng, centre, radius_m), draw_star(rng, centre, radius_m / 3)
            )
    builder.add_area("walkway", teeth)
    builder.add_area(
        "walkway", [(x - 9, y), (x + 9, y + 8), (x + 9, y), (x - 9, y + 8)]
    )  # a bow tie
    builder.add_area(
        "stop_line", [(x + 30, y - 5), (x + 50, y - 5), (x + 50, y + 5), (x + 30, y + 5)]
    )
    builder.add_area("carpark_area", [(x + 500, y), (x + 510, y), (x + 510, y + 10)])
    for layer in ("road_divider", "lane_divider"):
        for _ in range(6):
            builder.add_line(layer, [draw_point(80) for _ in range(int(rng.integers(2, 9)))])
        builder.add_line(layer, [])
        builder.add_line(layer, comb)
    return builder.tables
