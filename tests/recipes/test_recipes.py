"""Every recipe is parsed, and its model built and run; large models on the meta device."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support_images import write_depth, write_image

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
    """Return the settings of a recipe, without its data sets if it is large, and its model."""
    parser = fit_parser()
    is_large = not name.startswith("rooms/")
    arguments = ["--recipe", name, "--out", "unused"]
    if is_large:  # without pretrained weights, which would be downloaded
        parts = recipe_data(name)["method"]["init_args"]
        for part in ("backbone", "prompts", "vision"):
            config = parts.get(part, {})
            if isinstance(config, list):  # the prompts of Meta Prompts
                for one in config:
                    if "weights" in one["init_args"]:
                        one["init_args"]["weights"] = None
                arguments += [f"--method.{part}", json.dumps(config)]
            elif "weights" in config.get("init_args", {}):
                arguments += [f"--method.{part}.weights", "null"]
            elif "images" in config.get("init_args", {}):  # the backbone of several cameras
                arguments += [f"--method.{part}.images.weights", "null"]
    settings = parse(parser, arguments, fit)
    if is_large:
        del settings["train"], settings["val"]
    with torch.device("meta" if is_large else "cpu"):
        built = parser.instantiate(settings)
        return built, DenseModel(task=built.task, method=built.method)


def run(model: DenseModel, side: int) -> torch.Tensor:
    """Run a model on a square image on the meta device; return the output, which has no values."""
    model = model.to("meta").eval()
    image = torch.empty(1, 3, side, side, device="meta")
    method = model.method
    rig = method.example_rig((side, side))
    inputs = Inputs(image, text=method.example_text(), rig=rig)
    with torch.no_grad():
        return model(inputs, draws=Draws((0,))).stack


# recipes in pretrain/ have stages instead of a method; tests/pretrain tests them
@pytest.mark.parametrize("name", [n for n in recipes.names() if not n.startswith("pretrain/")])
def test_every_recipe_builds_a_model_that_can_be_run_and_trained(name):
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
def test_vpd_features_have_the_shapes_of_the_authors(name, channels):
    """For maps of the middle block, the paper states no shape; this one is our interpretation."""
    _, model = instantiate(name)
    features = []
    first = model.method.neck or model.method.head
    first.register_forward_pre_hook(lambda _, args: features.extend(args[0].features))
    run(model, 512)
    assert [tuple(x.shape[1:]) for x in features] == [
        (count, side, side) for count, side in zip(channels, (64, 32, 16, 8), strict=True)
    ]


def test_vpd_on_nyu_has_the_settings_of_the_authors():
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


def test_recipes_are_located_by_name_or_path(tmp_path):
    assert {"rooms/vpd_depth", "vpd/depth_nyu", "vpd/depth_kitti", "vpd/folder_depth"} <= set(
        recipes.names()
    )
    assert recipes.find("vpd/depth_nyu").read_text().startswith("# VPD, NYU")
    own = tmp_path / "own.yaml"
    own.write_text("steps: 1")
    assert recipes.find(own) == own
    with pytest.raises(InputError, match="did you mean 'vpd/depth_nyu'"):
        recipes.find(Path("vpd/dept_nyu"))


def test_a_mistyped_name_gets_three_suggestions_and_the_command_for_all():
    with pytest.raises(InputError) as caught:
        recipes.find("vpd/folder_dept")
    message = str(caught.value)
    assert sum(name in message.replace("'", " ").split() for name in recipes.names()) == 3
    assert "'vpd/folder_depth'" in message
    assert "all: `diffsight recipes`" in message
    assert len(message) < 200


def groups_of(name: str) -> dict[str, tuple[float, float, int]]:
    """Return learning-rate factor, weight decay and size of the parameter groups of a recipe."""
    built, model = instantiate(name)
    return {g.name: (g.lr_scale, g.weight_decay, g.numel) for g in built.optim.groups(model)}


def test_vpd_on_ade20k_has_the_parameter_groups_of_the_authors_run():
    """mmcv uses the first matching key, so the norms of the UNet's transformers do not decay."""
    groups = groups_of("vpd/ade20k_80k")
    assert set(groups) == {
        "method.backbone.unet.*attentions.*norm*",
        "method.backbone.unet",
        "everything else",
    }
    scale, decay, norms = groups["method.backbone.unet.*attentions.*norm*"]
    assert (scale, decay) == (1.0, 0.0)
    # 16 transformers have 4 norms each, with weight and bias
    widths = [320] * 5 + [640] * 5 + [1280] * 6
    assert norms == sum(4 * 2 * width for width in widths)
    assert groups["method.backbone.unet"][:2] == (0.1, 1e-3)
    assert norms + groups["method.backbone.unet"][2] == 859_520_964 - 12_164
    assert groups["everything else"][:2] == (1.0, 1e-3)
    paper = groups_of("vpd/ade20k_80k_paper")
    assert {scale for scale, _, _ in paper.values()} == {0.1, 1.0}
    assert paper["method.backbone.unet"][1] == 1e-4


