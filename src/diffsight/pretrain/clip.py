"""Second stage: a text and a vision tower that agree on which caption belongs to which picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from diffsight.errors import InputError
from diffsight.pretrain.folder import load_part, save_half, write, write_half, write_json
from diffsight.pretrain.stage import AbstractStage, Fetch, PictureBatch, Preview, StageContext
from diffsight.pretrain.vocabulary import build_tokenizer
from diffsight.training.learner import Validation
from diffsight.training.objective import AbstractObjective
from diffsight.training.optim import AdamW
from diffsight.training.schedules import AbstractSchedule

SCORED = 256  # held-out pairs
MAX_TOKENS = 64  # of a text, begin and end included
VOCABULARY = 1200
MEAN, STD = 0.5, 0.25  # of the vision tower's input, every channel

Towers = tuple[CLIPTextModelWithProjection, CLIPVisionModelWithProjection]


@dataclass(frozen=True)
class Pairs(PictureBatch):
    """Pictures, standardised, and the tokens of their captions."""

    tokens: Int[Tensor, "b n"]


class Contrast(AbstractObjective):
    """Symmetric cross-entropy over a device's part of a batch (CLIP, Radford et al. 2021).

    Beside it the picture names the words of its caption, rare ones above all (SuperClass, Huang et
    al. 2024): every picture teaches by itself, where a contrast needs many others.

    Args:
        text: text tower with its projection.
        vision: vision tower with its projection.
        rarity: weight of every word.
        word_weight: of naming them; 0 leaves it out.
    """

    def __init__(
        self,
        text: CLIPTextModelWithProjection,
        vision: CLIPVisionModelWithProjection,
        *,
        rarity: Float[Tensor, " v"],
        word_weight: float,
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleDict({"text": text, "vision": vision})
        self.towers.register_parameter("logit_scale", nn.Parameter(torch.tensor(2.66)))
        if word_weight:
            self.towers["words"] = nn.Linear(vision.config.projection_dim, len(rarity))
        self.word_weight = word_weight
        self.rarity: Tensor
        self.register_buffer("rarity", rarity)
        self._embeds: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def trained(self) -> nn.Module:
        """Both towers and the temperature."""
        return self.towers

    def embed(self, batch: Pairs) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Return the vectors of the pictures and of the captions."""
        image = self.towers["vision"](pixel_values=batch.image).image_embeds
        # a text is read from left to right: what fills it up behind its end changes nothing
        tower: Any = self.towers["text"]
        ends = (batch.tokens == tower.config.eos_token_id).int().argmax(dim=1)
        text = tower(input_ids=batch.tokens[:, : int(ends.max()) + 1]).text_embeds
        return image, text

    def losses(self, batch: Pairs) -> dict[str, Tensor]:
        """Return ``loss`` and its parts; the probability is divided among equal captions."""
        image, text = self.embed(batch)
        scale = self.towers.get_parameter("logit_scale").exp().clamp(max=100)
        logits = scale * functional.normalize(image, dim=-1) @ functional.normalize(text, dim=-1).mT
        same = (batch.tokens[:, None] == batch.tokens[None]).all(dim=-1).float()
        target = same / same.sum(dim=1, keepdim=True)
        both = [functional.cross_entropy(some, target) for some in (logits, logits.mT)]
        parts = {"contrast": (both[0] + both[1]) / 2}
        if self.word_weight:
            there = torch.zeros(len(image), len(self.rarity), device=image.device)
            there.scatter_(1, batch.tokens, self.rarity[batch.tokens])
            named = there / there.sum(dim=1, keepdim=True)
            parts["words"] = functional.cross_entropy(self.towers["words"](image), named)
        return {"loss": parts["contrast"] + self.word_weight * parts.get("words", 0), **parts}

    def after_step(self) -> None:
        """Do nothing."""

    def score(self, batch: Pairs) -> Sequence[Any]:
        """Keeps the vectors: retrieval is a matter of all pairs together."""
        self._embeds.append((*self.embed(batch), batch.tokens))
        return []

    def scores(self) -> Mapping[str, Tensor]:
        """Return ``loss``: minus the top-1 recall of pictures by their captions, on this device."""
        image, text, tokens = (torch.cat(part) for part in zip(*self._embeds, strict=True))
        self._embeds = []
        found = (text @ functional.normalize(image, dim=-1).mT).argmax(dim=1)
        hit = (tokens[found] == tokens).all(dim=-1).float().mean()
        return {"loss": -hit, "recall_at_1": hit}


