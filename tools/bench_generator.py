"""How fast the generator is: pictures a second, latency, memory, share of the machine's matrix rate.

python -m tools.bench_generator --resolution 256 --batch 4 --backward
python -m tools.bench_generator --baseline ../stylegan3     # beside NVIDIA's, from a copy of its repository
python -m tools.bench_generator --generator faces --openvino    # beside OpenVINO (pip install openvino)

Weights are random, of StyleGAN2's config F, or those of --generator. Every path runs in turn, round after
round, so that a ratio is of neighbours in time; ratios are medians over the rounds.
"""

import contextlib
import copy
import ctypes
import gc
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from clip2gan.generators import load_named_generator
from clip2gan.packaged import packaged_generators
from stylegan2 import Generator, GeneratorConfig
from stylegan2.generator import set_precision

Synthesis = Callable[[Tensor], Tensor]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Sample:
    """One run: seconds, and the peak of memory above what was in use before, in bytes."""

    seconds: float
    memory: float


@click.command()
@click.option("--resolution", "resolutions", type=int, multiple=True, help="[default: 64, 256, 1024]")
@click.option("--batch", "batches", type=int, multiple=True, help="[default: 1, 4]")
@click.option("--backward", is_flag=True, help="Also the gradient of the pictures' sum to ws.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option(
    "--baseline", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A copy of stylegan3."
)
@click.option(
    "--generator", "source", metavar="NAME|FILE|URL", help="Time this generator.  [default: random weights]"
)
@click.option("--openvino", is_flag=True, help="Time OpenVINO too, on the package of --generator.")
@click.option(
    "--path", "names", multiple=True, help="[default: plain, fp32, bf16; on CUDA fp16, compiled too]"
)
@click.option("--rounds", default=5, show_default=True)
@click.option(
    "--clock",
    type=click.Choice(list(CLOCKS)),
    default="wall",
    show_default=True,
    help="cpu: seconds of all threads, for a machine that has other work to do; set OMP_NUM_THREADS=1.",
)
def main(
    resolutions: tuple[int, ...],
    batches: tuple[int, ...],
    backward: bool,
    device: str,
    baseline: Path | None,
    source: str | None,
    openvino: bool,
    names: tuple[str, ...],
    rounds: int,
    clock: str,
) -> None:
    """Print one table for each resolution and batch."""
    default = ("plain", "fp32", "bf16", *(("fp16", "compiled") if device == "cuda" else ()))
    # bfloat16 is very slow on CPUs without instructions for it, so only what is wanted is timed.
    types = {torch.float32, *(path_type(each) for each in names or default)}
    rates = {dtype: matrix_rate(device, dtype, clock) for dtype in types}
    shown = ", ".join(f"{name(dtype)} {rate / 1e9:.0f} GFLOP/s" for dtype, rate in rates.items())
    click.echo(f"{device}, {torch.get_num_threads()} threads, {clock} clock, torch {torch.__version__}")
    click.echo(f"matrix rate: {shown}")
    if source is None:
        configs = [
            GeneratorConfig(img_resolution=resolution) for resolution in resolutions or (64, 256, 1024)
        ]
        generators = (random_generator(config) for config in configs)
    else:
        generators = iter([load_named_generator(source)])
    for generator in generators:
        generator.to(device)
        config = generator.config
        paths = {each: make_path(generator, each) for each in names or default}
        if openvino and source is not None and not backward:
            paths = {"openvino": load_openvino(source), **paths}
        if baseline is not None:
            paths = {"baseline": load_baseline(baseline, generator, device), **paths}
        for batch in batches or (1, 4):
            with torch.no_grad():
                z = torch.randn(batch, config.z_dim, device=device)
                ws = generator.mapping(z, truncation_psi=1.0 if source is None else 0.7)
            samples = measure(paths, ws, backward, rounds, CLOCKS[clock])
            report(config, batch, backward, samples, paths, ws, rates)


def random_generator(config: GeneratorConfig) -> Generator:
    """Random weights, with noise, frozen."""
    torch.manual_seed(0)
    generator = Generator(config).eval().requires_grad_(False)
    for key, parameter in generator.named_parameters():
        if key.endswith("noise_strength"):
            parameter.fill_(0.1)
    return generator


def make_path(generator: Generator, name: str) -> Synthesis:
    """plain: the modules as for training; fp32, bf16, fp16: frozen; compiled: fp16 through torch.compile."""
    generator = copy.deepcopy(generator)
    if name == "plain":
        generator.requires_grad_(True)
        return generator.synthesis
    set_precision(generator, "fp16" if name == "compiled" else name)
    if name == "compiled":
        return torch.compile(generator.synthesis, mode="max-autotune")
    return generator.synthesis


def load_baseline(path: Path, generator: Generator, device: str) -> Synthesis:
    """NVIDIA's generator with the same weights: float32 on a CPU, its own mixed precision elsewhere."""
    sys.path.insert(0, str(path))
    with contextlib.redirect_stdout(sys.stderr):
        from training.networks_stylegan2 import (  # pyright: ignore[reportMissingImports]
            Generator as Baseline,
        )
    config = generator.config
    half = {} if device == "cpu" else {"num_fp16_res": 4, "conv_clamp": 256}
    baseline = Baseline(config.z_dim, 0, config.w_dim, config.img_resolution, config.img_channels, **half)
    baseline.load_state_dict(generator.state_dict())
    baseline = baseline.eval().requires_grad_(False).to(device)
    return lambda ws: baseline.synthesis(ws, noise_mode="const", force_fp32=device == "cpu")


