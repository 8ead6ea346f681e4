"""FeatureHead: dropped channels, statistics, position and prior weights, and size."""

import math
from functools import partial

import pytest
import torch
from tests.contracts import MethodContract
from tests.support import SMALL, images

from diffsight.backbones import EfficientNetLite0, StableDiffusion
from diffsight.codecs import ScalarBins
from diffsight.errors import InputError
from diffsight.methods import Conditioned, FeatureHead
from diffsight.methods.feature_head import _positions
from diffsight.model import DenseModel
from diffsight.outputs import OutputSpec
from diffsight.prompts import Unprompted
from diffsight.tasks import Depth, Segmentation
from diffsight.types import Draws, Inputs, Target


def build_backbone() -> Conditioned:
    torch.manual_seed(0)
    diffusion = StableDiffusion(SMALL, trainable=())
    prompts = Unprompted(2, dim=diffusion.context_dim)
    prompts.rows = torch.randn(2, diffusion.context_dim)
    return Conditioned(diffusion, prompts)


@pytest.fixture(scope="module")
def backbone() -> Conditioned:
    return build_backbone()


def make_spec(classes: int) -> OutputSpec:
    values = torch.linspace(0, 1, classes)
    codec = ScalarBins.of(torch.linspace(0, 1, classes + 1), values)
    return OutputSpec("distribution", classes, codec=codec.with_statistics(values[:, None]))


def build_head(backbone: Conditioned, classes: int = 3, **options) -> FeatureHead:
    torch.manual_seed(1)
    return FeatureHead(output=make_spec(classes), backbone=backbone, **options)


def probability(method: FeatureHead, *args, **options) -> torch.Tensor:
    return method(*args, **options).probability


class TestFeatureHead(MethodContract):
    subject = FeatureHead
    frozen = ("method.backbone.",)

    def build(self) -> DenseModel:
        torch.manual_seed(1)
        task = Depth(bins=4).fitted(torch.linspace(0.5, 4, 200)[:, None])
        method = partial(FeatureHead, backbone=build_backbone(), width=8)
        return DenseModel(task=task, method=method)


class TestFeatureHeadOfClasses(MethodContract):
    subject = FeatureHead
    frozen = ("method.backbone.",)

    def build(self) -> DenseModel:
        torch.manual_seed(1)
        method = partial(FeatureHead, backbone=build_backbone(), width=8)
        return DenseModel(task=Segmentation(("wall", "door", "cat")), method=method)


