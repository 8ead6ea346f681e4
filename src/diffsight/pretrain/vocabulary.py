"""Build a tokenizer in CLIP's file format from captions."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from diffsight.pretrain.folder import replace_folder, write_json

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


def build_tokenizer(captions: Iterable[str], folder: Path, *, size: int, max_length: int) -> None:
    """Write a byte-pair tokenizer that ``CLIPTokenizer`` can load.

    Frequent words of the captions become one token each; all other text is split into smaller
    tokens.

    Args:
        captions: texts from which the vocabulary is built.
        folder: folder for the files of the tokenizer.
        size: greatest size of the vocabulary that is built; bytes that it lacks are added.
        max_length: greatest number of tokens of a text, including begin and end.
    """
    tokenizer = CLIPTokenizer().train_new_from_iterator(captions, size, show_progress=False)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length}
    settings |= {name: str(getattr(tokenizer, name)) for name in SPECIAL_TOKENS}

    # the tokens get new numbers, because those of the trainer differ between runs. Every byte is a
    # token, inside a word and at its end, so that any text can be split
    bytes_ = sorted(ByteLevel.alphabet())
    pieces = sorted(tokenizer.get_vocab(), key=lambda piece: (len(piece), piece))
    special_tokens = list(dict.fromkeys(settings[name] for name in SPECIAL_TOKENS))
    tokens = dict.fromkeys(
        [*special_tokens, *bytes_, *(f"{letter}</w>" for letter in bytes_), *pieces]
    )
    vocabulary = {token: number for number, token in enumerate(tokens)}

    def save(staging: Path) -> None:
        tokenizer.backend_tokenizer.model.save(str(staging))  # vocab.json, merges.txt
        (staging / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        write_json(staging / "tokenizer_config.json", settings)

    replace_folder(folder, save)
