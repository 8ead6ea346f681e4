"""Data sets, and transforms that change an image together with its labels."""

from diffsight.datasets.ade20k import ADE20K, ADE20KFull
from diffsight.datasets.captioned import Captioned
from diffsight.datasets.cityscapes import Cityscapes, MapillaryVistas
from diffsight.datasets.class_folder import ClassFolder
from diffsight.datasets.class_transforms import ClassCrop, Pad, PhotoMetricDistortion, RandomScale
from diffsight.datasets.coco_keypoints import CocoKeypoints
from diffsight.datasets.concatenated import Concatenated
from diffsight.datasets.depth_transforms import FixedCrop, RandomGain, RandomRotation
from diffsight.datasets.folder import Folder
from diffsight.datasets.kitti import KITTIDepth
from diffsight.datasets.labelled_folder import LabelledFolder, read_labelled_folder
from diffsight.datasets.nuscenes import NuScenes
from diffsight.datasets.nyu import NYUDepth
from diffsight.datasets.nyu_few_shot import NYUFewShotDepth, NYUNormals
from diffsight.datasets.person_crop import PersonCrop
from diffsight.datasets.refcoco import RefCOCO
from diffsight.datasets.rig_file import write_rig
from diffsight.datasets.rig_transforms import RandomCameras, RandomVehicle
from diffsight.datasets.sun_rgbd import SUNRGBD
from diffsight.datasets.taskonomy import Taskonomy
from diffsight.datasets.transforms import (
    CutDepth,
    DropPrompt,
    HorizontalFlip,
    HueSaturationValue,
    RandomBrightnessContrast,
    RandomCrop,
    RandomGamma,
    RandomSentence,
    Resize,
)
from diffsight.datasets.write_labels import write_coco, write_labelme, write_masks

__all__ = [
    "ADE20K",
    "SUNRGBD",
    "ADE20KFull",
    "Captioned",
    "Cityscapes",
    "ClassCrop",
    "ClassFolder",
    "CocoKeypoints",
    "Concatenated",
    "CutDepth",
    "DropPrompt",
    "FixedCrop",
    "Folder",
    "HorizontalFlip",
    "HueSaturationValue",
    "KITTIDepth",
    "LabelledFolder",
    "MapillaryVistas",
    "NYUDepth",
    "NYUFewShotDepth",
    "NYUNormals",
    "NuScenes",
    "Pad",
    "PersonCrop",
    "PhotoMetricDistortion",
    "RandomBrightnessContrast",
    "RandomCameras",
    "RandomCrop",
    "RandomGain",
    "RandomGamma",
    "RandomRotation",
    "RandomScale",
    "RandomSentence",
    "RandomVehicle",
    "RefCOCO",
    "Resize",
    "Taskonomy",
    "read_labelled_folder",
    "write_coco",
    "write_labelme",
    "write_masks",
    "write_rig",
]
