"""Pretrain a small text-to-image diffusion model on images and captions of rendered rooms."""

from diffsight.pretrain.autoencoder import Autoencoder
from diffsight.pretrain.clip import ClipPair
from diffsight.pretrain.denoiser import Denoiser
from diffsight.pretrain.run import pretrain

__all__ = ["Autoencoder", "ClipPair", "Denoiser", "pretrain"]
