"""Compare methods on held-out images, and train the best one on all images."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffsight.adaptation.calibration import MIN_IMAGES, calibrate, held_out_outputs
from diffsight.adaptation.candidates import Candidate
from diffsight.adaptation.held_out import HeldOut, best_key, report
from diffsight.adaptation.progress import MIN_STEPS, MIN_TIMED_STEPS, Progress, plan_steps
from diffsight.adaptation.verdict import measure_baselines
from diffsight.datasets.base import Sample
from diffsight.errors import InputError, TooLargeError
from diffsight.formats.sizes import MIN_SIDE_PX
from diffsight.methods.base import Variant, count_trainable_parameters
from diffsight.model import DenseModel
from diffsight.ops.memory import give_back_memory, report_out_of_memory
from diffsight.ops.resize import working_hw
from diffsight.outputs import Output
from diffsight.tasks.base import AbstractTask
from diffsight.training.loop import (
    CPU,
    Runtime,
    Views,
    encode,
    few_shot_batches,
    few_shot_losses,
    fit_statistics,
    measure_variants,
    seconds_per_step,
    split_folds,
    target_of,
)
from diffsight.training.resumable import train_resumable
from diffsight.training.state import AdaptState, load_trained_state, trained_state
from diffsight.training.step import TrainingStep
from diffsight.types import Target

FOLDS = 3


@dataclass
class Selection:
    """Candidates that are trained and compared on folds of the same few images.

    Attributes:
        samples: labelled images, in an order that depends on their content alone.
        task: task fitted to the samples.
        candidates: methods on backbones, cheapest first.
        seed: seed of everything random.
        validation: images for the held-out scores, instead of folds of the samples.
        advance: called after every step.
        state: state that is saved to resume.
        compare: whether images are held out; if not, the first candidate is trained on all images.
        mirror: whether mirrored images are training images too.
        runtime: device and precision.
        inspect: called with step, steps and model after every step of the training on all images.
        calibrate: whether a calibration of the best method is stored. From ``MIN_IMAGES`` images
            on, the folds that a single method does not need are trained for it.
        short_side: shorter side in pixels at which held-out images are scored, the largest of all
            candidates.
    """

    samples: Sequence[Sample]
    task: AbstractTask
    candidates: Sequence[Candidate]
    seed: int = 0
    validation: Sequence[Sample] | None = None
    advance: Callable[[Progress], None] = lambda progress: None
    state: AdaptState = field(default_factory=lambda: AdaptState(None, ""))
    compare: bool = True
    mirror: bool = True
    runtime: Runtime = CPU
    inspect: Callable[[int, int, DenseModel], None] | None = None
    calibrate: bool = False
    short_side: int = field(init=False)
    _targets: list[Target] = field(init=False, default_factory=list)
    _encoded: dict[str, list[Views]] = field(init=False, default_factory=dict)
    _held_out: dict[str, list[Views]] = field(init=False, default_factory=dict)
    _seconds: dict[str, float] = field(init=False, default_factory=dict)
    _variants: dict[str, Variant] = field(init=False, default_factory=dict)
    _trained: dict[str, DenseModel] = field(init=False, default_factory=dict)
    _done: float = field(init=False, default=0.0)
    _whole: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        """Set the scoring size to the largest size of the candidates."""
        self.short_side = max(candidate.short_side for candidate in self.candidates)

    @property
    def is_encoded(self) -> bool:
        """Whether all images are encoded for all candidates."""
        return len(self._encoded) == len(self.candidates)

    def folds(self) -> list[tuple[list[int], list[int]]]:
        """Return the folds: up to three, or one if there is a single candidate."""
        folds = self._all_folds()
        return folds[:1] if len(self.candidates) == 1 else folds

    def _all_folds(self) -> list[tuple[list[int], list[int]]]:
        """Return folds that together hold out every image once."""
        ids = [sample.id for sample in self.samples]
        if self.validation is not None:
            return [(list(range(len(ids))), [])]
        different = len(set(ids))
        if different < 2 or not self.compare:
            return []
        return list(split_folds(ids, min(FOLDS, different)))

    def _folds_to_calibrate(self) -> int:
        """Return how many folds are trained for the calibration alone."""
        is_wanted = self.calibrate and self.task.has_prediction_sets
        if not is_wanted or len(self.samples) < MIN_IMAGES:
            return 0
        return len(self._all_folds()) - len(self.folds())

    def plan(self, minutes: float, steps: int | None) -> dict[str, int]:
        """Return the steps of every training, by method; without folds, of the first one alone."""
        if not self.folds():
            self.candidates = self.candidates[:1]
        for candidate in self.candidates:
            self._encode(candidate)
        every, side = (*self.samples, *(self.validation or ())), self.short_side
        sizes = [working_hw(*one.image.shape[-2:], short_side=side) for one in every]
        self._targets = [
            target_of(sample, hw, self.task.label) for sample, hw in zip(every, sizes, strict=True)
        ]
        if steps is not None:
            self.state.plan = {c.name: c.limit(steps) for c in self.candidates}
        if self.state.plan:  # resumed: a new timing would plan other steps
            return self.state.plan
        self._seconds = {c.name: self._time(c) for c in self.candidates}
        most = {c.name: c.settings.max_steps for c in self.candidates}
        self.state.plan = plan_steps(60 * minutes, self._seconds, most, *self._rounds())
        return self.state.plan

    def forecast(self) -> tuple[int, float | None]:
        """Return the number of trainings, and their time in seconds; None for short trainings.

        The final training is counted at the cost of the slowest method.
        """
        folds, final = self._rounds()
        if not self._seconds and max(self.state.plan.values()) >= MIN_TIMED_STEPS:
            self._seconds = {c.name: self._time(c) for c in self.candidates}
        seconds = self._cost() + self._scoring_cost() if self._seconds else None
        return folds * len(self.candidates) + final, seconds

    def largest_side(self) -> int | None:
        """Return the largest smaller size that fits into memory, tried with a few steps.

        Candidates with a smaller size keep it.
        """
        self._encoded.clear()
        self._held_out.clear()
        self._trained.clear()
        side = self.short_side
        multiple = max(self._model(c).method.size_multiple for c in self.candidates)
        while side > max(multiple, MIN_SIDE_PX):
            side = max(multiple, int(side / 2**0.5 // multiple * multiple))
            give_back_memory()
            with contextlib.suppress(TooLargeError), report_out_of_memory(""):
                smaller = [replace(c, short_side=min(side, c.short_side)) for c in self.candidates]
                replace(self, candidates=smaller, state=AdaptState(None, "")).plan(1.0, None)
                return side
        return None

    def run(self) -> DenseModel:
        """Compare the candidates on held-out images, then train the best one on all images.

        Ctrl-C returns the model that is trained so far.
        """
        results = self._hold_out_baselines()
        chosen, interrupted = "", False
        calibration: dict[str, Any] = {}
        self._done, self._whole = 0.0, self._cost()
        try:
            for candidate in self.candidates:
                results |= self._hold_out(candidate)
            scores = {c.name: results[c.name].score for c in self.candidates if c.name in results}
            chosen = best_key(self.task, scores or {self.candidates[0].name: math.nan})
            if self.validation is None:
                self._whole = self._done + self._rounds()[1] * self._cost_of(chosen)
                best = next(c for c in self.candidates if c.name == chosen)
                self._train(best, "all images", self._encoded[chosen])
            if self.calibrate and self.task.has_prediction_sets:
                calibration = calibrate(self.task, self.held_out_outputs(chosen))
        except KeyboardInterrupt:
            interrupted = True
            if not self._trained:
                raise
            self.state.save()  # --resume continues from the last complete step
            chosen = chosen or next(iter(self._trained))
        model = self._trained[chosen]
        if variant := self._variants.get(chosen):
            model.method.use(variant)
        model.info |= {
            **report(self.task, results, chosen),
            "steps": dict(self.state.plan),
            "chosen": chosen,
            "metric": self.task.metric_name,
            "interrupted": interrupted,
            "learned_parameters": count_trainable_parameters(model.method),
            "seed": self.seed,
            "variant": dict(self._variants.get(chosen, {})),
            **({"calibration": calibration} if calibration else {}),
        }
        return model.eval()

    def held_out_outputs(self, chosen: str) -> Iterator[tuple[Output, Target]]:
        """Yield output and label of every held-out image; nothing if some image was never held out.

        Missing folds are trained. The chosen model keeps its weights.
        """
        final, folds, compared = self._trained[chosen], self._all_folds(), len(self.folds())
        if compared + self._folds_to_calibrate() < len(folds):
            return
        outputs = partial(held_out_outputs, variant=self._variants.get(chosen))
        if self.validation is not None:
            held = self._held_out[chosen]
            yield from outputs(final, held=held, targets=self._held([]), runtime=self.runtime)
            return
        candidate = next(c for c in self.candidates if c.name == chosen)
        encoded = self._encoded[chosen]
        for number, (train_on, held_out) in enumerate(folds, start=1):
            is_done, done = number <= compared, self._done
            run = f"fold {number} of {compared if is_done else len(folds)}"
            try:
                self._train(candidate, run, [encoded[i] for i in train_on])
            finally:
                model, self._trained[chosen] = self._trained[chosen], final
            self._done = done if is_done else self._done
            held, targets = [encoded[i] for i in held_out], self._held(held_out)
            yield from outputs(model, held=held, targets=targets, runtime=self.runtime)

    def _hold_out_baselines(self) -> dict[str, HeldOut]:
        """Return the scores of the baselines, by name."""
        sums: dict[str, list[Tensor]] = {}
        for train_on, held_out in self.folds():
            train = [self._targets[i] for i in train_on]
            for name, rows in measure_baselines(self.task, train, self._held(held_out)).items():
                sums.setdefault(name, []).extend(rows)
        return {name: HeldOut.of(self.task, rows) for name, rows in sums.items()}

    def _held(self, held_out: Sequence[int]) -> list[Target]:
        """Return the labels of the held-out images of a fold."""
        return [self._targets[i] for i in held_out] or self._targets[len(self.samples) :]

    def _hold_out(self, candidate: Candidate) -> dict[str, HeldOut]:
        """Train on every fold; return the scores of the best variant by the candidate's name."""
        name, folds, results = candidate.name, self.folds(), []
        for number, (train_on, held_out) in enumerate(folds, start=1):
            some = [self._encoded[name][i] for i in train_on]
            if self.validation is None:
                held = [self._encoded[name][i] for i in held_out]
                run = f"fold {number} of {len(folds)}"
            else:
                held, run = self._held_out[name], "all images"
            results.append(self._train(candidate, run, some, held, self._held(held_out)))
        if not results:
            return {}
        sums = torch.stack([result["sums"] for result in results]).sum(dim=0)
        per_image = torch.cat([result["per_image"] for result in results])
        best = best_key(self.task, dict(enumerate(map(self.task.score, sums))))
        self._variants[name] = self._trained[name].method.variants()[best]
        one = HeldOut(self.task.score(sums[best]), sums[best], per_image[:, best].tolist())
        return {name: one}

    def _train(
        self,
        candidate: Candidate,
        run: str,
        images: Sequence[Views],
        held: Sequence[Views] = (),
        targets: Sequence[Target] = (),
    ) -> Mapping[str, Any]:
        """Train unless it is done; return the trained state and the metric sums over ``held``."""
        name = candidate.name
        key, steps = f"{name}, {run}", self.state.plan[name]
        model = self._model(candidate, images)
        self._trained.setdefault(name, model)  # kept if the training is interrupted
        before = self._done
        self._done += self._cost_of(name)
        if finished := self.state.runs.get(key):
            with self.state.resuming():
                load_trained_state(model, finished["trained"])
            self._trained[name] = model
            return finished
        step = self._step(candidate, model, steps)

        def note(number: int, losses: dict[str, float]) -> None:
            done = before + self._cost_of(name) * number / steps
            self.advance(Progress(key, number, steps, losses, min(1.0, done / self._whole)))
            if self.inspect and run == "all images" and not held:
                self.inspect(number, steps, model)

        batches = partial(few_shot_batches, images, candidate.settings.batch_size, self.seed)
        train_resumable(step, model, batches, self.state, key, self.runtime, note)
        self._trained[name] = model
        try:
            step.require_finite("check the range of the labels, and --invalid")
        except InputError as error:
            self.state.remove()  # nothing to continue from
            raise InputError(f"{name}: {error}") from None
        result: dict[str, Any] = {"trained": trained_state(model)}
        if held:
            rows = measure_variants(model, held, targets, self.runtime)
            scores = [[self.task.score(sums) for sums in variants] for variants in rows]
            result["sums"] = torch.stack(rows).sum(dim=0)
            result["per_image"] = torch.tensor(scores, dtype=torch.float64)
        self.state.finish(key, result)
        return result

    def _model(self, candidate: Candidate, images: Sequence[Views] = ()) -> DenseModel:
        """Return a newly initialised model with the feature statistics of these images."""
        torch.manual_seed(self.seed)
        model = DenseModel(task=candidate.task, method=candidate.builder).to(self.runtime.device)
        candidate.require_parameters(model.method)
        model.info["short_side"] = candidate.short_side
        if images:
            fit_statistics(model, images)
        return model

    def _step(self, candidate: Candidate, model: DenseModel, steps: int) -> TrainingStep:
        return TrainingStep.of_settings(model, few_shot_losses(model), candidate.settings, steps)

    def _time(self, candidate: Candidate) -> float:
        """Return the measured seconds of a training step."""
        images = self._encoded[candidate.name]
        model = self._model(candidate, images)
        step = self._step(candidate, model, MIN_STEPS)
        batches = few_shot_batches(images, candidate.settings.batch_size, 0)
        return seconds_per_step(model, step, batches, self.runtime)

    def _encode(self, candidate: Candidate) -> None:
        """Run the frozen part of a candidate on every image."""
        model = self._model(candidate)
        for store, samples, mirror in (
            (self._encoded, self.samples, self.mirror),
            (self._held_out, self.validation or (), False),
        ):
            store[candidate.name] = [
                encode(model, sample, candidate.short_side, self.runtime, mirror=mirror)
                for sample in samples
            ]

    def _rounds(self) -> tuple[int, int]:
        """Return the number of trainings of every method, and of more of the best method."""
        # with a validation set the held-out training is the final one
        final = 1 if self.validation is None else 0
        return len(self.folds()), final + self._folds_to_calibrate()

    def _cost_of(self, name: str) -> float:
        """Return the cost of one training of a method in seconds, or in steps if none was timed."""
        return self.state.plan[name] * self._seconds.get(name, 1.0)

    def _cost(self) -> float:
        """Return the cost of all trainings."""
        folds, final = self._rounds()
        costs = [self._cost_of(name) for name in self.state.plan]
        return folds * sum(costs) + final * max(costs)

    def _scoring_cost(self) -> float:
        """Return the seconds for scoring held-out images; a forward pass is a third of a step."""
        held = sum(len(held_out) for _, held_out in self.folds())
        held = held if self.validation is None else len(self.validation)
        return math.fsum(
            held * self._seconds[c.name] / (3 * c.settings.batch_size) for c in self.candidates
        )


def select(
    samples: Sequence[Sample],
    task: AbstractTask,
    candidates: Sequence[Candidate],
    *,
    minutes: float = 5.0,
    steps: int | None = None,
    **options: Any,
) -> DenseModel:
    """Return the best candidate, trained on all images.

    Args:
        samples: labelled images.
        task: task fitted to the samples.
        candidates: methods on backbones.
        minutes: rough time of all trainings together.
        steps: steps of every training; replaces ``minutes``.
        options: further attributes of ``Selection``.
    """
    selection = Selection(samples, task, candidates, **options)
    selection.plan(minutes, steps)
    return selection.run()
