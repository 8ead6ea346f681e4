"""Text to image: agreement with diffusers, seeds, independence of batches, and errors."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from tests.support_pipeline import LIMIT, SIZE, STRIDE
from torch import Tensor

from diffsight.errors import InputError
from diffsight.inference import generate as module
from diffsight.inference.generate import generate
from diffsight.types import Draws

PROMPTS = ["a red sphere", "two chairs"]
QUICK = {"steps": 3, "size": 32, "device": "cpu"}


def largest_difference(a: Tensor, b: Tensor) -> int:
    """Return the largest difference of two uint8 images."""
    return int((a.int() - b.int()).abs().max())


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of numpy, in diffusers
@pytest.mark.parametrize(("guidance", "negative"), [(4.0, ""), (1.5, "a kitchen")])
def test_images_agree_with_the_pipeline_of_diffusers(
    pipeline_folder: Path, guidance: float, negative: str
) -> None:
    """This tests v-prediction, guidance, latent scale, text padding and the order of images."""
    theirs = StableDiffusionPipeline.from_pretrained(pipeline_folder).to(torch.float32)
    theirs.scheduler = DPMSolverMultistepScheduler.from_config(theirs.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    assert theirs.scheduler.config.prediction_type == "v_prediction"
    edge = SIZE // STRIDE
    expected = theirs(
        PROMPTS,
        negative_prompt=[negative] * len(PROMPTS),
        latents=Draws((7, 7)).normal(0, (4, edge, edge)),
        guidance_scale=guidance,
        num_inference_steps=6,
        output_type="pt",
    ).images
    ours = generate(
        PROMPTS,
        model=pipeline_folder,
        steps=6,
        guidance=guidance,
        seed=7,
        negative=negative,
        device="cpu",
    )
    assert ours.shape == (2, 3, SIZE, SIZE)
    assert ours.float().std() > 10  # the images are not constant
    assert largest_difference(ours, (expected * 255).round()) <= 1


def test_an_image_depends_only_on_its_prompt_and_seed(
    embedded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    images = generate(PROMPTS, count=3, seed=5, advance=steps.append, **QUICK)
    assert steps == [6, 6, 6]
    monkeypatch.setattr(module, "BATCH_PIXELS", 2 * 32**2)
    assert largest_difference(images, generate(PROMPTS, count=3, seed=5, **QUICK)) <= 1
    alone = generate(PROMPTS[1], seed=6, **QUICK)
    assert largest_difference(images[4:5], alone) <= 1
    for other in (generate(PROMPTS[0], seed=6, **QUICK), generate(PROMPTS[1], seed=5, **QUICK)):
        assert largest_difference(other, alone) > 1


def test_the_state_of_the_global_generator_does_not_change(embedded: Path) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    generate("a", **QUICK)
    assert torch.equal(torch.get_rng_state(), state)


def test_generation_writes_nothing_to_stderr_and_log(
    embedded: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        generate("a", **QUICK)
    assert (capfd.readouterr().err, caplog.text) == ("", "")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (48, "size 48: tiny needs a multiple of 32 px, such as 64"),
        (40, "such as 32"),
        (7, "such as 32"),
    ],
)
def test_the_message_for_an_unusable_size_names_the_nearest_usable_one(
    embedded: Path, size: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        generate("a", size=size)


def test_the_message_for_a_long_prompt_names_its_number_of_tokens(embedded: Path) -> None:
    longest = "a" * (LIMIT - 2)
    assert generate(longest, **QUICK).shape == (1, 3, 32, 32)
    with pytest.raises(InputError, match=f"{LIMIT + 1} tokens .* takes {LIMIT}: shorten it"):
        generate(["short", longest + "b"], **QUICK)
    with pytest.raises(InputError, match="takes 64"):
        generate("short", negative=longest + "b", **QUICK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count 0: give at least 1"),
        ({"size": 0}, "size 0: give at least 1"),
        ({"size": -64}, "size -64: give at least 1"),
        ({"steps": 0}, "steps 0: give at least 1"),
        ({"steps": 1000}, "steps 1000: give fewer than the 1000"),
        ({"guidance": float("nan")}, "guidance nan: give a number"),
        ({"prompts": []}, "number of prompts 0"),
        ({"model": "nowhere"}, "nowhere: has no folder scheduler/: give tiny, or"),
        ({"model": "owner/name"}, "owner/name: not on this machine and the hub cannot be reached"),
    ],
)
def test_unusable_arguments_are_refused(embedded: Path, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(**{"prompts": "a", **arguments})


@pytest.mark.parametrize(
    "name",
    [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
    ],
)
def test_a_folder_with_a_truncated_file_is_refused_in_one_line(
    pipeline_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(pipeline_folder, folder)
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError) as caught:
        generate("a", model=folder, **QUICK)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
def test_a_gpu_generates_nearly_the_same_image(embedded: Path) -> None:
    on_gpu = generate(PROMPTS, **QUICK | {"device": "cuda"})
    assert (on_gpu.float() - generate(PROMPTS, **QUICK).float()).abs().mean() < 1
