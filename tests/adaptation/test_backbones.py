"""Several backbones are compared, each at its own image size; all are scored at the same size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support_adapt import run, write_pictures

import diffsight
from diffsight.adaptation.candidates import AUTO_BACKBONES, backbone_sources, candidates
from diffsight.adaptation.selection import Selection
from diffsight.errors import InputError
from diffsight.methods import FeatureHead
from diffsight.tasks import Depth, Segmentation

PAIR = "tiny@32, efficientnet-lite0@64"
NAMES = (
    "feature_head on tiny@32",
    "feature_head on efficientnet-lite0@64",
    "few_shot on tiny@32",
)


def test_the_best_pair_of_backbone_and_method_is_kept_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    real = Selection._held

    def held(selection: Selection, held_out: Any) -> Any:
        targets = real(selection, held_out)
        sizes.extend((t.valid.shape[-2], t.valid.shape[-1]) for t in targets)
        return targets

    monkeypatch.setattr(Selection, "_held", held)
    model = run(write_pictures(tmp_path, "segmentation", count=3), PAIR, "segmentation", steps=4)
    info = model.info
    assert set(info["held_out"]) == {*NAMES, "constant", "mean map"}
    assert tuple(info["steps"]) == NAMES
    # scores are computed at the larger short side, 64 px; the images have 64 x 64 and 48 x 80 px
    assert set(sizes) == {(64, 64), (64, 107)}
    own = {name: info["held_out"][name] for name in NAMES}
    assert info["chosen"] == max(own, key=lambda name: own[name])
    small = "tiny" in info["chosen"]
    assert info["short_side"] == (32 if small else 64)
    assert info["backbone"] == ("tiny@32" if small else "efficientnet-lite0@64")
    assert "IoU class 7, %" in info["figures"]
    assert info["held_out_images"] == 3
    assert info["verdict"]
    path = diffsight.save(model, tmp_path / "model.safetensors")
    assert diffsight.load(path).info == model.info | {"base_weights": [info["backbone"][:-3]]}


def test_a_resumed_comparison_of_backbones_gives_the_same_model(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, count=2)
    options: dict[str, Any] = {"method": "feature_head", "steps": 3, "mirror": False}
    whole = run(folder, PAIR, **options)

    def stop(progress: Any) -> None:
        if progress.run == "feature_head on efficientnet-lite0@64, fold 2 of 2":
            raise KeyboardInterrupt

    state = tmp_path / "state"
    run(folder, PAIR, **options, state=state, advance=stop)
    again = run(folder, PAIR, **options, state=state, resume=True)
    assert again.info == whole.info
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    with pytest.raises(InputError, match="resume"):
        run(folder, "tiny@32,efficientnet-lite0@96", **options, state=state, resume=True)


def test_backbone_auto_means_all_packaged_backbones() -> None:
    assert [str(source) for source in backbone_sources("auto")] == [*AUTO_BACKBONES]
    given = backbone_sources("auto", short_side=96)
    assert [str(source) for source in given] == ["tiny", "efficientnet-lite0"]
    pairs = candidates(["feature_head"], given, lambda **_: Depth(bins=4), short_side=96)
    assert {pair.short_side for pair in pairs} == {96}


def test_a_method_is_only_paired_with_backbones_that_it_supports(tmp_path: Path) -> None:
    task = Segmentation(("a", "b"))
    sources = backbone_sources("tiny,efficientnet-lite0")
    pairs = candidates(["few_shot", "linear_probe", "vpd"], sources, lambda **_: task)
    assert [pair.name for pair in pairs] == [
        "few_shot on tiny",
        "linear_probe on tiny",
        "linear_probe on efficientnet-lite0",
        "vpd on tiny",
    ]
    with pytest.raises(InputError, match="efficientnet-lite0: no diffusion model"):
        run(write_pictures(tmp_path, count=2), "efficientnet-lite0", method="few_shot", steps=1)


def test_method_auto_trains_the_feature_head_on_a_vision_backbone(tmp_path: Path) -> None:
    model = run(write_pictures(tmp_path, count=2), "efficientnet-lite0@32", steps=1)
    assert isinstance(model.method, FeatureHead)
    assert model.info["chosen"] == "feature_head"
    assert model.method.pixel_step == 4


def test_a_feature_head_can_use_features_of_several_timesteps(tmp_path: Path) -> None:
    options = {"method": "feature_head:timesteps=[1,200]", "steps": 1}
    model = run(write_pictures(tmp_path, count=2), "tiny", **options)
    path = diffsight.save(model, tmp_path / "model.safetensors")
    method = diffsight.load(path).method
    assert method.backbone.timesteps == (1, 200)
    assert method.backbone.channels == tuple(2 * n for n in method.backbone.backbone.channels)
    with pytest.raises(InputError, match=r"timesteps \(1000,\): give whole numbers from 0 to 999"):
        run(tmp_path, "tiny", method="feature_head:timesteps=[1000]", steps=1)
