"""Validation: Dice of the averaged weights on the cases kept apart, and pictures of predictions and generated pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from diffatlas.geometry.distance import distances_to_labels
from diffatlas.metrics import dice
from diffatlas.render import montage
from diffatlas.render.theme import GAP, MARGIN, canvas, draw_text, theme_named
from diffatlas.train.config import TrainConfig, told_evidence
from diffatlas.train.devices import summed
from diffatlas.train.prepared import Prepared
from diffatlas.train.state import Run

# Rows of the picture: cases, and generated pairs.
SHOWN = 3
PLANE_PX = 160
HEAD_PX = 16


@dataclass(frozen=True)
class Score:
    """Mean Dice over cases of every structure, and over structures; NaN where no case has it."""

    structures: dict[str, float]

    @property
    def mean(self) -> float:
        values = [v for v in self.structures.values() if not math.isnan(v)]
        return sum(values) / len(values) if values else math.nan


@dataclass(frozen=True, eq=False)
class Held:
    """Cases kept apart, as the network would see them: ``image`` [N, 1, X, Y, Z] in [-1, 1] (with evidence, a second
    channel that says where it was acquired), ``truth`` uint8 labels [N, X, Y, Z]."""

    image: Tensor
    truth: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.image)

    @property
    def seen(self) -> list[NDArray[np.bool_]] | None:
        """Where each image was acquired, bool [X, Y, Z]; None where the cases do not tell."""
        return None if self.image.shape[1] == 1 else [known.numpy() > 0.5 for known in self.image[:, 1]]


def held_out(data: Prepared, config: TrainConfig) -> Held:
    """The last ``config.data.holdout`` cases of ``data``, without margin or augmentation; of a case that has several
    appearances one, in turn."""
    cases = range(len(data) - config.data.holdout, len(data))
    cut = tuple(
        slice((wide - n) // 2, (wide - n) // 2 + n)
        for wide, n in zip(data.image.shape[2:], config.space.shape, strict=True)
    )
    looks = data.image.shape[1]
    images = [data.image[i, i % looks][cut].float() / 127.5 - 1 for i in cases]
    labels = [distances_to_labels(data.sdf[i][(slice(None), *cut)].numpy().astype(np.float32)) for i in cases]
    shape = config.space.shape
    image = torch.stack(images)[:, None] if images else torch.empty(0, 1, *shape)
    if told_evidence(config):
        known = torch.ones_like(image)
        if images and data.known is not None:
            known = torch.stack([data.known[i, i % looks][cut].float() for i in cases])[:, None]
        image = torch.cat([image, known], dim=1)
    return Held(image, np.stack(labels) if labels else np.empty((0, *shape), np.uint8))


@torch.no_grad()
def validate(run: Run, held: Held, in_time: Callable[[], bool] = lambda: True) -> Score | None:
    """Dice of `Task.answer` with the averaged weights; the processes share the cases and all learn the score.

    None where ``in_time`` said no before the end.
    """
    names = run.config.scheme.names
    table = torch.zeros(2, len(names) + 1)
    for case in range(run.fabric.global_rank, len(held), run.fabric.world_size):
        if not in_time():
            table[1, -1] = 1
            break
        answer = _answer(run, held.image[case : case + 1])
        for k in range(len(names)):
            value = dice(answer == k + 1, held.truth[case] == k + 1)
            if not math.isnan(value):
                table[:, k] += torch.tensor([value, 1.0])
    total, count = summed(run.fabric, table.to(run.fabric.device)).cpu()
    if count[-1]:
        return None
    return Score({name: float(total[k] / count[k]) if count[k] else math.nan for k, name in enumerate(names)})


def _answer(run: Run, image: Tensor) -> NDArray[np.uint8]:
    """One case at a time, so that an answer does not depend on what else is asked: labels [X, Y, Z]."""
    with run.fabric.autocast():
        sdf = run.task.answer(run.averaged, image.to(run.fabric.device))
    return distances_to_labels(sdf[0].float().cpu().numpy())


@torch.no_grad()
def picture(run: Run, held: Held) -> NDArray[np.uint8] | None:
    """Cases with truth and answer, and generated pairs where the task has them: uint8 [H, W, 3].

    None where there is neither.
    """
    config = run.config
    rows = []
    for case in range(min(SHOWN, len(held))):
        image = held.image[case, 0].numpy()
        answer = _answer(run, held.image[case : case + 1])
        rows.append([("image", image, None), ("truth", image, held.truth[case]), ("answer", image, answer)])
    with run.fabric.autocast():
        pairs = run.task.pairs(run.averaged, SHOWN, config.space.shape)
    if pairs is not None:
        drawn = [(pair[0], distances_to_labels(pair[1:])) for pair in pairs.float().cpu().numpy()]
        rows.append([("generated pair", image, labels) for image, labels in drawn])
    return _sheet(rows, config) if rows else None


def _sheet(
    rows: list[list[tuple[str, NDArray[np.float32], NDArray[np.uint8] | None]]], config: TrainConfig
) -> NDArray[np.uint8]:
    style = theme_named("dark")
    grid = config.space.grid_at(np.zeros(3))
    tiles = []
    for row in rows:
        middles = [labels for _, _, labels in row if labels is not None and labels.any()]
        at = _middle(middles[0]) if middles and row[0][2] is None else None
        at_mm = None if at is None else grid.to_world(at)
        tiles.append(
            [
                montage(
                    image, labels, config.scheme, grid, at_mm=at_mm, planes=("axial", "coronal"), height_px=PLANE_PX,
                    window=(-1.0, 1.0),
                )
                for _, image, labels in row
            ]
        )  # fmt: skip
    width = max(sum(t.shape[1] for t in row) for row in tiles)
    heights = [max(t.shape[0] for t in row) + HEAD_PX + GAP for row in tiles]
    sheet = canvas(width, sum(heights) + MARGIN, style)
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for row, pictures, height in zip(rows, tiles, heights, strict=True):
        left = 0
        for (title, _, _), tile in zip(row, pictures, strict=True):
            draw_text(draw, (left + MARGIN, top + HEAD_PX - 3), title, style.text, HEAD_PX)
            sheet.paste(Image.fromarray(tile), (left, top + HEAD_PX))
            left += tile.shape[1]
        top += height
    return np.array(sheet)


def _middle(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    middle: NDArray[np.float64] = np.argwhere(labels > 0).mean(axis=0)
    return middle
