"""Average precision and recall of keypoints, as COCO defines them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor
from torchmetrics import Metric

from diffsight.types import People

FIGURES = (
    "ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large",
)  # fmt: skip


class KeypointAP(Metric):
    """Average precision and recall over the OKS thresholds 0.5 to 0.95 of COCO.

    The results are in [0, 1], or -1 if the data set has no person of that size.

    Args:
        sigmas: standard deviation of each joint in object keypoint similarity (OKS).
    """

    full_state_update = False

    def __init__(self, sigmas: Sequence[float]) -> None:
        super().__init__()
        self.sigmas = tuple(sigmas)
        self.images: Tensor
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        for name in ("predictions", "targets"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, prediction: People, target: People) -> None:
        """Add one image.

        Args:
            prediction: people with a score each; the third number of a joint is not used.
            target: people with labelled joints. Crowds, and people without a labelled joint, count
                neither as missed nor as false positives.
        """
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        rank = torch.distributed.get_rank() if world > 1 else 0
        number = float(self.images * world + rank)
        self.images += 1
        for name, people, last in (
            ("predictions", prediction, prediction.scores),
            ("targets", target, target.is_crowd),
        ):
            count = len(people)
            columns = [
                torch.full((count, 1), number),
                people.edges,
                people.areas[:, None],
                last[:, None],
                people.keypoints.flatten(1),
            ]
            getattr(self, name).append(torch.cat([c.cpu().double() for c in columns], dim=1))

    def compute(self) -> dict[str, Tensor]:
        """Return average precision (``ap``) and recall (``ar``) by name.

        ``ap50`` and ``ap75`` are the precision at OKS 0.5 and 0.75; ``ap_medium`` and ``ap_large``
        count only people of COCO's medium and large size. ``ar50`` to ``ar_large`` are the same for
        the recall.
        """
        rows = {name: _concatenate(getattr(self, name)) for name in ("predictions", "targets")}
        targets = [_to_annotation(i + 1, row) for i, row in enumerate(rows["targets"].tolist())]
        numbers = sorted({int(row[0]) for both in rows.values() for row in both.tolist()})
        if not targets:
            return dict.fromkeys(FIGURES, torch.tensor(-1.0).double())
        images = [{"id": number + 1} for number in numbers]
        categories = [{"id": 1, "name": "person"}]
        data = COCO({"images": images, "annotations": targets, "categories": categories})
        # only the keys of a results file, so that COCO takes the area of a pose from its joints
        predictions = [
            {key: row[key] for key in ("image_id", "category_id", "keypoints", "score")}
            for row in (_to_annotation(0, row) for row in rows["predictions"].tolist())
        ]
        if not predictions:
            return dict.fromkeys(FIGURES, torch.tensor(0.0).double())
        sigmas: Any = np.array(self.sigmas)
        scorer = COCOeval_faster(
            data,
            data.loadRes(predictions),
            "keypoints",
            kpt_oks_sigmas=sigmas,
            print_function=lambda *arguments: None,
        )
        scorer.run()
        stats = torch.tensor(scorer.stats, dtype=torch.float64)
        return dict(zip(FIGURES, stats, strict=False))


def _concatenate(rows: Any) -> Tensor:
    if isinstance(rows, Tensor):  # torchmetrics has already gathered the states of all processes
        return rows
    return torch.cat(rows) if rows else torch.zeros(0, 7)


def _to_annotation(number: int, row: Sequence[float]) -> Mapping[str, Any]:
    """Return a person as an annotation of COCO.

    Args:
        number: id of the annotation.
        row: image number, edges of the box, area, score of a prediction (or 1 for a target that is
            a crowd), and x, y and visibility of each joint.
    """
    image, left, top, right, bottom, area, last, *joints = row
    return {
        "id": number,
        "image_id": int(image) + 1,
        "category_id": 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": area,
        "score": last,
        "iscrowd": int(last),
        "keypoints": joints,
        "num_keypoints": sum(1 for visibility in joints[2::3] if visibility > 0),
    }
