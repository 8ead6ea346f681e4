"""Reading label files of every kind and format."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffsight.datasets.labels import Label, LabelFormat, read_label
from diffsight.errors import InputError


def write_and_read(path: Path, array: np.ndarray, kind: str, **options) -> Label:
    """Write an array as NPY or image, and return the label that is read from the file."""
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return read_label(path, LabelFormat(kind, **options))


def make_ids(h: int = 16, w: int = 20) -> np.ndarray:
    """Return a class map with the ids 0, 1 and 2."""
    return (np.arange(h * w).reshape(h, w) % 3).astype(np.uint8)


def test_class_ids_are_read_and_255_means_no_label(tmp_path: Path) -> None:
    stored = make_ids()
    stored[0, 0] = 255
    for name in ("a.png", "b.npy", "c.tif"):
        label = write_and_read(tmp_path / name, stored, "segmentation")
        assert label.value.shape == (1, 16, 20)
        assert not label.valid[0, 0]
        assert int(label.valid.sum()) == 16 * 20 - 1
        assert torch.equal(
            label.value[0].byte() * label.valid, torch.from_numpy(make_ids()) * label.valid
        )
    label = write_and_read(tmp_path / "d.png", make_ids(), "segmentation", invalid=2)
    assert torch.equal(label.valid, torch.from_numpy(make_ids() != 2))
    wide = make_ids().astype(np.uint16) * 1000
    assert float(write_and_read(tmp_path / "e.png", wide, "segmentation").value.max()) == 2000


def test_palette_indices_are_class_ids_with_colours(tmp_path: Path) -> None:
    image = Image.fromarray(make_ids(), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255] + [9] * 3 * 253)
    image.save(tmp_path / "a.png")
    label = read_label(tmp_path / "a.png", LabelFormat("segmentation"))
    assert torch.equal(label.value[0].byte(), torch.from_numpy(make_ids()))
    assert (label.palette[1], label.palette[2]) == ((255, 0, 0), (0, 0, 255))


def test_colours_become_class_ids_and_too_many_are_refused(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [200, 10, 0], [0, 0, 7]], np.uint8)
    label = write_and_read(tmp_path / "a.png", colours[make_ids()], "segmentation")
    assert sorted(label.palette.values()) == sorted(map(tuple, colours.tolist()))
    assert label.palette[int(label.value[0, 0, 1])] == (200, 10, 0)
    smooth = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="colours are too many for classes"):
        write_and_read(tmp_path / "b.png", smooth, "segmentation")


def test_depth_labels_are_in_metres(tmp_path: Path) -> None:
    counts = np.full((16, 20), 2500, np.uint16)
    counts[0] = 0
    label = write_and_read(tmp_path / "a.png", counts, "depth")
    assert float(label.value[0, 1, 0]) == 2.5
    assert not bool(label.valid[0].any())
    assert (
        float(write_and_read(tmp_path / "b.png", counts, "depth", unit="m/1000").value.max()) == 2.5
    )
    assert float(write_and_read(tmp_path / "c.npy", counts / 1000.0, "depth").value.max()) == 2.5
    for name, array in (("hw1.npy", counts[..., None]), ("1hw.npy", counts[None])):
        assert torch.equal(write_and_read(tmp_path / name, array, "depth").value, label.value)
    label = write_and_read(tmp_path / "d.png", counts + 1, "depth", invalid=2501)
    assert float(label.value.max()) == pytest.approx(0.001)


def test_scalar_labels_are_divided_by_the_number_in_their_unit(tmp_path: Path) -> None:
    counts = np.arange(320, dtype=np.uint16).reshape(16, 20)
    label = write_and_read(tmp_path / "a.png", counts, "scalar", unit="K/10")
    assert float(label.value.max()) == pytest.approx(31.9)
    assert LabelFormat("scalar", unit="K/10").value_unit == "K"
    assert LabelFormat("scalar").value_unit == "counts"
    grey = np.repeat((counts % 256).astype(np.uint8)[..., None], 3, axis=2)
    assert float(write_and_read(tmp_path / "b.png", grey, "scalar").value.max()) == 255
    holes = counts.astype(np.float32)
    holes[3] = np.nan
    label = write_and_read(tmp_path / "c.npy", holes, "scalar", invalid=5)
    assert int((~label.valid).sum()) == 21
    assert bool(label.value.isfinite().all())
    assert write_and_read(tmp_path / "e.npy", counts > 100, "scalar").value.unique().tolist() == [
        0,
        1,
    ]
    with pytest.raises(InputError, match="scalar labels need one channel"):
        write_and_read(tmp_path / "d.png", grey * np.array([1, 0, 1], np.uint8), "scalar")
    for unit in ("K/0", "K/x", "K/"):
        with pytest.raises(InputError, match="NAME/N"):
            LabelFormat("scalar", unit=unit)


@pytest.mark.parametrize("marker", [-9999.9, 1e20, float(np.finfo(np.float32).min), -1e39])
@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_the_invalid_value_is_rounded_to_the_dtype_of_the_file(
    tmp_path: Path, marker: float, suffix: str
) -> None:
    values = np.random.default_rng(0).normal(size=(16, 20)).astype(np.float32)
    holes = 0 if marker == -1e39 else 20  # -1e39 is outside float32, so that no pixel can have it
    if holes:
        values[2] = marker
    label = write_and_read(tmp_path / f"a.{suffix}", values, "scalar", invalid=marker)
    assert int((~label.valid).sum()) == holes


def make_normals() -> Tensor:
    """Return random unit vectors ``3 h w``."""
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(3, 16, 20, generator=generator), dim=0)


def test_normals_are_unit_vectors_from_rgb_or_arrays(tmp_path: Path) -> None:
    truth = make_normals()
    encoded = ((truth * 127.5) + 127.5).round().byte().permute(1, 2, 0).numpy()
    encoded[0, :3] = np.array([[128], [0], [255]])
    label = write_and_read(tmp_path / "a.png", encoded, "normals")
    assert int(label.valid.sum()) == 16 * 20 - 3
    assert not bool(label.valid[0, :3].any())
    cosine = (label.value * truth).sum(dim=0)[label.valid]
    assert float(cosine.min()) > 0.9999
    assert torch.equal(label.value[:, 0, 0], torch.zeros(3))
    for name, array in (("b.npy", 3 * truth.permute(1, 2, 0)), ("c.npy", truth)):
        label = write_and_read(tmp_path / name, array.numpy(), "normals")
        torch.testing.assert_close(label.value, truth)
    marked = truth.permute(1, 2, 0).numpy().copy()
    marked[4, 5:9], marked[5, 5, 0] = 9, 9
    label = write_and_read(tmp_path / "marked.npy", marked, "normals", invalid=9)
    assert int((~label.valid).sum()) == 4
    colours = torch.tensor([[128, 0, 0], [0, 0, 128]]).to(torch.uint8)[torch.arange(400) % 2]
    with pytest.raises(InputError, match=r"are no unit vectors \(median length 1\.41\)"):
        write_and_read(tmp_path / "classes.png", colours.reshape(20, 20, 3).numpy(), "normals")
    with pytest.raises(InputError, match="one channel, but normals labels need RGB"):
        write_and_read(tmp_path / "d.png", make_ids(), "normals")


def test_vectors_are_read_from_rgb_or_arrays(tmp_path: Path) -> None:
    pairs = np.random.default_rng(0).normal(size=(16, 20, 2)).astype(np.float32)
    label = write_and_read(tmp_path / "a.npy", pairs, "vector")
    torch.testing.assert_close(label.value, torch.from_numpy(pairs).permute(2, 0, 1))
    rgb = np.repeat(make_ids()[..., None], 3, axis=2) * 50
    torch.testing.assert_close(
        write_and_read(tmp_path / "b.png", rgb, "vector").value[0],
        torch.from_numpy(make_ids() * 50 / 255).float(),
    )
    rgb[2, 3:8], rgb[3, 3, 0] = 128, 128
    label = write_and_read(tmp_path / "marked.png", rgb, "vector", invalid=128)
    assert int((~label.valid).sum()) == 5
    assert not bool(label.valid[2, 3:8].any())
    with pytest.raises(InputError, match=r"16 x 20 x 5.*2 or 3 channel"):
        write_and_read(tmp_path / "c.npy", np.zeros((16, 20, 5)), "vector")


def test_unusable_labels_and_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png: no pixel has a label"):
        write_and_read(tmp_path / "a.png", np.full((16, 20), 255, np.uint8), "segmentation")
    with pytest.raises(InputError, match="whole numbers"):
        write_and_read(tmp_path / "b.npy", np.full((16, 20), 0.5), "segmentation")
    with pytest.raises(InputError, match="unknown kind 'edges': choose segmentation"):
        LabelFormat("edges")
    with pytest.raises(InputError, match="have no unit"):
        LabelFormat("normals", unit="m")


def test_blue_whose_colour_number_is_255_is_a_class(tmp_path: Path) -> None:
    picture = np.zeros((16, 20, 3), np.uint8)
    picture[:, 5:10, 2] = 255
    picture[:, 10:, 1] = 255
    label = write_and_read(tmp_path / "a.png", picture, "segmentation")
    assert label.coloured
    assert bool(label.valid.all())
    assert label.value.unique().tolist() == [0, 255, 65280]
    marked = write_and_read(tmp_path / "b.png", picture, "segmentation", invalid=65280)
    assert int(marked.valid.sum()) == 16 * 10
    assert not write_and_read(tmp_path / "c.png", picture[..., 2], "segmentation").coloured


def test_boolean_arrays_and_float_images_are_read_and_large_ids_refused(tmp_path: Path) -> None:
    mask = make_ids() > 0
    assert write_and_read(tmp_path / "a.npy", mask, "segmentation").value.unique().tolist() == [
        0,
        1,
    ]
    metres = np.linspace(0.5, 9, 16 * 20, dtype=np.float32).reshape(16, 20)
    label = write_and_read(tmp_path / "b.tif", metres, "depth")
    torch.testing.assert_close(label.value[0], torch.from_numpy(metres))
    with pytest.raises(
        InputError, match=r"c\.npy: class ids must be whole numbers from 0 to 65535"
    ):
        write_and_read(tmp_path / "c.npy", make_ids().astype(np.int64) + 2**24, "segmentation")
