"""Tables of CLIP text features of names, and the text adapter (VPD, equation 5)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight import assets
from diffsight.atomic import replacing
from diffsight.errors import InputError, suggest
from diffsight.formats.tensors import TensorFile
from diffsight.formats.text import parse_json, reading
from diffsight.label_maps import resolve_class_names
from diffsight.prompts.base import AbstractPrompt
from diffsight.prompts.encoder import load_text_encoder
from diffsight.prompts.templates import TEMPLATES
from diffsight.types import Inputs
from diffsight.weights import require_finite, write_tensors


class TextAdapter(nn.Module):
    """Residual MLP on text features: ``c + gamma * MLP(c)`` (VPD, equation 5).

    Args:
        dim: width of a feature vector.
        gamma_init: initial value of all elements of gamma.
    """

    def __init__(self, dim: int, gamma_init: float = 1e-4) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.gamma = nn.Parameter(torch.full((dim,), gamma_init))

    def forward(self, features: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """Return the refined features; every vector is refined independently."""
        return features + self.gamma * self.mlp(features)


class AbstractTable(AbstractPrompt):
    """Base class of prompts with a table: one text vector per name, refined by ``TextAdapter``.

    Args:
        names: names of the rows in order, or the name of a list in ``label_maps``. Rows of
            ``weights`` are looked up by name.
        dim: width of a vector (768 for Stable Diffusion 1.x, 1024 for 2.x).
        weights: file of a table, written by ``diffsight text-table``; ``tiny`` computes the table
            with the embedded model's text tower; None: standard normal random rows.
        learn_rows: train the rows too (for a backbone trained from scratch, without a text tower).
        adapter: refine the rows; False uses them unchanged (a row of VPD's table 5).

    Raises:
        InputError: if names are repeated or missing, or the table lacks one or has another width.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        *,
        dim: int = 768,
        weights: str | Path | None = None,
        learn_rows: bool = False,
        adapter: bool = True,
    ) -> None:
        super().__init__()
        self.names = resolve_class_names(names)
        self.dim = dim
        rows = _rows(self.names, dim, weights)
        self.rows: Tensor
        if learn_rows:
            self.rows = nn.Parameter(rows)
        else:
            self.register_buffer("rows", rows)
        self.adapter = TextAdapter(dim) if adapter else nn.Identity()


class TextTable(AbstractTable):
    """A table of which each image's prompt selects a row, such as the scene type (VPD, depth).

    An image without a prompt gets the mean of all rows.

    The arguments are those of ``AbstractTable``.
    """

    num_tokens = 1
    reads_text = True

    def forward(self, inputs: Inputs) -> Float[Tensor, "b {self.num_tokens} c"]:
        """Return the condition of each image: one token.

        Raises:
            InputError: if the table does not have the name in a prompt.
        """
        if torch.compiler.is_exporting():  # a graph has no prompts, and any number of images
            rows = self._row(None).expand(inputs.image.shape[0], -1)
        else:
            prompts = (None,) * len(inputs.image) if inputs.prompts is None else inputs.prompts
            rows = torch.stack([self._row(name) for name in prompts])
        return self.adapter(rows)[:, None]

    def _row(self, name: str | None) -> Tensor:
        if name is None:
            return self.rows.mean(dim=0)
        if name not in self.names:
            raise InputError(
                f"unknown name {name!r} in the text table: {suggest(name, self.names)}"
            )
        return self.rows[self.names.index(name)]


@torch.no_grad()
def build_text_table(
    names: Sequence[str],
    *,
    encoder: str | Path,
    templates: Literal["single", "imagenet"] = "imagenet",
    max_length: int = 20,
) -> Float[Tensor, "n c"]:
    """Return CLIP text features of names, averaged over templates.

    The features are those of the end token after the final layer norm, without text projection and
    normalisation, as in the tables of VPD (80 templates and 20 tokens for NYU, a single template
    for ADE20K). Underscores in names are read as spaces.

    Args:
        names: names that are inserted into the templates.
        encoder: source of the text tower, as for ``load_text_encoder``.
        templates: ``single`` is "a photo of a ...", ``imagenet`` are CLIP's 80 prompts.
        max_length: tokens per text, begin and end tokens included; longer texts are refused.

    Raises:
        InputError: if the encoder cannot be loaded or a text is too long.
    """
    tokenizer, model = load_text_encoder(encoder)
    _check_length(model, encoder, max_length)
    rows = []
    for name in names:
        texts = [template.format(name.replace("_", " ")) for template in TEMPLATES[templates]]
        rows.append(_pooled(model, tokenizer, texts, max_length).mean(dim=0))
    return torch.stack(rows)


def _pooled(model: Any, tokenizer: Any, texts: list[str], max_length: int) -> Tensor:
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    longest = tokens["input_ids"].shape[1]
    if longest > max_length:
        raise InputError(
            f"{texts[0]!r}: {longest} tokens with its template, at most {max_length} fit: "
            f"shorten the name or raise --max-length"
        )
    tokens = tokenizer(texts, padding="max_length", max_length=max_length, return_tensors="pt")
    return model(input_ids=tokens["input_ids"]).pooler_output


