"""The StyleGAN2 generator (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN").

Parameters carry the names of NVIDIA's PyTorch checkpoints, so that converted weights load unrenamed.
"""

import math
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan2 import frozen
from stylegan2.config import GeneratorConfig, NoiseMode, check_synthesis_input
from stylegan2.files import WithoutData, save_tensors
from stylegan2.layers import RESAMPLE_TAPS, FullyConnectedLayer, half_dtype
from stylegan2.mobile import MobileSynthesis
from stylegan2.ops import bias_act, epilogue, setup_filter
from stylegan2.ops.resample import blur_after_upsampling, upsample2d


class MappingNetwork(nn.Module):
    """Latents z (and labels c) to intermediate latents ws."""

    w_avg: Tensor

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.num_ws, self.num_layers = config.num_ws, config.mapping_layers
        if config.c_dim > 0:
            self.embed = FullyConnectedLayer(config.c_dim, config.w_dim)
        self.c_dim, self.z_dim = config.c_dim, config.z_dim
        width = config.z_dim + (config.w_dim if config.c_dim > 0 else 0)
        for index in range(self.num_layers):
            is_last = index == self.num_layers - 1
            out = config.w_dim if is_last else config.mapping_width or config.w_dim
            layer = FullyConnectedLayer(width, out, activation="lrelu", lr_multiplier=0.01)
            setattr(self, f"fc{index}", layer)
            width = out
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """z [N, z_dim] standard normal, c [N, c_dim] labels -> ws [N, num_ws, w_dim].

        truncation_psi pulls towards w_avg (1 leaves as is, 0 gives w_avg), in the first `truncation_cutoff`
        layers (default all). Raises ValueError when labels are needed and not given.
        """
        x = normalize_second_moment(z.to(torch.float32))
        if self.c_dim > 0:
            if c is None:
                raise ValueError(f"this generator is conditional: give labels c [N, {self.c_dim}]")
            c = c.to(x.device, torch.float32)
            x = torch.cat([x, normalize_second_moment(self.embed(c))], dim=1)
        for index in range(self.num_layers):
            x = getattr(self, f"fc{index}")(x)
        ws = x[:, None].repeat(1, self.num_ws, 1)
        return truncate(ws, self.w_avg, truncation_psi, truncation_cutoff)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution (doubling the resolution when `up` is 2), noise, bias, leaky ReLU, clamp."""

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self, config: GeneratorConfig, in_channels: int, out_channels: int, resolution: int, up: int = 1
    ):
        super().__init__()
        self.up, self.conv_clamp = up, config.conv_clamp
        self.affine = FullyConnectedLayer(config.w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))

    def forward(self, x: Tensor, w: Tensor, noise_mode: NoiseMode, gain: float = 1.0) -> Tensor:
        x, demodulation = modulated_conv2d(
            x, self.weight, self.affine(w), self.resample_filter if self.up == 2 else None
        )
        noise = None
        if noise_mode == "const":
            noise = self.noise_const[None, None] * self.noise_strength
        elif noise_mode == "random":
            noise = torch.randn([x.shape[0], 1, *x.shape[2:]], device=x.device) * self.noise_strength
        elif callable(noise_mode):
            noise = noise_mode(x.shape[2]) * self.noise_strength
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return epilogue(x, demodulation, noise, self.bias, gain=gain * math.sqrt(2), clamp=clamp)


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution to colours, without demodulation or activation."""

    def __init__(self, config: GeneratorConfig, in_channels: int):
        super().__init__()
        self.conv_clamp = config.conv_clamp
        self.affine = FullyConnectedLayer(config.w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(config.img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(config.img_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) * self.weight_gain
        x = F.conv2d(x * styles.to(x.dtype)[:, :, None, None], self.weight.to(x.dtype))
        return bias_act(x, self.bias, clamp=self.conv_clamp)


class SkipLayer(nn.Module):
    """1x1 convolution and upsampling, past a residual block: [N, I, H, W] -> [N, O, 2H, 2W]."""

    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.weight_gain = 1 / math.sqrt(in_channels)
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))

    def forward(self, x: Tensor) -> Tensor:
        return upsample2d(F.conv2d(x, (self.weight * self.weight_gain).to(x.dtype)), self.resample_filter)


