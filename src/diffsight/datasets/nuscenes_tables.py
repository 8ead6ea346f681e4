"""Read the official tables of nuScenes, and write and read the index file that is made of them.

The tables of all scenes are 2 GB of JSON. They are read once, and the index file keeps the paths,
poses, cities and splits that the data set needs.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from diffsight.atomic import replacing
from diffsight.datasets.files import read_json
from diffsight.datasets.vector_map import ARCHIVE as MAP_ARCHIVE
from diffsight.errors import InputError, suggest
from diffsight.formats.text import read_object, reading

LIDAR = "LIDAR_TOP"
CAMERAS = (
    *("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT"),
    *("CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"),
)
"""Camera channels in the order of BEVFusion."""
MAX_SWEEPS = 9  # before the key frame, as in BEVFusion
FORMAT, FORMAT_VERSION = "diffsight nuScenes index", 1
DECIMALS = 9  # of the numbers in the index file
MAX_LISTED = 5  # missing files in a message

_BLOBS = "v1.0-trainval01_blobs.tgz to v1.0-trainval10_blobs.tgz"
_ARCHIVES = {  # archives of the tables, and of images and sweeps, by version
    "v1.0-mini": ("v1.0-mini.tgz", "v1.0-mini.tgz"),
    "v1.0-trainval": ("v1.0-trainval_meta.tgz", f"all of {_BLOBS}"),
}
# numbers of the scenes of the official validation splits; all other scenes are training scenes
_VAL = {
    "v1.0-mini": "103 916",
    "v1.0-trainval": (
        "3 12-18 35-36 38-39 92-110 221 268-278 329-332 344-346 519-524 552-565 625-627 629-630 "
        "632-638 770-771 775 777-778 780-784 794-800 802 904-917 919-931 962-963 966-969 971-972 "
        "1059-1073"
    ),
}


@dataclass(frozen=True)
class Frame:
    """One sample of nuScenes: a LiDAR sweep (the key sweep) with v camera images.

    Paths of files are relative to the folder of the data set. There are s earlier sweeps.

    Attributes:
        token: id of the sample in nuScenes.
        scene: name of the scene.
        split: ``train`` or ``val``.
        location: name of the city's map.
        lidar_to_global: pose of the LiDAR at the time of the key sweep, in metres.
        images: image files in the order of ``CAMERAS``.
        intrinsics: camera matrices in pixels.
        camera_to_lidar: poses of the cameras at the times of their images, in the frame of the
            LiDAR at the time of the key sweep.
        points: file of the key sweep.
        sweeps: files of the earlier sweeps, the latest first.
        sweep_to_lidar: poses of the LiDAR at the times of the earlier sweeps, in the frame of the
            LiDAR at the time of the key sweep.
        ages_s: seconds from each earlier sweep to the key sweep.
    """

    token: str
    scene: str
    split: str
    location: str
    lidar_to_global: Float64[np.ndarray, "4 4"]
    images: tuple[str, ...]
    intrinsics: Float64[np.ndarray, "v 3 3"]
    camera_to_lidar: Float64[np.ndarray, "v 4 4"]
    points: str
    sweeps: tuple[str, ...]
    sweep_to_lidar: Float64[np.ndarray, "s 4 4"]
    ages_s: Float64[np.ndarray, " s"]

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the images, the sweeps and the map."""
        return (*self.images, self.points, *self.sweeps, map_file(self.location))


class _Measurement(NamedTuple):
    """A row of the table ``sample_data``: one image or one LiDAR sweep.

    All texts but ``file`` are tokens, which are ids of rows. ``previous`` is the measurement of the
    same sensor before this one, and empty for the first.
    """

    token: str
    sample: str
    pose: str
    calibration: str
    time_us: int
    file: str
    previous: str


def map_file(location: str) -> str:
    """Return the path of a city's map, relative to the folder of the data set."""
    return f"maps/expansion/{location}.json"


def archive_of(file: str, version: str) -> str:
    """Return the name of the archive that holds an image, a sweep or a map."""
    return f"{MAP_ARCHIVE} (into maps)" if file.startswith("maps/") else _ARCHIVES[version][1]


