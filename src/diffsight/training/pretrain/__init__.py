"""Pretraining of a small text-to-image diffusion model on rooms: images and captions, no labels."""

from diffsight.training.pretrain.autoencoder import Autoencoder
from diffsight.training.pretrain.clip import ClipPair
from diffsight.training.pretrain.denoiser import Denoiser
from diffsight.training.pretrain.run import pretrain

__all__ = ["Autoencoder", "ClipPair", "Denoiser", "pretrain"]
