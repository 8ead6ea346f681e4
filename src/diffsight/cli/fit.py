"""``diffsight fit``: train a model from a recipe."""

import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from diffsight.training.fit import Fitted


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    fitted = train(argv)
    if fitted is None:
        return 0
    if fitted.evaluation is not None:
        from diffsight.cli.evaluate import show

        show(fitted.evaluation)
    sys.stdout.write(f"model: {fitted.folder / 'model'}\n")
    return 0


def train(argv: Sequence[str]) -> "Fitted | None":
    """What ``fit`` gives for a command line.

    Raises:
        InputError: one line; for an unknown key or class it names the nearest.
    """
    from lightning.pytorch import seed_everything

    from diffsight.training.fit import fit

    parser = build_parser()
    settings = parse(parser, argv)
    # parts of the model are built here already
    seed_everything(settings.seed, verbose=False)
    arguments = parser.instantiate(settings).as_dict()
    del arguments["recipe"]
    return fit(**arguments)


def build_parser() -> "ArgumentParser":
    """Its options are the arguments of ``fit``; every class of diffsight has a short name."""
    import jsonargparse
    import yaml

    import diffsight.backbones
    import diffsight.datasets
    import diffsight.heads
    import diffsight.methods
    import diffsight.necks
    import diffsight.prompts
    import diffsight.tasks  # noqa: F401 - importing makes the short names known
    from diffsight.training.fit import fit

    # jsonargparse 4.53 hands the null of an option three levels deep on as the word "None"
    load = jsonargparse.get_loader("yaml")
    jsonargparse.set_loader(
        "recipe", lambda text: None if text == "None" else load(text), (yaml.YAMLError,)
    )
    parser = jsonargparse.ArgumentParser(
        prog="diffsight fit",
        parser_mode="recipe",
        exit_on_error=False,
        description="Train a model from a recipe. Every key of the recipe is an option, nested "
        "ones with dots: --method.backbone.latent_scale 0.18215.",
    )
    parser.add_argument(
        "--recipe", action="config", metavar="FILE|NAME", help="such as rooms/vpd_depth"
    )
    parser.add_function_arguments(fit, skip={"resume", "plan"})
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.ckpt")
    parser.add_argument("--plan", action="store_true", help="print the forecast and stop")
    return parser


def parse(parser: "ArgumentParser", argv: Sequence[str]) -> "Namespace":
    """The settings of a command line, nothing built yet.

    Raises:
        InputError: one line; for an unknown key or class it names the nearest.
    """
    from diffsight.cli.explain import explain
    from diffsight.training.fit import fit
    from diffsight.types import InputError

    try:
        return parser.parse_args(_with_file(argv))
    except ArgumentError as error:
        raise InputError(f"{explain(error.message, fit)}") from None


def _with_file(argv: Sequence[str]) -> list[str]:
    """A recipe given by name becomes its file; a resumed run brings its own."""
    from diffsight import recipes

    words = [part for word in argv for part in _split(word)]
    if "--recipe" in words:
        for place in range(1, len(words)):
            if words[place - 1] == "--recipe":
                words[place] = str(recipes.find(words[place]))
    elif "--resume" in words and "--out" in words[:-1]:
        own = Path(words[words.index("--out") + 1]) / "recipe.yaml"
        words = ["--recipe", str(recipes.find(own)), *words]
    return words


def _split(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith(("--recipe=", "--out=")) else [word]
