"""The operations a StyleGAN2 is made of; `reference.py` defines them."""

from stylegan2.ops.reference import bias_act, setup_filter, upfirdn2d

__all__ = ["bias_act", "setup_filter", "upfirdn2d"]
