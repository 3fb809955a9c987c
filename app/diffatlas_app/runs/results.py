"""What a finished run leaves for its visitor: files in a folder whose random name is the only way to them.

Written at once: labels on the source grid, confidence, report. Made when asked for, because each takes seconds: the
surface, the film, and the labels as DICOM.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffatlas import io, render
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import DicomSeries, LabelScheme, Volume
from diffatlas.session import Frame, Result
from diffatlas_app import limits

# Names on the disk and in addresses: what is asked for, and what the browser saves it as.
OFFERED = {
    "labels.nii.gz": ("Labels (NIfTI)", "_labels.nii.gz", "application/gzip"),
    "second-labels.nii.gz": ("Labels of the second run", "_second_labels.nii.gz", "application/gzip"),
    "confidence.nii.gz": ("Confidence (NIfTI)", "_confidence.nii.gz", "application/gzip"),
    "painted.nii.gz": ("Painted image (NIfTI)", "_painted.nii.gz", "application/gzip"),
    "image.nii.gz": ("Image (NIfTI)", ".nii.gz", "application/gzip"),
    "report.json": ("Report (JSON)", "_report.json", "application/json"),
    "second-report.json": ("Report of the second run", "_second_report.json", "application/json"),
    "labels-seg.dcm": ("Labels (DICOM SEG)", "_labels_seg.dcm", "application/dicom"),
    "labels-rtstruct.dcm": ("Labels (RTSTRUCT)", "_labels_rtstruct.dcm", "application/dicom"),
    "surface.glb": ("Surface (GLB)", "_surface.glb", "model/gltf-binary"),
    "run.gif": ("Film (GIF)", "_run.gif", "image/gif"),
}
FILM = "film.npz"
FILM_FPS = 12


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

    def make(self, what: str) -> str:
        """Make one more file: "surface", "film", "seg" or "rtstruct". Returns a note on it, or nothing."""
        if what in ("seg", "rtstruct"):
            return self._dicom("rtstruct" if what == "rtstruct" else "seg")
        (self._film if what == "film" else self._surface)()
        return ""

    def _dicom(self, format_: io.LabelFormat) -> str:
        path = self.folder / f"labels-{format_}.dcm"
        if not path.exists():
            labels = io.read_label_map(self.folder / "labels.nii.gz", self.scheme)
            io.write_label_map(labels, path, series=self.series, format=format_)
        return "" if self.series is not None else io.UNREFERENCED[:1].upper() + io.UNREFERENCED[1:] + "."

    def _surface(self) -> None:
        """Make the surface of the labels."""
        path = self.folder / "surface.glb"
        if not path.exists():
            labels = io.read_label_map(self.folder / "labels.nii.gz", self.scheme)
            try:
                render.write_glb(labels, path)
            except BadInput as error:
                raise BadInput("this label map is empty: there is no surface in it") from error

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
    _labels_and_report(saved.folder, "second-", result, source)


def _labels_and_report(folder: Path, prefix: str, result: Result, source: Volume) -> None:
    report = json.dumps(result.report(), indent=2, allow_nan=False) + "\n"
    io.write_label_map(result.labels, folder / f"{prefix}labels.nii.gz", header=source.header)
    io.atomic_write_bytes(folder / f"{prefix}report.json", report.encode("utf-8"))
