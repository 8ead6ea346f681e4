"""``diffsight.pipeline`` on rigs, which are several cameras of a vehicle."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support_inference import Brightness, model
from tests.test_rig import rig

import diffsight
from diffsight.datasets import write_rig
from diffsight.errors import InputError
from diffsight.model import DenseModel
from diffsight.outputs import Masks, Output, OutputSpec
from diffsight.rig import Rig
from diffsight.tasks import BEV
from diffsight.types import Inputs


class Bright(Brightness):
    """Predict the mean brightness of the cameras as the probability of every cell."""

    output_kinds = ("masks",)

    def __init__(self, *, output: OutputSpec) -> None:
        super().__init__(output=output)
        self.hw = output.grid

    def forward(self, inputs: Inputs, *rest: Any, **options: Any) -> Output:
        means = inputs.rig.images.mean(dim=(1, 2, 3, 4)).reshape(-1, 1, 1, 1)
        return Masks(means.expand(-1, len(self.bias), *self.hw), "probabilities")


def test_rigs_and_paths_of_rig_files_give_the_same_and_unusable_rigs_are_refused(
    tmp_path: Path,
) -> None:
    predict = diffsight.pipeline(
        DenseModel(task=BEV(["road"], cells=4), method=Bright), device="cpu"
    )
    rigs = [rig(seed) for seed in (0, 1)]
    for name, one in zip("ab", rigs, strict=True):
        write_rig(one, tmp_path / name)
    wanted = [predict(one).probability for one in rigs]
    assert not torch.equal(*wanted)
    paths = [tmp_path / name / "rig.json" for name in "ab"]
    for several in (rigs, paths, tmp_path / "*" / "rig.json"):
        predictions = predict(several, batch_size=2)
        pairs = zip(predictions, wanted, strict=True)
        assert all(torch.equal(one.probability, expected) for one, expected in pairs)
    for unusable, message in (
        (torch.zeros(3, 16, 16), "rig: the model reads a Rig of several cameras, got Tensor"),
        ([rigs[0], Rig.joined(rigs)], "rig 1: 2 rows: give rigs of one row"),
        (replace(rigs[0], intrinsics=rigs[0].intrinsics * torch.nan), "rig: intrinsics"),
    ):
        with pytest.raises(InputError, match=message):
            predict(unusable)
    with pytest.raises(InputError, match="BEV maps have their own grid: leave flip out"):
        predict(rigs[0], flip=True)
    with pytest.raises(InputError, match="image: the model reads one image, got Rig"):
        diffsight.pipeline(model(Brightness), device="cpu")(rigs[0])
