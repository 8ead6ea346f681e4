"""Codebooks: labels become their nearest vector, or a mixture that reproduces the label."""

import math

import pytest
import torch
from tests.support import noise
from torch.nn import functional

from diffsight.codecs import VectorCodebook
from diffsight.errors import InputError
from diffsight.outputs import expectation


def normals(count=4000, seed=0):
    return functional.normalize(noise(count, 3, seed=seed) * torch.tensor([1, 0.5, 2.0]), dim=1)


def as_map(values):
    return values.T[None, :, None]


def decoded(codec, soft):
    return expectation(soft.distribution(codec.num_classes), codec.centres[None])


def without_simplices(codec):
    return VectorCodebook.of(codec.vectors, spherical=codec.spherical)


def test_without_simplices_a_direction_is_encoded_as_its_nearest_vector():
    values = normals()
    codec = VectorCodebook.fit(values, 40, spherical=True)
    torch.testing.assert_close(codec.vectors.norm(dim=1), torch.ones(40))
    assert len(codec.simplices) == 2 * 40 - 4
    nearest = (values @ codec.vectors.T).max(dim=1).values
    codec = without_simplices(codec)
    back = decoded(codec, codec.encode(as_map(values)))[0, :, 0].T
    torch.testing.assert_close((back * values).sum(dim=1), nearest)
    angles = torch.rad2deg(nearest.clamp(max=1).acos())
    assert float(angles.mean()) < 15


def test_mixtures_reproduce_directions():
    values = normals()
    codec = VectorCodebook.fit(values, 40, spherical=True)
    soft = codec.encode(as_map(values))
    assert soft.ids.shape == soft.weights.shape == (1, 3, 1, 4000)
    torch.testing.assert_close(soft.weights.sum(dim=1), torch.ones(1, 1, 4000))
    assert float(soft.weights.min()) >= 0
    back = functional.normalize(decoded(codec, soft)[0, :, 0], dim=0).T
    assert float((back * values).sum(dim=1).min()) > 1 - 1e-5


@pytest.mark.parametrize("cap", [30, 60, 90])
def test_directions_on_one_side_of_the_sphere_are_mixtures_of_near_vectors(cap):
    """Normals point to the camera, so the codebook covers only one side of the sphere.

    Facets of the convex hull that close its empty side must not be used for mixtures.
    """
    generator = torch.Generator().manual_seed(0)
    height = 1 - torch.rand(6000, generator=generator) * (1 - math.cos(math.radians(cap)))
    turn = torch.rand(6000, generator=generator) * 2 * math.pi
    flat = (1 - height.square()).clamp(min=0).sqrt()
    values = torch.stack([flat * turn.cos(), flat * turn.sin(), -height], dim=1)
    codec = VectorCodebook.fit(values, 40, spherical=True)
    soft = codec.encode(as_map(values))
    mixed = codec.vectors[soft.ids[0, :, 0]]  # s vectors of each mixture, m labels, d channels
    angles = torch.rad2deg((mixed * values).sum(dim=-1).clamp(-1, 1).acos())
    nearest = torch.rad2deg((values @ codec.vectors.T).amax(dim=1).clamp(-1, 1).acos())
    far = (soft.weights[0, :, 0] * angles).sum(dim=0).mean()
    assert float(far) < 2 * float(nearest.mean())
    inside = soft.weights[0, :, 0].amax(dim=0) < 1
    back = functional.normalize(decoded(codec, soft)[0, :, 0].T, dim=1)
    torch.testing.assert_close(back[inside], values[inside], rtol=0, atol=1e-4)
    assert float(inside.float().mean()) > 0.7


def test_triangles_through_the_origin_are_dropped():
    """The vectors are axes; two opposite axes lie on a line through the origin."""
    axes = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, -1]])
    codec = VectorCodebook.fit(axes.repeat(20, 1), 5, spherical=True)
    values = functional.normalize(torch.tensor([[0.2, 0.3, -1.0], [-0.5, 0.1, -0.2]]), dim=1)
    soft = codec.encode(as_map(values))
    back = functional.normalize(decoded(codec, soft)[0, :, 0].T, dim=1)
    torch.testing.assert_close(back, values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("directions", [2, 3, 4])
def test_few_directions_give_a_codebook_without_simplices(directions):
    """With two to four directions, such as floor and walls, no triangle can be formed."""
    axes = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, -1, 0], [-1, 0, 0]])[:directions]
    codec = VectorCodebook.fit(axes.repeat(30, 1), directions, spherical=True)
    soft = codec.encode(axes.T[None, :, None])
    assert soft.ids.shape[1] == 1
    assert torch.equal(codec.vectors[soft.ids.flatten()], axes)
    assert len(codec.simplices) == 0


