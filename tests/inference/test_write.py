"""Finding images, and writing predictions to files."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffsight.datasets.labels import LabelFormat, read_label
from diffsight.errors import InputError
from diffsight.inference import storage, write
from diffsight.inference.write import Job, find_images, write_prediction
from diffsight.tasks import (
    ClassPrediction,
    DepthPrediction,
    MaskPrediction,
    NormalPrediction,
    Prediction,
    StoredArray,
    ValuePrediction,
)


def depth() -> DepthPrediction:
    depth_m = torch.linspace(0.5, 9.5, 20).reshape(4, 5)
    valid = depth_m < 9.2
    return DepthPrediction(depth_m, valid, "z", uncertainty_m=torch.full((4, 5), 0.25))


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def explained(folder: Path, *pictures: str) -> None:
    """Write the JSON file of ``explain`` with the names of its pictures."""
    about = {"pictures": dict(zip(pictures, pictures, strict=True)), "kind": "", "method": ""}
    (folder / "explain.json").write_text(json.dumps(about))


def test_written_files_have_the_values_of_the_prediction(tmp_path: Path) -> None:
    job = Job(tmp_path / "in.jpg", Path("sub/in"))
    about = write_prediction(depth(), tmp_path, job, {"plan": "p"})
    counts = np.asarray(Image.open(tmp_path / "sub" / about["depth"]))
    wanted = np.where(depth().valid, depth().depth_m.double() * 1000, 0).round()
    assert np.array_equal(counts, wanted)
    picture = np.asarray(Image.open(tmp_path / "sub" / about["colour"]))
    assert np.array_equal(picture, depth().draw().permute(1, 2, 0))
    std_m = np.load(tmp_path / "sub" / about["uncertainty"])
    assert np.array_equal(std_m, depth().uncertainty_m)
    with Image.open(tmp_path / "sub/in_depth.png") as image:
        assert image.mode == "I;16"
        assert image.text == {"depth_unit": "mm", "depth_invalid": "0"}


def test_the_json_file_has_units_statistics_and_notes(tmp_path: Path) -> None:
    job = Job(Path("/photos/in.jpg"), Path("in"))
    about = write_prediction(depth(), tmp_path, job, {"plan": "whole image"})
    assert json.loads((tmp_path / "in.json").read_text()) == about
    assert about["unit"] == "mm"
    assert about["scale"] == 0.001
    assert about["invalid"] == 0
    assert about["depth_type"] == "z"
    assert about["valid"] == 0.95
    assert about["beyond_range_fraction"] == 0
    assert about["size"] == [5, 4]
    assert about["depth_m"] == {"min": 0.5, "median": 4.7632, "max": 9.0263}
    assert about["uncertainty_m"]["median"] == 0.25
    assert about["plan"] == "whole image"
    assert about["image"] == "/photos/in.jpg"


def test_depth_beyond_16_bits_is_reported_and_written_in_metres(tmp_path: Path) -> None:
    depth_m = torch.tensor([[70.0, 60.0]])
    far = DepthPrediction(depth_m, torch.ones(1, 2, dtype=torch.bool), "z")
    about = write_prediction(far, tmp_path, Job(Path("a"), Path("a")), {})
    assert about["beyond_range_fraction"] == 0.5
    assert np.asarray(Image.open(tmp_path / "a_depth.png")).tolist() == [[0, 60_000]]
    assert about["metres"] == "a_metres.npy"
    assert np.load(tmp_path / "a_metres.npy").tolist() == [[70, 60]]
    near = DepthPrediction(depth_m / 2, torch.ones(1, 2, dtype=torch.bool), "z")
    assert "metres" not in write_prediction(near, tmp_path, Job(Path("a"), Path("a")), {})
    assert not (tmp_path / "a_metres.npy").exists()


def test_a_depth_map_without_a_valid_pixel_has_no_statistics(tmp_path: Path) -> None:
    none = DepthPrediction(torch.full((2, 3), torch.nan), torch.zeros(2, 3, dtype=torch.bool), "z")
    about = write_prediction(none, tmp_path, Job(Path("a"), Path("a")), {})
    assert about["valid"] == 0
    assert json.loads((tmp_path / "a.json").read_text())["depth_m"]["min"] is None


@dataclass(frozen=True)
class Heights(Prediction):
    """A custom prediction, which is not part of diffsight."""

    height_cm: torch.Tensor
    kind = "height"

    @property
    def hw(self) -> tuple[int, int]:
        height, width = self.height_cm.shape
        return height, width

    def to_label(self) -> torch.Tensor:
        return self.height_cm[None]

    def arrays(self) -> dict[str, StoredArray]:
        counts = self.height_cm.numpy().astype(np.uint16)
        notes = {"height_unit": "cm"}
        return {"height_cm": StoredArray(counts, notes=notes), "exact": StoredArray(counts / 1)}

    def metadata(self) -> dict[str, Any]:
        return {"unit": "cm"}

    def draw(self, image: torch.Tensor | None = None) -> torch.Tensor:
        blank = torch.zeros(3, *self.hw)
        return ((blank if image is None else image) * 255).round().to(torch.uint8)

    def draw_with(self, other: Any, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.draw(), other.draw(), self.draw()


def test_a_user_defined_prediction_is_written_with_its_own_arrays(tmp_path: Path) -> None:
    own, image = Heights(torch.full((4, 5), 300.0)), torch.full((3, 4, 5), 9, dtype=torch.uint8)
    touch(tmp_path, "a.jpg")
    about = write_prediction(own, tmp_path, Job(tmp_path / "a.jpg", Path("a")), {}, image)
    assert about == {
        "image": str(tmp_path / "a.jpg"),
        "height_cm": "a_height_cm.png",
        "exact": "a_exact.npy",
        "colour": "a_colour.png",
        "unit": "cm",
    }
    with Image.open(tmp_path / "a_height_cm.png") as stored:
        assert np.asarray(stored).tolist() == [[300] * 5] * 4
        assert stored.text == {"height_unit": "cm"}
    assert np.load(tmp_path / "a_exact.npy").dtype == np.float64
    assert (np.asarray(Image.open(tmp_path / "a_colour.png")) == 9).all()
    # results are not found as images
    assert [job.image.name for job in find_images([str(tmp_path)])] == ["a.jpg"]


@pytest.mark.parametrize("broken", ["np.save", "Image.fromarray", "json.dumps"])
def test_a_full_disk_leaves_no_incomplete_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    job = Job(Path("a.jpg"), Path("a"))
    write_prediction(depth(), tmp_path, job, {})  # an earlier run
    monkeypatch.setattr("diffsight.inference.write." + broken, full)
    with pytest.raises(InputError, match="No space left on device"):
        write_prediction(depth(), tmp_path, job, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_same_folder", [False, True])
@pytest.mark.parametrize("length", [244, 246, 250, 255])
def test_a_name_that_is_too_long_leaves_no_files(
    length: int, is_same_folder: bool, tmp_path: Path
) -> None:
    out, name = tmp_path / "out", "x" * length
    out.mkdir()
    job = Job((out if is_same_folder else tmp_path) / "in.jpg", Path(name))
    with pytest.raises(InputError, match="File name too long") as caught:
        write_prediction(depth(), out, job, {})
    assert storage.is_name_too_long(caught.value)
    assert not storage.is_disk_full(caught.value)
    assert list(out.iterdir()) == []


def test_files_that_cannot_be_deleted_are_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(Path("a.jpg"), Path("a"))
    write_prediction(depth(), tmp_path, job, {})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(InputError, match=r"a\.json: cannot be written \(Permission denied\)"):
        write_prediction(depth(), tmp_path, job, {})


def test_a_full_disk_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OSError(28, "No space left on device"), OSError("80 requested and 40 written")):

        def full(*_: object, cause: OSError = error) -> None:
            raise cause

        monkeypatch.setattr(np, "save", full)
        with pytest.raises(InputError) as caught:
            write_prediction(depth(), tmp_path, Job(Path("a.jpg"), Path("a")), {})
        assert storage.is_disk_full(caught.value)
        assert not storage.is_name_too_long(caught.value)


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_files_of_a_killed_process_in_the_folder_of_the_photographs_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    touch(tmp_path, "a.jpg")
    job, save, left = Job(tmp_path / "a.jpg", Path("a")), write.save_array, iter(range(calls))

    def killed(*arguments: Any) -> None:
        if next(left, None) is None:
            raise SystemExit  # such as SIGKILL: nothing is cleaned up
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(write, "save_array", killed)
        with pytest.raises(SystemExit):
            write_prediction(depth(), tmp_path, job, {})
    assert [job.image.name for job in find_images([str(tmp_path)])] == ["a.jpg"]
    about = write_prediction(depth(), tmp_path, job, {})
    results = {f"a_{name}" for name in ("depth.png", "uncertainty.npy", "colour.png")}
    assert {path.name for path in tmp_path.iterdir()} == {"a.jpg", "a.json", *results}
    assert about["depth"] == "a_depth.png"


def test_results_are_skipped_among_several_named_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    write_prediction(depth(), tmp_path, Job(tmp_path / "a.jpg", Path("a")), {})
    touch(tmp_path, "concepts.png")
    explained(tmp_path, "concepts.png")
    named = [str(path) for path in tmp_path.iterdir() if path.suffix != ".json"]
    assert [job.image.name for job in find_images(named)] == ["a.jpg"]
    with pytest.raises(InputError, match="no images: all are results of earlier runs"):
        find_images([path for path in named if not path.endswith("a.jpg")])
    (picture,) = find_images([str(tmp_path / "a_colour.png")])
    assert picture.image.name == "a_colour.png"


def test_results_have_the_subfolders_of_their_images(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.jpg", "a/sub/x.PNG", "b/x.webp", "b/notes.txt", "b/.hidden/y.png")
    names = [job.name.as_posix() for job in find_images([str(tmp_path / "a"), str(tmp_path / "b")])]
    assert names == ["a/sub/x", "a/x", "b/x"]
    assert [job.name.as_posix() for job in find_images([str(tmp_path / "b")])] == ["x"]


def test_results_keep_the_suffix_if_images_differ_only_in_it(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg", "X.png", "y.jpg")
    names = {job.name.as_posix() for job in find_images([str(tmp_path)])}
    assert names == {"x.jpg", "X.png", "y"}


def test_no_two_results_have_the_same_name(tmp_path: Path) -> None:
    """With its suffix, the name of a.jpg is that of a.jpg.png without."""
    touch(tmp_path, "a.jpg", "a.png", "a.jpg.png", "A.jpg.png.gif", "b.jpg.png", "s/a.png")
    names = [job.name.as_posix() for job in find_images([str(tmp_path)])]
    assert names == ["A.jpg.png.gif", "a.jpg", "a.jpg.png", "a.png", "b.jpg", "s/a"]


def test_patterns_are_expanded_and_duplicates_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "p/1.jpg", "p/2.jpg", "q/3.png")
    monkeypatch.chdir(tmp_path)
    jobs = find_images(["p/*.jpg", "p/1.jpg", str(tmp_path / "q" / "[3].png")])
    assert [job.name.as_posix() for job in jobs] == ["p/1", "p/2", "q/3"]


def test_a_broken_link_in_a_pattern_is_listed_so_that_reading_it_fails(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    (tmp_path / "2.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "3.jpg").mkdir()
    jobs = find_images([str(tmp_path / "*.jpg")])
    assert [job.name.as_posix() for job in jobs] == ["1", "2"]


def test_the_result_of_a_linked_image_has_the_name_of_the_link(tmp_path: Path) -> None:
    touch(tmp_path, "store/4711.jpg")
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "summer.jpg").symlink_to(tmp_path / "store" / "4711.jpg")
    (job,) = find_images([str(tmp_path / "album")])
    assert job.name == Path("summer")


def test_a_missing_file_is_returned_if_it_was_named(tmp_path: Path) -> None:
    (job,) = find_images([str(tmp_path / "gone.jpg")])
    assert job.name == Path("gone")


@pytest.mark.parametrize("argument", ["empty", "*.jpg"])
def test_a_folder_or_pattern_without_images_is_refused(tmp_path: Path, argument: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no images \("):
        find_images([str(tmp_path / argument)])


def test_results_of_an_earlier_run_are_not_used_as_images(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    touch(tmp_path, "garden_depth.png")  # an image of the user
    (job, other) = find_images([str(tmp_path)])
    write_prediction(depth(), tmp_path, job, {})
    assert find_images([str(tmp_path)]) == [job, other]
    touch(tmp_path, "b/bins.png", "explain/bins.png", "explain/maps.png")
    explained(tmp_path / "explain", "bins.png")  # maps.png is an image of the user
    assert [one.image for one in find_images([str(tmp_path)])] == [
        job.image,
        tmp_path / "b" / "bins.png",
        tmp_path / "explain" / "maps.png",
        other.image,
    ]


def test_class_files_contain_the_class_ids_of_the_training_labels(tmp_path: Path) -> None:
    ids = torch.tensor([[2, 7, 7], [2, 2, 7]]).repeat(8, 8)
    names, palette = {2: "wall", 7: "crack"}, {2: (0, 0, 0), 7: (255, 9, 0)}
    narrow = ClassPrediction(ids, torch.full((16, 24), 0.75), names, palette)
    about = write_prediction(narrow, tmp_path, Job(Path("a.jpg"), Path("a")), {})
    with Image.open(tmp_path / "a_classes.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), ids.numpy())
        assert np.asarray(image.convert("RGB"))[0, 1].tolist() == [255, 9, 0]
    assert np.load(tmp_path / "a_confidence.npy")[0, 0] == 0.75
    assert about["names"] == {"2": "wall", "7": "crack"}
    assert about["pixels"] == {"wall": 192, "crack": 192}
    label = read_label(tmp_path / "a_classes.png", LabelFormat("segmentation"))
    assert torch.equal(label.value[0].long(), ids)
    wide = ClassPrediction(ids * 1000, torch.ones(16, 24), {2000: "a", 7000: "b"}, {})
    write_prediction(wide, tmp_path, Job(Path("b.jpg"), Path("b")), {})
    assert np.asarray(Image.open(tmp_path / "b_classes.png")).max() == 7000
    numbers = ((200 << 16) + 2, (200 << 16) + 7)
    names, palette = dict(zip(numbers, "ab", strict=True)), {n: (200, 0, n & 255) for n in numbers}
    colours = ClassPrediction(ids + (200 << 16), torch.ones(16, 24), names, palette)
    write_prediction(colours, tmp_path, Job(Path("c.jpg"), Path("c")), {})
    assert np.asarray(Image.open(tmp_path / "c_classes.png"))[0, 1].tolist() == [200, 0, 7]


def test_a_mask_file_is_black_and_white(tmp_path: Path) -> None:
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1:3, 2] = True
    prediction = MaskPrediction(mask, mask * 0.75)
    about = write_prediction(prediction, tmp_path, Job(Path("a.jpg"), Path("a")), {})
    assert (about["size"], about["pixels"]) == ([5, 4], 2)
    with Image.open(tmp_path / "a_mask.png") as image:
        assert np.array_equal(np.asarray(image), mask.numpy() * 255)
    assert np.load(tmp_path / "a_probability.npy")[1, 2] == 0.75
    touch(tmp_path, "a.jpg")
    assert [job.image.name for job in find_images([str(tmp_path)])] == ["a.jpg"]


def test_value_files_have_nan_at_invalid_pixels_and_the_json_file_the_unit(
    tmp_path: Path,
) -> None:
    values = torch.arange(6.0).reshape(1, 2, 3)
    valid = values[0] < 5
    prediction = ValuePrediction(values, valid, "K", uncertainty=torch.full((2, 3), 0.5))
    about = write_prediction(prediction, tmp_path, Job(Path("a.jpg"), Path("a")), {})
    stored = np.load(tmp_path / "a_values.npy")
    assert stored.shape == (2, 3)
    assert np.array_equal(stored[valid.numpy()], np.arange(5))
    assert np.isnan(stored[1, 2])
    assert about["unit"] == "K"
    assert (tmp_path / about["uncertainty"]).is_file()
    normals = NormalPrediction(torch.zeros(3, 2, 3), torch.ones(2, 3, dtype=torch.bool))
    about = write_prediction(normals, tmp_path, Job(Path("b.jpg"), Path("b")), {})
    assert np.load(tmp_path / "b_values.npy").shape == (2, 3, 3)
    assert "z forward" in about["directions"]


def test_files_of_an_earlier_run_are_deleted_and_other_files_kept(tmp_path: Path) -> None:
    """The second prediction has no uncertainty, so the file of the first one is deleted."""
    job = Job(Path("a.jpg"), Path("a"))
    write_prediction(depth(), tmp_path, job, {"note": "a_mine.png"})
    touch(tmp_path, "a_mine.png", "a_values.npy")
    assert (tmp_path / "a_uncertainty.npy").is_file()
    about = write_prediction(replace(depth(), uncertainty_m=None), tmp_path, job, {})
    assert "uncertainty" not in about
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.json", "a_depth.png", "a_colour.png", "a_mine.png", "a_values.npy"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_between_two_files_leaves_no_files(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise error

    ids = torch.zeros(16, 24, dtype=torch.long)
    prediction = ClassPrediction(ids, torch.ones(16, 24), {0: "a"}, {0: (9, 9, 9)})
    monkeypatch.setattr(np, "save", stop)
    with pytest.raises(error):
        write_prediction(prediction, tmp_path, Job(Path("a.jpg"), Path("a")), {})
    assert not list(tmp_path.iterdir())
