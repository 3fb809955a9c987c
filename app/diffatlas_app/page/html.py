"""The page's own HTML: pictures, progress, tables, cards. Strings in, strings out; all text from outside is escaped."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from typing import TYPE_CHECKING

from diffatlas import session
from diffatlas.geometry.volume import LabelScheme, Volume
from diffatlas.session import ModelCard, Plan
from diffatlas_app.runs.results import OFFERED, Measured, Saved

if TYPE_CHECKING:
    from diffatlas.metrics import Comparison

PAPER = "https://arxiv.org/abs/2503.06748"
MODALITY_NAMES = {"ct": "CT", "mr": "MR", "unknown": "modality unknown"}


def text(value: object) -> str:
    """Escaped for HTML, and for the two template languages that gradio runs over it."""
    escaped = html.escape(str(value))
    for mark in "{}$`\\":
        escaped = escaped.replace(mark, f"&#{ord(mark)};")
    return escaped


def header() -> str:
    return (
        '<header class="da-header"><div><h1>DiffAtlas</h1>'
        "<p>Watch a segmentation come out of noise: the model generates the one image–mask pair of its atlas whose "
        f"image agrees with your scan.</p>{links()}</div>"
        '<span class="da-badge">Not for clinical use</span></header>'
    )


def links() -> str:
    """Where to read on: what the package's metadata names, and the card of each model that is on this page."""
    try:
        urls = dict(entry.split(", ", 1) for entry in metadata("napari-diffatlas").get_all("Project-URL") or ())
    except PackageNotFoundError:
        urls = {}
    urls = {"Paper": PAPER, **urls}
    anchors = [f'<a href="{text(url)}" target="_blank" rel="noopener">{text(name)}</a>' for name, url in urls.items()]
    models = session.available_models()
    cards = [f'<a href="cards/{text(m.name)}" target="_blank">Card: {text(m.title)}</a>' for m in models]
    guide = '<a href="guide" target="_blank">Guide</a>'
    learn = '<a href="learn/?live" target="_blank">Learn: ten scenes</a>'
    return f'<nav class="da-links" aria-label="Read on">{"".join([learn, *anchors, guide, *cards])}</nav>'


def learn_frame() -> str:
    """The teaching site within the page; `page.js` makes the frame as high as what is in it."""
    return '<iframe id="learn-frame" src="learn/?live" title="Learn: ten scenes"></iframe>'


def paragraph(words: str) -> str:
    return f'<p class="da-hint">{text(words)}</p>'


def source_line(name: str, volume: Volume) -> str:
    """What is loaded: name, voxels, spacing, orientation, and what the reader found."""
    shape = "×".join(str(n) for n in volume.grid.shape)
    spacing = "×".join(f"{s:.3g}" for s in volume.grid.spacing_mm)
    facts = f"{shape} voxels · {spacing} mm · {volume.grid.axis_codes} · {MODALITY_NAMES[volume.modality]}"
    notes = "".join(f'<p class="da-note">{text(note)}</p>' for note in volume.notes)
    return f'<div class="da-source"><strong>{text(name)}</strong><p>{text(facts)}</p>{notes}</div>'


def status(message: str) -> str:
    return f'<div class="da-status" role="status"><p>{text(message)}</p></div>'


def error(message: str) -> str:
    return f'<div class="da-status da-error" role="alert"><p>{text(message)}</p></div>'