class SynthesisBlock(nn.Module):
    """One resolution: the constant or an upsampling convolution, a convolution, and the RGB it adds."""

    resample_filter: Tensor

    def __init__(self, config: GeneratorConfig, resolution: int):
        super().__init__()
        channels = config.channels(resolution)
        self.is_half = config.uses_half(resolution)
        self.half_type: torch.dtype | None = None
        self.is_first = resolution == 4
        self.is_residual = config.architecture == "resnet" and not self.is_first
        self.has_rgb = config.architecture == "skip" or resolution == config.img_resolution
        if self.is_first:
            self.const = nn.Parameter(torch.randn(channels, 4, 4))
        else:
            self.conv0 = SynthesisLayer(config, config.channels(resolution // 2), channels, resolution, up=2)
        self.conv1 = SynthesisLayer(config, channels, channels, resolution)
        if self.has_rgb:
            self.torgb = ToRGBLayer(config, channels)
        if self.is_residual:
            self.skip = SkipLayer(config.channels(resolution // 2), channels)
        self.register_buffer("resample_filter", setup_filter(RESAMPLE_TAPS))

    def dtype(self, device: torch.device) -> torch.dtype:
        """What this resolution computes in.

        Unless `set_precision` says otherwise, a generator in use computes in 16 bit on CUDA only,
        as those that wrote the checkpoints do.
        """
        if not self.is_half or not (self.half_type or self.training or device.type == "cuda"):
            return torch.float32
        return self.half_type or half_dtype(device)

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        ws: Tensor,
        noise_mode: NoiseMode,
    ) -> tuple[Tensor, Tensor | None]:
        """ws [N, 2 or 3, w_dim]: one a convolution, one for RGB; returns features and the picture so far."""
        dtype = self.dtype(ws.device)
        half = dtype != torch.float32
        convs = iter(ws.unbind(dim=1))
        # Halving the variance of each branch keeps that of their sum.
        gain = math.sqrt(0.5) if self.is_residual else 1.0
        skipped = None
        if x is None:
            x = self.const.to(dtype).expand(ws.shape[0], -1, -1, -1)
            if half:
                x = x.contiguous(memory_format=torch.channels_last)
        else:
            x = x.to(dtype, memory_format=torch.channels_last if half else torch.preserve_format)
            if self.is_residual:
                skipped = self.skip(x) * gain
            x = self.conv0(x, next(convs), noise_mode)
        features = self.conv1(x, next(convs), noise_mode, gain)
        if skipped is not None:
            features = features + skipped
        if self.has_rgb:
            rgb = self.torgb(features, next(convs)).to(torch.float32)
            image = rgb if image is None else upsample2d(image, self.resample_filter) + rgb
        return features, image


class SynthesisNetwork(nn.Module):
    """Intermediate latents ws to pictures."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.num_ws, self.w_dim = config.num_ws, config.w_dim
        self.block_resolutions = config.block_resolutions
        for resolution in self.block_resolutions:
            setattr(self, f"b{resolution}", SynthesisBlock(config, resolution))
        self.prepared: tuple[list, list[frozen.Block]] | None = None  # see frozen.prepared

    def forward(self, ws: Tensor, noise_mode: NoiseMode = "const") -> Tensor:
        """ws [N, num_ws, w_dim] -> pictures [N, img_channels, R, R], float32, about [-1, 1].

        noise_mode: "const" (the stored noise; repeatable), "random" (drawn anew), "none", or a function that
        draws it: resolution R -> [N, 1, R, R].
        """
        check_synthesis_input(ws, self.num_ws, self.w_dim, noise_mode)
        ws = ws.to(torch.float32)
        if frozen.can_run(self, ws):
            return frozen.synthesize(self, ws, noise_mode)
        x = image = None
        first = 0
        for resolution in self.block_resolutions:
            # A block's RGB layer shares its latent with the next block's first convolution.
            num_convs = 1 if resolution == 4 else 2
            block = getattr(self, f"b{resolution}")
            x, image = block(x, image, ws[:, first : first + num_convs + 1], noise_mode)
            first += num_convs
        assert image is not None
        return image

    def style_layers(self) -> list[list[FullyConnectedLayer]]:
        """For each of the num_ws latents the affine layers that read it: of convolutions and colours."""
        layers: list[list[FullyConnectedLayer]] = [[] for _ in range(self.num_ws)]
        first = 0
        for resolution in self.block_resolutions:
            block = getattr(self, f"b{resolution}")
            convolutions = [block.conv1] if block.is_first else [block.conv0, block.conv1]
            for offset, convolution in enumerate(convolutions):
                layers[first + offset].append(convolution.affine)
            if block.has_rgb:
                layers[first + len(convolutions)].append(block.torgb.affine)
            first += len(convolutions)
        return layers

    def set_precision(self, half_type: torch.dtype | None, config: GeneratorConfig | None) -> None:
        """Compute in `half_type` from 8 px up; None: in float32, or as `config` says where it is given."""
        for resolution in self.block_resolutions:
            block = getattr(self, f"b{resolution}")
            block.half_type = half_type
            block.is_half = (
                (half_type is not None and resolution >= 8)
                if config is None
                else config.uses_half(resolution)
            )


class Generator(nn.Module):
    """Mapping and synthesis together. `licence` is that of the weights, where it is known."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        self.licence: str | None = None
        self.mapping = MappingNetwork(config)
        network = MobileSynthesis if config.architecture == "mobile" else SynthesisNetwork
        self.synthesis: MobileSynthesis | SynthesisNetwork = network(config)

    @property
    def num_ws(self) -> int:
        return self.config.num_ws

    def draw_labels(self, count: int, random: torch.Generator) -> Tensor | None:
        """Labels c [count, c_dim], one class each, all equally likely; None if this generator takes none."""
        if self.config.c_dim == 0:
            return None
        classes = torch.randint(self.config.c_dim, (count,), generator=random)
        return F.one_hot(classes, self.config.c_dim).to(torch.float32)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: NoiseMode = "const",
    ) -> Tensor:
        """z [N, z_dim] -> pictures [N, img_channels, R, R], about [-1, 1]."""
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, noise_mode=noise_mode)


def modulated_conv2d(
    x: Tensor, weight: Tensor, styles: Tensor, up_filter: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """3x3 convolution with weights w'[n,o,i,k] = w[o,i,k] s[n,i] / sqrt(sum_ik (w s)^2 + 1e-8), in two parts.

    x [N, I, H, W], weight [O, I, 3, 3], styles [N, I] -> y [N, O, H, W], or [N, O, 2H, 2W] by a transposed
    convolution and `up_filter`; and the demodulation [N, O] by which y is still to be multiplied (`epilogue`
    does). Equations 1 and 3 of the StyleGAN2 paper, computed by scaling what goes in (by s) and what comes
    out instead of the weights, which would differ by picture.
    """
    demodulation = (styles.square() @ weight.square().sum(dim=[2, 3]).T + 1e-8).rsqrt()
    if x.dtype == torch.float16:
        # Demodulation cancels any scale of weights and styles; these keep the sums inside float16's range.
        weight_scale = weight.abs().amax(dim=[1, 2, 3], keepdim=True) * math.sqrt(weight[0].numel())
        style_scale = styles.abs().amax(dim=1, keepdim=True)
        weight, styles = weight / weight_scale, styles / style_scale
        demodulation = demodulation * weight_scale[:, 0, 0, 0] * style_scale
    x = x * styles.to(x.dtype)[:, :, None, None]
    weight = weight.to(x.dtype)
    if up_filter is None:
        x = F.conv2d(x, weight, padding=1)
    else:
        x = blur_after_upsampling(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), up_filter)
    return x, demodulation


def truncate(
    ws: Tensor, w_avg: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None
) -> Tensor:
    """w_avg + psi (ws - w_avg), in the first `truncation_cutoff` of num_ws layers (default all)."""
    if truncation_psi == 1:
        return ws
    cut = ws.shape[1] if truncation_cutoff is None else truncation_cutoff
    return torch.cat([w_avg.lerp(ws[:, :cut], truncation_psi), ws[:, cut:]], dim=1)


def set_precision(generator: Generator, precision: str) -> None:
    """Have the synthesis network compute in "fp32", in "bf16" or "fp16" from 8 px up, or ("auto") as it was
    trained on a GPU and in float32 on anything else.

    Raises ValueError for another name, and for fp16 on a CPU.
    """
    types = {"auto": None, "fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in types:
        raise ValueError(f"unknown precision {precision!r}; choose one of {', '.join(types)}")
    if precision == "fp16" and generator.mapping.w_avg.device.type == "cpu":
        raise ValueError("fp16 needs a GPU; on a CPU choose bf16 or fp32")
    generator.synthesis.set_precision(types[precision], generator.config if precision == "auto" else None)


def as_rgb(generator: Generator) -> Generator:
    """A generator of RGB pictures: itself, or, of a grey one, another with three equal channels.

    Raises ValueError for any other number of channels.
    """
    config = generator.config
    if config.img_channels == 3:
        return generator
    if config.img_channels != 1:
        raise ValueError(
            f"a generator of pictures with {config.img_channels} channels; RGB (3) and grey (1) are supported"
        )
    # The mobile network's channels are the means, and then three details for each colour.
    rows = [0, 0, 0, *(1, 2, 3) * 3] if config.architecture == "mobile" else [0, 0, 0]
    state = {
        name: tensor[rows] if name.endswith((".torgb.weight", ".torgb.bias")) else tensor
        for name, tensor in generator.state_dict().items()
    }
    with WithoutData():
        rgb = Generator(replace(config, img_channels=3))
    rgb.load_state_dict(state, assign=True)
    rgb.licence = generator.licence
    return rgb.train(generator.training).requires_grad_(False)


def save_generator(generator: Generator, path: str | Path) -> None:
    """Write the weights as safetensors, with the configuration, and the licence if known, in the header."""
    config = asdict(generator.config)
    if generator.licence is not None:
        config["licence"] = generator.licence
    save_tensors(path, generator.state_dict(), config)


def normalize_second_moment(x: Tensor) -> Tensor:
    """x [N, C] scaled to a mean square of 1 over C."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
