"""A vector as one of a few codebook vectors, or as a mixture of those around it.

Few-shot, section 3.2, after Wang et al. 2015 (surface normals): k-means vectors and a triangulation
of them; three of them mixed give any direction between them back exactly.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import ConvexHull, Delaunay, QhullError
from torch import Tensor
from torch.nn import functional

from diffsight.codecs.checks import need_distinct, need_finite
from diffsight.errors import InputError
from diffsight.outputs import LabelCodec, SoftLabels

Labels = Float[Tensor, "m d"]
Vectors = Float[Tensor, "n d"]
ROUNDS = 50  # of k-means, at most
MOST = 200_000  # labels that k-means looks at
AT_ONCE = 1 << 16  # pixels that are compared with all vectors or simplices together
OUTSIDE = -1e-5  # a smaller weight than this: outside of the vectors' hull
FLAT = 1e-9  # volume of a simplex, or a facet's distance from the origin, that is none


class VectorCodebook(LabelCodec):
    """Vectors that stand for the labels of a training set.

    Args:
        size: number of vectors.
        channels: of a label.
        simplices: number of triangles on the sphere, or of simplices of the Delaunay triangulation,
            whose corners are codebook vectors. Vectors on one side of the sphere leave the other
            side open. With simplices a label becomes the mixture of its simplex's vectors, without
            any it becomes the nearest vector.
        spherical: labels are directions, and vectors have length 1.
    """

    def __init__(self, size: int, channels: int, *, simplices: int, spherical: bool) -> None:
        super().__init__(channels)
        self.spherical = spherical
        self.vectors: Tensor
        self.simplices: Tensor
        corners = channels if spherical else channels + 1
        self.register_buffer("vectors", torch.full((size, channels), torch.nan))
        self.register_buffer("simplices", torch.zeros(simplices, corners, dtype=torch.long))

    @classmethod
    def of(
        cls,
        vectors: Vectors,
        simplices: Int[Tensor, "f s"] | None = None,
        *,
        spherical: bool = False,
    ) -> "VectorCodebook":
        """Make a codebook of these vectors and simplices (ascending places of their corners)."""
        count = 0 if simplices is None else len(simplices)
        codec = cls(*vectors.shape, simplices=count, spherical=spherical)
        codec.vectors = vectors
        if simplices is not None:
            codec.simplices = simplices
        return codec

    @classmethod
    def fit(
        cls, values: Labels, size: int, *, spherical: bool = False, seed: int = 0
    ) -> "VectorCodebook":
        """Fit a codebook to the labels of a training set, by (spherical) k-means.

        Args:
            values: labels of valid pixels, 2 or 3 channels.
            size: number of vectors, more than the channels.
            spherical: compare directions, not points.
            seed: of the first vectors.

        Raises:
            InputError: if values are missing, not finite, without direction, fewer than ``size``,
                no more than the channels, or lie in a line or plane that no triangulation covers.
                Directions may: each is then its nearest vector.
        """
        need_finite(values)
        if spherical:
            if not bool(values.norm(dim=1).min() > 0):
                raise InputError("directions of length 0 are marked valid: mark them invalid")
            values = functional.normalize(values.float(), dim=1)
        need_distinct(values, size, "codebook vectors")
        found = _k_means(values.float(), size, spherical, seed)
        channels = values.shape[1]
        try:
            if size <= channels:
                raise ValueError
            cover = _triangulated(found.double().numpy(), spherical)
        except (QhullError, ValueError):
            if spherical:
                return cls.of(found, spherical=True)
            if size <= channels:
                raise InputError(
                    f"{size} codebook vectors for labels of {channels} channels: give at least "
                    f"{channels + 1}, or learn labels of few values as classes"
                ) from None
            raise InputError(
                f"labels of {channels} channels that do not fill their space cannot be "
                "learned as vectors: leave a channel out that is constant or follows from the "
                "others, or learn one number as a scalar"
            ) from None
        return cls.of(found, torch.from_numpy(cover), spherical=spherical)

    @property
    def num_classes(self) -> int:
        """Number of vectors."""
        return len(self.vectors)

    @property
    def centres(self) -> Vectors:
        """The vectors."""
        return self.vectors

    def encode(self, label: Float[Tensor, "b d h w"]) -> SoftLabels:
        """Return the nearest vector of every pixel, or its simplex's vectors with their weights.

        A label outside of the vectors' hull is its nearest vector.
        """
        b, _, h, w = label.shape
        flat = label.movedim(1, -1).flatten(0, 2)
        if self.spherical:
            flat = functional.normalize(flat, dim=1)
        vectors = self.vectors.to(flat)
        to_weights = self._to_weights().to(flat.device) if len(self.simplices) else None
        pairs = [self._encode(part, vectors, to_weights) for part in flat.split(AT_ONCE)]
        ids, weights = (torch.cat(part) for part in zip(*pairs, strict=True))
        return SoftLabels(*(x.unflatten(0, (b, h, w)).movedim(-1, 1) for x in (ids, weights)))

    def names(self, unit: str) -> list[str]:
        """Return the components of every vector."""
        rows = self.vectors.tolist()
        return [f"({', '.join(f'{x:.2g}' for x in row)})" for row in rows]

    def _encode(
        self, x: Tensor, vectors: Tensor, to_weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        nearest = _nearest(x, vectors, self.spherical)[:, None]
        if to_weights is None:
            return nearest, torch.ones_like(nearest, dtype=x.dtype)
        if not self.spherical:  # weights sum to 1: one more equation
            x = functional.pad(x, (0, 1), value=1.0)
        # in 64 bits: simplices may be nearly flat
        found = torch.einsum("md,fds->mfs", x.double(), to_weights).to(x.dtype)
        lowest, simplex = found.min(dim=-1).values.max(dim=1)
        weights = found[torch.arange(len(x)), simplex].clamp(min=0)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
        ids = self.simplices.to(simplex.device)[simplex]
        outside = (lowest < OUTSIDE)[:, None]
        alone = functional.one_hot(torch.zeros_like(simplex), ids.shape[1]).to(weights)
        return torch.where(outside, nearest, ids), torch.where(outside, alone, weights)

    def _to_weights(self) -> Float[Tensor, "f s s"]:
        """Return the matrices from a label to the weights of every simplex's corners."""
        corners = self.vectors.double().cpu().numpy()[self.simplices.cpu().numpy()]
        return torch.from_numpy(np.linalg.inv(_equations(corners, self.spherical)))


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
    """What makes labels of weights: of points, weights sum to 1."""
    if spherical:
        return corners
    return np.concatenate([corners, np.ones_like(corners[..., :1])], axis=-1)


