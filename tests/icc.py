"""Small ICC profiles, made by numbers: matrix profiles, grey ones, and one for CMYK."""

import struct
from collections.abc import Sequence

import numpy as np

# Primaries as XYZ under D50, the columns R, G, B.
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
WHITE = (0.9642, 1.0, 0.8249)


def rgb_profile(primaries: Sequence[Sequence[float]], curve: float | Sequence[float]) -> bytes:
    """A profile for RGB of these primaries; `curve` is a gamma, or the five numbers of sRGB's function."""
    tags = {name: _xyz(value) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    return _profile(b"RGB ", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(curve)))


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """Inks as a press has them: full cyan is no screen's cyan."""
    inks = {"c": (55, -37, -50), "m": (48, 74, -3), "y": (89, -5, 93), "k": (16, 0, 0)}
    table = []
    for number in range(16):  # the last ink varies fastest
        lab = np.array([100.0, 0, 0])
        for bit, ink in zip((8, 4, 2, 1), inks.values(), strict=True):
            if number & bit:
                lab = np.array([lab[0] * ink[0] / 100, lab[1] + ink[1], lab[2] + ink[2]])
        table += [round(lab[0] * 2.55), *(int(np.clip(round(value) + 128, 0, 255)) for value in lab[1:])]
    identity = struct.pack(">9i", *(65536 * (at % 4 == 0) for at in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + bytes(range(256)) * 4 + bytes(table)
    return _profile(b"CMYK", b"Lab ", {b"A2B0": lut + bytes(range(256)) * 3}, b"prtr")


def to_linear(levels: np.ndarray, curve: float | Sequence[float]) -> np.ndarray:
    """Numbers of 0..255 as light of 0..1."""
    values = levels / 255
    if isinstance(curve, float | int):
        return values**curve
    g, a, b, c, d = curve
    return np.where(values >= d, (a * values + b) ** g, c * values)


def in_srgb(
    levels: np.ndarray, primaries: Sequence[Sequence[float]], curve: float | Sequence[float]
) -> np.ndarray:
    """Numbers [..., 3] of a matrix profile as those of sRGB, by matrices; not clipped."""
    light = to_linear(levels, curve) @ np.array(primaries) @ np.linalg.inv(np.array(SRGB))
    magnitude = np.abs(light)
    encoded = np.where(magnitude <= 0.0031308, 12.92 * magnitude, 1.055 * magnitude ** (1 / 2.4) - 0.055)
    return 255 * np.sign(light) * encoded


def _profile(space: bytes, pcs: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": _xyz(WHITE), **tags}
    place = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = b"lcms" + struct.pack(">I", 0x02400000) + kind + space + pcs + bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">3i", *(round(value * 65536) for value in WHITE)) + bytes(48)
    return struct.pack(">I", place + len(data)) + head + table + data


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(curve: float | Sequence[float]) -> bytes:
    if isinstance(curve, float | int):
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(curve * 256)) + bytes(2)
    numbers = struct.pack(">5i", *(round(value * 65536) for value in curve))
    return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + numbers
