"""Mutations of valid files, of their bytes or of the contents of their format.

Every mutation uses a random generator; the same state of the generator gives the same bytes.
"""

import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fuzz_plain import (
    NUMBERS,
    Random,
    change,
    change_json,
    change_lines,
    change_text,
    change_yaml,
    write_json,
    wrong_plain,
)

Mutation = Callable[[bytes, bytes, Random], bytes]
"""Returns the mutated bytes of a file; the second file is another valid one, for splices."""

EDGES = (0, 1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
DTYPES = ("F64", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "F8_E8M0", "C64", "X")


def cut(data: bytes, _: bytes, rng: Random) -> bytes:
    """Truncate the file, often near its end or its beginning."""
    position = rng.choice((rng.randrange(len(data) + 1), len(data) - 1 - rng.randrange(64)))
    return data[: max(0, rng.choice((position, rng.randrange(min(64, len(data) + 1)))))]


def flip(data: bytes, _: bytes, rng: Random) -> bytes:
    """Flip some bits, half of the time in the header."""
    changed = bytearray(data)
    end = len(data) if rng.random() < 0.5 else min(len(data), 256)
    for _one in range(rng.choice((1, 1, 2, 8, 32))):
        changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def insert(data: bytes, _: bytes, rng: Random) -> bytes:
    """Insert random bytes, zeros, ones, Latin-1 text or a part of the file itself."""
    position, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 4, 8, 100, 5000))
    start = rng.randrange(len(data))
    added = rng.choice(
        (
            rng.randbytes(length),
            b"\0" * length,
            b"\xff" * length,
            b"\xe4\xf6" * length,
            data[start:][:length],
        )
    )
    return data[:position] + added + data[position:]


def delete(data: bytes, _: bytes, rng: Random) -> bytes:
    """Delete a part of the file."""
    position = rng.randrange(len(data))
    return data[:position] + data[position + rng.choice((1, 2, 4, 8, 100, 5000)) :]


def splice(data: bytes, other: bytes, rng: Random) -> bytes:
    """Join the beginning of a file with the end of another one, or replace it by the other."""
    if rng.random() < 0.2:
        return other
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def overwrite(data: bytes, _: bytes, rng: Random) -> bytes:
    """Overwrite a field with an extreme number, in either byte order."""
    size = rng.choice((1, 2, 4, 8))
    end = len(data) if rng.random() < 0.5 else min(len(data), 256)
    position = rng.randrange(max(1, end - size))
    order = rng.choice(("little", "big"))
    field = (rng.choice(EDGES) % 256**size).to_bytes(size, order)
    return data[:position] + field + data[position + size :]


def odd(_data: bytes, _: bytes, rng: Random) -> bytes:
    """Return bytes that are not a valid file of any format."""
    return rng.choice(
        (
            b"",
            b"\0",
            b"\n",
            b"null",
            b"[]",
            b"{}",
            b'"text"',
            b"NaN",
            b"\xef\xbb\xbf",
            b"\xff\xfe\0\0",
            b"[" * 10_000,
            b"[" * 10_000 + b"]" * 10_000,
            b'{"a":' * 10_000,
            b"1" * 5000,
            b"-" * 1000,
            "k\u00fcche: 1\n".encode("latin-1"),
            b"a: &a [*a]\n",
            rng.randbytes(300),
        )
    )


BYTES: Mapping[str, Mutation] = {
    "cut": cut,
    "flip": flip,
    "insert": insert,
    "delete": delete,
    "splice": splice,
    "overwrite": overwrite,
    "odd": odd,
}


