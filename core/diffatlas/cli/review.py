"""The command that shows a review: what was said of each case, its table, and a training run of the cases kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from diffatlas.cli import options as opt
from diffatlas.errors import BadInput


def review(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The results that were reviewed: a batch's output.")],
    table: Annotated[bool, typer.Option("--table", help="Write review.csv there: status and volumes.")] = False,
    training: Annotated[
        Path | None,
        typer.Option("--training", metavar="DIR", help="Write train.yaml and cases.csv of the accepted cases there."),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Show what was said of each case in the Review tab of napari, and how far it was corrected by hand."""
    from rich.table import Table

    from diffatlas import review as reviewing
    from diffatlas.cli import terminal

    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; give the folder of the results that were reviewed")
    reports = _reports(folder)
    verdicts = reviewing.read(folder)
    cases = sorted({*reports, *verdicts}, key=lambda case: (-reviewing.doubt_of(reports.get(case, {})), case))
    if not cases:
        raise BadInput(f"{folder}: holds no results and no review")
    said = [verdicts.get(case, reviewing.Verdict(case, "to do")) for case in cases]
    written = {}
    if table:
        written["table"] = reviewing.write_table(folder, cases, reports)
    if training is not None:
        written["training"] = reviewing.write_training(folder, training)
    if as_json:
        terminal.print_json({"cases": [asdict(verdict) for verdict in said], **written})
        return
    rows = Table("case", "status", "Dice with the run", "who", "when", "reason", box=None, pad_edge=False)
    for verdict in said:
        dice = "" if verdict.agreement is None else f"{verdict.agreement:.3f}"
        rows.add_row(verdict.case, verdict.state, dice, verdict.who, verdict.when, verdict.reason)
    terminal.stdout().print(rows)
    count = {state: sum(v.state == state for v in said) for state in ("accepted", "corrected", "rejected", "to do")}
    terminal.say(", ".join(f"{number} {state}" for state, number in count.items()))
    for path in written.values():
        terminal.say(f"wrote {path}")


def _reports(folder: Path) -> dict[str, dict[str, object]]:
    """Reports of cases by name; other JSON files are ignored."""
    from diffatlas import session

    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            report = session.read_report(path)
        except BadInput:
            continue
        if path.with_name(f"{path.stem}_labels.nii.gz").exists():
            found[path.stem] = report
    return found
