"""``diffsight pretrain``: train a text-to-image diffusion model on rooms from scratch."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffsight.cli.flags import example_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Example:
        diffsight pretrain --recipe pretrain/rooms --out runs/tiny
    """
    from diffsight.cli import recipe
    from diffsight.pretrain import pretrain

    folder = recipe.call(pretrain_parser(), argv, pretrain)
    sys.stdout.write(f"model: {folder}\n")
    return 0


def pretrain_parser() -> "ArgumentParser":
    """Return a parser whose options are the arguments of ``pretrain``."""
    from diffsight.cli import recipe
    from diffsight.pretrain import pretrain
    from diffsight.pretrain.run import PretrainOptions

    return recipe.build_parser(
        pretrain,
        PretrainOptions,
        prog="diffsight pretrain",
        switches=("resume",),
        description="Train a small text-to-image latent diffusion model on rendered rooms "
        "and their captions, stage by stage. --recipe pretrain/rooms is the one "
        "of the installed model tiny.",
        epilog=example_of(main),
    )
