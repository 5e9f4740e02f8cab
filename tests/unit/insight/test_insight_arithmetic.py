"""Attributes that are linear in z come out exactly; a generator that hides them does not turn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dcgan_eval.insight.arithmetic import arithmetic, combine, neighbourhood, turn
from dcgan_eval.insight.finding import load_finding

Z_DIM = 12
MAN, WOMAN, GLASSES, ANGLE = torch.eye(4)  # attributes of the planted generator, in this order


def _planted() -> tuple[Tensor, Tensor]:
    """Return a matrix from z to four attributes and its right inverse."""
    A = torch.linalg.qr(torch.randn(Z_DIM, 4, generator=torch.Generator().manual_seed(3)))[0].T
    return A, A.T


READ, WRITE = _planted()


def linear(z_NZ: Tensor) -> Tensor:
    """Draw attribute i as the brightness of pixel i: linear in z."""
    return (z_NZ @ READ.T).reshape(-1, 1, 2, 2)


def scrambled(z_NZ: Tensor) -> Tensor:
    """Draw a picture that a small step of z changes altogether."""
    return torch.sin(200 * (z_NZ @ READ.T)).reshape(-1, 1, 2, 2)


def exemplars(attributes: Tensor, count: int, seed: int) -> Tensor:
    """Return latent vectors that show some attributes exactly, and differ in everything else."""
    other = torch.randn(count, Z_DIM, generator=torch.Generator().manual_seed(seed))
    return (WRITE @ attributes) + other - other @ READ.T @ WRITE.T


def concepts(count: int = 3) -> list[tuple[int, Tensor]]:
    """Man with glasses - man + woman."""
    return [
        (1, exemplars(MAN + GLASSES, count, 1)),
        (-1, exemplars(MAN, count, 2)),
        (1, exemplars(WOMAN, count, 3)),
    ]


def test_linear_attributes_are_exactly_what_was_asked_for() -> None:
    found = arithmetic(linear, concepts())
    torch.testing.assert_close(linear(found.z)[4].flatten(), WOMAN + GLASSES, atol=1e-5, rtol=0)  # float32 sums
    assert found.one_left_out < 1e-5
    assert found.single < 1e-5


def test_a_picture_that_hangs_on_its_exemplars_is_called_unstable() -> None:
    draw = torch.Generator().manual_seed(5)
    noisy = [(sign, z + 0.1 * torch.randn(z.shape, generator=draw)) for sign, z in concepts()]
    assert arithmetic(scrambled, noisy).single > 0.6 > 0.3 > arithmetic(linear, noisy).single
    stable = arithmetic(linear, noisy)
    assert stable.one_left_out < stable.single  # means of two move less than single exemplars


def test_the_sum_by_hand() -> None:
    terms = [(1, torch.tensor([[1.0, 0.0], [3.0, 0.0]])), (-1, torch.tensor([[0.0, 1.0]])), (1, torch.ones(4, 2))]
    assert combine(terms).tolist() == [3, 0]


def test_the_result_is_in_the_middle_of_its_neighbours() -> None:
    z_NZ = neighbourhood(torch.arange(4.0), seed=0)
    assert torch.equal(z_NZ[4], torch.arange(4.0))
    others = torch.cat([z_NZ[:4], z_NZ[5:]]) - torch.arange(4.0)
    assert 0.15 < float(others.abs().max()) <= 0.25


def test_a_turn_goes_forward_where_the_attribute_is_linear_and_nowhere_else() -> None:
    left, right = exemplars(ANGLE, 4, 1), exemplars(-ANGLE, 4, 2)
    samples = torch.randn(20, Z_DIM, generator=torch.Generator().manual_seed(4))
    found = turn(linear, left, right, samples, steps=5)
    assert found.forward == 1
    assert 0.2 < found.forward_random < 0.8
    angles = linear(found.z.flatten(0, 1)).flatten(1)[:, 3].unflatten(0, (20, 5))
    steps = torch.full((20, 4), 1.0)  # the turn is 2 long in the attribute, from -1 to 1 times that in four steps
    torch.testing.assert_close(angles.diff(dim=1), steps, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.z[:, 2], samples)
    assert 0.2 < turn(scrambled, left, right, samples, steps=5).forward < 0.8


def test_the_commands_draw_and_record(run, pair: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ["--plus", "0,1,2", "--minus", "3,4,5", "--plus", "6,7", "--samples", 16, "--weights", pair]
    result = run("arithmetic", *words, "--out", "a.png", "--json")
    assert result.exit_code == 0, result.output
    assert "unstable" in result.stderr  # two exemplars of the last concept
    finding = load_finding(tmp_path / "a.json")
    assert json.loads(result.stdout)["measured"] == finding.measured
    assert finding.settings["terms"] == ["+ 0,1,2", "- 3,4,5", "+ 6,7"]
    assert Image.open("a.png").width > 64
    result = run("turn", "--left", "0,1,2,3", "--right", "4,5,6,7", "--weights", pair, "--rows", 2, "--out", "t.png")
    assert result.exit_code == 0, result.output
    assert load_finding(tmp_path / "t.json").number == "steps_forward"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("arithmetic", "--plus", "0,1,200"), "no such samples"),
        (("arithmetic", "--plus", "z.npy"), "do not fit"),
        (("arithmetic",), "--plus"),
        (("turn", "--left", "0,1,128", "--right", "1"), "no such samples"),
        (("turn", "--left", "0,1", "--right", "1", "--steps", "4"), "odd"),
        (("turn", "--left", "0,1", "--right", "0,1"), "nowhere to turn"),
    ],
)
def test_bad_input_is_a_sentence(run, pair: Path, words: tuple[str, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    np.save("z.npy", np.zeros((3, 99)))
    result = run(*words, "--weights", pair, "--out", "x.png")
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not Path("x.png").exists()


def test_a_generator_that_needs_labels_is_refused(run, conditional: Path) -> None:  # type: ignore[no-untyped-def]
    for words in (("arithmetic", "--plus", "0,1,2"), ("turn", "--left", "0", "--right", "1")):
        result = run(*words, "--weights", conditional)
        assert result.exit_code == 2
        assert "needs labels" in " ".join(result.stderr.split())
