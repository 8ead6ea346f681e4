"""A vector as one of a few words, or as a mixture of the words around it.

Few-shot, section 3.2, after Wang et al. 2015 (surface normals): k-means words and a triangulation
of them; three words mixed give any direction between them back exactly.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import ConvexHull, Delaunay, QhullError
from torch import Tensor
from torch.nn import functional

from diffsight.codecs.base import AbstractCodec, Codes, need_distinct, need_finite
from diffsight.errors import InputError

ROUNDS = 50  # of k-means, at most
MOST = 200_000  # labels that k-means looks at
AT_ONCE = 1 << 16  # pixels that are compared with all words or simplices together
OUTSIDE = -1e-5  # a smaller share than this: outside of the words' hull
FLAT = 1e-9  # volume of a simplex, or a facet's distance from the origin, that is none


@dataclass(frozen=True)
class VectorWords(AbstractCodec):
    """Words of a support set.

    Attributes:
        words: their vectors; of length 1 where ``spherical``.
        simplices: places of the words of each triangle on the sphere, or of each simplex of the
            Delaunay triangulation. Words on one side of the sphere leave the other side open.
        spherical: labels are directions.
        soft: a label becomes the mixture of its simplex's words, not the nearest word.
    """

    kind: ClassVar[str] = "vector"
    words: Float[Tensor, "n d"]
    simplices: Int[Tensor, "f s"]
    spherical: bool
    soft: bool = False

    @classmethod
    def fit(
        cls,
        values: Float[Tensor, "m d"],
        words: int,
        *,
        spherical: bool = False,
        soft: bool = False,
        seed: int = 0,
    ) -> "VectorWords":
        """Words for the labels of a support set, by (spherical) k-means.

        Args:
            values: labels of valid pixels, 2 or 3 channels.
            words: how many, more than the channels.
            spherical: compare directions, not points.
            soft: mixtures as labels.
            seed: of the first words.

        Raises:
            InputError: if values are missing, not finite, without direction, fewer than the words,
                no more than the channels, or lie in a line or plane that no triangulation covers.
                Directions may: each is then its nearest word.
        """
        need_finite(values)
        if spherical:
            if not bool(values.norm(dim=1).min() > 0):
                raise InputError("directions of length 0 are marked valid: mark them invalid")
            values = functional.normalize(values.float(), dim=1)
        need_distinct(values, words, "words")
        found = _k_means(values.float(), words, spherical, seed)
        channels = values.shape[1]
        try:
            if words <= channels:
                raise ValueError
            cover = _triangulated(found.double().numpy(), spherical)
        except (QhullError, ValueError):
            if spherical:
                return cls(found, torch.zeros(0, channels, dtype=torch.long), spherical)
            if words <= channels:
                raise InputError(
                    f"{words} words for labels of {channels} channels: give at least "
                    f"{channels + 1}, or learn labels of few values as classes"
                ) from None
            raise InputError(
                f"labels of {channels} channels that do not fill their space cannot be "
                "learned as vectors: leave a channel out that is constant or follows from the "
                "others, or learn one number as a scalar"
            ) from None
        return cls(found, torch.from_numpy(cover), spherical, soft)

    @property
    def num_classes(self) -> int:
        """Number of words."""
        return len(self.words)

    @property
    def centres(self) -> Float[Tensor, "n d"]:
        """The words."""
        return self.words

    def encode(self, label: Float[Tensor, "b d h w"]) -> Codes:
        """The nearest word of every pixel, or its simplex's words with their shares.

        A label outside of the words' hull is its nearest word.
        """
        b, _, h, w = label.shape
        flat = label.movedim(1, -1).flatten(0, 2)
        if self.spherical:
            flat = functional.normalize(flat, dim=1)
        words = self.words.to(flat)
        pairs = [self._encode(part, words) for part in flat.split(AT_ONCE)]
        ids, weights = (torch.cat(part) for part in zip(*pairs, strict=True))
        return Codes(*(x.unflatten(0, (b, h, w)).movedim(-1, 1) for x in (ids, weights)))

    def _encode(self, x: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        nearest = _nearest(x, words, self.spherical)[:, None]
        if not self.soft:
            return nearest, torch.ones_like(nearest, dtype=x.dtype)
        if not self.spherical:  # shares sum to 1: one more equation
            x = functional.pad(x, (0, 1), value=1.0)
        # in 64 bits: simplices may be nearly flat
        shares = torch.einsum("md,fds->mfs", x.double(), self._to_shares.to(x.device)).to(x.dtype)
        lowest, simplex = shares.min(dim=-1).values.max(dim=1)
        weights = shares[torch.arange(len(x)), simplex].clamp(min=0)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
        ids = self.simplices.to(simplex.device)[simplex]
        outside = (lowest < OUTSIDE)[:, None]
        alone = functional.one_hot(torch.zeros_like(simplex), ids.shape[1]).to(weights)
        return torch.where(outside, nearest, ids), torch.where(outside, alone, weights)

    @cached_property
    def _to_shares(self) -> Float[Tensor, "f s s"]:
        """From a label to its shares of every simplex."""
        corners = self.words.double().cpu().numpy()[self.simplices.cpu().numpy()]
        return torch.from_numpy(np.linalg.inv(_equations(corners, self.spherical)))

    def state(self) -> tuple[dict[str, int | str | bool], dict[str, Tensor]]:
        """Words, simplices and what they mean."""
        settings: dict[str, int | str | bool] = {"spherical": self.spherical, "soft": self.soft}
        return settings, {"words": self.words, "simplices": self.simplices}


def _triangulated(points: Float[np.ndarray, "n d"], spherical: bool) -> Int[np.ndarray, "f s"]:
    """Places of the corners, ascending: of the triangles that cover the points' side of the sphere,
    or of the Delaunay simplices.

    Raises:
        ValueError: if there is none that is not flat.
    """
    measured = points
    if spherical:
        hull = ConvexHull(points)
        # where the points leave a side of the sphere open, facets there close the hull: a ray from
        # the origin crosses one of them before it comes to the triangle that it belongs to
        cover = hull.simplices[-hull.equations[:, -1] > FLAT]
    else:
        cover = Delaunay(points).simplices
        measured = (points - points.mean(axis=0)) / points.std(axis=0)
    solid = np.abs(np.linalg.det(_equations(measured[cover], spherical))) > FLAT
    if not solid.any():
        raise ValueError("all simplices are flat")
    return np.sort(cover[solid], axis=1).astype(np.int64)


def _equations(corners: Float[np.ndarray, "f s d"], spherical: bool) -> Float[np.ndarray, "f s s"]:
    """What makes labels of shares: of points, shares sum to 1."""
    if spherical:
        return corners
    return np.concatenate([corners, np.ones_like(corners[..., :1])], axis=-1)


def _nearest(
    x: Float[Tensor, "m d"], words: Float[Tensor, "n d"], spherical: bool
) -> Int[Tensor, " m"]:
    if spherical:
        return (x @ words.T).argmax(dim=1)
    middle = words.mean(dim=0)  # far from 0 the formula would lose what tells them apart
    x, words = x - middle, words - middle
    return (words.square().sum(1) - 2 * x @ words.T).argmin(dim=1)


def _k_means(
    values: Float[Tensor, "m d"], count: int, spherical: bool, seed: int
) -> Float[Tensor, "n d"]:
    """Lloyd's algorithm from k-means++ seeds; a word that nobody uses moves to the farthest label.

    Spherical: the angle decides, and the means are brought back to length 1.
    """
    generator = torch.Generator().manual_seed(seed)
    if len(values) > MOST:
        values = values[torch.randperm(len(values), generator=generator)[:MOST]]
    first = int(torch.randint(len(values), (), generator=generator))
    words = values[first : first + 1]
    gap = (values - words).square().sum(dim=1)
    while len(words) < count:
        share = gap.double().cumsum(0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64) * share[-1]
        place = torch.searchsorted(share, drawn, right=True)
        words = torch.cat([words, values[place.clamp(max=len(values) - 1)]])
        gap = torch.minimum(gap, (values - words[-1]).square().sum(dim=1))
    before = None
    for _ in range(ROUNDS):
        ids = torch.cat([_nearest(part, words, spherical) for part in values.split(AT_ONCE)])
        if before is not None and torch.equal(ids, before):
            break
        before = ids
        counts = torch.bincount(ids, minlength=count)
        sums = torch.zeros_like(words).index_add_(0, ids, values)
        unused = (counts == 0).nonzero()[:, 0]
        if len(unused):
            farthest = (values - words[ids]).square().sum(dim=1).topk(len(unused)).indices
            sums[unused], counts[unused] = values[farthest], 1
        words = sums / counts[:, None]
        if spherical:
            words = functional.normalize(words, dim=1)
    return words
