"""Batch norm at feature time: statistics of the target data set, frozen, and folded into the convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import WeightsError
from ..models.dcgan import ConvRung, lacks_running_statistics, norm_layers
from .isolated import isolated

CALIBRATION_BATCH = 128  # minibatch of the 2016 release
_CACHED = 1 << 19  # numbers looked at together

Statistics = dict[str, Tensor]  # "<module name>.mean" and "<module name>.var", float32


def dataset_statistics(module: nn.Module, batches: Iterable[Tensor]) -> Statistics:
    """Average the per-minibatch mean and biased variance at every batch norm.

    While doing so each layer normalises by its own minibatch, so that deeper layers see what they saw in training.

    Parameters
    ----------
    module : nn.Module
        The encoder; returned to its earlier state.
    batches : iterable of Tensor
        Minibatches of preprocessed images, (N, C, H, W), of equal size.

    Returns
    -------
    dict
        For each batch norm ``name.mean`` and ``name.var``, float32, (channels,).

    Source: the 2016 release. Deviations: the last minibatch, when it is not full, is left out by the caller.
    """
    with minibatch_statistics(module) as measured:
        return mean_statistics(measured(x_NCHW) for x_NCHW in batches)


def mean_statistics(found: Iterable[Statistics]) -> Statistics:
    """Return the mean, float32, of the statistics of minibatches, float64, added up in their order."""
    sums: Statistics = {}
    num_batches = 0
    for statistics in found:
        num_batches += 1
        for key, value in statistics.items():
            sums[key] = sums.get(key, 0) + value
    return {key: (value / num_batches).float() for key, value in sums.items()}


@contextmanager
def minibatch_statistics(module: nn.Module) -> Iterator[Callable[[Tensor], Statistics]]:
    """Give the function from a minibatch (N, C, H, W) to its own statistics, float64, by which each layer normalises.

    Running averages are left alone, and the module is returned to its earlier state.
    """
    norms, found = norm_layers(module), Statistics()
    before = {name: (norm.momentum, norm.training) for name, norm in norms.items()}
    hooks = [norm.register_forward_pre_hook(_adder(name, found)) for name, norm in norms.items()]
    for norm in norms.values():
        norm.momentum, norm.training = 0.0, True  # momentum 0 keeps the running averages

    def measured(x_NCHW: Tensor) -> Statistics:
        found.clear()
        with torch.no_grad():
            module(x_NCHW)
        return dict(found)

    try:
        yield measured
    finally:
        for hook in hooks:
            hook.remove()
        for name, norm in norms.items():
            norm.momentum, norm.training = before[name]


def _adder(name: str, sums: Statistics) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Return the hook that adds one batch norm's minibatch statistics, in float64."""

    def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, var = _moments(inputs[0].detach())
        for key, value in ((f"{name}.mean", mean), (f"{name}.var", var)):
            sums[key] = sums.get(key, 0) + value

    return add


def _moments(h: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, as batch norm itself divides by, of each channel of (N, C, ...), in float64.

    Parts that stay in the processor's cache are seen first, each around its own mean; measured five times faster than
    ``torch.var_mean`` on all of it.
    """
    images = max(1, _CACHED * len(h) // max(1, h.numel())) if h.device.type == "cpu" else len(h)
    found = []
    for part in h.split(images):
        flat = part.movedim(1, -1).reshape(-1, h.shape[1]).float().contiguous()  # the same bits from any layout
        mean = flat.mean(0, dtype=torch.float64)  # so that the order of the images is lost in the rounding
        var = (flat - mean.float()).square_().mean(0, dtype=torch.float64)
        found.append((len(flat), mean, var))
    total = sum(count for count, _, _ in found)
    mean = torch.stack([mean * (count / total) for count, mean, _ in found]).sum(0)
    # Chan, Golub & LeVeque 1983: the variance within the parts and that of their means
    var = torch.stack([(var + (part - mean).square()) * (count / total) for count, part, var in found]).sum(0)
    return mean, var


class _Reached(Exception):
    """Ends a forward pass at its first batch norm."""


@torch.no_grad()
def spread_against_training(module: nn.Module, x_NCHW: Tensor) -> float | None:
    """Return how spread the input of the first batch norm is, over what its running statistics lead to expect.

    The median over channels of the root mean square distance from the running mean, in running standard deviations:
    about 1 for images scaled as in training, 255 for pixels from 0 to 255 where they went from 0 to 1.

    Parameters
    ----------
    module : nn.Module
        The encoder, in evaluation mode; hooks are removed again.
    x_NCHW : Tensor
        Preprocessed images.

    Returns
    -------
    float or None
        None where no batch norm runs, or the first one's statistics are those that it was made with.
    """
    found: list[float] = []

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm), "only these are hooked"
        mean, var = norm.running_mean, norm.running_var
        if mean is not None and var is not None and not (bool((mean == 0).all()) and bool((var == 1).all())):
            h = inputs[0].float().transpose(0, 1).flatten(1)  # (C, everything else)
            distance = (h - mean.float()[:, None]).square().mean(1).sqrt()
            found.append(float((distance / (var.float() + norm.eps).sqrt()).median()))
        raise _Reached

    hooks = [norm.register_forward_pre_hook(look) for norm in norm_layers(module).values()]
    try:
        module(x_NCHW)
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def frozen(module: nn.Module, statistics: Statistics | None, keep: Iterable[str] = ()) -> nn.Module:
    """Return a copy for inference with the given statistics, batch norm folded into the DCGAN's convolutions.

    Parameters
    ----------
    module : nn.Module
        The encoder; left as it is.
    statistics : dict or None
        From :func:`dataset_statistics`; None keeps the running averages of the checkpoint.
    keep : iterable of str
        Names of layers that will be tapped: a convolution with one of them inside is not folded.

    Returns
    -------
    nn.Module
        In evaluation mode, same layer names and outputs (folding changes them by float32 rounding only).

    Raises
    ------
    WeightsError
        Running averages are asked for that the weights do not have.
    """
    if statistics is None and lacks_running_statistics(module):
        raise WeightsError(
            "These weights hold no running batch-norm statistics (the 2016 release kept none)",
            got="--batch-norm running",
            expected="statistics of the target's training images",
            remedy="use --batch-norm dataset, the default",
        )
    module = isolated(module)
    for name, norm in norm_layers(module).items():
        if statistics is not None:
            norm.running_mean = statistics[f"{name}.mean"].clone()
            norm.running_var = statistics[f"{name}.var"].clone()
    inside = tuple(keep)
    for name, block in module.named_modules():
        tapped_inside = any(layer.startswith(f"{name}.") for layer in inside)
        if isinstance(block, ConvRung) and block.norm is not None and not tapped_inside:
            block.conv = fuse_conv_bn_eval(
                block.conv, block.norm
            )  # w' = w gamma / sqrt(var + eps), b' = beta - mean gamma / sqrt(var + eps)
            block.norm = None
    return module
