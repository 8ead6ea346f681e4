"""Random numbers of the rooms: one stream per scene and purpose."""

from diffsight.ops.draw import Draw

RENDERER_VERSION = "rooms-1"
SPLITS = ("train", "val", "test")


def stream(split: str, seed: int, index: int, purpose: str) -> Draw:
    """Return the stream of random numbers for one purpose in one scene.

    Args:
        split: one of ``SPLITS``.
        seed: seed of the data set.
        index: index of the scene.
        purpose: name of the part of the scene that the numbers decide, such as ``camera``. Every
            part has its own stream, so that a change of one part leaves the others unchanged.
    """
    return Draw(f"{RENDERER_VERSION}/{split}/{seed}/{index}/{purpose}")