def test_meta_prompts_has_the_parameter_counts_of_the_authors():
    """The authors' segmentation models also contain an unused time embedding."""
    time_embedding = 320 * 1280 + 1280 + 1280 * 1280 + 1280
    for name, theirs, unused in (
        ("cityscapes", 911_884_522, time_embedding),
        ("ade20k", 912_018_928, time_embedding),
        ("depth_nyu", 889_411_589, 0),
    ):
        _, model = instantiate(f"meta_prompts/{name}")
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == theirs - unused


UNET = 859_520_964 - 2_050_560  # Stable Diffusion's UNet without its time embedding


@pytest.mark.parametrize(("name", "classes"), [("cityscapes", 19), ("ade20k", 150)])
def test_meta_prompts_segmentation_has_the_parameter_groups_of_the_authors(name, classes):
    """In the code, transformer norms have the full rate and no decay; in the paper, one group."""
    heads = {19: 27_203_091 + 701_971, 150: 27_270_294 + 769_174}[classes]
    others = 24_339_456 + 150 * 768 + 3 * 1280 + heads
    assert groups_of(f"meta_prompts/{name}") == {
        "method.backbone.unet.*attentions.*norm*": (1.0, 0.0, 99_840),
        "method.backbone.unet": (0.1, 1e-3, UNET - 99_840),
        "everything else": (1.0, 1e-3, others),
    }
    paper = f"meta_prompts/{name}_paper"
    assert groups_of(paper) == {"everything": (1.0, 1e-3, UNET + others)}
    assert recipe_data(paper)["optim"]["init_args"]["lr"] == 8e-5
    assert (recipe_data(paper)["batch_size"], recipe_data(paper)["steps"]) == (16, 80_000)


@pytest.mark.parametrize("name", ["depth_nyu", "depth_kitti"])
def test_meta_prompts_depth_has_the_parameter_groups_of_the_authors(name):
    """In the code, one-dimensional tensors and biases do not decay; the paper has one group."""
    built, model = instantiate(f"meta_prompts/{name}")
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    vectors = {n: p.numel() for n, p in trained.items() if p.ndim == 1 or n.endswith("bias")}
    slow = sum(count for n, count in vectors.items() if ".unet." in n)
    fast = sum(vectors.values()) - slow
    others = 27_874_240 + 119_040 + 3_543_552 + 404_353
    assert (slow, fast) == (441_284, 18_817)
    groups = {g.name: (g.lr_scale, g.weight_decay, g.numel) for g in built.optim.groups(model)}
    assert groups == {
        "method.backbone.unet": (0.01, 0.1, UNET - slow),
        "method.backbone.unet, vectors": (0.01, 0.0, slow),
        "everything else": (1.0, 0.1, others - fast),
        "everything else, vectors": (1.0, 0.0, fast),
    }
    paper = f"meta_prompts/{name}_paper"
    assert groups_of(paper) == {"everything": (1.0, 0.1, UNET + others)}
    assert recipe_data(paper)["optim"]["init_args"]["lr"] == 5e-4
    assert (recipe_data(paper)["batch_size"], recipe_data(paper)["epochs"]) == (24, 25)


