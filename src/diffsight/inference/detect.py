"""Boxes of people in a photograph: a detector of transformers, or a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import RTDetrForObjectDetection

from diffsight.datasets.coco_keypoints import boxes_of_people, people_in
from diffsight.errors import InputError
from diffsight.formats.text import reason_of
from diffsight.ops.resize import resized_image
from diffsight.types import People

DETECTOR = "PekingU/rtdetr_r50vd"
SIDE = 640  # of the square that RT-DETR sees
LEAST_SCORE = 0.5
PERSON = "person"


class PersonDetector:
    """RT-DETR (Zhao et al., CVPR 2024) on an image stretched to 640 x 640 pixels.

    Args:
        source: folder, or hub id; default: ``DETECTOR``.
        device: where to run.

    Raises:
        InputError: if it cannot be loaded, or finds no people.
    """

    def __init__(self, source: str | Path | None = None, *, device: str = "cpu") -> None:
        source = source or DETECTOR
        try:
            model: Any = RTDetrForObjectDetection.from_pretrained(source)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(
                f"the detector of people {source} cannot be loaded ({reason_of(error)}): give "
                "boxes with --boxes FILE, or a folder with --detector"
            ) from None
        self.model = model.eval().to(device)
        names = {str(name).casefold(): int(i) for i, name in model.config.id2label.items()}
        if PERSON not in names:
            raise InputError(f"{source}: detects no class {PERSON!r}: give another detector")
        self.person = names[PERSON]

    @torch.inference_mode()
    def __call__(self, image: Float[Tensor, "3 h w"]) -> People:
        """Return the people in an image in [0, 1], with a score of at least 0.5, best first."""
        height, width = image.shape[-2:]
        square = resized_image(image[None].to(self.model.device), (SIDE, SIDE))
        found = self.model(pixel_values=square)
        scores = found.logits[0].sigmoid()[:, self.person].cpu()
        centres, sides = found.pred_boxes[0].cpu().split(2, dim=-1)
        edges = torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)
        edges = edges.clamp(0, 1) * edges.new_tensor([width, height, width, height])
        order = scores.argsort(descending=True)
        is_person = (scores >= LEAST_SCORE) & (edges[:, 2:] > edges[:, :2]).all(dim=1)
        rows = order[is_person[order]]
        return People.of_boxes(edges[rows].float(), scores[rows].float())


class BoxFile:
    """Boxes of people in photographs, in the form of COCO's detections.

    ``image_id`` is the name of a file, with or without its suffix, or the number that it is.

    Args:
        path: JSON list of ``image_id``, ``bbox`` (left, top, width, height) and ``score``.

    Raises:
        InputError: if it is no such list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._boxes = boxes_of_people(path)

    def people(self, image: Path, hw: tuple[int, int]) -> People:
        """Return the people of an image; nobody where the file names it not.

        Args:
            image: its file.
            hw: height and width in pixels.

        Raises:
            InputError: if a box lies outside of the image or is empty.
        """
        names: list[Any] = [image.name, image.stem]
        if image.stem.isdecimal():
            names.append(int(image.stem))
        rows = next((self._boxes[name] for name in names if name in self._boxes), [])
        return people_in(self.path, rows, hw)

    def require(self, images: Sequence[Path]) -> None:
        """Refuse a file that names none of the images.

        Raises:
            InputError: if there is none.
        """
        names = {name for image in images for name in (image.name, image.stem)}
        names |= {str(int(image.stem)) for image in images if image.stem.isdecimal()}
        if not any(str(name) in names for name in self._boxes):
            first = ", ".join(map(str, list(self._boxes)[:3])) or "nothing"
            raise InputError(
                f"{self.path}: names none of the images (it has {first}): image_id is the name of "
                "a file"
            )
