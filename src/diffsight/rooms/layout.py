"""Arrange the things of a room on the floor, on walls and on furniture, without overlap."""

import math
from collections.abc import Callable

import numpy as np

from diffsight.ops.draw import Draw
from diffsight.rooms.building import make_walls, offset_from_wall
from diffsight.rooms.models import Model, Surface, instantiate
from diffsight.rooms.world import Primitive, Thing, Vector, View, rotate

GAP_M = 0.02  # free margin around a thing
TRIES = 14  # random positions that are tried before a thing is left out
Footprint = tuple[float, float, float, float, float]  # x, z, half_x, half_z in metres; yaw


def overlap(a: Footprint, b: Footprint) -> bool:
    """Return whether two rotated rectangles on the floor overlap (separating axis theorem)."""
    axes = []
    for _, _, half_x, half_z, yaw in (a, b):
        s, c = math.sin(yaw), math.cos(yaw)
        axes.append(((c, -s), half_x, (s, c), half_z))
    dx, dz = b[0] - a[0], b[1] - a[1]
    for ux, _, uz, _ in axes:
        for n in (ux, uz):
            reach = sum(
                abs(n[0] * x[0] + n[1] * x[1]) * hx + abs(n[0] * z[0] + n[1] * z[1]) * hz
                for x, hx, z, hz in axes
            )
            if abs(n[0] * dx + n[1] * dz) > reach:
                return False
    return True


