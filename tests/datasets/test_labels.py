"""Labels of every kind, from every file that a user may have."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffsight.datasets.labels import Label, LabelFormat, read_label
from diffsight.errors import InputError


def read(path: Path, array: np.ndarray, kind: str, **options) -> Label:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return read_label(path, LabelFormat(kind, **options))


def ids(h: int = 16, w: int = 20) -> np.ndarray:
    return (np.arange(h * w).reshape(h, w) % 3).astype(np.uint8)


def test_class_ids(tmp_path: Path) -> None:
    given = ids()
    given[0, 0] = 255
    for name in ("a.png", "b.npy", "c.tif"):
        label = read(tmp_path / name, given, "segmentation")
        assert label.value.shape == (1, 16, 20)
        assert not label.valid[0, 0]
        assert int(label.valid.sum()) == 16 * 20 - 1
        assert torch.equal(
            label.value[0].byte() * label.valid, torch.from_numpy(ids()) * label.valid
        )
    label = read(tmp_path / "d.png", ids(), "segmentation", invalid=2)
    assert torch.equal(label.valid, torch.from_numpy(ids() != 2))
    wide = ids().astype(np.uint16) * 1000
    assert float(read(tmp_path / "e.png", wide, "segmentation").value.max()) == 2000


def test_a_palette_keeps_ids_and_colours(tmp_path: Path) -> None:
    image = Image.fromarray(ids(), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255] + [9] * 3 * 253)
    image.save(tmp_path / "a.png")
    label = read_label(tmp_path / "a.png", LabelFormat("segmentation"))
    assert torch.equal(label.value[0].byte(), torch.from_numpy(ids()))
    assert (label.palette[1], label.palette[2]) == ((255, 0, 0), (0, 0, 255))


def test_a_colour_per_class(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [200, 10, 0], [0, 0, 7]], np.uint8)
    label = read(tmp_path / "a.png", colours[ids()], "segmentation")
    assert sorted(label.palette.values()) == sorted(map(tuple, colours.tolist()))
    assert label.palette[int(label.value[0, 0, 1])] == (200, 10, 0)
    smooth = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="colours are no classes"):
        read(tmp_path / "b.png", smooth, "segmentation")


def test_depth_is_in_metres(tmp_path: Path) -> None:
    counts = np.full((16, 20), 2500, np.uint16)
    counts[0] = 0
    label = read(tmp_path / "a.png", counts, "depth")
    assert float(label.value[0, 1, 0]) == 2.5
    assert not bool(label.valid[0].any())
    assert float(read(tmp_path / "b.png", counts, "depth", unit="m/1000").value.max()) == 2.5
    assert float(read(tmp_path / "c.npy", counts / 1000.0, "depth").value.max()) == 2.5
    for name, one in (("hw1.npy", counts[..., None]), ("1hw.npy", counts[None])):
        assert torch.equal(read(tmp_path / name, one, "depth").value, label.value)
    label = read(tmp_path / "d.png", counts + 1, "depth", invalid=2501)
    assert float(label.value.max()) == pytest.approx(0.001)


def test_scalars(tmp_path: Path) -> None:
    counts = np.arange(320, dtype=np.uint16).reshape(16, 20)
    label = read(tmp_path / "a.png", counts, "scalar", unit="K/10")
    assert float(label.value.max()) == pytest.approx(31.9)
    assert LabelFormat("scalar", unit="K/10").value_unit == "K"
    assert LabelFormat("scalar").value_unit == "counts"
    grey = np.repeat((counts % 256).astype(np.uint8)[..., None], 3, axis=2)
    assert float(read(tmp_path / "b.png", grey, "scalar").value.max()) == 255
    holes = counts.astype(np.float32)
    holes[3] = np.nan
    label = read(tmp_path / "c.npy", holes, "scalar", invalid=5)
    assert int((~label.valid).sum()) == 21
    assert bool(label.value.isfinite().all())
    assert read(tmp_path / "e.npy", counts > 100, "scalar").value.unique().tolist() == [0, 1]
    with pytest.raises(InputError, match="a scalar is one channel"):
        read(tmp_path / "d.png", grey * np.array([1, 0, 1], np.uint8), "scalar")
    for unit in ("K/0", "K/x", "K/"):
        with pytest.raises(InputError, match="NAME/N"):
            LabelFormat("scalar", unit=unit)


@pytest.mark.parametrize("marker", [-9999.9, 1e20, float(np.finfo(np.float32).min), -1e39])
@pytest.mark.parametrize("suffix", ["npy", "tif"])
def test_a_marker_is_compared_in_the_type_of_the_file(
    tmp_path: Path, marker: float, suffix: str
) -> None:
    values = np.random.default_rng(0).normal(size=(16, 20)).astype(np.float32)
    holes = 0 if marker == -1e39 else 20  # no number of 32 bits: nothing can be marked with it
    if holes:
        values[2] = marker
    label = read(tmp_path / f"a.{suffix}", values, "scalar", invalid=marker)
    assert int((~label.valid).sum()) == holes


def directions() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(3, 16, 20, generator=generator), dim=0)


def test_normals(tmp_path: Path) -> None:
    truth = directions()
    encoded = ((truth * 127.5) + 127.5).round().byte().permute(1, 2, 0).numpy()
    encoded[0, :3] = np.array([[128], [0], [255]])
    label = read(tmp_path / "a.png", encoded, "normals")
    assert int(label.valid.sum()) == 16 * 20 - 3
    assert not bool(label.valid[0, :3].any())
    cosine = (label.value * truth).sum(dim=0)[label.valid]
    assert float(cosine.min()) > 0.9999
    assert torch.equal(label.value[:, 0, 0], torch.zeros(3))
    for name, array in (("b.npy", 3 * truth.permute(1, 2, 0)), ("c.npy", truth)):
        label = read(tmp_path / name, array.numpy(), "normals")
        torch.testing.assert_close(label.value, truth)
    marked = truth.permute(1, 2, 0).numpy().copy()
    marked[4, 5:9], marked[5, 5, 0] = 9, 9
    label = read(tmp_path / "marked.npy", marked, "normals", invalid=9)
    assert int((~label.valid).sum()) == 4
    with pytest.raises(InputError, match="one channel, but normals labels need RGB"):
        read(tmp_path / "d.png", ids(), "normals")


def test_vectors(tmp_path: Path) -> None:
    pairs = np.random.default_rng(0).normal(size=(16, 20, 2)).astype(np.float32)
    label = read(tmp_path / "a.npy", pairs, "vector")
    torch.testing.assert_close(label.value, torch.from_numpy(pairs).permute(2, 0, 1))
    rgb = np.repeat(ids()[..., None], 3, axis=2) * 50
    torch.testing.assert_close(
        read(tmp_path / "b.png", rgb, "vector").value[0], torch.from_numpy(ids() * 50 / 255).float()
    )
    rgb[2, 3:8], rgb[3, 3, 0] = 128, 128
    label = read(tmp_path / "marked.png", rgb, "vector", invalid=128)
    assert int((~label.valid).sum()) == 5
    assert not bool(label.valid[2, 3:8].any())
    with pytest.raises(InputError, match=r"16 x 20 x 5.*2 or 3 channel"):
        read(tmp_path / "c.npy", np.zeros((16, 20, 5)), "vector")


def test_labels_that_say_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png: no pixel has a label"):
        read(tmp_path / "a.png", np.full((16, 20), 255, np.uint8), "segmentation")
    with pytest.raises(InputError, match="whole numbers"):
        read(tmp_path / "b.npy", np.full((16, 20), 0.5), "segmentation")
    with pytest.raises(InputError, match="unknown kind 'edges': choose segmentation"):
        LabelFormat("edges")
    with pytest.raises(InputError, match="have no unit"):
        LabelFormat("normals", unit="m")


def test_colours_are_whatever_they_are(tmp_path: Path) -> None:
    """Pure blue is number 255, which is no marker here, and dark colours have small numbers."""
    picture = np.zeros((16, 20, 3), np.uint8)
    picture[:, 5:10, 2] = 255
    picture[:, 10:, 1] = 255
    label = read(tmp_path / "a.png", picture, "segmentation")
    assert label.coloured
    assert bool(label.valid.all())
    assert label.value.unique().tolist() == [0, 255, 65280]
    marked = read(tmp_path / "b.png", picture, "segmentation", invalid=65280)
    assert int(marked.valid.sum()) == 16 * 10
    assert not read(tmp_path / "c.png", picture[..., 2], "segmentation").coloured


def test_arrays_and_pictures_of_other_types(tmp_path: Path) -> None:
    where = ids() > 0
    assert read(tmp_path / "a.npy", where, "segmentation").value.unique().tolist() == [0, 1]
    metres = np.linspace(0.5, 9, 16 * 20, dtype=np.float32).reshape(16, 20)
    label = read(tmp_path / "b.tif", metres, "depth")
    torch.testing.assert_close(label.value[0], torch.from_numpy(metres))
    with pytest.raises(
        InputError, match=r"c\.npy: class ids must be whole numbers from 0 to 65535"
    ):
        read(tmp_path / "c.npy", ids().astype(np.int64) + 2**24, "segmentation")
