"""The three stages of a pretraining: their losses, scores and exported parts."""

import math

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from tests.pretrain.conftest import OPTIM, make_stages
from torch.nn import functional
from transformers import CLIPTextModelWithProjection

from diffsight.backbones import StableDiffusion
from diffsight.backbones.architectures import from_folder
from diffsight.errors import InputError
from diffsight.pretrain.autoencoder import Autoencoder, rescale
from diffsight.pretrain.clip import (
    ClipPair,
    PairBatch,
    compute_rarities,
    shift_and_mirror,
    standardise,
    tokenize,
)
from diffsight.pretrain.denoiser import FIXED_PROMPTS, Denoiser
from diffsight.pretrain.folder import config_of
from diffsight.pretrain.frozen_outputs import open_latents
from diffsight.pretrain.pictures import to_signed

OPTIONS = {"optim": OPTIM, "steps": 1, "batch_size": 1}


@torch.no_grad()
def test_rescaled_latents_give_the_same_images(context):
    vae = make_stages()[0].objective(context).vae.eval()
    image = torch.randn(2, 3, 16, 16)
    before = vae.encode(image).latent_dist
    decoded = vae.decode(before.mode()).sample
    rescale(vae, 3.0)
    after = vae.encode(image).latent_dist
    torch.testing.assert_close(after.mean, 3 * before.mean)
    torch.testing.assert_close(after.std, 3 * before.std)
    torch.testing.assert_close(vae.decode(after.mode()).sample, decoded)


def test_the_autoencoder_trains_and_exports_latents_of_unit_variance(context):
    stage = make_stages()[0]
    objective = stage.objective(context)
    batch = stage.fetch(context)([0, 3, 5, 9], [1, 2, 3, 4])
    assert torch.equal(batch.image, stage.fetch(context)([0, 3, 5, 9], [1, 2, 3, 4]).image)
    assert batch.image.shape == (4, 3, 16, 16)
    parts = {name: float(value.detach()) for name, value in objective.losses(batch).items()}
    assert math.isclose(
        parts["loss"], parts["pixel"] + parts["coarse"] + 1e-5 * parts["kl"], rel_tol=1e-5
    )
    optimiser = torch.optim.Adam(objective.parameters(), 3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        loss = objective.losses(batch)["loss"]
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.7 * parts["loss"]
    stage.export(objective, context, context.model)
    latents = open_latents(context.cache, context.train, context.model / "vae", 32)
    values = torch.stack([latents(i) for i in range(16)])
    assert float(values.std()) == pytest.approx(1, abs=0.02)
    vae = AutoencoderKL.from_pretrained(context.model / "vae", low_cpu_mem_usage=False).float()
    assert vae.config.scaling_factor == 1.0
    with torch.no_grad():
        expected = vae.encode(to_signed(context.train.image(7)[None])).latent_dist.mode()[0]
    torch.testing.assert_close(values[7], expected, atol=2e-3, rtol=2e-3)


def test_an_exported_configuration_contains_no_local_path(full_context):
    stage = make_stages()[0]
    stage.export(stage.objective(full_context), full_context, full_context.model)
    config = (full_context.model / "vae" / "config.json").read_text()
    assert "_name_or_path" not in config
    assert str(full_context.model) not in config


def test_a_deeper_autoencoder_is_initialised_with_the_outer_layers_of_the_old_one(full_context):
    old = make_stages()[0].objective(full_context).vae
    stage = Autoencoder(widths=(8, 8, 8, 8), replace=True, latent_channels=6, crop=16, **OPTIONS)
    vae = stage.objective(full_context).vae
    source, target = old.state_dict(), vae.state_dict()
    pairs = {
        "encoder.conv_in.weight": "encoder.conv_in.weight",
        "encoder.down_blocks.2.resnets.0.conv1.bias": "encoder.down_blocks.2.resnets.0.conv1.bias",
        "decoder.up_blocks.0.resnets.1.conv2.bias": "decoder.up_blocks.1.resnets.1.conv2.bias",
        "decoder.up_blocks.2.resnets.0.conv1.weight": "decoder.up_blocks.3.resnets.0.conv1.weight",
        "decoder.conv_out.weight": "decoder.conv_out.weight",
    }
    assert all(torch.equal(source[one], target[other]) for one, other in pairs.items())
    inner = "encoder.mid_block.resnets.0.conv1.weight"
    assert not torch.equal(source[inner], target[inner])
    assert vae.config.latent_channels == 6


def test_training_the_decoder_alone_keeps_the_latents(full_context):
    stage = Autoencoder(decoder_only=True, crop=16, **OPTIONS | {"batch_size": 4})
    assert stage.check(32, 4) == 4
    objective = stage.objective(full_context)
    before = load_file(full_context.model / "vae" / "diffusion_pytorch_model.safetensors")
    batch = stage.fetch(full_context)([0, 3, 5, 9], [1, 2, 3, 4])
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, 0.1)
    objective.losses(batch)["loss"].backward()
    optimiser.step()
    stage.export(objective, full_context, full_context.model)
    after = load_file(full_context.model / "vae" / "diffusion_pytorch_model.safetensors")
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert "decoder.conv_out.weight" in changed
    assert not {name for name in changed if name.startswith(("encoder.", "quant_conv."))}
    for options, stride in (({"replace": True}, 4), ({}, None)):
        with pytest.raises(InputError, match="trains a decoder alone: begin with a model"):
            Autoencoder(decoder_only=True, **options, **OPTIONS).check(32, stride)


