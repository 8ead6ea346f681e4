"""Record the numbers that a refactoring must not change, and compare two records.

    python benchmarks/record_numbers.py --out record.json              # all cases
    python benchmarks/record_numbers.py --out new.json --against benchmarks/tables/record.json

Each case runs the public interface with one thread: ten training steps of five rooms recipes with
``evaluate``, 20 steps of ``adapt`` for every kind of labels and two methods, ``predict`` with each
model, and the table of ``diffsight demo``. Tensors are hashed by dtype, shape and bytes, without
their names, so that a renamed parameter does not change the record. Sums are rounded differently on
another processor: the record names its own, and on another one the older code must be recorded too.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(
    OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1"
)

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

torch.set_num_threads(1)
RECIPES = ("vpd_depth", "vpd_semantic", "vpd_referring", "evp_depth", "evp_referring")
SENTENCE = {"vpd_referring", "evp_referring", "evp_depth"}
METHODS = ("few_shot", "feature_head")
KINDS = {
    "segmentation": "semantic",
    "depth": "depth_m",
    "scalar": "reshading",
    "normals": "normals",
    "vector": "principal_curvature_per_m",
}
FIT_STEPS, ADAPT_STEPS = 10, 20
SHOTS, SIZE_PX = 4, 64


def digest(values: Tensor | np.ndarray) -> str:
    """Return a hash of the dtype, the shape and the bytes of an array, 16 hex digits."""
    array = values.detach().cpu().contiguous() if isinstance(values, Tensor) else values
    if isinstance(array, Tensor):
        array = array.reshape(array.shape).view(torch.uint8) if array.ndim else array[None]
        array = array.numpy()
    head = f"{values.dtype} {tuple(values.shape)}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def diffsight(*arguments: str | Path | int) -> str:
    """Run a command line and return its standard output.

    Raises:
        RuntimeError: if the command fails, with its output.
    """
    command = [sys.executable, "-m", "diffsight", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def files(folder: Path) -> dict[str, str]:
    """Return the hashes of all arrays and pictures below a folder, by file name."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".npy":
            hashes[path.name] = digest(np.load(path))
        elif path.suffix == ".png":
            with Image.open(path) as image:
                hashes[path.name] = digest(np.array(image))
    return hashes


def fit_case(name: str, work: Path) -> dict[str, Any]:
    """Train a recipe for ten steps, predict and evaluate; return the recorded numbers."""
    out = work / name
    diffsight(
        *("fit", "--recipe", f"rooms/{name}", "--out", out, "--steps", FIT_STEPS),
        *("--train.count", 24, "--val.count", 6, "--batch_size", 4, "--preload", 0),
        *("--checkpoint_every", FIT_STEPS, "--validate_every", FIT_STEPS, "--device", "cpu"),
    )
    with (out / "metrics.csv").open(newline="") as file:
        losses = [row[2] for row in csv.reader(file) if row[1].startswith("train/loss")]
        file.seek(0)
        scores = {row[1]: row[2] for row in csv.reader(file) if row[1].startswith("val/")}
    sentence = ("--expression", "a red chair") if name in SENTENCE else ()
    photos = work / "depth" / "images"
    diffsight("predict", photos, "--model", out / "model", "--out", out / "p", *sentence)
    flipped = ("--flip", "--windows", 2, "--short-side", 48)
    diffsight("predict", photos, "--model", out / "model", "--out", out / "q", *sentence, *flipped)
    protocol = {"d": "rooms-v1", "s": "classes-v1", "r": "sentences-v1"}[name.split("_")[1][0]]
    report = diffsight(
        *("evaluate", "--model", out / "model", "--protocol", protocol, "--limit", 4, "--json"),
        *("--recipe", out / "recipe.yaml"),
    )
    measures = json.loads(report[report.index("{") :])["metrics"]
    tensors = load_file(out / "model" / "model.safetensors").values()
    return {
        "losses": losses,
        "scores": scores,
        "tensors": sorted({digest(value) for value in tensors}),
        "predict": files(out / "p"),
        "predict views": files(out / "q"),
        "evaluate": measures,
    }


