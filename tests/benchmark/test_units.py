"""One entrant, one support: what it learns from, what it is scored by, what is kept."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from tests.benchmark.conftest import Squares

from diffsight.adaptation.selection import LEAST_STEPS
from diffsight.backbones import StableDiffusion
from diffsight.benchmark.entrants import entrants, suits
from diffsight.benchmark.trivial_baselines import Constant, MeanMap
from diffsight.benchmark.units import (
    Settings,
    Unit,
    draw,
    run,
    save,
    scored,
    stored,
    task_of,
)
from diffsight.codecs import VectorWords
from diffsight.datasets.source import Labelled, SourceTask
from diffsight.errors import InputError
from diffsight.hub.task_file import Base
from diffsight.rooms.source import RoomsSource

FAST = Settings(shots=3, steps=1)
ALL = ("features", "concepts", "concepts-k1", "concepts-k0", "concepts-no-self-attention", "vpd")


def test_a_support_is_the_same_for_every_method_and_another_in_every_repeat() -> None:
    source = Squares()
    first = draw(source, source.tasks["size"], 4, seed=0, repeat=0)[1]
    assert first == draw(source, source.tasks["where"], 4, seed=0, repeat=0)[1]
    assert first != draw(source, source.tasks["size"], 4, seed=0, repeat=1)[1]
    assert len(set(first)) == 4
    broken = Squares(broken=first[0])
    without = draw(broken, broken.tasks["size"], 4, seed=0, repeat=0)[1]
    assert without[:3] == first[1:]
    assert broken.skipped
    with pytest.raises(InputError, match=r"7 usable images of size for 8 shots"):
        draw(broken, broken.tasks["size"], 8, seed=0, repeat=0)


def test_the_constant_and_the_mean_map_by_hand(base) -> None:
    source = Squares()
    spec = source.tasks["size"]
    _, ids = draw(source, spec, 3, seed=0, repeat=0)
    some = [source.read("size", id) for id in ids]
    known = torch.cat([e.value[0][e.valid] for e in some if e])
    query = source.read("size", "test/0")
    assert query is not None
    found = run(Unit("size", "constant", 0), Constant(), source, base, FAST)
    squares, count = torch.zeros(()), 0
    for id in source.queries("size"):
        row = source.read("size", id)
        assert row is not None
        squares = squares + (row.value[0][row.valid] - known.mean()).square().sum()
        count += int(row.valid.sum())
    assert found["score"] == pytest.approx(math.sqrt(float(squares) / count), rel=1e-5)
    assert found["support"] == ids
    mean = run(Unit("size", "mean-map", 0), MeanMap(), source, base, FAST)
    stack = torch.stack([e.value[0] for e in some if e]).mean(dim=0)
    total = torch.zeros(())
    for id in source.queries("size"):
        row = source.read("size", id)
        assert row is not None
        total = total + (row.value[0] - stack)[row.valid].square().sum()
    assert mean["score"] == pytest.approx(math.sqrt(float(total) / count), rel=1e-5)


def test_the_majority_is_the_floor_of_a_segmentation(base) -> None:
    source = Squares()
    found = run(Unit("where", "constant", 0), Constant(), source, base, FAST)
    ground = [
        float((~source.read("where", i).value.bool()[0][2:]).float().mean())
        for i in source.queries("where")
    ]
    assert found["score"] == pytest.approx(sum(ground) / 3 / 2, rel=1e-6)
    assert found["higher_is_better"]


@pytest.mark.parametrize("task", ["size", "where", "way", "one"])
def test_every_entrant_learns_every_kind(task, base) -> None:
    source = Squares()
    for name, entrant in entrants(ALL, dino=None, clip_side=None).items():
        if task != "size" and name not in ("features", "concepts", "vpd"):
            continue
        found = run(Unit(task, name, 0), entrant, source, base, FAST)
        assert math.isfinite(found["score"])
        assert found["facts"]["parameters"] > 0
        assert len(found["per_image"]) == 3
        json.dumps(found)


def test_the_regression_is_between_the_extremes(base) -> None:
    source = Squares()
    (entrant,) = entrants(("concepts-regression",), dino=None, clip_side=None).values()
    found = run(Unit("size", "concepts-regression", 0), entrant, source, base, FAST)
    width = base.backbone.context_dim
    assert found["facts"]["parameters"] == 2 * width
    assert suits(entrant, source.tasks["size"])
    assert not suits(entrant, source.tasks["where"])
    several = replace(source.tasks["size"], curve=lambda g: torch.stack([g, g], dim=-1))
    assert not suits(entrant, several)  # a scalar that is scored as vectors


class Pairs(Squares):
    """Two numbers of a pixel, which point to no side."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks |= {"pair": SourceTask("pair", "vector", "values", 8)}

    def read(self, task: str, id: str) -> Labelled | None:
        one = super().read("size", id)
        if one is None or task != "pair":
            return one
        other = torch.arange(64.0).expand(1, 64, 64)
        return replace(one, value=torch.cat([one.value, other]) * one.valid)