def test_evp_has_the_learning_rates_of_the_authors():
    groups = groups_of("evp/depth_nyu")
    slow = sum(numel for scale, _, numel in groups.values() if scale == 0.01)
    # UNet without its output layer, encoder of the autoencoder, text encoder
    assert slow == 859_520_964 - 12_164 + 34_163_592 + 72 + 123_060_480
    referring = groups_of("evp/refcoco")
    assert referring["method.refine.*norm*"][:2] == (1.0, 0.0)
    assert sum(n for scale, _, n in referring.values() if scale == 0.01) == slow


def test_every_row_of_the_tables_in_the_papers_has_a_recipe():
    """These are the tables 1 to 5 of VPD and of Meta Prompts, and table 5 of FewShot.

    Of EVP, tables 1 to 4, where row 1 of table 4 is VPD. Of DDP, tables 1, 2 and 4 to 7 and
    figure 3a; its table 3 is about bird's-eye-view maps.
    """
    names = set(recipes.names())
    ladder = ("no_prompt", "no_adapter", "no_maps", "mid", "down", "up", "a32", "a64")
    required = {f"vpd/ade20k_8k_{row}" for row in ladder}
    required |= {"vpd/ade20k_80k", "vpd/depth_nyu", "vpd/depth_nyu_1_epoch"}
    variants = ("refcoco", "refcoco_plus", "refcocog")
    required |= {f"vpd/{v}{e}" for v in variants for e in ("", "_1_epoch")}
    required |= {f"evp/depth_nyu_row{row:02d}" for row in (*range(2, 11), 12)}
    required |= {"evp/depth_nyu", "evp/depth_nyu_aggregated", "evp/depth_kitti", "evp/refcoco"}
    for prefix in ("", "vpd_"):  # few_shot, table 5: full supervision
        required |= {f"few_shot/{prefix}nyu_{task}" for task in ("depth", "normals")}
        required |= {f"few_shot/{prefix}taskonomy_{task}" for task in TASKONOMY}
    sizes = {"ade20k_swin": "tsbl", "cityscapes_swin": "tsb", "kitti_swin": "tsbl", "nyu_swin": "l"}
    sizes["cityscapes_convnext"] = "tsbl"
    required |= {f"ddp/{name}_{size}" for name, letters in sizes.items() for size in letters}
    required |= {f"ddp/cityscapes_convnext_{size}_aligned" for size in "tl"}
    rows = ("one_hot", "bits", "linear", "no_diffusion", "1_layer")
    rows += tuple(f"{n}_layers" for n in (2, 4, 12))
    rows += tuple(f"scale_0_{digits}" for digits in ("001", "02", "04", "1"))
    required |= {f"ddp/ade20k_swin_t_{row}" for row in rows}
    settings = ("cityscapes", "ade20k", "depth_nyu", "depth_kitti")
    required |= {f"meta_prompts/{name}{paper}" for name in settings for paper in ("", "_paper")}
    required |= {f"meta_prompts/{name}" for name in ("mapillary", "cityscapes_mapillary")}
    required.add("meta_prompts/coco_pose")
    rows = ("label_prompts", "caption_prompts", "100_prompts", "1_pass", "2_passes")
    rows += ("no_rearrangement", "fixed_time")
    required |= {
        f"meta_prompts/{task}_{row}" for task in ("cityscapes", "depth_nyu") for row in rows
    }
    # the papers and the released models have different numbers of prompts
    required |= {"meta_prompts/cityscapes_50_prompts", "meta_prompts/depth_nyu_150_prompts"}
    assert required <= names


def test_ddp_has_the_weight_decay_of_the_released_code():
    """Exempt are norms of the encoder on ADE20K, all norms and position tables on KITTI."""
    ade, kitti = groups_of("ddp/ade20k_swin_t"), groups_of("ddp/kitti_swin_t")
    assert {decay for _, decay, _ in ade.values()} == {0.0, 0.01}
    # norms of patch embedding, blocks, patch merging, the end and the feature maps
    swin_norms = 192 + 17_664 + 5_376 + 1_536 + 2_880
    assert ade["method.backbone.*norm*"] == (1.0, 0.0, swin_norms)
    assert kitti["method.backbone.*relative_position_bias_table"][2] == 169 * (6 + 12 + 72 + 48)


