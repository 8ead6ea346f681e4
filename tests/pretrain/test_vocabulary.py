"""The tokenizer is one of CLIP's kind, and can spell anything."""

from transformers import CLIPTokenizer

from diffsight.pretrain.vocabulary import build_tokenizer

CAPTIONS = ["a kitchen with a red table", "a red sofa and a blue table in a kitchen"] * 5


def test_words_are_tokens_and_anything_can_be_spelt(tmp_path):
    build_tokenizer(CAPTIONS, tmp_path / "tokenizer", size=800, max_length=16)
    words = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert words.model_max_length == 16
    assert words.tokenize("a red kitchen")[1] == "red</w>"
    ids = words("Zébra №7 — 猫").input_ids
    assert (ids[0], ids[-1]) == (words.bos_token_id, words.eos_token_id)
    assert words.eos_token_id not in ids[:-1]
    assert words.decode(ids, skip_special_tokens=True).replace(" ", "") == "zébra№7—猫"
