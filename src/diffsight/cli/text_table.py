"""``diffsight text-table``: encode class names to a table of CLIP text features."""

import logging
from pathlib import Path
from typing import Annotated, Literal

from diffsight.cli import options
from diffsight.cli.flags import Flag, command
from diffsight.errors import InputError

log = logging.getLogger(__name__)


@command("text-table")
def main(
    names: Annotated[str, Flag("FILE|LIST")],
    *,
    encoder: str,
    out: options.File,
    templates: Literal["single", "imagenet"] = "imagenet",
    max_length: int = 20,
) -> int:
    """Encode class or scene names to a table of CLIP text features.

    The table has one row per name, and stores the names in their order.

    Args:
        names: text file with one class or scene name per line, or the name of a list, such as
            ade20k or nyu_scenes
        encoder: text encoder: a Stable Diffusion or CLIP folder, a hub id, or tiny (the model that
            is installed with diffsight).
        out: .safetensors file of the table to write.
        templates: prompts that a name is put into. single: "a photo of a ..." (as for ADE20K);
            imagenet: the 80 prompts of CLIP, whose features are averaged (as for NYU).
        max_length: number of tokens per text; shorter texts are padded.

    Example:
        diffsight text-table ade20k --encoder tiny --templates single --out classes.safetensors
    """
    from diffsight.prompts.text import build_text_table, save_table

    rows_of = _names(names)
    if len(set(rows_of)) != len(rows_of) or not rows_of:
        raise InputError(f"{names}: give at least one name, each on its own line and only once")
    rows = build_text_table(rows_of, encoder=encoder, templates=templates, max_length=max_length)
    save_table(out, rows_of, rows, f"{encoder}, {templates}, {max_length} tokens")
    norms = rows.norm(dim=1)
    log.info(
        "%s: %d rows of %d features, norms %.2f to %.2f", out, *rows.shape, norms.min(), norms.max()
    )
    return 0


def _names(source: str) -> list[str]:
    """Return the names in a file, or those of a list in ``label_maps``."""
    from diffsight.datasets.class_lists import read_names
    from diffsight.label_maps import resolve_class_names

    if Path(source).exists():
        return read_names(Path(source))
    try:
        return list(resolve_class_names(source))
    except InputError as error:
        raise InputError(f"{source}: no such file, and {error}") from None
