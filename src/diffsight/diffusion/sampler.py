"""The sampler of DDP: it denoises a label map in a number of steps that the user chooses."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffsight.config import Configurable
from diffsight.diffusion.noise import AbstractNoise, State, Time, ddim_step, ddpm_step, time_pairs
from diffsight.errors import InputError
from diffsight.ops.resize import resize_maps
from diffsight.outputs import Classes, Kind, Masks, Moments, Output, OutputSpec, Values

Maps = Float[Tensor, "b k h w"]


@dataclass(frozen=True, kw_only=True)
class Sampler(Configurable):
    """Options for sampling a label map (DDP, algorithm 2).

    Args:
        steps: number of denoising steps; each is one pass of the decoder.
        time_difference: number of additional steps by which each step denoises, see ``time_pairs``.
        start: smallest time, in [0, 1); 0 is the label without noise.
        kind: ``ddim`` adds no noise after the first state, ``ddpm`` adds noise in every step.
        accumulate: result of the steps. ``last``: the last step. ``mean``: the mean of the
            probabilities (or values) of all steps. ``released``: the same mean, marked as logits,
            because the authors' code for ADE20K takes the softmax a second time; this makes a
            difference if the outputs of windows or mirror images are averaged.
        seeds: number of noise samples whose results are averaged.
        uncertainty: uncertainty of classes. ``changes``: the fraction of the steps in which the
            class of a pixel changed (figure 3c). ``entropy``: the entropy of the mean probabilities
            of all steps and seeds, divided by its maximum. The uncertainty of values is always
            their standard deviation over all steps and seeds.
        settled: early stopping, for classes only: an image is finished when at most this fraction
            of its pixels, in [0, 1), changed their class in a step. None: run all steps.

    Raises:
        InputError: if a number is out of range.
    """

    steps: int = 3
    time_difference: float = 1.0
    start: float = 0.0
    kind: Literal["ddim", "ddpm"] = "ddim"
    accumulate: Literal["last", "mean", "released"] = "last"
    seeds: int = 1
    uncertainty: Literal["changes", "entropy"] = "changes"
    settled: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are out of range."""
        self.times()
        if self.seeds < 1:
            raise InputError(f"seeds must be at least 1, got {self.seeds}")
        if self.settled is not None and not 0 <= self.settled < 1:
            raise InputError(f"settled must be in [0, 1), got {self.settled:g}")

    def times(self) -> list[tuple[float, float]]:
        """Return, for every step, its time and the time to which its state is denoised."""
        return time_pairs(self.steps, time_difference=self.time_difference, start=self.start)

    def trajectory(
        self,
        noise: AbstractNoise,
        state: State,
        decode: Callable[[State, Time], Maps],
        encode: Callable[[Maps], State],
        normal: Callable[[int], State],
    ) -> Iterator[Maps]:
        """Yield the predicted maps of every step.

        Args:
            noise: noise schedule.
            state: state at time 1, standard normal noise.
            decode: function that predicts maps from a state and its time.
            encode: function that encodes predicted maps as a state.
            normal: function that returns standard normal noise for the step with a number, from 0;
                called for ``ddpm`` only.
        """
        times = self.times()
        for number, pair in enumerate(times):
            now, following = (state.new_full((state.shape[0],), one) for one in pair)
            maps = decode(state, now)
            yield maps
            if number == len(times) - 1:
                return
            if self.kind == "ddim":
                state = ddim_step(noise, state, encode(maps), now, following)
            else:
                drawn = normal(number)
                state = ddpm_step(noise, state, encode(maps), now, following, drawn)


@dataclass(frozen=True)
class SamplingResult:
    """The combined result of all steps and seeds.

    Attributes:
        maps: logits, mean probabilities, or values.
        uncertainty: uncertainty of classes or masks, in [0, 1]; None for values, and for
            ``changes`` after a single step.
        mean: mean of ``values - origin`` over all steps and seeds; None for classes and masks, and
            for a single step with a single seed.
        square: mean of the squares of ``values - origin``.
        origin: number that is subtracted from values, for numerical precision.
        is_probability: whether the maps of classes or masks are probabilities and not logits.
    """

    maps: Maps
    uncertainty: Float[Tensor, "b 1 h w"] | None = None
    mean: Maps | None = None
    square: Maps | None = None
    origin: float = 0.0
    is_probability: bool = False

    def to_output(self, spec: OutputSpec, hw: tuple[int, int]) -> Output:
        """Return the result as the output of a method.

        Args:
            spec: kind and channels of the output.
            hw: height and width of the output.
        """
        maps = resize_maps(self.maps, hw)
        if spec.kind != "values":
            space = "probabilities" if self.is_probability else "logits"
            uncertainty = None if self.uncertainty is None else resize_maps(self.uncertainty, hw)
            kind = Classes if spec.kind == "classes" else Masks
            return kind(maps, space, uncertainty=uncertainty)
        if self.mean is None or self.square is None:
            return Values(maps)
        # interpolate the variance, not the squares: on a slope, these would look like a deviation
        variance = resize_maps((self.square - self.mean.square()).clamp(min=0), hw)
        mean = resize_maps(self.mean, hw)
        origin = maps.new_full((spec.channels,), self.origin)
        return Moments(maps, mean, variance + mean.square(), origin)


