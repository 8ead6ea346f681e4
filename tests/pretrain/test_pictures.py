"""Rendered pictures and latents, cached on disk in chunks."""

import io
import shutil

import numpy as np
import pytest
import torch

from diffsight import assets
from diffsight.errors import InputError
from diffsight.pretrain import pictures
from diffsight.pretrain.frozen_outputs import open_latents
from diffsight.pretrain.pictures import average_pixels, open_pictures, to_signed, to_unsigned
from diffsight.rooms import render_scene


def test_pictures_are_rendered_rooms_with_their_captions(context):
    room = render_scene(11, split="train", size=32, labels=())
    assert np.array_equal(context.train.image(11).numpy(), room.image)
    assert context.train.captions[11] == room.caption
    assert (len(context.train), len(context.held_out), context.train.size) == (16, 8, 32)


def test_a_larger_count_renders_only_the_missing_chunks(context, cache, monkeypatch):
    rendered = []
    monkeypatch.setattr(pictures, "_render_chunk", lambda job: rendered.append(job[1]))
    available = []
    with pytest.raises(InputError, match="not a whole chunk"):  # the new one was not rendered
        open_pictures(cache, split="train", count=20, size=32, advance=available.append)
    assert rendered == [2]
    assert available == [16, 8]


def test_a_truncated_chunk_is_named_in_the_error(context, cache, tmp_path):
    folder = tmp_path / "rooms-1-train-32"
    folder.mkdir()
    for path in (cache / folder.name).glob("00000.*"):
        (folder / path.name).write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"00000\.npy: not a whole chunk .* delete 00000\.json"):
        open_pictures(tmp_path, split="train", count=8, size=32)


DAMAGED_ARRAYS = (
    np.zeros((8, 3, 16, 16), np.uint8),
    np.zeros((7, 3, 32, 32), np.uint8),
    np.zeros((8, 3, 32, 32), np.float32),
    np.zeros((8, 3, 32, 32), "M8[s]"),
    np.zeros(0, np.uint8),
    np.array(3, np.uint8),
)


@pytest.mark.parametrize("array", DAMAGED_ARRAYS, ids=lambda array: f"{array.dtype} {array.shape}")
def test_a_chunk_of_another_shape_or_type_is_an_error(context, cache, tmp_path, array):
    folder = tmp_path / "rooms-1-train-32"
    shutil.copytree(cache / folder.name, folder)
    np.save(folder / "00000.npy", array)
    with pytest.raises(InputError, match=r"00000\.npy: not a whole chunk .* delete 00000\.json"):
        open_pictures(tmp_path, split="train", count=8, size=32)


def make_archive() -> bytes:
    """Return the bytes of an NPZ file, which numpy loads whatever its name is."""
    file = io.BytesIO()
    np.savez(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes().replace(b"'shape'", b"('hape'")),
        lambda path: np.save(path, np.zeros((8, 4, 4), np.float16)),
        lambda path: path.write_bytes(make_archive()),
    ],
)
def test_a_damaged_chunk_of_latents_is_named_in_the_error(context, cache, tmp_path, damage):
    train = open_pictures(cache, split="train", count=8, size=32)
    vae = assets.find("tiny") / "vae"
    first = open_latents(tmp_path, train, vae, 32)(3)
    (path,) = tmp_path.rglob("00000.npy")
    assert torch.equal(open_latents(tmp_path, train, vae, 32)(3), first)
    damage(path)
    with pytest.raises(InputError, match=r"00000\.npy: not a whole chunk of outputs .*: delete it"):
        open_latents(tmp_path, train, vae, 32)


def test_pictures_are_resized_to_smaller_and_larger_sizes():
    """The input of a vision tower may be larger than the pictures."""
    ramp = np.broadcast_to(np.arange(0, 256, 32, dtype=np.uint8), (1, 3, 8, 8))
    stored = pictures.Pictures("ramp", [ramp], ("a ramp",), 1)
    assert torch.equal(stored.at([0], 8)[0], torch.tensor(ramp[0]))
    for size in (4, 6, 12, 16):
        resized = stored.at([0], size)
        assert (resized.shape, resized.dtype) == ((1, 3, size, size), torch.uint8)
        row = resized[0, 0, 0].float()
        assert (row.diff() >= 0).all()
        assert row.mean() == pytest.approx(ramp.mean(), abs=1)


def test_averaging_and_conversion_of_pixel_values():
    image = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    half = average_pixels(image, 2)
    assert half[1, 2, 3, 1] == round(float(image[1, 2, 6:8, 2:4].float().mean()))
    assert torch.equal(to_unsigned(to_signed(image)), image)
    assert float(to_signed(image).abs().max()) <= 1
