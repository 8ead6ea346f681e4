"""Readers that fuzz_readers.py tests: models, checkpoints and backbones.

Every function writes valid files into a folder and returns their readers.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from fuzz_data import Reader
from safetensors.torch import load_file, save_file
from tiny_model import ARCHITECTURE, tiny

from diffsight import assets, hub
from diffsight.backbones import BackboneSource, ClipVision, StableDiffusion, VisionBackbone
from diffsight.cli import show
from diffsight.datasets.base import AbstractDataset, Sample
from diffsight.hub.convert import CONVERTERS
from diffsight.hub.convert.layout import KINDS
from diffsight.inference.generate import load_networks
from diffsight.prompts import Aggregated, TextTable
from diffsight.prompts.encoder import load_text_encoder, load_tokenizer
from diffsight.prompts.text import save_rows, save_table
from diffsight.training import checkpoints, preload
from diffsight.training.state import AdaptState, load_trained_state, trained_state
from diffsight.training.trainer import steps_done
from diffsight.types import Camera
from diffsight.weights import read_checkpoint

RESULT = {
    "protocol": {"name": "rooms-v1"},
    "data": "rooms",
    "plan": "whole image",
    "metrics": {"rmse": 0.5, "delta1": 0.9},
    "baselines": {"constant": {"rmse": 1.0, "delta1": 0.4}},
}
INFO = {
    "training": {"steps": 3, "samples": 2},
    "short_side": 64,
    "results": [RESULT],
    "held_out": {"vpd": 0.5, "constant": 0.9},
    "metric": "rmse",
    "chosen": "vpd",
    "steps": {"vpd": 3},
    "kind": "depth",
    "unit": "m",
    "samples": ["a", "b"],
    "seed": 0,
    "alpha": 1.0,
    "learned_parameters": 1000,
    "variant": {"timestep": 1},
}


def saved_models(root: Path) -> list[Reader]:
    """Return the readers of a saved model, as a folder and as a file."""
    root.mkdir()
    model = tiny()
    maps = {"mean": torch.ones(12, 10), "median": torch.ones(12, 10)}
    for path in (root / "folder", root / "file.safetensors"):
        hub.save(model, path, info=INFO)
        hub.write_baselines(path, maps)

    def described(path: Path) -> Any:
        config = hub.read_config(path if path.suffix == ".safetensors" else path.parent)
        return show.describe(config, str(path))

    def recorded(path: Path) -> Any:
        return hub.record(path if path.suffix == ".safetensors" else path.parent, RESULT)

    def baselines(path: Path) -> Any:
        return hub.read_baselines(path if path.stem == "file" else path.parent)

    rows: list[tuple[str, str, str, Callable[[Path], Any], int]] = [
        ("config.json", "json", "folder/config.json", lambda path: hub.load(path.parent), 6),
        ("config.json, show", "json", "folder/config.json", described, 1),
        ("config.json, record", "json", "folder/config.json", recorded, 1),
        ("weights", "safetensors", "folder/model.safetensors", lambda p: hub.load(p.parent), 6),
        ("baselines", "safetensors", "folder/baselines.safetensors", baselines, 1),
        ("file", "safetensors", "file.safetensors", hub.load, 6),
        ("file, show", "safetensors", "file.safetensors", described, 1),
        ("file, record", "safetensors", "file.safetensors", recorded, 2),
        ("file, baselines", "safetensors", "file.safetensors", baselines, 1),
    ]
    return [Reader(f"saved model: {n}", k, f"saved_models/{p}", r, c) for n, k, p, r, c in rows]


def text_rows(root: Path) -> list[Reader]:
    """Return the readers of tables of text embeddings."""
    root.mkdir()
    save_table(root / "table.safetensors", ["kitchen", "office"], torch.ones(2, 8), "tiny")
    save_rows(root / "rows.safetensors", torch.ones(4, 8), {"source": "tiny"})
    return [
        Reader(
            "text table",
            "safetensors",
            "text_rows/table.safetensors",
            lambda path: TextTable(["kitchen", "office"], dim=8, weights=path),
        ),
        Reader(
            "aggregated prompt",
            "safetensors",
            "text_rows/rows.safetensors",
            lambda path: Aggregated(4, dim=8, weights=path),
        ),
    ]


@dataclasses.dataclass
class One(AbstractDataset):
    """A data set of one black image with a depth of 1 m."""

    name = "one"

    def __len__(self) -> int:
        """Return 1."""
        return 1

    def __getitem__(self, index: int) -> Sample:
        """Return the sample."""
        camera = Camera(20.0, 20.0, 15.0, 12.0)
        label = {"depth_m": torch.ones(1, 24, 30)}
        valid = {"depth_m": torch.ones(24, 30, dtype=torch.bool)}
        image = torch.zeros(3, 24, 30, dtype=torch.uint8)
        return Sample("a", image, label, valid, prompt="kitchen", camera=camera)


def trainings(root: Path) -> list[Reader]:
    """Return the readers of checkpoints of fit and adapt, and of files of samples."""
    root.mkdir()
    model = tiny()
    recipe = {"batch_size": 2, "task": {"class_path": "Depth"}}
    content = {"recipe": recipe, "schedule": {"step": 3}}
    writer = checkpoints.AtomicCheckpoints()
    state = {"state_dict": trained_state(model), "optimizer_states": [{"state": {}}]}
    writer.save_checkpoint({checkpoints.KEY: content, **state}, root / "last.ckpt")
    decisive = {"images": "x"}
    adapted = AdaptState.open(root / "adapt.state", decisive, resume=False)
    adapted.plan = {"vpd": 3}
    adapted.finish("vpd/0", {"trained": trained_state(model), "sums": {"rmse": torch.ones(2)}})
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    adapted.stop("vpd/1", 2, model, optimiser)
    preload.preload(One(), root, label="depth_m")
    (samples,) = root.glob(f"*{preload.SAMPLES}")
    samples.rename(root / "samples")

    def resumed(path: Path) -> Any:
        state = AdaptState.open(path, decisive, resume=True)
        restored = tiny()
        for run in state.runs.values():
            with state.resuming():
                load_trained_state(restored, run["trained"])
        if state.current:
            state.restore(restored, optimiser)

    def done(path: Path) -> Any:
        return steps_done(path.parent, recipe, ["batch_size", "task"])

    return [
        Reader("checkpoint of fit", "torch", "trainings/last.ckpt", done),
        Reader("checkpoint of fit, loaded", "torch", "trainings/last.ckpt", checkpoints.load),
        Reader("state of adapt", "torch", "trainings/adapt.state", resumed, 6),
        Reader("file of samples", "torch", "trainings/samples", preload._load_samples),
    ]


def originals(root: Path) -> list[Reader]:
    """Return the readers of the authors' checkpoints.

    The valid files have a few entries of each kind, which the converter refuses as incomplete.
    """
    root.mkdir()
    shapes = {
        "encoder.class_embeddings": (27, 768),
        "class_embeddings": (150, 768),
        "classifier.conv1_4.weight": (8, 2600, 3, 3),
    }
    rows = []
    for kind, layout in KINDS.items():
        names = [
            f"{sign}weight" if sign.endswith(".") else sign for sign in layout.distinctive_keys
        ]
        state: dict[str, Any] = {name: torch.ones(shapes.get(name, (8, 8, 3, 3))) for name in names}
        if kind == "evp-depth":
            state["encoder.class_embeddings"] = torch.ones(1, 40, 768)
        torch.save({"model": state, "epoch": 3}, root / f"{kind}.pth")
        old = root / f"{kind}.ckpt"
        torch.save({"state_dict": state}, old, _use_new_zipfile_serialization=False)
        save_file(state, root / f"{kind}.safetensors")

        def convert(path: Path, kind: str = kind) -> Any:
            return CONVERTERS[kind](read_checkpoint(path)[0])

        read = convert
        for suffix, form in (("pth", "torch"), ("ckpt", "legacy"), ("safetensors", "safetensors")):
            path = f"originals/{kind}.{suffix}"
            rows.append(Reader(f"convert {kind} .{suffix}", form, path, read, 20))
            if kind == "vpd-depth":
                rows.append(Reader(f"original .{suffix}", form, path, read_checkpoint))
    return rows


def backbones(root: Path) -> list[Reader]:
    """Return the readers of Stable Diffusion folders, and of vision backbones."""
    for folder in (root, root.with_name("pipeline")):
        shutil.copytree(assets.find("tiny"), folder)
    for part, sizes in ARCHITECTURE.items():
        path = root / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **sizes}))
    torch.manual_seed(0)
    network = StableDiffusion(ARCHITECTURE, conv_out=True)
    stem = "diffusion_pytorch_model"
    save_file(network.unet.state_dict(), root / "unet" / f"{stem}.safetensors")
    save_file(network.vae.state_dict(), root / "vae" / f"{stem}.safetensors")
    binary = root.with_name("backbones-bin")
    shutil.copytree(root, binary)
    for part in ("unet", "vae"):
        weights = binary / part / f"{stem}.safetensors"
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
    dino = root.with_name("dino")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    transformers.Dinov2Model(
        transformers.Dinov2Config(**sizes, image_size=32, mlp_ratio=2)
    ).save_pretrained(dino)
    normalised = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}
    (dino / "preprocessor_config.json").write_text(json.dumps(normalised))

    def diffusion(path: Path) -> Any:
        source = BackboneSource(path.parents[1])
        return source.diffusion, source.short_side_px

    def weights(path: Path) -> Any:
        return StableDiffusion(ARCHITECTURE, weights=path.parents[1])

    def vision(path: Path) -> Any:
        source = BackboneSource(path.parent)
        return source.vision, source.short_side_px

    def pipeline(path: Path) -> Any:
        return load_networks(path.parents[1], torch.device("cpu"))

    rows: list[tuple[str, str, Callable[[Path], Any], int]] = [
        ("unet/config.json", "json", diffusion, 6),
        ("vae/config.json", "json", diffusion, 6),
        (f"unet/{stem}.safetensors", "safetensors", weights, 6),
        (f"vae/{stem}.safetensors", "safetensors", weights, 6),
        ("text_encoder/config.json", "json", lambda p: load_text_encoder(p.parents[1]), 6),
        (
            "text_encoder/model.safetensors",
            "safetensors",
            lambda p: load_text_encoder(p.parents[1]),
            6,
        ),
        *(
            (f"tokenizer/{name}", kind, lambda p: load_tokenizer(p.parents[1])("a red room"), 3)
            for name, kind in (
                ("vocab.json", "json"),
                ("merges.txt", "text"),
                ("tokenizer_config.json", "json"),
            )
        ),
        ("image_encoder/config.json", "json", lambda p: ClipVision(p.parents[1]), 6),
        ("image_encoder/model.safetensors", "safetensors", lambda p: ClipVision(p.parents[1]), 6),
        ("image_encoder/preprocessor_config.json", "json", lambda p: ClipVision(p.parents[1]), 3),
    ]
    made = [Reader(f"backbone: {p}", k, f"backbones/{p}", r, c) for p, k, r, c in rows]
    made += [
        Reader(f"backbone: {p}/{stem}.bin", "torch", f"backbones-bin/{p}/{stem}.bin", weights, 6)
        for p in ("unet", "vae")
    ]
    made += [
        Reader(
            "backbone: scheduler", "json", "pipeline/scheduler/scheduler_config.json", pipeline, 8
        ),
        Reader("vision backbone: config.json", "json", "dino/config.json", vision, 6),
        Reader("vision backbone: weights", "safetensors", "dino/model.safetensors", vision, 6),
        Reader("vision backbone: preprocessor", "json", "dino/preprocessor_config.json", vision, 4),
    ]
    return made


def vision_networks(root: Path) -> list[Reader]:
    """Return the readers of constructor calls of networks, as in the file of a saved model."""
    root.mkdir()
    network = {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 1}
    network |= {"num_attention_heads": 2, "patch_size": 8, "image_size": 32}
    normalised = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}
    (root / "vision.json").write_text(json.dumps(network | normalised))
    (root / "diffusion.json").write_text(json.dumps(ARCHITECTURE))

    def built(cls: type, **options: Any) -> Callable[[Path], Any]:
        def read(path: Path) -> Any:
            try:
                data = json.loads(path.read_text())
            except (ValueError, RecursionError):
                return None  # other readers are fuzzed with damaged JSON
            call = {"class_path": cls.__name__, "init_args": {"architecture": data, **options}}
            return hub.construct(cls, call)

        return read

    return [
        Reader(
            "architecture: vision", "call", "vision_networks/vision.json", built(VisionBackbone), 6
        ),
        Reader(
            "architecture: diffusion",
            "call",
            "vision_networks/diffusion.json",
            built(StableDiffusion),
            6,
        ),
    ]


GROUPS = (saved_models, text_rows, trainings, originals, backbones, vision_networks)
