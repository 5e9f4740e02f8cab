"""The maps that draw a planted object are found and dropped, and nothing else is; senseless boxes are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dcgan_eval.errors import DcganEvalError
from dcgan_eval.files import sha256_of
from dcgan_eval.insight.finding import load_finding
from dcgan_eval.insight.forget import cells_inside, forget
from dcgan_eval.models.presets import get_preset

NUM_OBJECT, NUM_BACKGROUND, NUM_TEXTURE = 6, 10, 16
NUM_MAPS = NUM_OBJECT + NUM_BACKGROUND + NUM_TEXTURE
SIDE = 16  # of the maps; the object is a square of 6 x 6 positions, 12 x 12 pixels


class Planted(nn.Module):
    """Maps of an object (drawn red), of the rest of the image (green), and textures that lie anywhere (blue)."""

    def __init__(self) -> None:
        super().__init__()
        self.preset = get_preset("svhn32")
        noise = torch.randn(100, NUM_MAPS * SIDE * SIDE, generator=torch.Generator().manual_seed(1))
        self.register_buffer("noise", noise / 10)
        self.last_but_one, self.last = (
            nn.Conv2d(NUM_MAPS, NUM_MAPS, 1, bias=False),
            nn.Conv2d(NUM_MAPS, 3, 1, bias=False),
        )
        self.last_but_one.weight.data = torch.eye(NUM_MAPS)[:, :, None, None]
        self.last.weight.data.zero_()
        for channel, maps in enumerate(torch.arange(NUM_MAPS).split([NUM_OBJECT, NUM_BACKGROUND, NUM_TEXTURE])):
            self.last.weight.data[channel, maps] = 0.05

    def corner(self, z_NZ: Tensor) -> Tensor:
        """Row and column of the object's first position, (N, 2)."""
        return ((z_NZ[:, :2] + 1) / 2 * 9).long()

    def images(self, z_NZ: Tensor) -> Tensor:
        h_NKHW = (z_NZ @ self.noise).unflatten(1, (NUM_MAPS, SIDE, SIDE))
        for h_KHW, (row, column) in zip(h_NKHW, self.corner(z_NZ), strict=True):
            inside = torch.zeros(SIDE, SIDE)
            inside[row : row + 6, column : column + 6] = 1
            h_KHW[:NUM_OBJECT] += 2 * inside - 1
            h_KHW[NUM_OBJECT : NUM_OBJECT + NUM_BACKGROUND] += 1 - 2 * inside
        h_NKHW = self.last_but_one(torch.relu(h_NKHW))
        return self.last(h_NKHW.repeat_interleave(2, 2).repeat_interleave(2, 3))


def planted(count: int = 30) -> tuple[Planted, Tensor, np.ndarray]:
    """Return the generator, latent vectors, and the boxes of the object."""
    G, z_NZ = Planted(), torch.rand(count, 100, generator=torch.Generator().manual_seed(2)) * 2 - 1
    boxes = [(i, 2 * column, 2 * row, 2 * column + 12, 2 * row + 12) for i, (row, column) in enumerate(G.corner(z_NZ))]
    return G, z_NZ, np.array(boxes)


