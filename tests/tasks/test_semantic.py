import math

import pytest
import torch

from diffsight.errors import InputError
from diffsight.tasks import Semantic
from diffsight.types import RawOutput, Target

NAMES = ("wall", "door", "cat")


def logits(probabilities: list[list[list[float]]]) -> RawOutput:
    """From rows of pixels of class probabilities."""
    return RawOutput(torch.tensor(probabilities).log().permute(2, 0, 1)[None], "logits")


# two pixels with a label, one whose label means nothing and is out of range
RAW = logits([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]])
TARGET = Target(torch.tensor([[[1, 2, 255]]]), torch.tensor([[[True, True, False]]]))


def test_loss_is_the_mean_surprise_of_the_labelled_pixels() -> None:
    loss = Semantic(NAMES).loss(RAW, TARGET)["loss"]
    assert float(loss) == pytest.approx(-(math.log(0.25) + math.log(0.8)) / 2)
    weighted = Semantic(NAMES, weights=(1.0, 3.0, 0.5)).loss(RAW, TARGET)["loss"]
    assert float(weighted) == pytest.approx(-(3 * math.log(0.25) + 0.5 * math.log(0.8)) / 3.5)


def test_no_label_is_no_loss() -> None:
    raw = RawOutput(RAW.maps.clone().requires_grad_(), "logits")
    loss = Semantic(NAMES).loss(raw, Target(TARGET.label, torch.zeros_like(TARGET.valid)))["loss"]
    loss.backward()
    assert loss.item() == 0
    assert not raw.maps.grad.any()


def test_decoded_ids_carry_confidence_and_names() -> None:
    (found,) = Semantic(NAMES).decode(RAW)
    assert found.ids.tolist() == [[0, 2, 0]]
    torch.testing.assert_close(found.confidence, torch.tensor([[0.5, 0.8, 0.9]]))
    assert found.names == {0: "wall", 1: "door", 2: "cat"}
    averaged = RawOutput(RAW.maps.softmax(dim=1), "probability")  # of several passes
    assert Semantic(NAMES).decode(averaged)[0].ids.tolist() == [[0, 2, 0]]


def test_pictures() -> None:
    task = Semantic(NAMES, colours=((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    (truth,), (found,) = task.truth(TARGET), task.decode(RAW)
    assert task.draw(truth)[:, 0].T.tolist() == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]
    panel = task.panel(torch.zeros(3, 1, 3), truth, found)
    assert panel.shape == (3, 1, 12)
    assert panel[1, 0, 9:].tolist() == [60, 245, 245]  # wrong, right, without label


def test_classes_have_colours_of_their_own() -> None:
    colours = Semantic([f"class {i}" for i in range(150)]).colours
    assert len(set(colours.values())) == 150
    near = min(
        sum(abs(a - b) for a, b in zip(colours[i], colours[j], strict=True))
        for i in range(150)
        for j in range(i)
    )
    assert near >= 16


def test_hflip_moves_pixels() -> None:
    task = Semantic(NAMES)
    assert torch.equal(task.hflip(task.hflip(RAW)).maps, RAW.maps)
    assert torch.equal(task.hflip(RAW).maps, RAW.maps.flip(-1))


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("a", "a"), {}, "two or more different class names"),
        (("a",), {}, "two or more different class names"),
        (NAMES, {"colours": [(0, 0, 0)]}, "3 classes, but 1 colours"),
        (NAMES, {"weights": [1.0, 2.0]}, "3 classes, but 2 weights"),
    ],
)
def test_bad_input(names, options, message) -> None:
    with pytest.raises(InputError, match=message):
        Semantic(names, **options)
    with pytest.raises(ValueError, match="learns from logits, got 'value'"):
        Semantic(NAMES).loss(RawOutput(RAW.maps, "value"), TARGET)
