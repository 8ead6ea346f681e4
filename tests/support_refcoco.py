"""Write a small RefCOCO data set in the layout of the REFER tool."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

POLYGONS = [[2.0, 3.0, 17.5, 3.0, 17.5, 12.0, 2.0, 12.0], [10.0, 8.0, 25.0, 8.0, 25.0, 19.0]]
RUN_LENGTHS = {"size": [24, 30], "counts": [5, 7, 300, 20, 388]}


def make_ref(number: int, split: str, sentences: list[str]) -> dict[str, Any]:
    """Return an entry of the REFER tool's pickle; its annotation has the id 100 + ``number``."""
    return {
        "ref_id": number,
        "ann_id": 100 + number,
        "image_id": 7,
        "split": split,
        "file_name": "COCO_train2014_000000000007_0.jpg",
        "sentences": [{"sent": text, "raw": text.upper(), "tokens": [text]} for text in sentences],
    }


REFS = [
    make_ref(1, "train", ["the red chair", "chair left of the table", "leftmost"]),
    make_ref(2, "val", ["the caf\xe9 sign", "sign"]),
]


def write_refcoco(root: Path, refs: Any = REFS) -> Path:
    """Write one image, two annotations and the pickle of ``refs``; return ``root``."""
    images = root / "images" / "mscoco" / "images" / "train2014"
    images.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / "COCO_train2014_000000000007.jpg", quality=95)
    (root / "refcoco").mkdir()
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    name = "COCO_train2014_000000000007.jpg"
    instances = {
        "images": [{"id": 7, "file_name": name, "height": 24, "width": 30}],
        "annotations": [
            {"id": 101, "image_id": 7, "segmentation": POLYGONS},
            {"id": 102, "image_id": 7, "segmentation": RUN_LENGTHS},
        ],
    }
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))
    return root
