"""An authors' checkpoint becomes a model; anything else is refused in one line, before it can do harm."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import MMWHS
from diffatlas.models.store import load_model, read_card
from diffatlas.published.convert import Options, convert, parse_labels, parse_window
from tests import published_files
from tests.published_files import LEVELS, PREFIX, network, state, write

OPTIONS = Options(labels="a,b", size=8)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path / "Tiny_full .pt")


def refused(path: Path, folder: Path, match: str, options: Options = OPTIONS) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        convert(path, folder, options)
    assert "\n" not in str(caught.value)
    assert not folder.exists()
    assert not list(folder.parent.glob(".diffatlas-*"))


def outputs(folder: Path) -> torch.Tensor:
    return run(load_model(folder).network)


def expected(seed: int) -> torch.Tensor:
    return run(network(seed))


def run(net: torch.nn.Module) -> torch.Tensor:
    x = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    out: torch.Tensor = net(x, torch.tensor([1, 7]))
    return out


def test_the_recorded_checkpoint_gives_the_recorded_outputs(shared: Path, tmp_path: Path) -> None:
    for weights in ("model", "ema"):
        convert(shared / "golden" / "model-golden.pt", tmp_path / weights, Options(weights=weights))
        card = read_card(tmp_path / weights)
        assert (card.levels, card.architecture["dim"], card.scheme) == (30, 8, MMWHS)
        assert card.space.shape == (64, 64, 64)
    recorded = np.load(shared / "golden" / "forward.npz")
    out = load_model(tmp_path / "model").network(torch.from_numpy(recorded["forward_x"]), torch.tensor([1, 29]))
    np.testing.assert_allclose(out.numpy(), recorded["forward_tmix"], rtol=0, atol=1e-4)


def test_weights_sizes_and_card(checkpoint: Path, tmp_path: Path) -> None:
    for seed, weights in enumerate(("model", "ema")):
        card = convert(checkpoint, tmp_path / weights, Options(weights=weights, labels="a,b=9", size=8))  # type: ignore[arg-type]
        assert torch.equal(outputs(tmp_path / weights), expected(seed))
        assert card.training["steps"] == 1000
    assert card.levels == LEVELS
    assert card.name == "tiny-full"
    assert card.scheme.ids == (1, 9)
    assert card.architecture["multipliers"] == [1, 2]
    assert {p.name for p in (tmp_path / "ema").iterdir()} == {"model.safetensors", "card.yaml", "README.md"}
    assert read_card(tmp_path / "ema").to_json() == {
        **card.to_json(),
        "sha256": read_card(tmp_path / "ema").sha256,
    }


@pytest.mark.parametrize("prefix", ["", "module.", "denoise_fn.", "module.denoise_fn.module."])
@pytest.mark.parametrize("bare", [False, True])
def test_every_wrapping_of_the_names(tmp_path: Path, prefix: str, bare: bool) -> None:
    tensors = state(0, prefix)
    path = tmp_path / "file.pt"
    torch.save(tensors, path) if bare else write(path, model=tensors, ema=None)
    card = convert(path, tmp_path / "out", OPTIONS)
    assert card.levels == LEVELS
    assert torch.equal(outputs(tmp_path / "out"), expected(0))


def test_a_file_without_a_schedule_is_taken_for_300_levels_and_says_so(tmp_path: Path) -> None:
    torch.save(state(0, "", None), tmp_path / "bare.pt")
    card = convert(tmp_path / "bare.pt", tmp_path / "out", OPTIONS)
    assert card.levels == 300
    assert any("300 is an assumption" in limit for limit in card.limits)


def test_what_is_assumed_stands_in_the_card(checkpoint: Path, tmp_path: Path) -> None:
    told = Options(labels="a,b", size=8, window="0:9", spacing_mm=(1.0, 1.0, 3.0), orientation="lps", name="mine")
    sure, guess = convert(checkpoint, tmp_path / "a", told), convert(checkpoint, tmp_path / "b", Options(size=8))
    assert not any("assumption" in limit for limit in sure.limits)
    assert (sure.name, sure.orientation, sure.space.spacing_mm) == ("mine", "LPS", (1.0, 1.0, 3.0))
    for option in ("--labels", "--window", "--spacing", "--orientation"):
        assert any(option in limit for limit in guess.limits)
    assert guess.scheme.names == ("structure 1", "structure 2")


class Bomb:
    """A pickle that calls a function when it is opened."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("where", ["raw", "top", "inside", "beside", "legacy"])
def test_a_pickle_that_asks_for_code_is_refused_unopened(tmp_path: Path, where: str) -> None:
    touched, path = tmp_path / "touched", tmp_path / "bomb.pt"
    bomb = Bomb(os.mkdir, str(touched))
    if where == "raw":
        path.write_bytes(pickle.dumps({"model": bomb}))
    elif where == "top":
        torch.save(bomb, path)
    elif where == "inside":
        write(path, model=state() | {"extra": bomb})
    elif where == "beside":
        write(path, optimizer=bomb)
    else:
        torch.save({"model": bomb}, path, _use_new_zipfile_serialization=False)
    # PyTorch's reader knows the old pickle protocol that torch.save writes; what is newer it refuses as such.
    refused(path, tmp_path / "out", "refused" if where == "raw" else "mkdir to be called")
    assert not touched.exists()


