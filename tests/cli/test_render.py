"""``diffsight render``: files that can be read back, continued runs, and errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffsight.cli import main
from diffsight.datasets.class_lists import read_class_list
from diffsight.datasets.folder import Folder
from diffsight.datasets.labelled_folder import read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.rooms import CLASSES, LABELS, Rendering, Rooms, render_scene
from diffsight.rooms.export import FOLDERS, decode_mask

COUNT = 3
STEMS = [f"rooms-train-0-{i:06d}" for i in range(COUNT)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rooms") / "new"
    assert main(["render", "--out", str(folder), "--count", "3", "--size", "48x64"]) == 0
    return folder


@pytest.fixture(scope="module")
def rendering() -> Rendering:
    return render_scene(1, size=(48, 64))


def read_metadata(out: Path, index: int = 1) -> dict:
    return json.loads((out / "meta" / f"{STEMS[index]}.json").read_text())


def test_every_label_has_a_folder_with_a_file_per_scene(out: Path) -> None:
    for folder in ("images", "meta", *FOLDERS.values()):
        stems = sorted(p.stem for p in (out / folder).iterdir())
        if folder == "principal_curvature":
            assert stems == [f"{stem}_{i}" for stem in STEMS for i in (1, 2)]
        else:
            assert stems == STEMS
    with Image.open(out / "contact.png") as sheet:
        assert sheet.size == (64 * (2 + len(LABELS)), 48 * 3)
    assert not [p for p in out.rglob(".*")]


def test_the_list_of_classes_names_the_ids_of_the_masks(out: Path) -> None:
    form = LabelFormat("segmentation")
    names = read_class_list(out / "classes.txt")
    folder = read_labelled_folder(out / "images", out / "semantic", form, classes=names)
    assert set(folder.names) <= set(CLASSES)
    assert all(CLASSES[i] == name for i, name in zip(folder.ids, folder.names, strict=True))


def test_rendered_images_and_depth_are_read_as_a_folder_data_set(out: Path) -> None:
    folder = Folder(root=str(out), unit="mm", split="all")
    rooms = Rooms("train", COUNT, (48, 64))
    assert len(folder) == COUNT
    by_image = {rooms[i].image.numpy().tobytes(): rooms[i] for i in range(COUNT)}
    for i in range(COUNT):
        sample = folder[i]
        exact = by_image[sample.image.numpy().tobytes()]
        assert torch.equal(sample.valid["depth_m"], exact.valid["depth_m"])
        error = (sample.labels["depth_m"] - exact.labels["depth_m"]).abs().max()
        assert error <= 0.00051


def test_maps_are_decoded_as_the_metadata_describe(out: Path, rendering: Rendering) -> None:
    for name, files in read_metadata(out)["labels"].items():
        if name == "points_m":
            continue
        for channel, note in enumerate(files):
            counts = np.asarray(Image.open(out / note["file"])).astype(float)
            value, valid = rendering.labels[name], rendering.valid[name]
            if name == "normals":
                decoded = (counts / 127.5 - 1).transpose(2, 0, 1)
                assert np.abs(decoded - value)[:, valid].max() <= 1.01 / 255
                assert (counts[~valid] == 128).all()
            elif "scale" in note:
                decoded = note["offset"] + note["scale"] * counts
                assert ((counts == 0) == ~valid).all()
                error = np.abs(decoded - value[channel])[valid].max()
                assert error <= note["scale"] * 0.51
            elif "scale_m" in note:
                assert np.abs(counts / 1000 - value[0]).max() <= 0.00051
            else:
                assert (counts == value).all()


def test_points_are_a_readable_cloud(out: Path, rendering: Rendering) -> None:
    data = (out / "points" / f"{STEMS[1]}.ply").read_bytes()
    head, body = data.split(b"end_header\n")
    valid = rendering.valid["points_m"]
    assert f"element vertex {valid.sum()}".encode() in head
    kinds = [("p", "<f4", 3), ("c", "u1", 3)]
    rows = np.frombuffer(body, dtype=kinds)
    np.testing.assert_array_equal(rows["p"].T, rendering.labels["points_m"][:, valid])
    np.testing.assert_array_equal(rows["c"].T, rendering.image[:, valid])


def test_metadata_have_caption_camera_people_and_expressions(
    out: Path, rendering: Rendering
) -> None:
    note = read_metadata(out)
    assert note["caption"] == rendering.caption
    assert note["room_type"] == rendering.room_type
    assert note["camera"]["fx_px"] == rendering.camera.fx_px
    assert len(note["people"]) == len(rendering.people)
    for written, expression in zip(note["expressions"], rendering.expressions, strict=True):
        assert written["text"] == expression.text
        np.testing.assert_array_equal(decode_mask(written["mask"]), expression.mask)


def test_a_run_is_continued_and_finished_scenes_are_kept(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["render", "--out", str(tmp_path), "--size", "16", "--labels", "depth_m"]
    assert main([*arguments, "--count", "1", "--workers", "1"]) == 0
    first = tmp_path / "images" / f"{STEMS[0]}.png"
    first.write_bytes(b"touched")
    assert main([*arguments, "--count", "2", "--workers", "1"]) == 0
    assert first.read_bytes() == b"touched"
    assert (tmp_path / "meta" / f"{STEMS[1]}.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["contact.png", "depth", "images", "meta", "rooms.json"]
    )
    assert capsys.readouterr().out.endswith(
        f"2 scenes in {tmp_path}, contact sheet {tmp_path}/contact.png\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "--count 0: give a whole number of at least 1"),
        (["--count", "1", "--workers", "0"], "--workers 0: give a whole number of at least 1"),
        (["--count", "1", "--size", "4"], "each at least 8"),
        (["--count", "1", "--size", "99999999x9"], "a room of 9 x 99999999 px: takes at least"),
        (["--count", "1", "--size", "9999999"], "are free: choose a smaller size"),
        (["--count", "1", "--size", "big"], "--size big: give one number or HEIGHTxWIDTH"),
        (["--count", "1", "--size", "8x8x8"], "--size 8x8x8: give one number or HEIGHTxWIDTH"),
        (["--count", "1", "--split", "dev"], "unknown split 'dev' of rooms"),
        (["--count", "1", "--labels", "depth"], "unknown label 'depth' of rooms"),
    ],
)
def test_invalid_options_are_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_output_with_other_contents_is_refused(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["render", "--out", str(tmp_path / "file"), "--count", "1"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["render", "--out", str(out), "--count", "3", "--size", "16"]) == 2
    assert "holds rooms with size [48, 64], not [16, 16]" in capsys.readouterr().err
    (tmp_path / "rooms.json").write_text("{")
    assert main(["render", "--out", str(tmp_path), "--count", "1"]) == 2
    assert "cannot be read: remove it" in capsys.readouterr().err
