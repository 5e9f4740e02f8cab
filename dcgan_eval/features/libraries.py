"""Model zoos as encoders: one table, from which the help and the documents come, and entry points of other packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ..errors import EncoderError, unknown_name

if TYPE_CHECKING:
    from torch import nn

    from .taps import Encoder

ENTRY_POINTS = "dcgan_eval.encoders"


@dataclass(frozen=True)
class Built:
    """A model and how its weights' makers preprocess images.

    Attributes
    ----------
    module : nn.Module
        The model.
    transform : callable or None
        From a PIL image to the model's input (C, H, W); None where the weights are random.
    mean, std : sequence of float
        Channel means and deviations in ``transform``, for values in [0, 1].
    size : int or None
        Side of its result.
    prefix_tokens : int or None
        Tokens before the image's, where the model does not say it as timm's do.
    """

    module: nn.Module
    transform: Callable[[Any], Any] | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    size: int | None = None
    prefix_tokens: int | None = None


@dataclass(frozen=True)
class Library:
    """A row of the table.

    Attributes
    ----------
    form : str
        How a model is named.
    summary : str
        What it is, in a line.
    build : callable
        From the name behind the colon and ``--image-size`` (or None) to what was built.
    package, distribution : str
        What must be importable, and what pip installs it as.
    """

    form: str
    summary: str
    build: Callable[[str, int | None], Built]
    package: str
    distribution: str


def _torchvision(rest: str, image_size: int | None) -> Built:
    """Build a model of torchvision, with ``weights`` by their name there."""
    from torchvision import models

    name, _, weights_name = rest.partition(":")
    if name not in models.list_models():
        raise unknown_name("torchvision model", name, models.list_models(), EncoderError)
    if not weights_name:
        return Built(models.get_model(name, weights=None))
    known = models.get_model_weights(name).__members__
    if weights_name not in known:
        raise unknown_name(f"weights of torchvision's {name}", weights_name, known, EncoderError)
    weights = known[weights_name]
    transform = weights.transforms()
    size = getattr(transform, "crop_size", [None])[0]
    return Built(models.get_model(name, weights=weights), transform, transform.mean, transform.std, size)


def _timm(rest: str, image_size: int | None) -> Built:
    """Build a model of timm; vision transformers are made for ``image_size``."""
    import timm

    on_hub = rest.startswith("hf-hub:")
    name, _, weights = (rest, "", "pretrained") if on_hub else rest.partition(":")
    if weights not in ("", "pretrained"):
        raise EncoderError("Unknown weights of timm", got=weights, expected="timm:NAME or timm:NAME:pretrained")
    if not on_hub and not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models(), EncoderError)
    try:
        sized: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
        module = timm.create_model(name, pretrained=bool(weights), **sized)
    except TypeError:  # a model without a size of its own
        module = timm.create_model(name, pretrained=bool(weights))
    if not weights:
        return Built(module)
    config = timm.data.resolve_model_data_config(module)
    transform = timm.data.create_transform(**config, is_training=False)
    return Built(module, transform, config["mean"], config["std"], config["input_size"][-1])


def _hf(rest: str, image_size: int | None) -> Built:
    """Build a vision model of transformers, of one with text too its vision part."""
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(rest)
    model = transformers.AutoModel.from_pretrained(rest, use_safetensors=True)  # never a pickle
    module = getattr(model, "vision_model", model)
    registers = getattr(module.config, "num_register_tokens", 0)

    size = getattr(processor, "crop_size", None) or getattr(processor, "size", None) or {}
    side = dict(size).get("height") or dict(size).get("shortest_edge")
    prefix = 1 + registers if registers else None
    return Built(module, _Processed(processor), processor.image_mean, processor.image_std, side, prefix)


@dataclass(frozen=True)
class _Processed:
    """An image processor of transformers as a transform; its settings are its words."""

    processor: Any

    def __call__(self, image: Any) -> Any:
        """Return the model's input for one image."""
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]


def _open_clip(rest: str, image_size: int | None) -> Built:
    """Build the image tower of a model of OpenCLIP."""
    import open_clip

    name, _, tag = rest.partition(":")
    if name not in open_clip.list_models():
        raise unknown_name("OpenCLIP model", name, open_clip.list_models(), EncoderError)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise unknown_name(f"weights of OpenCLIP's {name}", tag, tags, EncoderError)
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained=tag)
    visual = model.visual
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[-1]
    return Built(visual, transform, visual.image_mean, visual.image_std, size)


LIBRARIES = {
    "torchvision": Library(
        "torchvision:NAME[:WEIGHTS]",
        "torchvision's models, WEIGHTS as there: DEFAULT",
        _torchvision,
        "torchvision",
        "torchvision",
    ),
    "timm": Library(
        "timm:NAME[:pretrained], timm:hf-hub:ORG/NAME",
        "PyTorch Image Models, and theirs on the hub",
        _timm,
        "timm",
        "timm",
    ),
    "hf": Library("hf:ORG/NAME", "vision models of transformers", _hf, "transformers", "transformers"),
    "open_clip": Library("open_clip:NAME:TAG", "image towers of OpenCLIP", _open_clip, "open_clip", "open_clip_torch"),
}


def forms() -> str:
    """Return how models of the libraries are named, for help and errors."""
    return ", ".join(library.form for library in LIBRARIES.values())


def from_library(kind: str, rest: str, image_size: int | None) -> Built:
    """Build a model of one of ``LIBRARIES``.

    Raises
    ------
    EncoderError
        The library is not installed, or has no such model or weights.
    """
    library = LIBRARIES[kind]
    try:
        return library.build(rest, image_size)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != library.package:
            raise
        raise EncoderError(
            f"{library.package} is not installed",
            got=f"{kind}:{rest}",
            remedy=f"pip install {library.distribution}",
        ) from error


def from_entry_point(kind: str, rest: str) -> nn.Module | Encoder | None:
    """Build an encoder that another installed package offers under ``KIND:REST``; None if none does.

    A package offers a function of the text behind the colon, which returns a module or an
    :class:`~dcgan_eval.features.taps.Encoder`, as the entry point KIND of the group ``dcgan_eval.encoders``.
    """
    found = entry_points(group=ENTRY_POINTS, name=kind)
    return next(iter(found)).load()(rest) if found else None
