"""Mutations of plain data: values of JSON and YAML, lines of text files."""

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

Random = random.Random

DEEP, HUGE, TWICE = "<deep>", "<huge>", "<twice>"  # stand for what Python's JSON cannot write
NUMBERS = (0, -1, 1, 2, 7, 2**16, 2**31, 2**40, 2**63, -(2**63), 10**30, 0.5, -1.0, 1e308, 1e-300)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths (keys and indices) of a value and of every value inside of it."""
    paths = [path]
    if isinstance(value, dict):
        for key in value:
            paths += _paths(value[key], (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value[:20]):
            paths += _paths(item, (*path, index))
    return paths


def change(value: Any, rng: Random, wrong: Callable[[Any], Any]) -> Any:
    """Return a copy of plain data in which one value is replaced, removed, renamed or repeated."""
    value = copy.deepcopy(value)
    path = rng.choice(_paths(value))
    if not path:
        return wrong(value)
    *parents, last = path
    inner = value
    for key in parents:
        inner = inner[key]
    if isinstance(inner, tuple):
        return change(value, rng, wrong)
    old = inner[last]
    action = rng.choice(("replace", "replace", "replace", "remove", "rename", "repeat"))
    if action == "remove":
        del inner[last]
    elif action == "rename" and isinstance(inner, dict):
        del inner[last]
        inner[rng.choice((f"{last}x", "", "class_path", "\u00fc", str(last)[:-1]))] = old
    elif action == "repeat" and isinstance(inner, list):
        inner += [copy.deepcopy(old) for _ in range(rng.choice((1, 3, 300)))]
    elif action == "repeat" and isinstance(last, str):
        inner[TWICE + last] = wrong(old)
    else:
        inner[last] = wrong(old)
    return value


def wrong_plain(old: Any, rng: Random) -> Any:
    """Return a value of a wrong type or size that JSON and YAML can represent."""
    if isinstance(old, int | float) and rng.random() < 0.4:
        return rng.choice((*NUMBERS, -old, old * 1000, old + 1, str(old), [old]))
    texts = ("", "text", "NaN", "\u00fc\U0001f600\0", "x" * 3000, "../../etc/passwd", "os.system")
    numbers = (*NUMBERS, HUGE, float("nan"), float("inf"), -float("inf"))
    kinds = (
        (None, True, False),
        texts,
        numbers,
        ([], {}, [None], {"": None}, [[]], [old], {"a": old}, DEEP),
    )
    return rng.choice(rng.choice(kinds))


def write_json(value: Any) -> bytes:
    """Return JSON; also huge numbers, deep nesting and repeated keys, which Python cannot write."""
    text = json.dumps(value)
    text = text.replace(f'"{DEEP}"', "[" * 10_000 + "]" * 10_000)
    return text.replace(f'"{HUGE}"', "7" * 5000).replace(TWICE, "").encode()


def change_json(data: bytes, _: bytes, rng: Random) -> bytes:
    """Change a value of a JSON file."""
    value = change(json.loads(data), rng, lambda old: wrong_plain(old, rng))
    return write_json(value)


def change_lines(data: bytes, _: bytes, rng: Random) -> bytes:
    """Change one line of a file of JSON lines."""
    lines = data.splitlines()
    index = rng.randrange(len(lines))
    lines[index] = change_json(lines[index], b"", rng)
    return b"\n".join(lines)


def change_yaml(data: bytes, _: bytes, rng: Random) -> bytes:
    """Change a value of a YAML file, or use a feature that only YAML has."""
    import yaml

    if rng.random() < 0.7:
        return write_json(change(yaml.safe_load(data), rng, lambda old: wrong_plain(old, rng)))
    bomb = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
    )
    own = (
        bomb,
        b"task: &a {init_args: *a}\n" + data,
        b"task: !!python/object:os.system {}\n",
        b"task: !!binary x\n",
        b"steps: 99:99:99:99\nseed: 0x" + b"f" * 5000,
        b"? [a, b]\n: 1\n",
        b"? {a: b}\n: 1\n",
        b"steps: " + b"7" * 5000,
        b"\ttask: 1\n",
        b"- " * 10_000,
        b"task: {a: " * 5000,
        data + b"\n...\n---\n" + data,
        data.replace(b"#", "# k\u00fcche".encode("latin-1")),
        data + b"<<: 3\n",
        data + b"seed: 2001-99-99\n",
    )
    return rng.choice(own)


def change_text(data: bytes, _: bytes, rng: Random) -> bytes:
    """Change a line or a field of a text file: lists, tables, CSV."""
    lines = data.split(b"\n")
    index = rng.randrange(len(lines))
    odd_lines = (
        b"",
        b" ",
        b",,,,,",
        b'"open',
        b"\0",
        "k\u00fcche".encode("latin-1"),
        "\u2028\u00fc".encode(),
        b"x" * 200_000,
        b"7" * 5000,
        b"NaN",
        b"-1",
        b"../../../etc/passwd ../x",
        b"/ /",
        b"a\rb",
    )
    if rng.random() < 0.5:
        lines[index] = rng.choice(odd_lines)
    else:
        fields = re.split(rb"([ ,\t]+)", lines[index])
        fields[rng.randrange(len(fields))] = rng.choice(odd_lines)
        lines[index] = b"".join(fields)
    return b"\n".join(lines)
