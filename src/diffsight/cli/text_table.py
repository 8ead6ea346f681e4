"""``diffsight text-table``: turn names into a table of CLIP text features."""

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
    """Turn names into a table of CLIP text features; their order is stored with it.

    Args:
        names: text file, one class or scene name per line, or a list: ade20k, nyu_scenes.
        encoder: text tower: a Stable Diffusion or CLIP folder, a hub id, or tiny, the model of the
            package.
        out: the .safetensors to write.
        templates: single: "a photo of a ..." (ADE20K); imagenet: the mean of CLIP's 80 prompts
            (NYU).
        max_length: tokens per text.

    Example:
        diffsight text-table ade20k --encoder tiny --templates single --out classes.safetensors
    """
    from diffsight.prompts.text import build_text_table, save_table

    rows_of = _names(names)
    if len(set(rows_of)) != len(rows_of) or not rows_of:
        raise InputError(f"{names}: needs different names, one per line")
    rows = build_text_table(rows_of, encoder=encoder, templates=templates, max_length=max_length)
    save_table(out, rows_of, rows, f"{encoder}, {templates}, {max_length} tokens")
    norms = rows.norm(dim=1)
    log.info("%s: %d rows of %d, norms %.2f to %.2f", out, *rows.shape, norms.min(), norms.max())
    return 0


def _names(source: str) -> list[str]:
    """Return the names in a file, or a list of ``label_maps``."""
    from diffsight.datasets.class_lists import read_names
    from diffsight.label_maps import class_names

    if Path(source).exists():
        return read_names(Path(source))
    try:
        return list(class_names(source))
    except InputError as error:
        raise InputError(f"{source}: no such file, and {error}") from None
