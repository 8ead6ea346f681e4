"""Options of the few-shot benchmark for Python and the command line; imports no torch."""

from dataclasses import dataclass

from diffsight.adaptation.options import FewShotOptions
from diffsight.errors import check_whole


@dataclass(frozen=True, kw_only=True)
class UnitOptions(FewShotOptions):
    """Options that all units of a benchmark share, on any device.

    Args:
        shots: number of labelled images that a method trains on.
        minutes: minutes of one training, unless the number of steps is given.
        seed: seed of the choice of training images and of everything random.
        curve_every: also score the test images every N steps of a training, for a curve (default:
            only at the end).

    Raises:
        InputError: if a number is out of range.
    """

    shots: int = 10
    minutes: float = 1.5
    curve_every: int | None = None

    @property
    def scorings(self) -> int:
        """Number of times that a unit scores the test images; 1 if ``steps`` is not given."""
        if self.curve_every is None or self.steps is None:
            return 1
        return 1 + -(-self.steps // self.curve_every)

    def __post_init__(self) -> None:
        """Check that all numbers are in range."""
        check_whole("shots", self.shots, 1)
        check_whole("curve every", self.curve_every, 1)
        FewShotOptions.__post_init__(self)