@dataclass(frozen=True, kw_only=True)
class ClipPair(AbstractStage):
    """A small CLIP with a vocabulary of its own, learned from the captions.

    Args:
        optim: AdamW and its groups.
        steps: optimiser steps.
        batch_size: pairs per step.
        schedule: learning rate; constant by default.
        width: of both towers and of the joint space.
        layers: of each tower.
        heads: of each layer.
        image_size: side of the vision tower's input; it divides the pictures' side.
        patch: side of a patch in pixels.
        word_weight: of predicting the words of a caption, relative to the contrast.
        lock_text: keep a text tower that is there, as a UNet knows it, and train the vision tower
            and both projections (LiT, Zhai et al. 2022, the other way round).
        name: of the stage's folder.
    """

    optim: AdamW
    steps: int
    batch_size: int
    schedule: AbstractSchedule | None = None
    width: int = 128
    layers: int = 4
    heads: int = 4
    image_size: int = 128
    patch: int = 16
    word_weight: float = 0.0
    lock_text: bool = False
    name: str = "clip"

    def check(self, size: int, stride: int | None) -> int | None:
        """The vision tower's input is a whole part of the pictures' side, and of whole patches."""
        if self.image_size % self.patch or size % self.image_size:
            raise InputError(
                f"image_size {self.image_size} of {self.name}: choose a multiple of the patch's "
                f"{self.patch} that divides the pictures' {size}"
            )
        return stride

    def objective(self, context: StageContext) -> Contrast:
        """Return new towers, or the existing ones, to be trained further.

        Raises:
            InputError: if a text tower is to be kept that is not there.
        """
        if self.lock_text or (context.model / "image_encoder").is_dir():
            text, vision = load_towers(context.model, self.name)
        else:
            text, vision = self._new_towers(context)
        if self.lock_text:
            text.text_model.requires_grad_(False)
        tokens = tokenized(context.model, context.train.captions)
        rarity = rarities(tokens, text.config.vocab_size)
        return Contrast(text.train(), vision.train(), rarity=rarity, word_weight=self.word_weight)

    def _new_towers(self, context: StageContext) -> Towers:
        tokenizer = context.model / "tokenizer"
        if not tokenizer.is_dir():
            build_tokenizer(
                context.train.captions, tokenizer, size=VOCABULARY, max_length=MAX_TOKENS
            )
        words = CLIPTokenizer.from_pretrained(tokenizer)
        shape: dict[str, Any] = {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "projection_dim": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
        }
        text = CLIPTextConfig(
            **shape,
            vocab_size=len(words),
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
        vision = CLIPVisionConfig(**shape, image_size=self.image_size, patch_size=self.patch)
        return CLIPTextModelWithProjection(text), CLIPVisionModelWithProjection(vision)

    def fetch(self, context: StageContext) -> Fetch:
        """Return a function that gives shifted and mirrored pictures with their captions."""
        tokens = tokenized(context.model, context.train.captions)

        def pairs(indices: list[int], seeds: list[int]) -> Pairs:
            images = context.train.at(indices, self.image_size)
            rows = [
                shifted(image, self.patch // 2, seed)
                for image, seed in zip(images, seeds, strict=True)
            ]
            return Pairs(standardised(torch.stack(rows)), tokens[indices])

        return pairs

    def held_out(self, context: StageContext) -> Validation:
        """Return a function that gives all held-out pairs to every device, for retrieval."""
        tokens = tokenized(context.model, context.held_out.captions)
        rows = list(range(min(SCORED, len(context.held_out))))
        image = standardised(context.held_out.at(rows, self.image_size))
        return lambda rank, world: [Pairs(image, tokens[rows])]

    def export(self, objective: Contrast, context: StageContext, folder: Path) -> None:
        """Write ``text_encoder/``, ``image_encoder/`` and its preprocessing."""
        save_half(objective.towers["text"], folder / "text_encoder")
        settings = {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": self.image_size},
            "crop_size": {"height": self.image_size, "width": self.image_size},
            "image_mean": [MEAN] * 3,
            "image_std": [STD] * 3,
        }

        def save(staging: Path) -> None:
            write_half(objective.towers["vision"], staging)
            write_json(staging / "preprocessor_config.json", settings)

        write(folder / "image_encoder", save)

    def preview(self, objective: Contrast, context: StageContext, folder: Path) -> Preview:
        """Return the first held-out pictures; there is nothing to draw."""
        rows = list(range(min(8, len(context.held_out))))
        return torch.cat(list(context.held_out.at(rows, self.image_size)), dim=2), {}


def load_towers(model: Path, by: str) -> Towers:
    """Return the two towers that an earlier stage made, for stage ``by``.

    Raises:
        InputError: if one is not there.
    """
    text = load_part(CLIPTextModelWithProjection, model, "text_encoder", by)
    return text, load_part(CLIPVisionModelWithProjection, model, "image_encoder", by)


def shifted(image: UInt8[Tensor, "3 h w"], most: int, seed: int) -> UInt8[Tensor, "3 h w"]:
    """Moved by up to ``most`` pixels, its border repeated, and mirrored every other time."""
    generator = torch.Generator().manual_seed(seed)
    down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    height, width = image.shape[-2:]
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + right).clamp(0, width - 1)
    if torch.randint(2, (), generator=generator):
        columns = columns.flip(0)
    return image[:, rows][..., columns]


def standardised(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Return images as the vision tower takes them."""
    return (images.float() / 255 - MEAN) / STD


def tokenized(model: Path, texts: Sequence[str]) -> Int[Tensor, "b n"]:
    """Return token ids, padded or cut to the length that the tokenizer states."""
    words = CLIPTokenizer.from_pretrained(model / "tokenizer")
    rows = words(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    return rows.input_ids


def rarities(tokens: Int[Tensor, "n k"], vocabulary: int) -> Float[Tensor, " v"]:
    """Return the logarithm of captions per caption with the word; 0 if all have it."""
    there = torch.zeros(len(tokens), vocabulary, dtype=torch.bool).scatter_(1, tokens, True)
    return (len(tokens) / there.sum(dim=0).clamp(min=1)).log()
