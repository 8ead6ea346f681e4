"""Backbones that make bird's-eye-view maps of cameras and a LiDAR (BEVFusion, used by DDP)."""

from diffsight.backbones.bev.cameras import CameraMap
from diffsight.backbones.bev.fusion import CameraLidarMap
from diffsight.backbones.bev.lidar import LidarMap

__all__ = ["CameraLidarMap", "CameraMap", "LidarMap"]
