"""Tasks: the meaning of the labels. One kind of label is one file, with its prediction."""

from diffsight.tasks.base import AbstractTask
from diffsight.tasks.bev import BEV, BEVPrediction
from diffsight.tasks.depth import Depth, DepthPrediction
from diffsight.tasks.normals import NormalPrediction, Normals
from diffsight.tasks.pose import Pose, PosePrediction
from diffsight.tasks.prediction import Prediction, StoredArray
from diffsight.tasks.referring import MaskPrediction, Referring
from diffsight.tasks.segmentation import ClassPrediction, Segmentation
from diffsight.tasks.values import ValuePrediction, Values

__all__ = [
    "BEV",
    "AbstractTask",
    "BEVPrediction",
    "ClassPrediction",
    "Depth",
    "DepthPrediction",
    "MaskPrediction",
    "NormalPrediction",
    "Normals",
    "Pose",
    "PosePrediction",
    "Prediction",
    "Referring",
    "Segmentation",
    "StoredArray",
    "ValuePrediction",
    "Values",
]
