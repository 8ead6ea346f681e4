"""The claims of the five papers that a small model and procedural rooms can test.

A claim says that one row of a table is better than another, or how scores change with the number of
steps or shots. The claims are from the ablations (VPD table 5, EVP table 4, MetaPrompts table 5,
DDP table 5 and figure 3) and from the few-shot experiments (FewShot tables 1 to 4, figures 3 and
4). A claim that a paper makes twice is listed once. ``claims.py`` compares the claims with the
stored measurements.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffsight.benchmark.units import Unit

LABELS = {"depth": "depth_zbuffer", "normals": "normal", "edges": "edge_texture"}


@dataclass(frozen=True)
class Comparison:
    """Two rows of a stored table of results.

    Attributes:
        label: short name of the task.
        table: name of the CSV file, without ``.csv``.
        ahead: folder in the table with the scores of the row that is better in the paper.
        behind: folder with the scores of the row that it is compared with.
    """

    label: str
    table: str
    ahead: str
    behind: str


@dataclass(frozen=True)
class Claim:
    """A statement of a paper that one row is better than another.

    Attributes:
        source: table or figure of the paper.
        ahead: row that is better in the paper.
        behind: row that it is compared with.
        figures: scores in the paper, ahead / behind; empty if it prints none.
        comparisons: comparisons of rows measured here, which test the claim.
        reason: why the claim does not hold here, or is not yet measured. It is shown unless every
            comparison holds.
    """

    source: str
    ahead: str
    behind: str
    figures: str
    comparisons: tuple[Comparison, ...] = ()
    reason: str = ""


def few_shot(
    ahead: str,
    behind: str,
    shots: tuple[int, int] = (10, 10),
    labels: Sequence[str] = tuple(LABELS),
    note: str = "",
) -> tuple[Comparison, ...]:
    """Return the comparisons of two methods of the few-shot benchmark, one for each task.

    Args:
        ahead: method that is better in the paper.
        behind: method that it is compared with.
        shots: number of training images of ``ahead`` and of ``behind``.
        labels: tasks, keys of ``LABELS``.
        note: text after the name of the task in the table.
    """

    def folder(label: str, method: str, count: int) -> str:
        return Unit(LABELS[label], method, 0).path(Path(), count).parent.as_posix()

    return tuple(
        Comparison(
            label + note,
            "few_shot_orderings",
            folder(label, ahead, shots[0]),
            folder(label, behind, shots[1]),
        )
        for label in labels
    )


def ladder(label: str, recipe: str, ahead: str, behind: str) -> tuple[Comparison, ...]:
    """Return the comparison of two rows in a table of benchmarks/ladders.py."""
    return (Comparison(label, f"ladders_{recipe}", ahead, behind),)


NO_DDP_ROW = "`benchmarks/ddp_rooms.py` has no such row yet."
NO_ROW = "`benchmarks/ladders.py` has no such row yet."
K0, K1 = "few_shot:codebook=0", "few_shot:codebook=1"
_BOTH = "+ maps of up and down blocks"
_UP, _DOWN, _MIDDLE = (
    f"maps of {part} only" for part in ("up blocks", "down blocks", "middle block")
)
_VPD_MAPS = (
    ("no maps", "maps of the middle block", "48.0 / 47.8", "+ adapter", _MIDDLE),
    ("maps of down blocks", "no maps", "48.2 / 48.0", _DOWN, "+ adapter"),
    ("maps of up blocks", "no maps", "48.5 / 48.0", _UP, "+ adapter"),
    ("maps of up blocks", "maps of down blocks", "48.5 / 48.2", _UP, _DOWN),
    ("maps of up and down blocks", "maps of up blocks only", "48.7 / 48.5", _BOTH, _UP),
)
VPD = (
    Claim(
        "table 5",
        "class names as prompt",
        "empty prompt",
        "47.1 / 46.9 mIoU",
        ladder("classes", "vpd_semantic", "prompt", "no prompt"),
    ),
    Claim(
        "table 5",
        "text adapter",
        "no adapter",
        "48.0 / 47.1 mIoU",
        ladder("classes", "vpd_semantic", "+ adapter", "prompt"),
    ),
    Claim(
        "table 5",
        "attention maps of up and down blocks",
        "no maps",
        "48.7 / 48.0 mIoU",
        ladder("classes", "vpd_semantic", _BOTH, "+ adapter"),
    ),
    *(
        Claim("table 5", ahead, behind, f"{miou} mIoU", ladder("classes", "vpd_semantic", *rows))
        for ahead, behind, miou, *rows in _VPD_MAPS
    ),
)
_CAPTIONS, _DEVIATION = "+ captions", "+ deviation"
_EVP: tuple[tuple[str, ...], ...] = (
    ("2 and 1", "VPD with refined features (IMAFR)", "VPD", "0.243 / 0.254", "+ IMAFR", "VPD"),
    ("3 and 2", "metric bins", "plain depth head", "0.242 / 0.243", "+ bins", "+ IMAFR"),
    (
        "4 and 3",
        "latent divided by its standard deviation",
        "undivided latent",
        "0.238 / 0.242",
        _DEVIATION,
        "+ bins",
    ),
    (
        "12 and 4",
        "aligned caption of each image",
        "room type as text",
        "0.224 / 0.238",
        _CAPTIONS,
        _DEVIATION,
    ),
    (
        "10 and 8",
        "full model",
        "full model without IMAFR",
        "0.227 / 0.234",
        _CAPTIONS,
        "without IMAFR",
    ),
    (
        "10 and 9",
        "full model",
        "full model without metric bins",
        "0.227 / 0.228",
        _CAPTIONS,
        "without bins",
    ),
    ("4 and 5", "room type as one vector", "caption as one vector", "0.238 / 0.263"),
    ("6 and 5", "caption, CLIP trained", "caption, CLIP frozen", "0.229 / 0.263"),
    (
        "10 and 7",
        "captions averaged over the data set",
        "room types averaged over the data set",
        "0.227 / 0.228",
    ),
    ("11 and 10", "40 vectors for the data set", "one vector", "0.226 / 0.227"),
    ("12 and 11", "40 vectors for each image", "40 vectors for the data set", "0.224 / 0.226"),
)
EVP = tuple(
    Claim(
        f"table 4, rows {rows}",
        ahead,
        behind,
        f"RMSE {rmse} m",
        ladder("depth", "evp_depth", *names) if names else (),
        "" if names else NO_ROW,
    )
    for rows, ahead, behind, rmse, *names in _EVP
)
_META_DEFAULT = "meta prompts, 32, 3 passes"


def meta_prompts(
    behind: str, ahead: str = _META_DEFAULT, tasks: Sequence[str] = ("classes", "depth")
) -> tuple[Comparison, ...]:
    """Return the comparisons of two rows of Meta Prompts' ladders."""
    recipes = {"classes": "meta_prompts_semantic", "depth": "meta_prompts_depth"}
    return tuple(
        comparison for task in tasks for comparison in ladder(task, recipes[task], ahead, behind)
    )


