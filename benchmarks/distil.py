"""Compare a student of ``diffsight distil`` with its teacher, and with training on labels alone.

    OMP_NUM_THREADS=1 nice -n 5 python benchmarks/distil.py [--write]   # measure, then report
    python benchmarks/distil.py --report [--write]                      # from the kept table

The teacher is the light head on EfficientNet-Lite0, trained by ``adapt`` on ten labelled rooms. The
student learns its predictions of rooms of the split ``train`` without their labels. The third model
is the same small network, trained by ``adapt``'s loop on the ten labelled rooms for as many steps.
All are scored on rooms of the split ``test``. An interrupted call continues where it stopped.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tables
import torch
from PIL import Image
from reporting import RESULTS, claim_folder, paragraph, say, table, write_block, write_json

import diffsight
from diffsight.adaptation.adapt import adapt
from diffsight.adaptation.candidates import candidates
from diffsight.adaptation.distil import STATE, Distillation
from diffsight.adaptation.options import DistilOptions
from diffsight.adaptation.selection import Selection
from diffsight.atomic import replacing
from diffsight.backbones import BackboneSource
from diffsight.datasets.depth import write_depth_png
from diffsight.datasets.files import read_image
from diffsight.datasets.labelled_folder import read_labelled_folder
from diffsight.datasets.labels import LabelFormat
from diffsight.inference.api import open_labelled_folder
from diffsight.inference.baselines import compute_baselines
from diffsight.inference.evaluate import evaluate
from diffsight.model import DenseModel
from diffsight.rooms import Rooms
from diffsight.training.state import AdaptState

TABLE = tables.TABLES / "distil.csv"
BACKBONE = "efficientnet-lite0"
SIDE_PX, SHOTS, TEACHER_STEPS, TIMED = 128, 10, 150, 20
TEACHER, STUDENT, LABELS = "teacher", "student", "labels alone"
BASELINE = "mean map"
TITLES = {
    TEACHER: "teacher: `feature_head` on `efficientnet-lite0`, 10 labels",
    STUDENT: "student: `small_unet`, predictions for {unlabelled} rooms",
    LABELS: "`small_unet`, 10 labels alone",
    BASELINE: "mean map of the 10 labels",
}
METRICS = ("RMSE, m", "AbsRel", "d1")


def render(out: Path, split: str, count: int) -> tuple[Path, Path]:
    """Render the rooms that are not there yet; return the folders of images and depth maps."""
    images, depths = out / split / "images", out / split / "depth"
    for folder in (images, depths):
        folder.mkdir(parents=True, exist_ok=True)
    rooms = Rooms(split, count, SIDE_PX, ("depth_m",))
    for i in range(count):
        path = images / f"room{i:04d}.png"
        if path.is_file():
            continue
        room = rooms[i]
        write_depth_png(depths / path.name, room.labels["depth_m"][0], room.valid["depth_m"])
        with replacing(path) as partial:
            Image.fromarray(room.image.permute(1, 2, 0).numpy()).save(partial, format="PNG")
    return images, depths


def train_teacher(out: Path, args: argparse.Namespace) -> DenseModel:
    """Return the light head, trained on the labelled rooms."""
    images, depths = render(out, "val", SHOTS)
    options = {"method": "feature_head", "backbone": BACKBONE, "steps": TEACHER_STEPS}
    return adapt(images, depths, kind="depth", **options, seed=args.seed, calibrate=False)


def train_student(out: Path, args: argparse.Namespace) -> DenseModel:
    """Return the student of the stored teacher."""
    images, _ = render(out, "train", args.unlabelled)
    state = out / "student.resume"
    options = DistilOptions(
        steps=args.steps,
        short_side=SIDE_PX,
        seed=args.seed,
        state=state,
        resume=(state / STATE).is_file(),
    )
    paths = sorted(images.glob("*.png"))[: args.unlabelled]
    run = Distillation(diffsight.load(_path(out, TEACHER)), paths, options)
    run.predict()
    say(f"{run.forecast() / 60:.0f} minutes for {args.steps} steps\n")
    return run.train(_progress(args.steps))


def train_on_labels(out: Path, args: argparse.Namespace) -> DenseModel:
    """Return the network of the student, trained on the labelled rooms alone."""
    folder = read_labelled_folder(*render(out, "val", SHOTS), LabelFormat("depth"))
    task = diffsight.load(_path(out, TEACHER)).task
    source = BackboneSource(f"{BACKBONE}@{SIDE_PX}")  # only its size is used
    pairs = candidates(["small_unet"], [source], lambda **options: task)
    path = out / "labels.resume"
    state = AdaptState.open(path, {"steps": args.steps, "seed": args.seed}, path.is_file())
    advance = _progress(args.steps)
    selection = Selection(
        folder.samples,
        task,
        pairs,
        seed=args.seed,
        compare=False,
        state=state,
        advance=lambda progress: advance(progress.step, progress.losses),
    )
    selection.plan(1.0, args.steps)
    return selection.run()


def _progress(steps: int) -> Callable[[int, Mapping[str, float]], None]:
    def advance(step: int, losses: Mapping[str, float]) -> None:
        if step % 100 == 0 or step == steps:
            say(f"step {step} of {steps}, loss {losses['loss']:.3f}\n")

    return advance


def measure(out: Path, args: argparse.Namespace) -> None:
    """Train and score the models that are not stored in ``out`` yet."""
    settings = {"side_px": SIDE_PX, "shots": SHOTS, "backbone": BACKBONE}
    claim_folder(out, settings | {k: getattr(args, k) for k in ("unlabelled", "steps", "seed")})
    images, depths = render(out, "test", args.tests)
    trainings = {TEACHER: train_teacher, STUDENT: train_student, LABELS: train_on_labels}
    for name, train in trainings.items():
        if not _path(out, name).is_file():
            say(f"{name}\n")
            diffsight.save(train(out, args), _path(out, name))
    models = {name: diffsight.load(_path(out, name)) for name in trainings}
    seconds = time_models(models, sorted(images.glob("*.png"))[:TIMED])
    for name, model in models.items():
        scores = diffsight.evaluate(model, images=images, labels=depths, device="cpu").scores
        unit: dict[str, Any] = {"metrics": scores["model"], "seconds": seconds[name]}
        unit["parameters"] = sum(p.numel() for p in model.parameters())
        unit["bytes"] = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
        if name == STUDENT:
            unit["agreement"] = model.info["teacher"]["agreement"]
        write_json(_unit(out, name), unit)
    teacher = models[TEACHER]
    train = read_labelled_folder(*render(out, "val", SHOTS), LabelFormat("depth"))
    baselines = compute_baselines(train, teacher.task)
    tests = open_labelled_folder(teacher, images, depths)
    predictor = diffsight.pipeline(teacher).predictor
    every = evaluate(predictor, tests, None, baselines=baselines).scores
    write_json(_unit(out, BASELINE), {"metrics": every[BASELINE]})


def time_models(models: Mapping[str, DenseModel], images: Sequence[Path]) -> dict[str, float]:
    """Return the median seconds of a prediction of each model; the models take turns."""
    pipelines = {name: diffsight.pipeline(model, device="cpu") for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for image in map(read_image, [images[0], *images]):
        for name, predict in pipelines.items():
            begin = time.perf_counter()
            predict(image)
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(rows[1:]) for name, rows in seconds.items()}


def _path(out: Path, name: str) -> Path:
    return out / f"{name.replace(' ', '_')}.safetensors"


def _unit(out: Path, name: str) -> Path:
    return out / f"{name.replace(' ', '_')}.json"


def report(units: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of the results page."""
    rows = []
    for name, title in TITLES.items():
        unit = units[name.replace(" ", "_")]
        metrics = unit["metrics"]
        cells = [f"{metrics[key]:.3f}" if key in metrics else "" for key in METRICS]
        costs = ["", "", ""]
        if "bytes" in unit:
            costs = [f"{unit['parameters'] / 1e6:.2f} million", f"{unit['bytes'] / 1e6:.1f} MB"]
            costs.append(f"{1000 * unit['seconds']:.0f} ms")
        rows.append([title.format(**units["student"]["settings"]), *cells, *costs])
    head = ["rooms, depth", *METRICS, "parameters", "weights", "per image"]
    error = {name: units[name]["metrics"][METRICS[0]] for name in (TEACHER, STUDENT)}
    change = 100 * (error[STUDENT] / error[TEACHER] - 1)
    agreement = units["student"]["agreement"][METRICS[0]]
    side = "above" if change > 0 else "below"
    text = f"The RMSE of the student is {abs(change):.1f} % {side} that of its teacher. On rooms "
    text += f"without labels that were held out, the two differ by {agreement:.3f} m (RMSE)."
    command = "`python benchmarks/distil.py --report --write`"
    return f"{table(head, rows)}\n\n{paragraph(text)}\n\n{command}"


def main() -> None:
    """Measure, keep the table, and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--unlabelled", type=int, default=400, help="rooms without labels")
    parser.add_argument("--tests", type=int, default=80, help="test rooms")
    parser.add_argument("--steps", type=int, default=1000, help="steps of both small networks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/distil"), help="working folder")
    parser.add_argument("--report", action="store_true", help="measure nothing: read the table")
    parser.add_argument("--write", action="store_true", help="write the block of docs/results.md")
    args = parser.parse_args()
    if not args.report:
        torch.set_num_threads(1)
        measure(args.out, args)
        tables.pack(args.out, TABLE)
    text = report(tables.read(TABLE))
    say(text + "\n")
    if args.write:
        write_block(RESULTS, "distil", text)


if __name__ == "__main__":
    main()
