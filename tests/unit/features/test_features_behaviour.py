"""The answers that tie a store to its encoder: what they notice, what they forgive, and that asking changes nothing."""

from __future__ import annotations

import copy
import math
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import EncoderError
from dcgan_eval.features.behaviour import TOLERANCE, behaves_alike, behaviour
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import extract
from dcgan_eval.features.isolated import isolated, unwrapped
from dcgan_eval.features.taps import Encoder

SHAPE = (16, 20, 3)


class Scaled(nn.Module):
    """A convolution whose channels are multiplied by what a function says."""

    def __init__(self, gain):  # type: ignore[no-untyped-def]
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.gain = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), gain

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * self.gain()


def answers(module: nn.Module, **rules: object) -> dict[str, np.ndarray]:
    return behaviour(Encoder(module, ["output"], **rules), ["output"], SHAPE)  # type: ignore[arg-type]


def test_a_gain_of_one_percent_is_noticed_even_in_one_channel_of_eight() -> None:
    then = answers(Scaled(lambda: 1.0))
    assert then["output"].shape == (3, 8 * 16)
    assert then["output"].dtype == np.float32
    assert behaves_alike(then, answers(Scaled(lambda: 1.0)))
    assert not behaves_alike(then, answers(Scaled(lambda: 1.01)))
    one = torch.ones(1, 8, 1, 1)
    one[0, 3] = 1.01
    assert not behaves_alike(then, answers(Scaled(lambda: one)))


def test_a_small_layer_is_not_hidden_by_a_large_one_nor_a_width_or_a_layer_that_is_gone() -> None:
    then = {"big": np.full((3, 4), 1e6, np.float32), "small": np.full((3, 4), 1e-3, np.float32)}
    now = {**then, "small": then["small"] * np.float32(1.01)}
    assert not behaves_alike(then, now)
    assert behaves_alike(then, {"big": then["big"]})  # a store of more layers than are wanted
    assert not behaves_alike({"big": then["big"]}, then)
    assert not behaves_alike(then, {**then, "small": then["small"][:, :3]})
    strange = {"f": np.array([[math.inf, math.nan, 1.0]], np.float32)}
    assert behaves_alike(strange, copy.deepcopy(strange))
    assert not behaves_alike(strange, {"f": np.array([[math.inf, math.nan, 1.1]], np.float32)})
    assert not behaves_alike(then, {**then, "big": then["big"] * math.nan})


@pytest.mark.parametrize("spec", ["untrained:svhn32:3", "torchvision:resnet18"])
def test_other_float32_kernels_behave_alike(spec: str) -> None:
    encoder = load_encoder(spec)
    then = behaviour(encoder, encoder.layers, (32, 32, 3))
    with torch.backends.mkldnn.flags(enabled=False):
        now = behaviour(encoder, encoder.layers, (32, 32, 3))
    assert behaves_alike(then, now)
    worst = max(float(np.abs(now[k] - then[k]).max() / np.abs(then[k]).max()) for k in then)
    assert worst < TOLERANCE / 20  # measured 6e-6: the tolerance is not at the edge


def test_the_answers_are_float32_on_the_cpu_whatever_the_encoder_computes_in() -> None:
    exact = answers(Scaled(lambda: 1.0).bfloat16().float())
    assert behaves_alike(exact, answers(Scaled(lambda: 1.0).bfloat16()))
    with torch.autocast("cpu", torch.bfloat16):
        assert behaves_alike(exact, answers(Scaled(lambda: 1.0).bfloat16()))


def state(module: nn.Module) -> list[object]:
    """Everything about a module that running it could change."""
    parts = [(m, m.training, tuple(m._forward_hooks), tuple(m._forward_pre_hooks)) for m in module.modules()]
    tensors = [(p.requires_grad, p.grad, p.dtype, p.device, p._version) for p in module.parameters()]
    return [parts, tensors, [(b, b._version) for b in module.buffers()], module.forward]


def test_asking_leaves_the_module_as_it_was() -> None:
    module = Scaled(lambda: 1.0).train()
    module.norm.eval()
    module.conv.weight.requires_grad_(False)
    module(torch.zeros(2, 3, 4, 4)).sum().backward()
    module.conv.register_forward_hook(lambda m, _, out: setattr(m, "calls", getattr(m, "calls", 0) + 1))
    module.half()
    before = state(module)
    answers(module)
    assert str(state(module)) == str(before)
    assert not hasattr(module.conv, "calls")


def test_copies_of_modules_that_are_hard_to_copy() -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.warns(FutureWarning, match="weight_norm"):
        normed = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))
    normed(x)  # leaves a tensor with a history in the module
    assert torch.equal(isolated(normed)(x), normed(x))
    patched = nn.Sequential(nn.Conv2d(3, 4, 3))
    original = patched.forward
    patched.forward = lambda h: original(h) * 2  # type: ignore[method-assign]
    copied = isolated(patched)
    nn.init.zeros_(patched[0].weight)
    assert not torch.allclose(copied(x), patched(x))
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train())
    assert not any(m.training for m in isolated(scripted).modules())
    assert all(m.training for m in scripted.modules())
    holding = nn.Identity()
    holding.lock = threading.Lock()
    with pytest.raises(EncoderError, match="cannot be copied"):
        isolated(holding)


def test_wrappers_are_looked_through() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3))
    compiled = torch.compile(inner, backend="eager")
    assert unwrapped(compiled) is inner
    assert unwrapped(nn.DataParallel(compiled)) is inner
    outer = isolated(nn.Sequential(torch.compile(inner, backend="eager"), nn.ReLU()))
    assert [name for name, _ in outer.named_modules()] == ["", "0", "0.0", "1"]


def test_running_a_scripted_module_warns_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated
        scripted = torch.jit.script(nn.Conv2d(3, 4, 3))
    images = ImageSet(np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store = extract(Encoder(scripted, ["output"]), images, cache_dir=tmp_path)
    assert [str(warning.message) for warning in caught if ".grad" in str(warning.message)] == []
    assert store.shape[0] == 4
    assert all(weight.is_leaf and weight.requires_grad for weight in scripted.parameters())
