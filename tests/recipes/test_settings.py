"""Settings that a recipe shares with its data, or with the recipe that it is compared with."""

import pytest

from diffsight import recipes
from diffsight.cli.recipe import read as recipe_data
from diffsight.inference.plan import Plan


def crop_of(name: str) -> tuple[int, int] | None:
    """Return height and width of the random crops that a recipe trains on; None without crops."""
    crops = [
        c["init_args"] for c in recipe_data(name)["augment"] if c["class_path"] == "RandomCrop"
    ]
    return (crops[0]["height"], crops[0]["width"]) if crops else None


DEPTH_SIZES = {"kitti-garg-v1": (352, 1216), "nyu-eigen-v1": (480, 640)}


@pytest.mark.parametrize("name", [n for n in recipes.names() if "kitti" in n or "nyu" in n])
def test_depth_models_trained_on_square_crops_are_validated_in_windows_of_their_size(name):
    """Also models that the authors did not publish, such as VPD on KITTI."""
    data, crop = recipe_data(name), crop_of(name)
    size = DEPTH_SIZES.get(data.get("protocol", ""))
    if crop is None or crop[0] != crop[1] or size is None:
        return
    plan = Plan(**data["evaluation_plan"])
    windows = plan.make_windows(*size)
    sides = {(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in windows}
    assert sides == {crop}
    assert windows[-1][1].stop == size[1]
    assert plan.flip


@pytest.mark.parametrize("name", [n for n in recipes.names() if n.startswith("few_shot/vpd_")])
def test_vpd_has_the_stable_diffusion_of_the_few_shot_recipe_it_is_compared_with(name):
    """The paper states Stable Diffusion 2.1 for both."""
    parts = recipe_data(name)["method"]["init_args"]
    other = recipe_data(name.replace("vpd_", ""))["method"]["init_args"]["backbone"]["init_args"]
    backbone, prompts = parts["backbone"]["init_args"], parts["prompts"]["init_args"]
    assert backbone["architecture"] == other["architecture"] == "sd21"
    assert backbone["weights"] == other["weights"]
    text = recipes.find(name).read_text()
    assert "stable-diffusion-v1-5" not in text
    if name == "few_shot/vpd_nyu_depth":  # its table is written by the command in its header
        assert f"--encoder {backbone['weights']} " in text
        assert f"--out {prompts['weights']}\n" in text
    else:
        assert prompts["weights"] == backbone["weights"]
    assert prompts["dim"] == 1024
