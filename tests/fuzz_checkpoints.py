"""Damage small checkpoints in many ways, and see that each ends in success or a CheckpointError.

python tests/fuzz_checkpoints.py FIRST LAST FORMAT...   runs the mutations with these seeds, in a process that
may take 1 GB more memory than it starts with, and 10 seconds a file; it prints what went wrong.
"""

import dataclasses
import functools
import io
import json
import logging
import pickletools
import random
import re
import resource
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from stylegan2 import load_generator, save_generator
from stylegan2.checkpoints import CheckpointError
from tools import checkpoint_files as files
from tools.openvino_files import write_openvino

SECONDS = 10
BYTES = 2**30
TINY = dataclasses.replace(
    files.LABELS,
    z_dim=4,
    w_dim=4,
    c_dim=2,
    img_resolution=8,
    channel_base=32,
    channel_max=4,
    mapping_layers=1,
)
MOBILE = dataclasses.replace(TINY, c_dim=0, img_resolution=16, channel_base=64, architecture="mobile")
# The XML of OpenVINO's form that is damaged; its .bin and the other network beside it are whole.
NETWORKS = {"openvino": "SynthesisNetwork.xml", "openvino-mapping": "MappingNetwork.xml"}
NAMES = ["os.system", "builtins.eval", "posix.system", "builtins.getattr", "subprocess.Popen", "torch.load"]
KINDS = ("nvidia", "tensorflow", "rosinality", "safetensors", "mobilestylegan", *NETWORKS)
# What must not happen while a file is read; opening it for reading may.
FORBIDDEN = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "exec", "compile", "pickle.", "marshal.")


def originals(kind: str) -> list[bytes]:
    """Whole files of one format, to be damaged."""
    generator = files.make(TINY)
    plain = files.make(dataclasses.replace(TINY, c_dim=0))
    if kind == "nvidia":
        return [
            files.nvidia(generator, protocol, layout=layout, attributes=layout == "ada")
            for protocol, layout in ((4, "ada"), (2, "sg3"), (5, "ada"))
        ]
    if kind == "tensorflow":
        return [files.tensorflow(generator, protocol) for protocol in (4, 2, 5)]
    if kind in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            return [(write_openvino(files.make(MOBILE), Path(folder)) / NETWORKS[kind]).read_bytes()]
    if kind == "mobilestylegan":
        return [(Path(__file__).parent / "data" / "mobilestylegan_pytorch.ckpt").read_bytes()]
    if kind == "rosinality":
        return [files.rosinality(plain), files.rosinality(plain, legacy=True), files.e4e(plain)]
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        save_generator(generator, file.name)
        return [Path(file.name).read_bytes()]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to three kinds of damage: to its bytes, or to the structure they stand for."""
    if rng.random() < 0.5:
        return _restructured(data, rng)
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(DAMAGES)(result, rng)
    return bytes(result)


def _restructured(data: bytes, rng: random.Random) -> bytes:
    """Other operations in a pickle, or other values in safetensors' header; all lengths are right again."""
    if data.startswith(b"\x80"):
        return _other_operations(data, rng)
    if data.startswith(b"<?xml"):
        return _other_elements(data, rng)
    if data.startswith(b"PK"):
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                new.writestr(name, _other_operations(content, rng) if name.endswith(".pkl") else content)
        return file.getvalue()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    target = rng.choice([header, *(value for value in header.values() if isinstance(value, dict))])
    if rng.random() < 0.5:  # the configuration is JSON in JSON
        target = json.loads(header["__metadata__"]["config"])
    value = rng.choice([0, -1, 2.5, 2**40, 10**30, None, True, "x", [], [1], {}, [[]], 1e999])
    target[rng.choice([*target, "another"])] = value
    if "img_resolution" in target:
        header["__metadata__"]["config"] = json.dumps(target)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


