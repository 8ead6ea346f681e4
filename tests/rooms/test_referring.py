"""``ReferringRooms``: objects and the sentences about them."""

import torch

from diffsight.rooms import ReferringRooms, render_scene


def test_the_referent_is_the_mask_of_every_sentence() -> None:
    data = ReferringRooms("val", count=6, size=64)
    for index in range(6):
        sample = data[index]
        scene = render_scene(index, split="val", size=64, labels=())
        masks = {e.text: torch.from_numpy(e.mask) for e in scene.expressions}
        assert sample.prompt == sample.sentences[0]
        for sentence in sample.sentences:
            assert torch.equal(sample.labels["referent"] == 1, masks[sentence])
        assert torch.equal(sample.image, torch.from_numpy(scene.image))
        assert sample.valid["referent"].all()


def test_sentences_do_not_depend_on_the_size() -> None:
    small, large = (ReferringRooms("train", count=4, size=size) for size in (64, 96))
    assert [small[i].sentences for i in range(4)] == [large[i].sentences for i in range(4)]
    assert len({small[i].prompt for i in range(4)}) > 1
