"""Cases of a review: read, and segmented where needed, before the user gets to them; knows no Qt and no viewer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from diffatlas import io, review, session
from diffatlas.cohort import Case, find_cases
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap, Modality, Volume
from diffatlas.session import Backend, Frame, ModelCard
from napari_diffatlas.viewer.doubt import doubts_of_labels
from napari_diffatlas.viewer.layers import LayerTuple, label_map_to_layer, volume_to_layer

TRAINING = "training"  # in the folder of the results
AHEAD = 2  # cases kept in memory on either side of the one shown


@dataclass(frozen=True, eq=False)
class Opened:
    """A case to show: layers of the image and of its current labels, and the run's own labels.

    ``painted``: painted labels that were not saved when the program ended, else None. ``middle_mm``: centre of the
    labels shown, RAS mm [3], None where there are none. ``doubts``: see `doubts_of_labels`.
    """

    case: Case
    volume: Volume
    made: LabelMap
    report: dict[str, Any]
    image_layer: LayerTuple
    labels_layer: LayerTuple
    painted: LabelMap | None = None
    middle_mm: NDArray[np.float64] | None = None
    doubts: tuple[str, ...] = ()


class Review:
    """The cases of a folder, worst first; `open` gives one and starts to read the next.

    ``request`` is run on cases that have no labels yet. ``modality``: of their volumes; None: decided for each.
    ``backend`` is called in a thread.
    """

    def __init__(
        self,
        images: Path,
        results: Path,
        request: Request,
        backend: Callable[[], Backend],
        modality: Modality | None = None,
        card_of: Callable[[str], ModelCard] = session.model_card,
    ) -> None:
        found, self.notes = find_cases([images], results)
        cases = [replace(case, modality=modality) for case in found]
        results.mkdir(parents=True, exist_ok=True)
        self.folder, self._request, self._backend, self._card_of = results, request, backend, card_of
        self.reports = {case.name: _report(case.report) for case in cases}
        self.verdicts = review.read(results)
        doubt = {case.name: review.doubt_of(self.reports[case.name]) for case in cases}
        self.cases: Sequence[Case] = sorted(cases, key=lambda case: (-doubt[case.name], case.name))
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="diffatlas-review")
        self._drafting = ThreadPoolExecutor(1, thread_name_prefix="diffatlas-draft")  # one after the other
        self._closed = False
        self._opened: dict[int, Future[Opened]] = {}
        self._saves: list[tuple[str, review.Verdict | None, bytes | None]] = []  # what was there before each

    def open(self, index: int) -> Future[Opened]:
        """Case ``index``, at once where it was read ahead. Starts to read the next ones and keeps the one before."""
        wanted = [i for i in (index, *range(index + 1, index + 1 + AHEAD), index - 1) if 0 <= i < len(self.cases)]
        for i in [i for i in self._opened if i not in wanted]:
            self._opened.pop(i).cancel()
        for i in wanted:
            if i not in self._opened:
                self._opened[i] = self._pool.submit(self._open, self.cases[i])
        return self._opened[index]

    def state(self, case: Case) -> str:
        said = self.verdicts.get(case.name)
        return "to do" if said is None else said.state

    def kept(self, case: Case) -> Path:
        """The file with the labels of a reviewed case."""
        return self.folder / review.FOLDER / f"{case.name}_labels.nii.gz"

    def draft(self, case: Case) -> Path:
        """The file for painted labels that are not saved yet."""
        return self.folder / review.FOLDER / "drafts" / f"{case.name}_labels.nii.gz"

    def keep_draft(self, opened: Opened, labels: LabelMap | None) -> Future[None]:
        """Write ``labels`` to the disk, so that they survive a crash, until a verdict is saved; None removes them."""
        self._forget(opened.case.name)
        return self._drafting.submit(self._write_draft, opened, labels)

    def say(self, opened: Opened, state: review.State, labels: LabelMap | None, reason: str = "") -> None:
        """Save a verdict, and the ``labels`` that it is about (on the file's own voxels)."""
        case = opened.case
        kept = self.kept(case)
        self._saves.append((case.name, self.verdicts.get(case.name), kept.read_bytes() if kept.exists() else None))
        if labels is None:
            kept.unlink(missing_ok=True)  # labels that were accepted before
        else:
            kept.parent.mkdir(parents=True, exist_ok=True)
            io.write_label_map(labels, kept, header=opened.volume.header)
        said = review.verdict(case.name, state, labels, opened.made, opened.report, reason)
        review.add(self.folder, said)
        self.verdicts[case.name] = said
        self.keep_draft(opened, None)

    def undo(self) -> int | None:
        """Undo the last saved verdict and its labels, and return the index of its case; None where nothing was saved
        since the review was opened."""
        if not self._saves:
            return None
        name, before, labels = self._saves.pop()
        index = next(i for i, case in enumerate(self.cases) if case.name == name)
        kept = self.kept(self.cases[index])
        if labels is None:
            kept.unlink(missing_ok=True)
        else:
            io.atomic_write_bytes(kept, labels)
        said = before or review.Verdict(name, "to do")
        review.add(self.folder, said)
        self.verdicts[name] = said
        self._forget(name)
        return index

    def write_training(self) -> Path:
        """The training configuration of the accepted cases, see `diffatlas.review.write_training`."""
        return review.write_training(self.folder, self.folder / TRAINING)

    def _forget(self, name: str) -> None:
        """Drop a case that was read ahead: its files have changed."""
        for index, case in enumerate(self.cases):
            if case.name == name:
                self._opened.pop(index, None)

    def write_table(self) -> Path:
        return review.write_table(self.folder, [case.name for case in self.cases], self.reports)

    def close(self) -> None:
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._drafting.shutdown()

    # -- in the thread -----------------------------------------------------------------------------------------------
    def _open(self, case: Case) -> Opened:
        volume = io.read_volume(case.path)
        if not (case.labels.exists() and case.report.exists()):
            self._segment(case, volume if case.modality is None else volume.named(case.modality))
        report = self.reports[case.name] = _report(case.report)
        if not report:
            raise BadInput(f"{case.report.name}: is no report; run the folder again")
        volume = _as_run(volume, report)
        card = self._card_of(str(report["provenance"]["model"]["name"]))
        scheme = card.scheme
        made = io.read_label_map(case.labels, scheme)
        kept = self.kept(case)
        said = self.verdicts.get(case.name)
        shown = io.read_label_map(kept, scheme) if said is not None and said.labels and kept.exists() else made
        image = volume_to_layer(volume, case.path.absolute())
        name = f"{case.name} labels"
        labels = label_map_to_layer(shown, name, volume.header, case.path.absolute(), series=volume.series)
        painted = self._drafting.submit(self._read_draft, case, made).result()
        return Opened(
            case, volume, made, report, image, labels, painted, middle_of(shown), doubts_of_labels(made, card)
        )

    def _write_draft(self, opened: Opened, labels: LabelMap | None) -> None:
        path = self.draft(opened.case)
        if labels is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            io.write_label_map(labels, path, header=opened.volume.header)

    def _read_draft(self, case: Case, made: LabelMap) -> LabelMap | None:
        path = self.draft(case)
        if not path.exists():
            return None
        try:
            labels = io.read_label_map(path, made.scheme)
        except BadInput:  # of another model
            return None
        return labels if labels.grid.same_as(made.grid) else None

    def _segment(self, case: Case, volume: Volume) -> None:
        result = None
        with closing(cast(Generator[Frame, None, None], self._backend().stream(volume, self._request))) as frames:
            for frame in frames:
                result = frame.result
                if self._closed:
                    break
        if result is None:
            raise BadInput(f"{case.name}: the engine ended without a result")
        io.write_label_map(result.labels, case.labels, header=volume.header)
        session.write_report(result, case.report, case.path)


def middle_of(labels: LabelMap) -> NDArray[np.float64] | None:
    """The middle of the box around what is labelled, RAS mm [3]; None where nothing is."""
    ends = []
    for axis in range(3):
        there = np.flatnonzero((labels.data > 0).any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(there):
            return None
        ends.append((there[0] + there[-1]) / 2)
    return labels.grid.to_world(np.array(ends))


def _as_run(volume: Volume, report: dict[str, Any]) -> Volume:
    """``volume`` taken for the modality that its run took it for, so that a run that goes on sees the same image."""
    modality = (report["provenance"].get("source") or {}).get("modality")
    return volume if modality is None else replace(volume, modality=modality)


def _report(path: Path) -> dict[str, Any]:
    """The report of a case; empty where there is none, or it is damaged."""
    try:
        return session.read_report(path)
    except BadInput:
        return {}
