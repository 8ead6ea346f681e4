"""Cameras and a LiDAR of a vehicle as one map seen from above (BEVFusion, on which DDP stands)."""

from diffsight.backbones.bev.cameras import CameraMap
from diffsight.backbones.bev.fusion import CameraLidarMap
from diffsight.backbones.bev.lidar import LidarMap

__all__ = ["CameraLidarMap", "CameraMap", "LidarMap"]