def test_the_maps_of_the_object_are_found_and_nothing_else() -> None:
    G, z_NZ, boxes = planted()
    found = forget(G, z_NZ, boxes)  # type: ignore[arg-type]  # a generator as far as this goes
    truth = set(range(NUM_OBJECT))
    hit = len(truth & set(found.dropped.tolist()))
    assert hit / len(found.dropped) >= 0.9
    assert hit / len(truth) >= 0.9
    assert found.num_maps == NUM_MAPS
    assert found.accuracy > 0.9
    assert found.ratio > 3 > found.ratio_random
    assert found.rows == 30 * 2 * 36
    assert (found.without[..., 0] == 128).all()  # no red: 0 in [-1, 1]
    assert (found.without[..., 1:] == found.images[..., 1:]).all()
    assert (
        found.images == ((G.images(z_NZ) + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).detach().numpy()
    ).all()


def test_accuracy_is_that_of_images_which_were_not_fitted() -> None:
    """One box lies on the object and one beside it: each fit is wrong about the other image, whatever it fits."""
    G, z_NZ, boxes = planted(2)
    beside = np.where(boxes[1, 1:3] <= 8, boxes[1, 1:3] + 12, boxes[1, 1:3] - 12)
    boxes[1, 1:] = [*beside, *(beside + 12)]
    assert forget(G, z_NZ, boxes).accuracy < 0.5  # type: ignore[arg-type]


def test_one_image_is_not_enough() -> None:
    G, z_NZ, boxes = planted()
    with pytest.raises(DcganEvalError, match="one image"):
        forget(G, z_NZ, boxes[:1])  # type: ignore[arg-type]
    everything = np.array([[0, 0, 0, 32, 32], [1, 0, 0, 5, 5]])
    with pytest.raises(DcganEvalError, match="nothing outside"):
        forget(G, z_NZ, everything)  # type: ignore[arg-type]


def test_positions_in_boxes_by_hand() -> None:
    preset = get_preset("svhn32")
    boxes = np.array([[4, 8, 8, 10], [31, 31, 32, 32], [5, 20, 6, 21]])  # x0, y0, x1, y1; maps of half the side
    inside = cells_inside(boxes, preset, (16, 16))
    assert sorted(zip(*(axis.tolist() for axis in np.nonzero(inside)), strict=True)) == [
        (4, 2),
        (4, 3),
        (10, 2),
        (15, 15),
    ]
    assert cells_inside(boxes[:1], preset, (32, 32)).sum() == 4 * 2


@pytest.fixture
def boxes(pair: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write boxes as the page does, with anything changed."""

    def write(rows: object, **others: object) -> Path:
        path = tmp_path / "boxes.json"
        path.write_text(json.dumps({"generator": sha256_of(pair), "seed": 0, "samples": 150, "boxes": rows, **others}))
        return path

    return write


def test_the_command_draws_and_records(run, pair: Path, boxes: Callable[..., Path]) -> None:  # type: ignore[no-untyped-def]
    path = boxes([[i, 8, 4, 22, 28] for i in range(20)])
    result = run("forget", "--boxes", path, "--weights", pair, "--out", "f.png", "--json")
    assert result.exit_code == 0, result.output
    finding = load_finding(Path("f.json"))
    assert json.loads(result.stdout)["measured"] == finding.measured
    assert finding.value == finding.measured["inside_over_outside"]
    assert finding.measured["maps"] == 128  # of svhn32's 256, 128 and 64
    assert finding.measured["positions"] == 20 * 2 * 3 * 6  # middles at 2, 6, 10, ... in 8 to 21 and 4 to 27
    assert finding.hashes["boxes"] == sha256_of(path)
    assert Image.open("f.png").width > 12 * 64


def test_the_page_names_its_samples(run, pair: Path) -> None:  # type: ignore[no-untyped-def]
    result = run("forget", "--annotate", "--weights", pair, "--samples", 20, "--seed", 7)
    assert result.exit_code == 0, result.output
    text = Path("boxes.html").read_text()
    assert sha256_of(pair) in text
    assert '"seed": 7' in text


BOX = [3, 1, 2, 10, 12]


@pytest.mark.parametrize(
    ("rows", "others", "message"),
    [
        ([], {}, "There are no boxes"),
        ([[150, 1, 2, 10, 12]], {}, "no such samples"),
        ([[-1, 1, 2, 10, 12]], {}, "no such samples"),
        ([[3, 1, 2, 33, 12]], {}, "outside its image"),
        ([[3, -1, 2, 10, 12]], {}, "outside its image"),
        ([[3, 10, 2, 10, 12]], {}, "is empty"),
        ([[3, 1.5, 2, 10, 12]], {}, "another form"),
        ([[3, 1, 2, 10]], {}, "another form"),
        ([BOX, [3, 1]], {}, "cannot be read"),
        ("x", {}, "another form"),
        (None, {}, "another form"),
        ([[3, 2**70, 2, 10, 12]], {}, "another form"),
        ([BOX], {"seed": 1}, "other samples"),
        ([BOX], {"generator": "0" * 64}, "other samples"),
    ],
)
def test_bad_boxes_are_a_sentence(  # type: ignore[no-untyped-def]
    run, pair: Path, boxes: Callable[..., Path], rows: object, others: dict[str, object], message: str
) -> None:
    result = run("forget", "--boxes", boxes(rows, **others), "--weights", pair, "--out", "x.png")
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not Path("x.png").exists()


def test_other_bad_input_is_a_sentence(run, pair: Path, conditional: Path, boxes: Callable[..., Path]) -> None:  # type: ignore[no-untyped-def]
    given = ("--boxes", boxes([BOX]))
    for words, message in (
        (("--weights", pair), "one of --annotate and --boxes"),
        (("--weights", pair, "--annotate", *given), "one of --annotate and --boxes"),
        (("--weights", conditional, *given), "needs labels"),
        (("--weights", pair.with_name("discriminator.safetensors"), *given), "holds no generator"),
        (("--weights", "imagenet32-plus", *given), "generator"),
        (("--weights", pair, "--boxes", "none.json"), "cannot be read"),
        (("--weights", pair, "--annotate", "--out", "boxes.png"), ".html"),
        (("--weights", pair, *given, "--out", "f.html"), ".png"),
    ):
        result = run("forget", *words)
        assert result.exit_code == 2, (words, result.output)
        assert message in " ".join(result.stderr.split()), (words, result.stderr)
