"""The command that turns a data set into the file that training reads: prepare."""

from __future__ import annotations

import math
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffatlas.cli import options as opt
from diffatlas.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from diffatlas.data import Collection, Facts, Outcome, Plan, Refused
    from diffatlas.geometry.space import ModelSpace, Window
    from diffatlas.train.config import DataConfig

# Cases of one kind of finding that are listed by name; --json has all.
LISTED = 8

_WINDOW = re.compile(r"(ct|mr|unknown)=(-?\d+(?:\.\d+)?)(%?):(-?\d+(?:\.\d+)?)(%?)")


def prepare(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE", help="A folder, a .csv table, or: phantom.", show_default="data.path of --config"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="CACHE.safetensors", show_default="data.cache of --config"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="TRAIN.yaml", help="Space, structures and data of a training configuration."),
    ] = None,
    like: Annotated[
        str | None, typer.Option("--like", metavar="NAME|DIR", help="Space and structures of this model.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="mmwhs, totalsegmentator, diffatlas, decathlon, folder or phantom.", show_default="read off the files"
        ),
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(help="mmwhs or hippocampus: the structures to learn.", show_default="those of the source"),
    ] = None,
    structures: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[=ID],...", help="Structures of your own to learn, matched by name with the source's."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="NAME=ID,...", help="What the ids in the files mean, where the source does not say."),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="Field of view, voxels; one number for a cube.")
    ] = None,
    spacing: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="Voxel edges, mm; one number for all three.")
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(metavar="MM", help="Where signed distances end, mm.", show_default="six voxels"),
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ct=LOW:HIGH", help="Intensities of -1 and 1, mr=0.5%:99.5% for percentiles; may be repeated."
        ),
    ] = None,
    margin: Annotated[
        int | None, typer.Option(metavar="N", help="Voxels a side for augmentation.", show_default="4")
    ] = None,
    centre: Annotated[
        str | None,
        typer.Option(help="auto, volume or labels: what the field of view is put on.", show_default="auto"),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="Which of the source's splits; may be repeated.", show_default="train"),
    ] = None,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="ct or mr (random for phantoms); may be repeated.", show_default="all"),
    ] = None,
    channel: Annotated[int | None, typer.Option(metavar="N", help="Which volume of 4-D images.")] = None,
    complete: Annotated[bool, typer.Option("--complete", help="Only cases that show every structure.")] = False,
    cases: Annotated[int | None, typer.Option(metavar="N", help="How many phantoms.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Of the first phantom.")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes.", show_default="one a processor")] = None,
    as_json: opt.Json = False,
) -> None:
    """Bring a data set into a model's space: one file for `diffatlas train`, and a report of what was found."""
    from diffatlas.cli.outputs import make_folder
    from diffatlas.data import check_cache_path, prepare_all, write_cache
    from diffatlas.train.record import data_record
    from diffatlas.train.sources import collection_of

    if workers is not None and workers < 1:
        raise BadInput(f"--workers must be 1 or more, not {workers}")
    if config is not None and like is not None:
        raise BadInput("--config and --like both name a space and structures; give one of them")
    base, space, divisor = _base(config, like)
    changes = {
        "scheme": scheme,
        "structures": None if structures is None else _structures(structures),
        "labels": None if labels is None else _labels(labels),
        "margin": margin,
        "centre": centre,
        "splits": split,
        "modalities": modality,
        "channel": channel,
        "complete": complete or None,
        "cases": cases,
        "seed": seed,
        "cache": output,
    }
    data = _data(base, source, layout, changes)
    space = _space(space, shape, spacing, clip, window or ())
    _check_shape(space, divisor, config is not None or like is not None)
    collection, plan = collection_of(data, space)
    make_folder(data.cache.absolute().parent)
    cache = check_cache_path(data.cache)

    found = Report(collection, plan, cache)
    with closing(prepare_all(collection.cases, plan, workers)) as outcomes:
        found.take(_watched(outcomes, len(collection.cases), collection.root.name or collection.layout))
    if not found.prepared:
        for refused in found.refused:
            _say(f"left out {refused.id}: {refused.reason}")
        first = f"; the first: {found.refused[0].reason}" if found.refused else ""
        raise BadInput(f"{collection.root}: none of {len(found.refused)} cases can be used{first}")
    write_cache(cache, found.prepared, plan, data_record(data, space, collection))
    if as_json:
        found.show_json()
    else:
        found.show()


