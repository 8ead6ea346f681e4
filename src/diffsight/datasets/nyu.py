"""NYU Depth v2 as depth papers use it: synchronised training frames, the official test set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.datasets.pairs import Pair, read_list, read_pair, require_files
from diffsight.errors import InputError
from diffsight.label_maps import NYU_SCENES

Split = Literal["train", "official-train", "test"]
FOLDERS: Mapping[Split, str] = {
    "train": "sync",
    "official-train": "official_splits/train",
    "test": "official_splits/test",
}


class NYUDepth(AbstractDataset):
    """Kinect images of rooms with z-depth in metres (16-bit PNG of millimetres).

    ``root`` is the folder ``nyu_depth_v2``: training reads ``sync/SCENE/rgb_00000.jpg`` and
    ``sync_depth_00000.png``, testing the same names below ``official_splits/test``, and
    ``official-train`` (the 795 labelled images of the training split) below
    ``official_splits/train``.

    The prompt of a sample is its scene type, read from the name of its folder, also in the test
    set: results with it are results of the protocol option ``oracle-scene``.

    Args:
        root: folder of the data set.
        split: ``train``, ``official-train`` or ``test``.
        list_file: the samples, one line ``/SCENE/rgb_00000.jpg /SCENE/sync_depth_00000.png`` each
            (24,231 and 654 lines in the literature); None takes every image that is there.

    Attributes:
        prompt_source: where prompts come from, for the table of results.

    Raises:
        InputError: if files are missing, or a folder is of no known scene.
    """

    prompt_source = "oracle-scene"

    def __init__(
        self,
        *,
        root: str | Path,
        split: Split = "train",
        list_file: str | Path | None = None,
    ) -> None:
        base = Path(root) / FOLDERS[split]
        rows = _find(base) if list_file is None else read_list(Path(list_file), columns=2)
        self.name = f"nyu-{split}"
        pairs = [
            Pair(
                Path(image).with_suffix("").as_posix(),
                base / image,
                base / depth,
                "mm",
                scene(image),
            )
            for image, depth in rows
        ]
        self.pairs = require_files(pairs, f"{base} is incomplete, or the list is of another layout")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``, with label ``depth_m`` and the scene as prompt.

        Raises:
            InputError: if a file cannot be used.
        """
        return read_pair(self.pairs[index])


def scene(image: str) -> str:
    """Return the scene type of ``SCENE/rgb_00000.jpg``: the first name in the folder's name.

    The rule is the authors', and so ``study_room_0004`` is ``study``, ``office_kitchen_0001`` is
    ``kitchen``, ``nyu_office_0`` is ``office``; ``study_room`` and ``office_kitchen`` never occur.

    Raises:
        InputError: if the name contains none.
    """
    folder = Path(image).parent.name
    for name in NYU_SCENES:
        if name in folder:
            return name
    raise InputError(
        f"{image}: folder {folder!r} is of none of the 27 scene types of NYU; rename it after one, "
        "or read your own images with the data set Folder"
    )


def _find(base: Path) -> list[tuple[str, ...]]:
    images = sorted(base.glob("*/rgb_*.jpg"))
    if not images:
        raise InputError(
            f"{base}: holds no SCENE/rgb_*.jpg; root must be the folder nyu_depth_v2 with sync/ "
            "and official_splits/"
        )
    rows = []
    for image in images:
        inner = image.relative_to(base)
        depth = inner.with_name(f"sync_depth_{image.stem.removeprefix('rgb_')}.png")
        rows.append((inner.as_posix(), depth.as_posix()))
    return rows