class StepAccumulator:
    """Accumulates the steps of a sampler; its memory does not grow with the number of steps.

    The batch of a step has one row per seed and image: all images with the noise of the first seed,
    then all images with the noise of the second seed, and so on.

    Args:
        sampler: options of the sampler.
        images: number of images.
        kind: kind of the maps: logits of classes or masks, or values.
        origin: number that is subtracted from values, for numerical precision.
    """

    def __init__(self, sampler: Sampler, images: int, kind: Kind, origin: float = 0.0) -> None:
        self.sampler = sampler
        self.images = images
        self.kind: Kind = kind
        self.origin = origin
        self._step_count = 0
        self._row_steps: Tensor = torch.zeros(())  # number of steps of every row
        self._is_active: Tensor = torch.ones((), dtype=torch.bool)  # whether a row is unfinished
        self._last: Maps | None = None
        self._mean: Maps | None = None  # mean of probabilities, or of values minus the origin
        self._square: Maps | None = None
        self._classes: Tensor | None = None  # classes of the previous step
        self._changes: Tensor | None = None

    def add(self, maps: Maps) -> bool:
        """Add the maps of a step; return whether any image needs another step."""
        self._step_count += 1
        is_active = self._is_active.to(maps.device).expand(maps.shape[0], 1, 1, 1)
        self._row_steps = self._row_steps.to(maps.device) + is_active
        self._last = maps if self._last is None else torch.where(is_active, maps, self._last)
        options = self.sampler
        if self.kind == "values":
            values = maps.float() - self.origin
            self._mean = self._update_mean(self._mean, values, is_active)
            self._square = self._update_mean(self._square, values.square(), is_active)
            return True
        if options.accumulate != "last" or options.uncertainty == "entropy":
            probability = self._probability(maps.float())
            self._mean = self._update_mean(self._mean, probability, is_active)
        if options.uncertainty == "changes" or options.settled is not None:
            classes = maps.argmax(dim=1, keepdim=True) if self.kind == "classes" else maps > 0
            self._is_active = self._count_changes(classes, is_active)
        # without early stopping the result is not read, so the CPU does not wait for the GPU. An
        # exported graph always runs all steps; they do not change finished rows
        if options.settled is None or torch.compiler.is_exporting():
            return True
        return bool(self._is_active.any())

    def _probability(self, maps: Maps) -> Maps:
        """Return the probabilities of logits of classes or masks."""
        return maps.softmax(dim=1) if self.kind == "classes" else maps.sigmoid()

    def _update_mean(self, mean: Maps | None, values: Maps, is_active: Tensor) -> Maps:
        return values if mean is None else mean + is_active * (values - mean) / self._row_steps

    def _count_changes(self, classes: Tensor, is_active: Tensor) -> Tensor:
        """Count the changes of every pixel; return a mask of the rows that need another step."""
        previous, self._classes = self._classes, classes
        if previous is None:
            return is_active
        has_changed = (classes != previous).any(dim=1, keepdim=True)
        counts = (has_changed & is_active).float()
        self._changes = counts if self._changes is None else self._changes + counts
        if self.sampler.settled is None:
            return is_active
        # an image stays active while one of its seeds does, so that its seeds end together
        is_unsettled = has_changed.float().mean(dim=(1, 2, 3), keepdim=True) > self.sampler.settled
        is_unsettled = is_unsettled.unflatten(0, (-1, self.images)).any(dim=0)
        return is_active & is_unsettled.repeat(self.sampler.seeds, 1, 1, 1)

    def result(self) -> SamplingResult:
        """Return the combined result of all steps and seeds."""
        assert self._last is not None
        is_last = self.sampler.accumulate == "last"
        if self.kind == "values":
            assert self._mean is not None
            assert self._square is not None
            maps = self._average_seeds(self._last if is_last else self._mean + self.origin)
            if self._step_count * self.sampler.seeds == 1:
                return SamplingResult(maps)
            mean, square = self._average_seeds(self._mean), self._average_seeds(self._square)
            return SamplingResult(maps, mean=mean, square=square, origin=self.origin)
        maps = self._last if is_last else self._mean
        assert maps is not None
        is_probability = self.sampler.accumulate == "mean"
        maps = self._average_seeds(maps)
        return SamplingResult(maps, self._uncertainty(), is_probability=is_probability)

    def _uncertainty(self) -> Float[Tensor, "b 1 h w"] | None:
        """Return the uncertainty of classes or masks, see ``Sampler``."""
        if self.sampler.uncertainty == "changes":
            if self._changes is None:
                return None
            return self._average_seeds(self._changes / (self._row_steps - 1))
        assert self._mean is not None
        probability = self._average_seeds(self._mean)
        entropy = torch.special.entr(probability)
        if self.kind == "masks":
            entropy = (entropy + torch.special.entr(1 - probability)) / math.log(2)
            return entropy.mean(dim=1, keepdim=True)
        return entropy.sum(dim=1, keepdim=True) / math.log(probability.shape[1])

    def _average_seeds(self, maps: Float[Tensor, "r k h w"]) -> Maps:
        return maps.unflatten(0, (self.sampler.seeds, self.images)).mean(dim=0)
