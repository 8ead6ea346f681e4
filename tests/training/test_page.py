"""The page about training: its plain loop runs, and its table is that of ``fit``."""

import re
from pathlib import Path

import torch

from diffsight import recipes
from diffsight.cli.fit import fit_parser
from diffsight.cli.recipe import parse
from diffsight.model import DenseModel
from diffsight.training.fit import fit

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


def test_the_plain_loop_of_the_page_trains():
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    names = {}
    torch.manual_seed(0)
    exec(compile(program, "training.md", "exec"), names)
    assert isinstance(names["model"], DenseModel)
    assert any(p.grad is not None and p.grad.any() for p in names["model"].parameters())
    loop = program[program.index("def train") :]
    assert len(loop.splitlines()) <= 20


def test_every_recipe_is_on_the_page():
    listed = re.findall(r"^\| (`\w+/\w+`[^|]*) \|", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+/\w+)`", " ".join(listed))) == set(recipes.names())


def test_groups_of_vpd_depth_are_those_of_the_page():
    parser = fit_parser()
    none = ("--method.backbone.weights", "null", "--method.prompts.weights", "null")
    settings = parse(parser, ["--recipe", "vpd/depth_nyu", "--out", "unused", *none], fit)
    del settings["train"], settings["val"]
    with torch.device("meta"):
        built = parser.instantiate(settings)
        model = DenseModel(task=built.task, method=built.method)
    for group in built.optim.groups(model):
        row = f"{len(group.parameters)} │ *{group.numel:,} │ *{5e-4 * group.lr_scale:.3g} │"
        assert re.search(rf"│ {group.name} *│ *{row}", PAGE), (group.name, row)
