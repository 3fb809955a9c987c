"""Reading an authors' checkpoint (.pt) without running what it holds.

A .pt file is a pickle, which can ask for any function to be called while it is read. It is opened with PyTorch's
restricted reader, which builds tensors and plain containers and nothing else; a file that asks for more is refused.

Known layouts: ``{'step', 'model', 'ema', 'scaler', 'optimizer'}`` as the authors' trainer writes it, and a bare state
dict.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffatlas.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

Weights = Literal["model", "ema"]


def read_state(path: Path, weights: Weights) -> tuple[dict[str, Tensor], int | None]:
    """The tensors of ``path`` by name, from its "model" or "ema" part, and the training step where it is noted."""
    content = _read(path)
    if not isinstance(content, Mapping):
        raise BadInput(f"{path.name}: holds a {type(content).__name__}, not the tensors of a network")
    parts = {key: content[key] for key in ("model", "ema") if isinstance(content.get(key), Mapping)}
    step = content.get("step")
    if not parts:
        if weights == "ema":
            raise BadInput(
                f"{path.name}: is a bare state dict, without averaged weights; convert it with --weights model"
            )
        parts = {"model": content}
    if not parts.get(weights):
        what = "averaged weights (EMA)" if weights == "ema" else "part 'model'"
        other = next((key for key in parts if key != weights), None)
        hint = f"; convert it with --weights {other}" if other else ""
        raise BadInput(f"{path.name}: holds no {what}{hint}")
    return _tensors(parts[weights], path.name), step if isinstance(step, int) else None


def _read(path: Path) -> Any:
    import pickle

    import torch

    if not path.is_file():
        raise BadInput(f"{path}: " + ("is a folder, not a checkpoint file" if path.is_dir() else "no such file"))
    if path.stat().st_size == 0:
        raise BadInput(f"{path.name}: is empty")
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 10):
        raise BadInput(f"PyTorch {torch.__version__} cannot read checkpoints safely; install 2.10 or newer")
    packed = zipfile.is_zipfile(path)
    if packed:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=packed)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise BadInput(
                f"{path.name}: refused: it asks for {wanted[1]} to be called while it is read; a checkpoint holds "
                f"tensors and nothing else"
            ) from error
        # PyTorch's own words here are advice on how to load it all the same.
        raise BadInput(f"{path.name}: refused: not a checkpoint of plain tensors") from error
    except MemoryError as error:
        raise BadInput(f"{path.name}: asks for more memory than there is") from error
    except Exception as error:  # whatever a broken or hostile file provokes in the reader
        raise BadInput(f"{path.name}: not a PyTorch checkpoint, or damaged ({first_line(error)})") from error


def _check_archive(path: Path) -> None:
    """PyTorch stores its archives uncompressed; one that would inflate is not of its making."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise BadInput(f"{path.name}: refused: a compressed archive, which PyTorch does not write")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BadInput(f"{path.name}: not a PyTorch checkpoint, or damaged ({first_line(error)})") from error


def printable(key: object) -> str:
    """A name out of a file as a message shows it: short, and nothing a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in str(key)[:160])


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return printable((text.splitlines()[0] if text else type(error).__name__)[:160])


def _tensors(part: Mapping[Any, Any], file: str) -> dict[str, Tensor]:
    import torch

    for key, value in part.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise BadInput(
                f"{file}: '{printable(key)}' is a {type(value).__name__}, not a tensor: not the weights of a network"
            )
    if not part:
        raise BadInput(f"{file}: holds no tensors")
    return dict(part)
