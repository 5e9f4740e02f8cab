"""Guided gradients equal a hand-worked net's and captum's; a unit with one spot is told from one without."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_eval.errors import DcganEvalError
from dcgan_eval.insight.drawing import settled_discriminator
from dcgan_eval.insight.finding import load_finding
from dcgan_eval.insight.guided import concentration, crops, guided_gradients, responses
from dcgan_eval.models.dcgan import build
from dcgan_eval.models.presets import get_preset


def pixelwise(weights: list[list[float]]) -> nn.Conv2d:
    """Return a 1x1 convolution with these weights, (out, in)."""
    conv = nn.Conv2d(len(weights[0]), len(weights), 1, bias=False)
    conv.weight.data = torch.tensor(weights, dtype=torch.float32)[:, :, None, None]
    return conv


@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_a_net_worked_by_hand(slope: float) -> None:
    """x = (1, 2) -> a = (x0, -x1, x1) = (1, -2, 2), rectified -> u = 3 a0 + 4 a1 - 5 a2.

    Guided: a0 is positive with gradient 3: passes. a1 is negative: passes 4 * slope, to x1 as -4 * slope. a2 is
    positive but its gradient is -5: stopped, where plain backpropagation gives it to x1.
    """
    first, second = pixelwise([[1, 0], [0, -1], [0, 1]]), pixelwise([[3, 4, -5]])
    x = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
    found = guided_gradients(lambda x: second(F.leaky_relu(first(x), slope)), x, [(0, 0, 0)])
    assert found.flatten().tolist() == [3, -4 * slope]


class Rectified(nn.Module):
    """Three convolutions with ReLU in between, as modules."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 5, 3, 2, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_captum_agrees_on_a_relu_net() -> None:
    captum = pytest.importorskip("captum.attr", reason="captum is not installed: pip install 'dcgan-eval[test]'")
    net, x = Rectified(), torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    units = [(int(h.flatten(1).max(1).values.argmax()), 1, 1) for h in net(x)]
    ours = guided_gradients(net, x, units)
    assert ours.abs().max() > 0
    for i, unit in enumerate(units):
        theirs = captum.GuidedBackprop(copy.deepcopy(net)).attribute(x[i : i + 1], target=unit)
        torch.testing.assert_close(ours[i : i + 1], theirs.detach(), atol=1e-6, rtol=1e-5)


def test_rectifiers_of_every_spelling_are_guided() -> None:
    conv, x = pixelwise([[-1.0], [1.0]]), torch.tensor([[[[2.0]]]])
    spellings = (F.relu, torch.relu, nn.ReLU(inplace=True), Tensor.relu, lambda h: h.relu_(), nn.LeakyReLU(0.0))
    for rectify in spellings:
        found = guided_gradients(lambda x, rectify=rectify: pixelwise([[1.0, -1.0]])(rectify(conv(x))), x, [(0, 0, 0)])
        assert float(found) == 0, rectify  # plain: -1
    with pytest.raises(DcganEvalError, match="needs rectifiers"):
        guided_gradients(lambda x: torch.tanh(conv(x)), x, [(0, 0, 0)])


def test_ordinary_gradients_are_left_alone_afterwards() -> None:
    D = settled_discriminator(
        build(get_preset("svhn32"), 0)[0], np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    )
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def plain() -> Tensor:
        probe = x.clone().requires_grad_()
        return torch.autograd.grad(D.trunk(probe)[:, 0, 1, 1].sum(), probe)[0]

    before, guided = plain(), guided_gradients(D.trunk, x, [(0, 1, 1)] * 2)
    assert torch.equal(before, plain())
    assert not torch.allclose(before, guided)


def test_concentration_by_hand() -> None:
    gradient = torch.zeros(3, 2, 10, 10)
    gradient[0] = 1  # even: a tenth of the energy in a tenth of the pixels
    gradient[1, 0, 3, 3] = -7  # one pixel
    gradient[2, 0, 0, :] = 3  # ten pixels with 9 each, of 90 + 90
    gradient[2, 1, 1:, :] = 1
    assert concentration(gradient).tolist() == [pytest.approx(0.1), 1, pytest.approx(90 / 180)]


def test_a_unit_that_looks_at_one_spot_is_told_from_one_that_looks_everywhere() -> None:
    conv = nn.Conv2d(1, 2, 8, bias=False)
    conv.weight.data.zero_()
    conv.weight.data[0, 0, 2:4, 5] = 1  # map 0: two pixels; map 1: all alike
    conv.weight.data[1] = 1 / 64
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    found = responses(lambda x: F.relu(conv(x) + 2), images, (0, 1), count=3)
    assert (found.concentration[0] == 1).all()
    assert found.concentration[1] == pytest.approx(6 / 64)  # a tenth of 64 pixels is 6
    by_hand = images[:, 2:4, 5, 0].astype(float).sum(1)
    assert (found.images[0] == images[np.argsort(-by_hand, kind="stable")[:3]]).all()
    assert found.boxes[0].tolist() == [[5, 2, 6, 4]] * 3
    parts, gradients = crops(found, 0)
    assert parts.shape == gradients.shape == (3, 8, 8, 1)
    assert (gradients[:, :2, :1] == 255).all()


def test_the_command_compares_with_random_weights(run, pair: Path) -> None:  # type: ignore[no-untyped-def]
    images = np.random.default_rng(0).integers(0, 256, (140, 32, 32, 3), dtype=np.uint8)
    np.savez("own.npz", images=images)
    line = ["guided", "--data", "own.npz", "--out", "g.png"]
    result = run(*line, "--weights", pair.with_name("discriminator.safetensors"), "--units", "0,7", "--count", 2)
    assert result.exit_code == 0, result.output
    finding = load_finding(Path("g.json"))
    assert finding.value == finding.measured["concentration"]
    assert 0.1 < finding.measured["concentration_random"] <= 1
    assert finding.settings["units"] == [0, 7]
    for words, message in (
        (("--units", "0,256"), "no such units"),
        (("--units", "a"), "no such units"),
        (("--weights", pair), "holds no discriminator"),
        (("--weights", pair.with_name("discriminator.safetensors"), "--data", "grey.npz"), "not of the shape"),
    ):
        np.savez("grey.npz", images=np.zeros((3, 28, 28, 1), np.uint8))
        result = run("guided", "--data", "own.npz", "--weights", pair.with_name("discriminator.safetensors"), *words)
        assert result.exit_code == 2, (words, result.output)
        assert message in " ".join(result.stderr.split()), (words, result.stderr)
