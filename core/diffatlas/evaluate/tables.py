"""Results of a protocol: tables in Markdown, CSV and JSON, and a figure.

Figures are means over test cases of the mean over structures. Intervals are 95 % bootstrap intervals over cases
(10,000 resamples); differences are paired case by case.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffatlas.evaluate.runs import Finished, Score
from diffatlas.io import atomic_path
from diffatlas.metrics import Figure, interval

MEASURES = ("dice", "surface_dice", "hd95_mm")


@dataclass(frozen=True)
class Row:
    """One method, asked in one way, in one setting. ``measures``: name of a structure, or "mean", to measure to
    figure; ``difference``: Dice minus that of the method compared with, on the cases both have (None for that method
    itself); ``calibration_error``: expected difference between confidence and the share that is right (None with one
    sample); ``by_seed``: the mean Dice of each training seed; ``budget_tflop``: the arithmetic of its training."""

    setting: str
    method: str
    run: str
    x: float | None
    shots: int | None
    measures: dict[str, dict[str, Figure]]
    difference: Figure | None
    seconds: float
    calibration_error: float | None
    by_seed: dict[int, float]
    budget_tflop: float | None


def rows_of(finished: Finished) -> list[Row]:
    """A row for every setting, method and run that has scores, in the protocol's order."""
    protocol = finished.protocol
    grouped: dict[tuple[str, str, str], list[Score]] = {}
    for score in finished.scores:
        grouped.setdefault((score.setting, score.method, score.run), []).append(score)
    rows = []
    for setting in protocol.settings:
        reference = _reference(protocol.compare_to, setting.name, grouped)
        for method in protocol.methods_of(setting):
            for run in method.runs:
                scores = grouped.get((setting.name, method.name, run.name))
                if not scores:
                    continue
                names = list(scores[0].structures)
                measures = {name: {m: interval(_by_case(scores, m, name).values()) for m in MEASURES} for name in names}
                measures["mean"] = {m: interval(_by_case(scores, m).values()) for m in MEASURES}
                rows.append(
                    Row(
                        setting=setting.name,
                        method=method.name,
                        run=run.name,
                        x=run.x,
                        shots=setting.shots,
                        measures=measures,
                        difference=None if scores is reference else _paired(scores, reference),
                        seconds=float(np.median([s.seconds for s in scores])),
                        calibration_error=calibration_error(scores),
                        by_seed={
                            seed: interval(_by_case([s for s in scores if s.seed == seed], "dice").values()).mean
                            for seed in dict.fromkeys(s.seed for s in scores)
                        },
                        budget_tflop=None if method.model else protocol.budget_of(setting),
                    )
                )
    return rows


def _reference(name: str, setting: str, grouped: dict[tuple[str, str, str], list[Score]]) -> list[Score] | None:
    for (where, method, run), scores in grouped.items():
        if where == setting and name in (method, f"{method}, {run}"):
            return scores
    return None


def _by_case(scores: list[Score], measure: str, structure: str | None = None) -> dict[str, float]:
    """The measure of each case, over structures (or of one), over training seeds."""
    found: dict[str, list[float]] = {}
    for score in scores:
        wanted = score.structures.values() if structure is None else [score.structures[structure]]
        values = [v for row in wanted if (v := row[measure]) is not None]
        if values:
            found.setdefault(score.case, []).append(float(np.mean(values)))
    return {case: float(np.mean(values)) for case, values in found.items()}


def _paired(scores: list[Score], reference: list[Score] | None) -> Figure | None:
    if reference is None:
        return None
    ours, theirs = _by_case(scores, "dice"), _by_case(reference, "dice")
    return interval(ours[case] - theirs[case] for case in ours if case in theirs)


def calibration_error(scores: list[Score]) -> float | None:
    """Expected calibration error over the ten ranges of confidence, 0 to 1; ranges stand at their middle."""
    counts = [score.calibration for score in scores if score.calibration is not None]
    if not counts:
        return None
    given, right = np.array(counts, dtype=float).sum(axis=0).T
    middle = (np.arange(len(given)) + 0.5) / len(given)
    used = given > 0
    gap = np.abs(right[used] / given[used] - middle[used])
    return float((gap * given[used]).sum() / given.sum())


# -- as text ---------------------------------------------------------------------------------------------------------


