"""Training samples depend only on seed, epoch and index, not on workers or devices."""

import itertools
from dataclasses import replace

import pytest
import torch
from tests.training.conftest import Noise, Stripes

from diffsight.datasets.base import Sample
from diffsight.datasets.class_transforms import RandomScale
from diffsight.datasets.transforms import RandomCrop, Resize
from diffsight.errors import InputError
from diffsight.training.data import TrainingStream, validation_batches
from diffsight.training.stream import epoch_order, seed_of


def stream_of(**changes) -> TrainingStream:
    settings = {
        "dataset": Stripes(),
        "label": "depth_m",
        "augment": [Noise()],
        "batch_size": 5,
        "seed": 3,
    }
    return TrainingStream(**(settings | changes))


def take(stream, count, **where):
    return list(itertools.islice(stream.batches(**where), count))


def same(a, b) -> bool:
    return (
        a.batch.ids == b.batch.ids
        and a.draws == b.draws
        and torch.equal(a.batch.inputs.image, b.batch.inputs.image)
        and torch.equal(a.batch.target.label, b.batch.target.label)
    )


def test_a_seed_depends_on_all_its_numbers_and_never_changes():
    parts = [(0, 1), (1, 0), (0, 0, 1), (0, 11), (1, 1), (10, 1)]
    assert len({seed_of(*p) for p in parts}) == len(parts)
    assert all(0 <= seed_of(*p) < 2**63 for p in parts)
    assert seed_of(0, 1) == 6096812863120040317, "it must never change: old runs could not resume"


def test_an_epoch_is_a_permutation_and_epochs_differ():
    orders = [epoch_order(0, epoch, 50) for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert epoch_order(1, 0, 50) != orders[0]


def test_no_sample_occurs_twice_in_an_epoch():
    stream = stream_of()
    assert stream.batches_per_epoch == 2
    batches = take(stream, 6)
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        assert len({*first.batch.ids, *second.batch.ids}) == 10


@pytest.mark.parametrize("start", [0, 1, 2, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_continues_mid_epoch_with_any_number_of_workers(start, workers):
    whole = take(stream_of(), 8)
    rest = take(stream_of(workers=workers), 8 - start, start=start)
    assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_augmentation_differs_between_epochs_but_not_between_calls():
    stream = stream_of(batch_size=12)
    first, second = take(stream, 2)
    rows = {id: image for id, image in zip(first.batch.ids, first.batch.inputs.image, strict=True)}
    changed = [
        not torch.equal(rows[id], image)
        for id, image in zip(second.batch.ids, second.batch.inputs.image, strict=True)
    ]
    assert all(changed)
    assert same(first, take(stream, 1)[0])


def test_short_side_follows_resizing_and_ignores_crops():
    assert stream_of().short_side() == 8
    changes = (Noise(), Resize(height=6, width=20), RandomCrop(height=4, width=4))
    assert stream_of(augment=changes).short_side() == 6
    assert stream_of(augment=[RandomScale(short_side=7)]).short_side() == 7


def test_a_batch_is_divided_among_devices():
    stream = stream_of(batch_size=6)
    whole = take(stream, 3)
    parts = [take(stream, 3, rank=rank, world=3) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert batch.batch.ids == sum((part[step].batch.ids for part in parts), ())
        assert batch.draws.seeds == sum((part[step].draws.seeds for part in parts), ())
        images = torch.cat([part[step].batch.inputs.image for part in parts])
        assert torch.equal(batch.batch.inputs.image, images)


def test_the_state_of_a_stream_has_epoch_and_position():
    stream = stream_of()
    assert stream.state(5) == {
        "epoch": 2,
        "position": 5,
        "samples": 12,
        "batch_size": 5,
        "seed": 3,
    }
    assert [stream.batches_seen(stream.state(n)) for n in range(7)] == list(range(7))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 4}, "seed"),
        ({"batch_size": 4}, "batch_size"),
        ({"dataset": Stripes(length=13)}, "samples"),
    ],
)
def test_the_state_of_another_stream_is_refused(change, name):
    with pytest.raises(InputError, match=f"trained with {name} .* this run has"):
        stream_of(**change).batches_seen(stream_of().state(1))


@pytest.mark.parametrize("length", [0, 4])
def test_fewer_samples_than_a_batch_are_refused(length):
    with pytest.raises(InputError, match=rf"has {length} samples .* choose a batch_size"):
        stream_of(dataset=Stripes(length=length))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_error_of_a_bad_sample_is_one_line(workers):
    stream = stream_of(dataset=Stripes(broken=7), workers=workers)
    with pytest.raises(InputError, match=r"^stripe_7.png: truncated: copy it again$"):
        take(stream, 3)
    scored = validation_batches(Stripes(broken=7), label="depth_m", batch_size=4, workers=workers)
    with pytest.raises(InputError, match=r"^stripe_7.png: truncated: copy it again$"):
        list(scored)


def test_the_global_random_state_is_not_touched():
    before = torch.get_rng_state()
    take(stream_of(workers=2), 2)
    take(stream_of(workers=0), 2)
    list(validation_batches(Stripes(), label="depth_m", batch_size=4))
    assert torch.equal(before, torch.get_rng_state())


class Mixed(Stripes):
    """Images with a side of 8 pixels, some of them of 16."""

    def __getitem__(self, index: int) -> Sample:
        self.side = 16 if index in (3, 4) else 8
        return super().__getitem__(index)


def test_validation_reads_every_sample_once_and_batches_images_of_one_size():
    batches = list(validation_batches(Mixed(length=7), label="depth_m", batch_size=2))
    assert [len(b.ids) for b in batches] == [2, 1, 2, 2]
    assert [i for b in batches for i in b.ids] == [f"stripe_{i}" for i in range(7)]
    parts = [
        [
            i
            for b in validation_batches(Stripes(), label="depth_m", batch_size=4, rank=r, world=2)
            for i in b.ids
        ]
        for r in (0, 1)
    ]
    assert sorted(parts[0] + parts[1]) == sorted(f"stripe_{i}" for i in range(12))


class Described(Stripes):
    """Sample i has i sentences."""

    def __getitem__(self, index: int) -> Sample:
        sentences = tuple(f"{index} {turn}" for turn in range(index))
        return replace(super().__getitem__(index), sentences=sentences)


def test_validation_runs_every_sentence() -> None:
    batches = list(validation_batches(Described(length=4), label="depth_m", batch_size=4))
    prompts = [prompt for batch in batches for prompt in batch.inputs.prompts or ()]
    assert [len(batch.ids) for batch in batches] == [4, 3]
    assert prompts[1:] == ["1 0", "2 0", "2 1", "3 0", "3 1", "3 2"]


def test_training_and_validation_share_one_cache_of_text_features():
    stream = stream_of()
    batches = [one.batch for one in take(stream, 3)]
    batches += stream.validation_batches(Stripes(), 0, 1)
    known = {id(batch.to("meta").inputs.text_features) for batch in batches}
    assert known == {id(stream.text_features)}
