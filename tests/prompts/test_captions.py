"""Captions of images, and the mean prompt of captions."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from diffsight.cli import main
from diffsight.errors import InputError
from diffsight.prompts import Aggregated
from diffsight.prompts.captions import Captioner
from diffsight.prompts.text import load_text_encoder, mean_prompt
from diffsight.types import Inputs

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
VOCABULARY = [*SPECIAL_TOKENS, "a", "red", "chair", "bed"]
CAPTIONS = ["a red chair in a kitchen", "a bed", "two lamps and a table in an office"]


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small random BLIP."""
    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    processor.save_pretrained(folder)
    text = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 16,
        "encoder_hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "bos_token_id": 5,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    root = tmp_path / "pairs"
    for part in ("images", "depth"):
        (root / part).mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (40, 32), (80 * i, 10, 200 - 60 * i)).save(root / "images" / f"p{i}.png")
        Image.new("I;16", (40, 32), 1500).save(root / "depth" / f"p{i}.png")
    return root


def test_existing_captions_are_kept_and_missing_ones_added(
    captioner: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "captions.json"
    command = ["caption", "--data", "Folder", f"root={pairs}", "--captioner", str(captioner)]
    assert main([*command, "--out", str(out), "--device", "cpu"]) == 0
    content = json.loads(out.read_text())
    assert len(content["captions"]) == 3
    first = next(iter(content["captions"]))
    content["captions"][first] = "kept"
    del content["captions"][list(content["captions"])[-1]]
    out.write_text(json.dumps(content))
    assert main([*command, "--out", str(out), "--device", "cpu"]) == 0
    again = json.loads(out.read_text())["captions"]
    assert (len(again), again[first]) == (3, "kept")
    capsys.readouterr()
    other = [*command[:-1], "other/captioner", "--out", str(out), "--device", "cpu"]
    assert main(other) == 2
    error = capsys.readouterr().err
    for part in (str(out), str(captioner), "other/captioner", "another --out, or delete"):
        assert part in error
    assert error.count("\n") == 1
    assert json.loads(out.read_text())["captions"] == again
    del content["captioner"]
    out.write_text(json.dumps(content))
    assert main([*command, "--out", str(out), "--device", "cpu"]) == 2
    assert "are by an unnamed captioner, not by" in capsys.readouterr().err
    content["data"] = "another"
    out.write_text(json.dumps(content))
    assert main([*command, "--out", str(out), "--device", "cpu"]) == 2
    assert "captions of data set 'another', not of" in capsys.readouterr().err


def test_damaged_images_of_a_folder_are_reported_and_not_captioned(
    captioner: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Captions are stored by image paths relative to the caption file."""
    out = tmp_path / "new" / "captions.json"
    command = ["caption", "--images", str(pairs / "images"), "--captioner", str(captioner)]
    command += ["--device", "cpu"]
    damaged = pairs / "images" / "p1.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"no picture")
    assert main([*command, "--out", str(out)]) == 1
    assert str(damaged) in capsys.readouterr().err
    names = [f"../pairs/images/p{i}.png" for i in range(3)]
    assert list(json.loads(out.read_text())["captions"]) == [names[0], names[2]]
    damaged.write_bytes(whole)
    assert main([*command, "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert (content["data"], sorted(content["captions"])) == ("images", names)
    for options, message in [
        (["--out", str(tmp_path)], f"{tmp_path}: is a folder: give the name of a .json"),
        (["--out", str(out), "--batch-size", "0"], "--batch-size 0: give at least 1"),
    ]:
        assert main([*command, *options]) == 2
        assert message in capsys.readouterr().err
    assert main([*command, "--out", str(out), "--data", "Folder", f"root={pairs}"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_captions_before_an_interruption_are_saved(
    captioner: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, describe = tmp_path / "captions.json", Captioner.__call__
    calls = []

    def failing(self: Captioner, images: list[torch.Tensor]) -> list[str]:
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return describe(self, images)

    monkeypatch.setattr(Captioner, "__call__", failing)
    command = ["caption", "--images", str(pairs / "images"), "--captioner", str(captioner)]
    main([*command, "--out", str(out), "--device", "cpu", "--batch-size", "1"])
    assert len(json.loads(out.read_text())["captions"]) == 2


def test_the_caption_of_an_image_does_not_depend_on_its_batch(captioner: Path) -> None:
    image = torch.randint(0, 256, (3, 30, 44), dtype=torch.uint8)
    describe = Captioner(str(captioner))
    (alone,) = describe([image])
    assert describe([image, image]) == [alone, alone]
    with pytest.raises(InputError, match="no captioner there"):
        Captioner(str(captioner / "nothing"))


@pytest.mark.parametrize("pooled", [False, True])
def test_the_mean_prompt_is_the_mean_of_the_text_features(pooled: bool) -> None:
    tokenizer, tower = load_text_encoder("tiny")
    rows = []
    for text in CAPTIONS:
        tokens = tokenizer([text], padding="max_length", max_length=16, return_tensors="pt")
        with torch.no_grad():
            output = tower(input_ids=tokens["input_ids"])
        rows.append(output.pooler_output if pooled else output.last_hidden_state[0])
    expected = torch.stack(rows).mean(dim=0)
    mean = mean_prompt(CAPTIONS, encoder="tiny", num_tokens=16, pooled=pooled, batch_size=2)
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)
    assert mean.shape == ((1, 128) if pooled else (16, 128))


def test_aggregate_prompts_writes_the_mean_of_captions_or_of_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = tmp_path / "captions.json"
    texts = {f"p{i}": text for i, text in enumerate(CAPTIONS)}
    captions.write_text(json.dumps({"data": "pairs", "captions": texts}))
    out = tmp_path / "mean.safetensors"
    command = ["aggregate-prompts", "--out", str(out)]
    options = ["--captions", str(captions), "--encoder", "tiny", "--tokens", "16"]
    assert main([*command, *options]) == 0
    rows = load_file(out)["rows"]
    torch.testing.assert_close(rows, mean_prompt(CAPTIONS, encoder="tiny", num_tokens=16))
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"data": "pairs", "source": "tiny, 3 texts"}
    prompts = Aggregated(16, dim=128, weights=out)
    assert torch.equal(prompts.rows, rows)
    assert prompts(Inputs(torch.rand(2, 3, 8, 8))).shape == (2, 16, 128)
    with pytest.raises(InputError, match="16 x 128 numbers, the model takes 40 tokens of 768"):
        Aggregated(weights=out)
    with pytest.raises(InputError, match="no aggregated prompt"):
        Aggregated(weights=captions)
    assert main([*command, "--captions", str(captions)]) == 2
    assert "name one with --encoder" in capsys.readouterr().err
    names = tmp_path / "names.txt"
    names.write_text("kitchen\noffice\n")
    table = tmp_path / "table.safetensors"
    single = ["--templates", "single", "--encoder", "tiny", "--out", str(table)]
    assert main(["text-table", str(names), *single]) == 0
    assert main([*command, "--table", str(table)]) == 0
    torch.testing.assert_close(load_file(out)["rows"][0], load_file(table)["rows"].mean(dim=0))


def test_captions_of_several_data_sets_are_not_aggregated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Splits of one data set are aggregated, as by the authors; the file records their names."""
    paths = []
    for name, text in zip(("nyu-train", "nyu-test", "kitti-train"), CAPTIONS, strict=True):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps({"data": name, "captions": {"a": text}}))
    out = tmp_path / "mean.safetensors"
    command = ["aggregate-prompts", "--encoder", "tiny", "--tokens", "16", "--out", str(out)]
    assert main([*command, "--captions", str(paths[0]), str(paths[2])]) == 2
    error = capsys.readouterr().err
    assert "kitti-train.json: captions of data set 'kitti-train', those of" in error
    assert "nyu-train.json are of 'nyu-train'" in error
    assert (error.count("\n"), out.exists()) == (1, False)
    assert main([*command, "--captions", str(paths[0]), str(paths[1])]) == 0
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["data"] == "nyu-test, nyu-train"


def test_the_captioner_is_loaded_in_the_chosen_dtype(
    captioner: Path, pairs: Path, tmp_path: Path
) -> None:
    image = torch.zeros(3, 32, 40, dtype=torch.uint8)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        describe = Captioner(str(captioner), dtype=dtype)
        assert {p.dtype for p in describe._model.parameters()} == {dtype}
        assert len(describe([image])) == 1
    assert {p.dtype for p in Captioner(str(captioner))._model.parameters()} == {torch.float32}
    command = ["caption", "--images", str(pairs / "images"), "--captioner", str(captioner)]
    command += ["--dtype", "bfloat16", "--device", "cpu", "--out", str(tmp_path / "captions.json")]
    assert main(command) == 0
