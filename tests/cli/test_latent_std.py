"""``diffsight latent-std``: the standard deviation of a data set's latents."""

import json
from pathlib import Path

import pytest
import torch

from diffsight.backbones import StableDiffusion
from diffsight.cli import main
from diffsight.errors import InputError
from diffsight.rooms import Rooms

RECIPE = """
task: {class_path: Depth}
method:
  class_path: VPD
  init_args:
    backbone:
      {class_path: StableDiffusion, init_args: {architecture: tiny, latent_scale: 0.5}}
train: {class_path: Rooms, init_args: {count: 3, size: 64}}
"""


def test_the_standard_deviation_is_that_of_all_unscaled_latents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    assert main(["latent-std", "--recipe", str(recipe), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    backbone = StableDiffusion("tiny").eval()
    data = Rooms(count=3, size=64)
    images = torch.stack([data[i].image for i in range(3)]).float() / 255
    with torch.no_grad():
        expected = float(backbone.encode(images).double().std(correction=0))
    assert result["std"] == pytest.approx(expected, rel=1e-5)
    assert result["latent_scale"] == pytest.approx(1 / expected, rel=1e-5)
    scales = result["channel_latent_scale"]
    scaled = StableDiffusion("tiny", latent_scale=tuple(scales)).eval()
    with torch.no_grad():
        latent = scaled.encode(images).double()
    channels = latent.movedim(1, 0).flatten(1).std(dim=1, correction=0)
    assert channels.tolist() == pytest.approx([1.0] * len(scales), rel=1e-5)
    with pytest.raises(InputError, match="latent_scale has 2 numbers, the latent has 16 channels"):
        StableDiffusion("tiny", latent_scale=(1.0, 2.0))
    assert main(["latent-std", "--recipe", "pretrain/rooms"]) == 2
    assert "no task, or no method" in capsys.readouterr().err
    assert main(["latent-std", "--recipe", str(recipe), "--images", "0"]) == 2