@torch.no_grad()
def test_the_score_of_the_autoencoder_is_psnr(context):
    stage = make_stages()[0]
    objective = stage.objective(context).eval()
    decoded = [objective.score(batch)[0] for batch in stage.held_out(context)(0, 1)]
    truth = torch.stack([context.held_out.image(i) for i in range(8)]).float() / 255
    error = (torch.stack(decoded).clamp(-1, 1) + 1) / 2 - truth
    expected = (-10 * error.square().mean(dim=(1, 2, 3)).log10()).mean()
    assert float(objective.scores()["psnr_db"]) == pytest.approx(float(expected), abs=1e-3)


def test_equal_captions_in_a_batch_share_the_target_probability(full_context):
    stage = make_stages()[1]
    objective = stage.objective(full_context)
    image = standardise(full_context.train.at([0, 1, 2], 32))
    tokens = tokenize(full_context.model, ["a kitchen", "a bedroom", "a kitchen"])
    a, b = (functional.normalize(x, dim=-1) for x in objective.embed(PairBatch(image, tokens)))
    logits = objective.towers.get_parameter("logit_scale").exp() * a @ b.mT
    target = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]])
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    expected = -((target * rows).sum() + (target * columns).sum()) / 6
    torch.testing.assert_close(objective.losses(PairBatch(image, tokens))["loss"], expected)


@torch.no_grad()
def test_retrieval_counts_equal_captions_as_hits(full_context, monkeypatch):
    objective = make_stages()[1].objective(full_context)
    tokens = tokenize(full_context.model, ["a kitchen", "a bedroom", "a kitchen", "an office"])
    vectors = torch.eye(4)
    monkeypatch.setattr(objective, "embed", lambda batch: (vectors, vectors[[2, 1, 0, 1]]))
    objective.score(PairBatch(torch.zeros(4, 3, 32, 32), tokens))
    assert float(objective.scores()["recall_at_1"]) == 0.75


def test_augmentation_shifts_and_mirrors_pictures():
    image = torch.arange(3 * 8 * 8, dtype=torch.uint8).unflatten(0, (3, 8, 8))
    kinds = set()
    for seed in range(60):
        moved = shift_and_mirror(image, 2, seed)
        assert torch.equal(moved, shift_and_mirror(image, 2, seed))
        inner = moved[:, 2:-2, 2:-2]  # without the border pixels, which are repeated
        shifts = [
            (down, right, mirrored)
            for down in range(5)
            for right in range(5)
            for mirrored in (False, True)
            if torch.equal(
                inner.flip(-1) if mirrored else inner, image[:, down : down + 4, right : right + 4]
            )
        ]
        assert len(shifts) == 1
        kinds.add(shifts[0])
    assert len(kinds) > 25


@torch.no_grad()
def test_padding_does_not_change_the_embedding_of_a_text(full_context):
    objective = make_stages()[1].objective(full_context).eval()
    texts = ["a kitchen", "a view of a living room with a window, a wooden shelf and a grey sofa"]
    tokens = tokenize(full_context.model, texts)
    image = standardise(full_context.train.at([0, 1], 32))
    _, embeddings = objective.embed(PairBatch(image, tokens))
    expected = objective.towers["text"](input_ids=tokens).text_embeds
    torch.testing.assert_close(embeddings, expected)


