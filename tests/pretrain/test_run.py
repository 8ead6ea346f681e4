"""Whole runs of a pretraining: their files, resuming after a kill, and errors."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tests.pretrain import run
from tests.pretrain.conftest import SIZE, generate_in_two_steps, make_stages, use_small_chunks

from diffsight import assets
from diffsight.backbones import StableDiffusion
from diffsight.backbones.architectures import from_folder
from diffsight.errors import InputError
from diffsight.pretrain import card, denoiser, frozen_outputs, pictures, pretrain, probe

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def small_pretraining():
    """Use few pictures per chunk and in the probe, and few solver steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "IMAGES", 3)
        patch.setattr(denoiser, "generate", generate_in_two_steps)
        patch.setattr(card, "generate", generate_in_two_steps)
        before = pictures.CHUNK
        use_small_chunks()
        yield
        pictures.CHUNK = frozen_outputs.CHUNK = before


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run.train(out, cache)
    return out


def read_losses(out: Path) -> dict[tuple[str, int], float]:
    values = {}
    for path in out.glob("*/metrics.csv"):
        with path.open(newline="") as file:
            rows = [r for r in csv.DictReader(file) if r["name"] == "val/loss"]
        values |= {(path.parent.name, int(r["step"])): float(r["value"]) for r in rows}
    return values


def test_a_run_writes_a_complete_model(whole):
    model = whole / "model"
    assert {p.name for p in model.iterdir()} >= {
        *("vae", "unet", "text_encoder", "image_encoder", "tokenizer", "scheduler"),
        *("model_index.json", "README.md", "samples.png", "SHA256SUMS", "training.json"),
    }
    history = json.loads((model / "training.json").read_text())
    assert [(h["stage"], h["steps"]) for h in history] == [
        ("autoencoder", 6),
        ("clip", 2),
        ("denoiser", 6),
    ]
    assert all(h["scores"] for h in history)  # the last step is always scored
    assert "license: apache-2.0" in (model / "README.md").read_text()
    with Image.open(whole / "denoiser" / "pictures" / "step_000003.png") as picture:
        assert picture.size == (6 * 32, 2 * 32)
    backbone = StableDiffusion(from_folder(model), weights=model).eval()
    with torch.no_grad():
        latent = backbone.encode(torch.rand(1, 3, 64, 32))
        features = backbone.features(latent, torch.zeros(1, 1, 16), torch.ones(1, dtype=torch.long))
    assert all(bool(f.isfinite().all()) for f in features)
    assert assets._checked(model) == model


def test_a_killed_run_that_is_resumed_has_the_same_losses(whole, cache, tmp_path):
    # the forecast computes two losses; step 4 is saved, and the process is killed in step 5
    killed = subprocess.run(
        [sys.executable, "-m", "tests.pretrain.run", tmp_path / "run", cache, "7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert ("denoiser", 5) not in read_losses(tmp_path / "run")
    run.train(tmp_path / "run", cache, resume=True, checkpoint_every=1)
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["checkpoint_every"] == 1
    ours, theirs = read_losses(tmp_path / "run"), read_losses(whole)
    assert set(ours) == set(theirs)
    assert ours == pytest.approx(theirs, rel=1e-6)
    weights = "model/unet/diffusion_pytorch_model.safetensors"
    one, other = load_file(tmp_path / "run" / weights), load_file(whole / weights)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_the_card_names_the_teachers_and_their_training_images(tmp_path):
    entry = {"stage": "denoiser", "pictures": 8, "steps": 1, "batch_size": 4, "minutes": 0.1}
    entry["scores"] = {"loss": 1.0}
    path = tmp_path / "training.json"
    path.write_text(json.dumps([entry]))
    assert "no label, no photograph and no other model was used" in card._format_card(tmp_path)
    entry_with_teacher = entry | {"teachers": ["efficientnet-lite0@256"]}
    path.write_text(json.dumps([entry, entry_with_teacher, entry_with_teacher]))
    expected = "aligned with those of `efficientnet-lite0@256` (trained on photographs); no label"
    assert expected in card._format_card(tmp_path)
    path.write_text(json.dumps([entry | {"teachers": 3}]))
    with pytest.raises(InputError, match="not the history of a pretraining"):
        card.read_history(tmp_path)


def test_an_existing_run_is_not_overwritten(whole, cache):
    with pytest.raises(InputError, match="holds a run already: add --resume"):
        run.train(whole, cache)


def test_starting_from_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no model to begin with: give a diffusers folder"):
        pretrain(stages=[], out=tmp_path / "run", begin=tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("begin", "size", "message"),
    [
        (None, 36, r"size 36: choose a multiple of 8, because autoencoder"),
        (Path("tiny"), 36, r"size 36: choose a multiple of 16"),
        (None, 40, r"image_size 32 of clip: .* divides the pictures' 40"),
    ],
)
def test_unsuitable_sizes_are_refused_before_pictures_are_rendered(tmp_path, begin, size, message):
    with pytest.raises(InputError, match=message):
        pretrain(stages=make_stages(), out=tmp_path / "run", begin=begin, size=size)
    assert not (tmp_path / "run").exists()


def test_two_stages_with_the_same_name_are_refused(cache, tmp_path):
    """Both would write to one folder, so the second would be taken for finished."""
    rooms = {"images": 16, "held_out": 8, "size": SIZE, "cache": cache}
    for resume in (False, True):
        with pytest.raises(InputError, match=r"2 stages are named 'denoiser'.*give each a `name`"):
            pretrain(
                stages=[*make_stages(), make_stages()[2]],
                out=tmp_path / "run",
                resume=resume,
                **rooms,
            )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("history", ["[{}]", "[3]", "3", "{"])
def test_a_damaged_history_is_an_error_before_the_training(tmp_path, history):
    (tmp_path / "vae").mkdir()
    (tmp_path / "training.json").write_text(history)
    with pytest.raises(InputError, match=r"training.json: not the history of a pretraining"):
        pretrain(stages=[], out=tmp_path / "run", begin=tmp_path)
    assert not (tmp_path / "run").exists()


def test_the_probe_predicts_linear_functions_of_features_but_not_noise():
    """Depth is a linear function of the first feature channel; the second channel is noise."""
    torch.manual_seed(0)
    depth = torch.rand(4, 1, 6, 6)
    features = torch.cat([depth * 2 + 1, torch.randn(4, 1, 6, 6)], dim=1)
    prediction = probe._predict_ridge(features, depth, features)
    assert float((prediction - depth).abs().mean()) < 0.02
    from_noise = probe._predict_ridge(features[:, 1:], depth, features[:, 1:])
    assert float((from_noise - depth).abs().mean()) > 0.2
