"""Decoding ahead in threads loses nothing and keeps the order, however many images and threads there are."""

from __future__ import annotations

import pytest

from dcgan_eval.data import decoding


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 256, 257, 1_000])
def test_map_in_order_is_map(count: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_MAX_THREADS", threads)
    monkeypatch.setattr(decoding.os, "cpu_count", lambda: 8)
    assert list(decoding.map_in_order(lambda i: i * i, count)) == [i * i for i in range(count)]
