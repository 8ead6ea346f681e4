"""FewShot: concept maps, noise, encoded features, and training of concepts and codebook."""

import math
from functools import partial

import pytest
import torch
from tests.contracts import MethodContract
from tests.support import images

from diffsight.backbones import BackboneSource, ConceptRequest, StableDiffusion
from diffsight.backbones.concept_maps import ConceptRecorder
from diffsight.codecs import ScalarBins, VectorCodebook
from diffsight.errors import InputError
from diffsight.heads import Codebook
from diffsight.methods import FewShot
from diffsight.model import DenseModel
from diffsight.outputs import OutputSpec
from diffsight.prompts import Concepts
from diffsight.tasks import Depth, Segmentation
from diffsight.types import Draws, Inputs

# a small Stable Diffusion with all 16 attention layers
SMALL = {
    "unet": {
        "block_out_channels": (16, 16, 32, 32),
        "norm_num_groups": 8,
        "cross_attention_dim": 12,
        "attention_head_dim": (1, 1, 2, 2),
    },
    "vae": {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 8},
}


def make_spec(classes):
    values = torch.linspace(1, 4, classes)
    codec = ScalarBins.of(torch.linspace(1, 4, classes + 1), values)
    codec.label_mean, codec.label_std = torch.zeros(1), torch.ones(1)
    return OutputSpec("distribution", classes, codec=codec)


def build(size=1, classes=5, **options):
    torch.manual_seed(0)
    spec = OutputSpec("classes", classes) if size is None else make_spec(classes)
    backbone = StableDiffusion(SMALL)
    return FewShot(output=spec, backbone=backbone, codebook=size or 0, **options)


def probability(method, *args, **options):
    output = method(*args, **options)
    return output.maps if method.codebook is None else output.probability


class TestFewShot(MethodContract):
    subject = FewShot
    frozen = ("method.backbone.",)

    def build(self) -> DenseModel:
        torch.manual_seed(0)
        task = Depth(bins=4).fitted(torch.linspace(0.5, 4, 200)[:, None])
        method = partial(FewShot, backbone=StableDiffusion(SMALL), codebook=1)
        return DenseModel(task=task, method=method)


class TestFewShotOfClasses(MethodContract):
    subject = FewShot
    frozen = ("method.backbone.",)

    def build(self) -> DenseModel:
        torch.manual_seed(0)
        method = partial(FewShot, backbone=StableDiffusion(SMALL))
        return DenseModel(task=Segmentation(("wall", "door", "cat")), method=method)


@torch.no_grad()
@pytest.mark.parametrize("hw", [(32, 48), (33, 21)])
def test_the_value_is_the_expectation_of_the_distribution(hw):
    method = build().eval()
    output = method(Inputs(images(2, *hw)))
    assert output.probability.shape == (2, 5, *hw)
    torch.testing.assert_close(output.probability.sum(dim=1), torch.ones(2, *hw))
    values = method.codebook(None, 2)[0, :, 0]
    expected = (output.probability * values[:, None, None]).sum(dim=1, keepdim=True)
    torch.testing.assert_close(output.value, expected)
    assert torch.equal(output.centres[:, 0], torch.linspace(1, 4, 5))
    assert build(None).eval()(Inputs(images(2, *hw))).space == "probabilities"


@torch.no_grad()
def test_the_probability_is_the_normalised_mean_of_the_layers():
    """The noise is that of step 200; the maps of all layers are resized before the mean."""
    method = build().eval()
    inputs = Inputs(images(2, 32, 48))
    draws = Draws((3, 8))
    latent = method.backbone.vae(inputs.image * 2 - 1)
    noised = 0.7537**0.5 * latent + (1 - 0.7537) ** 0.5 * draws.normal(0, tuple(latent.shape[1:]))
    recorder = ConceptRecorder(ConceptRequest())
    steps = torch.full((2,), 200)
    method.backbone.features(noised, method.concepts.rows.expand(2, -1, -1), steps, recorder)
    maps = [torch.nn.functional.interpolate(m, (32, 48), mode="bilinear") for m in recorder.close()]
    total = sum(maps)
    torch.testing.assert_close(
        probability(method, inputs, draws=draws),
        total / total.sum(dim=1, keepdim=True),
        atol=1e-4,
        rtol=0,
    )


def test_the_noise_schedule_keeps_the_expected_fraction_of_the_signal():
    """The fraction is that of the variance, for the schedule of Stable Diffusion."""
    add_noise = build().backbone.add_noise
    for step, fraction in ((5, 0.9948), (50, 0.9516), (100, 0.8942), (200, 0.7537)):
        one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        steps = torch.tensor([step])
        assert float(add_noise(one, zero, steps)) ** 2 == pytest.approx(fraction, abs=5e-5)
        assert float(add_noise(zero, one, steps)) ** 2 == pytest.approx(1 - fraction, abs=5e-5)
        half = add_noise(zero.bfloat16(), one.bfloat16(), steps)
        assert float(half) == pytest.approx((1 - fraction) ** 0.5, rel=0.01)


@torch.no_grad()
def test_a_prediction_depends_only_on_the_pixels_of_its_image():
    method = build().eval()
    batch = images(3, 32, 32)
    together = probability(method, Inputs(batch))
    for i in (2, 0, 1):
        alone = probability(method, Inputs(batch[i : i + 1]))[0]
        assert float((alone - together[i]).abs().max() / together[i].abs().max()) < 1e-5
    assert len(set(Draws.of_content(batch).seeds)) == 3


