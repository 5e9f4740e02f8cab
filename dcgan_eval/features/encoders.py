"""Encoders from what a user types: weights of this toolkit, torchvision, timm, or a factory in the user's own code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import EncoderError, unknown_name
from ..models.dcgan import Discriminator, build
from ..models.presets import get_preset
from ..models.weights import load_network, resolve
from ..seeding import derive
from .taps import Encoder

# Layers that stand for "all" where a model names its stages or blocks in one of the common ways.
_STAGES = ("layer[1-9]", "stages.*", "blocks.*", "encoder.layers.*", "features")


def load_encoder(
    spec: str | Path | None = None,
    *,
    normalise: str | None = None,
    image_size: int | None = None,
    pooling: str | None = None,
    layout: str | None = None,
) -> Encoder:
    """Return an encoder by name.

    Parameters
    ----------
    spec : str, Path or None
        A bundled name, a path to safetensors, None for the bundled default; ``"untrained[:PRESET[:SEED]]"`` for a
        discriminator with random weights; ``"torchvision:NAME[:WEIGHTS]"``, ``"timm:NAME[:pretrained]"`` (random
        weights from a fixed seed where none are named); or ``"package.module:factory"``, a function without arguments
        that returns a module or an :class:`~dcgan_eval.features.taps.Encoder`.
    normalise, image_size, pooling, layout
        As for :class:`~dcgan_eval.features.taps.Encoder`; None keeps what the encoder was made with.

    Raises
    ------
    EncoderError
        The encoder cannot be imported or built.
    WeightsError
        The weights cannot be found or read.
    """
    given = {"normalise": normalise, "image_size": image_size, "pooling": pooling, "layout": layout}
    rules: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    kind, _, rest = str(spec).partition(":")
    if kind == "untrained" and rest.partition(":")[0] in _LIBRARIES:  # the name that such an encoder has in records
        kind, _, rest = rest.partition(":")
    if kind in _LIBRARIES:
        return _library_encoder(kind, rest, rules)
    if is_factory(str(spec)):
        return _factory_encoder(str(spec), rules)
    if kind == "untrained":
        return discriminator_encoder(*_untrained(str(spec)), **rules)
    path = resolve(spec)
    D = load_network(path)
    assert isinstance(D, Discriminator), "load_network checks the header"
    name = path.name.removesuffix(".safetensors").removesuffix(".discriminator")
    return discriminator_encoder(D, name, **rules)


def is_factory(spec: str) -> bool:
    """Tell whether a spec names code to be imported, which must come from the user and never out of a file."""
    return ":" in spec and spec.partition(":")[0] not in ("untrained", *_LIBRARIES) and not Path(spec).exists()


def discriminator_encoder(D: Discriminator, name: str, **rules: Any) -> Encoder:
    """Return a discriminator as an encoder that taps every convolutional layer.

    Raises
    ------
    EncoderError
        A conditional discriminator: its features would contain the labels.
    """
    if D.preset.num_classes:
        raise EncoderError(
            "A conditional discriminator is no unsupervised encoder: it is told the labels",
            got=f"{name}, preset {D.preset.name}",
            remedy="choose weights of another preset with --weights",
        )
    return Encoder(D, D.layer_names, image_shape=D.preset.image_shape, name=name, **rules)


def _untrained(text: str) -> tuple[Discriminator, str]:
    """Build the discriminator named by ``untrained[:PRESET[:SEED]]``."""
    _, preset, seed, *_ = [*text.split(":"), "", ""]
    if seed and not seed.isdigit():
        raise EncoderError(
            "The seed of untrained weights is no number", got=text, expected="untrained:PRESET:SEED", remedy="--weights"
        )
    ladder = get_preset(preset or "imagenet32")
    return build(ladder, int(seed or 0))[0].eval(), f"untrained:{ladder.name}:{int(seed or 0)}"


def _library_encoder(library: str, rest: str, rules: dict[str, Any]) -> Encoder:
    """Build a model of torchvision or timm."""
    name, _, weights = rest.partition(":")
    module = _seeded(lambda: _LIBRARIES[library](name, weights, rules.get("image_size")), f"{library}:{rest}")
    module.eval()
    full_name = f"{library}:{rest}" if weights else f"untrained:{library}:{name}"
    return Encoder(module, _stages(module), name=full_name, **rules)


def _torchvision_model(name: str, weights: str, image_size: int | None) -> nn.Module:
    """Build a model of torchvision, with ``weights`` by their name there."""
    from torchvision import models

    if name not in models.list_models():
        raise unknown_name("torchvision model", name, models.list_models(), EncoderError)
    return models.get_model(name, weights=weights or None)


def _timm_model(name: str, weights: str, image_size: int | None) -> nn.Module:
    """Build a model of timm; vision transformers are made for ``image_size``."""
    try:
        import timm
    except ImportError as error:
        raise EncoderError("timm is not installed", remedy="pip install 'dcgan-eval[encoders]'") from error
    if weights not in ("", "pretrained"):
        raise EncoderError("Unknown weights of timm", got=weights, expected="timm:NAME or timm:NAME:pretrained")
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models(), EncoderError)
    options: dict[str, Any] = {"pretrained": bool(weights)}
    if image_size is None:
        return timm.create_model(name, **options)
    try:
        return timm.create_model(name, img_size=image_size, **options)
    except TypeError:  # a model without a size of its own
        return timm.create_model(name, **options)


_LIBRARIES = {"torchvision": _torchvision_model, "timm": _timm_model}


def _factory_encoder(spec: str, rules: dict[str, Any]) -> Encoder:
    """Call ``package.module:factory`` in the user's own code, found from the current folder too."""
    made = _seeded(_imported(spec), spec)
    if isinstance(made, Encoder):
        if rules:
            raise EncoderError(
                f"{spec} returns an Encoder, which has its own rules",
                got=", ".join(f"{key}={value}" for key, value in rules.items()),
                remedy="set them in the factory, or return the module alone",
            )
        return made
    if not isinstance(made, nn.Module):
        raise EncoderError(
            f"{spec} returns no module", got=type(made).__name__, expected="a torch.nn.Module or an Encoder"
        )
    return Encoder(made, _stages(made), name=spec, **rules)


def _imported(spec: str) -> Callable[[], Any]:
    """Import the factory."""
    module_name, _, attribute = spec.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise EncoderError(
            "The encoder cannot be imported",
            got=f"{spec}: {type(error).__name__}: {error}",
            expected="package.module:factory, importable from here",
            remedy="check the name given to --encoder, and that `python -c 'import package.module'` works",
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(factory):
        raise EncoderError(f"{spec} is no function", got=type(factory).__name__, expected="a factory without arguments")
    return factory


def _seeded(make: Callable[[], Any], spec: str) -> Any:
    """Build a model with a fixed seed, leaving torch's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, "encoder"))
        try:
            return make()
        except EncoderError:
            raise
        except Exception as error:  # whatever another library or the user's code raises
            raise EncoderError(
                "The encoder cannot be built",
                got=f"{spec}: {type(error).__name__}: {error}",
                remedy="build it in Python first, to see where it fails",
            ) from error


def _stages(module: nn.Module) -> tuple[str, ...]:
    """Return the pattern of the model's stages or blocks, if it has one of the common names."""
    bare = Encoder(module)
    for pattern in _STAGES:
        try:
            return bare.choose((pattern,))
        except EncoderError:
            continue
    return ()