@pytest.mark.parametrize("task", ["size", "pair"])
def test_images_pass_the_frozen_encoder_once(task, base, monkeypatch) -> None:
    """Of the support as they are and mirrored, and once when they are asked, however many steps."""
    plain, passes = StableDiffusion.encode, 0

    def counted(self, image, **options):
        nonlocal passes
        passes += len(image)
        return plain(self, image, **options)

    monkeypatch.setattr(StableDiffusion, "encode", counted)
    for name, entrant in entrants(("concepts", "vpd"), dino=None, clip_side=None).items():
        passes = 0
        run(Unit(task, name, 0), entrant, Pairs(), base, Settings(shots=3, steps=4))
        assert passes == 2 * 3 + 3, name


def test_learning_takes_its_minutes(base) -> None:
    source = Squares()
    for name, entrant in entrants(("features", "vpd"), dino=None, clip_side=None).items():
        short = Settings(shots=3, minutes=1e-6)
        found = run(Unit("size", name, 0), entrant, source, base, short)
        steps = found["facts"]["steps"]
        assert (steps if name == "vpd" else steps["features"]) == LEAST_STEPS


def test_an_unknown_method_names_the_others() -> None:
    with pytest.raises(InputError, match="unknown method 'ours': choose from auto, concepts"):
        entrants(("ours",), dino=None, clip_side=None)
    with pytest.raises(InputError, match="--dino"):
        entrants(("dinov2-linear",), dino=None, clip_side=None)


def test_a_unit_is_kept_whole_and_its_options_are_known(base, tmp_path) -> None:
    unit, entrant = Unit("size", "constant", 2), Constant()
    key = unit.key(entrant, Squares(), base, FAST)
    assert key == unit.key(Constant(), Squares(), base, Settings(shots=3, steps=1))
    assert key != unit.key(entrant, Squares(), base, Settings(shots=3, steps=2))
    assert key != unit.key(MeanMap(), Squares(), base, FAST)
    path = unit.path(tmp_path, 3)
    assert path == tmp_path / "size/constant/shots3/rep002.json"
    assert stored(path, key) is None
    found = run(unit, entrant, Squares(), base, FAST)
    save(path, key, found)
    again = stored(path, key)
    assert again is not None
    assert again["score"] == found["score"]
    with pytest.raises(InputError, match="made with other options"):
        stored(path, "another")
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match=r"rep002.json: damaged"):
        stored(path, key)
    with pytest.raises(InputError, match="score is nan"):
        save(path, key, found | {"measures": {"score": math.nan}})


def test_the_constant_is_the_best_of_its_measure(base) -> None:
    """The median where errors are absolute; the foreground, whose IoU is asked for."""
    source = Squares()
    plain = source.tasks["size"]
    source.tasks = {"size": replace(plain, primary="vtm_mae"), "one": source.tasks["one"]}
    found = run(Unit("size", "constant", 0), Constant(), source, base, FAST)
    _, ids = draw(source, plain, 3, seed=0, repeat=0)
    rows = [row for row in (source.read("size", id) for id in ids) if row]
    median = torch.cat([row.value[0][row.valid] for row in rows]).median()
    gaps = []
    for row in filter(None, (source.read("size", id) for id in source.queries("size"))):
        gaps.append(float(((row.value[0] - median).abs() * row.valid).mean()))
    assert found["score"] == pytest.approx(sum(gaps) / 3, rel=1e-5)
    assert run(Unit("one", "constant", 0), Constant(), source, base, FAST)["score"] > 0.2


