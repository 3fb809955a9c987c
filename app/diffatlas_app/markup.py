"""The page's own HTML: pictures, progress, tables, cards. Strings in, strings out; all text from outside is escaped."""

from __future__ import annotations

import base64
import html

from diffatlas.request import PRESETS
from diffatlas.session import ModelCard
from diffatlas.volume import LabelScheme, Volume
from diffatlas_app.runs import Files, Update

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
        "image agrees with your scan.</p></div>"
        '<span class="da-badge">Not for clinical use</span></header>'
    )


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


def progress(update: Update) -> str:
    """Step, noise level and time left over a bar."""
    done = update.index + 1
    if update.result is not None:
        words = f"Done: {update.total} steps in {seconds(update.seconds)}"
    else:
        left = "" if update.seconds_left is None else f" · about {seconds(update.seconds_left)} left"
        words = f"Step {done} of {update.total} · noise level {update.t:.2f}{left}"
    percent = 100 * done / update.total
    return (
        f'<div class="da-status" role="status"><p>{text(words)}</p>'
        f'<div class="da-bar" role="progressbar" aria-label="Run" aria-valuemin="0" aria-valuemax="{update.total}" '
        f'aria-valuenow="{done}"><div style="width:{percent:.1f}%"></div></div></div>'
    )


def stopped(last: Update | None) -> str:
    """After Stop: where the run was, if it had begun."""
    where = "before the first step" if last is None else f"at step {last.index + 1} of {last.total}"
    return status(f"Stopped {where}. Run starts again.")


def seconds(value: float) -> str:
    """A duration as one says it: 0.8 s, 12 s, 3 min 20 s."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def volumes(volumes_ml: dict[str, float], scheme: LabelScheme) -> str:
    """Volume of each structure, ml, beside its colour."""
    rows = "".join(
        f'<tr><td><i style="background:rgb{s.color}"></i>{text(s.name)}</td><td>{volumes_ml[s.name]:.1f} ml</td></tr>'
        for s in scheme.structures
    )
    return f'<table class="da-volumes"><caption>Volumes</caption><tbody>{rows}</tbody></table>'


def downloads(files: Files) -> str:
    """Links that carry the files themselves: no URL on the server holds a visitor's result."""
    links = (
        ("Labels (NIfTI)", f"{files.stem}_labels.nii.gz", "application/gzip", files.labels),
        ("Report (JSON)", f"{files.stem}_report.json", "application/json", files.report),
    )
    anchors = "".join(
        f'<a class="da-download" download="{text(name)}" '
        f'href="data:{kind};base64,{base64.b64encode(data).decode("ascii")}">{text(title)}</a>'
        for title, name, kind, data in links
    )
    return f'<div class="da-downloads">{anchors}</div>'


def result(update: Update) -> str:
    """The table and the links below a finished run."""
    assert update.result is not None
    assert update.files is not None
    notes = "".join(f'<p class="da-note">{text(note)}</p>' for note in update.result.notes)
    table = volumes(update.result.volumes_ml, update.result.labels.scheme)
    return f'<div class="da-result">{table}<div>{downloads(update.files)}{notes}</div></div>'


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
    titles = " or ".join(model.title for model in models)
    return f'<div class="da-card"><p>Takes the model that fits the image best: {text(titles)}.</p></div>'


def preset_line(name: str) -> str:
    summary = PRESETS[name].summary
    return f'<p class="da-hint">{text(summary[0].upper() + summary[1:])}.</p>'