_META_PROMPTS = (
    ("a", "meta prompts", "class names", "84.7 / 83.6 mIoU, RMSE 0.223 / 0.258 m", "label prompts"),
    ("a", "meta prompts", "captions", "84.7 / 83.4 mIoU, RMSE 0.223 / 0.225 m", "caption prompts"),
    ("c", "three refinement steps", "one step", "84.7 / 84.1 mIoU, RMSE 0.223 / 0.243 m", "1 pass"),
    (
        "d",
        "features rearranged by the prompts",
        "features not rearranged",
        "84.7 / 84.2 mIoU, RMSE 0.223 / 0.226 m",
        "no rearrangement",
    ),
    (
        "e",
        "a timestep embedding for each step",
        "one embedding for all steps",
        "84.7 / 84.3 mIoU, RMSE 0.223 / 0.227 m",
        "no modulated time",
    ),
)
META_PROMPTS = (
    *(
        Claim(f"table 5{part}", ahead, behind, figures, meta_prompts(row))
        for part, ahead, behind, figures, row in _META_PROMPTS
    ),
    Claim(
        "table 5b",
        "segmentation: 150 prompts",
        "50 prompts",
        "84.7 / 84.0 mIoU",
        meta_prompts("8 prompts", "64 prompts", ("classes",)),
    ),
    Claim(
        "table 5b",
        "depth: 50 prompts",
        "150 prompts",
        "RMSE 0.223 / 0.225 m",
        meta_prompts("64 prompts", "8 prompts", ("depth",)),
    ),
)


def ddp(ahead: str, *behind: str) -> tuple[Comparison, ...]:
    """Return the comparisons of one row of benchmarks/ddp_rooms.py with each of the others."""
    return tuple(Comparison(row, "ddp_rooms", ahead, row) for row in behind)


