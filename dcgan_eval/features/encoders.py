"""Encoders from what a user types: weights of this toolkit, a model zoo's, or a factory in the user's own code."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import EncoderError, WeightsError, unknown_name
from ..models.bundled import read_manifest, resolve
from ..models.dcgan import Discriminator, build
from ..models.presets import get_preset
from ..models.weights import FORMAT, UNSEALED, load_network, read_card, read_tensors
from ..seeding import derive
from .checkpoints import SUFFIXES, load_checkpoint
from .libraries import LIBRARIES, Built, forms, from_entry_point, from_library
from .preprocess import IMAGENET, ByImage
from .taps import Encoder

# Layers that stand for "all" where a model names its stages or blocks in one of the common ways.
_STAGES = ("layer[1-9]", "stages.*", "blocks.*", "encoder.layers.*", "features")


def load_encoder(
    spec: str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
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
        discriminator with random weights; a model of one of the libraries in
        :data:`~dcgan_eval.features.libraries.LIBRARIES` (random weights from a fixed seed where none are named); what
        an entry point of the group ``dcgan_eval.encoders`` offers; or ``"package.module:factory"``, a function without
        arguments that returns a module or an :class:`~dcgan_eval.features.taps.Encoder`.
    checkpoint : str, Path or None
        A file of tensors for a model of a library or a factory, which may also stand behind its name and a colon.
    normalise, image_size, pooling, layout
        As for :class:`~dcgan_eval.features.taps.Encoder`; None keeps what the encoder was made with: a library's own
        preprocessing where the weights come from it.

    Raises
    ------
    EncoderError
        The encoder cannot be imported or built.
    WeightsError
        The weights cannot be found or read.
    """
    given = {"normalise": normalise, "image_size": image_size, "pooling": pooling, "layout": layout}
    rules: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    name = str(spec)
    behind, _, file = name.rpartition(":")
    if checkpoint is None and ":" in behind and Path(file).suffix in SUFFIXES:
        name, checkpoint = behind, file
    kind, _, rest = name.partition(":")
    if kind == "untrained" and rest.partition(":")[0] in LIBRARIES:  # the name that such an encoder has in records
        kind, _, rest = rest.partition(":")
    if kind in LIBRARIES:
        return _library_encoder(kind, rest, checkpoint, rules)
    if is_factory(name):
        return _factory_encoder(name, checkpoint, rules)
    if checkpoint is not None:
        raise EncoderError(
            "Only models of a library or of your own code take a checkpoint",
            got=f"--arch {spec}" if spec else "no network",
            expected=f"{forms()}, or package.module:factory",
            remedy="name the checkpoint's network with --arch, such as --arch torchvision:resnet50",
        )
    if kind == "untrained":
        return discriminator_encoder(*_untrained(name), **rules)
    path = _weights_file(spec)
    D = load_network(path)
    assert isinstance(D, Discriminator), "load_network checks the header"
    encoder = discriminator_encoder(D, path.name.removesuffix(".safetensors").removesuffix(".discriminator"), **rules)
    encoder.objective = _objective(read_card(path)["card"])
    return encoder


def _objective(card: dict[str, Any]) -> str | None:
    """Return what weights were trained for, as their card says; the first cards, all of GANs, do not name it."""
    config = card.get("config")
    named = config.get("objective", "adversarial") if isinstance(config, dict) else card.get("objective")
    return named if isinstance(named, str) else None


def _weights_file(spec: str | Path | None) -> Path:
    """Return the file of a discriminator's weights, or say what else a name or file could have meant."""
    path = Path(spec) if spec is not None else None
    if path is not None and path.is_file():
        ours = path.suffix == ".safetensors" and read_tensors(path)[1].get("format") in (FORMAT, UNSEALED)
        if not ours and path.suffix in SUFFIXES:
            raise EncoderError(
                "The file holds tensors, but not of a network of this toolkit",
                got=str(spec),
                remedy=f"name their network too: --arch torchvision:resnet50 --checkpoint {spec}",
            )
    elif spec is not None and os.sep not in str(spec) and path is not None and path.suffix not in SUFFIXES:
        known = read_manifest()["weights"]
        if spec not in known:
            from torchvision import models  # here, because it takes seconds to import

            raise unknown_name(
                "bundled weights", str(spec), [*known, *_zoo(models.list_models(), str(spec))], EncoderError
            )
    return resolve(spec)


