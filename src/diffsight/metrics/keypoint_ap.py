"""Average precision of joints as COCO scores them."""

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
    """Average precision and recall over OKS thresholds 0.5 to 0.95, as COCO scores joints.

    Figures are in [0, 1]; -1 where there is nobody of that size.

    Args:
        sigmas: of the joints.
    """

    full_state_update = False

    def __init__(self, sigmas: Sequence[float]) -> None:
        super().__init__()
        self.sigmas = tuple(sigmas)
        self.images: Tensor
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        for name in ("found", "truth"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, found: People, truth: People) -> None:
        """Add one image.

        Args:
            found: with the scores of people and, as the third number of joints, anything.
            truth: with labelled joints; crowds, and people without any, are neither missed nor
                wrongly found.
        """
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        rank = torch.distributed.get_rank() if world > 1 else 0
        number = float(self.images * world + rank)
        self.images += 1
        for name, people, last in (
            ("found", found, found.scores),
            ("truth", truth, truth.is_crowd),
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
        """Return ``ap``, at OKS 0.5 and 0.75, of medium and large people; and recall alike."""
        rows = {name: _joined(getattr(self, name)) for name in ("found", "truth")}
        truth = [_annotation(i + 1, row) for i, row in enumerate(rows["truth"].tolist())]
        numbers = sorted({int(row[0]) for both in rows.values() for row in both.tolist()})
        if not truth:
            return dict.fromkeys(FIGURES, torch.tensor(-1.0).double())
        names = [{"id": number + 1} for number in numbers]
        categories = [{"id": 1, "name": "person"}]
        data = COCO({"images": names, "annotations": truth, "categories": categories})
        # as a results file has them: the size of a pose is that of its joints
        found = [
            {key: row[key] for key in ("image_id", "category_id", "keypoints", "score")}
            for row in (_annotation(0, row) for row in rows["found"].tolist())
        ]
        if not found:
            return dict.fromkeys(FIGURES, torch.tensor(0.0).double())
        sigmas: Any = np.array(self.sigmas)
        scorer = COCOeval_faster(
            data,
            data.loadRes(found),
            "keypoints",
            kpt_oks_sigmas=sigmas,
            print_function=lambda *words: None,
        )
        scorer.run()
        stats = torch.tensor(scorer.stats, dtype=torch.float64)
        return dict(zip(FIGURES, stats, strict=False))


def _joined(rows: Any) -> Tensor:
    if isinstance(rows, Tensor):  # after the exchange between processes
        return rows
    return torch.cat(rows) if rows else torch.zeros(0, 7)


def _annotation(number: int, row: Sequence[float]) -> Mapping[str, Any]:
    """Return a row as COCO writes it; the seventh number is a score, or whether it is a crowd."""
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
        "num_keypoints": sum(1 for seen in joints[2::3] if seen > 0),
    }
