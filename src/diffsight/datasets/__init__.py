"""Data sets: images with labels in physical units, and where a label means something."""

from diffsight.datasets.folder import Folder
from diffsight.datasets.kitti import KITTIDepth
from diffsight.datasets.nyu import NYUDepth

__all__ = ["Folder", "KITTIDepth", "NYUDepth"]
