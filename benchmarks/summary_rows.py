"""The rows of the summary table of docs/results.md, with the cells that their scores come from."""

from dataclasses import dataclass

EMBEDDED = "embedded model"
FROZEN_TABLE = "benchmarks/tables/pretraining_helps_128.csv"
FROZEN_COMMAND = f"python benchmarks/pretraining_helps.py --table {FROZEN_TABLE}"
LITE = "EfficientNet-Lite0"
CHOSEN = "chosen by `auto`"
SCRATCH = "from scratch"


@dataclass(frozen=True)
class Cell:
    """A score in a table of the page.

    Attributes:
        label: name of the model or baseline in the summary; empty if the cell contains the name.
        column: name of the column.
        row: first cells of the row, separated by ``|`` as in the table.
    """

    label: str
    column: str
    row: str


@dataclass(frozen=True)
class Row:
    """A row of the summary.

    Attributes:
        section: heading or name of the marked block of the page that contains the scores.
        measured: task and data.
        score: measure with its unit, and ``↓`` or ``↑`` if lower or higher is better.
        model: cell with the score of the model.
        baseline: cell with the score of a baseline without an image; None if there is none.
        network: pretrained network of the model.
        command: beginning of the command in the section that measures the scores.
    """

    section: str
    measured: str
    score: str
    model: Cell
    baseline: Cell | None
    network: str
    command: str