def path_type(path: str) -> torch.dtype:
    """The type whose matrix rate a path is compared with."""
    return torch.bfloat16 if path in ("bf16", "fp16", "compiled") else torch.float32


def load_openvino(source: str) -> Synthesis:
    """OpenVINO on the synthesis network that a package carries, in float32, picture by picture."""
    import openvino  # pyright: ignore[reportMissingImports]

    package = packaged_generators()[source]
    path = distribution(package.package).locate_file(next(name for name in package.files if "Synth" in name))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    network = openvino.Core().compile_model(Path(str(path)).with_suffix(".xml"), "CPU", settings)
    return lambda ws: torch.cat([torch.from_numpy(network(w[:1].numpy())[0].copy()) for w in ws])


def measure(
    paths: dict[str, Synthesis], ws: Tensor, backward: bool, rounds: int, clock: Callable[[], float]
) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {path: [] for path in paths}
    for number in range(rounds + 1):
        for path, synthesis in paths.items():
            sample = run_once(synthesis, ws, backward, clock)
            if number:  # the first round warms up
                samples[path].append(sample)
    return samples


def run_once(synthesis: Synthesis, ws: Tensor, backward: bool, clock: Callable[[], float]) -> Sample:
    with MemoryPeak(ws.device) as memory:
        start = clock()
        if backward:
            latents = ws.clone().requires_grad_(True)
            torch.autograd.grad(synthesis(latents).sum(), latents)
        else:
            with torch.no_grad():
                synthesis(ws)
        if ws.is_cuda:
            torch.cuda.synchronize()
        seconds = clock() - start
    return Sample(seconds, memory.bytes)


class MemoryPeak:
    """The most memory in use inside a `with`, above what was in use before, in bytes.

    Of the process on a CPU (Linux can start its record anew; elsewhere it is the record of the whole run), of
    PyTorch's allocator on CUDA.
    """

    def __init__(self, device: torch.device):
        self.device, self.bytes = device, 0

    def __enter__(self) -> "MemoryPeak":
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        else:
            gc.collect()
            with contextlib.suppress(OSError, AttributeError):  # return what was freed: glibc keeps some
                ctypes.CDLL(None).malloc_trim(0)
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
            self.start = self._resident()
        return self

    def __exit__(self, *_: object) -> None:
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else self._resident()
        self.bytes = peak - self.start

    def _resident(self) -> int:
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(
    config: GeneratorConfig,
    batch: int,
    backward: bool,
    samples: dict[str, list[Sample]],
    paths: dict[str, Synthesis],
    ws: Tensor,
    rates: dict[torch.dtype, float],
) -> None:
    what = "forward and backward to ws" if backward else "forward"
    first = next(iter(samples))
    click.echo(f"\n{config.img_resolution} px, batch {batch}, {what}")
    click.echo(
        f"| path | pictures/s | ms a batch | peak memory MB | of matrix rate | times as fast as {first} | "
        f"memory, of {first}'s | PSNR to {first}, dB | largest difference |"
    )
    click.echo("|---|---|---|---|---|---|---|---|---|")
    with torch.no_grad():
        expected = paths[first](ws).double()
    flops = 2 * macs(config) * batch * (2 if backward else 1)
    for path, own in samples.items():
        seconds = statistics.median(sample.seconds for sample in own)
        memory = max(sample.memory for sample in own)
        pairs = list(zip(samples[first], own, strict=True))
        faster = statistics.median(a.seconds / b.seconds for a, b in pairs)
        lighter = memory / max(sample.memory for sample in samples[first])
        rate = rates[path_type(path)]
        with torch.no_grad():
            difference = paths[path](ws).double() - expected
        psnr = 10 * math.log10(4 / max(float(difference.square().mean()), 1e-20))
        click.echo(
            f"| {path} | {batch / seconds:.2f} | {seconds * 1e3:.0f} | {memory / 1e6:.0f} | "
            f"{flops / seconds / rate:.0%} | {faster:.2f} | {lighter:.2f} | {psnr:.0f} | "
            f"{float(difference.abs().max()):.1e} |"
        )


def macs(config: GeneratorConfig) -> int:
    """Multiplications of a picture's convolutions; a transposed one counts at its input's size."""
    total = 0
    if config.architecture == "mobile":
        total = 4 * 4 * 9 * config.channels(4) ** 2
        for resolution in config.block_resolutions[1:]:
            for inputs in (config.channels(resolution // 2) // 4, config.channels(resolution)):
                total += resolution**2 * inputs * (9 + config.channels(resolution))
        last = config.block_resolutions[-1]
        return total + last**2 * 4 * config.img_channels * config.channels(last)
    for resolution in config.block_resolutions:
        channels = config.channels(resolution)
        total += resolution**2 * channels * (9 * channels + config.img_channels)
        if resolution > 4:
            total += (resolution // 2) ** 2 * 9 * config.channels(resolution // 2) * channels
    return total


def matrix_rate(device: str, dtype: torch.dtype, clock: str) -> float:
    """FLOP/s of the faster of a matrix product and a 3x3 convolution, at sizes that suit both."""
    a = torch.randn(2048, 2048, device=device, dtype=dtype)
    x = torch.randn(1, 256, 64, 64, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, device=device, dtype=dtype).contiguous(
        memory_format=torch.channels_last
    )
    works = [
        (2 * 2048**3, lambda: a @ a),
        (2 * 9 * 256**2 * 64**2, lambda: F.conv2d(x, kernel, padding=1)),
    ]
    best = 0.0
    for flops, work in works:
        for _ in range(6):
            start = CLOCKS[clock]()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, flops / (CLOCKS[clock]() - start))
    return best


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
