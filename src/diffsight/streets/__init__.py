"""A procedural street world: six cameras and a LiDAR on a vehicle, with exact maps around it."""

from diffsight.streets.dataset import Streets
from diffsight.streets.ground import CLASSES
from diffsight.streets.scene import SPLITS, WORLD_VERSION

__all__ = ["CLASSES", "SPLITS", "WORLD_VERSION", "Streets"]