_BITS, _ONE_HOT = (
    ddp("DDP", *(f"{name}, {scale}" for scale in ("0.01", "0.1")))
    for name in ("analog bits", "one-hot")
)
_SMALL, _LARGE = (ddp("DDP", f"class embedding, {scale}") for scale in ("0.001", "0.1"))
_LINEAR, _ONE_STEP = ddp("DDP", "linear noise"), ddp("DDP", "DDP, 1 step")
_UNCERTAINTY = ddp("DDP, errors in the most uncertain tenth", "DDP, a tenth of the errors")
_DRIFT = ddp("self-aligned, 10 steps", "DDP, 10 steps")
_DDP: tuple[Any, ...] = (
    ("table 5a", "class embedding of labels", "analog bits", "47.0 / 46.2 mIoU", _BITS),
    ("table 5a", "class embedding of labels", "one-hot labels", "47.0 / 46.2 mIoU", _ONE_HOT),
    ("table 5b", "label scale 0.01", "0.001", "47.0 / 45.4 mIoU", _SMALL),
    ("table 5b", "label scale 0.01", "0.1 (0.02, 0.04 lie between)", "47.0 / 44.0 mIoU", _LARGE),
    ("table 5c", "cosine schedule", "linear schedule", "47.0 / 45.1 mIoU", _LINEAR),
    ("table 5d", "six decoder layers", "one layer", "47.0 / 44.5 mIoU", ddp("6 layers", "1 layer")),
    ("table 5d", "six decoder layers", "twelve layers", "47.0 / 46.0 mIoU", (), NO_DDP_ROW),
    ("table 5e, figure 3a", "three steps", "one step", "47.0 / 46.1 mIoU", _ONE_STEP),
    (
        "table 5e, figure 3a",
        "three steps",
        "more steps",
        "47.0 / 46.8 mIoU (four)",
        ddp("DDP", "DDP, 5 steps", "DDP, 10 steps"),
    ),
    ("figure 3a", "many steps after self-aligned denoising", "after plain training", "", _DRIFT),
    ("figure 3c", "errors in the most uncertain tenth", "a tenth of the errors", "", _UNCERTAINTY),
)
DDP = tuple(Claim(*fields) for fields in _DDP)
FEW_SHOT = (
    Claim(
        "table 1",
        "diffusion, fixed values",
        "linear probe of CLIP",
        "depth 0.51 / 0.64 m, normals 17.8 / 23.4°",
        few_shot(K0, "clip-linear"),
        "One probable cause is that self-attention blurs the maps here (see table 3).",
    ),
    Claim(
        "table 1",
        "learned values, one table",
        "fixed values",
        "depth 0.47 / 0.51 m, normals 17.2 / 17.8°",
        few_shot(K1, K0),
    ),
    Claim(
        "table 2",
        "FewShot, ten shots",
        "VPD, ten shots",
        "Z-depth 0.0308 / 0.0404, normals 10.1 / 14.4°, 2D edges 0.0625 / 0.0965",
        few_shot("few_shot", "vpd"),
        "Normals need fine edges, but a map of a concept has only 16 x 16 pixels here. VPD trains "
        "7.2 million parameters, FewShot 6,800.",
    ),
    Claim(
        "table 3",
        "with self-attention",
        "without self-attention",
        "depth 0.43 / 0.47 m, normals 16.4 / 17.4°",
        few_shot("few_shot", "few_shot:maps.self_attention=false"),
        "Eight of the nine self-attention layers of the embedded model's decoder attend to more "
        "than 70 % of the pixels, so they blur the maps.",
    ),
    Claim(
        "table 4",
        "ten tables",
        "fixed values",
        "depth 0.43 / 0.51 m, normals 16.4 / 17.8°",
        few_shot("few_shot", K0),
    ),
    Claim(
        "table 4",
        "ten tables",
        "one table",
        "depth 0.43 / 0.47 m, normals 16.4 / 17.2°",
        few_shot("few_shot", K1),
        "The weights of the tables are learned from the CLIP features of only ten rooms, all from "
        "one renderer.",
    ),
    Claim(
        "table 4",
        "ten tables",
        "50 tables (25 lie between)",
        "depth 0.43 / 0.48 m, normals 16.4 / 17.6°",
        few_shot("few_shot", "few_shot:codebook=50"),
    ),
    Claim(
        "figure 3",
        "classification, after training",
        "regression only",
        "",
        few_shot(K0, "few_shot-regression", labels=("depth", "edges")),
    ),
    Claim(
        "figure 3",
        "classification: fewer steps to the same error",
        "regression only",
        "",
        (),
        "No curves are stored yet (`--curve-every` of the benchmark records them).",
    ),
    Claim(
        "figure 4",
        "FewShot, 20 and 50 shots",
        "VPD, 20 and 50 shots",
        "",
        few_shot("few_shot", "vpd", (20, 20), note=", 20 shots")
        + few_shot("few_shot", "vpd", (50, 50), note=", 50 shots"),
        "VPD trains 7.2 million parameters, which gain more from additional images than the 6,800 "
        "parameters of FewShot.",
    ),
    Claim(
        "figure 4",
        "FewShot with 100 shots",
        "FewShot with ten",
        "",
        few_shot("few_shot", "few_shot", (100, 10)),
        "FewShot trains only 6,800 parameters, which gain little from additional images.",
    ),
    Claim("figure 4", "VPD with 100 shots", "VPD with ten", "", few_shot("vpd", "vpd", (100, 10))),
)
CLAIMS = {
    "VPD": VPD,
    "EVP": EVP,
    "MetaPrompts": META_PROMPTS,
    "DDP": DDP,
    "FewShot": FEW_SHOT,
}
