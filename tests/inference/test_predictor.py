"""The predictor: windows, flips, scales, batches, sizes and precision."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.support_inference import Blur, Brightness, Columns, Logits, model
from torch import Tensor
from torch.nn import functional

from diffsight.backbones import BackboneSource
from diffsight.errors import InputError
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor
from diffsight.methods import VPD
from diffsight.model import DenseModel
from diffsight.tasks import Depth, Referring, Segmentation
from diffsight.types import Inputs


def image(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def expected(pixels: Tensor) -> Tensor:
    return 1 + pixels.float().mean(dim=0) / 255


@pytest.mark.parametrize(
    "plan", [Plan(), Plan(flip=True), Plan(windows=2), Plan(windows=3, flip=True, batch_size=4)]
)
@pytest.mark.parametrize("size", [(24, 32), (32, 24), (1, 1), (7, 40), (16, 16)])
def test_windows_and_flips_do_not_change_the_prediction_of_a_pointwise_model(
    plan: Plan, size: tuple[int, int]
) -> None:
    pixels = image(*size)
    prediction = Predictor(model(Brightness), plan).one(pixels)
    torch.testing.assert_close(prediction.depth_m, expected(pixels), rtol=1e-6, atol=1e-6)
    assert prediction.valid.all()
    std_m = prediction.uncertainty_m
    assert std_m is None or std_m[~std_m.isnan()].abs().max() < 1e-6


def test_float_and_uint8_images_give_the_same_prediction() -> None:
    pixels = image(8, 9)
    predictor = Predictor(model(Brightness))
    torch.testing.assert_close(
        predictor.one(pixels).depth_m, predictor.one(pixels.float() / 255).depth_m
    )


def test_every_call_moves_the_model_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The predictor of another model may have moved a shared backbone."""
    predictor = Predictor(model(Brightness))
    moves: list[torch.device] = []
    monkeypatch.setattr(predictor.model, "to", moves.append)
    predictor.one(image(8, 8))
    assert moves == [torch.device("cpu")]


def test_the_output_of_a_mirrored_pass_is_mirrored_back() -> None:
    prediction = Predictor(model(Columns), Plan(flip=True)).one(image(2, 5))
    torch.testing.assert_close(prediction.depth_m, torch.full((2, 5), 3.0))
    std_m = torch.tensor([2.0, 1.0, 0.0, 1.0, 2.0]).expand(2, 5)
    torch.testing.assert_close(prediction.uncertainty_m, std_m)


def test_windows_are_averaged_only_at_pixels_that_they_cover() -> None:
    prediction = Predictor(model(Columns), Plan(windows=2)).one(image(4, 6))
    columns = torch.tensor([1.0, 2.0, (3 + 1) / 2, (4 + 2) / 2, 3.0, 4.0])
    torch.testing.assert_close(prediction.depth_m, columns.expand(4, 6))
    has_one_window = torch.tensor([True, True, False, False, True, True]).expand(4, 6)
    assert torch.equal(prediction.uncertainty_m.isnan(), has_one_window)


@pytest.mark.parametrize("is_released", [True, False])
def test_square_windows_of_kitti_cover_all_columns_except_in_the_released_plan(
    *, is_released: bool
) -> None:
    """The released code of Meta Prompts takes 16 windows and leaves out the last 9 columns."""
    plan = Plan(windows=16, released_windows=is_released, batch_size=4)
    dense = DenseModel(task=Depth(max_depth_m=400.0), method=Columns)
    prediction = Predictor(dense, plan).one(image(352, 1216))
    starts = [57 * i for i in range(15)] + [855 if is_released else 864]
    total, count = torch.zeros(1216), torch.zeros(1216)
    for start in starts:
        total[start : start + 352] += torch.arange(352) + 1
        count[start : start + 352] += 1
    covered = count > 0
    assert covered.sum() == (1207 if is_released else 1216)
    assert torch.equal(prediction.valid, covered.expand(352, -1))
    expected_m = (total / count)[covered].expand(352, -1)
    torch.testing.assert_close(prediction.depth_m[:, covered], expected_m)
    assert prediction.depth_m[:, ~covered].isnan().all()


def test_windows_that_leave_columns_out_are_refused_for_classes() -> None:
    dense = DenseModel(task=Segmentation(("a", "b")), method=Logits)
    with pytest.raises(InputError, match="released_windows leave columns without a prediction"):
        Predictor(dense, Plan(windows=3, released_windows=True))


