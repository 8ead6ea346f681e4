"""The metrics of the few-shot benchmark against plain NumPy code that follows their definitions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from diffsight.errors import InputError
from diffsight.metrics import AngleErrors, BinaryIoU, ClassIoU, ValueErrors

H, W = 7, 9


def numbers(metric: Metric) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def masks(images: int, seed: int = 3) -> Tensor:
    valid = torch.rand((images, H, W), generator=torch.Generator().manual_seed(seed)) < 0.6
    valid[-1] = False  # the last image has no label
    return valid


def values(images: int = 4, channels: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    prediction, target = torch.rand((2, images, channels, H, W), generator=generator)
    return prediction, target, masks(images)


def directions(images: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit vectors with errors up to 40 degrees; invalid targets are not unit vectors."""
    generator = torch.Generator().manual_seed(5)
    target = torch.randn((images, 3, H, W), generator=generator)
    target = torch.nn.functional.normalize(target, dim=1)
    prediction = target + 0.3 * torch.randn(target.shape, generator=generator)
    valid = masks(images)
    return torch.nn.functional.normalize(prediction, dim=1), target * valid[:, None], valid


def classes(images: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return maps of five classes; 3 never occurs in the target, 4 occurs nowhere."""
    generator = torch.Generator().manual_seed(9)
    target = torch.randint(0, 3, (images, 1, H, W), generator=generator).float()
    other = torch.randint(0, 4, target.shape, generator=generator).float()
    wrong = torch.rand(target.shape, generator=generator) < 0.4
    return torch.where(wrong, other, target), target, masks(images)


def foreground(images: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    prediction = torch.rand((images, 1, H, W), generator=generator) * 0.9
    target = (torch.rand(prediction.shape, generator=generator) < 0.3).float()
    return prediction, target, masks(images)


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    """Return the angle in degrees from its cosine; the metric uses another formula."""
    cosine = a @ b / math.sqrt(a @ a) / math.sqrt(b @ b)
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def pixels(*maps: Tensor, counted: Tensor) -> list[tuple[np.ndarray, ...]]:
    """Return the vectors of each map at the pixels that count."""
    rows = [m.permute(0, 2, 3, 1)[counted].double().numpy() for m in maps]
    return list(zip(*rows, strict=True))


def test_value_errors_agree_with_their_definitions() -> None:
    prediction, target, valid = values()
    pairs = pixels(prediction, target, counted=valid)
    errors = np.array([p - g for p, g in pairs])
    per_image = [
        sum(
            abs(p - g).sum()
            for p, g in pixels(
                *(m[i : i + 1] for m in (prediction, target)), counted=valid[i : i + 1]
            )
        )
        / (H * W * 5)
        for i in range(4)
    ]
    metric = ValueErrors()
    for part in (slice(0, 1), slice(1, 4)):
        metric.update(prediction[part], target[part], valid[part])
    expected = {
        "vtm_mae": np.mean(per_image),
        "mae_valid": abs(errors).mean(),
        "rmse_valid": math.sqrt((errors**2).mean()),
    }
    assert numbers(metric) == pytest.approx(expected, abs=1e-12)
    assert metric.per_image(prediction, target, valid).tolist() == pytest.approx(per_image)
    assert per_image[-1] == 0
    own = ValueErrors(primary="rmse_valid")
    own.update(prediction[:1], target[:1], valid[:1])
    per_image = own.per_image(prediction, target, valid).tolist()
    assert per_image[0] == pytest.approx(numbers(own)["rmse_valid"])
    assert per_image[-1] == 0


def test_vtm_mae_is_the_valid_mae_times_the_fraction_of_valid_pixels() -> None:
    prediction, target, valid = values(images=1, channels=1)
    valid = torch.arange(H * W).reshape(1, H, W) % 3 > 0
    metric = ValueErrors()
    metric.update(prediction, target, valid)
    result = numbers(metric)
    assert result["vtm_mae"] == pytest.approx(result["mae_valid"] * 42 / 63)
    assert result["rmse_valid"] > 1.05 * result["mae_valid"]


def test_vtm_mae_is_a_mean_over_images_and_mae_valid_a_mean_over_pixels() -> None:
    target = torch.zeros(2, 1, 1, 4)
    prediction = torch.tensor([1.0, 3.0])[:, None, None, None].expand(2, 1, 1, 4)
    valid = torch.tensor([[[True] * 4], [[True] + [False] * 3]])
    metric = ValueErrors()
    metric.update(prediction, target, valid)
    expected = {"vtm_mae": (1 + 0.75) / 2, "mae_valid": 7 / 5, "rmse_valid": math.sqrt(13 / 5)}
    assert numbers(metric) == pytest.approx(expected)


def test_angle_errors_agree_with_their_definitions() -> None:
    prediction, target, valid = directions()
    true = np.array([degrees(p, g) for p, g in pixels(prediction, target, counted=valid)])
    everywhere = torch.ones_like(valid)
    encoded = [
        degrees((p + 1) / 2, (g + 1) / 2) for p, g in pixels(prediction, target, counted=everywhere)
    ]
    metric = AngleErrors()
    for part in (slice(0, 3), slice(3, 4)):
        metric.update(prediction[part], target[part], valid[part])
    result = numbers(metric)
    expected = {"merr_vtm": np.mean(encoded), "merr_true": true.mean()}
    expected |= {f"below_{x:g}": (true < x).mean() for x in (11.25, 22.5, 30)}
    assert 0 < expected["below_11.25"] < expected["below_30"] < 1
    assert result.pop("median_true") == pytest.approx(np.median(true), abs=0.1)
    assert result == pytest.approx(expected, abs=1e-5)
    per_image = np.reshape(encoded, (4, -1)).mean(axis=1)
    assert metric.per_image(prediction, target, valid) == pytest.approx(per_image, abs=1e-5)
    own = AngleErrors(primary="merr_true").per_image(prediction, target, valid)
    first = [degrees(p, g) for p, g in pixels(prediction[:1], target[:1], counted=valid[:1])]
    assert float(own[0]) == pytest.approx(np.mean(first), abs=1e-5)
    assert float(own[-1]) == 0


@pytest.mark.parametrize(("true", "vtm"), [(8.0, 3.6), (16.0, 7.4), (31.9, 15.7)])
def test_vtm_underestimates_angles_on_surfaces_that_face_the_camera(
    true: float, vtm: float
) -> None:
    """Predictions are tilted by ``true`` degrees in all directions around the normal."""
    side = torch.linspace(0, 2 * math.pi, 361)[:-1].reshape(1, 18, 20)
    sine, cosine = math.sin(math.radians(true)), math.cos(math.radians(true))
    around = (sine * side.cos(), sine * side.sin(), torch.full_like(side, -cosine))
    prediction = torch.stack(around, dim=1)
    target = torch.tensor([0.0, 0.0, -1.0])[None, :, None, None].expand_as(prediction)
    metric = AngleErrors()
    metric.update(prediction, target, torch.ones_like(side, dtype=torch.bool))
    result = numbers(metric)
    assert result["merr_true"] == pytest.approx(true, abs=1e-4)
    assert result["merr_vtm"] == pytest.approx(vtm, abs=0.06)


def test_the_median_angle_is_exact_to_half_a_bin() -> None:
    angles = torch.tensor([1.0, 2.0, 33.33, 90.0, 180.0], dtype=torch.float64).deg2rad()
    prediction = torch.stack([angles.sin(), torch.zeros(5).double(), angles.cos()])[None, :, None]
    target = torch.tensor([0.0, 0.0, 1.0])[None, :, None, None].expand(1, 3, 1, 5)
    metric = AngleErrors()
    metric.update(prediction, target, torch.ones(1, 1, 5, dtype=torch.bool))
    result = numbers(metric)
    assert result["median_true"] == pytest.approx(33.33, abs=0.026)
    assert result["merr_true"] == pytest.approx((1 + 2 + 33.33 + 90 + 180) / 5)
    assert result["below_30"] == pytest.approx(0.4)


def test_valid_grey_pixels_count_only_in_the_angle_of_vtm() -> None:
    wall = torch.tensor([0.0, 0.0, -1.0])[None, :, None, None].expand(1, 3, 1, 2)
    target = wall.clone()
    target[..., 1] = 128 / 127.5 - 1
    metric = AngleErrors()
    metric.update(wall, target, torch.ones(1, 1, 2, dtype=torch.bool))
    result = numbers(metric)
    grey = degrees(np.array([0.5, 0.5, 0.0]), np.ones(3))
    assert result["merr_true"] == 0
    assert result["merr_vtm"] == pytest.approx(grey / 2, abs=1e-5)


def test_a_prediction_of_length_zero_has_an_error_of_90_degrees() -> None:
    _, target, valid = directions()
    metric = AngleErrors()
    metric.update(torch.zeros_like(target), target, valid)
    assert numbers(metric)["merr_true"] == pytest.approx(90)


def test_foreground_areas_are_summed_over_the_data_set() -> None:
    prediction, target, valid = foreground()
    expected = {}
    for name, threshold in (("iou", 0.5), ("iou_vtm", 0.2)):
        rows = [(p[0] > threshold, g[0] > 0) for p, g in pixels(prediction, target, counted=valid)]
        expected[name] = sum(p and g for p, g in rows) / sum(p or g for p, g in rows)
    metric = BinaryIoU()
    for part in (slice(0, 2), slice(2, 4)):
        metric.update(prediction[part], target[part], valid[part])
    assert numbers(metric) == pytest.approx(expected)
    assert expected["iou"] != expected["iou_vtm"]
    per_image = metric.per_image(prediction, target, valid)
    assert float(per_image[:3].mean()) != pytest.approx(expected["iou"], abs=1e-6)
    assert float(per_image[3]) == 0


def test_a_probability_at_the_threshold_is_background() -> None:
    prediction = torch.tensor([0.2, 0.21, 0.6, 0.1])[None, None, None]
    target = torch.tensor([1.0, 1.0, 0.0, 0.0])[None, None, None]
    valid = torch.ones(1, 1, 4, dtype=torch.bool)
    metric = BinaryIoU()
    metric.update(prediction, target, valid)
    assert numbers(metric) == pytest.approx({"iou": 0, "iou_vtm": 1 / 3})
    assert metric.per_image(prediction, target, valid).tolist() == [0]


def test_classes_that_never_occur_do_not_count() -> None:
    prediction, target, valid = classes()
    pairs = [(int(p[0]), int(g[0])) for p, g in pixels(prediction, target, counted=valid)]
    ious = []
    for k in (0, 1, 2):
        both = sum(p == g == k for p, g in pairs)
        ious.append(both / sum(k in pair for pair in pairs))
    metric = ClassIoU(classes=5)
    for part in (slice(0, 2), slice(2, 4)):
        metric.update(prediction[part], target[part], valid[part])
    correct = sum(p == g for p, g in pairs)
    hits = [sum(p == g == k for p, g in pairs) / sum(g == k for _, g in pairs) for k in (0, 1, 2)]
    expected = {"miou": sum(ious) / 3, "macc": sum(hits) / 3, "aacc": correct / len(pairs)}
    assert numbers(metric) == pytest.approx(expected)
    nowhere = float("nan")
    wanted = [*ious, nowhere, nowhere]
    assert metric.per_class().tolist() == pytest.approx(wanted, nan_ok=True)
    assert torch.equal(
        metric.per_image(prediction.long(), target.long(), valid),
        metric.per_image(prediction, target, valid),
    )
    alone = ClassIoU(classes=5)
    alone.update(prediction[1:2], target[1:2], valid[1:2])
    per_image = metric.per_image(prediction, target, valid)
    assert float(per_image[1]) == pytest.approx(numbers(alone)["miou"])
    assert float(per_image[3]) == 0


MAKERS = [
    (ValueErrors, values, "vtm_mae"),
    (AngleErrors, directions, "merr_true"),
    (BinaryIoU, foreground, "iou"),
    (lambda: ClassIoU(classes=5), classes, "miou"),
]


@pytest.mark.parametrize(("build", "data", "name"), MAKERS)
def test_invalid_pixels_do_not_change_the_metric(build, data, name: str) -> None:
    prediction, target, valid = data()
    metric, spoiled = build(), build()
    metric.update(prediction, target, valid)
    wild = 1e3 if name == "merr_true" else math.nan
    spoiled.update(
        torch.where(valid[:, None], prediction, wild),
        torch.where(valid[:, None], target, wild),
        valid,
    )
    assert numbers(spoiled)[name] == numbers(metric)[name]


@pytest.mark.parametrize(("build", "data", "name"), MAKERS)
def test_the_sums_of_two_processes_give_the_metric_of_all_images(build, data, name: str) -> None:
    prediction, target, valid = data()
    whole, *parts = (build() for _ in range(3))
    whole.update(prediction, target, valid)
    parts[0].update(prediction[:3], target[:3], valid[:3])
    parts[1].update(prediction[3:], target[3:], valid[3:])
    for state, reduce in parts[0]._reductions.items():
        gathered = torch.stack([getattr(part, state) for part in parts])
        setattr(parts[0], state, reduce(gathered))
    assert numbers(parts[0]) == pytest.approx(numbers(whole), abs=1e-12)
    assert math.isfinite(numbers(whole)[name])


@pytest.mark.parametrize("build", [ValueErrors, AngleErrors, lambda: ClassIoU(classes=5)])
def test_a_data_set_without_a_valid_pixel_is_refused(build) -> None:
    metric = build()
    blank = torch.zeros(1, 3 if isinstance(metric, AngleErrors) else 1, H, W)
    metric.update(blank, blank, torch.zeros(1, H, W, dtype=torch.bool))
    with pytest.raises(InputError, match="no image with a valid pixel"):
        metric.compute()


def test_a_foreground_that_neither_occurs_nor_is_predicted_has_an_iou_of_zero() -> None:
    metric = BinaryIoU()
    blank = torch.zeros(1, 1, H, W)
    metric.update(blank, blank, torch.ones(1, H, W, dtype=torch.bool))
    assert numbers(metric) == {"iou": 0, "iou_vtm": 0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("build", "data"), [row[:2] for row in MAKERS])
def test_predictions_that_are_not_finite_are_refused(build, data, value: float) -> None:
    prediction, target, valid = data()
    prediction[0, :, valid[0]] = value
    with pytest.raises(InputError, match=rf"{int(valid[0].sum())} .* pixels of the prediction are"):
        build().update(prediction, target, valid)


@pytest.mark.parametrize("value", [-1.0, 5.0, 1.5])
def test_labels_that_are_not_a_class_are_refused(value: float) -> None:
    prediction, target, valid = classes()
    target[0, :, valid[0]] = value
    with pytest.raises(InputError, match=rf"truth are not a class \(first: {value:g}\).* 0 to 4"):
        ClassIoU(classes=5).update(prediction, target, valid)