def test_training_timesteps_cover_the_whole_range(monkeypatch):
    method, timesteps = build().train(), []
    inputs = Inputs(images(1, 32, 32))
    encoded = method.encode(inputs)
    features = method.backbone.features
    monkeypatch.setattr(
        method.backbone,
        "features",
        lambda z, c, steps, r: timesteps.extend(steps.tolist()) or features(z, c, steps, r),
    )
    with torch.no_grad():
        method(
            Inputs(inputs.image.expand(400, -1, -1, -1)),
            encoded.rows([0] * 400),
            draws=Draws(tuple(range(400))),
        )
    assert 5 <= min(timesteps) < 10
    assert 195 < max(timesteps) <= 200
    assert 90 < sum(timesteps) / 400 < 115
    steps = Draws(tuple(range(2000))).integers(1, 5, 200)
    assert (int(steps.min()), int(steps.max())) == (5, 200)


def test_a_pass_on_encoded_images_does_not_run_the_encoder(monkeypatch):
    method = build().eval()
    inputs = Inputs(images(2, 32, 32))
    with torch.no_grad():
        whole = probability(method, inputs)
        encoded = method.encode(inputs)
        monkeypatch.setattr(method.backbone, "encode", pytest.fail)
        assert torch.equal(probability(method, inputs, encoded), whole)


def test_permuting_the_concepts_permutes_the_classes():
    method = build().eval()
    order = torch.tensor([3, 0, 4, 1, 2])
    inputs = Inputs(images(1, 32, 32))
    with torch.no_grad():
        before = probability(method, inputs)
        method.concepts.rows.copy_(method.concepts.rows[order])
        after = probability(method, inputs)
        torch.testing.assert_close(after, before[:, order], atol=1e-6, rtol=1e-4)


def test_only_concepts_and_codebook_get_gradients():
    method = build().train()
    output = method(Inputs(images(2, 32, 32)), draws=Draws((1, 2)))
    (output.probability[:, 0].log().mean() + output.value.square().mean()).backward()
    trainable = {name for name, p in method.named_parameters() if p.requires_grad}
    assert trainable == {"concepts.rows", "codebook.tables"}
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == (name in trainable), name
    assert bool(method.concepts.rows.grad.abs().min(dim=1).values.gt(0).all())


def test_training_the_concepts_fits_two_images():
    # the self-attention of a random UNet is nearly uniform and would blur all maps
    method = build(None, classes=2, maps=ConceptRequest(self_attention=False)).train()
    pictures = images(2, 32, 32) * 0.3
    pictures[0, 0, :, :12] += 0.7  # one image is red on the left, the other at the top
    pictures[1, 0, :12] += 0.7
    label = (pictures[:, 0] > 0.5).long()
    method.backbone.latent_scale = 1 / float(method.backbone.encode(pictures).std())
    encoded = method.encode(Inputs(pictures))
    optimiser = torch.optim.Adam(method.concepts.parameters(), 0.1)
    losses = []
    for step in range(80):
        optimiser.zero_grad()
        output = method(Inputs(pictures), encoded, draws=Draws((2 * step, 2 * step + 1)))
        loss = torch.nn.functional.nll_loss(output.maps.log(), label)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    p = 12 / 32
    # the loss of the best constant prediction
    constant = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert sum(losses[-10:]) / 10 < 0.9 * constant


def test_several_tables_without_a_vision_model_are_refused():
    torch.manual_seed(0)
    with pytest.raises(InputError, match="give vision"):
        FewShot(output=make_spec(5), backbone=StableDiffusion(SMALL), codebook=10)
    # an output of classes has no codebook
    method = FewShot(output=OutputSpec("classes", 5), backbone=StableDiffusion(SMALL), codebook=10)
    assert method.codebook is None


def test_an_explanation_has_the_tables_of_a_codebook_and_their_weights():
    source = BackboneSource("tiny")
    task = Depth(bins=4).fitted(torch.linspace(0.5, 4, 200)[:, None])
    model = DenseModel(task=task, method=FewShot.from_backbone(source, codebook=3)).eval()
    assert set(model.method.frozen()) == {"backbone", "vision"}
    with torch.no_grad():
        explanation = model.method.explain(Inputs(images(1, 64, 64)))
    assert explanation.tables.shape == (3, 4, 1)
    torch.testing.assert_close(explanation.weights.sum(), torch.ones(()))
    mixed = (explanation.weights[:, None, None] * explanation.tables).sum(dim=0)
    torch.testing.assert_close(explanation.values, mixed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook": -1}, "a codebook of -1 tables"),
        ({"maps": {"combined": "slime"}}, "maps have no option combined"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        FewShot.from_backbone(BackboneSource("tiny"), **options)


@pytest.mark.parametrize(
    ("classes", "d", "expected"), [(20, 1, 28360), (40, 2, 49440), (50, 3, 60380)]
)
def test_the_number_of_trainable_parameters_is_that_of_the_paper(classes, d, expected):
    """The totals are those of Stable Diffusion 2.1 with CLIP ViT-L/14."""
    codec = VectorCodebook.of(torch.zeros(classes, d))
    codec.label_std = torch.ones(d)
    parts = (Concepts(classes, dim=1024), Codebook(codec, features=768))
    assert sum(p.numel() for part in parts for p in part.parameters()) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestep": 1000}, "timestep 1000: give a whole number from 0 to 999"),
        ({"timestep": -1}, "timestep -1: give a whole number from 0 to 999"),
        ({"train_timesteps": (5, 2000)}, "train_timesteps 5, 2000: .* from 0 to 999"),
        ({"train_timesteps": (-1, 5)}, "train_timesteps -1, 5: .* from 0 to 999"),
        ({"train_timesteps": (200, 5)}, "train_timesteps 200, 5: give the first and the last"),
    ],
)
def test_timesteps_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=f"^{message}"):
        build(**options)
