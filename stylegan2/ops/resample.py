"""StyleGAN2's four uses of `upfirdn2d`; without kernels, each is one convolution of PyTorch's."""

from torch import Tensor
from torch.nn import functional as F

from stylegan2.ops import upfirdn2d, uses_kernels

# Each takes x [N, C, H, W] and a 4x4 filter that is its own mirror image (every StyleGAN2's [1, 3, 3, 1] is),
# so that correlation and convolution agree.


def blur_after_upsampling(x: Tensor, f: Tensor) -> Tensor:
    """[N, C, 2H+1, 2W+1] -> [N, C, 2H, 2W]: upfirdn2d(x, f, padding=1, gain=4)."""
    if uses_kernels(x):
        return upfirdn2d(x, f, padding=1, gain=4)
    return F.conv2d(x, _per_channel(f * 4, x), padding=1, groups=x.shape[1])


def blur_before_downsampling(x: Tensor, f: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, H+1, W+1]: upfirdn2d(x, f, padding=2), which a stride-2 convolution halves."""
    if uses_kernels(x):
        return upfirdn2d(x, f, padding=2)
    return F.conv2d(x, _per_channel(f, x), padding=2, groups=x.shape[1])


def upsample2d(x: Tensor, f: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W]: upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4)."""
    if uses_kernels(x):
        return upfirdn2d(x, f, up=2, padding=(2, 1, 2, 1), gain=4)
    return F.conv_transpose2d(x, _per_channel(f * 4, x), stride=2, padding=1, groups=x.shape[1])


def downsample2d(x: Tensor, f: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, H/2, W/2]: upfirdn2d(x, f, down=2, padding=1)."""
    if uses_kernels(x):
        return upfirdn2d(x, f, down=2, padding=1)
    # Striding after the filter: the gradient of a strided depthwise convolution is many times slower on CPUs.
    return F.conv2d(x, _per_channel(f, x), padding=1, groups=x.shape[1])[:, :, ::2, ::2]


def _per_channel(f: Tensor, x: Tensor) -> Tensor:
    # In a trace sizes are tensors, and ONNX must know a kernel's size.
    return f.to(x.dtype).expand(int(x.shape[1]), 1, *map(int, f.shape))
