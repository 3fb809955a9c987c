"""``precision: auto``: measured once, remembered, and never the slower one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from diffatlas.engine import device, precision
from diffatlas.engine.device import pick_precision
from diffatlas.engine.precision import FILE, MAX_KEPT, ROUNDS, bf16_is_faster, forget, place_key

KEY = place_key("a processor", 2, "2.13.0", "f" * 64, "a pass")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DIFFATLAS_CACHE", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache"
    forget()


class Work:
    """Takes ``fp32_s`` or ``bf16_s`` on its own clock, the first call of each way ``warm_s`` more."""

    def __init__(self, fp32_s: float, bf16_s: float, warm_s: float = 0.0) -> None:
        self.seconds, self.warm_s, self.now_s = {False: fp32_s, True: bf16_s}, warm_s, 0.0
        self.calls: list[bool] = []

    def __call__(self, bf16: bool) -> None:
        self.now_s += self.seconds[bf16] + self.warm_s * (bf16 not in self.calls)
        self.calls.append(bf16)

    def clock(self) -> float:
        return self.now_s

    def ask(self, key: tuple[str, ...] = KEY) -> bool:
        return bf16_is_faster(key, self, self.clock)


@pytest.mark.parametrize(
    ("fp32_s", "bf16_s", "faster"),
    [(0.14, 0.22, False), (0.2, 0.1, True), (0.1, 0.1, False), (0.1, 0.095, False), (0.1, 0.0899, True)],
)
def test_bf16_is_taken_only_where_it_is_clearly_faster(fp32_s: float, bf16_s: float, faster: bool) -> None:
    work = Work(fp32_s, bf16_s)
    assert work.ask() is faster
    assert work.calls == [False, True] * (1 + ROUNDS)


def test_warming_up_does_not_count() -> None:
    class Cold(Work):
        def __call__(self, bf16: bool) -> None:
            self.now_s += 1.5 * (bf16 and True not in self.calls)  # bf16's kernels are made at its first call
            super().__call__(bf16)

    assert Cold(0.2, 0.1).ask()


def test_long_calls_are_made_once() -> None:
    work = Work(60.0, 40.0)
    assert work.ask()
    assert work.calls == [False, True]


def test_it_is_measured_once_and_remembered_by_other_processes() -> None:
    assert Work(0.2, 0.1).ask()
    again = Work(0.1, 0.2)
    assert again.ask()
    assert again.calls == []
    forget()  # as another process begins
    assert again.ask()
    assert again.calls == []


def test_another_processor_torch_network_or_work_is_measured_anew() -> None:
    assert Work(0.2, 0.1).ask()
    for place in range(len(KEY)):
        work = Work(0.1, 0.2)
        assert not work.ask(tuple("other" if i == place else part for i, part in enumerate(KEY)))
        assert work.calls
    assert Work(0.1, 0.2).ask()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", json.dumps({" | ".join(KEY): {"fp32_s": "fast", "bf16_s": 1}}), json.dumps({" | ".join(KEY): 1}),
     json.dumps({" | ".join(KEY): {"fp32_s": -1.0, "bf16_s": 0.1}}), "[" * 100_000],
)  # fmt: skip
def test_a_damaged_file_is_measured_anew_and_mended(cache: Path, text: str) -> None:
    cache.mkdir()
    (cache / FILE).write_text(text)
    assert Work(0.2, 0.1).ask()
    forget()
    work = Work(0.1, 0.2)
    assert work.ask()
    assert work.calls == []


def test_a_cache_that_cannot_be_written_is_none(cache: Path) -> None:
    cache.write_text("a file where the folder would be")
    assert Work(0.2, 0.1).ask()
    assert cache.read_text() == "a file where the folder would be"


def test_the_file_stays_small_and_keeps_the_newest(cache: Path) -> None:
    for i in range(MAX_KEPT + 3):
        Work(0.2, 0.1).ask((str(i),))
    assert list(json.loads((cache / FILE).read_text())) == [str(i) for i in range(3, MAX_KEPT + 3)]


def test_bf16_that_fails_is_not_faster(cache: Path) -> None:
    def work(bf16: bool) -> None:
        if bf16:
            raise RuntimeError("not implemented for 'BFloat16'")

    assert not bf16_is_faster(KEY, work)
    forget()
    assert not Work(0.2, 0.1).ask()  # that is remembered, too


def test_what_fp32_cannot_do_is_told() -> None:
    def work(bf16: bool) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        bf16_is_faster(KEY, work)


def test_several_threads_measure_once() -> None:
    work = Work(0.2, 0.1)
    threads = [threading.Thread(target=work.ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(work.calls) == 2 * (1 + ROUNDS)


def faster(answer: bool) -> Callable[[], bool]:
    return lambda: answer


def never() -> bool:
    raise AssertionError("measured for nothing")


def test_auto_asks_and_names_are_taken_at_their_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    assert pick_precision("auto", CPU, faster(False)) == torch.float32
    assert pick_precision("auto", CPU, faster(True)) == torch.bfloat16
    assert pick_precision("bf16", CPU, never) == torch.bfloat16
    assert pick_precision("fp32", CPU, never) == torch.float32
    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    assert pick_precision("auto", CPU, never) == torch.float32
    assert pick_precision("bf16", CPU, never) == torch.float32


def test_a_run_times_a_pass_of_its_own_network(tiny_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffatlas.engine.request import Request
    from diffatlas.models.store import load_model

    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    model = load_model(tiny_model)
    seen: list[bool] = []
    hook = model.network.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    took = device.Compute.of(Request(model=str(tiny_model), device="cpu"), model).dtype
    assert seen[:2] == [False, True]
    (name,) = json.loads((cache / FILE).read_text())
    assert name.split(" | ") == [
        precision.processor_name(), f"{torch.get_num_threads()} threads", f"torch {torch.__version__}",
        model.card.sha256, "a pass",
    ]  # fmt: skip
    calls = len(seen)
    assert device.Compute.of(Request(model=str(tiny_model), device="cpu"), model).dtype == took
    assert len(seen) == calls
    hook.remove()


def test_training_times_an_update_and_changes_no_random_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffatlas.train import devices
    from diffatlas.train.config import load_config
    from tests.training import balls

    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    config = load_config(balls(tmp_path), ["precision=auto"])
    asked: list[tuple[str, ...]] = []

    def answer(key: tuple[str, ...], work: Callable[[bool], None]) -> bool:
        asked.append(key)
        work(False)
        return False

    monkeypatch.setattr(devices, "bf16_is_faster", answer)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert devices.start(config)._precision.precision == "32-true"
    assert torch.equal(torch.rand(3), expected)
    assert [key[-1] for key in asked] == [f"an update of {config.batch}"]
