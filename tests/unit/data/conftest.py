"""Small data sets written in every form, and the real ones where they are at hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dcgan_eval.data.imageset import ImageSet


@pytest.fixture(autouse=True)
def _no_data_dir_from_outside(monkeypatch: pytest.MonkeyPatch, real_home: Path) -> None:
    """Keep the tests from finding data of the machine they run on."""
    monkeypatch.delenv("DCGAN_EVAL_DATA", raising=False)
    monkeypatch.setenv("HOME", str(real_home))


@pytest.fixture(scope="session")
def real_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty home folder."""
    return tmp_path_factory.mktemp("home")


class Forms:
    """Writers of an ImageSet in each form that the package reads."""

    @staticmethod
    def make(num_images: int = 60, num_classes: int = 3, seed: int = 0, size: int = 6, channels: int = 3) -> ImageSet:
        """Random images in classes of different sizes, all distinct."""
        random = np.random.default_rng(seed)
        pixels = random.integers(0, 256, (num_images, size, size, channels), dtype=np.uint8)
        labels = np.sort(np.arange(num_images) % (2 * num_classes - 1) % num_classes)
        names = tuple(f"class{label}" for label in range(num_classes))
        return ImageSet(pixels, labels, names, "toy", "train")

    @staticmethod
    def encode(image: np.ndarray, kind: str = "png") -> bytes:
        """Encode without loss."""
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze()).save(buffer, kind, **({"lossless": True} if kind == "webp" else {}))
        return buffer.getvalue()

    @classmethod
    def parquet(cls, images: ImageSet, folder: Path, shards: int = 2, column: str = "img", **options) -> list[Path]:
        """Write shards in the Hugging Face layout."""
        folder.mkdir(parents=True, exist_ok=True)
        encoded = [cls.encode(image, options.get("kind", "png")) for image in images.images]
        names = {"_type": "ClassLabel", "names": list(images.class_names)}
        metadata = {"huggingface": json.dumps({"info": {"features": {"label": names}}})}
        paths = []
        for index, rows in enumerate(np.array_split(np.arange(len(images)), shards)):
            cells = [{"bytes": encoded[row], "path": f"{row}.png"} for row in rows]
            columns = {column: pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
            if images.labels is not None:
                columns["label"] = pa.array(images.labels[rows])
            table = pa.table(columns)
            if options.get("names", True):
                table = table.replace_schema_metadata(metadata)
            paths.append(folder / f"{images.split}-{index:05d}-of-{shards:05d}.parquet")
            pq.write_table(table, paths[-1])
        return paths

    @classmethod
    def folders(cls, images: ImageSet, place: Path, kind: str = "png") -> None:
        """Write ``place/class/row.png``."""
        for row, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
            path = place / images.class_names[label] / f"{row:04d}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cls.encode(image, kind))


@pytest.fixture(scope="session")
def forms() -> type[Forms]:
    """Writers of an ImageSet in each form."""
    return Forms


@pytest.fixture
def toy() -> ImageSet:
    """Sixty distinct images in three classes of different sizes."""
    return Forms.make()
