"""Segmentation: the loss computed by hand, ids and names, subsets of classes, pictures."""

import math
from typing import Literal

import pytest
import torch
from tests.contracts import TaskContract
from tests.support import images, noise
from torch import Tensor
from torch.nn import functional

from diffsight.errors import InputError
from diffsight.outputs import Classes, Values
from diffsight.tasks import Segmentation
from diffsight.types import Boxes, Target

NAMES = ("wall", "door", "cat")
COLOURS = ((0, 0, 0), (255, 0, 0), (0, 0, 255))


def logits(probabilities: list[list[list[float]]]) -> Classes:
    """Return logits from the class probabilities of each pixel, row by row."""
    return Classes(torch.tensor(probabilities).log().permute(2, 0, 1)[None])


# two valid pixels, and an invalid pixel whose label is not a class
OUTPUT = logits([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]])
TARGET = Target(torch.tensor([[[1, 2, 255]]]), torch.tensor([[[True, True, False]]]))


def with_ids() -> Segmentation:
    return Segmentation(("wall", "chair", "lamp"), ids=(0, 7, 40), colours=COLOURS)


class TestSegmentation(TaskContract):
    def build(self) -> Segmentation:
        return Segmentation(NAMES)

    def target(self) -> Target:
        generator = torch.Generator().manual_seed(1)
        label = torch.randint(0, 3, (2, *self.size), generator=generator)
        valid = images(2, *self.size, seed=3)[:, 0] > 0.3
        return Target(torch.where(valid, label, 255), valid)


class TestSegmentationWithIds(TestSegmentation):
    def build(self) -> Segmentation:
        return with_ids()


def test_the_loss_is_the_mean_cross_entropy_of_the_labelled_pixels() -> None:
    expected = -(math.log(0.25) + math.log(0.8)) / 2
    loss = Segmentation(NAMES).loss(OUTPUT, TARGET)["loss"]
    assert float(loss) == pytest.approx(expected)
    weighted = Segmentation(NAMES, weights=(1.0, 3.0, 0.5)).loss(OUTPUT, TARGET)["loss"]
    assert float(weighted) == pytest.approx(-(3 * math.log(0.25) + 0.5 * math.log(0.8)) / 3.5)
    losses = Segmentation(NAMES).loss(OUTPUT.normalised(), TARGET)
    assert float(losses["loss"]) == pytest.approx(expected)
    assert losses["class"] == losses["loss"]


def random_batch() -> tuple[Classes, Tensor, Target]:
    """Return random logits with auxiliary logits, the auxiliary logits, and random labels."""
    generator = torch.Generator().manual_seed(24)
    main, auxiliary = (3 * torch.randn(2, 3, 5, 7, generator=generator) for _ in range(2))
    label = torch.randint(0, 3, (2, 5, 7), generator=generator)
    valid = torch.rand(2, 5, 7, generator=generator) < 0.7
    target = Target(torch.where(valid, label, 255), valid)
    return Classes(main, auxiliary=auxiliary), auxiliary, target


def loop_cross_entropy(maps: Tensor, target: Target) -> tuple[float, int]:
    """Return the sum of the cross-entropies of the labelled pixels, and their number."""
    total, count = 0.0, 0
    for image, label, valid in zip(
        maps.double().tolist(), target.label.tolist(), target.valid.tolist(), strict=True
    ):
        for row, columns in enumerate(label):
            for column, number in enumerate(columns):
                if valid[row][column]:
                    logits = [one[row][column] for one in image]
                    total += math.log(sum(map(math.exp, logits))) - logits[number]
                    count += 1
    return total, count


def loop_lovasz(maps: Tensor, target: Target) -> float:
    """Return the integral of 1 - IoU over the error thresholds, as the mean over the classes."""
    probability = maps.double().softmax(dim=1).movedim(1, -1)[target.valid]
    label, losses = target.label[target.valid], []
    for number in range(3):
        truth = label == number
        errors = torch.where(truth, 1 - probability[:, number], probability[:, number])
        loss, previous = 0.0, 0.0
        for threshold in sorted(errors.tolist()):
            wrong = errors >= threshold
            hit, union = (truth & ~wrong).sum(), (truth | wrong).sum()
            loss += (threshold - previous) * (1 - float(hit) / float(union))
            previous = threshold
        losses.append(loss)
    return sum(losses) / 3


@pytest.mark.parametrize("average", ["labelled", "all"])
def test_lovasz_and_auxiliary_losses_are_added_with_their_weights(
    average: Literal["labelled", "all"],
) -> None:
    """With ``average="all"`` ignored pixels count in the divisor, as in mmsegmentation 0.30."""
    output, second, target = random_batch()
    (main, count), (auxiliary, _) = (
        loop_cross_entropy(maps, target) for maps in (output.maps, second)
    )
    assert 0 < count < 70
    divisor = 70 if average == "all" else count
    expected = {
        "cross_entropy": main / divisor,
        "lovasz": loop_lovasz(output.maps, target),
        "auxiliary": auxiliary / divisor,
    }
    task = Segmentation(NAMES, lovasz_weight=0.7, auxiliary_weight=0.3, average=average)
    losses = {name: float(value) for name, value in task.loss(output, target).items()}
    total = losses.pop("loss")
    assert losses == pytest.approx(expected, rel=1e-5)
    weights = {"cross_entropy": 1.0, "lovasz": 0.7, "auxiliary": 0.3}
    assert total == pytest.approx(sum(weights[name] * expected[name] for name in weights))


