"""Random numbers of a room: one stream per purpose."""

from diffsight.ops.draw import Draw

RENDERER_VERSION = "rooms-1"
SPLITS = ("train", "val", "test")


def stream(split: str, seed: int, index: int, purpose: str) -> Draw:
    """Return one stream of random decisions.

    Args:
        split: one of ``SPLITS``.
        seed: of the data set.
        index: of the scene.
        purpose: so that a change of one part leaves the others as they are.
    """
    return Draw(f"{RENDERER_VERSION}/{split}/{seed}/{index}/{purpose}")
