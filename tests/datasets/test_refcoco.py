"""The layout of the REFER tool, written small."""

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from PIL import Image

from diffsight.datasets import RandomSentence, RefCOCO
from diffsight.datasets.shapes import count_parts
from diffsight.errors import InputError
from diffsight.outputs import Classes
from diffsight.tasks import Referring
from diffsight.types import Target

POLYGONS = [[2.0, 3.0, 17.5, 3.0, 17.5, 12.0, 2.0, 12.0], [10.0, 8.0, 25.0, 8.0, 25.0, 19.0]]
RUNS = {"size": [24, 30], "counts": [5, 7, 300, 20, 388]}


def ref(number: int, split: str, sentences: list[str]) -> dict[str, Any]:
    return {
        "ref_id": number,
        "ann_id": 100 + number,
        "image_id": 7,
        "split": split,
        "file_name": "COCO_train2014_000000000007_0.jpg",
        "sentences": [{"sent": text, "raw": text.upper(), "tokens": [text]} for text in sentences],
    }


REFS = [
    ref(1, "train", ["the red chair", "chair left of the table", "leftmost"]),
    ref(2, "val", ["the caf\xe9 sign", "sign"]),
]


def write(root: Path, refs: Any = REFS) -> Path:
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
            {"id": 102, "image_id": 7, "segmentation": RUNS},
        ],
    }
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))
    return root


def test_a_thing_or_a_sentence_is_a_sample(tmp_path: Path) -> None:
    root = write(tmp_path)
    data = RefCOCO(root=root, size=None)
    (sample,) = [data[i] for i in range(len(data))]
    assert (data.name, sample.prompt) == ("refcoco-unc-train", "the red chair")
    assert sample.sentences == ("the red chair", "chair left of the table", "leftmost")
    seen = {
        RandomSentence()(sample, torch.Generator().manual_seed(seed)).prompt for seed in range(30)
    }
    assert seen == set(sample.sentences)
    asked = RefCOCO(root=root, split="val")[0].per_sentence()
    assert [(one.prompt, one.sentences) for one in asked] == [
        ("the caf\xe9 sign", ("the caf\xe9 sign",)),
        ("sign", ("sign",)),
    ]
    assert len({one.id for one in asked}) == 2


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@pytest.mark.parametrize("outline", [POLYGONS, RUNS])
def test_masks_are_those_of_coco(outline: Any) -> None:
    runs = pycocotools.mask.frPyObjects(outline, 24, 30)
    expected = pycocotools.mask.decode(runs if isinstance(runs, list) else [runs]).sum(axis=2)
    found = count_parts(Path("a.json"), outline, (24, 30))
    assert np.array_equal(found, expected)
    assert set(np.unique(expected)) == ({0, 1, 2} if outline is POLYGONS else {0, 1})


def test_stretched_as_the_papers_do(tmp_path: Path) -> None:
    sample = RefCOCO(root=write(tmp_path), size=64)[0]
    assert sample.image.shape == (3, 64, 64)
    label = sample.labels["referent"]
    whole = RefCOCO(root=tmp_path, size=None)[0].labels["referent"]
    rows = ((torch.arange(64) + 0.5) * 24 / 64).long()
    columns = ((torch.arange(64) + 0.5) * 30 / 64).long()
    assert torch.equal(label, whole[rows][:, columns])
    # where parts overlap is background, which the loss must take
    assert set(label.unique().tolist()) == {0, 1}
    output = Classes(torch.zeros(1, 2, 64, 64))
    loss = Referring().loss(output, Target(label[None], sample.valid["referent"][None]))["loss"]
    assert float(loss) == pytest.approx(math.log(2), rel=1e-5)
    assert sample.valid["referent"].all()


def test_the_pickle_is_converted_once(tmp_path: Path) -> None:
    root = write(tmp_path)
    first = RefCOCO(root=root, split="val")[0].sentences
    (root / "refcoco" / "refs(unc).p").unlink()
    assert RefCOCO(root=root, split="val")[0].sentences == first
    for broken in ("[{", '[{"split": "val"}]', "3"):
        (root / "refcoco" / "refs(unc).json").write_text(broken)
        with pytest.raises(InputError, match=r"refs\(unc\)\.json: damaged"):
            RefCOCO(root=root)


class Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"refs\(unc\)\.p: No such file"):
        RefCOCO(root=tmp_path)
    root = write(tmp_path, [Code()])
    with pytest.raises(InputError, match=r"refs\(unc\)\.p: names .*mkdir.*do not trust this file"):
        RefCOCO(root=root)
    assert not Path("evil").exists()
    pickled = root / "refcoco" / "refs(unc).p"
    pickled.write_bytes(pickle.dumps(REFS, protocol=2)[:-20])
    with pytest.raises(InputError, match="no list of references"):
        RefCOCO(root=root)
    pickled.write_bytes(pickle.dumps(REFS, protocol=2))
    with pytest.raises(InputError, match="no split 'testA' by unc; it has train, val"):
        RefCOCO(root=root, split="testA")
    with pytest.raises(InputError, match=r"refcoco\+ was not split by 'umd': choose unc"):
        RefCOCO(root=root, variant="refcoco+", splitter="umd")
    (image,) = (root / "images" / "mscoco" / "images" / "train2014").iterdir()
    Image.new("RGB", (31, 24)).save(image)
    with pytest.raises(InputError, match=r"31 x 24 pixels, instances\.json says 30 x 24"):
        RefCOCO(root=root)[0]
    image.unlink()
    with pytest.raises(InputError, match=r"1 of 1 images of refcoco-unc-train are missing \(COCO_"):
        RefCOCO(root=root)
    instances = root / "refcoco" / "instances.json"
    instances.write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(InputError, match=r"1 of 1 annotations are missing \(first: 101\)"):
        RefCOCO(root=root)
    instances.write_text("{}")
    with pytest.raises(InputError, match="not COCO's instances"):
        RefCOCO(root=root)


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        (None, "holds an outline that is no polygon or RLE"),
        ([], "holds an outline that is no polygon or RLE"),
        ([3], "a polygon has three corners"),
        ([[1.0, 2.0, 3.0]], "a polygon has three corners"),
        ([[1e9, 0.0, 5.0, 5.0, 5.0, 9.0]], "a corner lies far outside the image"),
        ([[math.nan, 0.0, 5.0, 5.0, 5.0, 9.0]], "a corner lies far outside the image"),
        ([["x"] * 6], "a polygon has three corners"),
        ({"counts": [720]}, "run lengths that do not fill 30 x 24 pixels"),
        ({"size": [2**31, 2**31], "counts": [720]}, "run lengths that do not fill 30 x 24 pixels"),
        ({"size": [24, 30], "counts": [10**6]}, "run lengths that do not fill 30 x 24 pixels"),
        ({"size": [24, 30]}, "run lengths that do not fill 30 x 24 pixels"),
        ({"size": [24, 30], "counts": [[1]]}, "run lengths that do not fill 30 x 24 pixels"),
    ],
)
def test_damaged_outlines(tmp_path: Path, outline: Any, message: str) -> None:
    root = write(tmp_path)
    path = root / "refcoco" / "instances.json"
    instances = json.loads(path.read_text())
    instances["annotations"][0]["segmentation"] = outline
    path.write_text(json.dumps(instances))
    with pytest.raises(InputError, match=rf"instances\.json: annotation 101: {message}"):
        RefCOCO(root=root)[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[0].update(split=3),
        lambda rows: rows[0].update(sentences="a chair"),
        lambda rows: rows[0].update(sentences=[3]),
        lambda rows: rows[0].update(sentences=[]),
        lambda rows: rows[0].update(ann_id=None),
        lambda rows: rows.append(0.5),
    ],
)
def test_copies_of_the_pickle_with_other_types(tmp_path: Path, change: Any) -> None:
    root = write(tmp_path)
    RefCOCO(root=root)
    path = root / "refcoco" / "refs(unc).json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"refs\(unc\)\.json: damaged \(.*\): delete it"):
        RefCOCO(root=root)
