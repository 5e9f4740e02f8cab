"""K-means features: each convention of the published pipeline on a lopsided case, then all against plain loops."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.cluster import KMeans

from dcgan_eval.baselines.kmeans import (
    Codebook,
    KMeansFeatures,
    KMeansOptions,
    all_patches,
    distances,
    fit_whitening,
    learn_codebook,
    nearest,
    normalise_contrast,
    quadrants,
    run_kmeans,
    sample_patches,
    triangle,
)
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import DcganEvalError, StoreError, WeightsError

OPTIONS = KMeansOptions(num_centroids=7, side=3, num_patches=500, iterations=4)


def images(count: int, seed: int = 0, shape: tuple[int, int, int] = (9, 8, 3)) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    return ImageSet(pixels, name="noise", split=f"split{seed}")


def prepared(folder: Path, train: ImageSet, test: ImageSet, options: KMeansOptions = OPTIONS) -> KMeansFeatures:
    source = KMeansFeatures(options)
    source.prepare(train, test, cache_dir=folder)
    return source


def test_patches_are_cut_row_by_row_with_channels_first() -> None:
    pixels = np.arange(1 * 5 * 4 * 3, dtype=np.uint8).reshape(1, 5, 4, 3)
    patches = all_patches(torch.from_numpy(pixels), 2)
    assert patches.shape == (1, 4 * 3, 12)
    at_row_2_column_1 = pixels[0, 2:4, 1:3].transpose(2, 0, 1).reshape(-1)
    assert patches[0, 2 * 3 + 1].tolist() == at_row_2_column_1.tolist()


def test_sampled_patches_are_patches_of_the_images_taken_in_turn() -> None:
    noise = images(5).images
    sampled = sample_patches(noise, 60, 3, np.random.default_rng(0))
    everywhere = all_patches(torch.from_numpy(noise), 3)
    places = [torch.where((everywhere[i % 5] == patch).all(1))[0].tolist() for i, patch in enumerate(sampled)]
    assert all(len(place) == 1 for place in places)
    assert len({place[0] for place in places}) > 25  # of 42 places, spread over the image


def test_every_place_can_be_sampled() -> None:
    noise = images(1).images
    sampled = sample_patches(noise, 2_000, 3, np.random.default_rng(0))
    assert len(torch.unique(sampled, dim=0)) == 7 * 6


def test_contrast_is_normalised_with_the_unbiased_variance_plus_ten() -> None:
    found = normalise_contrast(torch.tensor([[0.0, 4.0], [7.0, 7.0]]))  # variance 8, so sqrt(18)
    assert found.numpy() == pytest.approx(np.array([[-2, 2], [0, 0]]) / np.sqrt([[18], [10]]))


def test_whitening_shrinks_each_direction_by_its_variance_and_does_not_rotate() -> None:
    x = torch.randn(4_000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1.0, 0.1])
    x = x @ torch.tensor([[1.0, 0.4, 0.0], [0.0, 1.0, 0.7], [0.0, 0.0, 1.0]]) + 5
    mean, P = fit_whitening(x)
    before = torch.linalg.eigvalsh(torch.cov(x.double().T))
    after = torch.linalg.eigvalsh(torch.cov(((x - mean) @ P).double().T))
    assert after.numpy() == pytest.approx((before / (before + 0.1)).numpy(), rel=1e-4)  # float32 products
    assert torch.allclose(P, P.T, atol=1e-6)


def test_kmeans_is_lloyds_algorithm() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(600, 2, generator=generator) + 4 * torch.tensor([[0, 0], [1, 0], [0, 1]]).repeat(200, 1)
    start = 0.1 * torch.randn(4, 2, generator=torch.Generator().manual_seed(2))
    after_two, num_empty = run_kmeans(x, 4, 2, torch.Generator().manual_seed(2))
    wanted = start
    for _ in range(2):
        nearest_centroid = torch.cdist(x, wanted).argmin(1)
        wanted = torch.stack([x[nearest_centroid == k].mean(0) for k in range(4)])
    assert num_empty == 0
    assert after_two.numpy() == pytest.approx(wanted.numpy(), abs=1e-5)
    at_rest, _ = run_kmeans(x, 4, 60, torch.Generator().manual_seed(2))
    theirs = KMeans(4, init=start.numpy(), n_init=1, max_iter=60, tol=0, algorithm="lloyd").fit(x.numpy())
    assert at_rest.numpy() == pytest.approx(theirs.cluster_centers_, abs=1e-4)


def test_centroids_without_a_patch_become_zero_and_are_counted() -> None:
    x = torch.tensor([[5.0, 0.0], [0.0, 5.0]]).repeat(50, 1)
    centroids, num_empty = run_kmeans(x, 6, 5, torch.Generator().manual_seed(0))
    assert num_empty == int((centroids == 0).all(1).sum()) >= 4
    assert torch.isfinite(centroids).all()


def test_distances() -> None:
    x, c = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)), torch.eye(5)[:3] * 2
    assert torch.allclose(distances(x, c), torch.cdist(x, c), atol=1e-5)
    assert torch.allclose(distances(c, c).diagonal(), torch.zeros(3), atol=1e-3)  # sqrt of rounding, never NaN


def test_triangle_and_hard_assignment() -> None:
    z = torch.tensor([[1.0, 2.0, 6.0], [4.0, 2.0, 3.0]])
    assert nearest(z).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert triangle(z).tolist() == [[2, 1, 0], [0, 1, 0]]


def test_the_middle_belongs_to_the_upper_left_and_quadrants_come_row_by_row() -> None:
    pool = quadrants(3, 5)
    assert pool.sum(1).tolist() == [2 * 3, 2 * 2, 1 * 3, 1 * 2]
    assert pool[:, 1 * 5 + 2].tolist() == [1, 0, 0, 0]
    assert pool[:, 0 * 5 + 3].tolist() == [0, 1, 0, 0]
    assert pool[:, 2 * 5 + 0].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("hard", [False, True])
def test_features_equal_plain_loops(tmp_path: Path, hard: bool) -> None:
    train = images(40)
    source = prepared(tmp_path, train, images(3, seed=1), dataclasses.replace(OPTIONS, hard=hard))
    book = source.codebook
    M, P, C = (t.double().numpy() for t in (book.mean, book.whitening, book.centroids))
    wanted = np.zeros((2, 4, 7))
    for i, image in enumerate(train.images[:2].astype(float)):
        for row in range(7):
            for column in range(6):
                patch = image[row : row + 3, column : column + 3].transpose(2, 0, 1).reshape(-1)
                patch = ((patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 10) - M) @ P
                z = np.linalg.norm(patch - C, axis=1)
                code = np.eye(7)[z.argmin()] if hard else np.maximum(0, z.mean() - z)
                wanted[i, 2 * (row >= 4) + (column >= 3)] += code
    assert source.extract(train.images[:2]) == pytest.approx(wanted.reshape(2, 28), abs=1e-3)  # float32 distances


def test_features_are_standardised_by_all_training_images(tmp_path: Path) -> None:
    train, test = images(300), images(20, seed=1)
    source = prepared(tmp_path, train, test)
    raw_train, raw_test = source.extract(train.images), source.extract(test.images)
    sd = np.sqrt(raw_train.var(0, ddof=1) + 0.01)
    # the store keeps float16: 2^-11 of a sum of up to twelve places, over a standard deviation
    assert source.stores[0][:] == pytest.approx((raw_train - raw_train.mean(0)) / sd, abs=0.02)
    assert source.test() == pytest.approx((raw_test - raw_train.mean(0)) / sd, abs=0.02)
    assert np.array_equal(source.train([7, 3]), source.stores[0][:][[7, 3]])


def test_the_same_images_give_the_same_features_in_any_order_and_another_seed_gives_others(tmp_path: Path) -> None:
    train, test = images(60), images(5, seed=1)
    shuffled = np.random.default_rng(0).permutation(60)
    first = prepared(tmp_path / "a", train, test)
    second = prepared(tmp_path / "b", train.take(shuffled), test)
    assert first.codebook.sha256 == second.codebook.sha256
    assert np.array_equal(first.train(shuffled), second.stores[0][:])
    other = prepared(tmp_path / "a", train, test, dataclasses.replace(OPTIONS, seed=1))
    assert other.codebook.sha256 != first.codebook.sha256


def test_a_killed_run_continues_after_its_last_block(tmp_path: Path) -> None:
    train, test = images(520), images(5, seed=1)

    def killed(what: str, done: int, total: int) -> None:
        if done == 512:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        KMeansFeatures(OPTIONS).prepare(train, test, killed, tmp_path)
    work: list[tuple[str, int]] = []
    again = KMeansFeatures(OPTIONS)
    again.prepare(train, test, lambda what, done, total: work.append((what, done)), tmp_path)
    assert work == [("features of noise-split0", 520), ("features of noise-split1", 5)]
    assert np.array_equal(again.stores[0][:], prepared(tmp_path / "b", train, test).stores[0][:])
    assert prepared(tmp_path, train, test).stores[0].reused


def test_sums_too_large_for_the_store_are_refused(tmp_path: Path) -> None:
    """Hard codes count patches: 256 x 256 of one quadrant in float16 would become infinite without a word."""
    flat = ImageSet(np.full((2, 518, 518, 3), 7, np.uint8))
    options = dataclasses.replace(OPTIONS, hard=True, num_patches=50, iterations=1)
    with pytest.raises(DcganEvalError, match="cannot be stored as float16"):
        prepared(tmp_path, flat, flat, options)


def test_hard_and_triangle_share_a_codebook_but_no_features(tmp_path: Path) -> None:
    train, test = images(60), images(5, seed=1)
    soft, hard = (prepared(tmp_path, train, test, dataclasses.replace(OPTIONS, hard=hard)) for hard in (False, True))
    assert soft.codebook.sha256 == hard.codebook.sha256
    assert (soft.name, hard.name) == ("kmeans-7", "kmeans-7-hard")
    assert hard.extract(train.images[:1]).sum() == 7 * 6
    assert not hard.stores[0].reused


def test_what_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DcganEvalError, match="--centroids"):
        KMeansOptions(num_centroids=1)
    with pytest.raises(DcganEvalError, match="too small"):
        prepared(tmp_path, images(4, shape=(3, 9, 3)), images(4, shape=(3, 9, 3)))
    (tmp_path / "occupied").write_text("a file")
    with pytest.raises(StoreError, match="--cache-dir"):
        prepared(tmp_path / "occupied", images(9), images(3))


def test_a_cached_codebook_without_its_digest_is_refused(tmp_path: Path) -> None:
    prepared(tmp_path, images(60), images(5, seed=1))
    [path] = tmp_path.glob("kmeans-*.safetensors")
    with safe_open(path, framework="pt") as file:
        tensors, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    header.pop("sha256")
    save_file({key: value + 1 for key, value in tensors.items()}, path, header)
    with pytest.raises(WeightsError, match="no digest"):
        prepared(tmp_path, images(60), images(5, seed=1))


def test_a_codebook_moves_as_a_whole() -> None:
    book = learn_codebook(images(9).images, OPTIONS)
    assert isinstance(book, Codebook)
    assert book.to(torch.device("cpu")).sha256 == book.sha256
