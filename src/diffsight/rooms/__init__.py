"""A procedural world of furnished rooms with exact labels."""

from diffsight.rooms.dataset import Expression, Rendering, Rooms, render_scene
from diffsight.rooms.draw import RENDERER_VERSION, SPLITS
from diffsight.rooms.labels import LABELS
from diffsight.rooms.people import Person
from diffsight.rooms.pose import PeopleRooms
from diffsight.rooms.referring import ReferringRooms
from diffsight.rooms.scene import ROOM_TYPES
from diffsight.rooms.world import CLASSES

__all__ = [
    "CLASSES",
    "LABELS",
    "RENDERER_VERSION",
    "ROOM_TYPES",
    "SPLITS",
    "Expression",
    "PeopleRooms",
    "Person",
    "ReferringRooms",
    "Rendering",
    "Rooms",
    "render_scene",
]
