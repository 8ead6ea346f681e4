"""Choices and defaults of options. This module imports no torch, so that ``--help`` is fast."""

from collections.abc import Mapping
from typing import Literal

LabelKind = Literal["segmentation", "depth", "scalar", "normals", "vector"]
LabelFileForm = Literal["masks", "coco", "labelme"]  # file formats of labels
Spacing = Literal["log", "log1p", "linear", "quantile"]  # of bins, see ScalarBins.fit
Preset = Literal["vtm", "clean", "native"]  # protocols of the Taskonomy benchmark
NYUTrainSplit = Literal["train", "official-train"]
TrainingDtype = Literal["float32", "bfloat16"]  # float16 would need loss scaling
Dtype = Literal["float32", "bfloat16", "float16"]
ExportFormat = Literal["onnx", "torch"]
EXPORT_SUFFIXES: Mapping[ExportFormat, str] = {"onnx": ".onnx", "torch": ".pt2"}
"""Endings of the files of ``diffsight export``."""

CONTROLNET = "lllyasviel/sd-controlnet-seg"
"""Segmentation ControlNet that ``diffsight control`` uses by default."""
STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""Stable Diffusion model that ``CONTROLNET`` was trained with."""
