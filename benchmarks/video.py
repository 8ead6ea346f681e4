"""Measure ``predict`` on films: time per frame, and flicker with and without smoothing.

A depth model is trained on ten rendered rooms. The first film is a still room with fresh noise in
every frame. It is predicted by ``diffsight predict``, and so are its frames as PNG images; the two
take turns, and ratios are those of the same round. Flicker and error are measured on still rooms,
and on a window that moves over a wider picture of a room, so that the true depth of every frame is
known.

    python benchmarks/video.py [--out runs/video] [--frames 100] [--rounds 3] [--threads 2]
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from reporting import RESULTS, paragraph, say, table, write_block
from torch import Tensor

from diffsight.adaptation.adapt import adapt
from diffsight.datasets.depth import write_depth_png
from diffsight.hub import load, save
from diffsight.inference import Plan, Predictor
from diffsight.inference.smoothing import SmoothedPredictor
from diffsight.inference.video import DEFAULT_UNIT_S as UNIT_S
from diffsight.inference.video import FilmWriter, join_films, read_frames
from diffsight.rooms import Rooms

SHOTS, TRAIN_PX = 10, 128  # rooms that the model is trained on, and their size
NOISE = 10  # standard deviation of the noise in grey levels
HW, WIDE = (480, 640), (240, 480)  # of the timed film; of the picture of the moving window
WINDOW, STEP_PX = (240, 320), 2
SMOOTHINGS = (0.0, 0.5, 0.8, 0.9)
SETTLED = 15  # frames that are not counted, while the average settles
SCENES = 2


class Scene(NamedTuple):
    """A film and its true depth in metres, with the valid pixels."""

    frames: list[Tensor]
    depth_m: list[Tensor]
    valid: list[Tensor]


class Seconds(NamedTuple):
    """Time per frame, and processor time of all threads per frame."""

    wall: float
    processor: float


def train(out: Path, steps: int) -> Path:
    """Return a depth model (a light head on EfficientNet-Lite0) that was trained on ten rooms."""
    path = out / "depth.safetensors"
    if path.exists():
        return path
    images, labels = out / "train" / "images", out / "train" / "depth"
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    rooms = Rooms("val", SHOTS, TRAIN_PX, ("depth_m",))
    for i in range(SHOTS):
        Image.fromarray(rooms[i].image.permute(1, 2, 0).numpy()).save(images / f"{i}.png")
        depth_m, valid = rooms[i].labels["depth_m"][0], rooms[i].valid["depth_m"]
        write_depth_png(labels / f"{i}.png", depth_m, valid)
    options = {"method": "feature_head", "backbone": "efficientnet-lite0", "calibrate": False}
    model = adapt(images, labels, kind="depth", steps=steps, short_side=TRAIN_PX, **options)
    return save(model, path)


def make_noisy(image: Tensor, count: int, seed: int) -> list[Tensor]:
    """Return copies of an image with fresh noise."""
    rng = torch.Generator().manual_seed(seed)
    shape = (count, *image.shape)
    noise = torch.randn(shape, generator=rng) * NOISE
    return list((image.float() + noise).round().clamp(0, 255).to(torch.uint8))


def render(index: int, hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the image, depth and valid pixels of a room of the split ``test``."""
    sample = Rooms("test", index + 1, hw, ("depth_m",))[index]
    return sample.image, sample.labels["depth_m"][0], sample.valid["depth_m"]


def still(index: int, count: int) -> Scene:
    """Return a film of a still room."""
    image, depth_m, valid = render(index, WINDOW)
    return Scene(make_noisy(image, count, index), [depth_m] * count, [valid] * count)


def moving(index: int, count: int) -> Scene:
    """Return a film of a window that moves over the picture of a room, with fresh noise."""
    image, depth_m, valid = render(index, WIDE)
    lefts = [min(STEP_PX * i, WIDE[1] - WINDOW[1]) for i in range(count)]
    views = [slice(left, left + WINDOW[1]) for left in lefts]
    frames = [make_noisy(image[..., v], 1, 1000 * index + i)[0] for i, v in enumerate(views)]
    return Scene(frames, [depth_m[:, v] for v in views], [valid[:, v] for v in views])


def measure_scene(predictor: Predictor, scene: Scene) -> tuple[float, float]:
    """Return the flicker in metres, and the RMSE in metres, over the settled frames."""
    maps = [one.to_label()[0] for one in predictor(scene.frames)]
    pairs = list(zip(maps[SETTLED:], maps[SETTLED + 1 :], strict=False))
    flicker = statistics.mean((b - a).abs().mean().item() for a, b in pairs)
    squares = [
        (one - truth).square()[valid].mean().item()
        for one, truth, valid in zip(maps, scene.depth_m, scene.valid, strict=True)
    ]
    return flicker, statistics.mean(squares[SETTLED:]) ** 0.5


