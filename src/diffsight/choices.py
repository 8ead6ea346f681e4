"""Names that options choose from. No torch, so that ``--help`` can list them at once."""

from typing import Literal

LabelKind = Literal["segmentation", "depth", "scalar", "normals", "vector"]
LabelFileForm = Literal["masks", "coco", "labelme"]  # that labels are written in
Spacing = Literal["log", "log1p", "linear", "quantile"]
Preset = Literal["vtm", "clean", "native"]  # of Taskonomy
NYUTrainSplit = Literal["train", "official-train"]
TrainingDtype = Literal["float32", "bfloat16"]  # float16 would need its loss scaled
Dtype = Literal["float32", "bfloat16", "float16"]

CONTROLNET = "lllyasviel/sd-controlnet-seg"
"""ControlNet of segmentation that ``diffsight control`` uses by default."""
STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""Stable Diffusion that it was trained with."""