def change_safetensors(data: bytes, _: bytes, rng: Random) -> bytes:
    """Change the header of a safetensors file: lengths, offsets, types, shapes, metadata."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    entry = header[rng.choice(names)]
    action = rng.randrange(8)
    if action == 0:
        return rng.choice(EDGES).to_bytes(8, "little") + data[8:]
    if action == 1:
        entry["dtype"] = rng.choice(DTYPES)
    elif action == 2:
        entry["shape"] = rng.choice(([], [-1], [2**40], [2**32, 2**32], [0], [1] * 70, None))
    elif action == 3:
        start, end = entry["data_offsets"]
        pairs = ([end, start], [0, 2**63], [-1, end], [start, end + 1], [start + 1, end], [0, 0])
        entry["data_offsets"] = rng.choice((*pairs, [start], [start, end, end], [0.5, 1e30], None))
    elif action == 4:
        header[rng.choice(names)] = dict(header[rng.choice(names)])
    elif action == 5 and "__metadata__" in header:
        metadata = header["__metadata__"]
        for name, text in metadata.items():
            if text.startswith(("{", "[")):
                metadata[name] = change_json(text.encode(), b"", rng).decode()
    else:
        header = change(header, rng, lambda old: wrong_plain(old, rng))
    text = write_json(header)
    return len(text).to_bytes(8, "little") + text + body


def change_tensors(data: bytes, _: bytes, rng: Random) -> bytes:
    """Change the contents of a torch checkpoint, and write it in the old or the new format."""
    value = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")

    def wrong(old: Any) -> Any:
        if isinstance(old, torch.Tensor) and rng.random() < 0.7:
            shapes = (old[None], old.flatten(), old.flatten()[:0], old.flatten()[:1], old.mT)
            types = (old.half(), old.bool(), old.long(), old * float("nan"), old.to("meta"))
            sparse = (old.flatten()[:1].expand(10**9), old.to_sparse(), torch.tensor(7))
            return rng.choice((*shapes, *types, *sparse))
        plain = (None, True, "", "text", b"x", *NUMBERS, 10**5000, [], {}, (), [old], {"a": old})
        return rng.choice((*plain, {1: old}, float("nan"), torch.zeros(()), torch.Size([2**40])))

    target = io.BytesIO()
    changed = change(value, rng, wrong)
    torch.save(changed, target, _use_new_zipfile_serialization=rng.random() < 0.7)
    return target.getvalue()


def change_zip(data: bytes, other: bytes, rng: Random) -> bytes:
    """Change, remove, rename, repeat or compress a member of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    pickles = [i for i, (name, _) in enumerate(members) if name.endswith("data.pkl")]
    index = rng.choice((*pickles, rng.randrange(len(members))))
    name, content = members[index]
    action = rng.choice(("change", "change", "change", "remove", "rename", "repeat", "bomb"))
    compression = zipfile.ZIP_STORED
    if action == "change":
        mutation = change_pickle if index in pickles else rng.choice(list(BYTES.values()))
        members[index] = (name, mutation(content or b"\0", other, rng))
    elif action == "remove":
        del members[index]
    elif action == "rename":
        members[index] = (rng.choice((name[:-1], "../" + name, "x", "data.pkl")), content)
    elif action == "repeat":
        members.append(members[index])
    else:
        compression = zipfile.ZIP_DEFLATED
        members[index] = (name, content + b"\0" * rng.choice((10, 2**26)))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for member in members:
            archive.writestr(*member)
    return target.getvalue()


def change_pickle(data: bytes, other: bytes, rng: Random) -> bytes:
    """Change the opcodes of a pickle: numbers, lengths, memo keys, names, nesting."""
    position = rng.randrange(len(data) + 1)
    number = rng.choice(EDGES)
    codes = (
        b"r" + (number % 2**32).to_bytes(4, "little"),  # LONG_BINPUT
        b"j" + (number % 2**32).to_bytes(4, "little"),  # LONG_BINGET
        b"X" + (number % 2**32).to_bytes(4, "little"),  # BINUNICODE
        b"B" + (number % 2**32).to_bytes(4, "little"),  # BINBYTES
        b"\x8e" + number.to_bytes(8, "little"),  # BINBYTES8
        b"\x8b" + (number % 2**31).to_bytes(4, "little") + b"\xff" * 100,  # LONG4
        b"\x96" + number.to_bytes(8, "little"),  # BYTEARRAY8
        b"J" + (number % 2**32).to_bytes(4, "little"),  # BININT
        b"I" + b"7" * 5000 + b"\n",  # INT
        b"cos\nsystem\n",
        b"cargparse\nNamespace\n)\x81}b",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        b"ccollections\nOrderedDict\n)R",
        b"(" * 1000,
        b"]" * 1000 + b"a" * 999,
        bytes([rng.randrange(256)]),
        b"".join(bytes([rng.choice(b"(.0123deau]})tslbRqhKMNQ")]) for _ in range(20)),
    )
    if rng.random() < 0.7:
        skipped = rng.choice((0, 0, 1, 5))
        return data[:position] + rng.choice(codes) + data[position + skipped :]
    return rng.choice(list(BYTES.values()))(data, other, rng)