def test_mixtures_reproduce_labels_inside_the_hull_of_a_plane():
    values = noise(3000, 2)
    codec = VectorCodebook.fit(values, 30)
    soft = codec.encode(as_map(values))
    back = decoded(codec, soft)[0, :, 0].T
    inside = soft.weights[0, :, 0].max(dim=0).values < 1
    assert float(inside.float().mean()) > 0.8
    torch.testing.assert_close(back[inside], values[inside], atol=1e-4, rtol=0)
    nearest = codec.vectors[torch.cdist(values, codec.vectors).argmin(dim=1)]
    torch.testing.assert_close(back[~inside], nearest[~inside], atol=1e-4, rtol=0)


def test_channels_that_sum_to_one_are_encoded_as_exactly_as_others():
    """The channels are linearly dependent except for rounding, so some simplices are flat."""
    values = (2 * noise(3000, 3)).softmax(dim=1)
    codec = VectorCodebook.fit(values, 40)
    back = decoded(codec, codec.encode(as_map(values)))[0, :, 0].T
    nearest = torch.cdist(values, codec.vectors).min(dim=1).values
    gaps = (back - values).norm(dim=1)
    assert bool((gaps <= nearest + 1e-4).all())
    assert float(gaps.mean()) < float(nearest.mean()) / 2


def test_an_offset_of_the_labels_does_not_make_the_codebook_worse():
    values = noise(4000, 2) + 5000
    codec = VectorCodebook.fit(values, 40)
    near = VectorCodebook.fit(values - 5000, 40)
    gaps = [
        torch.cdist(v.double(), c.vectors.double()).min(dim=1).values.mean()
        for v, c in ((values, codec), (values - 5000, near))
    ]
    assert float(gaps[0]) == pytest.approx(float(gaps[1]), rel=0.05)
    ids = without_simplices(codec).encode(as_map(values)).ids.flatten()
    exact = torch.cdist(values.double(), codec.vectors.double())
    chosen = exact[torch.arange(4000), ids]
    torch.testing.assert_close(chosen, exact.min(dim=1).values, atol=2e-3, rtol=0)


def test_vectors_are_the_means_of_clusters_and_depend_on_the_seed_alone():
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    values = (centres[:, None] + 0.1 * noise(4, 50, 2)).flatten(0, 1)
    vectors = VectorCodebook.fit(values, 4, seed=3).vectors
    gaps = torch.cdist(centres, vectors).min(dim=1).values
    assert float(gaps.max()) < 0.1
    assert torch.equal(vectors, VectorCodebook.fit(values, 4, seed=3).vectors)


def test_the_state_can_be_loaded_into_a_codebook_of_the_same_sizes():
    for spherical, values in ((True, normals()), (False, noise(1000, 2))):
        codec = VectorCodebook.fit(values, 12, spherical=spherical).with_statistics(values)
        sizes = {"simplices": len(codec.simplices), "spherical": spherical}
        again = VectorCodebook(12, values.shape[1], **sizes)
        again.load_state_dict(codec.state_dict())
        label = as_map(values[:40])
        ours, theirs = codec.encode(label), again.encode(label)
        assert torch.equal(ours.ids, theirs.ids)
        assert torch.equal(ours.weights, theirs.weights)


@pytest.mark.parametrize(
    ("values", "size", "options", "message"),
    [
        (torch.zeros(9, 3), 4, {"spherical": True}, "length 0"),
        (torch.zeros(9, 2), 4, {}, "every label is 0, 0"),
        (torch.arange(9.0)[:, None].repeat(1, 2), 4, {}, "do not fill"),
        (torch.randn(9, 2), 2, {}, "2 codebook vectors for .* 2 channels: .* least 3"),
    ],
)
def test_unusable_labels_are_refused(values, size, options, message):
    with pytest.raises(InputError, match=message):
        VectorCodebook.fit(values, size, **options)
