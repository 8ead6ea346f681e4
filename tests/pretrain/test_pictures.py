"""Pictures on disk: what rooms gives, once, chunk by chunk."""

import io
import shutil

import numpy as np
import pytest
import torch

from diffsight import assets
from diffsight.errors import InputError
from diffsight.pretrain import pictures
from diffsight.pretrain.frozen_outputs import open_latents
from diffsight.pretrain.pictures import averaged, open_pictures, signed, unsigned
from diffsight.rooms import render_scene


def test_they_are_the_rooms(context):
    room = render_scene(11, split="train", size=32, labels=())
    assert np.array_equal(context.train.image(11).numpy(), room.image)
    assert context.train.captions[11] == room.caption
    assert (len(context.train), len(context.held_out), context.train.size) == (16, 8, 32)


def test_a_larger_count_adds_to_what_is_there(context, cache, monkeypatch):
    rendered = []
    monkeypatch.setattr(pictures, "_render", lambda job: rendered.append(job[1]))
    available = []
    with pytest.raises(InputError, match="not a whole chunk"):  # the new one was not rendered
        open_pictures(cache, split="train", count=20, size=32, advance=available.append)
    assert rendered == [2]
    assert available == [16, 8]


def test_damaged_chunk(context, cache, tmp_path):
    place = tmp_path / "rooms-1-train-32"
    place.mkdir()
    for path in (cache / place.name).glob("00000.*"):
        (place / path.name).write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"00000\.npy: not a whole chunk .* delete 00000\.json"):
        open_pictures(tmp_path, split="train", count=8, size=32)


ODD = (
    np.zeros((8, 3, 16, 16), np.uint8),
    np.zeros((7, 3, 32, 32), np.uint8),
    np.zeros((8, 3, 32, 32), np.float32),
    np.zeros((8, 3, 32, 32), "M8[s]"),
    np.zeros(0, np.uint8),
    np.array(3, np.uint8),
)


@pytest.mark.parametrize("array", ODD, ids=lambda array: f"{array.dtype} {array.shape}")
def test_a_chunk_of_other_maps_is_damaged(context, cache, tmp_path, array):
    place = tmp_path / "rooms-1-train-32"
    shutil.copytree(cache / place.name, place)
    np.save(place / "00000.npy", array)
    with pytest.raises(InputError, match=r"00000\.npy: not a whole chunk .* delete 00000\.json"):
        open_pictures(tmp_path, split="train", count=8, size=32)


def archive() -> bytes:
    """Return an NPZ file, which numpy reads whatever its name is."""
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
        lambda path: path.write_bytes(archive()),
    ],
)
def test_a_damaged_chunk_of_latents_is_named(context, cache, tmp_path, damage):
    train = open_pictures(cache, split="train", count=8, size=32)
    vae = assets.find("tiny") / "vae"
    first = open_latents(tmp_path, train, vae, 32)(3)
    (path,) = tmp_path.rglob("00000.npy")
    assert torch.equal(open_latents(tmp_path, train, vae, 32)(3), first)
    damage(path)
    with pytest.raises(InputError, match=r"00000\.npy: not a whole chunk of outputs .*: delete it"):
        open_latents(tmp_path, train, vae, 32)


def test_other_sizes_than_those_on_disk():
    """Larger ones too: a vision tower may see more pixels than the pictures have."""
    ramp = np.broadcast_to(np.arange(0, 256, 32, dtype=np.uint8), (1, 3, 8, 8))
    stored = pictures.Pictures("ramp", [ramp], ("a ramp",), 1)
    assert torch.equal(stored.at([0], 8)[0], torch.tensor(ramp[0]))
    for size in (4, 6, 12, 16):
        found = stored.at([0], size)
        assert (found.shape, found.dtype) == ((1, 3, size, size), torch.uint8)
        row = found[0, 0, 0].float()
        assert (row.diff() >= 0).all()
        assert row.mean() == pytest.approx(ramp.mean(), abs=1)


def test_averaging_and_range():
    image = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    half = averaged(image, 2)
    assert half[1, 2, 3, 1] == round(float(image[1, 2, 6:8, 2:4].float().mean()))
    assert torch.equal(unsigned(signed(image)), image)
    assert float(signed(image).abs().max()) <= 1
