"""One pass of the published network at its full size (dim 64, 64^3): the authors' code and ours, same weights, float32.

    python benchmarks/bench_published.py --checkout PATH    (a clone of the authors' repository, see common_published)
    python benchmarks/bench_published.py                    ours and the roofline alone

Each network runs in a process of its own (so that its peak memory is its own), in turn: ours, theirs, ours. Beside
them stands the roofline: the floating-point operations of a pass over the best rate that this machine reached, in the
same run, in a 3-D convolution or a matrix product. Ours needs fewer multiplications than the layers say (see
diffatlas.published.winograd), so its ratio to the roofline may come close to 1. Processor seconds stand beside those of
the clock, because they hold on a machine that does something else, too. Writes benchmarks/results/published-speed.json.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from common import write_results
from common_published import authors_network, inputs, pass_flop, twin
from torch.nn import functional as F

from diffatlas.published.network import PublishedUNet

# (channels, edge) of the convolutions, edge of the products.
CONVOLUTIONS = ((64, 64), (128, 32), (256, 16))
PRODUCTS = (1024, 2048)


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the clock and of the processors."""
    clock, processors = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - processors


def passes(weights: Path, output: Path, checkout: Path | None, repeat: int, threads: int) -> dict[str, Any]:
    """In a process of its own: ``repeat`` passes, of the authors' network where ``checkout`` is given."""
    torch.set_num_threads(threads)
    state = torch.load(weights, weights_only=True)
    network = PublishedUNet() if checkout is None else authors_network(checkout)
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    x, t = inputs()
    with torch.inference_mode():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times = [timed(lambda: torch.save(network(x, t), output)) for _ in range(repeat)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"clock": [a for a, _ in times], "processors": [b for _, b in times], "mb": (peak - before) / 1024}


def rate(threads: int) -> dict[str, float]:
    """Best GFLOP/s reached here, by what."""
    torch.set_num_threads(threads)
    best: dict[str, float] = {}

    def record(name: str, flop: float, call: Callable[[], Any]) -> None:
        call()
        best[name] = flop / min(timed(call)[0] for _ in range(5)) / 1e9

    with torch.inference_mode():
        for n in PRODUCTS:
            a, b = torch.randn(n, n), torch.randn(n, n)
            record(f"matrix product {n}", 2.0 * n**3, lambda a=a, b=b: a @ b)  # type: ignore[misc]
        for c, n in CONVOLUTIONS:
            x = torch.randn(1, c, 16, n, n).contiguous(memory_format=torch.channels_last_3d)
            w = torch.randn(c, c, 3, 3, 3).contiguous(memory_format=torch.channels_last_3d)
            flop = 2.0 * 27 * c * c * 16 * n * n
            record(f"conv3d {c} channels", flop, lambda x=x, w=w: F.conv3d(x, w, padding=1))  # type: ignore[misc]
    return best


def alone(call: Callable[..., Any], *arguments: Any) -> Any:
    """``call`` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    clock, processors = ([s for run in runs for s in run[key]] for key in ("clock", "processors"))
    return {
        "passes": len(clock),
        "seconds": statistics.median(clock),
        "spread": [min(clock), max(clock)],
        "processor_seconds": statistics.median(processors),
        "peak_mb_above_weights": max(run["mb"] for run in runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, help="a clone of the authors' repository")
    parser.add_argument("--repeat", type=int, default=2, help="passes of ours before, and after, theirs")
    parser.add_argument("--theirs", type=int, default=1, help="passes of the authors' code")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    threads = arguments.threads

    results: dict[str, Any] = {"threads": threads, "flop": pass_flop()}
    torch.manual_seed(0)
    network = PublishedUNet() if arguments.checkout is None else twin(authors_network(arguments.checkout))
    with tempfile.TemporaryDirectory() as folder:
        weights, mine, theirs = (Path(folder) / name for name in ("weights.pt", "ours.pt", "theirs.pt"))
        torch.save(network.state_dict(), weights)
        runs = [alone(passes, weights, mine, None, arguments.repeat, threads)]
        if arguments.checkout is not None:
            results["authors"] = summary(
                [alone(passes, weights, theirs, arguments.checkout, arguments.theirs, threads)]
            )
            runs.append(alone(passes, weights, mine, None, arguments.repeat, threads))
            a, b = torch.load(mine, weights_only=True), torch.load(theirs, weights_only=True)
            results["largest_difference"] = float((a - b).abs().max())
            results["output_deviation"] = float(b.std())
        results["ours"] = ours = summary(runs)
    results["gflops"] = rates = alone(rate, threads)
    name = max(rates, key=lambda k: rates[k])
    results["roofline_seconds"] = roofline = results["flop"] / rates[name] / 1e9

    print(
        f"a pass: {results['flop'] / 1e12:.3f} TFLOP; {threads} threads; best rate {rates[name]:.0f} GFLOP/s ({name})"
    )
    print(f"{'':10} {'passes':>6} {'median s':>9} {'spread':>15} {'processor s':>12} {'roofline':>9} {'peak MB':>8}")
    for title in ("authors", "ours"):
        if row := results.get(title):
            low, high = row["spread"]
            print(
                f"{title:10} {row['passes']:6} {row['seconds']:9.2f} {low:6.2f} - {high:6.2f} "
                f"{row['processor_seconds']:12.2f} {row['seconds'] / roofline:8.2f}x "
                f"{row['peak_mb_above_weights']:8.0f}"
            )
    if "authors" in results:
        results["times_faster"] = results["authors"]["seconds"] / ours["seconds"]
        results["times_fewer_processor_seconds"] = results["authors"]["processor_seconds"] / ours["processor_seconds"]
        print(
            f"ours is {results['times_faster']:.2f} times faster ({results['times_fewer_processor_seconds']:.2f} by "
            f"processor seconds); outputs differ by {results['largest_difference']:.1e} at most, they deviate by "
            f"{results['output_deviation']:.2f}"
        )
        if results["largest_difference"] > 1e-4:
            raise SystemExit("the outputs differ by more than 1e-4")
    print("written:", write_results("published-speed", results).name)


if __name__ == "__main__":
    main()