# -- what was asked for ----------------------------------------------------------------------------------------------


def _base(config: Path | None, like: str | None) -> tuple[dict[str, Any], ModelSpace | None, int]:
    """Initial settings and space, and the number that divides every edge of a field of view for the network."""
    from diffatlas.train.config import NetworkConfig, load_config

    if config is not None:
        loaded = load_config(config)
        network: dict[str, Any] = loaded.network.model_dump()
        if loaded.start_from is not None and "network" not in loaded.model_fields_set:
            network = opt.card_of(loaded.start_from).architecture
        # Networks of other tasks check shapes themselves.
        divisor = _divisor(network) if loaded.task in ("atlas", "published", "distilled") else 1
        return loaded.data.model_dump(), loaded.space, divisor
    if like is not None:
        card = opt.card_of(like)
        rows = [{"name": s.name, "id": s.id, "color": s.color} for s in card.scheme.structures]
        return {"structures": rows}, card.space, _divisor(card.architecture)
    return {}, None, _divisor(NetworkConfig().model_dump())


def _divisor(network: Mapping[str, Any]) -> int:
    """Voxels along an edge of one voxel of the network's coarsest level, from its architecture's arguments."""
    if network.get("kind") == "published-unet":
        return int(2 ** (len(network.get("multipliers", (1, 2, 4, 8))) - 1))
    return int(network.get("patch", 2) * 2 ** (len(network.get("widths", (1, 1, 1))) - 1))


def _check_shape(space: ModelSpace, divisor: int, named: bool) -> None:
    """`BadInput` where training would refuse the shape, before the cases are read."""
    if any(n % divisor for n in space.shape):
        whose = "the network" if named else "the usual network"
        more = "" if named else "; for another network give its configuration with --config TRAIN.yaml"
        raise BadInput(
            f"--shape {','.join(map(str, space.shape))}: every number must be a multiple of {divisor} for {whose}{more}"
        )


def _data(base: dict[str, Any], source: str | None, layout: str | None, changes: dict[str, Any]) -> DataConfig:
    """The settings, overridden by the options; `BadInput` where something is missing or makes no sense."""
    from diffatlas.data import LAYOUTS, find_layout
    from diffatlas.train.config import DataConfig
    from diffatlas.values import load

    if layout is not None and layout not in LAYOUTS:
        raise BadInput(f"--layout {layout}: there are: {', '.join(LAYOUTS)}")
    given = {key: value for key, value in changes.items() if value is not None}
    if "scheme" in given and "structures" in given:
        raise BadInput("--scheme and --structures both say what is learnt; give one of them")
    if "scheme" in given or "structures" in given:
        base = {**base, "scheme": None, "structures": None}
    if source is None and "source" not in base and layout != "phantom":
        raise BadInput("name a SOURCE (a folder, a .csv table, or phantom), or give --config")
    if source is not None:
        path = Path(source)
        drawn = layout == "phantom" or (layout is None and source == "phantom" and not path.exists())
        base = {**base, "path": None if drawn else path}
        known = None if base.get("source") == "phantom" else base.get("source")
        base["source"] = "phantom" if drawn else layout or known or find_layout(path)
    elif layout is not None:
        base = {**base, "source": layout}
    if base.get("source") == "phantom" and not (given.get("cases") or base.get("cases")):
        raise BadInput("phantom: say how many with --cases N")
    if "cache" not in given and "cache" not in base:
        raise BadInput("name the file to write with -o CACHE.safetensors")
    return load(DataConfig, {**base, **given}, "data")