def write_examples(kind: str, folder: Path) -> None:
    """Write a few rooms and their labels into a folder, in the file formats of ``adapt``."""
    from diffsight.datasets.depth import write_depth_png
    from diffsight.rooms import Rooms

    rooms = Rooms("val", SHOTS, SIZE_PX, (KINDS[kind],))
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for i in range(SHOTS):
        sample = rooms[i]
        label, valid = sample.labels[KINDS[kind]], sample.valid[KINDS[kind]]
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(folder / f"images/r{i}.png")
        target = folder / "labels" / f"r{i}"
        if kind == "segmentation":
            Image.fromarray(label.numpy().astype(np.uint8)).save(target.with_suffix(".png"))
        elif kind == "depth":
            write_depth_png(target.with_suffix(".png"), label[0], valid)
        else:
            values = torch.where(valid, label, torch.nan).movedim(0, -1).numpy()
            values = values[..., :2] if kind == "vector" else values
            np.save(target.with_suffix(".npy"), values[..., 0] if kind == "scalar" else values)


def adapt_case(kind: str, method: str, work: Path) -> dict[str, Any]:
    """Adapt a model for twenty steps and predict; return the recorded numbers."""
    import diffsight as library

    folder, losses = work / kind, []
    model = library.adapt(
        folder / "images",
        folder / "labels",
        kind=kind,
        method=method,
        backbone="tiny",
        steps=ADAPT_STEPS,
        advance=lambda progress: losses.append(
            {name: f"{value:.9g}" for name, value in progress.losses.items()}
        ),
    )
    path = work / f"{kind}_{method}.safetensors"
    library.save(model, path)
    out = work / f"{kind}_{method}"
    diffsight("predict", folder / "images", "--model", path, "--out", out / "p")
    views = ("--flip", "--windows", 2, "--short-side", 96)
    diffsight("predict", folder / "images", "--model", path, "--out", out / "q", *views)
    ensemble = ("--ensemble-size", 2) if model.method.uses_noise else ()
    diffsight("predict", folder / "images", "--model", path, "--out", out / "e", *ensemble)
    return {
        "losses": losses,
        "held out": {name: f"{value:.12g}" for name, value in model.info["held_out"].items()},
        "tensors": sorted({digest(value) for value in load_file(path).values()}),
        "predict": files(out / "p"),
        "predict views": files(out / "q"),
        "predict noises": files(out / "e"),
    }


def demo_case(work: Path) -> dict[str, Any]:
    """Run the demo; return the scores of its table and the hashes of its files."""
    text = diffsight("demo", "--out", work / "demo", "--steps", ADAPT_STEPS)
    rows = [line.split() for line in text.splitlines() if "│" in line]
    return {"table": [row[-2] for row in rows], "files": files(work / "demo")}


def compare(new: Any, old: Any, path: str = "") -> list[str]:
    """Return a line for every difference between two records.

    Args:
        new: record, or a part of it.
        old: record to compare with, or the same part of it.
        path: keys that lead to the part, joined by "/".
    """
    if isinstance(new, dict) and isinstance(old, dict):
        lines = [f"{path}/{key}: only in one record" for key in new.keys() ^ old.keys()]
        for key in new.keys() & old.keys():
            lines += compare(new[key], old[key], f"{path}/{key}")
        return sorted(lines)
    if path.endswith("/tensors"):
        gone, added = set(old) - set(new), set(new) - set(old)
        return [f"{path}: {len(gone)} gone, {len(added)} new of {len(old)}"] if gone | added else []
    return [] if new == old else [f"{path}: {str(old)[:90]} -> {str(new)[:90]}"]


def machine() -> dict[str, str]:
    """Return what the last digits depend on: the processor, its instructions, and PyTorch."""
    text = Path("/proc/cpuinfo").read_text()
    fields = dict(
        line.replace("\t", "").split(": ", 1) for line in text.splitlines() if ": " in line
    )
    names = ("model name", "cpu family", "model")
    return {name: fields.get(name, "") for name in names} | {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Run all cases, or those that ``--only`` selects."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write the record to")
    parser.add_argument("--against", type=Path, help="older record to compare with")
    parser.add_argument("--only", default="", help="run the cases whose name has this text")
    parser.add_argument("--work", type=Path, help="folder for all files (default: temporary)")
    args = parser.parse_args()
    record: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        for kind in KINDS:
            write_examples(kind, work / kind)
        cases = {f"fit {name}": (fit_case, name) for name in RECIPES}
        cases |= {f"adapt {k} {m}": (adapt_case, k, m) for k in KINDS for m in METHODS}
        cases["demo"] = (demo_case,)
        for name, (run, *arguments) in cases.items():
            if args.only in name:
                record[name] = run(*arguments, work)
                sys.stderr.write(f"{name}\n")
    args.out.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    if args.against:
        old = json.loads(args.against.read_text())
        old = {name: value for name, value in old.items() if name in record}
        lines = compare(record, old)
        sys.stdout.write("\n".join([*lines, f"{len(lines)} differences"]) + "\n")


if __name__ == "__main__":
    main()
