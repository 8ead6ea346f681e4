"""Check that samples of a text-to-image model show what their prompts name.

A small U-Net, the "finder", is trained on renders of the split ``train`` to predict the kind of
thing and its colour at every pixel. It finds "a red sofa" in a picture if the highest probabilities
of "sofa and red" exceed a threshold. The threshold is chosen such that a red sofa is also found in
5 % of the renders of ``val`` that show none. Each prompt names one coloured object, the largest one
in the caption of a room of ``test``.

The table has the percentage of pictures in which the object is found: in samples of the prompts, in
the renders from which the prompts were taken (the expectation for a perfect model), in renders
without the object, and in samples of other prompts. It also has the PSNR of the autoencoder and the
retrieval accuracy of CLIP.

    python benchmarks/generation_check.py --model tiny [--size 128] [--skip-samples]
"""

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labelled_rooms import Grid
from pretrained import fingerprint, folder_of
from probing import RGBUNet, Schedule
from reporting import RESULTS, say, table, write_block
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from diffsight.atomic import replacing
from diffsight.errors import InputError
from diffsight.rooms import CLASSES
from diffsight.rooms.labels import Geometry
from diffsight.rooms.language import article, caption, look_around, noun, phrase
from diffsight.rooms.materials import COLOURS
from diffsight.rooms.render import add_noise, render_clean
from diffsight.rooms.scene import sample_scene
from diffsight.rooms.world import Thing

NAMES = tuple(COLOURS)
NO_COLOUR = len(NAMES)
FALSE_ALARMS = 0.05
# fraction of the pixels whose highest probabilities are averaged; 12 of 64 x 64
BEST_PIXELS = 1 / 340
WIDTH, BATCH, RATE = 16, 16, 2e-3
Pair = tuple[int, int]


@dataclass(frozen=True)
class Room:
    """A render and its contents.

    Attributes:
        image: RGB, ``3 h w`` of uint8.
        kind: index into ``CLASSES`` of every pixel, ``h w`` of uint8.
        colour: index into ``NAMES`` of every pixel, or ``NO_COLOUR``, ``h w`` of uint8.
        pairs: kind and colour of all coloured objects in view, however small.
        caption: caption of the room.
        prompt: the room type and the largest coloured object of the caption; empty if the caption
            names no coloured object.
        wanted: kind and colour of the object in the prompt.
    """

    image: np.ndarray
    kind: np.ndarray
    colour: np.ndarray
    pairs: frozenset[Pair]
    caption: str
    prompt: str
    wanted: Pair


def render_room(split: str, size: int, index: int) -> Room:
    """Render one scene of a split; ``size`` is the side in pixels."""
    scene = sample_scene(split, 0, index)
    clean = render_clean(scene, size, size)
    geometry = Geometry(scene, size, size, clean)
    in_view = look_around(scene, size, size)
    text = caption(scene, in_view)
    named = [s.thing for s in in_view if _colour(s.thing) != NO_COLOUR]
    in_caption = [thing for thing in named if article(phrase(thing)) in text]
    prompt, wanted = "", (0, NO_COLOUR)
    if in_caption:
        thing = in_caption[0]  # the largest object, because tiny ones are not found even in renders
        prompt = f"{article(scene.room_type)} with {article(phrase(thing))}"
        wanted = _pair(thing)
    colour = np.array([_colour(thing) for thing in scene.things], dtype=np.uint8)
    return Room(
        add_noise(scene, clean),
        geometry.semantic.astype(np.uint8),
        colour[geometry.instance],
        frozenset(_pair(thing) for thing in named),
        text,
        prompt,
        wanted,
    )


def _pair(thing: Thing) -> Pair:
    return CLASSES.index(thing.kind), _colour(thing)


def _colour(thing: Thing) -> int:
    """Return the index of the colour that a caption would name, or ``NO_COLOUR``."""
    if phrase(thing, look=False) == noun(thing):
        return NO_COLOUR
    return NAMES.index(thing.colour)