def to_markdown(finished: Finished, rows: list[Row]) -> str:
    """The tables of a protocol as a Markdown section."""
    protocol = finished.protocol
    out = [f"## {protocol.title}", ""]
    if protocol.notes:
        out += [protocol.notes.strip(), ""]
    for setting in protocol.settings:
        mine = [r for r in rows if r.setting == setting.name]
        if not mine:
            continue
        structures = [s for s in mine[0].measures if s != "mean"]
        head = ["method", "asked", "n", "Dice (95 % interval)", "NSD", "HD95 mm", f"against {protocol.compare_to}"]
        calibrated = any(r.calibration_error is not None for r in mine)
        head += ["calibration error"] if calibrated else []
        seeded = any(len(r.by_seed) > 1 for r in mine)
        head += ["seeds"] if seeded else []
        head += [f"{s}" for s in structures] + ["s a case"]
        out += [f"### {setting.name} ({setting.kind})", "", _line(head), _line(["---"] * len(head))]
        for row in mine:
            mean = row.measures["mean"]
            cells = [
                row.method,
                row.run,
                str(mean["dice"].n),
                _with_interval(mean["dice"], 3),
                _number(mean["surface_dice"].mean, 3),
                _number(mean["hd95_mm"].mean, 2),
                "" if row.difference is None else _signed(row.difference),
            ]
            cells += [_number(row.calibration_error, 3)] if calibrated else []
            cells += [_seeds(row.by_seed)] if seeded else []
            cells += [_number(row.measures[s]["dice"].mean, 3) for s in structures]
            out.append(_line([*cells, f"{row.seconds:.2f}"]))
        out.append("")
    out += _trainings(finished)
    if finished.lacking:
        out += ["Not done yet:", "", *(f"- {line}" for line in finished.lacking), ""]
    return "\n".join(out)


def _trainings(finished: Finished) -> list[str]:
    trained = [t for t in finished.trainings if t.updates is not None]
    if not trained:
        return []
    out = ["Trainings:", "", _line(["setting", "method", "seed", "parameters", "updates", "TFLOP", "minutes"])]
    out.append(_line(["---"] * 7))
    for t in trained:
        minutes = f"{(t.seconds or 0) / 60:.1f}"
        cells = [t.setting, t.method, t.seed, f"{t.parameters / 1e6:.2f} M", t.updates, f"{t.tflop:.0f}", minutes]
        out.append(_line([str(c) for c in cells]))
    return [*out, ""]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _seeds(by_seed: dict[int, float]) -> str:
    """How many trainings, and the Dice of the worst and the best."""
    low, high = (_number(f(by_seed.values()), 3) for f in (min, max))
    return f"{len(by_seed)}: {low} to {high}" if len(by_seed) > 1 else ""


def _with_interval(figure: Figure, digits: int) -> str:
    if not figure.n:
        return "-"
    return f"{figure.mean:.{digits}f} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"


def _signed(figure: Figure) -> str:
    return "-" if not figure.n else f"{figure.mean:+.3f} ({figure.low:+.3f} to {figure.high:+.3f})"


def to_csv(rows: list[Row]) -> str:
    """One line for every setting, method, run, structure (or mean) and measure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setting", "method", "run", "x", "shots", "structure", "measure", "mean", "low", "high", "n"])
    for row in rows:
        place = [row.setting, row.method, row.run, _blank(row.x), _blank(row.shots)]
        for structure, measures in row.measures.items():
            for measure, f in measures.items():
                writer.writerow([*place, structure, measure, *(_blank(v) for v in (f.mean, f.low, f.high)), f.n])
        if row.difference is not None:
            f = row.difference
            writer.writerow([*place, "mean", "dice difference", *(_blank(v) for v in (f.mean, f.low, f.high)), f.n])
        if len(row.by_seed) > 1:
            for seed, value in row.by_seed.items():
                writer.writerow([*place, "mean", f"dice of seed {seed}", _blank(value), "", "", ""])
        if row.calibration_error is not None:
            writer.writerow([*place, "mean", "calibration error", _blank(row.calibration_error), "", "", ""])
    return text.getvalue()


def _blank(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def to_json(finished: Finished, rows: list[Row], machine: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything: rows, trainings, what is lacking, and the scores of every case."""
    value = {
        "protocol": finished.protocol.name,
        "title": finished.protocol.title,
        "compare_to": finished.protocol.compare_to,
        "tolerance_mm": finished.protocol.tolerance_mm,
        "machine": machine or {},
        "rows": [asdict(row) for row in rows],
        "trainings": [asdict(t) for t in finished.trainings],
        "lacking": finished.lacking,
        "scores": [asdict(score) for score in finished.scores],
    }
    plain: dict[str, Any] = _without_nan(value)
    return plain


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- as a picture ----------------------------------------------------------------------------------------------------


