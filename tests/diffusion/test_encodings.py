"""Encodings turn labels and predictions into states of the diffusion process."""

from functools import partial

import pytest
import torch

from diffsight.diffusion import AnalogBits, ClassEmbedding, OneHot, ScalarMap, lowest_value
from diffsight.errors import InputError
from diffsight.outputs import OutputSpec
from diffsight.types import Target

CLASSES, DEPTH = OutputSpec("classes", 5), OutputSpec("values", 1, bounds=(0.0, 10.0))
IDS = torch.tensor([[[0, 1, 4, 255]]])
VALID = torch.tensor([[[True, True, True, False]]])


@pytest.mark.parametrize("build", [ClassEmbedding, AnalogBits, OneHot])
def test_class_codes_differ_and_stay_within_the_scale(build: type) -> None:
    encoding = build(output=CLASSES, scale=0.02)
    state = encoding.encode_target(Target(IDS, VALID), (1, 4))
    assert state.shape == (1, encoding.channels, 1, 4)
    assert float(state.detach().abs().max()) <= 0.02
    columns = state[0, :, 0].T
    assert len({tuple(column.tolist()) for column in columns}) == 4
    # a predicted class has the code of the same label; missing labels have a code of their own
    logits = torch.nn.functional.one_hot(IDS.clamp(max=4), 5).movedim(-1, 1).float()
    again = encoding.encode_prediction(logits, (1, 4))
    assert torch.equal(again[..., :3], state[..., :3])
    assert not torch.equal(again[..., 3], state[..., 3])


def test_class_embeddings_have_the_size_and_formula_of_the_paper() -> None:
    encoding = ClassEmbedding(output=OutputSpec("classes", 150))
    assert encoding.table.weight.shape == (151, 256)
    code = encoding.encode_ids(torch.tensor([[[7]]]))[0, :, 0, 0]
    expected = (encoding.table.weight[7].sigmoid() * 2 - 1) * 0.01
    torch.testing.assert_close(code, expected)


def test_analog_bits_and_one_hot_codes_have_the_expected_values() -> None:
    bits = AnalogBits(output=CLASSES, scale=1.0)
    assert bits.channels == 3
    assert bits.encode_ids(torch.tensor([[[5]]]))[0, :, 0, 0].tolist() == [1.0, -1.0, 1.0]
    one_hot = OneHot(output=CLASSES, scale=1.0)
    assert one_hot.encode_ids(torch.tensor([[[1]]]))[0, :, 0, 0].tolist() == [-1, 1, -1, -1, -1, -1]


def test_values_are_mapped_linearly_and_predictions_are_clamped() -> None:
    encoding = ScalarMap(output=DEPTH, scale=0.1, low=0.0)
    target = Target(torch.tensor([[[[0.0, 5.0, 10.0, 2.5]]]]), torch.ones(1, 1, 4).bool())
    state = encoding.encode_target(target, (1, 4))[0, 0, 0]
    torch.testing.assert_close(state, torch.tensor([-0.1, 0.0, 0.1, -0.05]))
    clamped = encoding.encode_prediction(torch.tensor([[[[-3.0, 12.0]]]]), (1, 2))[0, 0, 0]
    torch.testing.assert_close(clamped, torch.tensor([-0.1, 0.1]))


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("released", [4.0, 0.0]),  # missing labels count as zeros: (8 + 0) / 2
        ("masked", [8.0, 5.0]),  # cell 1: its only label; cell 2 has none: the middle of the range
        ("nearest", [8.0, 8.0]),
    ],
)
def test_missing_labels_are_filled_as_chosen(missing: str, expected: list[float]) -> None:
    options = {"scale": 1.0, "low": 0.0, "missing": missing}
    encoding = ScalarMap(output=DEPTH, **options)  # type: ignore[arg-type]
    label = torch.tensor([[[[8.0, torch.nan, torch.nan, torch.nan]]]])
    target = Target(label, torch.tensor([[[True, False, False, False]]]))
    state = encoding.encode_target(target, (1, 2))[0, 0, 0]
    torch.testing.assert_close((state + 1) / 2 * 10, torch.tensor(expected))


@pytest.mark.parametrize(
    ("bounds", "expected"), [((0.0, 10.0), 0.001), ((0.5, 10.0), 0.5), ((-3.0, 3.0), -3.0)]
)
def test_positive_values_stay_above_0_where_a_logarithm_has_no_gradient(
    bounds: tuple[float, float], expected: float
) -> None:
    output = OutputSpec("values", 1, bounds=bounds)
    assert lowest_value(output) == expected
    assert ScalarMap(output=output).low == expected
    assert ScalarMap(output=output, low=0.2).low == 0.2


def test_the_state_of_an_image_without_labels_is_finite() -> None:
    for missing in ("released", "masked", "nearest"):
        encoding = ScalarMap(output=DEPTH, missing=missing)  # type: ignore[arg-type]
        label = torch.full((1, 1, 4, 4), torch.nan)
        state = encoding.encode_target(Target(label, torch.zeros(1, 4, 4).bool()), (2, 2))
        assert state.isfinite().all()


def test_an_encoding_refuses_other_kinds_of_output() -> None:
    with pytest.raises(InputError, match="OneHot encodes classes, not 1 map of values"):
        OneHot(output=DEPTH)
    with pytest.raises(InputError, match="ScalarMap encodes values with bounds"):
        partial(ScalarMap)(output=OutputSpec("values", 1))


@pytest.mark.parametrize("wrong", [3, -1])
def test_labels_that_are_not_a_class_are_refused(wrong: int) -> None:
    encoding = ClassEmbedding(output=OutputSpec("classes", 3))
    label = torch.tensor([[[0, 1], [2, wrong]]])
    target = Target(label, torch.ones(1, 2, 2, dtype=torch.bool))
    message = f"class {wrong}, the encoding has classes 0 to 2: give the task all classes"
    with pytest.raises(InputError, match=message):
        encoding.encode_target(target, (2, 2))