def test_training_drops_channels_and_whole_images_by_the_seed_of_each_image(backbone) -> None:
    method = build_head(backbone).train()
    inputs = Inputs(images(2, 64, 64))
    encoded = method.encode(inputs)
    first = probability(method, inputs, encoded, draws=Draws((5, 6)))
    torch.manual_seed(99)
    assert torch.equal(first, probability(method, inputs, encoded, draws=Draws((5, 6))))
    other = probability(method, inputs, encoded, draws=Draws((5, 7)))
    assert not torch.allclose(first, other)
    assert torch.equal(first[0], other[0])  # an image depends only on its own seed
    draws = Draws(tuple(range(400)))
    kept = method._keep_mask(draws, 0, 50)
    assert kept.shape == (400, 50, 1, 1)
    hidden = kept.amax(dim=(1, 2, 3)) == 0
    assert float(hidden.float().mean()) == pytest.approx(0.2, abs=0.05)
    coarsest = method._keep_mask(draws, 3, 50)
    # an image is dropped at all levels or at none
    assert torch.equal(hidden, coarsest.amax(dim=(1, 2, 3)) == 0)
    assert float((kept[~hidden] == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(kept.max()) == pytest.approx(1 / 0.7)


def test_a_level_with_a_single_position_is_scaled_by_one(backbone) -> None:
    """The coarsest level of one small image has a single position, so no standard deviation."""
    method = build_head(backbone).eval()
    inputs = Inputs(images(1, 32, 32))
    encoded = method.encode(inputs)
    assert encoded.levels[3].shape[-2:] == (1, 1)
    method.fit_statistics([encoded], None)
    assert bool((method.get_buffer("scale3") > 0.99).all())
    assert bool((method.get_buffer("scale3") < 1).all())
    assert bool(probability(method, inputs, encoded).isfinite().all())


def test_statistics_are_computed_over_all_training_images(backbone) -> None:
    method = build_head(backbone).eval()
    encoded = [method.encode(Inputs(images(1, 64, 96, seed=i))) for i in range(2)]
    method.fit_statistics(encoded, torch.tensor([0.5, 0.2, 0.3]))
    rows = torch.cat([e.levels[0].movedim(1, -1).flatten(0, 2) for e in encoded])
    torch.testing.assert_close(method.get_buffer("mean0").flatten(), rows.mean(dim=0))
    scale = 1 / (rows.std(dim=0) + 1e-4)
    torch.testing.assert_close(method.get_buffer("scale0").flatten(), scale)
    assert method.prior.tolist() == pytest.approx([0.5, 0.2, 0.3])


def test_predictions_are_mixed_with_position_and_prior_by_their_weights(backbone) -> None:
    method, inputs = build_head(backbone).eval(), Inputs(images(2, 48, 80))
    plain = probability(method, inputs)
    method.use({"position_weight": 1.0, "prior_weight": 0.0})
    alone = probability(method, inputs)
    # the output at position weight 1 does not depend on the image
    torch.testing.assert_close(alone[0], alone[1])
    with torch.no_grad():
        for level in range(4):  # zero features, as if training drops all channels
            method.get_buffer(f"scale{level}").zero_()
        method.use({"position_weight": 0.0, "prior_weight": 0.0})
        torch.testing.assert_close(probability(method, inputs), alone)
    method = build_head(backbone, position_weight=0.25, prior_weight=0.5).eval()
    prior = torch.tensor([0.5, 0.2, 0.3])
    method.prior.copy_(prior)
    mixed = method(inputs)
    expected = 0.25 * plain + 0.25 * alone + 0.5 * prior[:, None, None]
    torch.testing.assert_close(mixed.probability, expected)
    centres = torch.linspace(0, 1, 3)
    value = (mixed.probability * centres[:, None, None]).sum(dim=1, keepdim=True)
    torch.testing.assert_close(mixed.value, value)
    variants = method.variants()
    outputs = method.forward_variants(inputs)
    variant = outputs[variants.index({"position_weight": 0.25, "prior_weight": 0.5})]
    torch.testing.assert_close(variant.probability, expected)
    unmixed = outputs[variants.index({"position_weight": 0.0, "prior_weight": 0.0})]
    torch.testing.assert_close(unmixed.probability, plain)
    torch.testing.assert_close(probability(method.train(), inputs), plain)


def test_predictions_use_all_channels(backbone) -> None:
    method = build_head(backbone).eval()
    image = images(2, 48, 80)
    both = probability(method, Inputs(image), draws=Draws((1, 2)))
    torch.testing.assert_close(both, probability(method, Inputs(image)))
    assert both.shape == (2, 3, 48, 80)


def test_probabilities_sum_to_one_in_mixed_precision(backbone) -> None:
    """Rounded probabilities would shift values far from zero, such as temperatures in kelvins."""
    method = build_head(backbone).eval()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = probability(method, Inputs(images(1, 48, 80)))
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(1, 48, 80), rtol=0, atol=1e-5)


def test_positions_are_relative_to_the_image_without_padding(backbone) -> None:
    method = build_head(backbone).eval()
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if name.startswith("project"):
                parameter.zero_()
    wide = probability(method, Inputs(images(1, 64, 96)))
    assert wide.std() > 1e-4  # the output depends only on the position
    rows, columns = _positions((2, 6), (2.0, 5.0))[0, :2]  # the sixth column is padding
    torch.testing.assert_close(rows[:, 0], torch.tensor([-0.5, 0.5]))
    torch.testing.assert_close(columns[0], torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8, 1.2]))