def is_val(scene: str, version: str) -> bool:
    """Return whether a scene belongs to the official validation split.

    Raises:
        ValueError: if the name of the scene is not scene-NUMBER.
    """
    number = int(scene.removeprefix("scene-"))
    ranges = [part.partition("-") for part in _VAL[version].split()]
    return any(int(first) <= number <= int(last or first) for first, _, last in ranges)


def read_tables(root: Path, version: str) -> list[Frame]:
    """Return all samples in the order of their time stamps.

    Reading v1.0-trainval takes some minutes and 6 GB of memory.

    Args:
        root: folder of the data set.
        version: ``v1.0-mini`` or ``v1.0-trainval``, the name of the folder with the tables.

    Raises:
        InputError: if a table is missing or damaged, or a sample lacks the LiDAR or a camera.
    """
    if version not in _ARCHIVES:
        raise InputError(f"unknown version {version!r}: {suggest(version, _ARCHIVES)}")
    folder = root / version
    with reading(folder, f"damaged ({{reason}}): extract {_ARCHIVES[version][0]} again"):
        return _Tables(root, version).frames()


class _Tables:
    """The rows of the tables that are needed to make samples."""

    def __init__(self, root: Path, version: str) -> None:
        self.root = root
        self.version = version
        self.samples = self._table("sample")
        self.scenes = {one["token"]: one for one in self._table("scene")}
        self.locations = {one["token"]: str(one["location"]) for one in self._table("log")}
        channels = {one["token"]: one["channel"] for one in self._table("sensor")}
        calibrations = self._table("calibrated_sensor")
        self.channels = {one["token"]: channels[one["sensor_token"]] for one in calibrations}
        self.calibrations = _poses(calibrations)
        self.intrinsics = {
            one["token"]: np.array(one["camera_intrinsic"], np.float64).reshape(3, 3)
            for one in calibrations
            if self.channels[one["token"]] in CAMERAS
        }
        self.key_measurements: dict[tuple[str, str], _Measurement] = {}
        self.sweeps: dict[str, _Measurement] = {}
        for row in self._table("sample_data"):
            self._add_measurement(row)
        needed = {one.pose for one in (*self.key_measurements.values(), *self.sweeps.values())}
        self.poses = _poses([one for one in self._table("ego_pose") if one["token"] in needed])

    def _table(self, name: str) -> list[Any]:
        path = self.root / self.version / f"{name}.json"
        archive = _ARCHIVES[self.version][0]
        if not path.is_file():
            raise InputError(f"{path}: missing: extract {archive} into {self.root}")
        rows = read_json(path)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{path}: holds no list of rows: extract {archive} again")
        return rows

    def _add_measurement(self, row: Mapping[str, Any]) -> None:
        calibration = row["calibrated_sensor_token"]
        channel = self.channels[calibration]
        if channel != LIDAR and (channel not in CAMERAS or not row["is_key_frame"]):
            return
        data = _Measurement(
            *(row["token"], row["sample_token"], row["ego_pose_token"], calibration),
            *(int(row["timestamp"]), str(row["filename"]), row["prev"]),
        )
        if row["is_key_frame"]:
            self.key_measurements[data.sample, channel] = data
        if channel == LIDAR:
            self.sweeps[data.token] = data

    def frames(self) -> list[Frame]:
        """Return all samples in the order of their time stamps."""
        ordered = sorted(self.samples, key=lambda row: (row["timestamp"], row["token"]))
        return [self._frame(row) for row in ordered]

    def _frame(self, row: Mapping[str, Any]) -> Frame:
        token, scene = row["token"], self.scenes[row["scene_token"]]
        lidar, *cameras = (
            self._key_measurement(token, scene["name"], c) for c in (LIDAR, *CAMERAS)
        )
        pose = self._to_global(lidar)
        from_global = np.linalg.inv(pose)
        sweeps = self._previous_sweeps(lidar)
        sweep_poses = [from_global @ self._to_global(one) for one in sweeps]
        return Frame(
            token=token,
            scene=scene["name"],
            split="val" if is_val(scene["name"], self.version) else "train",
            location=self.locations[scene["log_token"]],
            lidar_to_global=pose,
            images=tuple(one.file for one in cameras),
            intrinsics=np.stack([self.intrinsics[one.calibration] for one in cameras]),
            camera_to_lidar=np.stack([from_global @ self._to_global(one) for one in cameras]),
            points=lidar.file,
            sweeps=tuple(one.file for one in sweeps),
            sweep_to_lidar=np.array(sweep_poses, np.float64).reshape(-1, 4, 4),
            ages_s=np.array([(lidar.time_us - one.time_us) / 1e6 for one in sweeps], np.float64),
        )

    def _key_measurement(self, sample: str, scene: str, channel: str) -> _Measurement:
        """Return the image or sweep of a sensor at the key frame ``sample`` (a token)."""
        data = self.key_measurements.get((sample, channel))
        if data is None:
            path = self.root / self.version / "sample_data.json"
            raise InputError(
                f"{path}: sample {sample} of {scene} has no {channel}: extract "
                f"{_ARCHIVES[self.version][0]} again"
            )
        return data

    def _previous_sweeps(self, data: _Measurement) -> list[_Measurement]:
        """Return up to ``MAX_SWEEPS`` sweeps before a sweep, the latest first."""
        sweeps = []
        while data.previous and len(sweeps) < MAX_SWEEPS:
            data = self.sweeps[data.previous]
            sweeps.append(data)
        return sweeps

    def _to_global(self, data: _Measurement) -> Float64[np.ndarray, "4 4"]:
        """Return the pose of the sensor in the coordinates of the city, in metres."""
        return self.poses[data.pose] @ self.calibrations[data.calibration]