def write_inputs(out: Path, count: int) -> tuple[Path, Path]:
    """Write the timed film, and its frames as images; return both paths."""
    film, images = out / "film" / "still.mp4", out / "images"
    film.parent.mkdir(parents=True, exist_ok=True)
    images.mkdir(exist_ok=True)
    part = out / "still.nut"
    with FilmWriter(part, HW, UNIT_S) as writer:
        for i, frame in enumerate(make_noisy(render(0, HW)[0], count, 0)):
            writer.add(frame, 3600 * i)
    join_films([part], film)
    for i, frame in enumerate(read_frames(film)):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(images / f"{i:06d}.png")
    return film, images


def measure_times(
    model: Path, out: Path, count: int, rounds: int, threads: int
) -> dict[str, list[Seconds]]:
    """Return the seconds per frame of every round: images, film, and smoothed film."""
    film, images = write_inputs(out, count)
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    forms = {
        "images": [str(images)],
        "film": [str(film)],
        "film, smoothing 0.8": [str(film), "--smoothing", "0.8"],
    }
    times: dict[str, list[Seconds]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, arguments in forms.items():
            shutil.rmtree(out / "results", ignore_errors=True)
            base = ["--model", str(model), "--out", str(out / "results"), "--device", "cpu"]
            command = [sys.executable, "-m", "diffsight", "predict", *arguments, *base]
            begin, processor = time.perf_counter(), _processor_seconds()
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=env)
            wall, processor = time.perf_counter() - begin, _processor_seconds() - processor
            times[name].append(Seconds(wall / count, processor / count))
            say(f"{name}: {wall / count:.3f} s a frame, {processor / count:.3f} s of CPU\n")
    return times


def _processor_seconds() -> float:
    """Return the processor time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(
    times: dict[str, list[Seconds]],
    scores: dict[tuple[str, float], tuple[float, float]],
    args: argparse.Namespace,
) -> str:
    """Return the text of the block in docs/results.md."""
    rows = []
    for name in times:
        row = [name]
        for column in (0, 1):
            own, images = ([one[column] for one in times[form]] for form in (name, "images"))
            ratio = statistics.median(a / b for a, b in zip(own, images, strict=True))
            row += [f"{statistics.median(own):.3f}", f"{ratio:.2f}"]
        rows.append(row)
    head = ["`predict` on", "s a frame", "x images", "CPU s a frame", "x images"]
    speed = table(head, rows)
    rows = []
    for smoothing in SMOOTHINGS:
        still_flicker, still_rmse = scores["still", smoothing]
        _, moving_rmse = scores["moving", smoothing]
        plain = scores["still", 0.0][0]
        rows.append(
            [
                f"{smoothing:g}",
                f"{1000 * still_flicker:.1f}",
                f"{still_flicker / plain:.2f}",
                f"{still_rmse:.4f}",
                f"{moving_rmse:.4f}",
            ]
        )
    head = ["smoothing", "flicker, mm", "x none", "RMSE still, m", "RMSE moving, m"]
    size, window = (f"{hw[1]} x {hw[0]} px" for hw in (HW, WINDOW))
    notes = paragraph(
        f"Times: {args.frames} frames of {size}, rounds in turns: {len(times['images'])}, threads: "
        f"{args.threads}, including the loading of the model and all files. Flicker: mean absolute "
        "change of the depth between consecutive frames of a still room with fresh noise "
        f"(standard deviation {NOISE} of 255 grey levels), {SCENES} films of {args.scene_frames} "
        f"frames of {window}. Moving: a window that moves {STEP_PX} px a frame over a wider "
        f"picture of a room. The first {SETTLED} frames are not counted."
    )
    options = f"--frames {args.frames} --scene-frames {args.scene_frames} --rounds {args.rounds}"
    command = f"`python benchmarks/video.py {options} --steps {args.steps}`"
    return f"{speed}\n\n{table(head, rows)}\n\n{notes}\n\n{command}"


def main() -> None:
    """Measure, print the tables, and write them to docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/video"))
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--scene-frames", type=int, default=40, help="frames of the other films")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60, help="steps of the training of the model")
    parser.add_argument("--dry", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = train(args.out, args.steps)
    network = load(model, device="cpu")
    plain = Predictor(network, Plan(short_side=network.info["short_side"]))
    times = measure_times(model, args.out, args.frames, args.rounds, args.threads)
    scores = {}
    films: dict[str, Sequence[Scene]] = {
        "still": [still(i, args.scene_frames) for i in range(SCENES)],
        "moving": [moving(i, args.scene_frames) for i in range(SCENES)],
    }
    for name, scenes in films.items():
        for smoothing in SMOOTHINGS:
            predictor = SmoothedPredictor(plain, smoothing)
            measured = [measure_scene(predictor, scene) for scene in scenes]
            flicker, rmse = (statistics.mean(column) for column in zip(*measured, strict=True))
            scores[name, smoothing] = (flicker, rmse)
            say(f"{name}, smoothing {smoothing}: flicker {flicker:.5f} m, RMSE {rmse:.4f} m\n")
    text = report(times, scores, args)
    say(f"{text}\n")
    if not args.dry:
        write_block(RESULTS, "video", text)


if __name__ == "__main__":
    main()
