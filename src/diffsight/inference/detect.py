"""Find the boxes of people in a photograph, with a detector of transformers or in a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import RTDetrForObjectDetection

from diffsight.datasets.captioned import photo_key
from diffsight.datasets.coco_keypoints import boxes_to_people, read_person_boxes
from diffsight.errors import InputError
from diffsight.formats.text import reason_of
from diffsight.inference.storage import Url
from diffsight.ops.resize import resize_image
from diffsight.types import People

DETECTOR = "PekingU/rtdetr_r50vd"
SIDE = 640  # side of the input of RT-DETR in pixels
MIN_SCORE = 0.5
PERSON = "person"


class PersonDetector:
    """Detects people with RT-DETR (Zhao et al., CVPR 2024) at 640 x 640 pixels.

    Args:
        source: folder or hub id of the detector; default: ``DETECTOR``.
        device: device to run on.

    Raises:
        InputError: if the detector cannot be loaded, or has no class for people.
    """

    def __init__(self, source: str | Path | None = None, *, device: str = "cpu") -> None:
        source = source or DETECTOR
        try:
            model: Any = RTDetrForObjectDetection.from_pretrained(source)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(
                f"the person detector {source} cannot be loaded ({reason_of(error)}): give boxes "
                "with --boxes FILE, or a folder with --detector"
            ) from None
        self.model = model.eval().to(device)
        names = {str(name).casefold(): int(i) for i, name in model.config.id2label.items()}
        if PERSON not in names:
            raise InputError(f"{source}: detects no class {PERSON!r}: give another detector")
        self.person = names[PERSON]

    @torch.inference_mode()
    def __call__(self, image: Float[Tensor, "3 h w"]) -> People:
        """Return the people of an image with a score of at least 0.5, the best score first.

        Args:
            image: RGB in [0, 1].
        """
        height, width = image.shape[-2:]
        square = resize_image(image[None].to(self.model.device), (SIDE, SIDE))
        output = self.model(pixel_values=square)
        scores = output.logits[0].sigmoid()[:, self.person].cpu()
        centres, sides = output.pred_boxes[0].cpu().split(2, dim=-1)
        edges = torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)
        edges = edges.clamp(0, 1) * edges.new_tensor([width, height, width, height])
        order = scores.argsort(descending=True)
        is_person = (scores >= MIN_SCORE) & (edges[:, 2:] > edges[:, :2]).all(dim=1)
        rows = order[is_person[order]]
        return People.of_boxes(edges[rows].float(), scores[rows].float())


class BoxFile:
    """Boxes of people in photographs, in the format of COCO's detection results.

    ``image_id`` is the path of an image file relative to the folder of this file, or only its name,
    with or without the suffix. It may also be the whole path or URL of the image, or a number if
    that is its name.

    Args:
        path: JSON list of ``image_id``, ``bbox`` (left, top, width, height in pixels) and
            ``score``.

    Raises:
        InputError: if the file is not such a list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._boxes = read_person_boxes(path)

    def people(self, image: Path, hw: tuple[int, int]) -> People:
        """Return the people of an image; no people if the file does not name the image.

        Args:
            image: image file.
            hw: height and width of the image in pixels.

        Raises:
            InputError: if a box lies outside the image or is empty.
        """
        key = self._find(image)
        return boxes_to_people(self.path, [] if key is None else self._boxes[key], hw)

    def require(self, images: Sequence[Path]) -> None:
        """Check that the file has boxes of at least one of these images, and of which.

        Args:
            images: image files.

        Raises:
            InputError: if the file names none of the images, or two of them by the same name.
        """
        named: dict[Any, Path] = {}
        for image in images:
            key = self._find(image)
            if key is None:
                continue
            if key in named:
                raise InputError(
                    f"{self.path}: the boxes of {key} may be those of {named[key]} or {image}: "
                    "give paths relative to the folder of this file, or URLs, as image_id"
                )
            named[key] = image
        if not named:
            first = ", ".join(map(str, list(self._boxes)[:3])) or "nothing"
            raise InputError(
                f"{self.path}: no boxes of the given images (it has {first}): image_id must be the "
                "name of an image file"
            )

    def _find(self, image: Path) -> Any:
        """Return the ``image_id`` of an image in the file; None if there is none."""
        relative = photo_key(image, self.path)
        names: list[Any] = [str(Url(image)), relative, str(Path(relative).with_suffix(""))]
        names += [image.name, image.stem]
        if image.stem.isdecimal():
            names.append(int(image.stem))
        return next((name for name in names if name in self._boxes), None)
