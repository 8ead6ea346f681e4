"""Every recipe is parsed, its model instantiated, on the meta device where large, and run there."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.datasets.disk import write_depth, write_image

from diffsight import recipes
from diffsight.cli import main
from diffsight.cli.fit import fit_parser
from diffsight.cli.recipe import parse
from diffsight.cli.recipe import read as recipe_data
from diffsight.errors import InputError
from diffsight.inference.plan import Plan
from diffsight.methods import FeatureHead, FewShot
from diffsight.model import DenseModel
from diffsight.training.fit import fit
from diffsight.types import Draws, Inputs

TASKONOMY = (
    *("depth_euclidean", "depth_zbuffer", "edge_texture", "edge_occlusion", "keypoints2d"),
    *("keypoints3d", "reshading", "principal_curvature", "normal", "segment_semantic"),
)


def instantiate(name: str):
    """The settings of a recipe, and its model; the data sets may not be there."""
    parser = fit_parser()
    large = not name.startswith("rooms/")
    words = ["--recipe", name, "--out", "unused"]
    if large:  # weights that a fresh machine does not have
        parts = recipe_data(name)["method"]["init_args"]
        for part in ("backbone", "prompts", "vision"):
            given = parts.get(part, {})
            if isinstance(given, list):  # the prompts of Meta Prompts
                for one in given:
                    if "weights" in one["init_args"]:
                        one["init_args"]["weights"] = None
                words += [f"--method.{part}", json.dumps(given)]
            elif "weights" in given.get("init_args", {}):
                words += [f"--method.{part}.weights", "null"]
            elif "images" in given.get("init_args", {}):  # of several cameras
                words += [f"--method.{part}.images.weights", "null"]
    settings = parse(parser, words, fit)
    if large:
        del settings["train"], settings["val"]
    with torch.device("meta" if large else "cpu"):
        built = parser.instantiate(settings)
        return built, DenseModel(task=built.task, method=built.method)


def run(model: DenseModel, side: int) -> torch.Tensor:
    """The output of square images, of which nothing but the shape is computed."""
    model = model.to("meta").eval()
    image = torch.empty(1, 3, side, side, device="meta")
    method = model.method
    rig = method.example_rig((side, side))
    inputs = Inputs(image, text=method.example_text(), rig=rig)
    with torch.no_grad():
        return model(inputs, draws=Draws((0,))).stack


# those of pretrain/ have no method: their stages make the embedded model (tests/pretrain)
@pytest.mark.parametrize("name", [n for n in recipes.names() if not n.startswith("pretrain/")])
def test_every_recipe(name):
    built, model = instantiate(name)
    groups = built.optim.groups(model)
    assert sum(g.numel for g in groups) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    assert (built.steps is None) != (built.epochs is None)
    assert len((recipes.FOLDER / f"{name}.yaml").read_text().splitlines()) <= 70
    side = 64 // model.output.stride
    assert run(model, 64).shape[-2:] == (model.output.grid or (side, side))
    text = (recipes.FOLDER / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert max(len(line) for line in text.splitlines()) <= 110


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("vpd/ade20k_80k", (320, 790, 1430, 1280)),
        ("vpd/ade20k_8k_a64", (470, 790, 1430, 1280)),
        ("vpd/ade20k_8k_mid", (320, 640, 1280, 1430)),
        ("vpd/refcoco", (320, 680, 1320, 1280)),
        ("vpd/refcocog", (320, 717, 1357, 1280)),
    ],
)
def test_what_necks_and_heads_of_vpd_get_at_full_size(name, channels):
    """The authors' shapes; that of the middle block's map is our reading."""
    _, model = instantiate(name)
    seen = []
    first = model.method.neck or model.method.head
    first.register_forward_pre_hook(lambda _, args: seen.extend(args[0].features))
    run(model, 512)
    assert [tuple(x.shape[1:]) for x in seen] == [
        (count, side, side) for count, side in zip(channels, (64, 32, 16, 8), strict=True)
    ]


def test_vpd_on_nyu_is_the_authors():
    built, model = instantiate("vpd/depth_nyu")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 872_228_161
    groups = {g.name: (g.lr_scale, g.weight_decay) for g in built.optim.groups(model)}
    assert groups == {
        "method.backbone.unet": (0.01, 0.1),
        "method.backbone.unet, vectors": (0.01, 0.0),
        "everything else": (1.0, 0.1),
        "everything else, vectors": (1.0, 0.0),
    }
    unet = sum(g.numel for g in built.optim.groups(model) if "unet" in g.name)
    assert unet == 859_520_964 - 12_164
    assert built.batch_size == 24
    assert [type(change).__name__ for change in built.augment] == [
        "CutDepth",
        "HorizontalFlip",
        "RandomCrop",
        "RandomBrightnessContrast",
        "RandomGamma",
        "HueSaturationValue",
    ]


def test_names_are_found_and_the_nearest_is_named(tmp_path):
    assert {"rooms/vpd_depth", "vpd/depth_nyu", "vpd/depth_kitti", "vpd/folder_depth"} <= set(
        recipes.names()
    )
    assert recipes.find("vpd/depth_nyu").read_text().startswith("# VPD, NYU")
    own = tmp_path / "own.yaml"
    own.write_text("steps: 1")
    assert recipes.find(own) == own
    with pytest.raises(InputError, match="did you mean 'vpd/depth_nyu'"):
        recipes.find(Path("vpd/dept_nyu"))


def test_a_mistyped_name_shows_three_names_and_the_way_to_all():
    with pytest.raises(InputError) as caught:
        recipes.find("vpd/folder_dept")
    message = str(caught.value)
    assert sum(name in message.replace("'", " ").split() for name in recipes.names()) == 3
    assert "'vpd/folder_depth'" in message
    assert "all: `diffsight recipes`" in message
    assert len(message) < 200


def groups_of(name: str) -> dict[str, tuple[float, float, int]]:
    built, model = instantiate(name)
    return {g.name: (g.lr_scale, g.weight_decay, g.numel) for g in built.optim.groups(model)}


def test_vpd_on_ade20k_learns_as_the_authors_run_did():
    """mmcv's first fitting key gives the UNet's transformer norms the full rate and no decay."""
    groups = groups_of("vpd/ade20k_80k")
    assert set(groups) == {
        "method.backbone.unet.*attentions.*norm*",
        "method.backbone.unet",
        "everything else",
    }
    scale, decay, norms = groups["method.backbone.unet.*attentions.*norm*"]
    assert (scale, decay) == (1.0, 0.0)
    # 16 transformers of 4 norms with a weight and a bias each
    widths = [320] * 5 + [640] * 5 + [1280] * 6
    assert norms == sum(4 * 2 * width for width in widths)
    assert groups["method.backbone.unet"][:2] == (0.1, 1e-3)
    assert norms + groups["method.backbone.unet"][2] == 859_520_964 - 12_164
    assert groups["everything else"][:2] == (1.0, 1e-3)
    paper = groups_of("vpd/ade20k_80k_paper")
    assert {scale for scale, _, _ in paper.values()} == {0.1, 1.0}
    assert paper["method.backbone.unet"][1] == 1e-4


def test_meta_prompts_is_the_authors_to_the_last_parameter():
    """Of their UNet in segmentation, the network of the time embedding is never used."""
    time_embedding = 320 * 1280 + 1280 + 1280 * 1280 + 1280
    for name, theirs, unused in (
        ("cityscapes", 911_884_522, time_embedding),
        ("ade20k", 912_018_928, time_embedding),
        ("depth_nyu", 889_411_589, 0),
    ):
        _, model = instantiate(f"meta_prompts/{name}")
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == theirs - unused
    rules, unet, everything = groups_of("meta_prompts/ade20k").values()
    assert rules == (1.0, 0.0, 99_840)  # norms of the transformers: the full rate, no decay
    assert unet[:2] == (0.1, 1e-3)
    assert everything[:2] == (1.0, 1e-3)
    rates = {scale for scale, _, _ in groups_of("meta_prompts/depth_nyu").values()}
    assert rates == {0.01, 1.0}


def test_evp_learns_slowly_where_the_authors_do():
    groups = groups_of("evp/depth_nyu")
    slow = sum(numel for scale, _, numel in groups.values() if scale == 0.01)
    # UNet without its output, autoencoder's half, text tower
    assert slow == 859_520_964 - 12_164 + 34_163_592 + 72 + 123_060_480
    referring = groups_of("evp/refcoco")
    assert referring["method.refine.*norm*"][:2] == (1.0, 0.0)
    assert sum(n for scale, _, n in referring.values() if scale == 0.01) == slow


def test_every_row_of_the_tables_has_a_recipe():
    """VPD: tables 1 to 5; EVP: tables 1 to 4 (row 1 of table 4 is VPD); FewShot: table 5.

    DDP: tables 1, 2, 4 to 7 and figure 3a; its table 3 is of maps seen from above.
    """
    known = set(recipes.names())
    ladder = ("no_prompt", "no_adapter", "no_maps", "mid", "down", "up", "a32", "a64")
    wanted = {f"vpd/ade20k_8k_{row}" for row in ladder}
    wanted |= {"vpd/ade20k_80k", "vpd/depth_nyu", "vpd/depth_nyu_1_epoch"}
    variants = ("refcoco", "refcoco_plus", "refcocog")
    wanted |= {f"vpd/{v}{e}" for v in variants for e in ("", "_1_epoch")}
    wanted |= {f"evp/depth_nyu_row{row:02d}" for row in (*range(2, 11), 12)}
    wanted |= {"evp/depth_nyu", "evp/depth_nyu_aggregated", "evp/depth_kitti", "evp/refcoco"}
    for prefix in ("", "vpd_"):  # few_shot, table 5: full supervision
        wanted |= {f"few_shot/{prefix}nyu_{task}" for task in ("depth", "normals")}
        wanted |= {f"few_shot/{prefix}taskonomy_{task}" for task in TASKONOMY}
    sizes = {"ade20k_swin": "tsbl", "cityscapes_swin": "tsb", "kitti_swin": "tsbl", "nyu_swin": "l"}
    sizes["cityscapes_convnext"] = "tsbl"
    wanted |= {f"ddp/{name}_{size}" for name, letters in sizes.items() for size in letters}
    wanted |= {f"ddp/cityscapes_convnext_{size}_aligned" for size in "tl"}
    rows = ("one_hot", "bits", "linear", "no_diffusion", "1_layer")
    rows += tuple(f"{n}_layers" for n in (2, 4, 12))
    rows += tuple(f"scale_0_{digits}" for digits in ("001", "02", "04", "1"))
    wanted |= {f"ddp/ade20k_swin_t_{row}" for row in rows}
    assert wanted <= known


def test_ddp_learns_as_released():
    """Norms of the encoder alone do not decay on ADE20K; on KITTI all norms and position tables."""
    ade, kitti = groups_of("ddp/ade20k_swin_t"), groups_of("ddp/kitti_swin_t")
    assert {decay for _, decay, _ in ade.values()} == {0.0, 0.01}
    swin_norms = 192 + 17_664 + 5_376 + 1_536 + 2_880  # patches, blocks, merging, end, feature maps
    assert ade["method.backbone.*norm*"] == (1.0, 0.0, swin_norms)
    assert kitti["method.backbone.*relative_position_bias_table"][2] == 169 * (6 + 12 + 72 + 48)


def test_one_run_is_scored_where_both_columns_of_the_table_are():
    """VPD, tables 2 and 5: after 4,000 and 8,000 steps of one schedule."""
    for name in recipes.names():
        if "ade20k_8k" in name:
            data = recipe_data(name)
            assert (data["steps"], data["validate_every"], data["monitor"]) == (8000, 4000, "miou")


@pytest.mark.parametrize(
    ("name", "passes", "oracle"),
    [
        ("vpd/depth_nyu", 4, True),
        ("evp/depth_nyu_row02", 16, True),
        ("evp/depth_nyu", 16, False),
        ("evp/depth_kitti", 40, False),
    ],
)
def test_validation_is_that_of_the_paper(name, passes, oracle):
    data = recipe_data(name)
    hw = (352, 1216) if "kitti" in name else (480, 640)
    assert Plan(**data["evaluation_plan"]).passes(*hw) == passes
    assert data.get("oracle_scene", False) == oracle


def test_heads_are_bounded_by_the_largest_depth_of_their_task():
    """The authors' caps: 10 m indoors, 80 m on roads."""
    for name in recipes.names():
        if "depth" not in name:
            continue
        task = recipe_data(name)["task"]["init_args"]
        outdoor = "kitti" in name
        expected = 128.0 if "taskonomy" in name else (80.0 if outdoor else 10.0)
        assert task["max_depth_m"] == expected, name


