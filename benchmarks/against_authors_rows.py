"""The methods that benchmarks/against_authors.py measures, and the cost of the authors' code."""

from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]
"""Height and width in pixels."""
SQUARE_480: Size = (480, 480)
SQUARE_512: Size = (512, 512)
NYU: Size = (480, 640)
SQUARES = (SQUARE_480, SQUARE_512)
QUICK_SIZES: tuple[Size, ...] = ((64, 64),)


@dataclass(frozen=True)
class Cost:
    """The cost of one forward pass.

    Attributes:
        multiply_adds: multiply-adds in 1e9, attention included.
        seconds: processor time; of the authors' code half of that of its two threads.
        peak_mib: peak memory, weights included.
    """

    multiply_adds: float
    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Row:
    """A method with its head.

    Attributes:
        name: name in the table of cells.
        label: name on the page.
        recipe: recipe of the full-size model.
        quick: recipe of a small model.
        minutes: rough duration of one cell.
        tokens: number of tokens that condition the UNet.
        passes: passes of the UNet.
        steps: denoising steps of DDP; None for other methods.
        sizes: sizes of the image.
        authors: recorded cost of the authors' code; None if there is none.
        authors_size: size of the image of which it was recorded.
    """

    name: str
    label: str
    recipe: str
    quick: str
    minutes: float
    tokens: int = 0
    passes: int = 1
    steps: int | None = None
    sizes: tuple[Size, ...] = SQUARES
    authors: Cost | None = None
    authors_size: Size | None = None


ROWS = (
    Row(
        "few_shot_depth",
        "FewShot, depth, 50 classes",
        "few_shot/nyu_depth",
        "rooms/few_shot_depth",
        3,
        tokens=50,
    ),
    Row(
        "vpd_depth",
        "VPD, depth",
        "vpd/depth_nyu",
        "rooms/vpd_depth",
        3,
        tokens=1,
        authors=Cost(1037.9, 22.1, 5282),
        authors_size=SQUARE_480,
    ),
    Row(
        "vpd_segmentation",
        "VPD, segmentation",
        "vpd/ade20k_80k",
        "rooms/vpd_semantic",
        3,
        tokens=150,
        authors=Cost(971.8, 24.1, 5381),
        authors_size=SQUARE_512,
    ),
    Row(
        "vpd_referring",
        "VPD, referring segmentation",
        "vpd/refcoco",
        "rooms/vpd_referring",
        3,
        tokens=40,
        authors=Cost(1012.5, 21.9, 5394),
        authors_size=SQUARE_512,
    ),
    Row(
        "evp_depth",
        "EVP, depth",
        "evp/depth_nyu_aggregated",
        "rooms/evp_depth",
        3,
        tokens=40,
        authors=Cost(1068.6, 26.0, 5852),
        authors_size=SQUARE_480,
    ),
    Row(
        "evp_referring",
        "EVP, referring segmentation",
        "evp/refcoco",
        "rooms/evp_referring",
        3,
        tokens=40,
        authors=Cost(1027.8, 22.7, 5983),
        authors_size=SQUARE_512,
    ),
    Row(
        "meta_prompts_depth",
        "Meta Prompts, depth, 3 passes",
        "meta_prompts/depth_nyu",
        "rooms/meta_prompts_depth",
        6,
        tokens=50,
        passes=3,
        authors=Cost(1957.8, 50.7, 5453),
        authors_size=SQUARE_480,
    ),
    Row(
        "meta_prompts_segmentation",
        "Meta Prompts, segmentation, 3 passes",
        "meta_prompts/ade20k",
        "rooms/meta_prompts_semantic",
        6,
        tokens=150,
        passes=3,
        authors=Cost(2051.5, 55.4, 5488),
        authors_size=SQUARE_512,
    ),
    Row(
        "ddp_segmentation_1",
        "DDP, segmentation, Swin-T, 1 step",
        "ddp/ade20k_swin_t",
        "rooms/ddp_semantic",
        0.5,
        steps=1,
        authors=Cost(113.0, 4.9, 1235),
        authors_size=SQUARE_512,
    ),
    Row(
        "ddp_segmentation_3",
        "DDP, segmentation, Swin-T, 3 steps",
        "ddp/ade20k_swin_t",
        "rooms/ddp_semantic",
        0.7,
        steps=3,
        authors=Cost(252.3, 11.0, 1235),
        authors_size=SQUARE_512,
    ),
    Row(
        "ddp_convnext_3",
        "DDP, segmentation, ConvNeXt-T, 3 steps",
        "ddp/cityscapes_convnext_t",
        "rooms/ddp_semantic",
        0.7,
        steps=3,
    ),
    Row(
        "ddp_depth_1",
        "DDP, depth, Swin-T, 1 step",
        "ddp/kitti_swin_t",
        "rooms/ddp_depth",
        0.5,
        steps=1,
        sizes=(*SQUARES, NYU),
        authors=Cost(130.1, 5.2, 1169),
        authors_size=NYU,
    ),
    Row(
        "ddp_depth_3",
        "DDP, depth, Swin-T, 3 steps",
        "ddp/kitti_swin_t",
        "rooms/ddp_depth",
        0.7,
        steps=3,
        sizes=(*SQUARES, NYU),
        authors=Cost(289.3, 12.2, 1169),
        authors_size=NYU,
    ),
)


@dataclass(frozen=True)
class Cell:
    """One method at one size.

    Attributes:
        row: method.
        size: size of the image.
    """

    row: Row
    size: Size

    @property
    def name(self) -> str:
        """Name of the cell's unit in the table."""
        return f"{self.row.name}_{self.size[0]}x{self.size[1]}"

    @property
    def is_recorded(self) -> bool:
        """Whether the cost of the authors' code is recorded for this cell."""
        return self.size == self.row.authors_size


def cells_of(rows: Sequence[Row], *, quick: bool = False) -> list[Cell]:
    """Return the cells of rows; those of which the authors' cost is recorded come first.

    Args:
        rows: methods.
        quick: whether the images are small.
    """
    cells = [Cell(row, size) for row in rows for size in (QUICK_SIZES if quick else row.sizes)]
    return sorted(cells, key=lambda cell: not cell.is_recorded)
