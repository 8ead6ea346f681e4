"""``PeopleRooms``: people, their keypoints and boxes."""

from pathlib import Path

import torch
from tests.contracts import DatasetContract

from diffsight.rooms import PeopleRooms


class TestPeopleRooms(DatasetContract):
    checked = 2

    def build(self, folder: Path) -> PeopleRooms:
        return PeopleRooms("val", 3, (48, 64))


def test_people_who_are_no_crowd_have_six_keypoints_inside_their_box() -> None:
    data = PeopleRooms("train", 6, 64)
    for sample in data:
        people = sample.queries()
        assert people is not None
        assert len(people) >= 1
        for joints, edges in zip(people.keypoints, people.edges, strict=True):
            inside = joints[joints[:, 2] > 0, :2]
            assert len(inside) >= 6
            assert (inside >= edges[:2] - 1).all()
            assert (inside <= edges[2:] + 1).all()
        assert (people.areas >= 0.01 * 64 * 64).all()


def test_with_each_person_a_sample_is_the_largest_person_of_its_image() -> None:
    whole, one = PeopleRooms("train", 6, 64), PeopleRooms("train", 6, 64, each="person")
    for all_people, person in zip(whole, one, strict=True):
        people = all_people.queries()
        assert people is not None
        assert person.people is not None
        assert len(person.people) == 1
        assert torch.equal(all_people.image, person.image)
        assert float(person.people.areas[0]) == float(people.areas.max())
