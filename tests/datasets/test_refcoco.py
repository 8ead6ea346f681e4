"""RefCOCO reads the layout of the REFER tool, and its masks equal those of pycocotools."""

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
from tests.support_refcoco import POLYGONS, REFS, RUN_LENGTHS, make_ref, write_refcoco

from diffsight.datasets import RandomSentence, RefCOCO
from diffsight.datasets.shapes import count_parts
from diffsight.errors import InputError
from diffsight.outputs import Classes
from diffsight.tasks import Referring
from diffsight.types import Target


def test_a_sample_is_an_object_with_all_its_sentences(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    data = RefCOCO(root=root, size=None)
    (sample,) = [data[i] for i in range(len(data))]
    assert (data.name, sample.prompt) == ("refcoco-unc-train", "the red chair")
    assert sample.sentences == ("the red chair", "chair left of the table", "leftmost")
    prompts = {
        RandomSentence()(sample, torch.Generator().manual_seed(seed)).prompt for seed in range(30)
    }
    assert prompts == set(sample.sentences)
    samples = RefCOCO(root=root, split="val")[0].split_by_sentence()
    assert [(one.prompt, one.sentences) for one in samples] == [
        ("the caf\xe9 sign", ("the caf\xe9 sign",)),
        ("sign", ("sign",)),
    ]
    assert len({one.id for one in samples}) == 2


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@pytest.mark.parametrize("outline", [POLYGONS, RUN_LENGTHS])
def test_masks_equal_those_of_pycocotools(outline: Any) -> None:
    runs = pycocotools.mask.frPyObjects(outline, 24, 30)
    expected = pycocotools.mask.decode(runs if isinstance(runs, list) else [runs]).sum(axis=2)
    counts = count_parts(Path("a.json"), outline, (24, 30))
    assert np.array_equal(counts, expected)
    assert set(np.unique(expected)) == ({0, 1, 2} if outline is POLYGONS else {0, 1})


def test_image_and_mask_are_stretched_to_a_square(tmp_path: Path) -> None:
    sample = RefCOCO(root=write_refcoco(tmp_path), size=64)[0]
    assert sample.image.shape == (3, 64, 64)
    label = sample.labels["referent"]
    whole = RefCOCO(root=tmp_path, size=None)[0].labels["referent"]
    rows = ((torch.arange(64) + 0.5) * 24 / 64).long()
    columns = ((torch.arange(64) + 0.5) * 30 / 64).long()
    assert torch.equal(label, whole[rows][:, columns])
    # pixels where parts overlap are background, so the loss accepts the label
    assert set(label.unique().tolist()) == {0, 1}
    output = Classes(torch.zeros(1, 2, 64, 64))
    loss = Referring().loss(output, Target(label[None], sample.valid["referent"][None]))["loss"]
    assert float(loss) == pytest.approx(math.log(2), rel=1e-5)
    assert sample.valid["referent"].all()


def test_the_pickle_is_converted_to_json_once(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    first = RefCOCO(root=root, split="val")[0].sentences
    (root / "refcoco" / "refs(unc).p").unlink()
    assert RefCOCO(root=root, split="val")[0].sentences == first
    for broken in ("[{", '[{"split": "val"}]', "3"):
        (root / "refcoco" / "refs(unc).json").write_text(broken)
        with pytest.raises(InputError, match=r"refs\(unc\)\.json: damaged"):
            RefCOCO(root=root)


def test_a_replaced_pickle_is_converted_again(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    pickled, copy = (root / "refcoco" / f"refs(unc).{suffix}" for suffix in ("p", "json"))
    assert RefCOCO(root=root)[0].prompt == "the red chair"
    seen = copy.stat().st_mtime_ns
    pickled.touch()  # a copied folder has other times
    assert RefCOCO(root=root)[0].prompt == "the red chair"
    assert copy.stat().st_mtime_ns == seen
    pickled.write_bytes(pickle.dumps([make_ref(1, "train", ["the old chair"])], protocol=2))
    assert RefCOCO(root=root)[0].prompt == "the old chair"
    rows = json.loads(copy.read_text())["refs"]
    # a copy of an earlier version: a list, without the hash of its pickle
    copy.write_text(json.dumps([rows[0] | {"sentences": ["a lamp"]}]))
    assert RefCOCO(root=root)[0].prompt == "the old chair"
    copy.write_text(json.dumps([rows[0] | {"sentences": ["a lamp"]}]))
    pickled.unlink()
    assert RefCOCO(root=root)[0].prompt == "a lamp"


class Code:
    """An object that would create a folder if it were unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_unusable_files_are_refused_with_their_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"refs\(unc\)\.p: No such file"):
        RefCOCO(root=tmp_path)
    root = write_refcoco(tmp_path, [Code()])
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
    with pytest.raises(InputError, match=r"31 x 24 pixels, but instances\.json says 30 x 24"):
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
def test_damaged_outlines_are_refused_with_their_annotation(
    tmp_path: Path, outline: Any, message: str
) -> None:
    root = write_refcoco(tmp_path)
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
def test_a_json_copy_with_wrong_types_is_refused(tmp_path: Path, change: Any) -> None:
    root = write_refcoco(tmp_path)
    RefCOCO(root=root)
    path = root / "refcoco" / "refs(unc).json"
    content = json.loads(path.read_text())
    change(content["refs"])
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"refs\(unc\)\.json: damaged \(.*\): delete it"):
        RefCOCO(root=root)
