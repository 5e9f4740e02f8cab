"""The score with few labels: the runs are those of the protocol's own draws, and scikit-learn's fits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.svm import LinearSVC

from dcgan_eval.cli.main import main
from dcgan_eval.data.splits import draw_per_class, stratified_split
from dcgan_eval.errors import DataError
from dcgan_eval.protocols.catalog import get_protocol, load_protocol_images
from dcgan_eval.protocols.few_shot import learning_curve
from dcgan_eval.protocols.settings import Place
from dcgan_eval.protocols.sources import PixelFeatures
from dcgan_eval.records import load_record

DIGITS = get_protocol("digits")


def test_every_point_is_the_mean_of_fits_to_fresh_draws(tmp_path: Path) -> None:
    records = learning_curve(DIGITS, PixelFeatures(), (20, 2), 3, place=Place(cache_dir=tmp_path))
    assert list(records) == [2, 20]
    assert records[2].score < records[20].score
    train, test = load_protocol_images(DIGITS)
    kept, _ = stratified_split(train, DIGITS.num_held_out(train.num_images), 0, "validation")
    X, T = (s.images.reshape(len(s), -1) / 127.5 - 1 for s in (train, test))
    for labels, record in records.items():
        assert record.protocol.endswith(f"{labels}_per_class_3_draws")
        for number, draw in enumerate(record.draws):
            rows = draw_per_class(train, kept, labels, 0, number, "test")
            assert np.bincount(train.labels[rows]).tolist() == [labels] * 10
            svm = LinearSVC(C=draw["C"], tol=1e-8, max_iter=100_000, random_state=0).fit(X[rows], train.labels[rows])
            assert draw["score"] == pytest.approx(svm.score(T, test.labels), abs=0.005)


def test_too_many_labels_are_refused_before_any_other_number_is_run(tmp_path: Path) -> None:
    seen: list[str] = []
    with pytest.raises(DataError):
        learning_curve(
            DIGITS,
            PixelFeatures(),
            (1, 5_000),
            2,
            place=Place(cache_dir=tmp_path),
            progress=lambda what, *_: seen.append(what),
        )
    assert not any(what.startswith("1 per class") for what in seen)


def test_the_command_writes_records_and_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["curve", "digits", "--weights", "untrained:svhn32", "--layer", "conv3", "--cache-dir", "cache"]
    result = CliRunner().invoke(main, [*words, "--per-class", "1,3", "--draws", "2", "--out", "out"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    found = {int(path.stem): load_record(path) for path in Path("out").glob("*.json")}
    assert sorted(found) == [1, 3]
    assert all(record.num_draws == 2 and json.loads(Path("out/1.json").read_text()) for record in found.values())
    for bad in ("0", "x", "1,,2", ""):
        assert CliRunner().invoke(main, [*words, "--per-class", bad]).exit_code == 2
