"""All stages one after another; a killed run is resumed with the same losses."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.pretrain import run
from tests.pretrain.conftest import SIZE, few_steps, small_chunks, stages

from diffsight import assets
from diffsight.backbones import StableDiffusion
from diffsight.backbones.architectures import of_folder
from diffsight.errors import InputError
from diffsight.pretrain import card, denoiser, frozen_outputs, pictures, pretrain, probe

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def small():
    """Few pictures in a chunk, few in the probe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "IMAGES", 3)
        patch.setattr(denoiser, "generate", few_steps)
        patch.setattr(card, "generate", few_steps)
        before = pictures.CHUNK
        small_chunks()
        yield
        pictures.CHUNK = frozen_outputs.CHUNK = before


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run.train(out, cache)
    return out


def losses(out: Path) -> dict[tuple[str, int], float]:
    found = {}
    for path in out.glob("*/metrics.csv"):
        with path.open(newline="") as file:
            rows = [r for r in csv.DictReader(file) if r["name"] == "val/loss"]
        found |= {(path.parent.name, int(r["step"])): float(r["value"]) for r in rows}
    return found


def test_what_a_run_makes(whole):
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
    assert all(h["scores"] for h in history)  # of the last step, whatever validate_every is
    assert "license: apache-2.0" in (model / "README.md").read_text()
    with Image.open(whole / "denoiser" / "pictures" / "step_000003.png") as picture:
        assert picture.size == (6 * 32, 2 * 32)
    backbone = StableDiffusion(of_folder(model), weights=model).eval()
    with torch.no_grad():
        latent = backbone.encode(torch.rand(1, 3, 64, 32))
        features = backbone.features(latent, torch.zeros(1, 1, 16), torch.ones(1, dtype=torch.long))
    assert all(bool(f.isfinite().all()) for f in features)
    assert assets._checked(model) == model


def test_killed_and_resumed_it_has_the_same_losses(whole, cache, tmp_path):
    # the forecast takes two passes; step 4 is saved, step 5 is in the making
    killed = subprocess.run(
        [sys.executable, "-m", "tests.pretrain.run", tmp_path / "run", cache, "7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert ("denoiser", 5) not in losses(tmp_path / "run")
    run.train(tmp_path / "run", cache, resume=True)
    ours, theirs = losses(tmp_path / "run"), losses(whole)
    assert set(ours) == set(theirs)
    assert ours == pytest.approx(theirs, rel=1e-6)
    weights = "model/unet/diffusion_pytorch_model.safetensors"
    one, other = load_file(tmp_path / "run" / weights), load_file(whole / weights)
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_the_card_names_a_teacher_that_has_seen_photographs(tmp_path):
    entry = {"stage": "denoiser", "pictures": 8, "steps": 1, "batch_size": 4, "minutes": 0.1}
    entry["scores"] = {"loss": 1.0}
    path = tmp_path / "training.json"
    path.write_text(json.dumps([entry]))
    assert "no label, no photograph and no other model was used" in card._card(tmp_path)
    taught = entry | {"teachers": ["efficientnet-lite0@256"]}
    path.write_text(json.dumps([entry, taught, taught]))
    wanted = "aligned with those of `efficientnet-lite0@256` (trained on photographs); no label"
    assert wanted in card._card(tmp_path)
    path.write_text(json.dumps([entry | {"teachers": 3}]))
    with pytest.raises(InputError, match="not the history of a pretraining"):
        card.read_history(tmp_path)


def test_a_run_in_the_way(whole, cache):
    with pytest.raises(InputError, match="holds a run already: add --resume"):
        run.train(whole, cache)


def test_nothing_to_begin_with(tmp_path):
    with pytest.raises(InputError, match="no model to begin with: give a diffusers folder"):
        pretrain(stages=[], out=tmp_path / "run", begin=tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("begin", "size", "message"),
    [
        (None, 36, r"size 36: choose a multiple of 8, as autoencoder"),
        (Path("tiny"), 36, r"size 36: choose a multiple of 16"),
        (None, 40, r"image_size 32 of clip: .* divides the pictures' 40"),
    ],
)
def test_sizes_are_refused_before_a_picture_is_rendered(tmp_path, begin, size, message):
    with pytest.raises(InputError, match=message):
        pretrain(stages=stages(), out=tmp_path / "run", begin=begin, size=size)
    assert not (tmp_path / "run").exists()


def test_stages_of_one_name_are_refused(cache, tmp_path):
    """The second would find the first's folder, and be taken for done."""
    rooms = {"images": 16, "held_out": 8, "size": SIZE, "cache": cache}
    for resume in (False, True):
        with pytest.raises(InputError, match=r"2 stages are named 'denoiser'.*give each a `name`"):
            pretrain(stages=[*stages(), stages()[2]], out=tmp_path / "run", resume=resume, **rooms)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("history", ["[{}]", "[3]", "3", "{"])
def test_history_that_cannot_be_continued_is_refused_before_the_work(tmp_path, history):
    (tmp_path / "vae").mkdir()
    (tmp_path / "training.json").write_text(history)
    with pytest.raises(InputError, match=r"training.json: not the history of a pretraining"):
        pretrain(stages=[], out=tmp_path / "run", begin=tmp_path)
    assert not (tmp_path / "run").exists()


def test_probe_of_informative_features():
    """The linear map finds what is a linear function of the features, and nothing in noise."""
    torch.manual_seed(0)
    depth = torch.rand(4, 1, 6, 6)
    features = torch.cat([depth * 2 + 1, torch.randn(4, 1, 6, 6)], dim=1)
    prediction = probe._ridge(features, depth, features)
    assert float((prediction - depth).abs().mean()) < 0.02
    from_noise = probe._ridge(features[:, 1:], depth, features[:, 1:])
    assert float((from_noise - depth).abs().mean()) > 0.2