def test_a_mirrored_pass_is_refused_for_sentences() -> None:
    reader = type("Reader", (Logits,), {"accepts_prompt": True})
    dense = DenseModel(task=Referring(), method=reader)
    with pytest.raises(InputError, match="does not fit a sentence with left or right: leave flip"):
        Predictor(dense, Plan(flip=True))


def test_values_of_a_single_pass_have_no_uncertainty() -> None:
    assert Predictor(model(Blur)).one(image(8, 8)).uncertainty_m is None


@pytest.mark.parametrize("plan", [Plan(batch_size=4), Plan(12, windows=2, flip=True, batch_size=5)])
def test_a_prediction_does_not_depend_on_its_batch(plan: Plan) -> None:
    images = [image(16, 20, seed) for seed in range(5)] + [image(20, 16, 9), image(11, 30, 10)]
    prompts = [None, "office", "kitchen", None, "office", None, "kitchen"]
    together = list(Predictor(model(Blur), plan)(images, prompts))
    single = Predictor(model(Blur), Plan(plan.short_side, plan.windows, plan.flip))
    for pixels, prompt, prediction in zip(images, prompts, together, strict=True):
        alone = single.one(pixels, prompt)
        torch.testing.assert_close(prediction.depth_m, alone.depth_m, rtol=1e-5, atol=0)
        assert prediction.depth_m.shape == pixels.shape[-2:]


def test_a_prediction_of_vpd_does_not_depend_on_its_batch(pipeline_folder: Path) -> None:
    torch.manual_seed(0)
    method = VPD.from_backbone(BackboneSource(pipeline_folder))
    dense = DenseModel(task=Depth(), method=method).eval()
    images = [image(40, 70, seed) for seed in range(3)]
    plan = Plan(windows=2, flip=True)
    together = Predictor(dense, Plan(windows=2, flip=True, batch_size=8))(images)
    for pixels, prediction in zip(images, together, strict=True):
        alone = Predictor(dense, plan).one(pixels)
        torch.testing.assert_close(prediction.depth_m, alone.depth_m, rtol=1e-5, atol=0)


def test_only_windows_of_the_same_size_run_in_one_batch() -> None:
    dense = model(Brightness)
    images = [image(8, 12), image(12, 8), image(8, 8), image(9, 9)]
    list(Predictor(dense, Plan(windows=2, batch_size=3))(images))
    assert [shape[0] for shape in dense.method.batches] == [3, 2, 1]
    assert [shape[2:] for shape in dense.method.batches] == [(8, 8), (8, 8), (9, 9)]


def test_short_side_sets_the_size_of_the_model_input() -> None:
    dense = model(Brightness)
    pixels = torch.full((3, 40, 60), 51, dtype=torch.uint8)
    prediction = Predictor(dense, Plan(short_side=10)).one(pixels)
    assert dense.method.batches == [(1, 3, 10, 15)]
    torch.testing.assert_close(prediction.depth_m, torch.full((40, 60), 1.2))


def test_images_are_reduced_with_antialiasing() -> None:
    """Without antialiasing a chequerboard would become black or white."""
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(3, 64, 64)
    depth_m = Predictor(model(Brightness), Plan(short_side=8)).one(board).depth_m
    torch.testing.assert_close(depth_m, torch.full((64, 64), 1.5), atol=2e-3, rtol=0)


def test_images_are_read_only_shortly_before_they_are_predicted() -> None:
    read: list[int] = []

    def endless() -> Iterator[Tensor]:
        while True:
            read.append(len(read))
            yield image(6, 6)

    stream = Predictor(model(Brightness), Plan(batch_size=2))(endless())
    for done in range(1, 8):
        next(stream)
        assert len(read) <= done + 3


def test_predictions_are_plain_tensors_of_a_model_in_evaluation_mode() -> None:
    predictor = Predictor(model(Blur).train())
    depth_m = predictor.one(image(6, 6)).depth_m
    assert not predictor.model.training
    assert not depth_m.requires_grad
    assert not depth_m.is_inference()


def test_mixed_precision_gives_float32_close_to_full_precision() -> None:
    pixels = image(16, 16)
    exact = Predictor(model(Blur)).one(pixels).depth_m
    mixed = Predictor(model(Blur), dtype=torch.bfloat16).one(pixels).depth_m
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0.02)
    assert not torch.equal(mixed, exact)