def test_ablations_of_vpd_are_scored_after_4000_and_8000_steps():
    """Tables 2 and 5 of the paper have one column for each of these steps."""
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
        ("meta_prompts/depth_nyu", 4, False),
        ("meta_prompts/depth_kitti", 32, False),
    ],
)
def test_validation_uses_the_windows_and_flips_of_the_paper(name, passes, oracle):
    data = recipe_data(name)
    hw = (352, 1216) if "kitti" in name else (480, 640)
    plan = Plan(**data["evaluation_plan"])
    assert plan.passes(*hw) == passes
    assert plan.make_windows(*hw)[-1][1] == slice(hw[1] - hw[0], hw[1])  # reaches the edge
    assert data.get("oracle_scene", False) == oracle


def test_depth_recipes_have_the_maximum_depth_of_their_data():
    """The authors limit depth to 10 m indoors and to 80 m on roads."""
    for name in recipes.names():
        if "depth" not in name:
            continue
        task = recipe_data(name)["task"]["init_args"]
        outdoor = "kitti" in name
        expected = 128.0 if "taskonomy" in name else (80.0 if outdoor else 10.0)
        assert task["max_depth_m"] == expected, name


def test_few_shot_recipes_have_the_default_learning_rates():
    groups = groups_of("rooms/few_shot_depth")
    assert {name: scale for name, (scale, _, _) in groups.items()} == {
        name.replace("codebook", "method.codebook").replace("concepts", "method.concepts"): rate
        for name, rate in FewShot.few_shot_defaults().learning_rates.items()
    }
    assert {decay for _, decay, _ in groups.values()} == {0.0}
    built, _ = instantiate("rooms/feature_head_depth")
    assert built.optim.lr == FeatureHead.few_shot_defaults().learning_rates[""]


def test_few_shot_has_the_parameter_counts_of_the_paper():
    """50 concepts have 1024 numbers each; ten tables of 50 values are mixed by 768 features."""
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
def test_recipes_on_rooms_train_two_steps(name, tmp_path):
    assert main(["fit", "--recipe", name, "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_the_recipe_folder_semantic_reads_a_folder_of_images_and_labels(tmp_path):
    """The folder has the layout that docs/data.md describes."""
    for index in range(4):
        write_image(tmp_path / "images" / f"{index}.png", seed=index)
        write_depth(tmp_path / "labels" / f"{index}.png", 1)
    arguments = ["--recipe", "vpd/folder_semantic", "--out", "unused"]
    arguments += ["--train.root", str(tmp_path), "--val.root", str(tmp_path)]
    settings = parse(fit_parser(), arguments, fit)
    del settings["method"]
    built = fit_parser().instantiate(settings)
    assert len(built.train) + len(built.val) == 4
    assert built.val.class_names == {"semantic": ("background", "crack")}
    sample = built.val[0]
    assert sample.image.shape == (3, 512, 614)
    assert sample.valid["semantic"].all()
    assert set(sample.labels["semantic"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize(("kind", "labels"), [("depth", "depth"), ("semantic", "labels")])
def test_small_folder_recipes_train_two_steps(kind, labels, tmp_path):
    data = tmp_path / "data"
    for index in range(4):
        write_image(data / "images" / f"{index}.png", seed=index, size=(160, 120))
        path = write_depth(data / labels / f"{index}.png", 2000, size=(160, 120))
        if kind == "semantic":
            ids = np.zeros((120, 160), np.uint8)
            ids[:, index * 40 :] = 1
            Image.fromarray(ids).save(path)
    arguments = ["--recipe", f"vpd/folder_{kind}_small", "--out", str(tmp_path / "run")]
    arguments += ["--train.root", str(data), "--val.root", str(data)]
    assert main(["fit", *arguments, *SMALL[:10]]) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", [n for n in recipes.names() if "ade20k" in n])
def test_padding_is_the_last_augmentation_of_ade20k_recipes(name):
    changes = [one["class_path"] for one in recipe_data(name)["augment"]]
    assert "ClassCrop" in changes
    assert changes[-1] == "Pad"
