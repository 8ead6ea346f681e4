"""A byte-pair vocabulary in CLIP's file format, learned from captions."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from diffsight.pretrain.folder import write, write_json

MARKS = ("bos_token", "eos_token", "unk_token", "pad_token")


def build_tokenizer(captions: Iterable[str], folder: Path, *, size: int, max_length: int) -> None:
    """Write a tokenizer that ``CLIPTokenizer`` loads; frequent words become one token each.

    Args:
        captions: text to learn from; any other text is spelt out in smaller pieces.
        folder: where it goes.
        size: most entries of the vocabulary.
        max_length: tokens of a text, begin and end included.
    """
    learned = CLIPTokenizer().train_new_from_iterator(captions, size, show_progress=False)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length}
    settings |= {mark: str(getattr(learned, mark)) for mark in MARKS}

    # numbered again, because the trainer's numbers depend on the run; any text can be spelt: every
    # byte, inside a word and at its end
    bytes_ = sorted(ByteLevel.alphabet())
    pieces = sorted(learned.get_vocab(), key=lambda piece: (len(piece), piece))
    marks = list(dict.fromkeys(settings[mark] for mark in MARKS))
    words = dict.fromkeys([*marks, *bytes_, *(f"{letter}</w>" for letter in bytes_), *pieces])
    vocabulary = {word: number for number, word in enumerate(words)}

    def save(staging: Path) -> None:
        learned.backend_tokenizer.model.save(str(staging))  # vocab.json, merges.txt
        (staging / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        write_json(staging / "tokenizer_config.json", settings)

    write(folder, save)
