"""Tools for agents over the Model Context Protocol: segment, compare, info, models (`diffatlas mcp`).

The server speaks through standard input and output with the program that started it, and listens on no port. It reads
and writes below one folder only, overwrites a file only where the call says so, and has the limits of the web page
(`limits`): sizes, steps, samples, time, one run at a time. Files are decoded in a process of their own. Neither gradio
nor torch is needed before a run.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio import to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from diffatlas import io, metrics, session
from diffatlas.errors import BadInput
from diffatlas.session import ModelCard
from diffatlas_app import limits
from diffatlas_app.events import region as regions
from diffatlas_app.runs import settings
from diffatlas_app.visitors.error_line import told
from diffatlas_app.visitors.source import read_labels, read_limits

T = TypeVar("T")
INSTRUCTIONS = (
    "DiffAtlas segments 3-D medical volumes (hearts, hippocampi) by generating the image-mask pair that agrees with "
    "them. Not for clinical use. Paths are relative to the server's folder. Call models first and read limits and "
    "intended_use; a result with doubt = true may be of structures that are not in the image, and every result looks "
    "plausible: say so to the user, and let them look at it."
)


class Tools:
    """What the tools do, below ``root``. Every method raises `BadInput` in one line."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._running = threading.Lock()

    def models(self) -> list[dict[str, Any]]:
        return [_facts(card) for card in session.available_models()]

    def info(self, path: str) -> dict[str, Any]:
        file = self._there(path)
        if file.suffix.lower() == ".json":
            report = session.read_report(file)
            return {"kind": "report", **report, "frames": len(report.get("frames") or [])}
        volume = io.read_volume(file, limits=read_limits())
        return {
            "kind": "volume",
            "shape": list(volume.grid.shape),
            "spacing_mm": [round(s, 4) for s in volume.grid.spacing_mm],
            "axes": volume.grid.axis_codes,
            "affine": volume.grid.affine.tolist(),
            "modality": volume.modality,
            "range": [float(volume.data.min()), float(volume.data.max())],
            "notes": list(volume.notes),
        }

    def compare(self, prediction: str, reference: str, tolerance_mm: float) -> dict[str, Any]:
        if not 0 < tolerance_mm <= 100:
            raise BadInput(f"tolerance_mm must be more than 0 and at most 100, not {tolerance_mm:g}")
        first, second = self._there(prediction), self._there(reference)
        true = read_labels(reference, second)
        found = read_labels(prediction, first, true.scheme)
        return {"structures_of": true.scheme.name, **metrics.compare(found, true, tolerance_mm).to_json()}

    def segment(
        self, wanted: settings.Settings, image: str, labels: str, report: str, overwrite: bool, stop: threading.Event
    ) -> dict[str, Any]:
        """``stop``: set when the caller no longer waits for the answer; the run ends within a step."""
        source = self._there(image)
        out = self._new(labels, io.IMAGE_SUFFIXES, overwrite)
        record = self._new(report, (".json",), overwrite) if report else None
        request = wanted.request()
        if not self._running.acquire(blocking=False):
            raise BadInput("another run is going on: wait for its answer")
        try:
            begin = time.monotonic()
            volume = io.read_volume(source, limits=read_limits())
            doubt = False
            for looking in regions.search(volume, request):
                self._check(begin, stop)
                if looking.found is not None:
                    request, doubt = replace(request, roi=looking.found), looking.doubt
                    volume = replace(volume, notes=(*volume.notes, looking.words))
            result = None
            for frame in session.stream(volume, request):
                self._check(begin, stop)
                result = frame.result
            assert result is not None
            io.write_label_map(result.labels, out, volume.header)
            if record is not None:
                session.write_report(result, record, source)
        finally:
            self._running.release()
        return {
            "labels": str(out.relative_to(self.root)),
            "report": None if record is None else str(record.relative_to(self.root)),
            "model": result.provenance["model"]["name"],
            "volumes_ml": {name: round(ml, 2) for name, ml in result.volumes_ml.items()},
            "doubt": doubt,
            "notes": list(result.notes),
            "seconds": round(time.monotonic() - begin, 1),
        }

    @staticmethod
    def _check(begin: float, stop: threading.Event) -> None:
        if stop.is_set():
            raise BadInput("the run was stopped: nobody waits for its answer")
        if time.monotonic() - begin > limits.RUN_TIME_S:
            raise BadInput(f"the run took longer than {limits.RUN_TIME_S / 60:.0f} minutes and was stopped")

    def _inside(self, path: str) -> Path:
        found = None if not path or "\0" in path else (self.root / path).resolve()
        if found is None or not found.is_relative_to(self.root):
            raise BadInput(f"{path[:80]!r}: lies outside of the folder that this server works in")
        return found

    def _there(self, path: str) -> Path:
        found = self._inside(path)
        if not found.exists():
            raise BadInput(f"{path[:80]}: no such file")
        files = [f for f in found.rglob("*") if f.is_file()] if found.is_dir() else [found]
        size = sum(f.stat().st_size for f in files)
        if size > limits.MAX_UPLOAD_MB * 1024**2:
            raise BadInput(f"{path[:80]}: {size / 1024**2:.0f} MB; up to {limits.MAX_UPLOAD_MB} MB are read")
        return found

    def _new(self, path: str, suffixes: tuple[str, ...], overwrite: bool) -> Path:
        found = io.check_output(self._inside(path), suffixes)
        if found.exists() and not overwrite:
            raise BadInput(f"{path[:80]}: is there already; give another name, or overwrite=true")
        return found