def _poses(rows: Sequence[Mapping[str, Any]]) -> dict[str, Float64[np.ndarray, "4 4"]]:
    """Return the pose matrix of each row, by token.

    A row has a translation in metres and a rotation as a quaternion (w, x, y, z).
    """
    from scipy.spatial.transform import Rotation  # takes a third of a second

    translations = np.array([row["translation"] for row in rows], np.float64).reshape(-1, 3)
    quaternions = np.array([row["rotation"] for row in rows], np.float64).reshape(-1, 4)
    if not (np.isfinite(translations).all() and np.isfinite(quaternions).all()):
        raise ValueError("a pose is not finite")
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    matrices[:, :3, :3] = Rotation.from_quat(np.roll(quaternions, -1, axis=1)).as_matrix()
    matrices[:, :3, 3] = translations
    return {row["token"]: matrix for row, matrix in zip(rows, matrices, strict=True)}


def require_files(root: Path, version: str, frames: Sequence[Frame]) -> None:
    """Check that the images, sweeps and maps of the samples exist.

    Raises:
        InputError: if files are missing; the message counts them and names their archives.
    """
    wanted = dict.fromkeys(file for frame in frames for file in frame.files)
    present: dict[str, set[str]] = {}
    missing = []
    for file in wanted:  # list each folder once: checking every file takes minutes on some disks
        folder, _, name = file.rpartition("/")
        if folder not in present:
            try:
                present[folder] = set(os.listdir(root / folder))
            except (OSError, ValueError):  # the folder is missing, or its name is not valid
                present[folder] = set()
        if name not in present[folder]:
            missing.append(file)
    if missing:
        first = ", ".join(missing[:MAX_LISTED])
        archives = " and ".join(dict.fromkeys(archive_of(file, version) for file in missing))
        raise InputError(
            f"{root}: {len(missing):,} of {len(wanted):,} files are missing (first: {first}): "
            f"extract {archives} there"
        )


