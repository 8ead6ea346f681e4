"""The label codebook: the label value of every class, for each image (few-shot, section 3.4)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsight.errors import InputError
from diffsight.ops.precision import without_autocast
from diffsight.outputs import LabelCodec

# noise of the initial tables, in standard deviations of the labels: identical tables would get
# identical gradients and never diverge
JITTER = 0.01


class Codebook(nn.Module):
    """Trained tables of class values, which the CLIP features of an image mix into its codebook.

    A table C_k has one value per class. The codebook of image x is C = sum_k F_k C_k with F =
    softmax(W clip(x)). Tables are stored in units of the labels' standard deviation, so that one
    learning rate fits every task.

    Args:
        codec: codec whose class values initialise every table; it is not stored with the codebook.
        size: number of tables. 0 uses the fixed class values of the codec, 1 trains one table for
            all images, more tables need ``features``.
        features: width of the image features; not used by 0 and 1 tables.

    Raises:
        InputError: for more than one table without ``features``.
    """

    def __init__(
        self,
        codec: LabelCodec,
        *,
        size: int = 10,
        features: int | None = None,
    ) -> None:
        super().__init__()
        if size > 1 and features is None:
            raise InputError(f"a codebook of {size} tables needs image features: give their width")
        self.size = size
        self._codec = (codec,)  # a tuple hides the module: its buffers are stored with the task
        if size:
            start = (codec.centres / codec.label_std).expand(size, -1, -1)
            self.tables = nn.Parameter(start + JITTER * torch.randn(start.shape))
        if size > 1:
            assert features is not None
            self.mix = nn.Linear(features, size, bias=False)
            nn.init.normal_(self.mix.weight, std=features**-0.5)

    def forward(self, features: Float[Tensor, "b f"] | None, batch: int) -> Float[Tensor, "b n d"]:
        """Return the codebook of every image: class values in the unit of the labels, in 32 bit.

        Args:
            features: image features with a mean square of 1; may be None for 0 and 1 tables.
            batch: number of images.
        """
        codec, std = self._codec[0], self._codec[0].label_std
        if self.size == 0:
            return codec.centres.expand(batch, -1, -1)
        if self.size == 1:
            return self.scaled_tables.expand(batch, -1, -1)
        assert features is not None
        weights = self.weights(features)
        with without_autocast(features):
            return torch.einsum("bk,knd->bnd", weights, self.tables) * std

    @property
    def scaled_tables(self) -> Float[Tensor, "k n d"]:
        """The trained tables in the unit of the labels."""
        return self.tables * self._codec[0].label_std

    def weights(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b k"]:
        """Return the weights of several tables for each image; they sum to 1."""
        with without_autocast(features):
            return self.mix(features.to(self.mix.weight)).softmax(dim=1)