def server(root: Path) -> MCPServer[Any]:
    """The server of the tools below ``root``."""
    tools = Tools(root)
    made: MCPServer[Any] = MCPServer("diffatlas", instructions=INSTRUCTIONS)

    async def answer(work: Callable[[], T], stop: threading.Event | None = None) -> T:
        """Run ``work`` in a thread; an exception becomes the line that the web page would show."""
        try:
            return await to_thread.run_sync(work, abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            if stop is not None:
                stop.set()
            raise
        except Exception as error:
            raise ToolError(told(error)) from error

    @made.tool()
    async def models() -> dict[str, Any]:
        """List the models: what each segments, in which images, its limits, licence and measured Dice."""
        return {"models": await answer(tools.models)}

    @made.tool()
    async def info(path: str) -> dict[str, Any]:
        """Say what a file holds: a volume (.nii, .nii.gz, .nrrd, .mha, a DICOM folder) or a run's report (.json)."""
        return await answer(lambda: tools.info(path))

    @made.tool()
    async def compare(prediction: str, reference: str, tolerance_mm: float = 2.0) -> dict[str, Any]:
        """Compare two label maps on one grid: Dice, surface Dice at tolerance_mm, HD95 (mm), volumes (ml)."""
        return await answer(lambda: tools.compare(prediction, reference, tolerance_mm))

    @made.tool()
    async def segment(
        image: str,
        labels: str,
        report: str = "",
        model: str = "auto",
        preset: str = "fast",
        seed: int = 0,
        samples: int = 1,
        guidance_noise: float | None = None,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Segment a volume and write its label map, on the voxels of the image, to the path `labels`.

        model: a name from models, or auto. preset: fast (two steps), watch (forty) or published (300). samples: 1 to 8
        runs that are averaged. guidance_noise: 0 (image) to 1 (atlas). report: a .json for `diffatlas replay`. Returns
        volumes in ml, notes, and doubt = true where the search was not sure that the structures are in the image.
        """
        stop = threading.Event()

        def work() -> dict[str, Any]:
            if guidance_noise is not None and not 0 <= guidance_noise <= 1:
                raise BadInput(f"guidance_noise must be 0 to 1, not {guidance_noise:g}")
            wanted = settings.Settings(
                example="",
                model=model,
                preset=preset,  # type: ignore[arg-type]  # Request checks it
                seed=seed,
                samples=samples,
                noise=guidance_noise,
            )
            return tools.segment(wanted, image, labels, report, overwrite, stop)

        return await answer(work, stop)

    return made


def _facts(card: ModelCard) -> dict[str, Any]:
    """What an agent should know of a model."""
    return {
        "name": card.name,
        "title": card.title,
        "summary": card.summary,
        "structures": {s.name: s.id for s in card.scheme.structures},
        "modalities": list(card.modalities),
        "sees_mm": [round(e) for e in card.space.extent_mm],
        "limits": list(card.limits),
        "intended_use": card.intended_use,
        "licence": card.licence,
        "metrics": json.loads(json.dumps(card.metrics, default=str)),
    }
