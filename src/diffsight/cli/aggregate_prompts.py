"""``diffsight aggregate-prompts``: average captions to one prompt for a data set (EVP)."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from diffsight.cli import options
from diffsight.cli.flags import command
from diffsight.errors import InputError

log = logging.getLogger(__name__)
# suffix of a data set's name
SPLIT = re.compile("-(train|training|val|validation|test|testA|testB)$")


@command("aggregate-prompts", exclusive=("captions", "table"), is_required=True)
def main(
    *,
    captions: Sequence[options.File] | None = None,
    table: options.File | None = None,
    encoder: str | None = None,
    tokens: int = 40,
    pooled: bool = False,
    out: options.File,
) -> int:
    """Average captions to one prompt for all images of a data set (EVP).

    The prompt has one vector per token position: the mean over the captions.

    Args:
        captions: caption files that `diffsight caption` wrote.
        table: text table that `diffsight text-table` wrote; the prompt is the mean of its rows.
        encoder: text encoder for --captions: a Stable Diffusion or CLIP folder, a hub id, or tiny.
        tokens: number of tokens to which every caption is padded.
        pooled: average the end-of-text features of the captions to a single vector.
        out: .safetensors file of the prompt to write.

    Example:
        diffsight aggregate-prompts --captions captions.json --encoder tiny --out mean.safetensors
    """
    from diffsight.prompts.text import mean_prompt, read_table, save_rows

    metadata: dict[str, str] = {}
    if table is not None:
        rows, count = read_table(table).mean(dim=0, keepdim=True), 1
    else:
        if encoder is None:
            raise InputError("--captions needs a text encoder: name one with --encoder")
        metadata["data"], texts = _read(captions or ())
        count = len(texts)
        rows = mean_prompt(texts, encoder=encoder, num_tokens=tokens, pooled=pooled)
    metadata["source"] = f"{encoder or table}, {count} texts"
    save_rows(out, rows, metadata)
    log.info("%s: %d token(s) of %d dimensions", out, *rows.shape)
    return 0


def _read(paths: Sequence[Path]) -> tuple[str, list[str]]:
    """Return the name of a data set and its captions from one or more files."""
    from diffsight.datasets.captioned import read_captions

    files = [read_captions(path) for path in paths]
    for path, file in zip(paths, files, strict=True):
        # splits of one data set may be mixed: the authors average over train and test
        if SPLIT.sub("", file.data) != SPLIT.sub("", files[0].data):
            raise InputError(
                f"{path}: captions of data set {file.data!r}, those of {paths[0]} are "
                f"of {files[0].data!r}: aggregate one data set at a time"
            )
    texts = [text for file in files for text in file.texts.values()]
    if not texts:
        raise InputError(f"{paths[0]}: contains no caption: write some with `diffsight caption`")
    return ", ".join(sorted({file.data for file in files})), texts
