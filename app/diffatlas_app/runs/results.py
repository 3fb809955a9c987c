"""What a finished run leaves for its visitor: files in a folder whose random name is the only way to them.

Written at once: labels on the source grid, confidence, report. Made when asked for, because each takes seconds: the
surface, the film, and the labels as NRRD or DICOM. Of two runs beside each other both have each of these but confidence
and film.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffatlas import io, render
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import DicomSeries, LabelScheme, Volume
from diffatlas.session import Frame, Result
from diffatlas_app import limits

Made = Literal["surface", "film", "nrrd", "seg", "rtstruct"]
# Names on the disk and in addresses: what is asked for, and what the browser saves it as.
OFFERED = {
    "labels.nii.gz": ("Labels (NIfTI)", "_labels.nii.gz", "application/gzip"),
    "second-labels.nii.gz": ("Labels of the second run (NIfTI)", "_second_labels.nii.gz", "application/gzip"),
    "confidence.nii.gz": ("Confidence (NIfTI)", "_confidence.nii.gz", "application/gzip"),
    "painted.nii.gz": ("Painted image (NIfTI)", "_painted.nii.gz", "application/gzip"),
    "image.nii.gz": ("Image (NIfTI)", ".nii.gz", "application/gzip"),
    "report.json": ("Report (JSON)", "_report.json", "application/json"),
    "second-report.json": ("Report of the second run", "_second_report.json", "application/json"),
    "labels.nrrd": ("Labels (NRRD)", "_labels.nrrd", "application/octet-stream"),
    "second-labels.nrrd": ("Labels of the second run (NRRD)", "_second_labels.nrrd", "application/octet-stream"),
    "labels-seg.dcm": ("Labels (DICOM SEG)", "_labels_seg.dcm", "application/dicom"),
    "second-labels-seg.dcm": ("Labels of the second run (DICOM SEG)", "_second_labels_seg.dcm", "application/dicom"),
    "labels-rtstruct.dcm": ("Labels (RTSTRUCT)", "_labels_rtstruct.dcm", "application/dicom"),
    "second-labels-rtstruct.dcm": (
        "Labels of the second run (RTSTRUCT)",
        "_second_labels_rtstruct.dcm",
        "application/dicom",
    ),
    "surface.glb": ("Surface (GLB)", "_surface.glb", "model/gltf-binary"),
    "second-surface.glb": ("Surface of the second run (GLB)", "_second_surface.glb", "model/gltf-binary"),
    "run.gif": ("Film (GIF)", "_run.gif", "image/gif"),
}
FILM = "film.npz"
SECOND = "second-"
FILM_FPS = 12


@dataclass(frozen=True)
class Measured:
    """What a run says of each structure, by name: its volume, ml; between which volumes the true one lies nine times in
    ten, where that is known; and of those that the image cuts off, the share that lies beyond."""

    volumes_ml: dict[str, float]
    between_ml: dict[str, tuple[float, float]] = field(default_factory=dict)
    cut_off: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Result) -> Measured:
        return cls(result.volumes_ml, result.volume_intervals_ml, result.cut_off)


@dataclass(frozen=True)
class Saved:
    """A run's folder, the visitor's name for the volume, the scheme its labels are in, and the DICOM series they are
    of."""

    folder: Path
    stem: str
    scheme: LabelScheme
    series: DicomSeries | None = None

    @property
    def run(self) -> str:
        """The random name."""
        return self.folder.name

    def offered(self) -> tuple[str, ...]:
        """The files that are there, in the order of `OFFERED`."""
        return tuple(name for name in OFFERED if (self.folder / name).is_file())

    def make(self, what: Made) -> str:
        """Make one more file of each run. Returns a note on it, or nothing."""
        if what == "film":
            self._film()
            return ""
        notes = [self._made(what, prefix) for prefix in ("", SECOND) if self._labels(prefix).is_file()]
        return notes[0]

    def _labels(self, prefix: str) -> Path:
        return self.folder / f"{prefix}labels.nii.gz"

    def _made(self, what: Made, prefix: str) -> str:
        name = {"surface": "surface.glb", "nrrd": "labels.nrrd"}.get(what, f"labels-{what}.dcm")
        path = self.folder / f"{prefix}{name}"
        note = ""
        if what in ("seg", "rtstruct") and self.series is None:
            note = io.UNREFERENCED[:1].upper() + io.UNREFERENCED[1:] + "."
        if path.exists():
            return note
        labels = io.read_label_map(self._labels(prefix), self.scheme)
        if what == "surface":
            try:
                render.write_glb(labels, path)
            except BadInput as error:
                which = "the second run's label map" if prefix else "this label map"
                raise BadInput(f"{which} is empty: there is no surface in it") from error
        elif what == "nrrd":
            io.write_label_map(labels, path)
        else:
            io.write_label_map(labels, path, series=self.series, format="seg" if what == "seg" else "rtstruct")
        return note

    def _film(self) -> None:
        """Make the film of the run."""
        path = self.folder / "run.gif"
        if path.exists():
            return
        if not (self.folder / FILM).is_file():
            raise BadInput("no pictures of this run were kept")
        with np.load(self.folder / FILM, allow_pickle=False) as kept:
            pictures = list(kept["pictures"])
        render.write_gif(pictures, path, fps=FILM_FPS)


@dataclass
class Film:
    """Pictures of some steps of a run, evenly spaced, the last among them."""

    source: Volume | None
    pictures: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, frame: Frame) -> None:
        every = -(-frame.total // limits.FILM_FRAMES)
        if frame.index % every == 0 or frame.index == frame.total - 1:
            self.pictures.append(render.frame_picture(frame, self.source))


def save(
    folder: Path, stem: str, result: Result, source: Volume, *, film: Film | None = None, keep_image: bool = False
) -> Saved:
    """Write a run's files into its new ``folder``; ``keep_image``: the volume too, for one that has no file."""
    _labels_and_report(folder, "", result, source)
    if result.confidence is not None:
        io.write_array(result.confidence, source.grid, folder / "confidence.nii.gz", source.header)
    for image in result.images[:1]:
        io.write_volume(image, folder / "painted.nii.gz")
    if keep_image:
        io.write_volume(source, folder / "image.nii.gz")
    if film is not None and film.pictures:
        # Stacked they compress as one: neighbours are alike.
        np.savez_compressed(folder / FILM, pictures=np.stack(film.pictures))
    return Saved(folder, stem, result.labels.scheme, source.series)


def save_second(saved: Saved, result: Result, source: Volume) -> None:
    """Add the run that went beside."""
    _labels_and_report(saved.folder, SECOND, result, source)


def _labels_and_report(folder: Path, prefix: str, result: Result, source: Volume) -> None:
    report = json.dumps(result.report(), indent=2, allow_nan=False) + "\n"
    io.write_label_map(result.labels, folder / f"{prefix}labels.nii.gz", header=source.header)
    io.atomic_write_bytes(folder / f"{prefix}report.json", report.encode("utf-8"))
