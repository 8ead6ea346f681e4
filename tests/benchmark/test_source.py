"""Sources of benchmark tasks (rooms, Taskonomy, NYU, custom data) and their measures."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.support_benchmark import CLASSES, Squares, squares
from tests.support_images import write_depth, write_image
from tests.support_taskonomy import DENSE, VIEWS, make_view, write_view, write_views

from diffsight.backbones import BackboneSource
from diffsight.benchmark.measures import AngleMeasure, DepthMeasure, ValueMeasure
from diffsight.benchmark.nyu import nyu_source
from diffsight.benchmark.registry import benchmark_methods
from diffsight.benchmark.rooms import rooms_source
from diffsight.benchmark.run import benchmark
from diffsight.benchmark.source import BenchmarkSource, BenchmarkTask
from diffsight.benchmark.taskonomy import curve_codebook, taskonomy_source
from diffsight.benchmark.units import Settings
from diffsight.datasets.taskonomy_labels import log_depth
from diffsight.errors import InputError
from diffsight.outputs import Values as ValuesOutput
from diffsight.tasks import Depth, Normals, Segmentation, Values
from diffsight.types import Target


def test_any_data_set_and_task_can_be_benchmarked(
    pretrained: BackboneSource, tmp_path: Path
) -> None:
    """Without a measure, the task's own metric is the score."""
    train, test = Squares("train", "semantic", 8), Squares("test", "semantic", 3)
    task = BenchmarkTask("mine", Segmentation(CLASSES), train, test)
    scores = []
    benchmark(
        BenchmarkSource("mine", {"mine": task}),
        tasks=("mine",),
        methods=benchmark_methods(("constant", "mean-map", "feature_head")),
        pretrained=pretrained,
        out=tmp_path,
        repeats=1,
        settings=Settings(shots=3, steps=1),
        advance=lambda progress: scores.append(progress.score),
    )
    ground = [float((sample.labels["semantic"][2:] == 0).float().mean()) for sample in test]
    assert scores[0] == pytest.approx(100 * sum(ground) / 3 / 2, rel=1e-5)
    assert len(scores) == 3


def test_a_task_has_no_more_bins_than_different_labels() -> None:
    spec = squares().tasks["size"]
    few = [replace(s, labels={"values": s.labels["values"].round()}) for s in spec.train]
    assert spec.fitted(list(spec.train)).outputs[0].channels == 8
    distinct = len(torch.stack([s.labels["values"][0, 2:] for s in few[:3]]).unique())
    assert distinct < 8
    assert spec.fitted(few[:3]).outputs[0].channels == distinct


def test_codebook_vectors_may_lie_on_a_curve() -> None:
    def curve(g: torch.Tensor) -> torch.Tensor:
        return torch.stack([g, (2 * g).clamp(max=1), g.square(), g, g], dim=-1)

    codebook = curve_codebook(curve, (0.0, 1.0), 4)
    train = Squares("train", "values", 3)
    spec = BenchmarkTask("curve", Values(channels=5, bins=4), train, train, codebook=codebook)
    samples = [replace(s, labels={"values": s.labels["values"].expand(5, -1, -1)}) for s in train]
    codec = spec.fitted(samples).outputs[0].codec
    assert codec is not None
    assert codec.is_fitted
    centres = torch.tensor([0.125, 0.375, 0.625, 0.875])
    torch.testing.assert_close(codec.centres[:, 0], centres)
    torch.testing.assert_close(codec.centres[:, 1], (2 * centres).clamp(max=1))
    constant = torch.full((5, 64, 64), 0.5)
    flat = [replace(s, labels={"values": constant}) for s in train]
    flat_codec = spec.fitted(flat).outputs[0].codec
    assert flat_codec is not None
    torch.testing.assert_close(flat_codec.label_std, 0.05 * codec.centres.std(dim=0))
    label = codec.centres[2][None, :, None, None]
    assert int(codec.encode(label).ids) == 2


def test_predictions_are_clipped_to_the_range_of_the_label() -> None:
    measure = ValueMeasure(Values(), name="vtm_mae", clip=(0.0, 1.0))
    target = Target(torch.full((1, 1, 32, 32), 0.5), torch.ones(1, 32, 32, dtype=torch.bool))
    assert measure.update(ValuesOutput(torch.full((1, 1, 64, 64), 3.0)), target) == 0.5
    assert measure.compute()["vtm_mae"] == 0.5
    assert measure.name == "vtm_mae"


