"""The tables of docs/performance.md, and one of docs/results.md, from benchmarks/results/*.json.

python benchmarks/tables.py          # between the marks in these pages; what was not measured stays out
python benchmarks/tables.py --print  # on the terminal
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from common import ROOT, read_results

PERFORMANCE, RESULTS = (ROOT / "docs" / name for name in ("performance.md", "results.md"))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def seconds(row: dict[str, Any]) -> str:
    return f"{row['median_s']:.2f} ({row['min_s']:.2f} to {row['max_s']:.2f})"


def processor(row: dict[str, Any]) -> str:
    """Processor seconds; results of before have none."""
    return f"{row['cpu_s']:.2f}" if "cpu_s" in row else ""


def speed_table(results: dict[str, Any]) -> str:
    """What `bench_speed.py` measured."""
    parts = []
    rows: list[Sequence[Any]]
    if "start" in results:
        rows = [(title, seconds(row), processor(row)) for title, row in results["start"].items()]
        parts.append(table(("a process from nothing", "s (spread)", "processor s"), rows))
    if "path" in results:
        path = results["path"]
        rows = [(t, seconds(row), processor(row)) for t, row in path.items() if t not in ("peak_mb", "model")]
        rows.append(("peak memory", f"{path['peak_mb']} MB", ""))
        parts.append(
            table(
                (f"`{path.get('model', 'heart-phantom')}`, preset `fast`, model loaded", "s (spread)", "processor s"),
                rows,
            )
        )
    if "network" in results:
        rows = [
            (model, title, seconds(row), f"{row['cpu_s']:.2f}")
            for model, ways in results["network"].items()
            if model not in ("peak_mb", "waiting threads")
            for title, row in ways.items()
        ]
        parts.append(table(("model", "one network call", "s (spread)", "processor s"), rows))
        waits = results["network"]["waiting threads"]
        rows = [(p, f"{row['median_s']:.2f}", f"{row['cpu_s']:.2f}") for p, row in waits.items()]
        parts.append(table(("`OMP_WAIT_POLICY`, two threads", "s a call", "processor s"), rows))
    if "growth" in results:
        named = {
            "grid": "voxels along an edge, one call",
            "structures": "structures, one call at 64^3",
            "batch": "samples in one call, a sample",
            "samples": "samples, a run of two steps",
            "steps": "steps, a run",
        }
        rows = [
            (named[what], count, f"{row['median_s']:.2f}", f"{row['cpu_s']:.2f}", row["peak_mb"])
            for what, lines in results["growth"].items()
            for count, row in lines.items()
        ]
        parts.append(table(("growth with", "", "s", "processor s", "peak MB"), rows))
    if "volume" in results:
        stored = results["volume"]
        laps = [lap for lap in next(iter(stored.values())) if not lap.endswith("_mb")]
        rows = [
            (lap, *(f"{seconds(row[lap])}, {processor(row[lap])}".rstrip(", ") for row in stored.values()))
            for lap in laps
        ]
        rows.append(("peak memory", *(f"{row['peak_mb']} MB" for row in stored.values())))
        parts.append(table(("512 x 512 x 400 voxels", *(f"{t}, s (spread), processor s" for t in stored)), rows))
    if "precision" in results:
        rows = [
            (model, row["n"], f"{row['dice']:.5f} ({row['lowest']:.5f})", f"{row['gained']:+.5f} ({row['least']:+.5f})",
             f"{row['fp32_ms']:.0f}", f"{row['bf16_ms']:.0f}", row["auto"], f"{row['measuring_s']:.2f}")
            for model, row in results["precision"].items() if model != "peak_mb"
        ]  # fmt: skip
        head = ("labels in bf16", "n", "Dice with fp32's (lowest)", "Dice gained against the truth (lowest)")
        more = ("a pass in fp32, ms", "in bf16, ms", "`auto` takes", "to find that out, once, s")
        parts.append(table((*head, *more), rows))
    if "published" in results:
        row = results["published"]
        parts.append(
            f"A pass of the authors' network: {seconds(row)} s; 300 of them take {row['ratio']} times as long as our "
            f"whole path ({row['whole_path_s']:.2f} s)."
        )
    return "\n\n".join(parts)


def tradeoff_table(results: dict[str, Any]) -> str:
    """What `bench_tradeoff.py` measured, a table a set of cases.

    Dice, and how far it is from preset fast (2 steps, rho 0, ddim) on the same cases, as columns differ in their cases.
    """
    parts = []
    for title in sorted({row["cases"] for row in results.values()}):
        rows = {(r["sampler"], r["rho"], r["steps"]): r for r in results.values() if r["cases"] == title}
        steps = sorted({key[2] for key in rows})
        fast = rows.get(("ddim", 0.0, 2), {"per_case": {}})["per_case"]
        counts = {n: {row["n"] for key, row in rows.items() if key[2] == n} for n in steps}
        head = [title, "rho", *(f"{n}, n = {'/'.join(map(str, sorted(counts[n])))}" for n in steps)]
        lines = []
        for sampler, rho in sorted({key[:2] for key in rows}):
            cells = [cell(rows.get((sampler, rho, n)), fast) for n in steps]
            lines.append((sampler, f"{rho:g}", *cells))
        took = [statistics.median(row["median_s"] for key, row in rows.items() if key[2] == n) for n in steps]
        lines.append(("s a case, one thread", "", *(f"{s:.1f}" for s in took)))
        parts.append(table(head, lines))
    return "\n\n".join(parts)


def cell(row: dict[str, Any] | None, fast: dict[str, Any]) -> str:
    """Mean Dice, and the mean difference to ``fast`` on the same cases, where it was asked about any of them."""
    if row is None:
        return ""
    difference = against(row, fast)
    return f"{row['dice']:.3f}" + ("" if math.isnan(difference) else f" ({difference:+.3f})")


def against(row: dict[str, Any], fast: dict[str, Any]) -> float:
    """Mean difference of a setting's cases to what ``fast`` has on them; NaN where it has none of them."""
    pairs = [one["dice"] - fast[case]["dice"] for case, one in row["per_case"].items() if case in fast]
    return statistics.mean(pairs) if pairs else math.nan


