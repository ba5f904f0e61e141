"""Start every command twice with one --out, at almost the same time, and see that nothing is mixed: a script.

    nice python tests/two_at_once.py FOLDER --rounds 100 --seed 0 [--only NAME]

Each command of long_commands.py, and some more, has a twin: it writes to the same place, but something else.
Both share their caches. In a round the second of the two starts at a random moment of the first one's life.
In the end the output must be that of one of them, bit for bit, as when nobody disturbed it, and of one that
said that it was done; each must have ended well, or with the line that another process works there (or that
the output is there already, or was begun with other settings, if the other one was over by then).
"""

import argparse
import itertools
import random
import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from kills import Place, differences, kill, make_gan, quiet_home, wait
from long_commands import COMMANDS, FORCE, MODEL, LongCommand, make_small, write_material

TWINS = {  # what the second one is given besides
    "prepare": ("--resolution", "16"),
    "train-gan": ("--seed", "1"),
    "train-gan --condition clip": ("--seed", "1"),
    "train-mapper mlp": ("--seed", "1"),
    "train-mapper flow": ("--seed", "1"),
    "train-mapper diffusion": ("--seed", "1"),
    "train-encoder": ("--seed", "1"),
    "sample": ("--truncation", "0.3"),
    "sample sheet": ("--truncation", "0.3"),
    "generate": ("--truncation", "0.3"),
    "generate sheet": ("--truncation", "0.3"),
    "generate one": ("--truncation", "0.3"),
    "invert": ("--steps", "3"),
    "edit": ("--steps", "2"),
    "edit one": ("--steps", "2"),
    "evaluate": ("--num", "2"),
    "tools.draw_samples": ("--size", "8"),
    "tools.train_clip": ("--seed", "1"),
}
TEXT = ("generate", *MODEL, "--text", "a face")
MORE = [
    LongCommand("generate sheet", (*TEXT, "--num", "4", "--grid", "--out", "out/sheet.png"), FORCE),
    LongCommand("generate one", (*TEXT, "--out", "out/one.png"), FORCE),
    LongCommand(
        "sample sheet",
        (
            *("sample", "--generator", "../material/generator.safetensors", "--seeds", "0-5", "--grid"),
            *("--device", "cpu", "--out", "out/sheet.png"),
        ),
        FORCE,
    ),
    LongCommand(
        "edit one",
        (
            *("edit", *MODEL, "--image", "../material/photos/00.png", "--steps", "3", "--attr", "a hat"),
            *("--sheet", "--out", "out/one.png"),
        ),
        FORCE,
    ),
]
REFUSALS = (
    "another process works in out/",
    " exists already",
    "was begun with other settings",
)


@dataclass(frozen=True)
class Pair:
    """Two commands with one output, what each leaves alone, and how long the first takes."""

    commands: tuple[LongCommand, LongCommand]
    trees: tuple[dict[str, str], dict[str, str]]
    seconds: float


@dataclass
class Tally:
    """What came of the rounds of a command: how often the second was refused while the first worked."""

    rounds: int = 0
    refused: int = 0
    mixed: int = 0


def outputs(place: Place) -> dict[str, str]:
    return {name: total for name, total in place.tree().items() if name.startswith("out/")}


def run_alone(command: LongCommand, folder: Path) -> tuple[dict[str, str], float]:
    """What a command leaves when nobody disturbs it, and its seconds."""
    place, started = Place(folder).make(), time.monotonic()
    if code := wait(place.start(command)):
        sys.exit(f"{command.name} ended with {code}: see {place.folder / place.output}")
    seconds = time.monotonic() - started
    found = outputs(place)
    shutil.rmtree(folder)
    return found, seconds


def make_pair(command: LongCommand, folder: Path) -> Pair:
    twin = replace(command, words=(*command.words, *TWINS[command.name]))
    (first, seconds), (second, _) = (run_alone(each, folder) for each in (command, twin))
    if first == second:
        sys.exit(f"{command.name}: {TWINS[command.name]} changes nothing, so it cannot be told from its twin")
    return Pair((command, twin), (first, second), seconds)


def play(pair: Pair, folder: Path, dice: random.Random, tally: Tally) -> str | None:
    """Run both at once; what went wrong, or None."""
    places = (Place(folder, "first.txt").make(), Place(folder, "second.txt"))
    forced = dice.random() < 0.5
    delay = dice.choice([0.0, dice.uniform(0, pair.seconds)])
    first = places[0].start(pair.commands[0], again=forced)
    time.sleep(delay)
    second = places[1].start(pair.commands[1], again=forced)
    codes = [wait(process) for process in (first, second)]
    for process in (first, second):
        kill(process)
    tally.rounds += 1
    said = [(folder / place.output).read_text() for place in places]
    about = f"{folder}, {delay:.2f} s apart: "
    if 0 not in codes:
        return f"{about}nobody ended well: {codes}"
    for code, text in zip(codes, said, strict=True):
        line = text.splitlines()[-1] if text else ""
        if code != 0 and not (code == 1 and line.startswith("Error: ") and any(w in line for w in REFUSALS)):
            return f"{about}ended with {code}: {line}"
    tally.refused += any(REFUSALS[0] in text for text in said)
    found = outputs(places[0])
    expected = [tree for tree, code in zip(pair.trees, codes, strict=True) if code == 0]
    if found not in expected:
        return f"{about}{codes}, but {differences(expected[0], found)[:5]}"
    if left := places[0].temporary():
        return f"{about}left {left}"
    shutil.rmtree(folder)
    return None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="a new folder for everything")
    parser.add_argument("--rounds", type=int, default=100, help="over all commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a command whose name holds this")
    options = parser.parse_args()
    commands = [each for each in [*COMMANDS, *MORE] if (options.only or "") in each.name]
    dice, started = random.Random(options.seed), time.monotonic()
    folder = options.folder.resolve()
    make_small()
    write_material(folder / "material")
    wrong = rounds = refused = 0
    with quiet_home(folder):
        if any("material/gan" in word for command in commands for word in command.words):
            make_gan(folder)
        shares = [len(range(index, options.rounds, len(commands))) for index in range(len(commands))]
        for command, share in itertools.compress(zip(commands, shares, strict=True), shares):
            name, tally = command.name.replace(" ", "-"), Tally()
            pair = make_pair(command, folder / name)
            for number in range(share):
                if problem := play(pair, folder / f"{name}-{number:03d}", dice, tally):
                    tally.mixed += 1
                    print(f"    {problem}", flush=True)
            print(
                f"{command.name:27} {pair.seconds:5.1f} s {tally.rounds:3d} rounds "
                f"{tally.refused:3d} refused {tally.mixed:3d} lost or mixed",
                flush=True,
            )
            wrong, rounds, refused = wrong + tally.mixed, rounds + tally.rounds, refused + tally.refused
    print(
        f"{rounds} rounds in {time.monotonic() - started:.0f} s: {refused} times one was told of the other, "
        f"{wrong} outputs lost or mixed"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