def test_rare_words_have_the_largest_weights(full_context):
    tokens = torch.tensor([[0, 1, 2, 2], [0, 1, 3, 3], [0, 1, 2, 4], [0, 1, 1, 3]])
    expected = [math.log(4 / n) for n in (4, 4, 2, 2, 1, 1)]
    torch.testing.assert_close(compute_rarities(tokens, 6), torch.tensor(expected))
    stage = ClipPair(word_weight=0.5, optim=OPTIM, steps=1, batch_size=2)
    objective = stage.objective(full_context)
    image = standardise(full_context.train.at([0, 1], 32))
    tokens = tokenize(full_context.model, ["a kitchen with a kitchen", "a bedroom"])
    losses = objective.losses(PairBatch(image, tokens))
    logits = objective.towers["words"](objective.embed(PairBatch(image, tokens))[0]).log_softmax(1)
    rows = []
    for row, some in zip(logits, tokens, strict=True):
        tokens_in_caption = some.unique()  # a word that occurs twice counts once
        weight = objective.rarity[tokens_in_caption] / objective.rarity[tokens_in_caption].sum()
        rows.append(-(weight * row[tokens_in_caption]).sum())
    torch.testing.assert_close(losses["words"], torch.stack(rows).mean())
    torch.testing.assert_close(losses["loss"], losses["contrast"] + 0.5 * losses["words"])


def test_a_locked_text_tower_is_not_trained(full_context):
    stage = ClipPair(
        lock_text=True, word_weight=1.0, image_size=32, optim=OPTIM, steps=1, batch_size=4
    )
    objective = stage.objective(full_context)
    batch = stage.fetch(full_context)([0, 1, 2, 3], [1, 2, 3, 4])
    objective.losses(batch)["loss"].backward()
    trained = {name for name, p in objective.trained.named_parameters() if p.grad is not None}
    assert "text.text_projection.weight" in trained
    assert "vision.vision_model.embeddings.patch_embedding.weight" in trained
    assert not {name for name in trained if name.startswith("text.text_model")}
    before = load_file(full_context.model / "text_encoder" / "model.safetensors")
    stage.export(objective, full_context, full_context.model)
    after = load_file(full_context.model / "text_encoder" / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_locking_a_missing_text_tower_is_an_error(context):
    with pytest.raises(InputError, match="has no text_encoder"):
        ClipPair(lock_text=True, optim=OPTIM, steps=1, batch_size=4).objective(context)


def test_the_denoiser_is_trained_to_predict_v(full_context):
    stage = make_stages()[2]
    objective = stage.objective(full_context)
    batch = stage.fetch(full_context)([0, 1, 2, 3], [5, 6, 7, 8])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()
    signal = (1 - betas).cumprod(0)[batch.steps][:, None, None, None]
    noised = signal.sqrt() * batch.latent + (1 - signal).sqrt() * batch.noise
    target = signal.sqrt() * batch.noise - (1 - signal).sqrt() * batch.latent
    with torch.no_grad():
        v = objective.net.unet(noised, batch.steps, batch.text).sample
    objective.net._taps.clear()
    losses = objective.losses(batch)
    torch.testing.assert_close(losses["v"], functional.mse_loss(v, target))
    assert 0 < float(losses["align"].detach()) < 2
    losses["loss"].backward()
    assert all(p.grad is not None for p in objective.trained.parameters())


def test_a_fraction_of_the_captions_is_replaced_by_the_empty_caption(full_context):
    stage = Denoiser(widths=(8, 8, 16, 16), size=32, optim=OPTIM, steps=1, batch_size=4, empty=0.5)
    text = stage.fetch(full_context)([0] * 200, list(range(200))).text
    tower = CLIPTextModelWithProjection.from_pretrained(full_context.model / "text_encoder").float()
    captions = ["", full_context.train.captions[0]]
    with torch.no_grad():
        expected = tower(input_ids=tokenize(full_context.model, captions)).last_hidden_state
    nothing, whole = ((text - one).abs().amax(dim=(1, 2)) < 5e-3 for one in expected)
    assert torch.equal(nothing, ~whole)
    assert 70 < int(nothing.sum()) < 130
    held_out = next(iter(stage.held_out(full_context)(0, 1))).text
    assert not ((held_out - expected[0]).abs().amax(dim=(1, 2)) < 5e-3).any()


def test_the_moving_average_of_the_weights_starts_with_a_small_decay(full_context):
    objective = make_stages()[2].objective(full_context)
    name = "conv_in.weight"
    start = objective.mean.get_parameter(name).clone()
    with torch.no_grad():
        objective.net.unet.get_parameter(name).add_(1)
    objective.after_step()
    moved = objective.mean.get_parameter(name) - start
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - 2 / 11))
    objective.updates.fill_(10**6)
    objective.after_step()
    left = 1 - (objective.mean.get_parameter(name) - start)
    torch.testing.assert_close(left, torch.full_like(left, 2 / 11 * 0.999), atol=1e-5, rtol=1e-4)