def _zoo(names: list[str], wanted: str) -> list[str]:
    """Return torchvision's names that are close to one that names no library, as they are typed here."""
    return [f"torchvision:{name}" for name in difflib.get_close_matches(wanted, names, n=3, cutoff=0.7)]


def is_factory(spec: str) -> bool:
    """Tell whether a spec names code to be imported, which must come from the user and never out of a file."""
    return ":" in spec and spec.partition(":")[0] not in ("untrained", *LIBRARIES) and not Path(spec).exists()


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


def _library_encoder(kind: str, rest: str, checkpoint: str | Path | None, rules: dict[str, Any]) -> Encoder:
    """Build a model of a library with its weights' own preprocessing, unless another is asked for."""
    spec = f"{kind}:{rest}"
    built = _seeded(lambda: from_library(kind, rest, rules.get("image_size")), spec)
    module = built.module.eval()
    if checkpoint is not None:
        return _filled(module, spec, checkpoint, rules)
    if built.transform is None:
        notes = [f"random weights: {spec} names none"]
        return Encoder(module, _stages(module), name=f"untrained:{spec}", notes=notes, **rules)
    notes = _doubts(built, rules)
    own: dict[str, Any] = {"prefix_tokens": built.prefix_tokens}
    if rules.keys() & {"normalise", "image_size"}:
        values = "/".join(",".join(f"{v:g}" for v in part) for part in (built.mean, built.std))
        rules = {"normalise": "imagenet" if values == IMAGENET else values, "image_size": built.size, **rules}
    else:
        own |= {"preprocess": ByImage(built.transform), "preprocessing": f"{spec}: {_words(built.transform)}"}
    return Encoder(module, _stages(module), name=spec, notes=notes, **own, **rules)


def _words(transform: object) -> str:
    """Return a transform's own description in one line, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(transform).split()))


def _doubts(built: Built, rules: dict[str, Any]) -> list[str]:
    """Say what was asked for that the weights were not made for."""
    notes, size = [], rules.get("image_size")
    if "normalise" in rules:
        notes.append(f"--normalise {rules['normalise']} instead of the weights' own channel means and deviations")
    if size is not None and built.size is not None and size != built.size:
        far = ", which is probably wrong" if size < built.size / 2 else ""
        notes.append(f"images of {size} pixels for weights that were made for {built.size}{far}")
    return notes


def _filled(module: nn.Module, spec: str, checkpoint: str | Path, rules: dict[str, Any]) -> Encoder:
    """Return a network with the tensors of a checkpoint."""
    notes = load_checkpoint(module, Path(checkpoint))
    if "normalise" not in rules:
        notes.append("a checkpoint does not say how its images were scaled: x / 127.5 - 1; --normalise changes it")
    return Encoder(module, _stages(module), name=f"{spec}:{checkpoint}", notes=notes, **rules)


def _factory_encoder(spec: str, checkpoint: str | Path | None, rules: dict[str, Any]) -> Encoder:
    """Call an entry point, or ``package.module:factory`` in the user's own code, found from the current folder too."""
    kind, _, rest = spec.partition(":")
    made = _seeded(lambda: from_entry_point(kind, rest), spec)
    if made is None:
        made = _seeded(_imported(spec), spec)
    if isinstance(made, Encoder):
        if rules or checkpoint is not None:
            raise EncoderError(
                f"{spec} returns an Encoder, which has its own rules",
                got=", ".join(f"{key}={value}" for key, value in {**rules, "checkpoint": checkpoint}.items() if value),
                remedy="set them in the factory, or return the module alone",
            )
        return made
    if not isinstance(made, nn.Module):
        raise EncoderError(
            f"{spec} returns no module", got=type(made).__name__, expected="a torch.nn.Module or an Encoder"
        )
    if checkpoint is not None:
        return _filled(made, spec, checkpoint, rules)
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
        except (EncoderError, WeightsError):
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
