"""Draw the picture of the README and of the first page: predictions of newly trained models.

Three light heads for depth, classes and normals are trained on the same ten rooms, with networks
that come with the package. The recipe streets/ddp_cameras is trained on 400 rendered streets to
predict maps. The rooms and the street in the picture are from the split ``test``; none was chosen
for its result. Uncertainty is drawn from white (lowest in a picture) to red (highest).

    python benchmarks/readme_picture.py [--out PNG]

Takes about four minutes on one free core. The same machine draws the same picture byte for byte.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from reporting import RESULTS, say
from torch import Tensor

import diffsight
from diffsight.atomic import replacing
from diffsight.cli.fit import train
from diffsight.datasets.base import Sample, collate
from diffsight.model import DenseModel
from diffsight.ops.memory import keep_freed_memory
from diffsight.rooms import Rooms
from diffsight.rooms.export import FOLDERS, Export
from diffsight.streets import Streets
from diffsight.tasks.prediction import draw_red

SHOTS, STEPS, SIZE_PX = 10, 100, 128
BACKBONE = "efficientnet-lite0@128+efficientnet-lite0@256"
RECIPE = "streets/ddp_cameras"
CLASSES = {
    "wall": (196, 203, 214),
    "floor": (176, 129, 86),
    "ceiling": (243, 223, 165),
    "thing": (47, 121, 196),
}
THING = 3  # class id; this and all higher ids of the rooms are things
MASKS = "masks"  # folder of the masks with four classes
LABELS = ("depth_m", "semantic", "normals")
FIRST_ROOM, FIRST_STREET = 6, 0

GAP_PX, SPACE_PX, MARGIN_PX, NAMES_PX, TITLE_PX, FONT_PX = 4, 16, 12, 84, 28, 19
GROUND, INK = (32, 36, 44), (222, 226, 232)
COLUMNS = ("image", "truth", "prediction", "uncertainty")


@dataclass(frozen=True)
class Row:
    """A task of the picture.

    Attributes:
        title: text at the left of the row.
        label: key of ``Sample.labels``.
        uncertainty: function that returns the uncertainty map ``h w`` of a prediction.
        kind: kind of the labels for ``adapt``; empty for the streets.
        folder: folder of the labels; empty for the streets.
    """

    title: str
    label: str
    uncertainty: Callable[[Any], Tensor]
    kind: str = ""
    folder: str = ""


ROWS = (
    Row("depth", "depth_m", lambda p: p.std, "depth", FOLDERS["depth_m"]),
    Row("classes", "semantic", lambda p: 1 - p.confidence, "segmentation", MASKS),
    Row("normals", "normals", lambda p: p.std, "normals", FOLDERS["normals"]),
)
STREET = Row("BEV map", "map", lambda p: p.uncertainty.flip(0, 1))  # forward is up


def write_rooms(out: Path) -> None:
    """Write ten rooms with their labels into a folder, in the file formats of ``adapt``."""
    export = Export("val", 0, (SIZE_PX, SIZE_PX), LABELS)
    export.prepare(out)
    (out / MASKS).mkdir()
    for index in range(SHOTS):
        export.write(out, index)
        name = f"{export.stem(index)}.png"
        with Image.open(out / FOLDERS["semantic"] / name) as classes:
            mask = Image.fromarray(np.asarray(classes).clip(max=THING))
        mask.putpalette([value for colour in CLASSES.values() for value in colour])
        mask.save(out / MASKS / name)


def train_on_rooms(row: Row, rooms: Path) -> DenseModel:
    """Train and return the model of a task on the ten rooms."""
    names = {"classes": tuple(CLASSES)} if row.folder == MASKS else {}
    images, labels = rooms / "images", rooms / row.folder
    options = {"method": "feature_head", "backbone": BACKBONE, "steps": STEPS, **names}
    model = diffsight.adapt(images, labels, kind=row.kind, calibrate=False, **options)
    say(f"{row.title}: {model.info['verdict']}\n")
    return model


def train_on_streets(out: Path) -> DenseModel:
    """Train and return the model that predicts maps of streets."""
    fitted = train(["--recipe", RECIPE, "--out", str(out / "street"), "--seed", "0"])
    assert fitted is not None
    return fitted.model


def panels(row: Row, model: DenseModel, samples: Sequence[Sample]) -> list[Image.Image]:
    """Return the pictures of every sample: image, truth, prediction and uncertainty."""
    predict = diffsight.pipeline(model)
    pictures: list[Tensor] = []
    for sample in samples:
        (truth,) = model.task.truth(collate([sample], row.label).target)
        prediction = predict(sample.image if sample.rig is None else sample.rig)
        uncertainty = row.uncertainty(prediction)
        low, high = uncertainty.min(), uncertainty.max()
        uncertainty = (uncertainty - low) / (high - low)
        red = draw_red(uncertainty, torch.ones_like(uncertainty, dtype=torch.bool))
        pictures += [sample.image, truth.draw(), prediction.draw(), red]
    return [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]


def room(index: int) -> Sample:
    """Return an unseen room, whose labels have the four classes."""
    sample = Rooms("test", index + 1, SIZE_PX, LABELS)[index]
    labels = {**sample.labels, "semantic": sample.labels["semantic"].clamp(max=THING)}
    return replace(sample, labels=labels)


def draw(rooms: Sequence[Sequence[Image.Image]], street: Sequence[Image.Image]) -> Image.Image:
    """Return the whole picture: a row for each task, the street in the last row."""
    begin = MARGIN_PX + NAMES_PX
    left = [begin + i * (SIZE_PX + GAP_PX) + (i > 3) * (SPACE_PX - GAP_PX) for i in range(8)]
    right = left[-1] + SIZE_PX
    # the cameras and three square maps fill the last row
    ratio = street[0].width / street[0].height
    tall = round((right - begin - 3 * GAP_PX) / (ratio + 3))
    street_left = [begin, *(right - n * tall - (n - 1) * GAP_PX for n in (3, 2, 1))]
    street_wide = [street_left[1] - GAP_PX - begin, tall, tall, tall]
    first = MARGIN_PX + TITLE_PX
    last = first + len(rooms) * (SIZE_PX + GAP_PX) + TITLE_PX
    sheet = Image.new("RGB", (right + MARGIN_PX, last + tall + MARGIN_PX), GROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)

    def paste(title: str, picture: Image.Image, box: tuple[int, int, int, int]) -> None:
        x, y, wide, high = box
        # enlarge by nearest neighbour first, so that cells of a map stay sharp
        large = picture.resize((4 * picture.width, 4 * picture.height), Image.Resampling.NEAREST)
        sheet.paste(large.resize((wide, high), Image.Resampling.BOX), (x, y))
        pen.text((x + wide / 2, y - TITLE_PX / 2), title, INK, font, anchor="mm")

    for number, pictures in enumerate(rooms):
        y = first + number * (SIZE_PX + GAP_PX)
        pen.text((MARGIN_PX, y + SIZE_PX / 2), ROWS[number].title, INK, font, anchor="lm")
        titles = 2 * COLUMNS if number == 0 else 8 * ("",)
        for title, picture, x in zip(titles, pictures, left, strict=True):
            paste(title, picture, (x, y, SIZE_PX, SIZE_PX))
    pen.text((MARGIN_PX, last + tall / 2), STREET.title, INK, font, anchor="lm")
    titles = ("six cameras", *COLUMNS[1:])
    for title, picture, x, wide in zip(titles, street, street_left, street_wide, strict=True):
        paste(title, picture, (x, last, wide, tall))
    return sheet


def to_palette(sheet: Image.Image) -> Image.Image:
    """Return the picture dithered to 256 colours, which takes a third of the bytes."""
    colours = sheet.quantize(256, Image.Quantize.MEDIANCUT, kmeans=2)
    return sheet.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)


def main() -> None:
    """Train, predict and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS.parent / "readme.png", help="file of the picture"
    )
    args = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        rooms = Path(folder) / "rooms"
        write_rooms(rooms)
        numbers = iter(range(FIRST_ROOM, FIRST_ROOM + 2 * len(ROWS)))
        drawn = [
            panels(r, train_on_rooms(r, rooms), [room(next(numbers)), room(next(numbers))])
            for r in ROWS
        ]
        street = Streets("test", FIRST_STREET + 1, lidar=False)[FIRST_STREET]
        map_panels = panels(STREET, train_on_streets(Path(folder)), [street])
    sheet = to_palette(draw(drawn, map_panels))
    with replacing(args.out) as partial:
        sheet.save(partial, "PNG", optimize=True)
    say(f"{args.out}: {args.out.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