def draw(finished: Finished, rows: list[Row], path: Path) -> bool:
    """Mean Dice with its intervals: over ``x`` where runs are a sweep, over the number of training cases where settings
    are few-shot ones of one test set, over arithmetic where they differ in that alone, else method by method. False
    where there is nothing to draw."""
    if not rows:
        return False
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(7.5, 4.2), layout="constrained")
    axes = canvas.subplots()
    swept = [r for r in rows if r.x is not None]
    shots = [r for r in rows if r.shots is not None]
    one_each = len({(r.method, r.run, r.shots) for r in rows})  # else the same cases were tested on several sets
    there = {r.setting for r in rows}  # of a setting there may be but a finished model's row, which took no arithmetic
    told = {s.name: finished.protocol.budget_of(s) for s in finished.protocol.settings if s.name in there}
    budgets = {name: budget for name, budget in told.items() if budget is not None}
    if swept:
        for (setting, method), group in _groups(swept, lambda r: (r.setting, r.method)):
            _curve(axes, [(float(r.x or 0), r) for r in group], f"{setting}, {method}")
        axes.set_xlabel(finished.protocol.axis)
    elif len(shots) == len(rows) and len({r.shots for r in rows}) > 1 and one_each == len(rows):
        _curves(axes, rows, lambda r: float(r.shots or 0), "training cases")
    elif len({r.shots for r in rows}) == 1 and len(set(budgets.values())) == len(told) > 1:
        _curves(axes, rows, lambda r: budgets[r.setting], "TFLOP of training")
    else:
        _dots(axes, rows)
    if axes.get_legend() is None:
        axes.legend(fontsize=8, frameon=False)
    axes.set_title(finished.protocol.title, fontsize=11, loc="left")
    with atomic_path(path) as part:
        canvas.savefig(part, dpi=130, format="png")
    return True


def _groups(rows: list[Row], key: Callable[[Row], tuple[str, str]]) -> list[tuple[tuple[str, str], list[Row]]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return list(found.items())


def _curves(axes: Any, rows: list[Row], x: Callable[[Row], float], name: str) -> None:
    """A curve of each method, and of each way of asking it, over ``x``, which doubles from tick to tick."""
    for (method, run), group in _groups(rows, lambda r: (r.method, r.run)):
        many = sum(r.method == method for r in rows) > len(group)
        _curve(axes, [(x(r), r) for r in group], f"{method}, {run}" if many else method)
    axes.set_xscale("log", base=2)
    ticks = sorted({x(r) for r in rows})
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xlabel(name)


def _curve(axes: Any, points: list[tuple[float, Row]], label: str) -> None:
    axes.set_ylabel("mean Dice, 95 % interval")
    axes.grid(alpha=0.3)
    points = sorted(points, key=lambda p: p[0])
    dice = [row.measures["mean"]["dice"] for _, row in points]
    x = [at for at, _ in points]
    (line,) = axes.plot(x, [f.mean for f in dice], marker="o", markersize=4, label=label)
    axes.fill_between(x, [f.low for f in dice], [f.high for f in dice], color=line.get_color(), alpha=0.15, lw=0)


def _dots(axes: Any, rows: list[Row]) -> None:
    """Settings one above the other, a dot with its interval for every method and run."""
    methods = list(dict.fromkeys((r.method, r.run) for r in rows))
    settings = list(dict.fromkeys(r.setting for r in rows))
    for index, (method, run) in enumerate(methods):
        mine = [r for r in rows if (r.method, r.run) == (method, run)]
        dice = [r.measures["mean"]["dice"] for r in mine]
        heights = [-settings.index(r.setting) - 0.6 * (index + 0.5) / len(methods) + 0.3 for r in mine]
        reach = [[f.mean - f.low for f in dice], [f.high - f.mean for f in dice]]
        axes.errorbar([f.mean for f in dice], heights, xerr=reach, fmt="o", markersize=4, label=f"{method}, {run}")
    axes.set_yticks([-i for i in range(len(settings))], settings)
    axes.set_xlabel("mean Dice, 95 % interval")
    axes.grid(axis="x", alpha=0.3)


def write(finished: Finished, folder: Path, machine: dict[str, Any] | None = None) -> list[Path]:
    """Write results.json, results.csv, results.md and figure.png into ``folder``; returns what was written."""
    rows = rows_of(finished)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "results.json": json.dumps(to_json(finished, rows, machine), indent=1) + "\n",
        "results.csv": to_csv(rows),
        "results.md": to_markdown(finished, rows),
    }
    written = []
    for name, text in texts.items():
        with atomic_path(folder / name) as part:
            part.write_text(text, encoding="utf-8")
        written.append(folder / name)
    if draw(finished, rows, folder / "figure.png"):
        written.append(folder / "figure.png")
    return written