class Layout:
    """A room that is being furnished.

    Args:
        draw: stream of random numbers.
        half_size: half width, half height and half depth of the room in metres.
        view: the camera. Things are put where it sees them, but not directly in front of it.
    """

    def __init__(self, draw: Draw, half_size: Vector, view: View) -> None:
        self.draw = draw
        self.draw_seed = draw.integer(0, 2**31 - 1)
        self.half_size = half_size
        self.view = view
        self.things: list[Thing] = []
        self.primitives: list[Primitive] = []
        self.surfaces: list[tuple[int, Surface]] = []
        # the floor directly in front of the camera stays free
        forward = view.rotation[:, 2]
        yaw = math.atan2(float(forward[0]), float(forward[2]))
        ahead = 0.45
        self.taken: list[Footprint] = [
            (
                float(view.position[0]) + math.sin(yaw) * ahead,
                float(view.position[2]) + math.cos(yaw) * ahead,
                0.4,
                0.8,
                yaw,
            )
        ]
        # for each wall, the occupied intervals along it in metres
        self.hung: list[list[tuple[float, float]]] = [[], [], [], []]

    def add(self, model: Model, position: Vector, yaw: float, support: int | None = None) -> int:
        """Add a model without checking for free space; return the index of the thing.

        Args:
            model: model to add.
            position: position of its foot in metres.
            yaw: rotation about y in radians.
            support: index of the thing on which it stands; None for the floor or a wall.
        """
        index = len(self.things)
        thing, solids = instantiate(model, position, yaw, index, len(self.primitives), support)
        self.things.append(thing)
        self.primitives.extend(solids)
        if support is None:
            self.surfaces.extend((index, surface) for surface in model.surfaces)
        return index

    def fits(self, spot: Footprint) -> bool:
        """Return whether a footprint lies inside the room and overlaps no occupied footprint."""
        x, z, half_x, half_z, yaw = spot
        s, c = abs(math.sin(yaw)), abs(math.cos(yaw))
        if abs(x) + c * half_x + s * half_z > self.half_size[0] - 0.01:
            return False
        if abs(z) + s * half_x + c * half_z > self.half_size[2] - 0.01:
            return False
        return not any(overlap(spot, other) for other in self.taken)

    def is_visible(self, x: float, y: float, z: float, nearest_m: float = 1.1) -> bool:
        """Return whether a point is well inside a square image and deeper than ``nearest_m``."""
        offset = np.array([x, y, z]) - self.view.position
        right, down, forward = (float(v) for v in rotate(self.view.rotation.T, offset))
        reach = math.tan(self.view.fov_rad / 2) * forward * 0.92
        return forward > nearest_m and abs(right) < reach and abs(down) < reach

    def put_against_wall(self, model: Model) -> int | None:
        """Stand a model with its back to a wall; return its index, or None if no space is free."""
        for _ in range(TRIES):
            number = self.draw.integer(0, 2)
            wall = make_walls(self.half_size)[number]
            free = wall.half_length - model.half_x - 0.05
            if free <= 0:
                continue
            s = self.draw.uniform(-free, free)
            if self.draw.chance(0.25):
                s = math.copysign(free, s)
            x, z = offset_from_wall(
                wall, s, model.half_z + self.choose_wall_gap(number, s, model.half_x)
            )
            index = self.put_at(model, x, z, wall.yaw)
            if index is not None:
                return index
        return None

    def choose_wall_gap(self, number: int, s: float, half_x: float) -> float:
        """Return the distance in metres to leave between a thing and a wall.

        It is larger where something hangs on the wall behind the thing.

        Args:
            number: index of the wall, see ``make_walls``.
            s: offset of the thing along the wall in metres.
            half_x: half the width of the thing in metres.
        """
        hung = self.hung[number]
        free = all(s + half_x < low or s - half_x > high for low, high in hung)
        return 0.06 if free else 0.16

    def put_anywhere(self, model: Model, yaw: Callable[[], float]) -> int | None:
        """Stand a model somewhere on the floor; return its index, or None if no space is free.

        Args:
            model: model to add.
            yaw: function that draws a rotation about y in radians.
        """
        for _ in range(TRIES):
            reach_x = self.half_size[0] - model.half_x - 0.08
            reach_z = self.half_size[2] - model.half_z - 0.08
            if reach_x <= 0 or reach_z <= 0:
                return None
            x = self.draw.uniform(-reach_x, reach_x)
            z = self.draw.uniform(-reach_z, reach_z)
            index = self.put_at(model, x, z, yaw())
            if index is not None:
                return index
        return None

    def put_at(
        self, model: Model, x: float, z: float, yaw: float, margin_m: float = GAP_M
    ) -> int | None:
        """Stand a model on the floor at ``x, z``, if this position is free and in view.

        Returns:
            The index of the new thing, or None if the model was not added.
        """
        spot = (x, z, model.half_x + margin_m, model.half_z + margin_m, yaw)
        if not self.is_visible(x, model.height / 2, z) or not self.fits(spot):
            return None
        self.taken.append(spot)
        return self.add(model, (x, 0.0, z), yaw)

    def hang(self, model: Model, wall_number: int) -> tuple[float, int] | None:
        """Hang a model on a free part of a wall in view.

        Returns:
            Its offset along the wall in metres and its index, or None if no free part was found.
        """
        wall = make_walls(self.half_size)[wall_number]
        free = wall.half_length - model.half_x - 0.1
        if free <= 0:
            return None
        for _ in range(TRIES):
            s = self.draw.uniform(-free, free)
            span = (s - model.half_x - 0.08, s + model.half_x + 0.08)
            x, z = offset_from_wall(wall, s, 0.0)
            clear = all(span[1] < low or span[0] > high for low, high in self.hung[wall_number])
            if clear and self.is_visible(x, min(model.height * 0.75, 1.6), z):
                self.hung[wall_number].append(span)
                if model.kind == "door":
                    clear_x, clear_z = offset_from_wall(wall, s, 0.4)
                    self.taken.append((clear_x, clear_z, model.half_x, 0.4, wall.yaw))
                return s, self.add(model, (x, 0.0, z), wall.yaw)
        return None

    def put_on_top(self, model: Model, *, kinds: tuple[str, ...]) -> int | None:
        """Stand a small model on a thing of one of these kinds.

        Returns:
            The index of the new thing, or None if no surface has enough space.
        """
        options = [
            (owner, surface) for owner, surface in self.surfaces if self.things[owner].kind in kinds
        ]
        for owner, surface in self.draw.shuffled(options):
            free_x, free_z = surface.half_x - model.half_x, surface.half_z - model.half_z
            if (
                free_x < 0
                or model.half_z > surface.half_z + 0.06
                or model.height > surface.clearance
            ):
                continue
            carrier = self.things[owner]
            x = surface.centre[0] + self.draw.uniform(-free_x, free_x)
            z = surface.centre[2] + self.draw.uniform(-1, 1) * max(free_z, 0.0)
            taken = [
                self.footprint_of(other)
                for other in range(len(self.things))
                if self.things[other].support == owner
            ]
            s, c = math.sin(carrier.yaw), math.cos(carrier.yaw)
            world = (carrier.position[0] + c * x + s * z, carrier.position[2] - s * x + c * z)
            yaw = carrier.yaw + self.draw.uniform(-0.4, 0.4) * (model.kind not in ("tv", "cushion"))
            spot = (*world, model.half_x + 0.01, model.half_z + 0.01, yaw)
            if any(overlap(spot, other) for other in taken) or not self.is_visible(
                world[0], surface.centre[1], world[1]
            ):
                continue
            position = (world[0], carrier.position[1] + surface.centre[1], world[1])
            return self.add(model, position, yaw, owner)
        return None

    def footprint_of(self, index: int) -> Footprint:
        """Return the footprint of a thing."""
        thing = self.things[index]
        return (thing.position[0], thing.position[2], thing.half_x, thing.half_z, thing.yaw)
