"""``Streets`` fulfils the contract of data sets."""

from pathlib import Path

from tests.contracts import DatasetContract

from diffsight.streets import Streets


class TestStreets(DatasetContract):
    def build(self, folder: Path) -> Streets:
        return Streets(split="val", count=3, image_hw=(16, 40), cells=20)
