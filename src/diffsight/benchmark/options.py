"""Options of the few-shot benchmark, shared by Python and the command line; no torch in here."""

from dataclasses import dataclass

from diffsight.adaptation.options import FewShotOptions, check_whole


@dataclass(frozen=True, kw_only=True)
class UnitOptions(FewShotOptions):
    """What is the same for all units of a benchmark, on whatever device they run.

    Args:
        shots: labelled images that a method trains on.
        minutes: time of one training, unless the number of steps is given.
        seed: seed of the choice of training images and of everything random.
        curve_every: score the test images every N steps of a training too, for a curve (default:
            only at the end).
    """

    shots: int = 10
    minutes: float = 1.5
    curve_every: int | None = None

    @property
    def scorings(self) -> int:
        """How often a unit scores the test images; with ``minutes`` a curve is not counted."""
        if self.curve_every is None or self.steps is None:
            return 1
        return 1 + -(-self.steps // self.curve_every)

    def __post_init__(self) -> None:
        """Refuse numbers that are out of range."""
        check_whole("shots", self.shots, 1)
        check_whole("curve every", self.curve_every, 1)
        FewShotOptions.__post_init__(self)
