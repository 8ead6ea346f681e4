"""Every recipe is parsed and its model instantiated, on the meta device where that is large."""

from pathlib import Path

import pytest
import torch

from diffsight import recipes
from diffsight.cli.fit import fit_parser
from diffsight.cli.recipe import parse
from diffsight.model import DenseModel
from diffsight.training.fit import fit
from diffsight.types import InputError

# weights that a fresh machine does not have
WEIGHTS = ("--method.backbone.weights", "null", "--method.prompts.weights", "null")


def instantiate(name: str):
    """The settings of a recipe, and its model; the data sets may not be there."""
    parser = fit_parser()
    large = not name.startswith("rooms/")
    words = ["--recipe", name, "--out", "unused", *(WEIGHTS if large else ())]
    settings = parse(parser, words, fit)
    if large:
        del settings["train"], settings["val"]
    with torch.device("meta" if large else "cpu"):
        built = parser.instantiate(settings)
        return built, DenseModel(task=built.task, method=built.method)


@pytest.mark.parametrize("name", [n for n in recipes.names() if not n.startswith("pretrain/")])
def test_every_recipe(name):
    built, model = instantiate(name)
    groups = built.optim.groups(model)
    assert sum(g.numel for g in groups) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    assert (built.steps is None) != (built.epochs is None)
    assert len((recipes.FOLDER / f"{name}.yaml").read_text().splitlines()) <= 70


def test_vpd_on_nyu_is_the_authors():
    built, model = instantiate("vpd/depth_nyu")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 872_228_161
    groups = {g.name: (g.lr_scale, g.weight_decay) for g in built.optim.groups(model)}
    assert groups == {
        "method.backbone.unet": (0.01, 0.1),
        "method.backbone.unet, vectors": (0.01, 0.0),
        "everything else": (1.0, 0.1),
        "everything else, vectors": (1.0, 0.0),
    }
    unet = sum(g.numel for g in built.optim.groups(model) if "unet" in g.name)
    assert unet == 859_520_964 - 12_164
    assert built.batch_size == 24
    assert [type(change).__name__ for change in built.augment] == [
        "CutDepth",
        "HorizontalFlip",
        "RandomCrop",
        "RandomBrightnessContrast",
        "RandomGamma",
        "HueSaturationValue",
    ]


def test_names_are_found_and_the_nearest_is_named(tmp_path):
    assert {"rooms/vpd_depth", "vpd/depth_nyu", "vpd/depth_kitti", "vpd/folder_depth"} <= set(
        recipes.names()
    )
    assert recipes.find("vpd/depth_nyu").read_text().startswith("# VPD, NYU")
    own = tmp_path / "own.yaml"
    own.write_text("steps: 1")
    assert recipes.find(own) == own
    with pytest.raises(InputError, match="did you mean 'vpd/depth_nyu'"):
        recipes.find(Path("vpd/dept_nyu"))
