"""Read damaged and hostile requests and run reports by the thousand. Usage: fuzz_json.py [--count N] [--seed S]

The JSON of sound requests and reports is changed at random, with a seed: values of other kinds, numbers without end,
keys that nobody knows, deep nesting, text that is no JSON. Each mutant must become a request (a run, a report) or a
refusal of one line; anything else is counted as a fault. The exit code is 1 if there is one.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffatlas.engine.request import MaskEdit, Request
from diffatlas.engine.run_record import read_run
from diffatlas.errors import BadInput

LINE = 600
DEEP = 100_000
# What stands where a value was. "DEEP" becomes a list in a list, `DEEP` times.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, 2**31, 2**63, 2**200, -(2**63), 1e308, float("inf"), float("-inf"),
    float("nan"), 1e-320, "", "auto", "ct", "cpu", "0", "1", "nan", "../../etc/passwd", "/", "\0", "\ud800", "a" * 5000,
    "\n\r\x1b[31m", [], {}, [[]], [0], [None] * 3, [[0, 5], [0, 5], [0, 5]], [[5, 0]] * 3, [[0, 1e400]] * 3,
    [["a", "b"]] * 3, [1, 2, 3], [2**40] * 3, {"shape": [2**20] * 3, "labels": "", "t": 0.5}, {"a": {"b": {}}}, "DEEP",
)  # fmt: skip
Rng = np.random.Generator
Kind = Callable[[Any], object]


def sound(folder: Path) -> list[tuple[str, Any, Kind]]:
    """Requests and a report as JSON gives them, each with what reads it; ``folder``: for reports."""
    labels = np.zeros((3, 4, 5), np.uint8)
    edit = MaskEdit(labels, labels > 0, 0.5)
    plain = Request(model="heart-phantom", seed=3, steps=4, guidance_noise=0.5, roi=((0, 2), (0, 3), (0, 4)))
    edited = Request(task="paint", edit=edit, ignore=labels > 1, samples=2)
    source = {
        "path": "/data/a.nii.gz", "sha256": "0" * 64, "shape": [3, 4, 5], "name": "a", "modality": "ct",
        "affine": np.eye(4).tolist(),
    }  # fmt: skip
    model = {"name": "heart-phantom", "sha256": "1" * 64}
    report = {
        "provenance": {"request": plain.to_json(), "model": model, "source": source, "device": "cpu", "seconds": 1.0},
        "volumes_ml": {"left ventricle": 1.0}, "frames": [{"seconds": 1.0}], "notes": [],
    }  # fmt: skip
    path = folder / "report.json"

    def run_of(value: Any) -> object:
        path.write_text(
            value if isinstance(value, str) else json.dumps(value), encoding="utf-8", errors="surrogatepass"
        )
        return read_run(path)

    return [
        ("request", plain.to_json(), Request.from_json),
        ("request with masks", edited.to_json(), Request.from_json),
        ("report", report, run_of),
    ]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of nested data, the whole first."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from places(part, (*at, key))


def mutant(value: Any, rng: Rng) -> Any:
    """Another value or text, one to three changes away."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        ways = list(places(value))
        way = ways[int(rng.integers(0, len(ways)))]
        new = copy.deepcopy(VALUES[int(rng.integers(0, len(VALUES)))])
        if not way:
            value = new if rng.random() < 0.2 else value
            continue
        holder = value
        for key in way[:-1]:
            holder = holder[key]
        kind = rng.random()
        if kind < 0.15:
            del holder[way[-1]]
        elif kind < 0.25 and isinstance(holder, dict):
            holder[str(rng.choice(["extra", "__class__", "", "a" * 300, "seed ", "Seed"]))] = new
        else:
            holder[way[-1]] = new
    if rng.random() < 0.4:
        return value if not isinstance(value, str) else json.dumps(value)
    text = json.dumps(value).replace('"DEEP"', "[" * DEEP + "]" * DEEP)
    if rng.random() < 0.3:
        at = int(rng.integers(0, max(1, len(text))))
        text = (
            text[:at] + str(rng.choice(["", "}", "\x00", "1e999", "NaN", ",,", "9" * 5000, "\ufeff"])) + text[at + 1 :]
        )
    return text


def outcome(read: Kind, value: Any) -> tuple[str, str]:
    """What became of one mutant, and a line about it."""
    begin = time.monotonic()
    try:
        read(value)
    except BadInput as error:
        message = str(error)
        readable = message.isprintable() and len(message) <= LINE
        kind = "refused" if readable else "unreadable"
    except Exception as error:
        kind, message = "fault", f"{type(error).__name__}: {error}"
    else:
        kind, message = "read", ""
    return ("late" if time.monotonic() - begin > 5 else kind), message


def fuzz(count: int, seed: int) -> dict[str, Counter[str]]:
    """Counts of outcomes by kind; what is forbidden is printed."""
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        kinds = sound(Path(folder))
        for number in range(count):
            name, value, read = kinds[number % len(kinds)]
            changed = mutant(value, np.random.default_rng([seed, number]))
            kind, line = outcome(read, changed)
            counts.setdefault(name, Counter())[kind] += 1
            if kind not in ("read", "refused"):
                print(f"{name} {number}: {kind}: {line[:300]!r}; {str(changed)[:200]!r}", file=sys.stderr)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begin = time.monotonic()
    counts = fuzz(given.count, given.seed)
    kinds = ("read", "refused", "fault", "unreadable", "late")
    print("| JSON of a | mutants | " + " | ".join(kinds) + " |")
    print("|---" * (len(kinds) + 2) + "|")
    for name, counter in counts.items():
        print(f"| {name} | {sum(counter.values())} | " + " | ".join(str(counter[k]) for k in kinds) + " |")
    print(f"{given.count} mutants, seed {given.seed}, {time.monotonic() - begin:.0f} s")
    return int(any(counter[kind] for counter in counts.values() for kind in kinds[2:]))


if __name__ == "__main__":
    sys.exit(main())