def few_steps_table(results: dict[str, Any]) -> str:
    """What `bench_few_steps.py` measured: what each network's training took, then Dice against steps, a table a set."""
    parts = []
    for data, networks in results.items():
        took = [
            (name, f"{n['parameters_million']} M", n["updates"], n["batch"], f"{n['tflop']:.0f}")
            for name, n in networks.items()
        ]
        parts.append(table((f"{data} hearts", "parameters", "updates", "batch", "TFLOP"), took))
        passes = {name: n["denoised"] for name, n in networks.items() if "denoised" in n}
        if passes:
            levels = list(next(iter(passes.values())))
            lines = [(name, *(f"{found[t]:.3f}" for t in levels)) for name, found in passes.items()]
            parts.append(table(("one pass on the truth with noise", *(f"t = {t}" for t in levels)), lines))
        rows = {
            (name, r["sampler"], r["rho"], r["steps"]): r for name, n in networks.items() for r in n["rows"].values()
        }
        steps = sorted({key[3] for key in rows})
        counts = {n: max(row["n"] for key, row in rows.items() if key[3] == n) for n in steps}
        lines = []
        for name, sampler, rho in dict.fromkeys(key[:3] for key in rows):
            found = [rows.get((name, sampler, rho, n)) for n in steps]
            cells = ["" if r is None else f"{r['dice']:.3f}" + spread(r) for r in found]
            lines.append((name, sampler, f"{rho:g}", *cells))
        parts.append(table(("network", "sampler", "rho", *(f"{n}, n = {counts[n]}" for n in steps)), lines))
    return "\n\n".join(parts)


def spread(row: dict[str, Any]) -> str:
    """The interval over cases, of a row that has several."""
    return f" ({row['interval'][0]:.3f}-{row['interval'][1]:.3f})" if row["n"] > 1 else ""


def openvino_table(results: dict[str, Any]) -> str:
    """What `bench_openvino.py` measured, a table for each set of instructions that were allowed."""
    return "\n\n".join(_engines(allowed, found) for allowed, found in results.items())


def _engines(allowed: str, results: dict[str, Any]) -> str:
    calls, agreement = results["call"], results["agreement"]
    rows: list[Sequence[Any]] = []
    for title, row in agreement.items():
        took = calls[title]
        spread = f"{1e3 * took['median_s']:.1f} ({1e3 * took['min_s']:.1f} to {1e3 * took['max_s']:.1f})"
        same = f"{row['dice_with_fp32']:.4f} ({row['lowest_dice_with_fp32']:.4f})"
        gained = f"{row['dice_gained']:+.4f} ({row['lowest_gained']:+.4f})"
        rows.append((title, spread, f"{1e3 * took['cpu_s']:.0f}", row["largest_difference"], same, gained))
    n = next(iter(agreement.values()))["n"]
    head = (
        "a pass of `heart`, " + ("all instructions" if allowed == "all" else f"instructions up to {allowed}"),
        "ms (spread)",
        "processor ms",
        "largest difference of a value",
        f"Dice with PyTorch's fp32, n = {n} (lowest)",
        "Dice gained against the truth (lowest)",
    )
    once = ", ".join(f"{k} {v:.2f}" for k, v in results["once"].items())
    failed = "".join(
        f" {title} does not compile, its process ends with code {code}." for title, code in results["failed"].items()
    )
    return f"{table(head, rows)}\n\nOnce, s: {once}.{failed}"