def test_the_frozen_backbone_stays_in_evaluation_mode(backbone) -> None:
    method = build_head(backbone).train()
    assert method.mix.training
    assert not any(module.training for module in method.backbone.modules())


@pytest.mark.parametrize("classes", [2, 50, 200])
def test_the_head_has_at_most_70000_trainable_parameters(backbone, classes) -> None:
    method = build_head(backbone, classes)
    trainable = [n for n, p in method.named_parameters() if p.requires_grad]
    assert not [n for n in trainable if n.startswith("backbone.")]
    assert sum(method.get_parameter(n).numel() for n in trainable) <= 70_000


def test_the_head_does_not_run_in_mixed_precision(backbone) -> None:
    method, inputs = build_head(backbone), Inputs(images(2, 64, 64))
    encoded, draws = method.encode(inputs), Draws((5, 6))
    for training in (False, True):
        method.train(training)
        expected = probability(method, inputs, encoded, draws=draws)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(probability(method, inputs, encoded, draws=draws), expected)


def test_training_on_a_grid_of_pixels_gives_the_values_of_the_whole_map() -> None:
    torch.manual_seed(0)
    task = Segmentation(("a", "b", "c"))
    backbone = EfficientNetLite0(levels=(8, 32))
    head = FeatureHead(output=task.outputs[0], backbone=backbone, pixel_step=4).train()
    head.feature_drop_probability = head.image_drop_probability = 1e-9
    inputs, draws = Inputs(torch.rand(2, 3, 70, 90)), Draws((5, 6))
    pixels = head.trained_pixels(draws, None)
    assert pixels is not None
    some = head(inputs, draws=draws).stack
    head.pixel_step = 1
    whole = head(inputs, draws=draws).stack
    torch.testing.assert_close(some, whole[..., pixels[0], pixels[1]], rtol=1e-5, atol=1e-6)
    assert some.shape[-2:] in ((18, 23), (18, 22), (17, 23), (17, 22))
    head.pixel_step = 4
    offsets = {
        (p[0].start, p[1].start)
        for i in range(200)
        if (p := head.trained_pixels(Draws((i,)), None))
    }
    assert len(offsets) == 16
    assert head.eval().trained_pixels(draws, None) is None
    model = DenseModel(task=task, method=lambda output: head.train())
    target = Target(torch.randint(3, (2, 70, 90)), torch.ones(2, 70, 90, dtype=torch.bool))
    expected = task.loss(head(inputs, draws=draws), target.at(pixels))["loss"]
    assert torch.equal(model.losses(inputs, target, draws=draws)["loss"], expected)


def test_a_step_longer_than_the_image_still_trains_a_pixel(backbone) -> None:
    method = build_head(backbone, pixel_step=100).train()
    target = Target(torch.zeros(1, 1, 24, 40), torch.ones(1, 24, 40, dtype=torch.bool))
    for seed in range(20):
        pixels = method.trained_pixels(Draws((seed,)), target)
        assert target.at(pixels).valid.sum() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width 0: give 1 or more"),
        ({"width": -4}, "width -4: give 1 or more"),
        ({"pixel_step": 0}, "pixel_step 0: give 1 or more"),
        ({"feature_drop_probability": 1.0}, "feature_drop_probability 1: give 0 or more, and less"),
        ({"feature_drop_probability": 2.0}, "feature_drop_probability 2: give 0 or more"),
        ({"feature_drop_probability": math.nan}, "feature_drop_probability nan: give 0 or more"),
        ({"image_drop_probability": -0.1}, r"image_drop_probability -0\.1: give 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(backbone, options, message) -> None:
    with pytest.raises(InputError, match=message):
        build_head(backbone, **options)