def _space(
    space: ModelSpace | None, shape: str | None, spacing: str | None, clip: float | None, windows: Sequence[str]
) -> ModelSpace:
    from diffatlas.geometry.space import ModelSpace, Window

    if space is None:
        if shape is None or spacing is None:
            raise BadInput("name the space: --config TRAIN.yaml, --like MODEL, or --shape X,Y,Z and --spacing X,Y,Z")
        usual = Window("percentile", 0.5, 99.5)
        # Windows given as options replace the defaults, so that a configuration can state the same set.
        known = {} if windows else {"ct": Window("range", -250, 800), "mr": usual, "unknown": usual}
        space, clip = (
            ModelSpace((1, 1, 1), (1.0, 1.0, 1.0), 1.0, known),
            clip or 6 * min(_three("--spacing", spacing, whole=False)),
        )
    x, y, z = space.shape if shape is None else (int(n) for n in _three("--shape", shape, whole=True))
    edges = space.spacing_mm if spacing is None else _three("--spacing", spacing, whole=False)
    reach = space.sdf_clip_mm if clip is None else clip
    if not 0 < reach < math.inf:
        raise BadInput(f"--clip must be a length of more than 0 mm, not {reach:g}")
    return ModelSpace((x, y, z), edges, float(reach), space.windows | dict(_window(text) for text in windows))


