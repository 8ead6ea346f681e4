"""``diffsight aggregate-prompts``: turn captions into one prompt for a data set (EVP)."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from diffsight.cli import options
from diffsight.cli.flags import command
from diffsight.errors import InputError

log = logging.getLogger(__name__)
SPLIT = re.compile("-(train|training|val|validation|test|testA|testB)$")  # of a data set's name


@command("aggregate-prompts", either=("captions", "table"), is_required=True)
def main(
    *,
    captions: Sequence[options.File] | None = None,
    table: options.File | None = None,
    encoder: str | None = None,
    tokens: int = 40,
    pooled: bool = False,
    out: options.File,
) -> int:
    """Turn captions into one prompt for all images of a data set: the mean of their tokens (EVP).

    Args:
        captions: files of `diffsight caption`.
        table: file of `diffsight text-table`, whose mean is one vector.
        encoder: text tower of --captions, as for text-table.
        tokens: tokens of a caption, padded.
        pooled: one vector: the mean of the captions' end-of-text features.
        out: the .safetensors to write.

    Example:
        diffsight aggregate-prompts --captions captions.json --encoder tiny --out mean.safetensors
    """
    from diffsight.prompts.text import mean_prompt, read_table, save_rows

    metadata: dict[str, str] = {}
    if table is not None:
        rows, count = read_table(table).mean(dim=0, keepdim=True), 1
    else:
        if encoder is None:
            raise InputError("--captions need a text tower: name one with --encoder")
        metadata["data"], texts = _read(captions or ())
        count = len(texts)
        rows = mean_prompt(texts, encoder=encoder, num_tokens=tokens, pooled=pooled)
    metadata["source"] = f"{encoder or table}, {count} texts"
    save_rows(out, rows, metadata)
    log.info("%s: %d token(s) of %d numbers", out, *rows.shape)
    return 0


def _read(paths: Sequence[Path]) -> tuple[str, list[str]]:
    """Return the name of a data set and its captions, which may be in several files."""
    from diffsight.datasets.captioned import read_captions

    files = [read_captions(path) for path in paths]
    for path, file in zip(paths, files, strict=True):
        # the parts of one data set belong together: the authors' mean is over both lists
        if SPLIT.sub("", file.data) != SPLIT.sub("", files[0].data):
            raise InputError(
                f"{path}: captions of data set {file.data!r}, those of {paths[0]} are "
                f"of {files[0].data!r}: aggregate one data set at a time"
            )
    texts = [text for file in files for text in file.texts.values()]
    if not texts:
        raise InputError(f"{paths[0]}: no caption in it: see `diffsight caption`")
    return ", ".join(sorted({file.data for file in files})), texts
