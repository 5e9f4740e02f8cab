"""What holds of features for any order of images, any encoder of a family, and any moment of a kill."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.features.fill import fill
from dcgan_eval.features.taps import Encoder
from dcgan_eval.protocols.sources import PixelFeatures

COUNT = 13
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), dtype=np.uint8)
PIXELS[5] = PIXELS[3]  # equal images with different labels
LABELS = np.arange(COUNT) % 3
NAMES = np.array([f"folder/{i}.png" for i in range(COUNT)])


def images_in(order: list[int]) -> ImageSet:
    """Return the images in an order."""
    return ImageSet(PIXELS[order], LABELS[order], ("a", "b", "c"), name="any", names=NAMES[order])


@given(order=st.permutations(range(COUNT)))
@settings(max_examples=30, deadline=None)
def test_any_order_of_images_gives_one_store(order: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = fill(PixelFeatures(), images_in(order), Path(folder))
        expected = (PIXELS[order].reshape(COUNT, -1) / 127.5 - 1).astype(np.float32)
        np.testing.assert_allclose(store.read(), expected, atol=1e-6)
        with h5py.File(store.path) as file:
            rows = {key: file[key][()] for key in ("sha256", "labels", "names")}
            stored = file["layers/pixels"][()]
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in PIXELS]
    assert [key.decode() if isinstance(key, bytes) else bytes(key).hex() for key in rows["sha256"]] == sorted(hashes)
    for i, name in enumerate(rows["names"]):
        at = int(name.decode().split("/")[1].split(".")[0])
        assert np.array_equal(stored[i], PIXELS[at].reshape(-1))
        assert rows["labels"][i] == LABELS[at]


class Family(nn.Module):
    """A convolution whose output every one of its settings changes."""

    def __init__(self, gain: float, eps: float, mean: float, act: str, weight: float):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4, eps=eps)
        self.gain, self.act = gain, act
        self.register_buffer("mean", torch.full((1,), mean), persistent=False)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) + i)
            self.conv.weight[0, 0, 0, 0] = weight

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * getattr(torch, self.act)(self.norm(self.conv(x - self.mean)))


VALUES = st.tuples(
    st.sampled_from([0.5, 1.0, -1.0]),
    st.sampled_from([1e-5, 0.1]),
    st.sampled_from([0.0, 0.25]),
    st.sampled_from(["relu", "tanh"]),
    st.sampled_from([0.0, 1.0]),
)
INPUT = torch.linspace(-1, 1, 2 * 3 * 6 * 6).view(2, 3, 6, 6)


def seen(values: tuple[Any, ...]) -> tuple[str, bytes]:
    """Return the identity of an encoder, and what it answers."""
    encoder = Encoder(Family(*values).eval(), ["output"])
    with torch.no_grad():
        answer = encoder.module(INPUT).numpy().tobytes()
    return encoder.weights_sha256 + encoder.architecture, answer


@given(a=VALUES, b=VALUES)
@settings(max_examples=60, deadline=None)
def test_identities_are_equal_exactly_where_the_features_are(a: tuple[Any, ...], b: tuple[Any, ...]) -> None:
    (hash_a, answer_a), (hash_b, answer_b) = seen(a), seen(b)
    assert (hash_a == hash_b) == (answer_a == answer_b)


@given(training=st.booleans(), grads=st.booleans(), used=st.booleans(), order=st.permutations(["x", "y", "z"]))
@settings(max_examples=30, deadline=None)
def test_what_changes_no_feature_changes_no_identity(training: bool, grads: bool, used: bool, order: list[str]) -> None:
    values = (1.0, 1e-5, 0.0, "relu", 1.0)
    plain, module = Family(*values).eval(), Family(*values).train(training).requires_grad_(grads)
    plain.names, module.names = {"x", "y", "z"}, set(order)
    if used and not training and grads:
        module(INPUT).sum().backward()
    one, other = (Encoder(m, ["output"]) for m in (plain, module))
    assert (one.weights_sha256, one.architecture) == (other.weights_sha256, other.architecture)


CHANGING = {"write", "pwrite", "writelines", "flush", "fsync", "rename", "replace", "truncate", "ftruncate", "unlink"}


def killed(work: Callable[[], object], call: int, event: str) -> bool:
    """Do work in a forked process, killed at its ``call``-th call that changes a file; tell if it came to that."""
    child = os.fork()
    if child == 0:
        count = 0

        def look(frame: object, kind: str, function: Any) -> None:
            nonlocal count
            if kind == event and getattr(function, "__name__", "") in CHANGING:
                count += 1
                if count == call:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(look)
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@given(calls=st.lists(st.integers(1, 25), min_size=1, max_size=3), event=st.sampled_from(["c_call", "c_return"]))
@settings(max_examples=15, deadline=None)
def test_a_kill_at_any_call_loses_nothing(calls: list[int], event: str) -> None:
    images = images_in(list(range(COUNT)))
    folder = Path(tempfile.mkdtemp())
    try:
        for call in calls:
            killed(lambda: fill(PixelFeatures(), images, folder), call, event)
            for path in folder.glob("*.h5"):  # what has its name is whole
                with h5py.File(path) as file:
                    assert file["layers/pixels"].shape == (COUNT, 48)
        store = fill(PixelFeatures(), images, folder)
        assert np.array_equal(np.rint((store.read() + 1) * 127.5).astype(np.uint8), PIXELS.reshape(COUNT, -1))
        assert sorted(p.suffix for p in folder.iterdir() if p.name == store.path.name) == [".h5"]
        assert not list(folder.glob("*.partial"))
    finally:
        shutil.rmtree(folder)


def test_the_kills_do_happen(tmp_path: Path) -> None:
    images = images_in(list(range(COUNT)))
    calls = range(1, 40, 2)
    happened = [killed(lambda n=n: fill(PixelFeatures(), images, tmp_path / str(n)), n, "c_call") for n in calls]
    assert happened[0]
    assert not happened[-1]
    assert sum(happened) >= 5
