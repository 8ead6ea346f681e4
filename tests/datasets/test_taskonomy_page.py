"""The page on data says which pixels of Taskonomy's class labels are valid and scored."""

from pathlib import Path

import numpy as np
import pytest

from diffsight.datasets.taskonomy_labels import CLASSES, class_map, class_tasks, scored_class_map

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
EVERYWHERE, CERTAIN = "everywhere", "u > 0"


def row_of(task: str) -> tuple[str, str]:
    """Return where a task has a label and where VTM scores it, as its row in the page says."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    table = lines[lines.index("| task | has a label where | `vtm` scores where |") :]
    line = next(line for line in table if line.startswith("|") and f"`{task}`" in line)
    _, labelled, scored = (cell.strip() for cell in line.strip("|").split("|"))
    return labelled, scored


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ("segment_semantic/CLASS", "segment_semantic/chair"),
        ("segment_semantic", "segment_semantic"),
    ],
)
def test_the_page_says_where_class_labels_are_valid_and_scored(row: str, task: str) -> None:
    classes = class_tasks()[task]
    ids = np.array([0, 1, CLASSES["chair"]], np.uint8).repeat(100)[None].repeat(100, axis=0)
    _, valid = class_map(classes, ids)
    truth, scored = scored_class_map(classes, "vtm", ids)
    for text, mask in zip(row_of(row), (valid, scored), strict=True):
        uncertain = mask[:, : mask.shape[1] // 4]
        assert text.startswith(EVERYWHERE if uncertain.all() else CERTAIN)
        assert uncertain.all() == mask.all()
    assert not truth[:, :50].any()  # an uncertain pixel is not of the class
