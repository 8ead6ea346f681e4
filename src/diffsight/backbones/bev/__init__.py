"""Cameras around a vehicle as one map seen from above (BEVFusion, on which DDP's maps stand)."""

from diffsight.backbones.bev.cameras import CameraMap

__all__ = ["CameraMap"]