def _three(option: str, text: str, *, whole: bool) -> tuple[float, float, float]:
    try:
        values = [float(int(part)) if whole else float(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInput(f"{option} must be three numbers, X,Y,Z, not {text!r}") from error
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or not all(0 < v <= 1024 for v in values):
        raise BadInput(f"{option} must be three numbers above 0 and not above 1024, X,Y,Z, not {text!r}")
    return values[0], values[1], values[2]


def _window(text: str) -> tuple[str, Window]:
    from diffatlas.geometry.space import Window

    match = _WINDOW.fullmatch(text.replace(" ", ""))
    if match is None or match[3] != match[5]:
        raise BadInput(f"--window must look like ct=-250:800 or mr=0.5%:99.5%, not {text!r}")
    low, high, share = float(match[2]), float(match[4]), bool(match[3])
    if not low < high or (share and not 0 <= low < high <= 100):
        raise BadInput(f"--window {text}: must rise from its first number to its second")
    return match[1], Window("percentile" if share else "range", low, high)


def _labels(text: str) -> dict[str, int]:
    pairs = [part.rpartition("=") for part in text.split(",") if part.strip()]
    for name, equals, number in pairs:
        if not (equals and name.strip() and number.strip().isdigit()):
            raise BadInput(f"--labels must look like 'left kidney=1,right kidney=2', not {text!r}")
    return {name.strip(): int(number) for name, _, number in pairs}


def _structures(text: str) -> list[dict[str, Any]]:
    rows = []
    for index, part in enumerate((p for p in text.split(",") if p.strip()), start=1):
        name, equals, number = part.partition("=")
        if not name.strip() or (equals and not number.strip().isdigit()):
            raise BadInput(f"--structures must look like 'heart,aorta' or 'heart=1,aorta=2', not {text!r}")
        rows.append({"name": name.strip(), "id": int(number) if equals else index})
    return rows


# -- what was found --------------------------------------------------------------------------------------------------


def _watched(outcomes: Iterator[Outcome], total: int, title: str) -> Iterator[Outcome]:
    """Pass every outcome on; on a terminal, count them."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from diffatlas.cli import terminal
    from diffatlas.data import Refused

    console = terminal.stderr()
    if not console.is_terminal:
        yield from outcomes
        return
    left_out = 0
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True) as progress:
        task = progress.add_task(title, total=total, note="")
        for outcome in outcomes:
            left_out += isinstance(outcome, Refused)
            progress.update(task, advance=1, note=f"{left_out} left out" if left_out else "")
            yield outcome


class Report:
    """What was found in a source, for people and for machines."""

    def __init__(self, collection: Collection, plan: Plan, cache: Path) -> None:
        from diffatlas.data import PreparedCase

        self.collection, self.plan, self.cache = collection, plan, cache
        self.refused: list[Refused] = list(collection.refused)
        self.prepared: list[PreparedCase] = []

    def take(self, outcomes: Iterable[Outcome]) -> None:
        """Sort the outcomes into prepared and refused."""
        from diffatlas.data import Refused

        for outcome in outcomes:
            if isinstance(outcome, Refused):
                self.refused.append(outcome)
            else:
                self.prepared.append(outcome)

    @property
    def facts(self) -> list[Facts]:
        return [case.facts for case in self.prepared]

    def notes(self) -> list[str]:
        """Findings worth knowing, each once, with the cases it was found in."""
        found: dict[str, list[str]] = {}
        for fact in self.facts:
            for note in fact.notes:
                found.setdefault(note, []).append(fact.id)
        unknown = [f.id for f in self.facts if f.modality == "unknown"]
        if unknown and self.collection.layout != "phantom":
            found["the modality is not known: windowed as 'unknown'; in a folder, --modality names it"] = unknown
        return [*self.collection.notes, *(f"{note} ({_some(ids)})" for note, ids in found.items())]

    def show_json(self) -> None:
        from dataclasses import asdict

        from diffatlas.cli import terminal

        plan = self.plan
        terminal.print_json(
            {
                "source": self.collection.root,
                "layout": self.collection.layout,
                "cache": self.cache,
                "space": plan.space.to_json(),
                "margin": plan.margin,
                "structures": [{"name": s.name, "id": s.id} for s in plan.scheme.structures],
                "cases": [asdict(fact) for fact in self.facts],
                "refused": [{"id": r.id, "reason": r.reason} for r in self.refused],
                "notes": self.notes(),
            }
        )

    def show(self) -> None:
        from diffatlas.cli import terminal

        plan, facts = self.plan, self.facts
        view = " x ".join(f"{e:g}" for e in plan.space.extent_mm)
        clip = plan.space.sdf_clip_mm
        _say(f"{self.collection.root}: {self.collection.layout}, {len(facts)} cases, {len(self.refused)} left out")
        _say(f"field of view {view} mm, distances to {clip:g} mm; the structures reach over {_largest(facts)} mm")
        kinds = sorted({f.modality for f in facts})
        lines = [_kind(kind, [f for f in facts if f.modality == kind]) for kind in kinds]
        terminal.stdout().print(terminal.rows(("modality", "cases", "voxels", "spacing mm", "intensity"), lines))
        lines = []
        for name in plan.scheme.names:
            missing = [f.id for f in facts if name in f.missing]
            cut = {f.id: f.cut[name] for f in facts if name in f.cut}
            worst = f"{_some(list(cut))}, up to {max(cut.values()):.0%}" if cut else ""
            lines.append((name, f"{len(facts) - len(missing)} of {len(facts)}", _some(missing), worst))
        terminal.stdout().print(terminal.rows(("structure", "seen in", "missing in", "reaches out of view in"), lines))
        for refused in self.refused:
            _say(f"left out {refused.id}: {refused.reason}")
        terminal.notes(self.notes())
        _say(f"cache: {self.cache}")


def _kind(kind: str, facts: Sequence[Facts]) -> tuple[str, ...]:
    shapes = [_range([f.shape[a] for f in facts]) for a in range(3)]
    spacings = [_range([f.spacing_mm[a] for f in facts]) for a in range(3)]
    low, high = min(f.intensity[0] for f in facts), max(f.intensity[1] for f in facts)
    return kind, str(len(facts)), " x ".join(shapes), " x ".join(spacings), f"{low:g} to {high:g}"


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low}-{high}"


def _largest(facts: Sequence[Facts]) -> str:
    return " x ".join(f"{max(f.extent_mm[a] for f in facts):.0f}" for a in range(3))


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - LISTED} more" if len(ids) > LISTED else ""
    return ", ".join(ids[:LISTED]) + more


def _say(text: str) -> None:
    from diffatlas.cli import terminal

    terminal.stdout().print(text, soft_wrap=True)