def test_an_unknown_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="unknown name"):
        Predictor(model(Blur)).one(image(6, 6), "sauna")


def test_an_elongated_image_that_becomes_too_large_is_refused() -> None:
    predictor = Predictor(model(Brightness), Plan(short_side=480))
    with pytest.raises(InputError, match=r"20000 x 10 px would be run at 960000 x 480 px"):
        predictor.one(torch.zeros(3, 10, 20_000, dtype=torch.uint8))
    whole = Predictor(model(Brightness)).one(torch.zeros(3, 10, 20_000, dtype=torch.uint8))
    assert whole.depth_m.shape == (10, 20_000)


@pytest.mark.parametrize("fields", [{"windows": 0}, {"batch_size": 0}, {"short_side": 0}])
def test_plans_with_zeros_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        Plan(**fields)


def test_the_description_of_a_plan_has_everything_that_changes_the_result() -> None:
    assert Plan().describe() == "own size, whole image, no flip"
    described = Plan(480, windows=2, flip=True, batch_size=8).describe()
    assert described == "short side 480 px, 2 square windows, with flip"


def test_tiles_scales_and_flips_are_averaged_as_in_mmsegmentation() -> None:
    """Logits are averaged over tiles, then probabilities over scales and mirrored images."""
    dense = DenseModel(task=Segmentation(["wall", "floor", "lamp"]), method=Logits).eval()
    pixels = image(20, 33)
    plan = Plan(short_side=16, tile=12, stride=8, scales=(1.0, 1.5), flip=True, batch_size=3)

    def resize(maps: Tensor, hw: tuple[int, int]) -> Tensor:
        return functional.interpolate(maps, hw, mode="bilinear", antialias=True)

    total = torch.zeros(3, 20, 33)
    for hw in ((16, 26), (24, 40)):
        small = resize(pixels[None].float() / 255, hw)
        for flip in (False, True):
            view = small.flip(-1) if flip else small
            logits, count = torch.zeros(1, 3, *hw), torch.zeros(hw)
            for top, left in itertools.product(*(_mmseg_starts(side, 12, 8) for side in hw)):
                window = (..., slice(top, top + 12), slice(left, left + 12))
                with torch.no_grad():
                    logits[window] += dense.method(Inputs(view[window])).maps
                count[window] += 1
            logits = resize(logits / count, (20, 33))[0].softmax(dim=0)
            total += logits.flip(-1) if flip else logits
    confidence, ids = (total / 4).max(dim=0)
    prediction = Predictor(dense, plan).one(pixels)
    torch.testing.assert_close(prediction.confidence, confidence, rtol=1e-5, atol=1e-6)
    assert (prediction.ids == ids).float().mean() > 0.999


def _mmseg_starts(long: int, crop: int, stride: int) -> list[int]:
    grids = max(long - crop + stride - 1, 0) // stride + 1
    ends = [min(i * stride + crop, long) for i in range(grids)]
    return [max(end - crop, 0) for end in ends]


def test_values_are_averaged_over_scales_in_their_unit() -> None:
    pixels = torch.full((3, 12, 15), 51, dtype=torch.uint8)
    prediction = Predictor(model(Brightness), Plan(scales=(0.5, 1.0, 2.0), flip=True)).one(pixels)
    torch.testing.assert_close(prediction.depth_m, torch.full((12, 15), 1.2))
    assert prediction.uncertainty_m.max() < 1e-6


def test_a_restricted_task_predicts_only_the_chosen_classes() -> None:
    dense = DenseModel(task=Segmentation(["wall", "floor", "lamp"]), method=Logits).eval()
    pixels = image(9, 11)
    full = Predictor(dense).one(pixels)
    dense.task = dense.task.restrict_to(["lamp", "wall"])
    restricted = Predictor(dense).one(pixels)
    assert set(full.ids.unique().tolist()) == {0, 1, 2}
    assert set(restricted.ids.unique().tolist()) == {0, 2}
    kept = full.ids != 1
    assert torch.equal(restricted.ids[kept], full.ids[kept])
    assert (restricted.confidence[kept] >= full.confidence[kept]).all()
    for names, message in [
        (["lmap"], "unknown class 'lmap': did you mean 'lamp'"),
        (["lamp", "lamp"], "different names"),
        ([], "at least one"),
    ]:
        with pytest.raises(InputError, match=message):
            dense.task.restrict_to(names)