ROWS = (
    Row(
        "Depth from scratch",
        "depth, 1,200 rooms",
        "RMSE, m ↓",
        Cell("VPD", "RMSE, m", "mean of the seeds"),
        Cell("mean map", "RMSE, m", "mean map"),
        SCRATCH,
        "diffsight fit --recipe rooms/vpd_depth",
    ),
    Row(
        "feature_probe",
        "depth, linear probe, 10 rooms",
        "RMSE, m ↓",
        Cell("linear layer", "RMSE, m", "tiny"),
        Cell("mean map", "RMSE, m", "mean map"),
        EMBEDDED,
        "python benchmarks/feature_probe.py",
    ),
    Row(
        "Small recipes",
        "depth, 150 steps",
        "RMSE, m ↓",
        Cell("EVP", "model", "`rooms/evp_depth` | 64 rooms | RMSE, m"),
        Cell("", "baseline with positions", "`rooms/evp_depth` | 64 rooms | RMSE, m"),
        EMBEDDED,
        "diffsight fit --recipe rooms/evp_depth",
    ),
    Row(
        "Small recipes",
        "30 classes, 150 steps",
        "mIoU ↑",
        Cell("VPD", "model", "`rooms/vpd_semantic` | 64 rooms, 30 classes | mIoU"),
        Cell("", "baseline with positions", "`rooms/vpd_semantic` | 64 rooms, 30 classes | mIoU"),
        EMBEDDED,
        "diffsight fit --recipe rooms/vpd_semantic",
    ),
    Row(
        "Small recipes",
        "sentences about rooms, 400 steps",
        "oIoU ↑",
        Cell("VPD", "model", "`rooms/vpd_referring` | 252 sentences | oIoU"),
        Cell("", "baseline with positions", "`rooms/vpd_referring` | 252 sentences | oIoU"),
        EMBEDDED,
        "diffsight fit --recipe rooms/vpd_referring",
    ),
    Row(
        "Small recipes",
        "sentences about rooms, 400 steps",
        "oIoU ↑",
        Cell("EVP", "model", "`rooms/evp_referring` | 252 sentences | oIoU"),
        Cell("", "baseline with positions", "`rooms/evp_referring` | 252 sentences | oIoU"),
        EMBEDDED,
        "diffsight fit --recipe rooms/evp_referring",
    ),
    Row(
        "Ten labelled images",
        "depth, 10 rooms, the demo",
        "RMSE, m ↓",
        Cell(
            "`adapt`",
            "other rooms",
            "`feature_head` on `efficientnet-lite0@128+efficientnet-lite0@256` (chosen)",
        ),
        Cell("mean map", "other rooms", "mean map"),
        LITE,
        "diffsight demo",
    ),
    Row(
        "A few photographs",
        "3 photographs of ADE20K, all classes",
        "mIoU, % ↑",
        Cell("`auto`", "ADE20K, mIoU %", "`auto`"),
        Cell("mean map", "ADE20K, mIoU %", "mean map"),
        CHOSEN,
        "python benchmarks/leave_one_out.py --images ade/images",
    ),
    Row(
        "A few photographs",
        "4 photographs of COCO, 2 classes",
        "mIoU, % ↑",
        Cell("`auto`", "COCO, mIoU %", "`auto`"),
        Cell("constant", "COCO, mIoU %", "constant"),
        CHOSEN,
        "python benchmarks/leave_one_out.py --images coco/images",
    ),
    Row(
        "Candidates of adapt",
        "depth, 10 rooms, all candidates",
        "RMSE, m ↓",
        Cell("`auto`", "`auto on auto`", "`depth_zbuffer`, RMSE in m"),
        Cell("mean map", "mean map", "`depth_zbuffer`, RMSE in m"),
        CHOSEN,
        "diffsight benchmark few-shot",
    ),
    Row(
        "Strokes instead of masks",
        "30 classes, strokes on 10 rooms",
        "mIoU, % ↑",
        Cell("`feature_head`", "strokes, mIoU %", "mean"),
        Cell("mean map of the masks", "mean map of the masks, mIoU %", "mean"),
        LITE,
        "python benchmarks/scribbles.py",
    ),
    Row(
        "confidence depth",
        "depth, intervals of 90 %, 10 rooms",
        "coverage, at least 0.9",
        Cell("`feature_head`", "mean coverage", "10"),
        None,
        EMBEDDED,
        "python benchmarks/confidence.py --task depth",
    ),
    Row(
        "few_shot_tasks",
        "depth, 10 rooms, 100 steps",
        "RMSE, m ↓",
        Cell("`auto`", "auto", "depth_zbuffer"),
        Cell("mean map", "mean map", "depth_zbuffer"),
        EMBEDDED,
        "python benchmarks/few_shot_rooms.py --parts tasks",
    ),
    Row(
        "few_shot_tasks",
        "normals, 10 rooms, 100 steps",
        "mean angle, ° ↓",
        Cell("`auto`", "auto", "normal"),
        Cell("mean map", "mean map", "normal"),
        EMBEDDED,
        "python benchmarks/few_shot_rooms.py --parts tasks",
    ),
    Row(
        "few_shot_tasks",
        "30 classes, 10 rooms, 100 steps",
        "mIoU ↑",
        Cell("`auto`", "auto", "segment_semantic"),
        Cell("mean map", "mean map", "segment_semantic"),
        EMBEDDED,
        "python benchmarks/few_shot_rooms.py --parts tasks",
    ),
    Row(
        "few_shot_orderings",
        "depth, 10 rooms, 250 steps",
        "RMSE, m ↓",
        Cell(
            "FewShot",
            "mean",
            "depth_zbuffer, rmse_valid | FewShot: 10 tables, self-attention, classification",
        ),
        Cell("mean map", "mean", "depth_zbuffer, rmse_valid | mean map"),
        EMBEDDED,
        "python benchmarks/few_shot_rooms.py --parts orderings",
    ),
    Row(
        "few_shot_orderings",
        "depth, 10 rooms, 250 steps",
        "RMSE, m ↓",
        Cell("VPD", "mean", "depth_zbuffer, rmse_valid | VPD"),
        Cell("mean map", "mean", "depth_zbuffer, rmse_valid | mean map"),
        EMBEDDED,
        "python benchmarks/few_shot_rooms.py --parts orderings",
    ),
    Row(
        "pretraining_helps_128",
        "depth, 10 rooms, frozen features",
        "RMSE, m ↓",
        Cell("light head", "N = 10", "depth (RMSE, m) | frozen pretrained features, light head"),
        Cell(
            "mean map",
            "N = 10",
            "depth (RMSE, m) | no image: mean map, for classes the majority map",
        ),
        EMBEDDED,
        FROZEN_COMMAND,
    ),
    Row(
        "pretraining_helps_128",
        "normals, 10 rooms, frozen features",
        "mean angle, ° ↓",
        Cell(
            "light head",
            "N = 10",
            "normals (mean angle, °) | frozen pretrained features, light head",
        ),
        Cell(
            "mean map",
            "N = 10",
            "normals (mean angle, °) | no image: mean map, for classes the majority map",
        ),
        EMBEDDED,
        FROZEN_COMMAND,
    ),
    Row(
        "pretraining_helps_128",
        "30 classes, 10 rooms, frozen features",
        "mIoU, % ↑",
        Cell("light head", "N = 10", "class (mIoU, %) | frozen pretrained features, light head"),
        Cell(
            "majority map",
            "N = 10",
            "class (mIoU, %) | no image: mean map, for classes the majority map",
        ),
        EMBEDDED,
        FROZEN_COMMAND,
    ),
    Row(
        "pretraining_helps",
        "depth, 10 rooms, fine-tuned",
        "RMSE, m ↓",
        Cell("light head", "N = 10", "depth (RMSE, m) | fine-tuned from pretrained"),
        Cell(
            "mean map",
            "N = 10",
            "depth (RMSE, m) | no image: mean map, for classes the majority map",
        ),
        EMBEDDED,
        "python benchmarks/pretraining_helps.py",
    ),
    Row(
        "pretraining_helps",
        "normals, 10 rooms, fine-tuned",
        "mean angle, ° ↓",
        Cell("light head", "N = 10", "normals (mean angle, °) | fine-tuned from pretrained"),
        Cell(
            "mean map",
            "N = 10",
            "normals (mean angle, °) | no image: mean map, for classes the majority map",
        ),
        EMBEDDED,
        "python benchmarks/pretraining_helps.py",
    ),
    Row(
        "pretraining_helps",
        "30 classes, 10 rooms, fine-tuned",
        "mIoU, % ↑",
        Cell("light head", "N = 10", "class (mIoU, %) | fine-tuned from pretrained"),
        Cell(
            "majority map",
            "N = 10",
            "class (mIoU, %) | no image: mean map, for classes the majority map",
        ),
        EMBEDDED,
        "python benchmarks/pretraining_helps.py",
    ),
    Row(
        "generation_check",
        "samples that show the object of their prompt",
        "% of pictures ↑",
        Cell("text to image", "result", "thing found in 200 samples of prompts that name it"),
        None,
        EMBEDDED,
        "python benchmarks/generation_check.py",
    ),
    Row(
        "ladders_vpd_semantic",
        "30 classes, 250 steps",
        "mIoU ↑",
        Cell("VPD", "mIoU", "+ maps of up and down blocks"),
        Cell("majority map", "mIoU", "majority map"),
        EMBEDDED,
        "python benchmarks/ladders.py",
    ),
    Row(
        "ladders_evp_depth",
        "depth, 150 steps",
        "RMSE, m ↓",
        Cell("EVP", "RMSE, m", "+ captions"),
        Cell("mean map", "RMSE, m", "mean map"),
        EMBEDDED,
        "python benchmarks/ladders.py",
    ),
    Row(
        "ladders_vpd_referring",
        "sentences about rooms, 3 min",
        "oIoU ↑",
        Cell("VPD", "oIoU", "VPD"),
        Cell("best place", "oIoU", "best place"),
        EMBEDDED,
        "python benchmarks/ladders.py",
    ),
    Row(
        "ladders_meta_prompts_semantic",
        "30 classes, 80 steps",
        "mIoU ↑",
        Cell("Meta Prompts", "mIoU", "meta prompts, 32, 3 passes"),
        Cell("majority map", "mIoU", "majority map"),
        EMBEDDED,
        "python benchmarks/ladders.py",
    ),
    Row(
        "ladders_meta_prompts_depth",
        "depth, 80 steps",
        "RMSE, m ↓",
        Cell("Meta Prompts", "RMSE, m", "meta prompts, 32, 3 passes"),
        Cell("mean map", "RMSE, m", "mean map"),
        EMBEDDED,
        "python benchmarks/ladders.py",
    ),
    Row(
        "ddp_rooms",
        "classes, from scratch",
        "mIoU, % ↑",
        Cell("DDP, 3 steps", "mIoU, %", "DDP"),
        Cell("most frequent class", "mIoU, %", "most frequent class"),
        SCRATCH,
        "python benchmarks/ddp_rooms.py",
    ),
    Row(
        "streets",
        "maps around a vehicle, six cameras",
        "mean IoU, % ↑",
        Cell("DDP, 3 steps", "mean IoU, %", "six cameras, 3 steps"),
        Cell("mean map", "mean IoU, %", "mean map"),
        SCRATCH,
        "python benchmarks/streets.py",
    ),
    Row(
        "pose_rooms",
        "joints of people, 200 steps",
        "AP at OKS 0.5, % ↑",
        Cell("Meta Prompts", "AP at OKS 0.5, %", "model"),
        Cell("mean pose", "AP at OKS 0.5, %", "mean pose"),
        EMBEDDED,
        "python benchmarks/pose_rooms.py",
    ),
)
