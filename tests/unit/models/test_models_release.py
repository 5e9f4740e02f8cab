"""The 2016 release: order, flip, completeness; on the real parameters where they are at hand."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from dcgan_eval.data.catalog import load_data
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import WeightsError
from dcgan_eval.features.encoders import load_encoder
from dcgan_eval.features.extract import ExtractOptions, extract
from dcgan_eval.models.dcgan import Discriminator, Generator, draw_samples, to_unit_range
from dcgan_eval.models.presets import get_ladder
from dcgan_eval.models.release import FILE_NAMES, RELEASE_CARD, import_release, released_parts
from dcgan_eval.models.weights import load_network, read_card, save_network

SHARED = Path(__file__).parents[3].parent / "shared"


@pytest.fixture(scope="module")
def reference() -> Path:
    """The SVHN parameters that the authors released."""
    path = Path(os.environ.get("DCGAN_EVAL_REFERENCE") or SHARED / "reference") / "dcgan_svhn_2015"
    if not path.is_dir():
        pytest.skip("no released parameters: set DCGAN_EVAL_REFERENCE to the folder that holds dcgan_svhn_2015/")
    return path


@pytest.fixture(scope="module")
def digits(real_data_dir: Path) -> np.ndarray:
    """256 real SVHN digits."""
    return load_data("svhn", "test", real_data_dir).images[:256]


def release(folder: Path, preset: str = "svhn32", network: str = "discriminator") -> Path:
    """Write arrays of random numbers in the released form, beside a pickle that must not be opened."""

    class Bomb:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return (Path.touch, (folder / "exploded",))

    container = folder / f"200_{FILE_NAMES[network]}"
    container.write_bytes(pickle.dumps(Bomb()))
    draw = np.random.default_rng(0)
    for number, part in enumerate(released_parts(get_ladder(preset), network), start=1):
        np.save(f"{container}_{number:02d}.npy", draw.normal(size=part.shape).astype(np.float32))
    return container


@pytest.mark.parametrize(
    ("preset", "network", "count"),
    [
        ("svhn32", "discriminator", 8),
        ("svhn32", "generator", 10),
        ("imagenet32", "discriminator", 17),
        ("imagenet32", "generator", 19),
    ],
)
def test_the_number_of_arrays_is_the_releases(preset: str, network: str, count: int) -> None:
    assert len(released_parts(get_ladder(preset), network)) == count


@pytest.mark.parametrize("network", FILE_NAMES)
def test_order_flip_and_preset(tmp_path: Path, network: str) -> None:
    container = release(tmp_path, network=network)
    module = import_release(tmp_path, network)
    assert module.preset.name == "svhn32"
    assert not (tmp_path / "exploded").exists()
    arrays = [np.load(f"{container}_{n:02d}.npy") for n in range(1, 11 if network == "generator" else 9)]
    first = [p for p in module.parameters() if p.dim() == 4]
    kernels = [a for a in arrays if a.ndim == 4]
    for kernel, parameter in zip(kernels, first, strict=True):
        assert np.array_equal(parameter.detach().numpy(), kernel[:, :, ::-1, ::-1])
    if network == "discriminator":
        assert np.array_equal(module.conv2.norm.weight.detach(), arrays[2])
        assert np.array_equal(module.conv3.norm.bias.detach(), arrays[6])
        assert np.array_equal(module.linear.weight.detach(), arrays[7].T)
    else:
        assert np.array_equal(module.project.weight.detach(), arrays[0].T)
        assert np.array_equal(module.project_norm.bias.detach(), arrays[2])
        assert np.array_equal(module.deconv2.norm.weight.detach(), arrays[7])


def test_a_saved_import_is_read_back_without_running_statistics(tmp_path: Path) -> None:
    release(tmp_path)
    path = tmp_path / "d.safetensors"
    save_network(import_release(tmp_path), path, card=RELEASE_CARD)
    assert "MIT" in read_card(path)["card"]["licence"]
    D = load_network(path)
    assert D.conv2.norm.running_mean is None
    assert torch.equal(D.conv2.conv.weight, import_release(tmp_path).conv2.conv.weight)
    images = ImageSet(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))
    encoder = load_encoder(path)
    assert extract(encoder, images, cache_dir=tmp_path / "cache").width(encoder.layers) == 7_168
    with pytest.raises(WeightsError, match="no running batch-norm statistics"):
        extract(encoder, images, options=ExtractOptions(batch_norm="running"), cache_dir=tmp_path / "cache")


def test_an_incomplete_model_is_refused_and_its_leading_layers_can_be_kept(tmp_path: Path) -> None:
    container = release(tmp_path)
    for number in (6, 8):
        Path(f"{container}_{number:02d}.npy").unlink()
    with pytest.raises(WeightsError, match=r"conv1, conv2 can still be used.*_06\.npy \(batch-norm gain of conv3\)"):
        import_release(container)
    path = tmp_path / "partial.safetensors"
    save_network(import_release(container, allow_partial=True), path)
    encoder = load_encoder(path)
    assert encoder.layers == ("conv1", "conv2")
    images = ImageSet(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))
    assert extract(encoder, images, cache_dir=tmp_path / "cache").width(encoder.layers) == 3_072
    Path(f"{container}_01.npy").unlink()
    with pytest.raises(WeightsError, match="nothing can be used"):
        import_release(container, preset="svhn32", allow_partial=True)


def test_what_is_no_release(tmp_path: Path) -> None:
    container = release(tmp_path)
    with pytest.raises(WeightsError, match="imagenet32: array 1 has shape"):
        import_release(container, preset="imagenet32")
    with pytest.raises(WeightsError, match="not hold exactly one released generator"):
        import_release(tmp_path, "generator")
    with pytest.raises(WeightsError, match="no generator of any preset"):
        import_release(container, "generator")
    with pytest.raises(WeightsError, match="no arrays"):
        import_release(tmp_path / "none.jl")
    np.save(f"{container}_03.npy", np.array([{}], dtype=object))
    with pytest.raises(WeightsError, match=r"cannot be read.*allow_pickle"):
        import_release(container)
    np.save(f"{container}_03.npy", np.full(128, np.nan, np.float32))
    with pytest.raises(WeightsError, match="finite"):
        import_release(container)


def unflipped(network: nn.Module) -> nn.Module:
    """Undo the flip in place."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.flip(2, 3)
    return network


@torch.no_grad()
def logits(D: nn.Module, images: np.ndarray) -> np.ndarray:
    """Return D's logits with the statistics of the minibatch, as in training."""
    return D(to_unit_range(torch.from_numpy(images))).numpy()


def test_the_real_discriminator_tells_digits_from_samples_only_when_flipped(
    reference: Path, digits: np.ndarray
) -> None:
    D, G = import_release(reference), import_release(reference, "generator")
    assert isinstance(D, Discriminator)
    assert isinstance(G, Generator)
    fakes = draw_samples(G, len(digits))
    is_real = np.repeat([1, 0], len(digits))

    def auc() -> float:
        return float(roc_auc_score(is_real, np.concatenate([logits(D, digits), logits(D, fakes)])))

    on_fakes = logits(D, fakes).mean()
    assert auc() > 0.94  # measured 0.969; without the flip 0.535
    assert on_fakes - logits(D, draw_samples(unflipped(G), len(digits))).mean() > 4  # measured 7.0
    unflipped(D)
    assert auc() < 0.7
