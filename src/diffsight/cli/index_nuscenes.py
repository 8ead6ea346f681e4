"""``diffsight index-nuscenes``: write the index file that the data set ``NuScenes`` reads."""

import logging
from typing import Literal

from diffsight.cli import options
from diffsight.cli.flags import command

log = logging.getLogger(__name__)


@command("index-nuscenes")
def main(
    *,
    root: options.Folder,
    version: Literal["v1.0-mini", "v1.0-trainval"],
    out: options.File,
) -> int:
    """Read the tables of nuScenes and write the index file that training reads.

    The command also checks that all images, LiDAR sweeps and maps of the index exist.
    v1.0-trainval takes some minutes and 6 GB of memory.

    Args:
        root: folder of nuScenes, which contains samples/, sweeps/, maps/ and the folder of the
            version.
        version: version of nuScenes, the name of the folder with the tables.
        out: JSON file of the index to write.

    Example:
        diffsight index-nuscenes --root data/nuscenes --version v1.0-mini --out mini.json
    """
    from diffsight.datasets.nuscenes_tables import (
        read_tables,
        require_files,
        require_writable,
        write_index,
    )

    require_writable(out)
    frames = read_tables(root, version)
    require_files(root, version, frames)
    write_index(out, version, frames)
    train = sum(frame.split == "train" for frame in frames)
    log.info("%s: %d samples for training, %d for validation", out, train, len(frames) - train)
    return 0
