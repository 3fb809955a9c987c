"""Is a label that a model calls 90 % sure right nine times in ten? And do nine of ten volumes lie in their interval?

    python benchmarks/bench_calibration.py --model heart-phantom --fit       # fit on cases kept apart, write the card
    python benchmarks/bench_calibration.py --model heart-phantom             # measure on cases never seen

Fitted on: hippocampus, the 16 cases kept from training to choose settings by; `heart-phantom`, 12 digital hearts a
modality of the seeds to choose by; `heart`, 120 drawn hearts around the label maps that its training held out
(../shared/data/hearts/anatomies). ``diffatlas train`` fits its own models on the cases held out of training. Measured
on: the 40 validation cases; 20 unseen hearts a modality; sets of real hearts (../shared/data/hearts) for models of
hearts.

Counted are the voxels that are labelled, in truth or answer, or of which the model is less than 99 % sure. Expected
calibration error: over ten ranges of confidence, the distance between the mean that was said and the share that was
right, weighted by voxels. Brier: mean squared distance between confidence and right (1) or wrong (0). Risk-coverage:
the share of wrong labels among the surest half, and among all.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from bench_hearts import DATA as HEARTS
from bench_hearts import SETS, VENTRICLES
from common import HIPPOCAMPUS_DATA, ROOT, hearts, hippocampus, read_results, write_results
from numpy.typing import NDArray
from scipy import ndimage

from diffatlas.data import DrawnAnatomy, PreparedCase, prepare_case
from diffatlas.engine.request import Request
from diffatlas.evaluate.answers import SURE
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.models.calibration import fit
from diffatlas.models.store import find_model, load_model, read_card, write_card
from diffatlas.session import segment, stream
from diffatlas.train.config import load_config
from diffatlas.train.prepared import Prepared
from diffatlas.train.renewal import APART
from diffatlas.train.sources import collection_of
from diffatlas.train.task import task_of
from diffatlas.train.validate import held_out

CHOOSING = 800_000
AGAIN = 4


@dataclass(frozen=True, eq=False)
class Case:
    """``truth`` [X, Y, Z]: indices into the model's scheme, -1 where nothing is labelled; ``labels``:
    which of them the set labels."""

    name: str
    volume: Volume
    truth: NDArray[np.int16]
    labels: tuple[int, ...]


def fitting(model: str) -> Iterator[tuple[Volume, LabelMap]]:
    if model == "hippocampus-mri":
        for _, volume, truth in hippocampus("holdout"):
            yield volume, truth
        return
    for modality in ("ct", "mr"):
        for _, volume, truth in hearts(modality, 12, CHOOSING):
            yield volume, truth


def measuring(model: str) -> Iterator[tuple[str, list[Case]]]:
    """Set by set; one at a time is in memory."""
    if model == "hippocampus-mri":
        if HIPPOCAMPUS_DATA.is_dir():
            yield "hippocampus", [Case(n, v, t.data.astype(np.int16), (1, 2)) for n, v, t in hippocampus("val")]
        return
    for modality in ("ct", "mr"):
        cases = [Case(n, v, t.data.astype(np.int16), (1, 2, 3, 4, 5)) for n, v, t in hearts(modality, 20)]
        yield f"digital {modality}", cases
    if not HEARTS.is_dir():
        print("real hearts: left out, ../shared/data/hearts is not here")
        return
    for name in ("mscmr", "left_atrium", "acdc", "sunnybrook"):
        ids = {"left_atrium": (3,), "sunnybrook": (1,)}.get(name, tuple(VENTRICLES.values()))
        yield name, [Case(c.name, c.volume, c.truth, ids) for c in SETS[name]()]


def drawn_apart() -> tuple[list[NDArray[np.float32]], list[NDArray[np.uint8]], list[NDArray[np.bool_]]]:
    """Answers of `heart` (mm), truth and what was acquired of drawn hearts: those that its training held out, around
    label maps that no other case of it uses, and `AGAIN` more patients around the label map of each."""
    model = load_model("heart")
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(ROOT / "weights" / "heart" / "train.yaml", [f"data.cache={folder}/heart.safetensors"])
        collection, planned = collection_of(config.data, config.space)
        cases = []
        for case in collection.cases[-config.data.holdout :]:
            assert isinstance(case.image, DrawnAnatomy)
            for number in range(AGAIN + 1):
                patient = replace(case.image, seed=case.image.seed + number * APART)
                cases.append(prepare_case(replace(case, image=patient), planned))
    drawn = [case for case in cases if isinstance(case, PreparedCase)]
    image, sdf = (torch.from_numpy(np.stack([getattr(case, name) for case in drawn])) for name in ("image", "sdf"))
    everywhere = np.ones_like(drawn[0].image)
    known = torch.from_numpy(np.stack([everywhere if case.known is None else case.known for case in drawn]))
    data = config.data.model_copy(update={"holdout": len(drawn)})
    prepared = Prepared(image, sdf, tuple(map(str, range(len(drawn)))), known)
    held = held_out(prepared, config.model_copy(update={"data": data}))
    task, clip_mm = task_of(config), np.float32(config.space.sdf_clip_mm)
    with torch.no_grad():
        answers = [task.answer(model.network, one[None])[0].float().numpy() * clip_mm for one in held.image]
    assert held.seen is not None
    return answers, list(held.truth), held.seen


def fit_card(model: str) -> None:
    card = read_card(find_model(model))
    answers: list[NDArray[np.float32]] = []
    truths: list[NDArray[np.uint8]] = []
    if card.name == "heart":
        answers, truths, seen = drawn_apart()
        found = fit(card.scheme.names, answers, truths, "drawn hearts held out of training", seen=seen)
    else:
        for volume, truth in fitting(card.name):
            *_, last = stream(volume, Request(model=model))
            # The nearest voxel: distances, once interpolated, shrink what is small.
            matrix = np.linalg.inv(truth.grid.affine) @ last.grid.affine
            moved = ndimage.affine_transform(truth.data, matrix[:3, :3], matrix[:3, 3], last.grid.shape, order=0)
            answers.append(last.sdf)
            truths.append(moved)
        which = "digital hearts never trained on"
        if card.name == "hippocampus-mri":
            which = "cases kept from training (hippocampus)"
        found = fit(card.scheme.names, answers, truths, which)
    assert found is not None
    write_card(replace(card, calibration=found), card.path)
    for border in found.borders:
        widths = f"{border.inside_mm:.2f} mm inside, {border.outside_mm:.2f} mm outside"
        print(f"{border.name:24} offset {border.offset_mm:+.2f} mm, width {widths}", border.volume_ratio)
    print(f"floor {found.floor:.4f}, n = {found.cases}: written to {card.path / 'card.yaml'}")


def row_of(model: str, cases: list[Case]) -> dict[str, Any]:
    given, said, right = np.zeros(10), np.zeros(10), np.zeros(10)
    brier, pairs, within, volumes = [], [], 0, 0
    for case in cases:
        result = segment(case.volume, Request(model=model))
        assert result.confidence is not None
        known = case.truth >= 0
        mine = np.where(np.isin(result.labels.data, case.labels), result.labels.data, 0)
        # What a set does not label can be neither right nor wrong.
        judged = known & ((result.labels.data == mine) | (case.truth > 0))
        sure = np.where(judged, result.confidence, 0)
        truth = np.maximum(case.truth, 0).astype(np.uint8)
        counted = ((mine > 0) | (truth > 0) | (sure < SURE)) & (sure > 0)
        place = np.minimum((sure[counted] * 10).astype(int), 9)
        given += np.bincount(place, minlength=10)
        said += np.bincount(place, sure[counted], 10)
        right += np.bincount(place, (mine == truth)[counted], 10)
        good = (mine == truth)[counted]
        brier.append(float(np.mean((result.confidence[counted] - good) ** 2)))
        pairs.append((result.confidence[counted][::7], good[::7]))
        if known.all():
            names = result.labels.scheme.names
            ml = result.labels.grid.voxel_volume_ml
            # A run gives none for a structure that the image cuts off; here they count as well.
            assert result.calibration is not None
            for name, (low, high) in result.calibration.volume_intervals_ml(result.volumes_ml).items():
                k = names.index(name) + 1
                if k in case.labels and (true := float((truth == k).sum()) * ml) > 0:
                    volumes += 1
                    within += low <= true <= high
    confidence, good = (np.concatenate(x) for x in zip(*pairs, strict=True))
    order = np.argsort(-confidence)
    half = good[order[: len(order) // 2]]
    error = float(np.abs(right - said).sum() / given.sum())
    return {
        "n": len(cases),
        "expected_calibration_error": round(error, 4),
        "brier": round(float(np.mean(brier)), 4),
        "wrong": round(float(1 - good.mean()), 4),
        "wrong_in_surest_half": round(float(1 - half.mean()), 4),
        "said_and_right": [[int(n), round(float(r / n), 3) if n else None] for n, r in zip(given, right, strict=True)],
        "volumes": volumes,
        "volumes_in_interval": round(within / volumes, 3) if volumes else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="name or folder; may be given several times (all shipped)")
    parser.add_argument("--fit", action="store_true", help="fit, and write the card")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    results = read_results("calibration")
    for model in arguments.model or ["hippocampus-mri", "heart-phantom"]:
        if arguments.fit:
            fit_card(model)
            continue
        name = read_card(find_model(model)).name
        for title, cases in measuring(name):
            row = row_of(model, cases)
            results.setdefault(name, {})[title] = row
            figures = " ".join(f"{k} {v}" for k, v in row.items() if k != "said_and_right")
            print(f"{name:16} {title:12} {figures}", flush=True)
    if not arguments.fit and not arguments.no_write:
        write_results("calibration", results)


if __name__ == "__main__":
    main()