def test_angles_are_scored_in_degrees_and_depth_in_metres() -> None:
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    up, away = torch.tensor([0.0, -1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    angles = AngleMeasure(Normals())
    output = ValuesOutput((3 * up)[None, :, None, None].expand(1, 3, 2, 2))
    target = Target(away[None, :, None, None].expand(1, 3, 4, 4), valid)
    assert angles.update(output, target) == pytest.approx(90.0)
    depth = DepthMeasure(Depth())
    target = Target(torch.full((1, 1, 4, 4), 2.0), valid)
    assert depth.update(ValuesOutput(torch.full((1, 1, 2, 2), -1.0)), target) == pytest.approx(
        2 - 1e-3
    )


def test_the_rooms_source_has_the_tasks_of_taskonomy() -> None:
    source = rooms_source(size=32, count=2, pool=3)
    assert len(source.tasks) == 10
    assert source.tasks["normal"].task.outputs[0].channels == 40
    assert source.tasks["depth_zbuffer"].task.outputs[0].channels == 40
    assert source.tasks["reshading"].task.outputs[0].channels == 20
    ids = {s.id for s in source.tasks["normal"].train} & {s.id for s in source.tasks["normal"].test}
    assert not ids
    sample = source.tasks["normal"].test[1]
    assert sample is source.tasks["segment_semantic"].test[1]  # rendered once for all tasks
    for spec in source.tasks.values():
        label, valid = sample.labels[spec.task.label], sample.valid[spec.task.label]
        assert label.shape[-2:] == (32, 32)
        assert float(label[..., ~valid].abs().sum()) == 0
    valid = sample.valid["depth_m"]
    along_rays, z = sample.labels["euclidean_depth_m"], sample.labels["depth_m"]
    assert bool((along_rays >= z - 1e-4)[:, valid].all())
    assert float(sample.labels["principal_curvature_per_m"].abs().max()) <= 1 / 0.03 + 1e-3
    with pytest.raises(InputError, match="0 rooms to score"):
        rooms_source(count=0)


def test_the_measure_depends_on_the_taskonomy_preset(tmp_path: Path) -> None:
    root = write_views(tmp_path)
    sources = {p: taskonomy_source(root=root, preset=p) for p in ("vtm", "clean", "native")}
    for preset, source in sources.items():
        assert len(source.tasks) == 9 + 12 + 1
        assert len(source.notes) == 1
        assert source.notes[0].startswith("buildings without images: allensville, ")
        for name in DENSE:
            spec = source.tasks[name]
            measure = spec.measure(spec.task)
            if name == "normal":
                assert measure.name == ("merr_vtm" if preset == "vtm" else "merr_true")
            elif preset == "native" and name.startswith("depth"):
                assert measure.name == "rmse"
            else:
                assert measure.name == ("vtm_mae" if preset == "vtm" else "rmse_valid")
                assert measure.clip == (0.0, 1.0)
            label = spec.train[0].labels[spec.task.label]
            assert len(label) == spec.task.outputs[-1].channels
    chair = sources["vtm"].tasks["segment_semantic/chair"]
    assert chair.measure(chair.task).name == "iou"
    assert chair.measure(chair.task).higher_is_better


@pytest.mark.parametrize("name", ["depth_euclidean", "depth_zbuffer", "edge_occlusion"])
def test_labels_of_taskonomy_are_near_a_codebook_vector(tmp_path: Path, name: str) -> None:
    spec = taskonomy_source(root=write_views(tmp_path)).tasks[name]
    task = spec.fitted(list(spec.train))
    codec = task.outputs[0].codec
    assert codec is not None
    assert len(codec.centres.unique(dim=0)) == (20 if name == "edge_occlusion" else 40)
    assert (codec.centres.diff(dim=0) >= 0).all()
    label = spec.train[0].labels["values"][None]
    nearest = codec.centres[codec.encode(label).ids[0, 0, 0, 0]]
    distance = (nearest - label[0, :, 0, 0]).abs().max()
    assert distance <= codec.centres.diff(dim=0).abs().max()
    if name == "depth_zbuffer":
        middle = log_depth(torch.tensor(2000.0))
        assert float(label[0, 0, 0, 0]) == pytest.approx((float(middle) - 0.4) / 0.6, abs=2e-5)


def test_tasks_of_taskonomy_without_a_folder_are_left_out(tmp_path: Path) -> None:
    for building, name in VIEWS:
        files = make_view()
        del files["keypoints3d"]
        write_view(tmp_path, building, name, files)
    source = taskonomy_source(root=tmp_path)
    assert source.notes[0] == "left out: keypoints3d: keypoints3d is not there"
    assert len(source.tasks) == 21
    chosen = taskonomy_source(root=tmp_path, tasks=["normal", "keypoints3d"])
    assert chosen.tasks.keys() == {"normal"}
    with pytest.raises(InputError, match="missing: keypoints3d"):
        taskonomy_source(root=tmp_path, tasks=["keypoints3d"])
    with pytest.raises(InputError, match=r"unknown Taskonomy task 'depth': choose depth_eucl"):
        taskonomy_source(root=tmp_path, tasks=["depth"])
    with pytest.raises(InputError, match="unknown Taskonomy split 'hanson'"):
        taskonomy_source(root=tmp_path, split="hanson")


def test_tasks_masked_by_euclidean_depth_are_left_out_if_it_is_missing(tmp_path: Path) -> None:
    for building, name in VIEWS:
        files = make_view()
        del files["depth_euclidean"]
        write_view(tmp_path, building, name, files)
    source = taskonomy_source(root=tmp_path)
    dense = [name for name in source.tasks if not name.startswith("segment")]
    assert sorted(dense) == ["edge_texture", "keypoints2d"]
    assert sum("depth_euclidean is not there" in note for note in source.notes) == 7


def test_the_name_of_a_taskonomy_source_depends_on_its_images(tmp_path: Path) -> None:
    """So scores from before and after a further download are never compared."""
    name = taskonomy_source(root=write_views(tmp_path)).name
    assert taskonomy_source(root=tmp_path).name == name
    assert name.startswith("taskonomy, muleshoe, vtm, 2 + 1 files (")
    limited = partial(taskonomy_source, root=tmp_path, tasks=["edge_texture"])
    assert limited(max_images=3).name == f"{name}, 3 images"
    with pytest.raises(InputError, match="max_images 0"):
        limited(max_images=0)
    for building in ("hanson", "muleshoe"):
        write_view(tmp_path, building, "point_9_view_0", {"rgb": make_view()["rgb"]})
        assert taskonomy_source(root=tmp_path).name != name
        (tmp_path / building / "rgb" / "point_9_view_0_domain_rgb.png").unlink()
    (tmp_path / "muleshoe/rgb/point_3_view_0_domain_rgb.png").rename(
        tmp_path / "muleshoe/rgb/point_4_view_0_domain_rgb.png"
    )
    assert taskonomy_source(root=tmp_path).name != name


def test_nyu_depth_is_scored_inside_the_crop(tmp_path: Path) -> None:
    for folder, number in (("sync/kitchen_0028b", 3), ("official_splits/test/bathroom", 45)):
        write_image(tmp_path / folder / f"rgb_{number:05}.jpg", size=(640, 480))
        write_depth(tmp_path / folder / f"sync_depth_{number:05}.png", size=(640, 480))
    source = nyu_source(root=tmp_path)
    assert source.name.startswith("nyu 1 + 1 (")
    (tmp_path / "official_splits/test/bathroom").rename(tmp_path / "official_splits/test/kitchen")
    assert nyu_source(root=tmp_path).name != source.name
    (tmp_path / "official_splits/test/kitchen").rename(tmp_path / "official_splits/test/bathroom")
    (spec,) = source.tasks.values()
    assert spec.name == "nyu_depth"
    assert spec.task.outputs[0].channels == 50
    assert spec.measure(spec.task).name == "rmse"
    assert int(spec.train[0].valid["depth_m"].sum()) == 479 * 640
    assert int(spec.test[0].valid["depth_m"].sum()) == 426 * 560
    with pytest.raises(InputError, match="holds no normals"):
        nyu_source(root=tmp_path, normals=tmp_path / "plane-fit")