def test_the_default_loss_has_an_auxiliary_weight_of_two_fifths_and_no_lovasz_loss() -> None:
    output, _, target = random_batch()
    losses = Segmentation(NAMES).loss(output, target)
    assert losses.keys() == {"loss", "cross_entropy", "auxiliary"}
    expected = losses["cross_entropy"] + 0.4 * losses["auxiliary"]
    torch.testing.assert_close(losses["loss"], expected)
    without = Segmentation(NAMES, auxiliary_weight=0.0).loss(output, target)
    torch.testing.assert_close(without["loss"], losses["cross_entropy"])


def test_with_average_all_class_weights_do_not_change_the_divisor() -> None:
    weighted = Segmentation(NAMES, weights=(1.0, 3.0, 0.5), average="all").loss(OUTPUT, TARGET)
    expected = -(3 * math.log(0.25) + 0.5 * math.log(0.8)) / 3
    assert float(weighted["loss"]) == pytest.approx(expected)


def test_decoded_classes_have_confidence_and_names() -> None:
    for output in (OUTPUT, OUTPUT.normalised()):
        (prediction,) = Segmentation(NAMES).decode(output)
        assert prediction.ids.tolist() == [[0, 2, 0]]
        torch.testing.assert_close(prediction.confidence, torch.tensor([[0.5, 0.8, 0.9]]))
        assert prediction.names == {0: "wall", 1: "door", 2: "cat"}


def test_predictions_have_the_ids_of_label_files() -> None:
    task = with_ids()
    (prediction, _) = task.decode(Classes(noise(2, 3, 4, 4)))
    assert set(prediction.ids.unique().tolist()) == {0, 7, 40}
    assert prediction.names[40] == "lamp"
    assert prediction.palette[7] == (255, 0, 0)
    assert torch.equal(prediction.to_label(), task.to_label(Classes(noise(2, 3, 4, 4)))[0])
    stored = prediction.arrays()["classes"]
    assert stored.values.tolist() == prediction.ids.tolist()
    assert stored.palette == prediction.palette
    many = Segmentation(NAMES, ids=(0, 300, 9)).decode(Classes(noise(1, 3, 4, 4)))[0]
    assert many.arrays()["classes"].values.dtype == "uint16"
    assert many.metadata()["classes_are"] == "16-bit ids of names"


def test_ids_that_are_colours_are_stored_as_colours() -> None:
    ids = tuple(r << 16 | g << 8 | b for r, g, b in COLOURS)
    task = Segmentation(NAMES, ids=ids, colours=COLOURS)
    (prediction,) = task.decode(Classes(noise(1, 3, 4, 4)))
    assert prediction.ids_are_colours
    pixels = prediction.arrays()["classes"].values
    assert pixels.shape == (4, 4, 3)
    assert torch.equal(torch.from_numpy(pixels).permute(2, 0, 1), prediction.draw())
    assert prediction.metadata()["classes_are"] == "colours, numbered by names"
    assert not with_ids().decode(Classes(noise(1, 3, 4, 4)))[0].ids_are_colours


def test_the_score_is_the_mean_iou_of_the_classes_that_occur() -> None:
    label = torch.tensor([0, 0, 1, 1, 2, 2]).reshape(1, 2, 3)
    predicted = torch.tensor([0, 1, 1, 1, 0, 2]).reshape(1, 2, 3)
    valid = torch.tensor([[[True, True, True], [True, True, False]]])
    task = Segmentation(NAMES)
    sums = task.measure(predicted, Target(label, valid))
    assert task.score(sums) == pytest.approx(100 * (1 / 3 + 2 / 3 + 0) / 3)
    maps = functional.one_hot(predicted, 3).movedim(-1, 1).float()
    assert torch.equal(task.to_label(Classes(maps, "probabilities")), predicted)


def test_a_restricted_task_predicts_only_its_classes() -> None:
    task = with_ids()
    output = Classes(noise(1, 3, 6, 8).softmax(dim=1), "probabilities")
    ids = {0, 7, 40}
    assert set(task.decode(output)[0].ids.unique().tolist()) == ids
    (prediction,) = task.restrict_to(["lamp", "wall"]).decode(output)
    assert set(prediction.ids.unique().tolist()) == {0, 40}
    confidence = output.maps[0, ::2].max(dim=0).values / output.maps[0, ::2].sum(dim=0)
    torch.testing.assert_close(prediction.confidence, confidence)
    assert set(task.decode(output)[0].ids.unique().tolist()) == ids
    with pytest.raises(InputError, match="unknown class 'lamb': did you mean 'lamp'"):
        task.restrict_to(["lamb"])
    for names in ([], ["wall", "wall"]):
        with pytest.raises(InputError, match="give different names, at least one"):
            task.restrict_to(names)