def _other_elements(data: bytes, rng: random.Random) -> bytes:
    """Other attributes, or other elements, in an XML that stays well-formed; or a document type before it."""
    if rng.random() < 0.05:
        entity = b'<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
        return data.replace(b"?>", b"?>" + rng.choice((entity, b'<!DOCTYPE net SYSTEM "/etc/passwd">')), 1)
    root = ElementTree.fromstring(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        parent = rng.choice([element for element in root.iter() if len(element)])
        child = rng.choice(list(parent))
        other = rng.choice(list(root.iter()))
        action = rng.randrange(5)
        if action == 0:
            parent.remove(child)
        elif action == 1:
            parent.insert(rng.randrange(len(parent) + 1), child)
        elif action == 2 and other is not root:
            parent.append(other) if child not in list(other.iter()) and parent not in list(
                other.iter()
            ) else None
        elif child.attrib:
            name = rng.choice(list(child.attrib))
            values = [
                "",
                "-1",
                "0",
                "1",
                "7",
                str(2**40),
                "1e9",
                "9" * 5000,
                "x",
                "1, 1",
                other.get("id", "f32"),
            ]
            child.set(name, rng.choice(values))
    return ElementTree.tostring(root, xml_declaration=True)


def _other_operations(data: bytes, rng: random.Random) -> bytes:
    parts = list(_operations(data))
    for _ in range(rng.choice((1, 1, 2, 4))):
        index, other = rng.randrange(1, len(parts) - 1), rng.randrange(1, len(parts) - 1)
        simple = rng.choice(
            (b"N", b"K\x05", b"J\xff\xff\xff\xff", b")", b"]", b"}", b"\x88", b"G" + b"\x7f" * 8)
        )
        parts[index] = rng.choice((b"", parts[index] * 2, parts[other], simple, b"C\x03abc", b"X\2\0\0\0ab"))
    return b"".join(parts)


@functools.cache
def _operations(data: bytes) -> tuple[bytes, ...]:
    """The pickle's operations, each with its argument; the last one has what follows the pickle too."""
    starts = [position for _, _, position in pickletools.genops(data) if position is not None]
    return tuple(data[start:stop] for start, stop in zip(starts, [*starts[1:], len(data)], strict=True))


def _place(data: bytearray, rng: random.Random) -> int:
    """A position, mostly near a name, where the structure is."""
    if rng.random() < 0.7:
        found = data.find(
            rng.choice((b"torch", b"numpy", b"bias", b"weight", b"_", b'"', b"PK", b"=", b"<")),
            _any(data, rng),
        )
        if found >= 0:
            return max(0, min(len(data), found + rng.randint(-40, 40)))
    return _any(data, rng)


def _any(data: bytearray, rng: random.Random) -> int:
    return rng.randrange(len(data) + 1)


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        position = _place(data, rng)
        if position < len(data):
            data[position] ^= 1 << rng.randrange(8)


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[_any(data, rng) :]


def _splice(data: bytearray, rng: random.Random) -> None:
    """Pickle operations, in the place of others or between them."""
    operations = (
        b"(0125NQRabcdehijloqrstu})]\x80\x81\x82\x85\x86\x87\x88\x8a\x8b\x8c\x8e\x90\x91\x92\x93\x94\x95\x96."
    )
    part = bytes(rng.choice(operations) for _ in range(rng.randint(1, 12)))
    position = _place(data, rng)
    data[position : position + rng.choice((0, len(part)))] = part


def _rename(data: bytearray, rng: random.Random) -> None:
    """Another name in the place of one that the file asks for, in both spellings that pickles have."""
    module, _, name = rng.choice(NAMES).rpartition(".")
    spellings = {
        rb"c[\w.]+\n\w+\n": f"c{module}\n{name}\n".encode(),
        rb"\x8c.(?:torch|numpy|collections|dnnlib)[\w.]*": b"\x8c" + bytes([len(module)]) + module.encode(),
        rb"\x8c.(?:_rebuild\w+|_load\w+|\w+Dict|Network)": b"\x8c" + bytes([len(name)]) + name.encode(),
    }
    pattern = rng.choice(list(spellings))
    found = list(re.finditer(pattern, data, re.DOTALL))
    if found:
        match = rng.choice(found)
        data[match.start() : match.end()] = spellings[pattern]


def _enlarge(data: bytearray, rng: random.Random) -> None:
    """A number of 1 to 8 bytes becomes huge, negative or zero."""
    size = rng.choice((1, 2, 4, 8))
    position = _place(data, rng)
    data[position : position + size] = rng.choice((b"\xff", b"\x7f", b"\x00", b"\x80")) * size


def _repeat(data: bytearray, rng: random.Random) -> None:
    start, position = _place(data, rng), _place(data, rng)
    data[position:position] = data[start : start + rng.randint(1, 64)] * rng.choice((1, 2, 500))


def _remove(data: bytearray, rng: random.Random) -> None:
    start = _place(data, rng)
    del data[start : start + rng.randint(1, 64)]


DAMAGES = (_flip, _truncate, _splice, _rename, _enlarge, _repeat, _remove)


class TooSlow(BaseException):
    pass


def failures(kind: str, seeds: range) -> Iterator[str]:
    """What went wrong, one line a file."""
    whole = originals(kind)
    events: list[str] = []
    watching = False

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if watching and (event.startswith(FORBIDDEN) or (event == "open" and "r" not in str(args[1] or "r"))):
            events.append(event)

    def alarm(*_: object) -> None:
        raise TooSlow

    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, alarm)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NETWORKS.get(kind, "file")
        if kind in NETWORKS:
            write_openvino(files.make(MOBILE), path.parent)
        for data in whole:  # what is imported late is imported now
            load_generator(files.write(path, data))
        limit = _address_space() + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for seed in seeds:
            rng = random.Random(f"{kind} {seed}")
            path.write_bytes(mutate(rng.choice(whole), rng))
            events.clear()
            started = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            watching = True
            try:
                load_generator(path)
            except CheckpointError as error:
                if "\n" in str(error) or len(str(error)) > 600:
                    yield f"{kind} {seed}: a message of {len(str(error))} characters: {str(error)[:200]!r}"
            except BaseException as error:
                yield f"{kind} {seed}: {type(error).__name__}: {error!s:.300}"
            finally:
                watching = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            if events:
                yield f"{kind} {seed}: did {', '.join(events)}"
            if time.perf_counter() - started > SECONDS:
                yield f"{kind} {seed}: took {time.perf_counter() - started:.1f} s"


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    logging.disable()
    first, last, *kinds = sys.argv[1:]
    for each in kinds:
        for line in failures(each, range(int(first), int(last))):
            print(line, flush=True)