def _nearest(x: Labels, vectors: Vectors, spherical: bool) -> Int[Tensor, " m"]:
    if spherical:
        return (x @ vectors.T).argmax(dim=1)
    middle = vectors.mean(dim=0)  # far from 0 the formula would lose what tells them apart
    x, vectors = x - middle, vectors - middle
    return (vectors.square().sum(1) - 2 * x @ vectors.T).argmin(dim=1)


def _k_means(values: Labels, count: int, spherical: bool, seed: int) -> Vectors:
    """Run Lloyd's algorithm from k-means++ seeds.

    A vector that nobody uses moves to the farthest label. Spherical: the angle decides, and the
    means are brought back to length 1.
    """
    generator = torch.Generator().manual_seed(seed)
    if len(values) > MOST:
        values = values[torch.randperm(len(values), generator=generator)[:MOST]]
    first = int(torch.randint(len(values), (), generator=generator))
    vectors = values[first : first + 1]
    gap = (values - vectors).square().sum(dim=1)
    while len(vectors) < count:
        cumulative = gap.double().cumsum(0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64) * cumulative[-1]
        index = torch.searchsorted(cumulative, drawn, right=True)
        vectors = torch.cat([vectors, values[index.clamp(max=len(values) - 1)]])
        gap = torch.minimum(gap, (values - vectors[-1]).square().sum(dim=1))
    before = None
    for _ in range(ROUNDS):
        ids = torch.cat([_nearest(part, vectors, spherical) for part in values.split(AT_ONCE)])
        if before is not None and torch.equal(ids, before):
            break
        before = ids
        counts = torch.bincount(ids, minlength=count)
        sums = torch.zeros_like(vectors).index_add_(0, ids, values)
        unused = (counts == 0).nonzero()[:, 0]
        if len(unused):
            farthest = (values - vectors[ids]).square().sum(dim=1).topk(len(unused)).indices
            sums[unused], counts[unused] = values[farthest], 1
        vectors = sums / counts[:, None]
        if spherical:
            vectors = functional.normalize(vectors, dim=1)
    return vectors