def test_a_forbidden_class_is_never_predicted() -> None:
    output = Classes(torch.tensor([200.0, 0.0, 1.0])[None, :, None, None], "logits")
    (prediction,) = (
        Segmentation(("wall", "floor", "lamp")).restrict_to(["floor", "lamp"]).decode(output)
    )
    assert prediction.ids.tolist() == [[2]]
    assert prediction.confidence.item() == pytest.approx(1 / (1 + math.exp(-1)))


def test_pictures_have_the_colours_of_the_classes() -> None:
    task = Segmentation(NAMES, colours=((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    (truth,), (prediction,) = task.truth(TARGET), task.decode(OUTPUT)
    assert truth.draw()[:, 0].T.tolist() == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]
    panel = task.panel(torch.zeros(3, 1, 3), truth, prediction)
    assert panel.shape == (3, 1, 12)
    assert panel[1, 0, 9:].tolist() == [60, 245, 245]  # colours for wrong, right and unlabelled


def test_default_colours_of_classes_differ() -> None:
    colours = Segmentation([f"class {i}" for i in range(150)]).colours
    assert len(set(colours.values())) == 150
    smallest = min(
        sum(abs(a - b) for a, b in zip(colours[i], colours[j], strict=True))
        for i in range(150)
        for j in range(i)
    )
    assert smallest >= 16


def test_baselines_are_the_most_frequent_class_overall_and_at_every_position() -> None:
    labels = [torch.tensor([[1, 0, 2]]), torch.tensor([[1, 0, 1]])]
    valid = torch.tensor([[True, True, False]])
    baselines = Segmentation(NAMES).baselines((label, valid) for label in labels)
    assert baselines["majority map"].tolist() == [[1, 0, 0]]
    assert baselines["constant majority"].tolist() == [[0]]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("a", "a"), {}, "two or more different class names"),
        (("a",), {}, "two or more different class names"),
        (NAMES, {"colours": [(0, 0, 0)]}, "3 classes, but 1 colours"),
        (NAMES, {"weights": [1.0, 2.0]}, "3 classes, but 2 weights"),
        (NAMES, {"ids": [1, 2]}, "3 classes, but 2 ids"),
    ],
)
def test_unusable_arguments_are_refused(names, options, message) -> None:
    with pytest.raises(InputError, match=message):
        Segmentation(names, **options)


def test_values_are_refused() -> None:
    with pytest.raises(TypeError, match="Values"):
        Segmentation(NAMES).loss(Values(OUTPUT.maps), TARGET)


def test_boxes_add_partial_labels_and_projections_to_the_loss() -> None:
    task = Segmentation(NAMES)
    boxes = Boxes(torch.tensor([1]), torch.tensor([[1.0, 0.0, 3.0, 1.0]]), torch.tensor([True]))
    target = Target(
        torch.tensor([[[0, 0, 0]]]), torch.tensor([[[True, False, False]]]), boxes=(boxes,)
    )
    # the first pixel is labelled wall; in the box, the others are wall or door
    likelihood = -(math.log(0.5) + math.log(0.1 + 0.1) + math.log(0.9 + 0.05)) / 3
    # the box has one row and two columns
    projection = -(math.log(0.1) + math.log(0.1) + math.log(0.05)) / 3
    for output in (OUTPUT, OUTPUT.normalised()):
        losses = task.loss(output, target)
        assert float(losses["loss"]) == pytest.approx(likelihood + projection, rel=1e-5)
        assert float(losses["cross_entropy"]) == pytest.approx(likelihood, rel=1e-5)
    without = Target(target.label, target.valid, boxes=(None,))
    plain = Target(target.label, target.valid)
    assert float(task.loss(OUTPUT, without)["loss"]) == pytest.approx(
        float(task.loss(OUTPUT, plain)["loss"])
    )


def test_a_box_is_scored_by_its_rows_and_columns() -> None:
    task = Segmentation(NAMES)
    boxes = Boxes(torch.tensor([2]), torch.tensor([[1.0, 1.0, 5.0, 3.0]]), torch.tensor([True]))
    valid = torch.ones(1, 4, 6, dtype=torch.bool)
    valid[0, 1:3, 1:5] = False
    target = Target(torch.zeros(1, 4, 6, dtype=torch.long), valid, boxes=(boxes,))
    label = torch.zeros(1, 4, 6, dtype=torch.long)
    sums = task.measure(label, target)
    assert sums.tolist() == [[16, 0, 0], [0, 0, 0], [8, 0, 0]]
    label[0, 1, 1], label[0, 2, 3] = 2, 2
    sums = task.measure(label, target)
    assert sums[2].tolist() == [2, 0, 6]  # both rows, two of four columns
    label[0, 1, 1:5] = 2
    assert task.score(task.measure(label, target)) == pytest.approx(100)
