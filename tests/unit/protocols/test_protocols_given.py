"""Features made elsewhere: scikit-learn's number, the right row for every image, and refusal of what does not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC

from dcgan_eval.data.catalog import load_data
from dcgan_eval.data.imageset import ImageSet
from dcgan_eval.errors import DataError, DcganEvalError, ProtocolError
from dcgan_eval.features.fill import fill
from dcgan_eval.features.given import find_rows
from dcgan_eval.features.given_files import read_given
from dcgan_eval.protocols.evaluate import evaluate
from dcgan_eval.protocols.given import given_protocol
from dcgan_eval.protocols.settings import Place
from dcgan_eval.protocols.sources import GivenFeatures, PixelFeatures
from dcgan_eval.protocols.verify import verify
from dcgan_eval.records import Record, load_record

DRAW = np.random.default_rng(0)
MEANS = DRAW.normal(size=(3, 12))
Y = {"train": np.arange(240) % 3, "test": np.arange(90) % 3}
X = {split: (MEANS[y] + 1.4 * DRAW.normal(size=(len(y), 12))).astype(np.float32) for split, y in Y.items()}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DCGAN_EVAL_DATA", raising=False)


def save(**changes: Any) -> list[Path]:
    """Write train.npz and test.npz; ``train_X=...`` or ``test_y=None`` replaces or leaves out an array."""
    for split in ("train", "test"):
        arrays = {"X": X[split], "y": Y[split]}
        arrays |= {k.removeprefix(f"{split}_"): v for k, v in changes.items() if k.startswith(split)}
        np.savez(f"{split}.npz", **{key: value for key, value in arrays.items() if value is not None})
    return [Path("train.npz"), Path("test.npz")]


def run(files: list[Path] | None = None, protocol: str = "own", **options: Any) -> Record:
    return evaluate(protocol, GivenFeatures(*(files or save()), **options), place=Place(cache_dir=Path("cache")))


def test_the_score_is_that_of_scikit_learn() -> None:
    """The same split, C in the same unit, the constant feature of the same length."""
    record = run()
    unit = float((X["train"].astype(np.float64) ** 2).sum(1).mean())
    peer = LinearSVC(
        C=record.C / unit, loss="squared_hinge", dual=False, intercept_scaling=unit**0.5, tol=1e-8, max_iter=10_000
    ).fit(X["train"], Y["train"])
    right = peer.predict(X["test"]) == Y["test"]
    assert record.score == pytest.approx(right.mean(), abs=1.01 / len(right))  # one row on the boundary
    assert 0.6 < record.score < 1
    assert record.features["kind"] == "given"
    assert record.features["files"]["test"] == {
        "name": "test.npz",
        "sha256": hashlib.sha256(Path("test.npz").read_bytes()).hexdigest(),
        "num_rows": 90,
    }


def _parquet_lists() -> list[Path]:
    for split in X:
        pd.DataFrame({"embedding": list(X[split]), "label": Y[split]}).to_parquet(f"{split}.parquet")
    return [Path("train.parquet"), Path("test.parquet")]


def _parquet_columns() -> list[Path]:
    for split in X:
        table = pd.DataFrame(X[split], columns=[f"f{i}" for i in range(12)])
        table.index = table.index[::-1]  # pandas writes it as a column of its own
        table.assign(label=Y[split], path="a.png").to_parquet(f"{split}.parquet")
    return [Path("train.parquet"), Path("test.parquet")]


def _hdf5() -> list[Path]:
    for split in X:
        with h5py.File(f"{split}.h5", "w") as file:
            file["features"], file["labels"] = X[split].astype(np.float64), Y[split]
    return [Path("train.h5"), Path("test.h5")]


def _both_in_one(kind: str) -> list[Path]:
    arrays = {"X_train": X["train"], "y_train": Y["train"], "X_test": X["test"], "y_test": Y["test"]}
    if kind == "npz":
        np.savez("both.npz", **arrays)
    else:
        with h5py.File("both.h5", "w") as file:
            for name, values in arrays.items():
                file["/".join(reversed(name.split("_")))] = values
    return [Path(f"both.{kind}")] * 2


def _shuffled() -> list[Path]:
    order = {split: np.random.default_rng(5).permutation(len(y)) for split, y in Y.items()}
    changes = {f"{split}_X": X[split][rows] for split, rows in order.items()}
    return save(**changes, **{f"{split}_y": Y[split][rows] for split, rows in order.items()})


def _spelled() -> list[Path]:
    for split in X:
        np.savez(f"{split}.npz", Embeddings=X[split], targets=Y[split][:, None].astype(np.float32))
    return [Path("train.npz"), Path("test.npz")]


FORMS: dict[str, Callable[[], list[Path]]] = {
    "a column of lists": _parquet_lists,
    "a column each": _parquet_columns,
    "HDF5, float64": _hdf5,
    "both splits in one archive": lambda: _both_in_one("npz"),
    "both splits in groups of one HDF5 file": lambda: _both_in_one("h5"),
    "another order": _shuffled,
    "another spelling": _spelled,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows_and_number(form: str) -> None:
    first, again = run(), run(FORMS[form]())
    assert again.score == first.score
    assert (again.rows_sha256, again.right) == (first.rows_sha256, first.right)
    assert [part["fingerprint"] for part in again.data.values()] == [p["fingerprint"] for p in first.data.values()]


def test_labels_by_name_and_by_a_column_that_is_chosen() -> None:
    words = np.array(["cat", "ant", "bee"])
    files = save(train_y=None, test_y=None, train_label=words[Y["train"]], test_label=words[Y["test"]])
    assert run(files).class_names == ["ant", "bee", "cat"]
    both = {"train_fine": Y["train"], "test_fine": Y["test"], "train_y": Y["train"] % 2, "test_y": Y["test"] % 2}
    assert len(run(save(**both), label_column="fine").class_names) == 3
    with pytest.raises(DataError, match="--label-column y"):
        run(save(train_label=Y["train"], test_label=Y["test"]))


def pixels() -> tuple[ImageSet, np.ndarray]:
    """The digits in scikit-learn's order, and the toolkit's pixel features of them, computed here."""
    images = load_data("digits", "all")
    assert np.array_equal(images.labels, load_digits().target)
    return images, images.images.reshape(len(images), -1).astype(np.float32) / np.float32(127.5) - np.float32(1)


@pytest.fixture(scope="module")
def by_pixels(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return evaluate("digits", PixelFeatures(), place=Place(cache_dir=tmp_path_factory.mktemp("pixels")))


def test_rows_in_the_official_order_are_those_of_the_images(by_pixels: Record) -> None:
    images, features = pixels()
    np.savez("all.npz", X=features, y=images.labels)
    record = run([Path("all.npz")] * 2, "digits")
    assert (record.score, record.right) == (by_pixels.score, by_pixels.right)
    assert record.data == by_pixels.data
    assert record.features["matched_by"] == "order"
    assert "the labels agree in every row" in record.notes[0]


@pytest.mark.parametrize("labelled", [True, False])
def test_rows_with_hashes_are_found_in_any_order_and_number(labelled: bool, by_pixels: Record) -> None:
    images, features = pixels()
    rows = np.random.default_rng(1).permutation(len(images))
    arrays = {"X": features[rows], "sha256": images.pixel_hashes[rows]}
    np.savez("any.npz", **arrays, **({"y": images.labels[rows]} if labelled else {}))
    record = run([Path("any.npz")] * 2, "digits")
    assert (record.score, record.right) == (by_pixels.score, by_pixels.right)
    assert record.features["matched_by"] == "sha256"


def test_a_feature_store_is_read_by_its_hashes(by_pixels: Record) -> None:
    images, _ = pixels()
    store = fill(PixelFeatures(), images, Path("stores"))
    record = run([store.path] * 2, "digits")
    assert record.features["matched_by"] == "sha256"
    assert record.rows_sha256 == by_pixels.rows_sha256
    assert record.score > 0.9  # pixels from 0 to 255 instead of -1 to 1


def test_identical_images_have_their_own_rows() -> None:
    pixels = np.zeros((4, 2, 2, 1), np.uint8)
    pixels[1] = 9
    images = ImageSet(pixels)
    hashes = images.pixel_hashes
    assert find_rows(hashes[[1, 0, 2, 3]], images, "x").tolist() == [1, 0, 2, 3]
    assert find_rows(hashes[[0, 1]], images, "x").tolist() == [0, 1, 0, 0]
    with pytest.raises(DataError, match="none for 1 of 4"):
        find_rows(hashes[[0]], images, "x")


def _one_row(value: float) -> np.ndarray:
    changed = X["train"].astype(np.float64)
    changed[17, 3] = value
    return changed


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"train_X": _one_row(np.nan)}, "row 17"),
    "infinite": ({"train_X": _one_row(-np.inf)}, "row 17"),
    "beyond float32": ({"train_X": _one_row(1e39)}, "row 17"),
    "other widths": ({"test_X": X["test"][:, :5]}, "12 and 5 features"),
    "labels in one": ({"test_y": None}, "labels in train.npz alone"),
    "no labels": ({"train_y": None, "test_y": None}, "no labels"),
    "one class": ({"train_y": np.zeros(240, int), "test_y": np.zeros(90, int)}, "two classes"),
    "labels of -1": ({"test_y": np.full(90, -1)}, "-1 everywhere"),
    "a vector": ({"train_X": X["train"][:, 0]}, r"shape \(240,\)"),
    "maps": ({"train_X": X["train"].reshape(240, 3, 2, 2)}, "reshape"),
    "objects": ({"train_X": np.array([{}, None], object)}, "Python objects"),
    "text": ({"train_X": X["train"].astype(str)}, "no matrix of numbers"),
    "complex": ({"train_X": X["train"].astype(complex)}, "no matrix of numbers"),
    "too few labels": ({"train_y": Y["train"][:-1]}, "239 and 240"),
    "two matrices": ({"train_features": X["train"]}, "several arrays"),
    "no matrix": ({"train_X": None}, "no array of train features"),
    "the same rows": ({"test_X": X["train"], "test_y": Y["train"]}, "the same rows"),
    "no hashes": ({"train_sha256": np.arange(240)}, "no pixel hashes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_a_sentence(name: str) -> None:
    changes, words = REFUSED[name]
    with pytest.raises(DcganEvalError, match=words):
        run(save(**changes))


def test_columns_in_another_order_are_refused() -> None:
    files = _parquet_columns()
    table = pd.read_parquet(files[1])
    table[[*reversed(table.columns[:12]), "label"]].to_parquet(files[1])
    with pytest.raises(DataError, match="'f0' and 'f11'"):
        GivenFeatures(*files)
    pd.read_parquet(files[0]).assign(id=1).to_parquet(files[0])
    with pytest.raises(DataError, match="row numbers"):
        GivenFeatures(*files)


@pytest.mark.parametrize("name", ["cut.npz", "cut.h5", "cut.parquet", "a.csv", "missing.npz"])
def test_files_that_are_none_are_sentences(name: str) -> None:
    files = save()
    if not name.startswith("missing"):
        Path(name).write_bytes(files[0].read_bytes()[:1000])
    with pytest.raises(DataError, match=name):
        GivenFeatures(name, files[1])


def _swapped(y: np.ndarray) -> np.ndarray:
    changed = y.copy()
    changed[[0, 1]] = y[[1, 0]]
    return changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda X, y: (X[:1500], y[:1500]), "1,500 rows for 1,797 images"),
        (lambda X, y: (X, _swapped(y)), "2 of 1,797 differ, the first in row 0: 1"),
        (lambda X, y: (X, y + 1), "1,797 of 1,797 differ"),
        (lambda X, y: (X, None), "no sha256 and no labels"),
    ],
)
def test_rows_that_do_not_fit_a_protocols_images_are_refused(change: Callable[..., Any], words: str) -> None:
    images, features = pixels()
    X, y = change(features, images.labels)
    np.savez("all.npz", X=X, **({} if y is None else {"y": y}))
    with pytest.raises(DataError, match=words):
        run([Path("all.npz")] * 2, "digits")


def test_hashes_of_other_images_and_labels_of_other_rows_are_refused() -> None:
    images, features = pixels()
    np.savez("other.npz", X=features, sha256=images.pixel_hashes, y=np.roll(images.labels, 1))
    with pytest.raises(DataError, match="are not those of digits"):
        run([Path("other.npz")] * 2, "digits")
    np.savez("other.npz", X=features[1:], sha256=images.pixel_hashes[1:])
    with pytest.raises(DataError, match="none for 1 of"):
        run([Path("other.npz")] * 2, "digits")


def test_splits_of_given_features_cannot_be_chosen() -> None:
    source, protocol = GivenFeatures(*save()), given_protocol("own").with_columns("a", None, None)
    with pytest.raises(ProtocolError, match="--train-split"):
        evaluate(protocol, source, place=Place(cache_dir=Path("cache")))


def outcome(record: Record, **options: Any) -> dict[str, bool | None]:
    return {check.name: check.passed for check in verify(record, cache_dir=Path("cache2"), **options)}


def test_verify_says_what_it_cannot_check_and_checks_it_with_the_files() -> None:
    files = save()
    record = load_record(run(files).write(Path("r.json")))
    alone = outcome(record)
    assert {name for name, passed in alone.items() if passed is not True} == {"features", "data"}
    assert alone["features"] is alone["data"] is None
    together = outcome(record, features=files, rerun=True)
    assert set(together.values()) == {True}
    assert {"train features", "test features", "train data", "test data", "number again"} <= set(together)
    other = outcome(record, features=save(test_X=X["test"] + 1))
    assert {name for name, passed in other.items() if passed is False} >= {"test features", "test data"}
    assert other["train features"] is other["train data"] is True


def test_verify_reads_the_labels_that_were_chosen() -> None:
    files = save(train_fine=Y["train"], test_fine=Y["test"], train_y=Y["train"] % 2, test_y=Y["test"] % 2)
    record = load_record(run(files, label_column="fine").write(Path("r.json")))
    assert set(outcome(record, features=files).values()) == {True}


def test_verify_of_a_catalogue_protocol_checks_the_images_without_the_files() -> None:
    images, features = pixels()
    np.savez("all.npz", X=features, y=images.labels)
    record = load_record(run([Path("all.npz")] * 2, "digits").write(Path("r.json")))
    assert {name for name, passed in outcome(record).items() if passed is not True} == {"features"}
    pixels_record = evaluate("digits", PixelFeatures(), place=Place(cache_dir=Path("cache")))
    assert outcome(pixels_record, features=save())["weights"] is None


def test_a_column_that_says_the_class_is_no_feature(tmp_path):
    table = pd.DataFrame({"a": [0.5, 1.5], "b": [2.5, 3.5], "label": ["x", "y"], "Class ID": [0, 1]})
    table.to_parquet(tmp_path / "t.parquet")
    found = read_given(tmp_path / "t.parquet", "train")
    assert found.matrix.tolist() == [[0.5, 2.5], [1.5, 3.5]]
    assert "Class ID" in found.notes[0]
    np.savez(tmp_path / "t.npz", features=found.matrix, Category=["x", "y"], extra=[1, 2])
    assert read_given(tmp_path / "t.npz", "train").labels.tolist() == ["x", "y"]
    assert read_given(tmp_path / "t.npz", "train").notes == ("arrays of t.npz that are not used: extra",)
