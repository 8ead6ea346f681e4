"""``distil``: train a small network on the predictions of a model for unlabelled images.

The model is the teacher, the small network the student (Hinton et al., 2015). The teacher runs once
per image. The student learns its probabilities of classes or bins, and with them its uncertainty.
Some of the images are held out, to measure how well the student agrees with the teacher.
"""

import copy
import hashlib
import logging
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from diffsight.adaptation.options import DistilOptions
from diffsight.adaptation.teacher_outputs import (
    PIXEL_STEP,
    StudentBatch,
    read_whole,
    training_batches,
    write_output,
)
from diffsight.datasets.files import read_image
from diffsight.datasets.pairs import content_hash
from diffsight.errors import InputError, suggest
from diffsight.hub import fingerprint
from diffsight.hub.save import describe
from diffsight.methods import SmallUNet
from diffsight.methods.base import count_trainable_parameters
from diffsight.model import DenseModel, choose_output
from diffsight.ops.device import mixed_dtype
from diffsight.ops.memory import keep_freed_memory, report_out_of_memory
from diffsight.training.loop import Runtime, seconds_per_step
from diffsight.training.resumable import train_resumable
from diffsight.training.state import AdaptState
from diffsight.training.step import TrainingStep

HELD_OUT = 10  # every tenth image is held out
STATE = "training.ckpt"  # file in the folder of the state
RUN = "student"  # name of the training in it
_OUTPUT = re.compile(r"[0-9a-f]{64}\.safetensors")  # name of the teacher's output for an image
# what the info of a teacher says of its student
KEPT = (
    *("kind", "unit", "license", "datasets", "base_weights"),
    *("label_unit", "label_invalid", "mirror"),
)
SMALLER = "choose a smaller --short-side, smaller images, or --device cpu"
log = logging.getLogger(__name__)


def distil(
    teacher: DenseModel,
    images: Sequence[Path],
    *,
    advance: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None,
    **options: Any,
) -> DenseModel:
    """Return a small network that is trained on the predictions of a model.

    It has the task of the model, with its unit and classes, and is saved, evaluated and run like
    every other model. ``info["teacher"]`` names the model, ``info["training"]`` has the agreement.

    Args:
        teacher: model whose predictions are learned; it is used on its device, and set to
            evaluation mode.
        images: image files without labels. Files that cannot be read are left out and logged.
        advance: called after every step of the training with the number of finished steps and the
            losses by name.
        options: fields of ``DistilOptions``.

    Raises:
        InputError: if the model cannot be a teacher, an option cannot be used, or no image can be
            read.
    """
    names = [field.name for field in fields(DistilOptions)]
    for name in options:
        if name not in names:
            raise InputError(f"unknown option {name!r}: {suggest(name, names)}")
    settings = DistilOptions(**options)
    scratch = tempfile.TemporaryDirectory() if settings.state is None else nullcontext()
    with scratch as folder:
        settings = replace(settings, state=settings.state or Path(str(folder)))
        distillation = Distillation(teacher, images, settings)
        distillation.predict()
        for error in distillation.errors.values():
            log.warning("%s", error)
        return distillation.train(advance)