def render_rooms(split: str, size: int, count: int, processes: int) -> list[Room]:
    """Render the first ``count`` scenes of a split."""
    if processes < 2:
        return [render_room(split, size, index) for index in range(count)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return list(pool.map(partial(render_room, split, size), range(count), chunksize=16))


def train_finder(rooms: Sequence[Room], steps: int) -> RGBUNet:
    """Train and return a network that predicts kind and colour of every pixel.

    Every second step uses mirrored images.
    """
    torch.manual_seed(0)
    finder = RGBUNet(len(CLASSES) + len(NAMES) + 1, WIDTH)
    schedule = Schedule(steps, BATCH, 0.01)
    optimiser = torch.optim.AdamW(finder.parameters(), RATE, weight_decay=schedule.weight_decay)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.factor)
    images, kinds, colours = (
        torch.from_numpy(np.stack([getattr(room, name) for room in rooms]))
        for name in ("image", "kind", "colour")
    )
    grid, start = Grid.every(1, (0, 0), images), time.perf_counter()
    for step in range(steps):
        pick = torch.randint(len(rooms), (BATCH,))
        axes = (-1,) if step % 2 else ()
        raw = finder(images[pick].flip(axes).float() / 255, grid)
        kind, colour = raw.split([len(CLASSES), len(NAMES) + 1], dim=1)
        loss = functional.cross_entropy(kind, kinds[pick].flip(axes).long())
        loss = loss + functional.cross_entropy(colour, colours[pick].flip(axes).long())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        rate.step()
        if step in (9, steps // 2, steps - 1):
            left = (time.perf_counter() - start) / (step + 1) * (steps - step - 1)
            say(f"finder: step {step + 1} of {steps}, loss {loss:.2f}, {left:.0f} s left\n")
    return finder


def finder_for(args: argparse.Namespace) -> RGBUNet:
    """Return the finder for this image size from ``--out``; train it if no file exists."""
    path = args.out / f"finder-{args.size}-{args.renders}-{args.steps}.safetensors"
    if path.exists():
        finder = RGBUNet(len(CLASSES) + len(NAMES) + 1, WIDTH)
        finder.load_state_dict(load_file(path))
        return finder.eval()
    say(f"rendering {args.renders} rooms of {args.size} px for the finder\n")
    finder = train_finder(render_rooms("train", args.size, args.renders, args.threads), args.steps)
    args.out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial_file:
        save_file(finder.state_dict(), partial_file)
    return finder.eval()


@torch.no_grad()
def scores(
    finder: RGBUNet, images: Sequence[np.ndarray] | Tensor, wanted: Sequence[Pair]
) -> Tensor:
    """Return the probability in [0, 1] that each picture shows its pair of kind and colour."""
    result = []
    for image, (kind, colour) in zip(images, wanted, strict=True):
        pixels = torch.as_tensor(image)[None].float() / 255
        raw = finder(pixels, Grid.every(1, (0, 0), pixels))[0]
        kinds, colours = raw.split([len(CLASSES), len(NAMES) + 1])
        both = (kinds.softmax(dim=0)[kind] * colours.softmax(dim=0)[colour]).flatten()
        result.append(both.topk(max(round(len(both) * BEST_PIXELS), 1)).values.mean())
    return torch.stack(result)


def others(rooms: Sequence[Room], wanted: Sequence[Pair]) -> list[int]:
    """Return for each pair the index of the next room that does not show it."""
    count, picked = len(rooms), []
    for i, pair in enumerate(wanted):
        indices = ((i + k) % count for k in range(1, count))
        picked.append(next(index for index in indices if pair not in rooms[index].pairs))
    return picked


def check_samples(args: argparse.Namespace, finder: RGBUNet) -> list[list[str]]:
    """Return a row for each set of pictures: in what percentage the object is found."""
    rooms = render_rooms("val", args.size, 3 * args.samples, args.threads)
    rooms = [room for room in rooms if room.prompt]
    wanted = [room.wanted for room in rooms]
    absent = [rooms[index].image for index in others(rooms, wanted)]
    threshold = float(scores(finder, absent, wanted).quantile(1 - FALSE_ALARMS))
    rooms = render_rooms("test", args.size, 2 * args.samples + 50, args.threads)
    rooms = [room for room in rooms if room.prompt][: args.samples]
    wanted = [room.wanted for room in rooms]
    other = others(rooms, wanted)
    pictures_by_name: dict[str, Sequence[np.ndarray] | Tensor] = {
        "renders whose captions name it": [room.image for room in rooms],
        "renders without it": [rooms[index].image for index in other],
    }
    if not args.skip_samples:
        samples = sample(args, [room.prompt for room in rooms])
        pictures_by_name["samples of prompts that name it"] = samples
        pictures_by_name["samples of other prompts"] = samples[other]
    fractions = {
        name: float((scores(finder, images, wanted) >= threshold).float().mean())
        for name, images in pictures_by_name.items()
    }
    return [
        [f"thing found in {len(rooms)} {name}", f"{100 * fraction:.1f} %"]
        for name, fraction in fractions.items()
    ]


def sample(args: argparse.Namespace, prompts: Sequence[str]) -> Tensor:
    """Return one sampled picture per prompt, ``n 3 h w`` of uint8."""
    from diffsight.inference.generate import generate

    pictures = []
    for first in range(0, len(prompts), args.chunk):
        chunk = list(prompts[first : first + args.chunk])
        sampled = generate(
            chunk, model=args.model, size=args.size, steps=args.sampling_steps, seed=first
        )
        pictures.append(sampled)
        say(f"sampled {first + len(chunk)} of {len(prompts)}\n")
    return torch.cat(pictures)


@torch.no_grad()
def check_autoencoder(
    folder: Path, sizes: Sequence[int], args: argparse.Namespace
) -> list[list[str]]:
    """Return rows with the mean PSNR of the autoencoder on rooms of ``test``.

    The mode of the posterior is decoded and clamped to [0, 1].
    """
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL.from_pretrained(
        folder, subfolder="vae", low_cpu_mem_usage=False
    ).eval()
    rows = []
    for size in sizes:
        values = []
        for room in render_rooms("test", size, args.pictures, args.threads):
            x = torch.from_numpy(room.image)[None].float() / 255
            y = vae.decode(vae.encode(x * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
            values.append(-10 * math.log10(float((y.clamp(0, 1) - x).square().mean())))
        mean = sum(values) / len(values)
        rows.append([f"autoencoder, {size} px, PSNR on {len(values)} rooms", f"{mean:.2f} dB"])
    return rows


@torch.no_grad()
def check_retrieval(folder: Path, args: argparse.Namespace) -> list[list[str]]:
    """Return rows with the top-1 retrieval of CLIP on rooms of ``test``.

    An identical caption of another room counts as correct.
    """
    if not (folder / "image_encoder").is_dir():
        return [["CLIP retrieval", "no image_encoder/"]]
    from transformers import (
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
    )
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), subfolder="tokenizer")
    text = CLIPTextModelWithProjection.from_pretrained(folder, subfolder="text_encoder").eval()
    vision: Any = CLIPVisionModelWithProjection.from_pretrained(folder, subfolder="image_encoder")
    vision.eval()
    config = (folder / "image_encoder" / "preprocessor_config.json").read_text(encoding="utf-8")
    mean, std = (
        torch.tensor(json.loads(config)[k])[:, None, None] for k in ("image_mean", "image_std")
    )
    rooms = render_rooms("test", vision.config.image_size, args.pairs, args.threads)
    captions = [room.caption for room in rooms]
    longest = text.config.max_position_embeddings
    options = {"padding": "max_length", "max_length": longest, "truncation": True}
    texts, images = [], []
    for first in range(0, len(rooms), 32):
        batch = rooms[first : first + 32]
        tokens = tokenizer([room.caption for room in batch], return_tensors="pt", **options)
        texts.append(text(**tokens).text_embeds)
        pixels = torch.from_numpy(np.stack([room.image for room in batch])).float() / 255
        images.append(vision(pixel_values=(pixels - mean) / std).image_embeds)
    similarity = functional.normalize(torch.cat(texts)) @ functional.normalize(torch.cat(images)).T
    rows = []
    for direction, matrix in (("caption to image", similarity), ("image to caption", similarity.T)):
        best = matrix.argmax(dim=1).tolist()
        hits = sum(captions[i] == captions[k] for i, k in enumerate(best)) / len(best)
        rows.append([f"CLIP, {direction}, top-1 of {len(best)} pairs", f"{100 * hits:.1f} %"])
    return rows


def main() -> None:
    """Run all checks and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="a diffusers folder, or tiny")
    parser.add_argument("--size", type=int, default=128, help="side of the samples in pixels")
    parser.add_argument("--samples", type=int, default=200, help="number of samples")
    parser.add_argument("--sampling-steps", type=int, default=30)
    parser.add_argument(
        "--chunk", type=int, default=10, help="prompts that are sampled together, with one seed"
    )
    parser.add_argument("--skip-samples", action="store_true", help="check renders only")
    parser.add_argument("--renders", type=int, default=4000, help="training images of the finder")
    parser.add_argument("--steps", type=int, default=3000, help="training steps of the finder")
    parser.add_argument("--pictures", type=int, default=128, help="rooms for the PSNR")
    parser.add_argument("--pairs", type=int, default=256, help="rooms for the retrieval of CLIP")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/generation_check"))
    parser.add_argument("--report", type=Path, default=RESULTS, help="page to write the table into")
    parser.add_argument("--quick", action="store_true", help="test run: no page is written")
    args = parser.parse_args()
    if args.quick:
        args.samples, args.renders, args.steps, args.pictures, args.pairs = 4, 16, 10, 4, 16
    torch.set_num_threads(args.threads)
    folder = folder_of(args.model)
    rows = check_autoencoder(folder, (64, 128), args) + check_retrieval(folder, args)
    rows += check_samples(args, finder_for(args))
    options = [Path(option).name if "/" in option else option for option in sys.argv[1:]]
    command = " ".join(["python benchmarks/generation_check.py", *options])
    weights = f"Weights {fingerprint(folder)[:12]}."
    text = f"{weights}\n\n{table(['check', 'result'], rows)}\n\n`{command}`"
    if not args.quick:
        write_block(args.report, "generation_check", text)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