def require_writable(path: Path) -> None:
    """Raise an error if an index of nuScenes cannot be written to a path.

    Raises:
        InputError: if the file exists and is not an index, or its folder does not exist.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no such folder: make it, or choose another --out")
    if path.exists():
        try:
            is_index = read_object(path).get("format") == FORMAT
        except (OSError, ValueError):
            is_index = False
        if not is_index:
            raise InputError(
                f"{path}: exists already and is not an index of nuScenes: choose another --out"
            )


def write_index(path: Path, version: str, frames: Sequence[Frame]) -> None:
    """Write the index file of some samples.

    Args:
        path: file to write.
        version: version of nuScenes, such as ``v1.0-trainval``.
        frames: samples as ``read_tables`` returns them.

    Raises:
        InputError: if the file cannot be written.
    """
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "version": version}
    with replacing(path) as partial:
        samples = [_frame_to_row(frame) for frame in frames]
        partial.write_text(json.dumps(content | {"samples": samples}, separators=(",", ":")))


def read_index(path: Path) -> tuple[str, list[Frame]]:
    """Return the version of nuScenes and the samples in an index file.

    Raises:
        InputError: if the file cannot be read, or has another format version.
    """
    repair = "make it again with `diffsight index-nuscenes`"
    with reading(path, f"cannot be read as an index of nuScenes ({{reason}}): {repair}"):
        content = read_object(path)
        if content.get("format") != FORMAT:
            raise InputError(f"{path}: not an index of nuScenes: {repair}")
        if content["format_version"] != FORMAT_VERSION:
            version = content["format_version"]
            raise InputError(f"{path}: index of version {version}, not {FORMAT_VERSION}: {repair}")
        if content["version"] not in _ARCHIVES:
            raise ValueError(f"unknown version {content['version']!r}")
        return content["version"], [_frame_from_row(row) for row in content["samples"]]


def _frame_to_row(frame: Frame) -> dict[str, Any]:
    cameras = zip(frame.images, frame.intrinsics, frame.camera_to_lidar, strict=True)
    sweeps = zip(frame.sweeps, frame.sweep_to_lidar, frame.ages_s, strict=True)
    return {
        "token": frame.token,
        "scene": frame.scene,
        "split": frame.split,
        "location": frame.location,
        "lidar_to_global": _to_numbers(frame.lidar_to_global[:3]),
        "cameras": [[file, _to_numbers(k), _to_numbers(pose[:3])] for file, k, pose in cameras],
        "points": frame.points,
        "sweeps": [[file, _to_numbers(pose[:3]), float(age)] for file, pose, age in sweeps],
    }


def _frame_from_row(row: Mapping[str, Any]) -> Frame:
    texts = {key: row[key] for key in ("token", "scene", "split", "location", "points")}
    images, intrinsics, cameras = zip(*row["cameras"], strict=True)
    sweeps = row["sweeps"][:MAX_SWEEPS]
    if not all(isinstance(one, str) for one in (*texts.values(), *images, *(s[0] for s in sweeps))):
        raise ValueError("a name is not a string")
    if len(images) != len(CAMERAS):
        raise ValueError(f"sample {texts['token']} has {len(images)} cameras")
    return Frame(
        **texts,
        lidar_to_global=_to_matrices([row["lidar_to_global"]])[0],
        images=images,
        intrinsics=_to_finite_array(intrinsics).reshape(-1, 3, 3),
        camera_to_lidar=_to_matrices(cameras),
        sweeps=tuple(one[0] for one in sweeps),
        sweep_to_lidar=_to_matrices([one[1] for one in sweeps]),
        ages_s=_to_finite_array([one[2] for one in sweeps]),
    )


def _to_numbers(matrix: Float64[np.ndarray, "..."]) -> list[float]:
    return np.round(matrix, DECIMALS).ravel().tolist()


def _to_matrices(rows: Sequence[Sequence[float]]) -> Float64[np.ndarray, "n 4 4"]:
    """Return 4 x 4 poses; a row has the 12 numbers of the first three rows of one."""
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    matrices[:, :3] = _to_finite_array(rows).reshape(len(rows), 3, 4)
    return matrices


def _to_finite_array(values: Sequence[Any]) -> Float64[np.ndarray, "..."]:
    """Return numbers as an array, or raise a ValueError if one is not finite."""
    numbers = np.array(values, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("a number is not finite")
    return numbers
