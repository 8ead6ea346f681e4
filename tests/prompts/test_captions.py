"""Captions, and the mean prompt that is made of them."""

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

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "red", "chair", "bed"]
TEXTS = ["a red chair in a kitchen", "a bed", "two lamps and a table in an office"]


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BLIP, small and random."""
    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    processor.save_pretrained(folder)
    text = {
        "vocab_size": len(WORDS),
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


def test_captions_are_kept_and_only_missing_ones_are_made(
    captioner: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "captions.json"
    words = ["caption", "--data", "Folder", f"root={pairs}", "--captioner", str(captioner)]
    assert main([*words, "--out", str(out), "--device", "cpu"]) == 0
    found = json.loads(out.read_text())
    assert len(found["captions"]) == 3
    first = next(iter(found["captions"]))
    found["captions"][first] = "kept"
    del found["captions"][list(found["captions"])[-1]]
    out.write_text(json.dumps(found))
    assert main([*words, "--out", str(out), "--device", "cpu"]) == 0
    again = json.loads(out.read_text())["captions"]
    assert (len(again), again[first]) == (3, "kept")
    capsys.readouterr()
    other = [*words[:-1], "other/captioner", "--out", str(out), "--device", "cpu"]
    assert main(other) == 2
    error = capsys.readouterr().err
    for part in (str(out), str(captioner), "other/captioner", "another --out, or delete"):
        assert part in error
    assert error.count("\n") == 1
    assert json.loads(out.read_text())["captions"] == again
    del found["captioner"]
    out.write_text(json.dumps(found))
    assert main([*words, "--out", str(out), "--device", "cpu"]) == 2
    assert "are by an unnamed captioner, not by" in capsys.readouterr().err
    found["data"] = "another"
    out.write_text(json.dumps(found))
    assert main([*words, "--out", str(out), "--device", "cpu"]) == 2
    assert "captions of data set 'another', not of" in capsys.readouterr().err


def test_images_of_ones_own(
    captioner: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named by their paths from the file; a damaged one is told and the others are done."""
    out = tmp_path / "new" / "captions.json"
    words = ["caption", "--images", str(pairs / "images"), "--captioner", str(captioner)]
    words += ["--device", "cpu"]
    damaged = pairs / "images" / "p1.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"no picture")
    assert main([*words, "--out", str(out)]) == 1
    assert str(damaged) in capsys.readouterr().err
    names = [f"../pairs/images/p{i}.png" for i in range(3)]
    assert list(json.loads(out.read_text())["captions"]) == [names[0], names[2]]
    damaged.write_bytes(whole)
    assert main([*words, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert (found["data"], sorted(found["captions"])) == ("images", names)
    for more, message in [
        (["--out", str(tmp_path)], f"{tmp_path}: a folder: give --out the name of a .json file"),
        (["--out", str(out), "--batch-size", "0"], "--batch-size 0: give at least 1"),
    ]:
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--out", str(out), "--data", "Folder", f"root={pairs}"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_what_was_made_before_a_failure_is_kept(
    captioner: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, made = tmp_path / "captions.json", Captioner.__call__
    calls = []

    def failing(self: Captioner, images: list[torch.Tensor]) -> list[str]:
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(self, images)

    monkeypatch.setattr(Captioner, "__call__", failing)
    words = ["caption", "--images", str(pairs / "images"), "--captioner", str(captioner)]
    main([*words, "--out", str(out), "--device", "cpu", "--batch-size", "1"])
    assert len(json.loads(out.read_text())["captions"]) == 2


def test_the_same_image_gets_the_same_caption(captioner: Path) -> None:
    image = torch.randint(0, 256, (3, 30, 44), dtype=torch.uint8)
    make = Captioner(str(captioner))
    (alone,) = make([image])
    assert make([image, image]) == [alone, alone]
    with pytest.raises(InputError, match="no captioner there"):
        Captioner(str(captioner / "nothing"))


@pytest.mark.parametrize("pooled", [False, True])
def test_the_mean_prompt_is_the_mean_of_the_texts(pooled: bool) -> None:
    tokenizer, tower = load_text_encoder("tiny")
    rows = []
    for text in TEXTS:
        tokens = tokenizer([text], padding="max_length", max_length=16, return_tensors="pt")
        with torch.no_grad():
            said = tower(input_ids=tokens["input_ids"])
        rows.append(said.pooler_output if pooled else said.last_hidden_state[0])
    expected = torch.stack(rows).mean(dim=0)
    found = mean_prompt(TEXTS, encoder="tiny", num_tokens=16, pooled=pooled, batch_size=2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.shape == ((1, 128) if pooled else (16, 128))


def test_aggregated_prompts_from_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = tmp_path / "captions.json"
    texts = {f"p{i}": text for i, text in enumerate(TEXTS)}
    captions.write_text(json.dumps({"data": "pairs", "captions": texts}))
    out = tmp_path / "mean.safetensors"
    words = ["aggregate-prompts", "--out", str(out)]
    made = [*words, "--captions", str(captions), "--encoder", "tiny", "--tokens", "16"]
    assert main(made) == 0
    rows = load_file(out)["rows"]
    torch.testing.assert_close(rows, mean_prompt(TEXTS, encoder="tiny", num_tokens=16))
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"data": "pairs", "source": "tiny, 3 texts"}
    prompts = Aggregated(16, dim=128, weights=out)
    assert torch.equal(prompts.rows, rows)
    assert prompts(Inputs(torch.rand(2, 3, 8, 8))).shape == (2, 16, 128)
    with pytest.raises(InputError, match="16 x 128 numbers, the model takes 40 tokens of 768"):
        Aggregated(weights=out)
    with pytest.raises(InputError, match="no aggregated prompt"):
        Aggregated(weights=captions)
    assert main([*words, "--captions", str(captions)]) == 2
    assert "name one with --encoder" in capsys.readouterr().err
    names = tmp_path / "names.txt"
    names.write_text("kitchen\noffice\n")
    table = tmp_path / "table.safetensors"
    single = ["--templates", "single", "--encoder", "tiny", "--out", str(table)]
    assert main(["text-table", str(names), *single]) == 0
    assert main([*words, "--table", str(table)]) == 0
    torch.testing.assert_close(load_file(out)["rows"][0], load_file(table)["rows"].mean(dim=0))


def test_captions_of_one_data_set_are_aggregated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its parts count as one, as in the authors' mean; their names stay with the vectors."""
    paths = []
    for name, text in zip(("nyu-train", "nyu-test", "kitti-train"), TEXTS, strict=True):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps({"data": name, "captions": {"a": text}}))
    out = tmp_path / "mean.safetensors"
    words = ["aggregate-prompts", "--encoder", "tiny", "--tokens", "16", "--out", str(out)]
    assert main([*words, "--captions", str(paths[0]), str(paths[2])]) == 2
    error = capsys.readouterr().err
    assert "kitti-train.json: captions of data set 'kitti-train', those of" in error
    assert "nyu-train.json are of 'nyu-train'" in error
    assert (error.count("\n"), out.exists()) == (1, False)
    assert main([*words, "--captions", str(paths[0]), str(paths[1])]) == 0
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["data"] == "nyu-test, nyu-train"


def test_the_captioner_is_loaded_in_the_type_that_is_asked_for(
    captioner: Path, pairs: Path, tmp_path: Path
) -> None:
    image = torch.zeros(3, 32, 40, dtype=torch.uint8)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        describe = Captioner(str(captioner), dtype=dtype)
        assert {p.dtype for p in describe._model.parameters()} == {dtype}
        assert len(describe([image])) == 1
    assert {p.dtype for p in Captioner(str(captioner))._model.parameters()} == {torch.float32}
    words = ["caption", "--images", str(pairs / "images"), "--captioner", str(captioner)]
    words += ["--dtype", "bfloat16", "--device", "cpu", "--out", str(tmp_path / "captions.json")]
    assert main(words) == 0
