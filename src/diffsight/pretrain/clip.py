"""Second stage of the pretraining: a CLIP model of a text tower and a vision tower."""

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
from diffsight.pretrain.folder import load_part, replace_folder, save_half, write_half, write_json
from diffsight.pretrain.stage import AbstractStage, Fetch, PictureBatch, Preview, StageContext
from diffsight.pretrain.vocabulary import build_tokenizer
from diffsight.training.learner import Validation
from diffsight.training.objective import AbstractObjective
from diffsight.training.optim import AdamW
from diffsight.training.schedules import AbstractSchedule

SCORED = 256  # held-out pairs that are scored
MAX_TOKENS = 64  # tokens of a text, including begin and end
VOCABULARY = 1200  # greatest size of the vocabulary
MEAN, STD = 0.5, 0.25  # normalisation of the vision tower's input, for every channel

Towers = tuple[CLIPTextModelWithProjection, CLIPVisionModelWithProjection]
"""Text tower and vision tower of a CLIP model."""


@dataclass(frozen=True)
class PairBatch(PictureBatch):
    """A batch of standardised pictures and the token ids of their captions."""

    tokens: Int[Tensor, "b n"]


class Contrast(AbstractObjective):
    """The losses of CLIP: contrastive (Radford et al. 2021), and classification of caption tokens.

    The contrastive loss is a symmetric cross-entropy over the pairs of a batch on one device. With
    ``word_weight`` the vision tower also predicts the tokens of the caption, with greater weights
    for rarer ones (SuperClass, Huang et al. 2024). This loss needs no other pictures in the batch.

    Args:
        text: text tower with its projection.
        vision: vision tower with its projection.
        rarity: weight of every token of the vocabulary in the classification loss.
        word_weight: weight of the classification loss; 0 leaves it out.
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
        """Both towers, the temperature and, with ``word_weight``, the classifier of tokens."""
        return self.towers

    def embed(self, batch: PairBatch) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Return the embeddings of the pictures and of the captions, not normalised."""
        image = self.towers["vision"](pixel_values=batch.image).image_embeds
        # attention is causal, so the padding after the end of a text does not change its embedding
        tower: Any = self.towers["text"]
        ends = (batch.tokens == tower.config.eos_token_id).int().argmax(dim=1)
        text = tower(input_ids=batch.tokens[:, : int(ends.max()) + 1]).text_embeds
        return image, text

    def losses(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms ``contrast`` and, with ``word_weight``, ``words``.

        Pictures with equal captions count as equally good matches.
        """
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
            token_target = there / there.sum(dim=1, keepdim=True)
            parts["words"] = functional.cross_entropy(self.towers["words"](image), token_target)
        return {"loss": parts["contrast"] + self.word_weight * parts.get("words", 0), **parts}

    def after_step(self) -> None:
        """Do nothing."""

    def score(self, batch: PairBatch) -> Sequence[Any]:
        """Store the embeddings until all pairs can be compared; return no predictions."""
        self._embeds.append((*self.embed(batch), batch.tokens))
        return []

    def scores(self) -> Mapping[str, Tensor]:
        """Return the top-1 recall of pictures by captions, and its negative as ``loss``."""
        image, text, tokens = (torch.cat(part) for part in zip(*self._embeds, strict=True))
        self._embeds = []
        nearest = (text @ functional.normalize(image, dim=-1).mT).argmax(dim=1)
        hit = (tokens[nearest] == tokens).all(dim=-1).float().mean()
        return {"loss": -hit, "recall_at_1": hit}


@dataclass(frozen=True, kw_only=True)
class ClipPair(AbstractStage):
    """The stage that trains a text tower and a vision tower, with a vocabulary from the captions.

    Args:
        optim: AdamW and its parameter groups.
        steps: optimiser steps.
        batch_size: pairs per step.
        schedule: learning rate; constant by default.
        width: channels of both towers and of the joint embedding.
        layers: layers of each tower.
        heads: attention heads of each layer.
        image_size: side of the vision tower's input in pixels; it divides the side of the pictures.
        patch: side of a patch in pixels.
        word_weight: weight of predicting the words of a caption, relative to the contrastive loss.
        lock_text: freeze the existing text tower, with which a UNet was trained, and train only the
            vision tower and both projections (LiT, Zhai et al. 2022, freezes the other tower).
        name: name of the stage's folder.
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
        """Check the side of the vision tower's input; see ``AbstractStage``."""
        if self.image_size % self.patch or size % self.image_size:
            raise InputError(
                f"image_size {self.image_size} of {self.name}: choose a multiple of the patch's "
                f"{self.patch} that divides the pictures' {size}"
            )
        return stride

    def objective(self, context: StageContext) -> Contrast:
        """Return the loss of new towers, or of the existing ones.

        Raises:
            InputError: with ``lock_text``, if there is no text tower.
        """
        if self.lock_text or (context.model / "image_encoder").is_dir():
            text, vision = load_towers(context.model, self.name)
        else:
            text, vision = self._new_towers(context)
        if self.lock_text:
            text.text_model.requires_grad_(False)
        tokens = tokenize(context.model, context.train.captions)
        rarity = compute_rarities(tokens, text.config.vocab_size)
        return Contrast(text.train(), vision.train(), rarity=rarity, word_weight=self.word_weight)

    def _new_towers(self, context: StageContext) -> Towers:
        folder = context.model / "tokenizer"
        if not folder.is_dir():
            build_tokenizer(context.train.captions, folder, size=VOCABULARY, max_length=MAX_TOKENS)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        shape: dict[str, Any] = {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "projection_dim": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
        }
        text = CLIPTextConfig(
            **shape,
            vocab_size=len(tokenizer),
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        vision = CLIPVisionConfig(**shape, image_size=self.image_size, patch_size=self.patch)
        return CLIPTextModelWithProjection(text), CLIPVisionModelWithProjection(vision)

    def fetch(self, context: StageContext) -> Fetch:
        """Return a function that makes a batch of shifted and mirrored pictures with captions."""
        tokens = tokenize(context.model, context.train.captions)

        def pairs(indices: list[int], seeds: list[int]) -> PairBatch:
            images = context.train.at(indices, self.image_size)
            rows = [
                shift_and_mirror(image, self.patch // 2, seed)
                for image, seed in zip(images, seeds, strict=True)
            ]
            return PairBatch(standardise(torch.stack(rows)), tokens[indices])

        return pairs

    def held_out(self, context: StageContext) -> Validation:
        """Return a function that yields the held-out pairs as one batch, the same on every device.

        The retrieval compares all of them with each other.
        """
        tokens = tokenize(context.model, context.held_out.captions)
        rows = list(range(min(SCORED, len(context.held_out))))
        image = standardise(context.held_out.at(rows, self.image_size))
        return lambda rank, world: [PairBatch(image, tokens[rows])]

    def export(self, objective: Contrast, context: StageContext, folder: Path) -> None:
        """Write ``text_encoder/`` and ``image_encoder/``, with its preprocessing settings."""
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

        replace_folder(folder / "image_encoder", save)

    def preview(self, objective: Contrast, context: StageContext, folder: Path) -> Preview:
        """Return the first held-out pictures, and no further scores."""
        rows = list(range(min(8, len(context.held_out))))
        return torch.cat(list(context.held_out.at(rows, self.image_size)), dim=2), {}


def load_towers(model: Path, stage: str) -> Towers:
    """Return the two towers of a model.

    Args:
        model: diffusers folder with ``text_encoder/`` and ``image_encoder/``.
        stage: name of the stage that needs them, for the message.

    Raises:
        InputError: if one of them is missing.
    """
    text = load_part(CLIPTextModelWithProjection, model, "text_encoder", stage)
    return text, load_part(CLIPVisionModelWithProjection, model, "image_encoder", stage)


def shift_and_mirror(image: UInt8[Tensor, "3 h w"], most: int, seed: int) -> UInt8[Tensor, "3 h w"]:
    """Return an image that is randomly shifted and, with probability 1/2, mirrored.

    The border is replicated.

    Args:
        image: image.
        most: greatest shift along each axis in pixels.
        seed: seed of shift and mirroring.
    """
    generator = torch.Generator().manual_seed(seed)
    down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    height, width = image.shape[-2:]
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + right).clamp(0, width - 1)
    if torch.randint(2, (), generator=generator):
        columns = columns.flip(0)
    return image[:, rows][..., columns]


def standardise(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Return 8-bit images as standardised input of the vision tower."""
    return (images.float() / 255 - MEAN) / STD


def tokenize(model: Path, texts: Sequence[str]) -> Int[Tensor, "b n"]:
    """Return the token ids of texts, padded or truncated to the tokenizer's maximum length."""
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    rows = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    return rows.input_ids


def compute_rarities(tokens: Int[Tensor, "n k"], vocabulary: int) -> Float[Tensor, " v"]:
    """Return the logarithm of the inverse document frequency of every token.

    That is log(captions / captions with the token): 0 for a token that is in all captions.

    Args:
        tokens: token ids of the captions.
        vocabulary: number of tokens in the vocabulary.
    """
    there = torch.zeros(len(tokens), vocabulary, dtype=torch.bool).scatter_(1, tokens, True)
    return (len(tokens) / there.sum(dim=0).clamp(min=1)).log()