@dataclass
class Distillation:
    """A teacher, its outputs for unlabelled images, and the training of its student.

    Attributes:
        teacher: model whose predictions are learned.
        images: image files.
        options: options; ``state`` is a folder.
        paths: images with different contents, by the hash of their file.
        errors: reasons why images cannot be used, by path.

    Raises:
        InputError: if the model cannot be a teacher, there is no image, or ``state`` belongs to
            another training.
    """

    teacher: DenseModel
    images: Sequence[Path]
    options: DistilOptions
    paths: dict[str, Path] = field(init=False, default_factory=dict)
    errors: dict[Path, str] = field(init=False, default_factory=dict)
    _files: list[Path] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Check the teacher, hash the images, and open the state."""
        check_teacher(self.teacher)
        keep_freed_memory()
        self.spec = choose_output(self.teacher.task, SmallUNet)
        own = self.teacher.info.get("short_side")
        side = self.options.short_side or own
        if side is None:
            raise InputError(
                "the model does not record the size of its training images: give --short-side"
            )
        self.side, self.teacher_side = side, own or side
        device = next(self.teacher.parameters()).device
        self.runtime = Runtime(device, mixed_dtype(self.options.dtype))
        if self.runtime.dtype is torch.float16:
            raise InputError("distil does not scale its loss, which float16 needs: choose bfloat16")
        hashes: dict[str, Path] = {}
        for path in self.images:
            try:
                hashes.setdefault(content_hash(path), path)
            except InputError as error:
                self.errors[path] = str(error)
        self.paths = dict(sorted(hashes.items()))
        assert self.options.state is not None
        options, path = self.options, self.options.state / STATE
        decisive = {
            "teacher": self.fingerprint,
            "images": [*self.paths],
            "settings": [options.steps, options.batch_size, side, options.seed],
            "runtime": [str(device), str(options.dtype)],
        }
        self.state = AdaptState.open(path, decisive, options.resume)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.state.save()

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the teacher's tensors, as stored with a saved model."""
        return self.teacher.info.get("fingerprint") or fingerprint(
            self.teacher.state_dict().items()
        )

    def predict(self, advance: Callable[[], None] = lambda: None) -> None:
        """Run the teacher on every image whose output is not stored yet.

        Args:
            advance: called after every image.

        Raises:
            InputError: if no image can be read, or an output cannot be written.
        """
        self.teacher.eval()
        self._files = []
        sides = {"teacher_side": self.teacher_side, "student_side": self.side}
        for number, path in self.paths.items():
            key = f"{self.fingerprint} {number} {sides}"
            file = self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
            if not file.is_file():
                try:
                    image = read_image(path)
                except InputError as error:
                    self.errors[path] = str(error)
                    advance()
                    continue
                advice = f"{path}: not enough memory on {self.runtime.device}"
                try:
                    with report_out_of_memory(f"{advice}: {SMALLER}"):
                        seed = int(number[:15], 16)
                        write_output(self.teacher, self.spec, image, file, **sides, seed=seed)
                except InputError:
                    if not _outputs(self._folder):
                        self.remove_state()  # nothing to continue from
                    raise
            self._files.append(file)
            advance()
        if not self._files:
            self.remove_state()
            raise InputError(next(iter(self.errors.values()), "there is no image: give some"))

    @property
    def _folder(self) -> Path:
        assert self.options.state is not None
        return self.options.state

    @property
    def held_out(self) -> list[Path]:
        """Files of the held-out images; none if there is only one image."""
        return self._files[::HELD_OUT] if len(self._files) > 1 else []

    @property
    def trained_on(self) -> list[Path]:
        """Files of the images that the student is trained on."""
        held = {*self.held_out}
        return [file for file in self._files if file not in held]

    @property
    def steps_done(self) -> int:
        """Number of steps that an interrupted training has finished."""
        return int(self.state.current.get("step", 0))

    def remove_state(self) -> None:
        """Delete the files of this training, and their folder if nothing else is in it."""
        remove_files(self._folder)

    def forecast(self) -> float:
        """Return the seconds of the remaining steps, measured on a few of them."""
        model = self._student()
        batches = self._batches(0)
        step_s = seconds_per_step(model, self._step(model), batches, self.runtime)
        return (self.options.steps - self.steps_done) * step_s

    def train(
        self, advance: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None
    ) -> DenseModel:
        """Train the student from the last saved step on, and return it on the CPU.

        Args:
            advance: called after every step with the number of finished steps and the losses.

        Raises:
            InputError: if the training diverges, or a stored output is damaged.
            KeyboardInterrupt: after Ctrl-C, when the current step is finished and saved.
        """
        model = self._student()
        step = self._step(model)
        with report_out_of_memory(
            f"{self.runtime.device} has not enough memory: choose a smaller --batch-size or "
            "--short-side"
        ):
            train_resumable(step, model, self._batches, self.state, RUN, self.runtime, advance)
        try:
            step.require_finite("check the teacher's values")
        except InputError:
            self.remove_state()  # nothing to continue from
            raise
        model.info |= self._facts(self._agreement(model), model)
        model.baselines = dict(self.teacher.baselines)
        return model.to("cpu").eval()

    def _student(self) -> DenseModel:
        torch.manual_seed(self.options.seed)
        task = copy.deepcopy(self.teacher.task)
        return DenseModel(task=task, method=SmallUNet).to(self.runtime.device)

    def _step(self, model: DenseModel) -> TrainingStep:
        network = cast(SmallUNet, model.method)

        def losses(batch: StudentBatch) -> dict[str, Tensor]:
            output = batch.run(network)
            return model.task.loss(output, batch.target, batch.soft_labels)

        settings = SmallUNet.few_shot_defaults()
        return TrainingStep.of_settings(model, losses, settings, self.options.steps)

    def _batches(self, start: int) -> Iterator[StudentBatch]:
        """Yield the batches from the step ``start`` on."""
        files, size, seed = self.trained_on, self.options.batch_size, self.options.seed
        for batch in training_batches(files, self._window, size, seed, start=start):
            yield batch.to(self.runtime.device)

    @cached_property
    def _window(self) -> tuple[int, int]:
        """Height and width of the largest window that all training images have."""
        sizes = [read_whole(file).inputs.image.shape[-2:] for file in self.trained_on]
        height, width = (
            min(sides) // PIXEL_STEP * PIXEL_STEP for sides in zip(*sizes, strict=True)
        )
        return height, width

    @torch.no_grad()
    def _agreement(self, model: DenseModel) -> dict[str, float]:
        """Return the metrics of the student against the teacher on held-out images."""
        sums: list[Tensor] = []
        for file in self.held_out:
            batch = read_whole(file).to(self.runtime.device)
            label = model.task.to_label(batch.run(cast(SmallUNet, model.method)))
            sums.append(model.task.measure(label, batch.target))
        figures = model.task.figures(torch.stack(sums).sum(dim=0)) if sums else {}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def _facts(self, agreement: Mapping[str, float], model: DenseModel) -> dict[str, Any]:
        """Return what is saved with the student."""
        info = describe(self.teacher, {}, {})["info"]
        kept = {name: info[name] for name in KEPT if info.get(name) is not None}
        name, metric = type(self.teacher.method).__name__, model.task.metric_name
        training: dict[str, Any] = {
            "teacher": f"{name} {self.fingerprint[:12]}",
            "unlabelled images": len(self.trained_on),
            "held-out images": len(self.held_out),
            "steps": self.options.steps,
        }
        if metric in agreement:
            training[f"agreement with the teacher ({metric})"] = round(agreement[metric], 4)
        return {
            **kept,
            "short_side": self.side,
            "seed": self.options.seed,
            "learned_parameters": count_trainable_parameters(model.method),
            "training": training,
            "teacher": {
                "method": name,
                "fingerprint": self.fingerprint,
                "license": info.get("license") or "not stated",
                "agreement": dict(agreement),
            },
        }


def remove_files(folder: Path) -> None:
    """Delete the files of an interrupted training, and their folder if nothing else is in it."""
    (folder / STATE).unlink(missing_ok=True)
    for file in _outputs(folder):
        file.unlink(missing_ok=True)
    with suppress(OSError):  # it has other files
        folder.rmdir()


def _outputs(folder: Path) -> list[Path]:
    """Return the stored outputs of a teacher, also those for images that are gone."""
    return [one for one in folder.iterdir() if _OUTPUT.fullmatch(one.name)]


def check_teacher(teacher: DenseModel) -> None:
    """Refuse a model whose predictions a student cannot learn.

    Raises:
        InputError: if the model reads sentences or several cameras, or predicts joints.
    """
    task = type(teacher.task).__name__
    repair = "give a model for depth, classes, normals or other values"
    if teacher.requires_prompt:
        raise InputError(
            f"the model needs a sentence for every image, a student reads none: {repair}"
        )
    if teacher.reads_rig:
        raise InputError(f"{task} reads several cameras, a student one image: {repair}")
    if teacher.task.has_regions:
        raise InputError(f"{task} needs boxes of people, a student reads none: {repair}")