def seconds(value: float) -> str:
    """A duration for people: 0.8 s, 12 s, 3 min 20 s."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def table(
    measured: Sequence[Measured], scheme: LabelScheme, scores: Sequence[Comparison] = (), against: str = ""
) -> str:
    """Volume of each structure beside its colour, ml, for one run or two, and with ``scores`` the agreement of each."""
    caption = "Volumes" + (f", and agreement with {against}" if scores else "")
    runs = ("", ", second")
    heads = [f"ml{runs[i]}" for i in range(len(measured))]
    for i, score in enumerate(scores):
        heads += [f"Dice{runs[i]}", f"surface Dice, {score.tolerance_mm:g} mm{runs[i]}", f"HD95, mm{runs[i]}"]
    rows = []
    for i, structure in enumerate(scheme.structures):
        cells = [_volume(structure.name, run) for run in measured]
        for score in scores:
            row = score.rows[i]
            cells += [_number(row.dice, 3), _number(row.surface_dice, 3), _number(row.hd95_mm, 1)]
        rows.append(_row(f'<i style="background:rgb{structure.color}"></i>{text(structure.name)}', cells))
    if scores:
        cells = [""] * len(measured)
        for score in scores:
            mean = score.mean
            cells += [_number(mean["dice"], 3), _number(mean["surface_dice"], 3), _number(mean["hd95_mm"], 1)]
        rows.append(_row("mean", cells))
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in heads)
    return (
        f'<table class="da-volumes"><caption>{text(caption)}</caption><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _volume(name: str, run: Measured) -> str:
    ml = f"{run.volumes_ml[name]:.1f}"
    if name in run.cut_off:
        return f"{ml} <small>cut off: {run.cut_off[name]:.0%} beyond the image</small>"
    if name not in run.between_ml:
        return ml
    title = "the true volume lies between these nine times in ten, on cases like those it was measured on"
    return '{} <small title="{}">{:.1f} to {:.1f}</small>'.format(ml, title, *run.between_ml[name])


def _row(name: str, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def result(
    measured: Sequence[Measured],
    scheme: LabelScheme,
    notes: Sequence[str] = (),
    scores: Sequence[Comparison] = (),
    against: str = "",
    doubt: bool = False,
) -> str:
    """The table below a finished run, and what was found on the way; ``against``: what ``scores`` compare with.

    ``doubt``: the search was not sure of what it found; the volumes are then folded away.
    """
    said = "".join(f'<p class="da-note">{text(note)}</p>' for note in notes)
    shown = table(measured, scheme, scores, against)
    if doubt:
        shown = f"<details><summary>Show the volumes all the same</summary>{shown}</details>"
    kind = "da-result da-doubt" if doubt else "da-result"
    return f'<section class="{kind}"><h2 class="da-h2">Result</h2>{said}{shown}</section>'


def downloads(saved: Saved, link: str | None = None) -> str:
    """Links to a run's files; ``link``: the query of an address that restores its settings."""
    anchors = [
        f'<a class="da-download" download="{text(saved.stem + OFFERED[name][1])}" '
        f'href="results/{saved.run}/{name}">{text(OFFERED[name][0])}</a>'
        for name in saved.offered()
    ]
    if link is not None:
        anchors.append(
            f'<a class="da-download da-link" data-copy href="{text(link)}">Copy a link to these settings</a>'
        )
    return f'<h2 class="da-h2">Files</h2><div class="da-downloads">{"".join(anchors)}</div>'


def gallery(pictures: Sequence[tuple[bytes, str]]) -> str:
    """Drawn pairs as buttons: (JPEG, what it is) each."""
    buttons = "".join(
        f'<button type="button" data-pair="{i}"><img alt="" src="data:image/jpeg;base64,'
        f'{base64.b64encode(jpeg).decode("ascii")}"><span>{text(title)}</span></button>'
        for i, (jpeg, title) in enumerate(pictures)
    )
    return f'<div class="da-gallery" role="group" aria-label="Drawn pairs: open one in the viewer">{buttons}</div>'


def card(model: ModelCard) -> str:
    """What a model knows, and what it must not be used for."""
    structures = "".join(
        f'<span><i style="background:rgb{s.color}"></i>{text(s.name)}</span>' for s in model.scheme.structures
    )
    limits = "".join(f"<li>{text(limit)}</li>" for limit in model.limits)
    modalities = ", ".join(MODALITY_NAMES[m] for m in model.modalities)
    return (
        f'<div class="da-card"><p>{text(model.summary)}</p><div class="da-structures">{structures}</div>'
        f"<dl><dt>Reads</dt><dd>{text(modalities)}</dd><dt>Use</dt><dd>{text(model.intended_use)}</dd>"
        f"<dt>Licence</dt><dd>{text(model.licence)}</dd></dl>"
        + (f'<details><summary>Limits</summary><ul class="da-limits">{limits}</ul></details>' if limits else "")
        + "</div>"
    )


def auto_card(models: tuple[ModelCard, ...]) -> str:
    titles = " or ".join(f"“{model.title}”" for model in models)
    return f'<div class="da-card"><p>Picks the model that fits the image: {text(titles)}.</p></div>'


def plan_line(planned: Plan, takes_s: float | None = None) -> str:
    """What a run will do, as the engine plans it, and how long that takes here, once it is known."""
    steps = "one step" if planned.steps == 1 else f"{planned.steps} steps"
    own = planned.steps == planned.preset.steps
    summary = planned.preset.summary.split(":")[0] if own else steps
    time = "" if takes_s is None else f"; about {seconds(max(takes_s, 0.1))} on this machine"
    return paragraph(summary[0].upper() + summary[1:] + time + ".")