def test_few_shot_learns_as_its_defaults_say():
    groups = groups_of("rooms/few_shot_depth")
    assert {name: scale for name, (scale, _, _) in groups.items()} == {
        name.replace("codebook", "method.codebook").replace("concepts", "method.concepts"): rate
        for name, rate in FewShot.few_shot_defaults().learning_rates.items()
    }
    assert {decay for _, decay, _ in groups.values()} == {0.0}
    built, _ = instantiate("rooms/feature_head_depth")
    assert built.optim.lr == FeatureHead.few_shot_defaults().learning_rates[""]


def test_few_shot_learns_the_numbers_of_the_paper():
    """50 concepts of 1024 numbers; ten tables of 50 values, mixed by 768 CLIP features."""
    groups = groups_of("few_shot/nyu_depth")
    counts = {name: numel for name, (_, _, numel) in groups.items()}
    assert counts["method.concepts"] == 50 * 1024
    assert counts["method.codebook.tables"] == 10 * 50
    assert counts["method.codebook.mix"] == 10 * 768


SMALL = [
    *("--steps", "2", "--batch_size", "2", "--preload", "0", "--checkpoint_every", "2"),
    *("--validate_every", "2", "--train.count", "2", "--val.count", "2"),
]


@pytest.mark.parametrize("name", [n for n in recipes.names() if n.startswith("rooms/")])
def test_two_steps_of_every_recipe_on_rooms(name, tmp_path):
    assert main(["fit", "--recipe", name, "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_classes_of_ones_own(tmp_path):
    """The data of vpd/folder_semantic, as docs/data.md says it."""
    for index in range(4):
        write_image(tmp_path / "images" / f"{index}.png", seed=index)
        write_depth(tmp_path / "labels" / f"{index}.png", 1)
    words = ["--recipe", "vpd/folder_semantic", "--out", "unused"]
    words += ["--train.root", str(tmp_path), "--val.root", str(tmp_path)]
    settings = parse(fit_parser(), words, fit)
    del settings["method"]
    built = fit_parser().instantiate(settings)
    assert len(built.train) + len(built.val) == 4
    assert built.val.class_names == {"semantic": ("background", "crack")}
    sample = built.val[0]
    assert sample.image.shape == (3, 512, 614)
    assert sample.valid["semantic"].all()
    assert set(sample.labels["semantic"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize(("kind", "labels"), [("depth", "depth"), ("semantic", "labels")])
def test_two_steps_of_the_small_recipes_on_ones_own_folder(kind, labels, tmp_path):
    data = tmp_path / "data"
    for index in range(4):
        write_image(data / "images" / f"{index}.png", seed=index, size=(160, 120))
        path = write_depth(data / labels / f"{index}.png", 2000, size=(160, 120))
        if kind == "semantic":
            ids = np.zeros((120, 160), np.uint8)
            ids[:, index * 40 :] = 1
            Image.fromarray(ids).save(path)
    words = ["--recipe", f"vpd/folder_{kind}_small", "--out", str(tmp_path / "run")]
    words += ["--train.root", str(data), "--val.root", str(data)]
    assert main(["fit", *words, *SMALL[:10]]) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", [n for n in recipes.names() if "ade20k" in n])
def test_windows_of_classes_are_filled_up_in_the_end(name):
    changes = [one["class_path"] for one in recipe_data(name)["augment"]]
    assert "ClassCrop" in changes
    assert changes[-1] == "Pad"
