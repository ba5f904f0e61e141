"""CLIP, frozen: pictures and texts to unit embeddings, by any model that open_clip can load.

A model is named by a *spec*:

    avatars             the CLIP that comes with this package; it knows cartoon faces only
    ARCH:PRETRAINED     one of open_clip's pretrained models, such as ViT-B-16:laion2b_s34b_b88k
    ARCH:FILE           one of open_clip's architectures with the weights of a file, such as OpenAI's own .pt;
                        ARCH-quickgelu where they need QuickGELU and the file does not say so
    hf-hub:ORG/NAME     a model on the Hugging Face Hub in open_clip's format
    local-dir:FOLDER    the same in a folder: open_clip_config.json and open_clip_model.safetensors; or a
                        CLIPModel of transformers: config.json and model.safetensors
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip2gan.clip_loading import CONFIG_NAME, HF_HUB, LOCAL_DIR, WEIGHTS_NAME, clip_source, load_clip
from clip2gan.data.lines import check_text
from stylegan2.atomic import atomic_path, sweep_folder
from stylegan2.files import check_finite, save_tensors
from stylegan2.locks import lock_folder

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "CONFIG_NAME",
    "HF_HUB",
    "LOCAL_DIR",
    "WEIGHTS_NAME",
    "ClipEncoder",
    "clip_source",
    "save_local_dir",
]

# What the tokenizer is known by: the tokens of a text that is short, and of one that is cut.
PROBES = ("It's a Photo of_2 hats: naïve, 3x4!", "hat " * 200)
LETTERS, LETTERS_OF_WORD = 64, 8  # for each token that is read: those of a text, and of a word in it


class ClipEncoder:
    """A frozen CLIP with the preprocessing and the tokenizer that belong to it.

    Attributes:
        model: open_clip's model, in eval mode, without gradients of its own.
        spec: the name it was loaded by.
        config: the arguments that open_clip makes the model with, where they are known.
        embed_dim: D, the length of an embedding.
        image_size: height of the square pictures (in pixels) that the image tower takes.
        context_length: tokens that the text tower reads, start and end included.
        logit_scale: what cosines are multiplied by to become logits (not its logarithm).
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[..., Tensor],
        preprocess_config: Mapping[str, Any],
        spec: str,
        device: str | torch.device = "cpu",
        config: Mapping[str, Any] | None = None,
    ):
        """Wrap a model in memory.

        Args:
            model: an open_clip CLIP; it is put in eval mode and frozen.
            tokenizer: open_clip's tokenizer for it.
            preprocess_config: keys of open_clip's PreprocessCfg (size, mean, std, resize_mode, ...).
            spec: a name to show.
            device: where to compute.
            config: the arguments that the model was made with, for a bundle to keep.
        """
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.model: Any = model.eval().requires_grad_(False).to(device)
        self.spec = spec
        self.config = None if config is None else dict(config)
        self.preprocess_config = dict(preprocess_config)
        self._preprocess: Any = image_transform_v2(PreprocessCfg(**self.preprocess_config), is_train=False)
        self._tokenizer: Any = tokenizer
        size = self.preprocess_config["size"]
        self._size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.image_size: int = self._size[0]
        self.context_length: int = self.model.context_length
        self.logit_scale = float(self.model.logit_scale.exp())
        self.embed_dim = self.encode_texts([""]).shape[1]

    @classmethod
    def load(cls, spec: str, device: str | torch.device = "cpu") -> "ClipEncoder":
        """Load the model that `spec` names (see the module's docstring), in float32.

        Weights are read as data only: safetensors, or PyTorch files with weights_only=True.

        Raises:
            ValueError: unknown architecture or pretrained weights, a damaged file, weights that do not fit or
                are not finite.
            FileNotFoundError: a named file or folder is missing.
            OSError: the weights have to be fetched and cannot be.
        """
        loaded = load_clip(spec)
        check_finite(loaded.model.state_dict(), f"CLIP {spec}")
        return cls(loaded.model, loaded.tokenizer, loaded.preprocess_config, spec, device, loaded.config)

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    def preprocess(self, images: Tensor) -> Tensor:
        """What open_clip's own preprocessing does to a picture, for a batch of tensors, differentiably.

        Resizes (bicubic or as the model asks, antialiased), crops or pads to the model's size, normalises.
        Values outside of [-1, 1] are clamped, as in a picture file.

        Args:
            images: [N, 3, H, W] in [-1, 1].

        Returns:
            [N, 3, size, size], the input of the image tower.
        """
        pixels = images.float() / 2 + 0.5
        target_h, target_w = self._size
        height, width = pixels.shape[-2:]
        if (height, width) != (target_h, target_w):
            mode = "bilinear" if self.preprocess_config.get("interpolation") == "bilinear" else "bicubic"
            size = self._resized(height, width)
            pixels = F.interpolate(pixels, size, mode=mode, align_corners=False, antialias=True)
            pixels = self._crop_or_pad(pixels)
        mean = torch.tensor(self.preprocess_config["mean"], device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.preprocess_config["std"], device=pixels.device).view(3, 1, 1)
        return (pixels.clamp(0, 1) - mean) / std

    def encode_images(self, images: "Tensor | Sequence[Image.Image]") -> Tensor:
        """Embeddings of pictures.

        Args:
            images: PIL pictures of any size, through open_clip's own preprocessing; or a tensor
                [N, 3, H, W] in [-1, 1], through which gradients flow.

        Returns:
            [N, embed_dim] float32, of unit length.
        """
        if torch.is_tensor(images):
            inputs = self.preprocess(images.to(self.device))
        else:
            inputs = torch.stack([self._preprocess(image) for image in images]).to(self.device)
        return F.normalize(self.model.encode_image(inputs).float(), dim=-1)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, embed_dim] (float32, unit length) of texts; beyond the context a text is cut.

        Raises ValueError for a text that UTF-8 cannot express.
        """
        for text in texts:
            check_text(text)
        tokens = self._tokenize(texts, self.context_length)
        return F.normalize(self.model.encode_text(tokens.to(self.device)).float(), dim=-1)

    def is_cut(self, text: str) -> bool:
        """Whether `text` has more tokens than the model reads, so that its end does not count."""
        # Tokenizers put the end token in the place of what they cut; with one more place it is not there.
        length = self.context_length
        read, longer = (self._tokenize([text], n)[:, :length] for n in (length, length + 1))
        return not torch.equal(read, longer)

    def _tokenize(self, texts: Sequence[str], length: int) -> Tensor:
        """Tokens [N, length]. What lies far behind them is cut off first: a word of 10,000 letters that mean
        nothing takes open_clip's tokenizer half a minute."""
        most = LETTERS * length
        word = re.compile(rf"(\S{{{LETTERS_OF_WORD * length}}})\S+")
        short = [text if len(text) <= most else " ".join(text.split())[:most] for text in texts]
        return self._tokenizer([word.sub(r"\1", text) for text in short], context_length=length)

    def image_features(self, images: Tensor) -> list[Tensor]:
        """Intermediate features of the image tower, for a perceptual loss.

        Args:
            images: [N, 3, H, W] in [-1, 1]; gradients flow to them.

        Returns:
            One [N, C_i, H_i, W_i] map for each block of a transformer (without its class token), or for
            each stage of a convolutional tower.
        """
        return self.features_and_embeddings(images)[0]

    def features_and_embeddings(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """`image_features` and the unit embeddings [N, D] of tensors [N, 3, H, W], from one pass."""
        inputs = self.preprocess(images.to(self.device))
        output = self.model.visual.forward_intermediates(inputs, output_fmt="NCHW")
        return output["image_intermediates"], F.normalize(output["image_features"].float(), dim=-1)

    def fingerprint(self) -> str:
        """The sha256 (hex) of all that decides embeddings: equal if and only if they are.

        These are the weights, the activations, attention heads and pooling of both towers, the tokenizer, and
        what is done to pictures before.
        """
        facts = json.dumps(self._facts(), sort_keys=True)
        return hashlib.sha256(f"{self._weights_fingerprint} {facts}".encode()).hexdigest()

    def has_fingerprint(self, fingerprint: str | None) -> bool:
        """Whether a stored fingerprint is this model's.

        One from before activations and the rest were part of it, of weights and preprocessing alone, is
        accepted too.
        """
        return fingerprint in (self._weights_fingerprint, self.fingerprint())

    @cached_property
    def _weights_fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps(self.preprocess_config, sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _facts(self) -> dict[str, Any]:
        """What decides embeddings beside the weights, in terms that no version of open_clip changes."""
        from open_clip.transform import PreprocessCfg

        visual = set(self.model.visual.modules())
        rest = [module for module in self.model.modules() if module not in visual]
        return {
            "preprocess": asdict(PreprocessCfg(**self.preprocess_config)),
            "visual": _tower_facts(self.model.visual.modules()),
            "text": _tower_facts(rest),
            "is_causal": getattr(self.model, "attn_mask", None) is not None,
            "context_length": self.context_length,
            "tokens": self._tokenizer(list(PROBES), context_length=self.context_length).tolist(),
        }

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """The size before cropping or padding, as open_clip's resize modes (and their rounding) have it."""
        target_h, target_w = self._size
        mode = self.preprocess_config.get("resize_mode", "shortest")
        if mode == "squash":
            return target_h, target_w
        if mode == "shortest" and target_h == target_w:  # torchvision's Resize, which rounds down
            if height <= width:
                return target_h, target_h * width // height
            return target_h * height // width, target_h
        pick = max if mode == "longest" else min
        ratio = pick(height / target_h, width / target_w)
        return round(height / ratio), round(width / ratio)

    def _crop_or_pad(self, pixels: Tensor) -> Tensor:
        """The centred part of the model's size; missing borders get open_clip's fill colour (black)."""
        target_h, target_w = self._size
        more_h, more_w = max(target_h - pixels.shape[-2], 0), max(target_w - pixels.shape[-1], 0)
        fill = self.preprocess_config.get("fill_color", 0) / 255
        padding = (more_w // 2, more_w - more_w // 2, more_h // 2, more_h - more_h // 2)
        pixels = F.pad(pixels, padding, value=fill)
        top = round((pixels.shape[-2] - target_h) / 2)
        left = round((pixels.shape[-1] - target_w) / 2)
        return pixels[..., top : top + target_h, left : left + target_w]


def save_local_dir(
    model: nn.Module,
    model_config: Mapping[str, Any],
    preprocess_config: Mapping[str, Any],
    path: str | Path,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a model in open_clip's local-dir format, which open_clip alone can load as `local-dir:PATH`.

    Args:
        model: an open_clip model.
        model_config: the arguments it was made with (embed_dim, vision_cfg, text_cfg).
        preprocess_config: keys of open_clip's PreprocessCfg; the size comes from the model.
        path: a folder, made if it is not there; its model is replaced, each file at once.
        dtype: of the floating-point weights in the file.
    """
    path = Path(path)
    config = {"model_cfg": model_config, "preprocess_cfg": preprocess_config}
    weights = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    with lock_folder(path):
        sweep_folder(path)
        save_tensors(path / WEIGHTS_NAME, weights, config)
        with atomic_path(path / CONFIG_NAME) as temporary:
            temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _tower_facts(modules: Iterable[nn.Module]) -> dict[str, Any]:
    """The activations of a tower, its numbers of attention heads, how it pools, and its norms' epsilons."""
    facts: dict[str, set[str]] = {"activations": set(), "heads": set(), "pooling": set(), "eps": set()}
    for module in modules:
        kind = type(module)
        is_leaf = next(module.children(), None) is None and next(module.parameters(), None) is None
        if is_leaf and (kind.__module__ == "torch.nn.modules.activation" or kind.__name__ == "QuickGELU"):
            facts["activations"].add(repr(module))
        if isinstance(heads := getattr(module, "num_heads", None), int):
            facts["heads"].add(str(heads))
        for name in ("pool_type", "text_pool_type", "global_pool", "final_ln_after_pool"):
            if isinstance(value := getattr(module, name, None), (str, bool)):
                facts["pooling"].add(f"{name} {value}")
        if isinstance(eps := getattr(module, "eps", None), float):
            facts["eps"].add(str(eps))
    return {name: sorted(values) for name, values in facts.items()}