def test_the_denoiser_has_the_topology_of_stable_diffusion(full_context):
    stage = make_stages()[2]
    stage.export(stage.objective(full_context), full_context, full_context.model)
    backbone = StableDiffusion(from_folder(full_context.model), weights=full_context.model)
    assert backbone.strides == (4, 8, 16, 32)
    assert backbone.channels == (8, 8, 16, 16)
    unet = UNet2DConditionModel.from_pretrained(
        full_context.model / "unet", low_cpu_mem_usage=False
    )
    crossing = [n for n, m in unet.named_modules() if n.endswith("attn2")]
    assert len(crossing) == 16  # 6 in down blocks, 1 in the middle, 9 in up blocks
    assert unet.config.sample_size == 8


def test_the_exported_unet_has_the_size_of_its_last_training(full_context):
    """``adapt`` and ``generate`` read the image size from the model folder."""
    for size in (32, 64):
        stage = Denoiser(
            widths=(8, 8, 16, 16), heads=(1, 1, 2, 2), size=size, optim=OPTIM, steps=1, batch_size=4
        )
        stage.export(stage.objective(full_context), full_context, full_context.model)
        assert config_of(full_context.model / "unet")["sample_size"] == size // 4


def test_the_fixed_prompts_fit_into_the_text_tower(full_context):
    text = CLIPTextModelWithProjection.from_pretrained(full_context.model / "text_encoder")
    assert text.config.max_position_embeddings == 64
    for prompt in FIXED_PROMPTS:
        ids = tokenize(full_context.model, [prompt])[0]
        assert int(ids[-1]) == text.config.eos_token_id


@pytest.mark.parametrize(
    ("stage", "size", "stride", "message"),
    [
        (
            Autoencoder(**OPTIONS),
            132,
            None,
            r"size 132: choose a multiple of 8, because autoencoder",
        ),
        (Autoencoder(**OPTIONS), 136, 16, r"size 136: choose a multiple of 32"),
        (Autoencoder(crop=24, **OPTIONS), 32, None, r"crop 24 of autoencoder: .* at most 16"),
        (Autoencoder(crop=22, **OPTIONS), 64, None, r"crop 22 of autoencoder: .* stride 4 of"),
        (
            ClipPair(image_size=60, **OPTIONS),
            120,
            None,
            r"image_size 60 of clip: .* patch's 16 that",
        ),
        (
            ClipPair(image_size=48, **OPTIONS),
            128,
            None,
            r"image_size 48 of clip: .* divides .* 128",
        ),
        (Denoiser(size=48, **OPTIONS), 96, 4, r"size 48 of denoiser: choose a multiple of 32"),
        (
            Denoiser(size=96, **OPTIONS),
            128,
            4,
            r"size 96 of denoiser: .* divides the pictures' 128",
        ),
        (Denoiser(**OPTIONS), 128, None, r"stage 'denoiser' needs an autoencoder: put that stage"),
    ],
)
def test_a_size_that_does_not_fit_is_an_error(stage, size, stride, message):
    with pytest.raises(InputError, match=message):
        stage.check(size, stride)


def test_the_check_of_a_stage_returns_the_stride_of_the_autoencoder():
    stride = None
    for stage in (Autoencoder(widths=(8, 8), **OPTIONS), ClipPair(**OPTIONS), Denoiser(**OPTIONS)):
        stride = stage.check(128, stride)
        assert stride == 2


def test_a_missing_part_of_the_model_is_an_error(context):
    with pytest.raises(InputError, match=r"has no vae/, which stage 'denoiser' needs"):
        make_stages()[2].objective(context)