def gpu_table(results: dict[str, Any]) -> str:
    """What `bench_gpu.py` measured, part by part; a part that was cut off says so."""
    found = {name: dict(part) for name, part in results.items() if isinstance(part, dict)}
    parts = []
    if rates := found.get("ceilings"):
        parts.append(
            f"Ceilings measured in the same run: matrix products {rates['fp32_tflops']} (fp32), {rates['tf32_tflops']} "
            f"(TF32) and {rates['bf16_tflops']} TFLOP/s (bf16), a copy {rates['copy_gb_s']} GB/s."
        )
    rows: list[Sequence[Any]] = []
    for model in ("heart-phantom", "hippocampus-mri"):
        for precision in ("fp32", "bf16"):
            row = found.get(model, {}).get(precision, {})
            if "watch" not in row:
                continue
            agreed = found[model].get("agreement", {}).get(f"{precision} with the processor", {})
            ones = [row.get(f"pass of {n}") for n in (1, 8)]
            rows.append(
                (model, precision, ms(row["fast"]), ms(row["watch"]), *(ms(one) if one else "" for one in ones),
                 *(one.get("times_fused", "") if one else "" for one in ones), row["frames_s"]["median"],
                 agreed.get("dice", ""))
            )  # fmt: skip
    head: tuple[str, ...] = ("model", "", "`fast`, ms", "`watch`, ms", "a pass, ms", "a pass of 8, ms")
    parts.append(table((*head, "x roofline", "x roofline of 8", "frames a second", "Dice with the CPU's labels"), rows))
    taken = [f"{name} {part['auto_takes']}" for name, part in found.items() if "auto_takes" in part]
    if taken:
        parts.append(f"`--precision auto` takes: {', '.join(taken)}.")
    rows = [
        (p, row["samples"], row["steps"], ms(row["one by one"]), ms(row["in one batch"]), row["times_faster"],
         f"{row['agreement']['voxels_that_differ']:.1e}", f"{row['agreement of two seeds']['voxels_that_differ']:.1e}")
        for p, row in found.get("samples", {}).items() if isinstance(row, dict)
    ]  # fmt: skip
    head = ("`heart-phantom`", "samples", "steps", "one by one, ms", "in one batch, ms", "times faster")
    parts.append(table((*head, "share of voxels with another label", "the same, of two seeds"), rows))
    rows = []
    for p, row in found.get("published", {}).items():
        if not isinstance(row, dict):
            continue
        for whose in ("ours", "authors"):
            if one := row.get(whose):
                rows.append((whose, p, ms(one), one["steps_300_s, extrapolated"], one.get("times_fused", ""),
                             row.get("times_faster", "") if whose == "ours" else ""))  # fmt: skip
    head = ("published network, 6 channels of 64^3", "", "a pass, ms", "300 of them, s (extrapolated)", "x roofline")
    parts.append(table((*head, "times faster"), rows))
    rows = [
        (name, row["updates_s"], row["samples_s"], row.get("peak_gb", ""))
        for name, row in found.get("training", {}).items() if isinstance(row, dict)
    ]  # fmt: skip
    parts.append(table(("training of `heart-phantom`'s network", "updates a second", "samples a second", "GB"), rows))
    rows = [(name, what, ms(one)) for name, row in found.get("levers", {}).items() if isinstance(row, dict)
            for what, one in row.items()]  # fmt: skip
    parts.append(table(("`heart-phantom`, a pass", "how", "ms"), rows))
    parts += [f"{name}: {part['stopped']}." for name, part in found.items() if "stopped" in part]
    return "\n\n".join(part for part in parts if part.count("\n") != 1)


def ms(row: dict[str, Any]) -> str:
    """Milliseconds: median and spread."""
    return f"{1e3 * row['median_s']:.3g} ({1e3 * row['min_s']:.3g} to {1e3 * row['max_s']:.3g})"


def machine_line(name: str) -> str:
    """On what a result was made."""
    made = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in made["versions"].items())
    card = f"{made['card']}, CUDA {made['cuda']}; " if "card" in made else ""
    return f"{card}{made['cpu']}, {made['cores']} cores, Python {made['python']}, {versions}, commit {made['commit']}."


TABLES = {
    "speed": (PERFORMANCE, speed_table),
    "tradeoff": (PERFORMANCE, tradeoff_table),
    "openvino": (PERFORMANCE, openvino_table),
    "gpu": (PERFORMANCE, gpu_table),
    "few-steps": (RESULTS, few_steps_table),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true")
    arguments = parser.parse_args()
    pages = {page: page.read_text(encoding="utf-8") for page, _ in TABLES.values()}
    for name, (page, build) in TABLES.items():
        results = read_results(name)
        text = f"{build(results)}\n\n{machine_line(name)}" if results else "Not measured yet."
        if arguments.print:
            print(f"== {name}\n\n{text}\n")
            continue
        begin, end = f"<!-- {name}: made by benchmarks/tables.py -->", f"<!-- end of {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(pages[page]):
            raise SystemExit(f"{page.name}: no place for the table '{name}'")
        pages[page] = pattern.sub(f"{begin}\n\n{text}\n\n{end}".replace("\\", r"\\"), pages[page])
    if not arguments.print:
        for page, content in pages.items():
            page.write_text(content, encoding="utf-8")
            print("written:", page.name)


if __name__ == "__main__":
    main()