def test_a_codebook_of_many_tables_needs_a_tower(base, pipeline_folder, tmp_path) -> None:
    shutil.copytree(pipeline_folder, tmp_path / "blind")
    shutil.rmtree(tmp_path / "blind" / "image_encoder")
    blind = Base.load(tmp_path / "blind")
    concepts, probe = entrants(("concepts", "clip-linear"), dino=None, clip_side=None).values()
    unit, source = Unit("size", "concepts", 0), Squares()
    with pytest.raises(InputError, match=r"no CLIP vision model.* of 10 tables.*--clip DIR"):
        unit.key(concepts, source, blind, FAST)
    with pytest.raises(InputError, match=r"no CLIP vision model.* a linear probe"):
        unit.key(probe, source, blind, FAST)
    assert Unit("where", "concepts", 0).key(concepts, source, blind, FAST)
    assert run(Unit("where", "concepts", 0), concepts, source, blind, FAST)["score"] > 0
    tower = pipeline_folder / "image_encoder"
    lent = replace(FAST, clip=str(tower))
    assert run(unit, concepts, source, blind, lent)["facts"]["codebook"] == 10
    keys = [unit.key(concepts, source, blind, lent)]
    shutil.copytree(tower, tmp_path / "tower")
    other = replace(FAST, clip=str(tmp_path / "tower"))
    for _ in range(2):
        keys.append(unit.key(concepts, source, blind, other))
        config = tmp_path / "tower" / "config.json"
        config.write_text(config.read_text() + " ")  # other content at the same place
    assert keys[0] == keys[1] != keys[2]


def test_a_curve_gives_words_of_several_channels() -> None:
    spec = SourceTask(
        "curve",
        "vector",
        "values",
        4,
        curve=lambda g: torch.stack([g, (2 * g).clamp(max=1), g.square(), g, g], dim=-1),
    )
    source = Squares()
    source.tasks = {"curve": spec, "size": source.tasks["size"]}
    support, _ = draw(source, source.tasks["size"], 3, seed=0, repeat=0)
    several = tuple(replace(e, value=e.value.expand(5, -1, -1)) for e in support.examples)
    task = task_of(spec, replace(support, examples=several))
    codec = task.codec
    assert isinstance(codec, VectorWords)
    centres = torch.tensor([0.125, 0.375, 0.625, 0.875])
    torch.testing.assert_close(codec.words[:, 0], centres)
    torch.testing.assert_close(codec.words[:, 1], (2 * centres).clamp(max=1))
    assert task.spread is not None
    alone = torch.full((5, 64, 64), 0.5)  # channels in which this support holds one value
    flat = replace(support, examples=tuple(replace(e, value=alone) for e in support.examples))
    lowest = task_of(spec, flat).spread
    torch.testing.assert_close(lowest, 0.05 * codec.words.std(dim=0))
    label = codec.words[2][None, :, None, None]
    assert int(codec.encode(label).ids) == 2


def test_what_is_scored_has_the_truths_size_and_range() -> None:
    truth = torch.full((1, 32, 32), 0.5)
    nowhere = torch.ones(64, 64, dtype=torch.bool)
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    query = Labelled("a", image, torch.zeros(1, 64, 64), nowhere, truth)
    spec = SourceTask("x", "scalar", "values", 8, clip=(0.0, 1.0), primary="vtm_mae")
    found, _, valid = scored(spec, torch.full((1, 64, 64), 3.0), query)
    assert found.shape == (1, 1, 32, 32)
    assert float(found.max()) == 1
    assert bool(valid.all())
    assert spec.measure == "vtm_mae"


def test_rooms_have_taskonomys_tasks() -> None:
    source = RoomsSource(size=32, count=2, pool=3)
    assert len(source.tasks) == 10
    assert source.tasks["normal"].bins == source.tasks["depth_zbuffer"].bins == 40
    assert source.tasks["reshading"].bins == 20
    assert set(source.pool("normal")).isdisjoint(source.queries("normal"))
    for name, spec in source.tasks.items():
        row = source.read(name, "test/1")
        channels = {"vector": 2, "normals": 3}.get(spec.kind, 1)
        assert row.value.shape == (channels, 32, 32)
        assert float(row.value[:, ~row.valid].abs().sum()) == 0
    euclidean, z = (source.read(f"depth_{n}", "test/0") for n in ("euclidean", "zbuffer"))
    assert bool((euclidean.value >= z.value - 1e-4)[:, z.valid].all())
    curvature = source.read("principal_curvature", "test/0").value
    assert float(curvature.abs().max()) <= 1 / 0.03 + 1e-3
