"""The codec of vector labels: every class is a codebook vector.

Few-shot, section 3.2, after Wang et al. 2015 (surface normals). The codebook vectors come from
k-means, and a triangulation connects them. A label becomes its nearest vector, or a mixture of the
corners of its triangle, which reproduces every direction inside the triangle exactly.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from diffsight.codecs.checks import require_distinct_labels, require_finite_labels
from diffsight.errors import InputError
from diffsight.outputs import LabelCodec, SoftLabels

Labels = Float[Tensor, "m d"]
Vectors = Float[Tensor, "n d"]
MAX_ITERATIONS = 50  # of k-means
MAX_LABELS = 200_000  # k-means draws a sample from larger label sets
CHUNK_SIZE = 1 << 16  # pixels that are compared with all vectors or simplices in one operation
MIN_WEIGHT = -1e-5  # a label with a smaller weight lies outside the hull of the vectors
MIN_VOLUME = 1e-9  # simplices below this volume are flat; also least distance of facet and origin


class VectorCodebook(LabelCodec):
    """A codebook of vectors that represent the labels of a training set.

    Args:
        size: number of codebook vectors.
        channels: number of channels of a label.
        simplices: number of simplices whose corners are codebook vectors: triangles on the sphere
            for directions, else simplices of the Delaunay triangulation. If all vectors lie on one
            side of the sphere, no triangle covers the other side. With simplices a label becomes a
            mixture of the corners of its simplex; with 0 it becomes the nearest vector.
        spherical: whether labels are directions; the vectors then have length 1.
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
        """Return a codebook with given vectors.

        Args:
            vectors: codebook vectors.
            simplices: indices of the corners of each simplex, ascending; None: no simplices.
            spherical: whether labels are directions.
        """
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
        """Fit a codebook to the labels of a training set with (spherical) k-means.

        Directions that no triangle covers (such as those of a floor and two walls) give a codebook
        without simplices.

        Args:
            values: labels of all valid pixels, with 2 or 3 channels.
            size: number of codebook vectors; must exceed the number of channels, except for
                directions.
            spherical: whether labels are directions: they are compared by their angle.
            seed: seed of the random numbers of k-means.

        Raises:
            InputError: if there are no labels, a label is not finite, a direction has length 0,
                there are fewer different labels than ``size``, ``size`` is not larger than the
                number of channels, or all labels lie in a line or plane.
        """
        require_finite_labels(values)
        if spherical:
            if not bool(values.norm(dim=1).min() > 0):
                raise InputError("directions of length 0 are marked valid: mark them invalid")
            values = functional.normalize(values.float(), dim=1)
        require_distinct_labels(values, size, "codebook vectors")
        vectors = _k_means(values.float(), size, spherical, seed)
        channels = values.shape[1]
        try:
            if size <= channels:
                raise ValueError
            simplices = _triangulate(vectors.double().numpy(), spherical)
        except ValueError:
            if spherical:
                return cls.of(vectors, spherical=True)
            if size <= channels:
                raise InputError(
                    f"{size} codebook vectors for labels of {channels} channels: give at least "
                    f"{channels + 1}, or use classes for labels with few different values"
                ) from None
            raise InputError(
                f"the {channels} channels of the labels depend on each other, so the labels do not "
                "fill their space: remove a channel that is constant or follows from the others, "
                "or use kind scalar for one channel"
            ) from None
        return cls.of(vectors, torch.from_numpy(simplices), spherical=spherical)

    @property
    def num_classes(self) -> int:
        """Number of codebook vectors."""
        return len(self.vectors)

    @property
    def centres(self) -> Vectors:
        """Codebook vectors: the value of each class."""
        return self.vectors

    def encode(self, label: Float[Tensor, "b d h w"]) -> SoftLabels:
        """Return the corners of every pixel's simplex with their weights.

        Without simplices, and for labels outside the hull of the vectors, this is the nearest
        vector with weight 1.
        """
        b, _, h, w = label.shape
        flat = label.movedim(1, -1).flatten(0, 2)
        if self.spherical:
            flat = functional.normalize(flat, dim=1)
        vectors = self.vectors.to(flat)
        to_weights = self._to_weights().to(flat.device) if len(self.simplices) else None
        pairs = [self._encode(part, vectors, to_weights) for part in flat.split(CHUNK_SIZE)]
        ids, weights = (torch.cat(part) for part in zip(*pairs, strict=True))
        return SoftLabels(*(x.unflatten(0, (b, h, w)).movedim(-1, 1) for x in (ids, weights)))

    def names(self, unit: str) -> list[str]:
        """Return the components of every vector as text, such as ``(0, 0.7, -0.7)``."""
        rows = self.vectors.tolist()
        return [f"({', '.join(f'{x:.2g}' for x in row)})" for row in rows]

    def _encode(
        self, x: Tensor, vectors: Tensor, to_weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return indices of codebook vectors for labels ``m d``, and their weights, ``m s`` each.

        Args:
            x: labels; directions have length 1.
            vectors: codebook vectors, ``n d``.
            to_weights: result of ``_to_weights``; None: every label gets its nearest vector.
        """
        nearest = _nearest(x, vectors, self.spherical)[:, None]
        if to_weights is None:
            return nearest, torch.ones_like(nearest, dtype=x.dtype)
        if not self.spherical:  # one more equation: the weights sum to 1
            x = functional.pad(x, (0, 1), value=1.0)
        # float64, because simplices may be nearly flat
        candidates = torch.einsum("md,fds->mfs", x.double(), to_weights).to(x.dtype)
        lowest, simplex = candidates.min(dim=-1).values.max(dim=1)
        weights = candidates[torch.arange(len(x)), simplex].clamp(min=0)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
        ids = self.simplices.to(simplex.device)[simplex]
        is_outside = (lowest < MIN_WEIGHT)[:, None]
        one_hot = functional.one_hot(torch.zeros_like(simplex), ids.shape[1]).to(weights)
        return torch.where(is_outside, nearest, ids), torch.where(is_outside, one_hot, weights)

    def _to_weights(self) -> Float[Tensor, "f s s"]:
        """Return a matrix for every simplex that maps a label to the weights of its corners."""
        corners = self.vectors.double().cpu().numpy()[self.simplices.cpu().numpy()]
        return torch.from_numpy(np.linalg.inv(_weight_equations(corners, self.spherical)))


def _triangulate(points: Float[np.ndarray, "n d"], spherical: bool) -> Int[np.ndarray, "f s"]:
    """Return the indices of the corners of every simplex, ascending.

    For directions, the simplices are the triangles that cover the side of the sphere on which the
    points lie. Otherwise they are those of the Delaunay triangulation. Flat simplices are dropped.

    Raises:
        ValueError: if all simplices are flat.
    """
    from scipy.spatial import ConvexHull, Delaunay, QhullError  # takes a third of a second

    try:
        cells = ConvexHull(points) if spherical else Delaunay(points)
    except QhullError as error:
        raise ValueError("all simplices are flat") from error
    measured = points
    if spherical:
        # If the points leave a side of the sphere empty, some facets close the hull there. A ray
        # from the origin would cross such a facet before the triangle that it belongs to, so
        # facets whose outer side faces the origin are dropped.
        simplices = cells.simplices[-cells.equations[:, -1] > MIN_VOLUME]
    else:
        simplices = cells.simplices
        measured = (points - points.mean(axis=0)) / points.std(axis=0)
    volumes = np.abs(np.linalg.det(_weight_equations(measured[simplices], spherical)))
    is_solid = volumes > MIN_VOLUME
    if not is_solid.any():
        raise ValueError("all simplices are flat")
    return np.sort(simplices[is_solid], axis=1).astype(np.int64)


def _weight_equations(
    corners: Float[np.ndarray, "f s d"], spherical: bool
) -> Float[np.ndarray, "f s s"]:
    """Return a matrix for every simplex that maps the weights of its corners to a label.

    For labels that are not directions, a column of ones is added, because the weights sum to 1.
    """
    if spherical:
        return corners
    return np.concatenate([corners, np.ones_like(corners[..., :1])], axis=-1)


def _nearest(x: Labels, vectors: Vectors, spherical: bool) -> Int[Tensor, " m"]:
    """Return the index of the nearest vector for every label."""
    if spherical:
        return (x @ vectors.T).argmax(dim=1)
    # far from 0 the differences between vectors would be lost to rounding
    middle = vectors.mean(dim=0)
    x, vectors = x - middle, vectors - middle
    return (vectors.square().sum(1) - 2 * x @ vectors.T).argmin(dim=1)


def _k_means(values: Labels, count: int, spherical: bool, seed: int) -> Vectors:
    """Return ``count`` means of the labels from Lloyd's algorithm, initialised with k-means++.

    A mean without labels moves to the label that is farthest from its mean. With ``spherical``,
    labels are compared by their angle and the means are normalised to length 1.
    """
    generator = torch.Generator().manual_seed(seed)
    if len(values) > MAX_LABELS:
        values = values[torch.randperm(len(values), generator=generator)[:MAX_LABELS]]
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
    for _ in range(MAX_ITERATIONS):
        ids = torch.cat([_nearest(part, vectors, spherical) for part in values.split(CHUNK_SIZE)])
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
