"""CLIP, frozen: pictures and texts to unit embeddings, by any model that open_clip can load.

A model is named by a *spec*:

    avatars             the CLIP that comes with this package; it knows cartoon faces only
    ARCH:PRETRAINED     one of open_clip's pretrained models, such as ViT-B-16:laion2b_s34b_b88k
    ARCH:FILE           one of open_clip's architectures with the weights of a file (OpenAI's own weights
                        need the architectures that end in -quickgelu)
    hf-hub:ORG/NAME     a model on the Hugging Face Hub in open_clip's format
    local-dir:FOLDER    the same in a folder: open_clip_config.json and open_clip_model.safetensors
"""

import difflib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan2.files import atomic_path, check_finite, save_tensors

if TYPE_CHECKING:
    from PIL import Image

LOCAL_DIR = "local-dir:"
HF_HUB = "hf-hub:"
CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz")


class ClipEncoder:
    """A frozen CLIP with the preprocessing and the tokenizer that belong to it.

    Attributes:
        model: open_clip's model, in eval mode, without gradients of its own.
        spec: the name it was loaded by.
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
    ):
        """Wrap a model in memory.

        Args:
            model: an open_clip CLIP; it is put in eval mode and frozen.
            tokenizer: open_clip's tokenizer for it.
            preprocess_config: keys of open_clip's PreprocessCfg (size, mean, std, resize_mode, ...).
            spec: a name to show.
            device: where to compute.
        """
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.model: Any = model.eval().requires_grad_(False).to(device)
        self.spec = spec
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
        import open_clip

        source = avatars_source() if spec == "avatars" else spec
        if source.startswith(LOCAL_DIR):
            _check_local_dir(Path(source.removeprefix(LOCAL_DIR)))
            name, pretrained = source, None
        elif source.startswith(HF_HUB):
            name, pretrained = source, None
        else:
            name, pretrained = _architecture_and_weights(source)
        with _one_line_errors(spec, fetched=_is_fetched(name, pretrained)):
            model: Any = open_clip.create_model(
                name,
                pretrained=pretrained,
                force_quick_gelu=_trained_with_quick_gelu(name, pretrained),
                require_pretrained=True,
                weights_only=True,
            )
            tokenizer = open_clip.get_tokenizer(name)
        check_finite(model.state_dict(), f"CLIP {spec}")
        return cls(model, tokenizer, model.visual.preprocess_cfg, spec, device)

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
        """Embeddings [N, embed_dim] (float32, unit length) of texts; beyond the context a text is cut."""
        tokens = self._tokenizer(list(texts), context_length=self.context_length)
        return F.normalize(self.model.encode_text(tokens.to(self.device)).float(), dim=-1)

    def is_cut(self, text: str) -> bool:
        """Whether `text` has more tokens than the model reads, so that its end does not count."""
        # Tokenizers put the end token in the place of what they cut; with one more place it is not there.
        length = self.context_length
        read, longer = (self._tokenizer([text], context_length=n)[:, :length] for n in (length, length + 1))
        return not torch.equal(read, longer)

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
        """The sha256 (hex) of all weights and of the preprocessing: equal if and only if embeddings are."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps(self.preprocess_config, sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

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


def avatars_source() -> str:
    """The spec of the CLIP that comes with the package, by its folder."""
    return f"{LOCAL_DIR}{Path(__file__).with_name('bundles') / 'avatars' / 'clip'}"


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
    save_tensors(path / WEIGHTS_NAME, weights, config)
    with atomic_path(path / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _architecture_and_weights(spec: str) -> tuple[str, str]:
    """Split ARCH, ARCH:PRETRAINED or ARCH:FILE into names that open_clip knows or a file that is there."""
    import open_clip
    from open_clip.pretrained import is_pretrained_cfg, list_pretrained_tags_by_model

    architecture, _, weights = spec.partition(":")
    architecture = architecture.replace("/", "-")  # OpenAI's own way of writing ViT-B/32
    known = {name.lower(): name for name in open_clip.list_models()}
    if architecture not in known.values():
        close = [known[name] for name in difflib.get_close_matches(architecture.lower(), known, cutoff=0.5)]
        hint = f"did you mean {' or '.join(close)}?" if close else "open_clip.list_models() names them all"
        raise ValueError(f"unknown CLIP {spec!r}: open_clip has no architecture {architecture!r}; {hint}")

    tags = ", ".join(list_pretrained_tags_by_model(architecture)) or "none are published"
    choices = f"give {architecture}:NAME ({tags}) or {architecture}:FILE"
    if not weights:
        raise ValueError(f"CLIP {spec!r} names no pretrained weights, and random ones are useless; {choices}")
    if is_pretrained_cfg(architecture, weights):
        return architecture, weights
    file = Path(weights)
    if file.is_file():
        _check_weights(file)
        return architecture, weights
    if file.suffix in WEIGHT_SUFFIXES or os.sep in weights:
        raise FileNotFoundError(f"{weights}: no such file of CLIP weights (in {spec!r})")
    raise ValueError(f"unknown pretrained weights {weights!r} for CLIP {architecture}; {choices}")


def _check_local_dir(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of a CLIP model")
    if not (folder / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{folder}: no {CONFIG_NAME} in it, so not a CLIP in open_clip's format")
    weights = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pth"))
    if not weights:
        raise FileNotFoundError(f"{folder}: no weights in this CLIP folder; put {WEIGHTS_NAME} there")
    for path in weights:
        _check_weights(path)


def _check_weights(path: Path) -> None:
    """Raise ValueError unless `path` holds plain tensors.

    open_clip retries some failed reads without asking for tensors only; what fails does so here, first.
    """
    from safetensors import safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                pass
        elif path.suffix not in (".npz", ".npy"):  # NumPy's are read without pickle
            torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # damaged data can raise almost anything
        raise ValueError(f"{path}: not a readable file of plain weights ({_one_line(error)})") from error


def _is_fetched(name: str, pretrained: str | None) -> bool:
    from open_clip.pretrained import is_pretrained_cfg

    return name.startswith(HF_HUB) or (pretrained is not None and is_pretrained_cfg(name, pretrained))


def _trained_with_quick_gelu(name: str, pretrained: str | None) -> bool:
    """OpenAI's weights need their approximation of GELU even under the architecture's plain name."""
    from open_clip.pretrained import get_pretrained_cfg

    return pretrained is not None and bool(get_pretrained_cfg(name, pretrained).get("quick_gelu"))


@contextmanager
def _one_line_errors(spec: str, fetched: bool) -> Iterator[None]:
    """Turn whatever open_clip raises while loading into one line that names the model and the remedy."""
    # open_clip logs on the root logger, and the first such line would set up logging for the whole process.
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    except Exception as error:  # open_clip, the Hub's client and the file formats raise many kinds
        if fetched:
            remedy = "check name and network, or give downloaded weights (ARCH:FILE, local-dir:FOLDER)"
            raise OSError(f"cannot fetch CLIP {spec!r} ({_one_line(error)}); {remedy}") from error
        raise ValueError(f"cannot load CLIP {spec!r}: {_one_line(error)}") from error
    finally:
        logging.getLogger().removeHandler(handler)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
