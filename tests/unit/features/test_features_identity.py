"""Everything that can change an encoder's output changes its identity, and nothing else does."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dcgan_eval.features import identity
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.taps import Encoder
from dcgan_eval.models.dcgan import LadderDiscriminator, build
from dcgan_eval.models.presets import get_preset

FACTOR = 2.0


class Plain(nn.Module):
    """A convolution, and whatever attributes it is given."""

    def __init__(self, **attributes: object):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Uses(Plain):
    """Calls a helper that uses a constant of this file."""

    def forward(self, x: Tensor) -> Tensor:
        return times(self.conv(x))


def times(x: Tensor) -> Tensor:
    return x * FACTOR


@dataclass
class Settings:
    slope: float
    names: tuple[str, ...] = ("a",)


class Slotted:
    __slots__ = ("gain",)

    def __init__(self, gain: float):
        self.gain = gain


def closing_over(value: float):  # type: ignore[no-untyped-def]
    return lambda x: x * value


def with_buffer(value: float) -> nn.Module:
    module = Plain()
    module.register_buffer("mean", torch.full((4,), value), persistent=False)
    return module


def changed(change) -> nn.Module:  # type: ignore[no-untyped-def]
    module = Plain()
    change(module)
    return module


def reweighted(module: Plain) -> None:
    with torch.no_grad():
        module.conv.weight[0, 0, 0, 0] += 1e-3


def hash_of(module: nn.Module, **rules: object) -> str:
    encoder = Encoder(module, ["output"], **rules)  # type: ignore[arg-type]
    return encoder.weights_sha256 + encoder.architecture


def cached(function):  # type: ignore[no-untyped-def]
    return functools.lru_cache(lambda: function)


DIFFERENT = {
    "number": (Plain(gain=1.0), Plain(gain=3.0)),
    "true and one": (Plain(on=True), Plain(on=1)),
    "nested": (Plain(a={"b": [1, {2: 3}]}), Plain(a={"b": [1, {2: 4}]})),
    "order of a list": (Plain(a=[1, 2]), Plain(a=[2, 1])),
    "set": (Plain(a={"x", "y"}), Plain(a={"x", "z"})),
    "dataclass": (Plain(a=Settings(0.1)), Plain(a=Settings(0.2))),
    "slots": (Plain(a=Slotted(1)), Plain(a=Slotted(2))),
    "array": (Plain(a=np.zeros(3)), Plain(a=np.array([0, 0, 1.0]))),
    "array's type": (Plain(a=np.zeros(2, np.float32)), Plain(a=np.zeros(2, np.int32))),
    "tensor": (Plain(a=torch.zeros(3)), Plain(a=torch.ones(3))),
    "tensors in a list": (Plain(a=[torch.zeros(3)]), Plain(a=[torch.ones(3)])),
    "buffer kept out of checkpoints": (with_buffer(0), with_buffer(5)),
    "parameter changed in place": (Plain(), changed(reweighted)),
    "builtin function": (Plain(f=torch.relu), Plain(f=torch.tanh)),
    "method of a class": (Plain(f=Tensor.relu), Plain(f=Tensor.tanh)),
    "lambdas on one line": (Plain(f=lambda x: x + 1), Plain(f=lambda x: x - 1)),
    "lambda's constant": (Plain(f=lambda x: x * 2), Plain(f=lambda x: x * 3)),
    "lambda's default": (Plain(f=lambda x, g=1: x * g), Plain(f=lambda x, g=2: x * g)),
    "lambda's keyword": (Plain(f=lambda x, *, g=1: x * g), Plain(f=lambda x, *, g=2: x * g)),
    "closure": (Plain(f=closing_over(1)), Plain(f=closing_over(2))),
    "partial": (Plain(f=functools.partial(torch.clamp, min=0)), Plain(f=functools.partial(torch.clamp, min=1))),
    "behind a cache": (Plain(f=cached(torch.relu)), Plain(f=cached(torch.tanh))),
    "bound method": (Plain(f=Settings(1.0).__eq__), Plain(f=Settings(2.0).__eq__)),
    "kind of activation": (Plain(act=nn.ReLU()), Plain(act=nn.Tanh())),
    "setting of an activation": (Plain(act=nn.LeakyReLU(0.1)), Plain(act=nn.LeakyReLU(0.2))),
    "padding set later": (Plain(), changed(lambda m: setattr(m.conv, "padding", (1, 1)))),
    "eps of batch norm": (Plain(n=nn.BatchNorm2d(4)), Plain(n=nn.BatchNorm2d(4, eps=0.1))),
    "pre-hook": (Plain(), changed(lambda m: m.conv.register_forward_pre_hook(lambda _, x: (x[0] * 2,)))),
    "hook": (Plain(), changed(lambda m: m.register_forward_hook(lambda _, x, out: out * 2))),
    "hooks' constants": (
        changed(lambda m: m.register_forward_hook(lambda _, x, out: out * 2)),
        changed(lambda m: m.register_forward_hook(lambda _, x, out: out * 3)),
    ),
    "forward on the instance": (Plain(), changed(lambda m: setattr(m, "forward", lambda x: x))),
    "bound forward": (
        changed(lambda m: setattr(m, "forward", types.MethodType(lambda self, x: self.conv(x) + 1, m))),
        changed(lambda m: setattr(m, "forward", types.MethodType(lambda self, x: self.conv(x) + 2, m))),
    ),
    "parametrization": (Plain(), changed(lambda m: nn.utils.parametrizations.weight_norm(m.conv))),
    "subclass": (Plain(), Uses()),
}


@pytest.mark.parametrize(("first", "second"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_changes_the_output_changes_the_identity(first: nn.Module, second: nn.Module) -> None:
    assert hash_of(first) != hash_of(second)
    assert hash_of(first) == hash_of(first) == hash_of(copy.deepcopy(first))


def test_what_changes_no_output_changes_no_identity() -> None:
    base = hash_of(Plain())
    assert hash_of(Plain().train()) == hash_of(Plain().eval()) == base
    assert hash_of(changed(lambda m: m.requires_grad_(False))) == base
    assert hash_of(changed(lambda m: m(torch.zeros(1, 3, 4, 4)).sum().backward())) == base
    assert hash_of(torch.compile(Plain())) == hash_of(nn.DataParallel(Plain())) == base
    assert hash_of(nn.Sequential(torch.compile(Plain()))) == hash_of(nn.Sequential(Plain()))
    assert hash_of(Plain(), name="renamed") == base
    removed = Plain()
    removed.register_forward_hook(lambda *_: None).remove()
    assert hash_of(removed) == base
    shared, equal = [1], [1]
    assert hash_of(Plain(a=[shared, shared])) == hash_of(Plain(a=[shared, equal]))


def test_helpers_constants_and_methods_that_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    base = hash_of(Uses())
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3.0)
    assert (other := hash_of(Uses())) != base
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 2.0)
    assert hash_of(Uses()) == base
    monkeypatch.setattr(Plain, "forward", lambda self, x: x)  # the base's, which Uses does not call
    monkeypatch.setattr(Uses, "forward", lambda self, x: self.conv(x))
    assert hash_of(Uses()) not in (base, other)


def test_comments_docstrings_and_the_place_of_code_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        "one": "def f(x):\n    return x * 2\n",
        "same": "# moved\n\n\ndef f(y):\n    '''Twice.'''\n    # twice\n    return (y\n            * 2)\n",
        "other": "def f(x):\n    return x * 3\n",
    }
    spaces: dict[str, dict[str, object]] = {}
    for name, source in sources.items():
        spaces[name] = {"__name__": "mine"}
        exec(compile(source, f"{name}.py", "exec"), spaces[name])
    hashes = {name: identity.code_hash(space["f"]) for name, space in spaces.items()}
    assert hashes["one"] == hashes["same"] != hashes["other"]


def test_a_preprocess_of_ones_own_counts() -> None:
    first, second = (
        Encoder(Plain(), ["output"], preprocess=f, preprocessing="scaled")
        for f in (lambda x: x.permute(0, 3, 1, 2) / 255, lambda x: x.permute(0, 3, 1, 2) / 127)
    )
    assert first.architecture != second.architecture


class Doubled(LadderDiscriminator):
    def trunk(self, x_NCHW: Tensor) -> Tensor:
        return super().trunk(x_NCHW) * 2


def test_only_the_toolkits_own_discriminators_are_told_by_their_weights_alone() -> None:
    preset = get_preset("svhn32")
    assert load_encoder("untrained:svhn32").architecture == ""
    assert load_encoder("untrained:mnist28_keras").architecture == ""
    assert Encoder(LadderDiscriminator(preset, 2), ["conv1"]).architecture == ""  # what is left of a model
    assert Encoder(build(preset, 3)[0].train().half(), ["conv1"]).architecture == ""
    for change in (
        lambda D: D.conv1.register_forward_hook(lambda m, x, h: h * 2),
        lambda D: setattr(D.conv1.act, "negative_slope", 0.1),
        lambda D: setattr(D.conv2, "act", nn.Tanh()),
        lambda D: setattr(D.conv2.norm, "eps", 1e-3),
        lambda D: setattr(D, "gain", 2.0),
    ):
        D = build(preset, 3)[0]
        change(D)
        assert Encoder(D, ["conv1"]).architecture
    assert Encoder(Doubled(preset), ["conv1"]).architecture


SCRIPT = """
import torch
from torch import nn
from dcgan_eval import Encoder
class Net(nn.Module):
    allowed = {"a", "b", "c", "d", "e"}
    def __init__(self):
        super().__init__()
        self.f = lambda x: x if x in {"u", "v", "w"} else {x}
        self.words, self.kinds = set("abcdef"), {int, str, float}
class Other(nn.Module):
    def forward(self, x): return x
class Holder:
    class Net(nn.Module):
        def forward(self, x): return -x
print(Encoder(nn.Sequential(Net(), Other(), Holder.Net(), nn.TransformerEncoderLayer(8, 2)), ["0"]).architecture)
"""


def test_one_identity_in_every_process() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "01"  # in which the sets above have other orders
    }
    assert len(found) == 1
    assert len(found.pop()) == 65
