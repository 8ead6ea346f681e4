"""Names of the files that ``predict`` writes for a film, and how they are recognised later.

The film ``NAME.mp4`` has the results ``NAME_overlay.mp4`` (the predictions over the film),
``NAME.json`` (description of all files and of every frame), and ``NAME_frames`` with files such as
``NAME_000001_depth.png``, as for images. ``.NAME.unfinished`` has what an interrupted run needs to
continue.
"""

import functools
import itertools
import json
import os
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffsight.errors import InputError
from diffsight.formats.text import read_object

FRAMES, OVERLAY = "_frames", "_overlay"  # ends of names
RECORD_KEYS = frozenset(("film", "overlay", "frame_rate", "frames"))  # of the JSON file
NUMBER = r"\d{6,}"


@dataclass(frozen=True)
class FilmFiles:
    """Paths of the results of one film.

    Attributes:
        base: output folder and name of the results.
    """

    base: Path

    @property
    def record(self) -> Path:
        """The JSON file, which is written last."""
        return self.base.with_name(f"{self.base.name}.json")

    @property
    def overlay(self) -> Path:
        """The film with the predictions over it."""
        return self.base.with_name(f"{self.base.name}{OVERLAY}.mp4")

    @property
    def frames(self) -> Path:
        """The folder of the frames."""
        return self.base.with_name(f"{self.base.name}{FRAMES}")

    @property
    def unfinished(self) -> Path:
        """The folder of an unfinished run; it does not exist after a complete one."""
        return self.base.with_name(f".{self.base.name}.unfinished")

    def frame(self, number: int, ending: str) -> Path:
        """Return the path of a file of a frame.

        Args:
            number: number of the frame; the first is 1.
            ending: end of the name, such as ``depth.png``.
        """
        return self.frames / f"{self.base.name}_{number:06d}_{ending}"

    def are_of_an_earlier_run(self) -> bool:
        """Return whether these files are those of an earlier run, complete or not."""
        return os.path.isdir(self.unfinished) or bool(read_record(self.record))

    def require_free(self) -> None:
        """Check that no other files would be replaced.

        Raises:
            InputError: if a file exists that no earlier run wrote.
        """
        if self.are_of_an_earlier_run():
            return
        has_frames = self.frames.is_dir() and any(self.frames.iterdir())
        for path, exists in (
            (self.record, self.record.exists()),
            (self.overlay, self.overlay.exists()),
            (self.frames, has_frames),
        ):
            if exists:
                raise InputError(
                    f"{path}: exists already and is not of an earlier run: choose another --out"
                )

    def remove(self) -> None:
        """Delete the results of an earlier run, the JSON file first."""
        self.record.unlink(missing_ok=True)
        self.overlay.unlink(missing_ok=True)
        own = re.compile(rf"{re.escape(self.base.name)}_{NUMBER}_\w+\.(png|npy)")
        if self.frames.is_dir():
            for path in list(self.frames.iterdir()):
                if own.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            if not any(self.frames.iterdir()):
                self.frames.rmdir()
        shutil.rmtree(self.unfinished, ignore_errors=True)


def read_record(path: Path) -> dict[str, Any]:
    """Return the contents of a film's JSON file; empty if it is missing or of another kind."""
    try:
        about = read_object(path)
    except (OSError, ValueError):
        return {}
    return about if about.keys() >= RECORD_KEYS else {}


def write_record(path: Path, about: Mapping[str, Any], frames: Iterable[Mapping[str, Any]]) -> None:
    """Write the JSON file of a film; only one frame is in memory at a time.

    Args:
        path: file to write.
        about: contents of the file without ``frames``.
        frames: entries of every frame.
    """
    head = json.dumps({**about, "frames": []}, indent=1).removesuffix("]\n}")
    with path.open("w", encoding="utf-8") as file:
        file.write(head)
        separator, end = "\n", "]\n}\n"
        for one in frames:
            file.write(separator + textwrap.indent(json.dumps(one, indent=1), "  "))
            separator, end = ",\n", "\n ]\n}\n"
        file.write(end)


def read_entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of every frame in the JSON file of a film, one after another.

    Args:
        path: file that ``write_record`` wrote.
    """
    with path.open(encoding="utf-8") as lines:
        entry: list[str] = []
        for line in itertools.dropwhile(lambda line: line != ' "frames": [\n', lines):
            if line.startswith("  "):  # of a frame
                entry.append(line)
            if line in ("  }\n", "  },\n"):
                yield json.loads("".join(entry).removesuffix("\n").removesuffix(","))
                entry = []


def is_overlay(path: Path) -> bool:
    """Return whether a film is the overlay that an earlier run wrote."""
    name = path.stem.removesuffix(OVERLAY)
    return name != path.stem and _has_results(path.with_name(name))


def is_film_result(path: Path) -> bool:
    """Return whether a file lies in the folder of frames that an earlier run wrote."""
    folder = path.parent
    name = folder.name.removesuffix(FRAMES)
    return name != folder.name and bool(name) and _has_results(folder.with_name(name))


def _has_results(base: Path) -> bool:
    files = FilmFiles(base)
    if os.path.isdir(files.unfinished):  # False for a name that is too long
        return True
    try:
        modified_ns = files.record.stat().st_mtime_ns
    except OSError:
        return False
    return _is_record(files.record, modified_ns)


@functools.lru_cache(maxsize=64)  # a folder has a file for every frame
def _is_record(path: Path, modified_ns: int) -> bool:
    return bool(read_record(path))
