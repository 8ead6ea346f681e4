"""NYU Depth v2 as depth papers use it: synchronised training frames and the official test set."""

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
    """Kinect images of rooms with z-depth in metres, read from 16-bit PNG of millimetres.

    ``root`` is the folder ``nyu_depth_v2``. The split ``train`` reads ``sync/SCENE/rgb_00000.jpg``
    and ``sync/SCENE/sync_depth_00000.png``. The split ``test`` reads the same names in
    ``official_splits/test``, and ``official-train`` (the 795 labelled images of the training set)
    in ``official_splits/train``.

    The prompt of a sample is its scene type, read from the name of its folder. This is also done
    in the test set, so results that use prompts belong to the protocol option ``oracle-scene``.

    Args:
        root: folder of the data set.
        split: ``train``, ``official-train`` or ``test``.
        list_file: list of samples, one per line as
            ``/SCENE/rgb_00000.jpg /SCENE/sync_depth_00000.png`` (24,231 training and 654 test
            samples in the literature); None reads every image in the folders.

    Raises:
        InputError: if files are missing, or the name of a folder contains no scene type.
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
        rows = _list_frames(base) if list_file is None else read_list(Path(list_file), columns=2)
        self.name = f"nyu-{split}"
        pairs = [
            Pair(
                Path(image).with_suffix("").as_posix(),
                base / image,
                base / depth,
                "mm",
                parse_scene(image),
            )
            for image, depth in rows
        ]
        self.pairs = require_files(pairs, f"{base} is incomplete, or the list has another layout")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at ``index``, with label ``depth_m`` and the scene as prompt.

        Raises:
            InputError: if a file cannot be used.
        """
        return read_pair(self.pairs[index])


def parse_scene(image: str) -> str:
    """Return the scene type of ``SCENE/rgb_00000.jpg``.

    It is the first name of ``NYU_SCENES`` that the name of the folder contains. By this rule of the
    authors, ``study_room_0004`` is ``study``, ``office_kitchen_0001`` is ``kitchen``, and
    ``nyu_office_0`` is ``office``. ``study_room`` and ``office_kitchen`` never occur.

    Raises:
        InputError: if the name of the folder contains no scene type.
    """
    folder = Path(image).parent.name
    for name in NYU_SCENES:
        if name in folder:
            return name
    raise InputError(
        f"{image}: folder {folder!r} names none of the 27 scene types of NYU; rename it after one, "
        "or read your own images with the data set Folder"
    )


def _list_frames(base: Path) -> list[tuple[str, ...]]:
    """Return the paths of the image and depth file of every frame, relative to ``base``.

    Raises:
        InputError: if there are no images.
    """
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
