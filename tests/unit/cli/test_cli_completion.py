"""What a shell offers: protocols, weights, encoders and layers, each where it may stand."""

from __future__ import annotations

import sys

import pytest
from click.shell_completion import ShellComplete

from dcgan_eval.cli.main import main


def offered(*words: str) -> list[tuple[str, str]]:
    """Return (kind, value) of what click offers for the last word."""
    shell = ShellComplete(main, {}, "dcgan-eval", "_DCGAN_EVAL_COMPLETE")
    return [(item.type, item.value) for item in shell.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize("command", ["svm", "ablate"])
def test_protocols(command: str) -> None:
    assert offered(command, "cifar10-") == [("plain", "cifar10-400"), ("plain", "cifar10-small")]
    assert offered(command, "./own") == [("file", "./own")]  # the path of one's own data: the shell's part


def test_weights_and_encoders() -> None:
    assert offered("svm", "digits", "--weights", "imagenet32-pl") == [("plain", "imagenet32-plus")]
    assert ("plain", "untrained:svhn32") in offered("features", "--encoder", "unt")
    assert ("plain", "torchvision:resnet18") in offered("svm", "digits", "--encoder", "torchvision:res")
    assert {value for _, value in offered("svm", "--arch", "torchvision:vgg11")} == {
        "torchvision:vgg11",
        "torchvision:vgg11_bn",
    }
    assert offered("svm", "--weights", "mine.safe") == [("file", "mine.safe")]


def test_layers_are_those_of_the_encoder_on_the_line() -> None:
    assert [value for _, value in offered("svm", "digits", "--layer", "")] == [f"conv{i}" for i in range(1, 7)]
    of_svhn = [value for _, value in offered("svm", "digits", "--weights", "untrained:svhn32", "--layer", "")]
    assert of_svhn == [f"conv{i}" for i in range(1, 4)]
    assert offered("svm", "--layer", "conv1,conv6") == [("plain", "conv1,conv6")]
    named = ("svm", "digits", "--encoder", "torchvision:resnet18:DEFAULT", "--layer", "layer4.1.bn")
    assert [value for _, value in offered(*named)] == ["layer4.1.bn1", "layer4.1.bn2"]  # nothing is fetched
    assert offered("svm", "--encoder", "torchvision:none", "--layer", "l") == [("file", "l")]
    assert offered("svm", "--encoder", "mine_not_run:moco", "--layer", "l") == [("file", "l")]
    assert "mine_not_run" not in sys.modules
