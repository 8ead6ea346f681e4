"""The tokenizer has CLIP's file format and can encode any text."""

from transformers import CLIPTokenizer

from diffsight.pretrain.vocabulary import build_tokenizer

CAPTIONS = ["a kitchen with a red table", "a red sofa and a blue table in a kitchen"] * 5


def test_frequent_words_are_tokens_and_any_text_can_be_tokenized(tmp_path):
    build_tokenizer(CAPTIONS, tmp_path / "tokenizer", size=800, max_length=16)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer.model_max_length == 16
    assert tokenizer.tokenize("a red kitchen")[1] == "red</w>"
    ids = tokenizer("Zébra №7 — 猫").input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.eos_token_id not in ids[:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "zébra№7—猫"
