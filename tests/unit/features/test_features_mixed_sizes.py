"""Natural images of mixed sizes: each is brought to the encoder's size by its rule, whatever file it comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dcgan_eval.baselines.kmeans import KMeansFeatures, KMeansOptions
from dcgan_eval.data.catalog import load_data
from dcgan_eval.errors import DataError, DcganEvalError, ProtocolError
from dcgan_eval.features.extract import ExtractOptions, extract
from dcgan_eval.features.taps import Encoder
from dcgan_eval.protocols.catalog import get_protocol
from dcgan_eval.protocols.evaluate import evaluate
from dcgan_eval.protocols.settings import Place
from dcgan_eval.protocols.sources import EncoderFeatures, PixelFeatures

EXACT = ExtractOptions(compute="float32", store_dtype="float32", device="cpu")


def photographs(folder: Path, suffix: str, seed: int = 0) -> Path:
    """Two classes of smooth images of many sizes, upright and wide, as lossless files."""
    draw = np.random.default_rng(seed)
    for split, count in (("train", 24), ("test", 8)):
        for label, name in enumerate(("dark", "light")):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                height, width = draw.integers(20, 60, 2)
                small = draw.integers(80 * label, 80 * label + 160, (5, 5, 3)).astype(np.uint8)
                Image.fromarray(small).resize((width, height)).save(place / f"{i}{suffix}", lossless=True)
    return folder


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU())
    return Encoder(network, ["1"], normalise="imagenet", image_size=16, pooling="avg1")


def test_each_image_is_resized_as_torchvision_does(tmp_path: Path, encoder: Encoder) -> None:
    from torchvision.transforms.v2 import functional  # here, because it takes longer to import than all else

    folder = photographs(tmp_path / "photos", ".png")
    images = load_data(folder, "train", mixed=True)
    store = extract(encoder, images, options=EXACT, cache_dir=tmp_path / "cache")
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for row in (0, 7, 30):
        assert images.names is not None
        pixels = torch.from_numpy(np.array(Image.open(folder / images.names[row]))).permute(2, 0, 1)
        square = functional.center_crop(functional.resize(pixels, [16], functional.InterpolationMode.BICUBIC), [16, 16])
        with torch.no_grad():
            wanted = encoder.module(((square / 255 - mean) / std)[None]).mean((2, 3))[0]
        np.testing.assert_allclose(store[row], wanted, rtol=1e-5, atol=1e-6)


def test_the_same_images_in_another_container_are_the_same_rows(tmp_path: Path, encoder: Encoder) -> None:
    png, webp = (photographs(tmp_path / suffix, suffix) for suffix in (".png", ".webp"))
    first, second = (load_data(folder, "train", mixed=True) for folder in (png, webp))
    assert first.fingerprint == second.fingerprint
    store = extract(encoder, first.without_labels(), options=EXACT, cache_dir=tmp_path / "cache")
    shuffled = second.take(np.random.default_rng(0).permutation(len(second)))
    again = extract(encoder, shuffled.without_labels(), options=EXACT, cache_dir=tmp_path / "cache")
    assert again.reused
    order, reordered = first.canonical_order, shuffled.canonical_order
    assert np.array_equal(store[order], again[reordered])


def test_a_folder_of_mixed_images_runs_from_pixels_to_a_record(tmp_path: Path, encoder: Encoder) -> None:
    folder = photographs(tmp_path / "photos", ".png")
    record = evaluate(str(folder), EncoderFeatures(encoder), place=Place(cache_dir=tmp_path / "cache"))
    assert record.protocol == "own_l2svm"
    assert record.score > 0.8
    assert (record.data["train"]["num_images"], record.data["test"]["num_images"]) == (48, 16)


def test_what_needs_one_size_says_so(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", ".png")
    module = nn.Sequential(nn.Conv2d(3, 6, 3))
    place = Place(cache_dir=tmp_path / "cache")
    with pytest.raises(DcganEvalError, match="--image-size"):
        evaluate(str(folder), Encoder(module, ["0"], pooling="avg1"), place=place)
    for source in (PixelFeatures(), KMeansFeatures(KMeansOptions(num_centroids=4, num_patches=100, iterations=1))):
        with pytest.raises(DcganEvalError, match="data pack"):
            evaluate(str(folder), source, place=place)
    with pytest.raises(DcganEvalError, match="differ in size"):
        load_data(folder, "train")


def test_a_validation_split_stands_for_a_missing_test_split(tmp_path: Path, encoder: Encoder) -> None:
    folder = photographs(tmp_path / "photos", ".png")
    (folder / "test").rename(folder / "val")
    place = Place(cache_dir=tmp_path / "cache")
    record = evaluate(str(folder), EncoderFeatures(encoder), place=place)
    assert record.data["test"]["split"] == "val"
    (folder / "val").rename(folder / "extra")
    with pytest.raises(DataError, match="test"):
        evaluate(str(folder), EncoderFeatures(encoder), place=place)
    named = evaluate(get_protocol(str(folder)).with_columns(None, "extra", None), EncoderFeatures(encoder), place=place)
    assert (named.score, named.spec["splits"]) == (record.score, ("train", "extra"))
    with pytest.raises(ProtocolError, match="pinned splits"):
        get_protocol("digits").with_columns("train", None, None)
