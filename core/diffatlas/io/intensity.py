"""From stored numbers to intensities: scale, voxels that hold none, and whether they are HU.

A scanner with a round field of view fills the corners of the image with a number of its own (-32768, -2000, ...). Such
padding was not measured: it is detected, filled with the lowest measured value, and not used to guess the modality.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Modality
from diffatlas.io.source import Source

# Larger intensities come from a damaged scale factor, and their squares overflow float32.
MAX_INTENSITY = 1e15
# Slices and rows that are converted together.
BLOCK = 16
# Air has -1000 HU, the lowest of all matter; noise and artefacts reach down to about here.
LOWEST_HU = -1500.0
# Padding stands this far below what was measured, in the unit of the image.
PADDING_GAP = 100.0
# A share of all voxels; fewer than this are too few to decide from.
FEW = 0.01
# Different numbers of padding in one image: the converter's and the scanner's.
PADDINGS = 3
# Voxels that are looked at to tell CT from MR.
SAMPLED = 2_000_000


def intensities(source: Source, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, tuple[str, ...]]:
    """Scaled float32 [X, Y, Z], finite everywhere; where nothing was measured (bool, None for nowhere); notes."""
    slope, inter = source.scale
    data: NDArray[np.float32] = np.empty(source.grid.shape, dtype=np.float32)
    # Blocks that the cache holds; in float64, if there is something to calculate. What float32 cannot hold becomes
    # infinite and is counted as such below.
    as_stored = (slope, inter) == (1.0, 0.0)

    def convert(k: int) -> tuple[np.float32, np.float32]:
        """Lowest and highest value of some slices, NaN if there is one."""
        ends = []
        with np.errstate(over="ignore", invalid="ignore"):
            for j in range(0, source.grid.shape[1], BLOCK):
                place = np.s_[:, j : j + BLOCK, k : k + BLOCK]
                part = source.data[place]
                values = part if as_stored else part.astype(np.float64) * slope + inter
                data[place] = values
                ends += [np.float32(values.min()), np.float32(values.max())]
        return np.min(ends), np.max(ends)

    # Reordering the axes mostly waits for memory, so two threads take half the time of one.
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(convert, range(0, source.grid.shape[2], BLOCK)))
    notes: list[str] = []
    low, high = float(np.min(ends)), float(np.max(ends))  # NaN goes through both
    unknown: NDArray[np.bool_] | None = None
    if not (np.isfinite(low) and np.isfinite(high)):
        unknown = ~np.isfinite(data)
        broken = int(np.count_nonzero(unknown))
        share = f"{100 * broken / data.size:.3g}% of the voxels are NaN or infinite"
        if 2 * broken > data.size:
            raise BadInput(f"{name}: {share}; the file or its intensity scale is damaged, convert the original again")
        low, high = float(data[~unknown].min()), float(data[~unknown].max())
        data[unknown] = low
        notes.append(f"{share}: filled with the lowest value, {low:g}")
    if max(-low, high) > MAX_INTENSITY:
        raise BadInput(f"{name}: intensities reach {max(-low, high):.3g}; the file or its intensity scale is damaged")
    if low == high:
        notes.append(f"every voxel has the same value, {low:g}: there is nothing to see in this image")
        return data, unknown, tuple(notes)
    named = None if source.padding is None else float(np.float32(source.padding * slope + inter))
    if named is not None or low <= LOWEST_HU:
        padded, more = fill_padding(data, named)
        if padded is not None:
            unknown = padded if unknown is None else unknown | padded
        notes += more
    return data, unknown, tuple(notes)


def fill_padding(data: NDArray[np.float32], named: float | None = None) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """Fill padding with the lowest value that was measured, in place; where it was (bool, None for nowhere), and notes.

    ``named``: the number that the file itself calls padding; it is filled only below -1500, where no HU can be.
    Besides, padding is a lowest value of at most -1500 that stands 100 or more below all others: an image with a tail
    of negative values has no such gap. The few values between padding and -1500 come from resampling across its border
    and are filled too.
    """
    padded: NDArray[np.bool_] | None = None
    notes = []
    for k in range(PADDINGS + 1):
        value = named if k == 0 else float(data.min())
        if value is None or (k > 0 and value > LOWEST_HU):
            continue
        here = data == value
        if not here.any() or here.all():
            continue
        rest = float(np.min(data, where=~here, initial=np.inf))
        if k > 0 and rest - value < PADDING_GAP:
            break
        if value <= LOWEST_HU:
            impossible = data <= LOWEST_HU
            if not impossible.all() and np.count_nonzero(impossible & ~here) <= FEW * data.size:
                here = impossible
                rest = float(np.min(data, where=~here, initial=np.inf))
            data[here] = rest
        padded = here if padded is None else padded | here
        share = 100 * np.count_nonzero(here) / data.size
        notes.append(f"{share:.3g}% of the voxels are padding ({value:g}): nothing was measured there")
    return padded, notes


def guess_modality(data: NDArray[np.float32], unknown: NDArray[np.bool_] | None = None) -> Modality:
    """`judge_modality` without its reason."""
    return judge_modality(data, unknown)[0]


def judge_modality(data: NDArray[np.float32], unknown: NDArray[np.bool_] | None = None) -> tuple[Modality, str]:
    """CT or MR from the intensities alone, for files that do not say, and why; a sample of the voxels votes.

    CT in HU has air and lung: at least 1% of what was measured lies between -1500 and -150, and at most 1% below. MR
    magnitude is not negative, but for small overshoot of resampling: fewer than 0.1% are below -50. All else is
    unknown. ``unknown`` voxels, and a lone lowest number far below the rest, are no evidence. A CT stored with an
    offset of +1024, or one cropped inside the body, is beyond this rule: name the modality yourself.
    """
    step = max(1, round((data.size / SAMPLED) ** (1 / 3)))
    sample = data[::step, ::step, ::step]
    seen = sample.ravel() if unknown is None else sample[~unknown[::step, ::step, ::step]]
    if unknown is None and seen.size and (low := float(seen.min())) <= LOWEST_HU:
        # As `fill_padding`, for data that come from elsewhere than a file.
        rest = seen[seen > low]
        if rest.size and float(rest.min()) - low >= PADDING_GAP:
            seen = rest
    if not seen.size:
        return "unknown", "nothing was measured in it"
    below, air, negative = (
        100 * float(np.count_nonzero(hit)) / seen.size
        for hit in (seen < LOWEST_HU, (seen >= LOWEST_HU) & (seen < -150), seen < -50)
    )
    if negative < 0.1:
        return "mr", "no voxel is negative, as in MR magnitude images"
    if air > 100 * FEW and below <= 100 * FEW:
        return "ct", f"{air:.0f}% of the voxels lie between {LOWEST_HU:g} and -150, as air and lung do in HU"
    return "unknown", f"{negative:.2g}% of it are negative, and {air:.2g}% are as air in HU"
