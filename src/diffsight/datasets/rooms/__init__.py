"""A procedural world of furnished rooms with exact labels."""

from diffsight.datasets.rooms.dataset import Expression, Rendering, Rooms, render_scene
from diffsight.datasets.rooms.draw import RENDERER_VERSION, SPLITS
from diffsight.datasets.rooms.labels import LABELS
from diffsight.datasets.rooms.people import Person
from diffsight.datasets.rooms.person import KEYPOINTS
from diffsight.datasets.rooms.referring import ReferringRooms
from diffsight.datasets.rooms.scene import ROOM_TYPES
from diffsight.datasets.rooms.world import CLASSES

__all__ = [
    "CLASSES",
    "KEYPOINTS",
    "LABELS",
    "RENDERER_VERSION",
    "ROOM_TYPES",
    "SPLITS",
    "Expression",
    "Person",
    "ReferringRooms",
    "Rendering",
    "Rooms",
    "render_scene",
]
