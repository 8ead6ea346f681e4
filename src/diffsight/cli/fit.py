"""``diffsight fit``: train a model from a recipe."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffsight.cli.flags import example_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from diffsight.training.fit import Fitted


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Example:
        diffsight fit --recipe rooms/vpd_depth --out runs/rooms
    """
    fitted = train(argv)
    if fitted is None:
        return 0
    if fitted.evaluation is not None:
        from diffsight.cli.evaluate import show

        show(fitted.evaluation)
    sys.stdout.write(f"model: {fitted.folder / 'model'}\n")
    return 0


def train(argv: Sequence[str]) -> "Fitted | None":
    """Train as the command line says; return the result of ``fit``, None after ``--plan``.

    Raises:
        InputError: if an option or the recipe is wrong; suggests the nearest key or class.
    """
    from diffsight.cli import recipe
    from diffsight.training.fit import fit

    return recipe.call(fit_parser(), argv, fit)


def fit_parser() -> "ArgumentParser":
    """Return a parser whose options are the arguments of ``fit``."""
    from diffsight.cli import recipe
    from diffsight.training.fit import fit
    from diffsight.training.options import FitOptions

    return recipe.build_parser(
        fit,
        FitOptions,
        prog="diffsight fit",
        switches=("resume", "plan"),
        description="Train a model from a recipe. Every key of the recipe is an option, too. "
        "Nested keys are joined by dots, as in --method.backbone.latent_scale 0.18215. "
        "--KEY.help CLASS describes a class, as in --method.help VPD.",
        epilog=example_of(main),
    )