@torch.no_grad()
def mean_prompt(
    texts: Sequence[str],
    *,
    encoder: str | Path,
    num_tokens: int = 40,
    pooled: bool = False,
    batch_size: int = 64,
) -> Float[Tensor, "n c"]:
    """Return the mean text features of captions at each token position (EVP's aggregated prompt).

    Args:
        texts: captions of a data set, each truncated or padded to ``num_tokens``.
        encoder: source of the text tower, as for ``load_text_encoder``.
        num_tokens: tokens of a text, begin and end tokens included.
        pooled: average only the features of the end tokens, which gives one vector.
        batch_size: number of texts of a batch.

    Raises:
        InputError: if the encoder cannot be loaded or takes fewer tokens than ``num_tokens``.
    """
    tokenizer, model = load_text_encoder(encoder)
    _check_length(model, encoder, num_tokens)
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(texts), batch_size):
        part = list(texts[start : start + batch_size])
        padding = {"padding": "max_length", "truncation": True, "max_length": num_tokens}
        output = model(input_ids=tokenizer(part, **padding, return_tensors="pt")["input_ids"])
        states = output.pooler_output[:, None] if pooled else output.last_hidden_state
        total = total + states.double().sum(dim=0)
    return (total / len(texts)).float()


def _check_length(model: Any, encoder: str | Path, length: int) -> None:
    limit = model.config.max_position_embeddings
    if length > limit:
        raise InputError(
            f"max_length {length}: the text encoder of {encoder} takes {limit} tokens at most: "
            "give a smaller number"
        )


def save_table(path: Path, names: Sequence[str], rows: Float[Tensor, "n c"], source: str) -> None:
    """Write the rows of a text table and their names to a safetensors file, atomically.

    Args:
        path: file to write.
        names: name of each row.
        rows: text vectors.
        source: text tower that computed them, stored as a note.

    Raises:
        InputError: if the file cannot be written.
    """
    save_rows(path, rows, {"names": json.dumps(list(names)), "source": source})


def save_rows(path: Path, rows: Float[Tensor, "n c"], metadata: dict[str, str]) -> None:
    """Write vectors as the tensor ``rows`` of a safetensors file, atomically.

    Args:
        path: file to write.
        rows: vectors.
        metadata: texts by name, stored in the header of the file.

    Raises:
        InputError: if the file cannot be written.
    """
    with replacing(path) as partial:
        write_tensors({"rows": rows}, partial, metadata)


def read_table(path: Path) -> Float[Tensor, "n c"]:
    """Return all rows of a table that ``save_table`` wrote.

    Raises:
        InputError: if the file is not such a table.
    """
    return _open_table(path)[1].float()


def _rows(names: Sequence[str], dim: int, weights: str | Path | None) -> Float[Tensor, "n {dim}"]:
    """Return the vectors of names, from a table, or random ones that are the same in every process.

    Raises:
        InputError: if names are repeated or missing, or the table lacks one or has another width.
    """
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates or not names:
        raise InputError(
            f"a text table needs one or more different names; repeated: {duplicates or 'none'}"
        )
    if weights is None:
        generator = torch.Generator().manual_seed(0)
        return torch.empty(len(names), dim).normal_(generator=generator)
    if str(weights) in assets.DIFFUSION:
        return build_text_table(names, encoder=weights, templates="single")
    return _rows_by_name(Path(weights), names, dim)


def _rows_by_name(path: Path, names: Sequence[str], dim: int) -> Tensor:
    row_names, rows = _open_table(path)
    missing = [name for name in names if name not in row_names]
    if missing:
        has = ", ".join(row_names)
        raise InputError(
            f"{path}: no row for {', '.join(missing)} (it has {has}): write a table of these names "
            "with `diffsight text-table`"
        )
    if rows.shape[1] != dim:
        raise InputError(
            f"{path}: vectors of {rows.shape[1]} numbers, the backbone takes {dim}: write the "
            "table with the backbone's text encoder"
        )
    return rows[[row_names.index(name) for name in names]].float()


def _open_table(path: Path) -> tuple[list[str], Tensor]:
    """Return the names and the rows of a table."""
    line = "not a text table ({reason}): write it with `diffsight text-table`"
    with TensorFile(path, line) as file:
        if "names" not in file.metadata or "rows" not in file.names:
            raise InputError(
                f"{path}: not a text table (no names or rows): write it with `diffsight text-table`"
            )
        rows = file.tensor("rows")
        with reading(path, line):
            names = parse_json(file.metadata["names"])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("its names are not a list of texts")
            if rows.ndim != 2 or len(rows) != len(names):
                raise ValueError(f"{len(names)} names for rows of shape {tuple(rows.shape)}")
    require_finite([("rows", rows)], path)
    return names, rows
