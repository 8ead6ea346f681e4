"""Models of things: solids in a local frame with the foot at y = 0 and the front towards +z."""

from dataclasses import dataclass, field

import numpy as np

from diffsight.ops.draw import Draw
from diffsight.rooms.materials import LOOKS, WOODS, make_material, shade, tint
from diffsight.rooms.world import (
    Material,
    Pattern,
    Primitive,
    Shape,
    Thing,
    Vector,
    align_y,
    compose,
    length,
    rotate,
    rotation_y,
)


@dataclass(frozen=True)
class Surface:
    """A horizontal surface on which small things can stand. All lengths are in metres.

    Attributes:
        centre: position of its centre in the frame of the model.
        half_x: half its width.
        half_z: half its depth.
        clearance: free height above it.
    """

    centre: Vector
    half_x: float
    half_z: float
    clearance: float = 2.0


@dataclass
class Model:
    """A thing in its local frame, without a position in the room. All lengths are in metres.

    Attributes:
        kind: one of ``CLASSES``.
        colour: colour word of its main part.
        look: word for the pattern of its main part, or "".
        half_x: half the width of its footprint.
        half_z: half the depth of its footprint.
        height: height.
        parts: its solids.
        surfaces: surfaces on which small things can stand.
        joints: keypoints of a person, see ``Thing``; None for all others.
    """

    kind: str
    colour: str = ""
    look: str = ""
    half_x: float = 0.0
    half_z: float = 0.0
    height: float = 0.0
    parts: list[Primitive] = field(default_factory=list)
    surfaces: list[Surface] = field(default_factory=list)
    joints: tuple[np.ndarray, np.ndarray] | None = None

    def add(
        self,
        shape: Shape,
        centre: Vector | np.ndarray,
        size: Vector,
        surface: Material,
        *,
        rotation: np.ndarray | None = None,
        caps: tuple[bool, bool] = (True, True),
        casts_shadow: bool = True,
        sky: bool = False,
    ) -> None:
        """Add a solid; the arguments are those of ``Primitive``, ``surface`` is its material."""
        turn = np.eye(3) if rotation is None else rotation
        centre = np.asarray(centre, dtype=np.float64)
        self.parts.append(
            Primitive(shape, centre, turn, size, surface, -1, caps, casts_shadow, sky)
        )

    def add_box(self, centre: Vector, half: Vector, surface: Material) -> None:
        """Add a box of these half extents."""
        self.add("box", centre, half, surface)

    def add_post(self, foot: Vector, height: float, radius: float, surface: Material) -> None:
        """Add an upright cylinder that stands on ``foot``."""
        centre = (foot[0], foot[1] + height / 2, foot[2])
        self.add("frustum", centre, (radius, radius, height / 2), surface)

    def add_limb(
        self, start: np.ndarray, end: np.ndarray, radius: float, surface: Material
    ) -> None:
        """Add a capsule between two points."""
        way = end - start
        self.add(
            "capsule",
            (start + end) / 2,
            (radius, length(way) / 2, 0.0),
            surface,
            rotation=align_y(way),
        )


def instantiate(
    model: Model, position: Vector, yaw: float, index: int, first: int, support: int | None = None
) -> tuple[Thing, list[Primitive]]:
    """Return a model as a thing of the scene, with its solids in the world frame.

    Args:
        model: the model.
        position: position of its foot in metres.
        yaw: rotation about y in radians.
        index: index of the thing in the scene.
        first: index of its first primitive in the scene.
        support: index of the thing on which it stands; None for the floor or a wall.
    """
    turn = rotation_y(yaw)
    base = np.array(position)
    solids = [
        Primitive(
            part.shape,
            base + rotate(turn, part.centre),
            compose(turn, part.rotation),
            part.size,
            part.material,
            index,
            part.caps,
            part.casts_shadow,
            part.sky,
        )
        for part in model.parts
    ]
    joints = model.joints
    if joints is not None:
        moved = np.stack([base + rotate(turn, joint) for joint in joints[0]])
        joints = (moved, joints[1])
    thing = Thing(
        model.kind,
        model.colour,
        model.look,
        position,
        model.half_x,
        model.half_z,
        model.height,
        yaw,
        support,
        joints,
        first,
        len(solids),
    )
    return thing, solids


@dataclass(frozen=True)
class Style:
    """The colours that the furniture of one room has in common.

    Attributes:
        palette: colour words of the furniture.
        wood: sRGB colour of the wood.
    """

    palette: tuple[str, ...]
    wood: tuple[float, float, float]

    @classmethod
    def draw(cls, draw: Draw, palette: tuple[str, ...]) -> "Style":
        """Return a random style: three or four colours of a palette, and one kind of wood."""
        return cls(tuple(draw.shuffled(palette)[: draw.integer(3, 4)]), draw.choice(WOODS))

    def make_wood(self, draw: Draw, gloss: float = 0.1) -> Material:
        """Return a material of the wood of this style."""
        first = tint(draw, self.wood, 0.015)
        scale, seed = draw.uniform(0.04, 0.08), draw.integer(0, 2**31 - 1)
        return Material("wood", first, shade(first, 0.55), scale, seed, gloss)

    def make_fabric(self, draw: Draw) -> tuple[Material, str, str]:
        """Return a fabric, the name of its colour, and a word for its pattern or ""."""
        colour = draw.choice(self.palette)
        patterns: tuple[Pattern, ...] = ("solid", "solid", "solid", "stripes", "checker", "dots")
        pattern = draw.choice(patterns)
        second = draw.choice((None, "white", "grey"))
        if second == colour:
            second = None
        scale = draw.uniform(0.08, 0.2)
        made = make_material(draw, colour, pattern, second=second, scale_m=scale, gloss=0.0)
        return made, colour, LOOKS[pattern]

    def make_hard_material(
        self, draw: Draw, wood_probability: float = 0.6
    ) -> tuple[Material, str, str]:
        """Return wood, lacquer or marble, the name of its colour, and a word for its look or ""."""
        if draw.chance(wood_probability):
            return self.make_wood(draw), "brown", "wooden"
        colour = draw.choice((*self.palette, "white", "black", "grey"))
        pattern: Pattern = "marble" if draw.chance(0.12) else "solid"
        return make_material(draw, colour, pattern, gloss=0.3), colour, LOOKS[pattern]
