"""Training: what is drawn, what is learnt, and that a run picks up where it stopped, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from diffatlas.diffusion.schedule import trailing
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.session import load_model, segment
from diffatlas.train import run as train_run
from diffatlas.train.augment import appearance, geometry
from diffatlas.train.config import AugmentConfig, ObjectiveConfig, TrainConfig, load_config
from diffatlas.train.draws import Draws
from diffatlas.train.export import HELD_OUT, export
from diffatlas.train.loop import advance, rate
from diffatlas.train.objective import MODES, draw_levels, losses, soft_dice_loss
from diffatlas.train.prepared import load_or_prepare, phantom_case, with_margin
from diffatlas.train.state import Run
from tests.geometry.test_space import ball_grid, two_balls
from tests.training import balls

STILL = AugmentConfig(
    rotate_degrees=0, scale=0, shift_mm=0, elastic_mm=0, gamma=0, brightness=0, bias=0, noise=0, blur=0
)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return balls(tmp_path)


def some_draws(count: int, update: int = 0) -> Draws:
    return Draws(0, update, count, tuple(range(count)))


def test_levels_hold_their_shares_and_meanings() -> None:
    levels = draw_levels(2000, ObjectiveConfig(), torch.Generator().manual_seed(0))
    shares = torch.bincount(levels.mode, minlength=5) / 2000
    expected = torch.tensor([getattr(ObjectiveConfig(), m) for m in MODES])
    torch.testing.assert_close(shares, expected / expected.sum(), atol=2e-3, rtol=0)
    one_step, recycled, shared, paint = (
        levels.mode == MODES.index(m) for m in ("one_step", "recycled", "shared", "paint")
    )
    assert (levels.image[one_step] == 0).all()
    assert (levels.mask[one_step] == 1).all()
    torch.testing.assert_close(levels.image[recycled], (levels.rho * levels.mask)[recycled])
    torch.testing.assert_close(levels.image[shared], trailing(levels.mask[shared]))
    assert (levels.mask[shared] > 0.75).float().mean() == pytest.approx(0.5, abs=0.05)  # crowded towards noise
    assert (levels.mask[paint] == 0).all()


def test_a_perfect_network_has_no_loss_and_a_constant_one_has() -> None:
    x0 = torch.rand(40, 3, 8, 8, 8) * 1.6 - 0.8

    def parts(network: object) -> dict[str, float]:
        config = ObjectiveConfig(dice_weight=0)
        loss, parts = losses(network, lambda x, a, b: x0[: len(x)], x0, config, some_draws(40))  # type: ignore[arg-type]
        assert loss.shape == (40,)
        return {name: float(values[values.isfinite()].mean()) for name, values in parts.items()}

    right = parts(lambda x, a, b: x0)
    wrong = parts(lambda x, a, b: torch.zeros_like(x0))
    assert right["one_step"] == right["recycled"] == right["shared"] == 0.0
    assert wrong["one_step"] > 0.1
    assert wrong["paint"] > 0.1


def test_soft_dice_loss_knows_right_wrong_and_absent() -> None:
    target = torch.ones(1, 2, 8, 8, 8)
    target[:, 0, :4] = -1
    right = soft_dice_loss(target, target, 0.05)
    wrong = soft_dice_loss(target.flip(2), target, 0.05)
    assert right.item() < 0.01
    assert wrong.item() > 0.4  # the second structure is absent and counts as right


def test_a_voxel_s_weight_counts_once_in_the_soft_dice() -> None:
    """Weights 3 and 1, half of each voxel taken, the first inside: 1 - (2 * 3 / 2 + 1) / (2 + 3 + 1), by hand."""
    target = torch.tensor([-1.0, 1.0]).reshape(1, 1, 2, 1, 1)
    weight = torch.tensor([3.0, 1.0]).reshape(1, 1, 2, 1, 1)
    loss = soft_dice_loss(torch.zeros_like(target), target, 0.1, weight)
    torch.testing.assert_close(loss, torch.tensor([1 - 4 / 6]))


def test_soft_dice_loss_is_that_of_monai() -> None:
    from monai.losses.dice import DiceLoss

    torch.manual_seed(0)
    sdf, target = torch.randn(2, 3, 6, 5, 4), torch.randn(2, 3, 6, 5, 4)
    theirs = DiceLoss(reduction="none", smooth_nr=1, smooth_dr=1)(torch.sigmoid(-sdf / 0.5), (target < 0).float())
    torch.testing.assert_close(soft_dice_loss(sdf, target, 0.5), theirs.flatten(1).mean(1))


def test_geometry_keeps_distances_true() -> None:
    grid = ball_grid((32, 32, 32), (2.0, 2.0, 2.0))
    radius = np.linalg.norm(grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float)), axis=-1)
    sdf = torch.from_numpy((radius - 14.0) / 20).float()[None, None].expand(6, 1, -1, -1, -1)
    image = (sdf < 0).float() * 2 - 1
    moved = AugmentConfig(rotate_degrees=40, scale=0.2, shift_mm=3, elastic_mm=0)
    out_image, out_sdf, _ = geometry(image, sdf, (24, 24, 24), (2.0, 2.0, 2.0), moved, some_draws(6))
    assert out_sdf.shape == (6, 1, 24, 24, 24)
    gradient = torch.stack(torch.gradient(out_sdf[:, 0] * 20, spacing=2.0, dim=(1, 2, 3))).norm(dim=0)
    near = out_sdf[:, 0].abs() < 0.15
    assert (gradient[near] - 1).abs().mean() < 0.05  # |grad sdf| = 1: still a distance in mm
    assert ((out_image > 0) == (out_sdf < 0)).float().mean() > 0.97


def test_no_augmentation_is_the_middle() -> None:
    x = torch.rand(2, 1, 20, 20, 20) * 2 - 1
    image, sdf, _ = geometry(x, x, (16, 16, 16), (1.0, 1.0, 1.0), STILL, some_draws(2))
    torch.testing.assert_close(image, x[:, :, 2:-2, 2:-2, 2:-2], atol=1e-5, rtol=0)
    torch.testing.assert_close(sdf, image)
    torch.testing.assert_close(appearance(image, STILL, some_draws(2)), image, atol=1e-5, rtol=0)


def test_rate_warms_up_stays_and_decays(config_file: Path) -> None:
    config = load_config(config_file, ["steps=100", "warmup=10", "decay=0.5"])
    rates = np.array([rate(i, config) for i in range(100)])
    assert rates.argmax() <= 10
    assert rates[0] == pytest.approx(config.learning_rate / 10)
    assert (rates[10:50] == config.learning_rate).all()
    assert (np.diff(rates[50:]) < 0).all()
    assert rates[-1] < 0.05 * config.learning_rate


def test_training_exports_a_model_that_runs(config_file: Path) -> None:
    folder = train_run(config_file)
    model = load_model(folder)
    assert model.card.training["steps"] == 6
    assert set(model.card.metrics) == {HELD_OUT}
    grid = ball_grid((44, 40, 40), (1.0, 1.0, 1.0))
    volume = Volume(two_balls(grid).data.astype(np.float32), grid, "mr")
    assert segment(volume, Request(model=str(folder), precision="fp32")).labels.data.shape == grid.shape


def test_a_run_starts_from_a_model(config_file: Path) -> None:
    folder = train_run(config_file)
    model = load_model(folder)
    again = Run(load_config(config_file, [f"start_from={folder}", "run_folder=other", "export=second"]))
    shipped = model.network.state_dict()
    assert [k for k, v in again.network.state_dict().items() if not torch.equal(v, shipped[k])] == []
    export(again)
    said = load_model(again.config.export).card.training["started_from"]
    assert said == f"{model.card.name} {model.card.sha256[:12]} (steps 6, batch 4, seed 0)"
    with pytest.raises(BadInput, match="another architecture"):
        Run(load_config(config_file, [f"start_from={folder}", "run_folder=third", "network.widths=[16, 16]"]))


def test_the_loss_falls(config_file: Path) -> None:
    config = load_config(config_file, ["steps=60", "augment.elastic_mm=0"])
    data = load_or_prepare(config.data, config.space)
    run = Run(config)
    means = []
    for _ in range(60):
        advance(run, data)
        run.meter.gather()
        means.append(run.meter.means()["loss"])
        run.meter.reset()
    assert np.mean(means[-10:]) < 0.5 * np.mean(means[:5])


def test_a_resumed_run_is_the_same_run(config_file: Path) -> None:
    torch.set_num_threads(1)
    config = load_config(config_file)
    data = load_or_prepare(config.data, config.space)

    def weights(run: Run) -> dict[str, torch.Tensor]:
        return {f"n.{k}": v for k, v in run.network.state_dict().items()} | {
            f"a.{k}": v for k, v in run.averaged.state_dict().items()
        }

    straight = Run(config)
    for _ in range(6):
        advance(straight, data)
    first = Run(config)
    for _ in range(3):
        advance(first, data)
    first.save()
    second = Run(config)
    assert second.resume()
    assert second.step == 3
    for _ in range(3):
        advance(second, data)
    expected, got = weights(straight), weights(second)
    assert expected.keys() == got.keys()
    assert [key for key in expected if not torch.equal(expected[key], got[key])] == []


def test_a_failed_save_leaves_the_last_checkpoint(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(load_config(config_file))
    run.save()
    before = run.file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    run.step = 99
    monkeypatch.setattr("diffatlas.io.atomic.os.fsync", full)
    with pytest.raises(BadInput, match="no space"):
        run.save()
    assert run.file.read_bytes() == before


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["batchsize=3"], "batchsize"),
        (["steps=many"], "steps"),
        (["data.source=magic"], "data.source"),
        (["steps"], "key=value"),
        (["name.first=x"], "holds no settings"),
    ],
)
def test_configurations_that_make_no_sense(config_file: Path, overrides: list[str], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        load_config(config_file, overrides)


def test_a_cache_of_another_space_is_refused(config_file: Path) -> None:
    config = load_config(config_file)
    load_or_prepare(config.data, config.space)
    other = load_config(config_file, ["space.sdf_clip_mm=5"])
    with pytest.raises(BadInput, match="another model space"):
        load_or_prepare(other.data, other.space)


def test_shipped_configurations_are_valid() -> None:
    for path in sorted(Path(__file__).resolve().parents[2].glob("weights/*/train.yaml")):
        assert isinstance(load_config(path), TrainConfig)
        assert load_config(path).export == path.parent


def test_a_phantom_case_fills_its_space() -> None:
    config = load_config(Path(__file__).resolve().parents[2] / "weights" / "heart-phantom" / "train.yaml")
    image, sdf = phantom_case(0, with_margin(config.space, 0), ("ct", "mr"))
    assert image.shape == (2, 64, 64, 64)
    assert sdf.shape == (5, 64, 64, 64)
    assert all((sdf[k] < 0).any() for k in range(5))
    assert not np.array_equal(image[0], image[1])
