"""A procedural world of furnished rooms with exact labels."""

from diffsight.datasets.rooms.dataset import Rooms
from diffsight.datasets.rooms.draw import RENDERER_VERSION, SPLITS
from diffsight.datasets.rooms.labels import LABELS
from diffsight.datasets.rooms.scene import ROOM_TYPES
from diffsight.datasets.rooms.world import CLASSES

__all__ = ["CLASSES", "LABELS", "RENDERER_VERSION", "ROOM_TYPES", "SPLITS", "Rooms"]