def test_files_that_are_no_checkpoints(tmp_path: Path, checkpoint: Path) -> None:
    whole = checkpoint.read_bytes()
    out = tmp_path / "out"
    for name, content, match in (
        ("empty", b"", "is empty"),
        ("text", b"not a checkpoint\n" * 9, "text.pt: "),
        ("cut", whole[: len(whole) // 2], "cut.pt: "),
        ("number", None, "holds a int"),
        ("strings", None, "not a tensor"),
        ("nothing", None, "holds no part 'model'"),
    ):
        path = tmp_path / f"{name}.pt"
        if content is None:
            torch.save({"number": 3, "strings": {"a": "b"}, "nothing": {}}[name], path)
        else:
            path.write_bytes(content)
        refused(path, out, match)
    refused(tmp_path / "missing.pt", out, "no such file")
    refused(tmp_path, out, "is a folder")
    with (
        zipfile.ZipFile(checkpoint) as source,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as made,
    ):
        for entry in source.namelist():
            made.writestr(entry, source.read(entry))
    refused(tmp_path / "small.pt", out, "compressed archive")


def without(key: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state().items() if k != PREFIX + key}


def changed(key: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    return state() | {PREFIX + key: value}


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (without("init_conv.weight"), "tensor 'init_conv.weight' is missing"),
        (without("downs.1.0.mlp.1.bias"), rf"tensor '{PREFIX}downs.1.0.mlp.1.bias' is missing"),
        (without("null_cond_emb"), "null_cond_emb' is missing"),
        (changed("downs.9.0.x", torch.ones(1)), "downs.9.0.x' does not belong"),
        (state() | {"other.weight": torch.ones(1)}, "'other.weight' does not belong"),
        (state() | state(0, "module."), "more than one network"),
        (changed("init_conv.weight", torch.ones(8, 3, 3, 3)), "init_conv.weight' has shape"),
        (changed("mid_block1.block1.proj.bias", torch.ones(3)), r"mid_block1.block1.proj.bias' has shape \[3\]"),
        (changed("init_conv.bias", torch.full((8,), float("nan"))), "not finite"),
        (changed("init_conv.bias", torch.ones(8, dtype=torch.int64)), "not plain floating-point"),
        (changed("init_conv.bias", torch.ones(1).expand(8)), "larger than what the file holds"),
        (state() | {"alphas_cumprod": torch.linspace(1, 0, LEVELS)}, "not that of the published cosine"),
        ({}, "holds no part 'model'"),
    ],
)
def test_a_wrong_architecture_names_the_tensor(tmp_path: Path, tensors: dict[str, torch.Tensor], match: str) -> None:
    refused(write(tmp_path / "wrong.pt", model=tensors, ema=None), tmp_path / "out", match)


def test_missing_averages(tmp_path: Path) -> None:
    ema = Options(weights="ema", labels="a,b", size=8)
    refused(
        write(tmp_path / "a.pt", ema=None), tmp_path / "out", r"no averaged weights \(EMA\); .* --weights model", ema
    )
    torch.save(state(), tmp_path / "b.pt")
    refused(tmp_path / "b.pt", tmp_path / "out", "bare state dict", ema)
    refused(write(tmp_path / "c.pt", model=None), tmp_path / "out", "--weights ema")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (Options(labels="a", size=8), "2 mask channels"),
        (Options(labels="a,a", size=8), "name a occurs twice"),
        (Options(labels="a=3,b=3", size=8), "id 3 occurs twice"),
        (Options(labels="a,=", size=8), "is not a name"),
        (Options(labels="a,b=0", size=8), "is not a name"),
        (Options(labels="a,b", size=7), "multiple of 2"),
        (Options(labels="a,b", size=8, window="9:1"), "LOW below HIGH"),
        (Options(labels="a,b", size=8, window="brain"), "--window must be one of mmwhs-ct"),
        (Options(labels="a,b", size=8, spacing_mm=(1.0, 0.0, 1.0)), "--spacing"),
        (Options(labels="a,b", size=8, orientation="XYZ"), "axis codes"),
        (Options(labels="a,b", size=8, name="../up"), "--name"),
    ],
)
def test_options_that_do_not_fit(checkpoint: Path, tmp_path: Path, options: Options, match: str) -> None:
    refused(checkpoint, tmp_path / "out", match, options)


def test_labels_are_known_by_name_abbreviation_and_id() -> None:
    wanted = ("left ventricle", "right ventricle", "left atrium", "right atrium", "myocardium")
    for text in ("LV,RV,LA,RA,Myo", "500,600,420,550,205", "Left Ventricle, RV=600, la, 550, myocardium"):
        scheme = parse_labels(text, 5)
        assert scheme.names == wanted
        assert scheme.ids == MMWHS.ids
    other = parse_labels("Myo, tumour=7, 9", 3)
    assert other.names == ("myocardium", "tumour", "structure 9")
    assert other.ids == (205, 7, 9)


def test_windows_carry_their_modality() -> None:
    assert parse_window("mmwhs-mr")[0] == ("mr",)
    modalities, windows = parse_window("-10.5:20")
    assert modalities == ("ct", "mr")
    assert (windows["ct"].low, windows["unknown"].high) == (-10.5, 20.0)


def test_a_folder_that_cannot_be_made(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        convert(checkpoint, tmp_path / "file", OPTIONS)
    with pytest.raises(BadInput, match="is a file"):
        convert(checkpoint, tmp_path / "file" / "deeper", OPTIONS)
    convert(checkpoint, tmp_path / "new" / "folders", OPTIONS)
    assert load_model(tmp_path / "new" / "folders").card.levels == published_files.LEVELS


def test_a_file_of_something_else_gets_no_advice_on_loading_it_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("not a checkpoint")
    with pytest.raises(BadInput, match=r"^notes\.pt: refused: not a checkpoint of plain tensors$"):
        convert(tmp_path / "notes.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