def make_tar(data: bytes, _: bytes, rng: Random) -> bytes:
    """Return a damaged tar archive with the member names of torch's oldest format."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name in rng.sample(
            ("pickle", "storages", "tensors", "sys_info", "x"), rng.choice((1, 4))
        ):
            info = tarfile.TarInfo(name)
            info.size = min(len(data), 2000)
            archive.addfile(info, io.BytesIO(data[:2000]))
    return BYTES[rng.choice(("cut", "flip", "overwrite"))](target.getvalue(), b"", rng)


def change_npy(data: bytes, _: bytes, rng: Random) -> bytes:
    """Change the header of an NPY file."""
    shapes = ("()", "(-1,)", "(2**40,)", "(1099511627776, 1099511627776)", "(0, 0)", "(24, 20, 9)")
    kinds = ("O", "|V8", "U9", "<f2", "<c16", "<M8[s]", "?", ">i8", "[('a', '<f4')]", "<f16")
    header = "{{'descr': {!r}, 'fortran_order': {}, 'shape': {}, }}".format(
        rng.choice(kinds),
        rng.choice(("True", "False", "None")),
        rng.choice((*shapes, "(24, 20)", "[24]", "(" * 300 + ")" * 300, "7" * 5000)),
    )
    text = header.encode().ljust(118) + b"\n"
    start = int.from_bytes(data[8:10], "little") + 10
    return data[:8] + len(text).to_bytes(2, "little") + text + data[start:]


def change_png(data: bytes, _: bytes, rng: Random) -> bytes:
    """Change a chunk of a PNG, and write valid checksums."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    index = rng.choice((0, rng.randrange(len(chunks))))
    kind, content = chunks[index]
    content = BYTES[rng.choice(("flip", "overwrite", "cut", "insert"))](content or b"\0", b"", rng)
    chunks[index] = (rng.choice((kind, kind, b"tEXt", b"eXIf", b"iCCP", b"acTL")), content)
    out = data[:8]
    for name, body in chunks:
        sum_ = zlib.crc32(name + body).to_bytes(4, "big")
        out += len(body).to_bytes(4, "big") + name + body + sum_
    return out


FORMATS: Mapping[str, Mapping[str, Mutation]] = {
    "bytes": {},
    "call": {"json": change_json},
    "json": {"json": change_json},
    "lines": {"json": change_lines, "text": change_text},
    "yaml": {"yaml": change_yaml},
    "text": {"text": change_text},
    "safetensors": {"header": change_safetensors},
    "torch": {"zip": change_zip, "contents": change_tensors},
    "legacy": {"pickle": change_pickle, "contents": change_tensors, "tar": make_tar},
    "pickle": {"pickle": change_pickle},
    "npy": {"npy": change_npy},
    "png": {"png": change_png},
}


def mutate(data: bytes, other: bytes, kind: str, rng: Random) -> tuple[str, bytes]:
    """Return the name of a mutation and the mutated file.

    Mutations of the format are more frequent than mutations of the bytes.

    Args:
        data: valid file.
        other: another valid file.
        kind: key of ``FORMATS``.
        rng: generator of all random choices.
    """
    own = FORMATS[kind]
    table = own if own and (kind == "call" or rng.random() < 0.6) else BYTES
    name = rng.choice(list(table))
    try:
        return name, table[name](data, other, rng)
    except Exception:  # the changed value cannot be written in this format
        return "flip", flip(data, other, rng)
