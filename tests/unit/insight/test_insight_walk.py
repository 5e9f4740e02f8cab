"""A generator that looks images up is called sharp, a smooth one is not; paths are what geometry says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dcgan_eval.errors import DcganEvalError, RecordError, WeightsError
from dcgan_eval.insight.drawing import chosen_latents, from_uint8, load_pair, outside_prior, settled
from dcgan_eval.insight.finding import load_finding
from dcgan_eval.insight.walk import path_between, walk
from dcgan_eval.models.dcgan import grid_latents, sample_prior
from dcgan_eval.models.presets import get_preset

Z_DIM = 16


def anchors(seed: int = 0) -> Tensor:
    """Six walks through nine latent vectors."""
    return torch.rand(6, 9, Z_DIM, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def lookup(z_NZ: Tensor) -> Tensor:
    """Return the nearest of 50 stored images: pure memory."""
    stored = torch.Generator().manual_seed(1)
    keys_KZ = torch.rand(50, Z_DIM, generator=stored) * 2 - 1
    images_KCHW = torch.rand(50, 1, 8, 8, generator=stored) * 2 - 1
    return images_KCHW[torch.cdist(z_NZ, keys_KZ).argmin(1)]


def smooth(z_NZ: Tensor) -> Tensor:
    """Draw a blob whose place, size and brightness are linear in z."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8), indexing="ij")
    z = z_NZ[:, :, None, None]
    blob = torch.exp(-((x - z[:, 0]) ** 2 + (y - z[:, 1]) ** 2) * (2 + z[:, 2]))
    return (blob * (1 + z[:, 3] / 2) - 0.5)[:, None]


@pytest.mark.parametrize("path", ["linear", "great-circle"])
def test_memory_is_sharp_and_an_analytic_generator_is_not(path: str) -> None:
    memory, analytic = (walk(draw, anchors(), path=path).measured() for draw in (lookup, smooth))
    assert memory["sharp_walks_pixels"] == 6
    assert analytic["sharp_walks_pixels"] == 0
    assert memory["sharpness_pixels"] > 20 * analytic["sharpness_pixels"]
    assert memory["jump_pixels"] > 0.8 > 0.5 > analytic["jump_pixels"]
    assert memory["sharpness_shuffled_pixels"] < 5  # the control: in shuffled order no step stands out


def test_a_jump_hidden_from_pixels_is_found_in_features() -> None:
    def features(x_NCHW: Tensor) -> Tensor:
        return (x_NCHW.flatten(1).mean(1, keepdim=True) > -0.2).float()

    found = walk(smooth, anchors(), features=features)
    assert found.measured()["sharp_walks_features"] > 3
    assert found.measured()["sharp_walks_pixels"] == 0


def test_step_lengths_are_root_mean_squares() -> None:
    found = walk(lambda z: z[:, :1, None, None].expand(-1, 1, 2, 2), torch.tensor([[[0.0], [0.5], [-0.25]]]), steps=1)
    assert found.steps["pixels"].tolist() == [[0.5, 0.75]]
    assert found.images[0, :, 0, 0, 0].tolist() == [128, 191, 96]  # 127.5 (x + 1), rounded to even


def test_a_great_circle_is_the_known_one() -> None:
    points = path_between(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), 2, "great-circle")
    middle = [2 * np.sqrt(0.5)] * 2  # halfway round a right angle, length 2
    np.testing.assert_allclose(points, [[1, 0], middle, [0, 3]], atol=1e-6)
    straight = path_between(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 4, "great-circle")  # opposite: no circle
    np.testing.assert_allclose(straight[:, 0], [1, 0.5, 0, -0.5, -1], atol=1e-6)
    np.testing.assert_allclose(path_between(torch.tensor([[0.0], [1.0]]), 4)[:, 0], [0, 0.25, 0.5, 0.75, 1])


def test_a_settled_generator_draws_each_image_by_itself(pair: Path) -> None:
    G = load_pair(str(pair), None, torch.device("cpu")).G
    draw = settled(G, seed=0)
    z = sample_prior(G.preset, 9, torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(draw(z)[:1], draw(z[:1]), rtol=0, atol=1e-5)  # float32, another blocking
        alone = G.train().images(torch.cat([z[:1], z[:1] * 0.5]))  # by its minibatch: not the same image
        assert (alone[:1] - draw(z[:1])).abs().max() > 0.01
    assert torch.equal(settled(G, seed=0)(z), draw(z))


def test_images_come_back_from_bytes() -> None:
    x = from_uint8(np.array([[[[0], [255]]]], np.uint8), torch.device("cpu"))
    assert x.flatten().tolist() == [-1, 1]


def test_the_command_writes_picture_animation_and_finding(run, pair: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    line = ["walk", "--weights", pair, "--points", 2, "--rows", 2, "--steps", 4, "--every", 2, "--device", "cpu"]
    result = run(*line, "--out", "w.png", "--animate", "w.gif", "--json")
    assert result.exit_code == 0, result.output
    finding = load_finding(tmp_path / "w.json")
    assert json.loads(result.stdout)["digest"] == finding.digest
    assert finding.hashes.keys() == {"generator", "discriminator"}
    assert [shown.file for shown in finding.pictures] == ["w.png", "w.gif"]
    assert Image.open("w.png").size == (3 * 34, 2 * 34)
    assert Image.open("w.gif").n_frames > 1
    assert run(*line, "--out", "again.png").exit_code == 0
    assert load_finding(tmp_path / "again.json").measured == finding.measured
    (tmp_path / "w.json").write_text((tmp_path / "w.json").read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RecordError, match="was changed"):
        load_finding(tmp_path / "w.json")


def test_bad_input_is_a_sentence(run, pair: Path, conditional: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for words, message in (
        (("--weights", conditional), "needs labels"),
        (("--weights", "imagenet32-plus"), "no generator"),
        (("--weights", pair, "--out", "w.jpg"), "suffix"),
        (("--weights", pair, "--animate", "w.mp4"), "suffix"),
        (("--weights", pair, "--discriminator", "imagenet32-plus"), "one preset"),
        (("--weights", pair, "--device", "tpu"), "device"),
    ):
        result = run("walk", *words)
        assert result.exit_code == 2, (words, result.output)
        assert message in " ".join(result.stderr.split()), (words, result.stderr)
        assert not list(tmp_path.glob("w*"))


def test_latents_by_index_and_by_file(tmp_path: Path) -> None:
    preset = get_preset("svhn32")
    np.save(tmp_path / "z.npy", np.ones((2, 100), np.float32))
    (tmp_path / "z.json").write_text(json.dumps([[0.5] * 100]))
    (tmp_path / "nan.json").write_text("[[NaN" + ", 0" * 99 + "]]")
    np.save(tmp_path / "wide.npy", np.ones((2, 101)))
    np.save(tmp_path / "none.npy", np.ones((0, 100)))
    assert torch.equal(chosen_latents("3, 1", preset, 8, seed=5), grid_latents(preset, 8, seed=5)[[3, 1]])
    assert chosen_latents(str(tmp_path / "z.npy"), preset, 8, 0).shape == (2, 100)
    assert chosen_latents(str(tmp_path / "z.json"), preset, 8, 0).shape == (1, 100)
    for text, message in (
        ("8", "no such samples"),
        ("1,x", "cannot be read"),
        ("", "cannot be read"),
        (str(tmp_path / "nan.json"), "do not fit"),
        (str(tmp_path / "wide.npy"), "do not fit"),
        (str(tmp_path / "none.npy"), "do not fit"),
    ):
        with pytest.raises(DcganEvalError, match=message):
            chosen_latents(text, preset, 8, 0)


def test_outside_the_prior_is_counted() -> None:
    z = torch.tensor([[0.5, -1.5, 1.0, 4.0]])
    assert outside_prior(get_preset("imagenet32"), z) == {"share_outside_prior": 0.5, "largest_z": 4.0}
    assert outside_prior(get_preset("svhn32"), z)["share_outside_prior"] == 0.25


def test_a_discriminator_is_found_beside_its_generator(pair: Path) -> None:
    assert load_pair(str(pair), None, torch.device("cpu")).D is not None
    with pytest.raises(WeightsError, match="does not exist"):
        load_pair(str(pair), "nowhere.safetensors", torch.device("cpu"))


def test_samples_are_numbered_and_drawn_from_given_latents(run, pair: Path) -> None:  # type: ignore[no-untyped-def]
    z_NZ = grid_latents(get_preset("svhn32"), 128, seed=0)
    np.save("z.npy", z_NZ[:6].numpy())
    line = ["samples", "--weights", pair, "--columns", 4]
    assert run(*line, "--z", "z.npy", "--out", "given.png").exit_code == 0
    assert run(*line, "--rows", 32, "--out", "seeded.png").exit_code == 0
    given, seeded = (np.asarray(Image.open(name), int) for name in ("given.png", "seeded.png"))
    assert given.shape == (130, 262, 3)  # six images in two rows of four, the rest white
    assert (given[66:, 132:] == 255).all()
    # the same images but for the statistics: of these 128 there, of the prior here
    assert np.abs(given[:64] - seeded[:64]).mean() < 0.3 * np.abs(given[:64] - seeded[66:130]).mean()
    assert run(*line, "--rows", 32, "--numbered", "--out", "numbered.png").exit_code == 0
    numbered = np.asarray(Image.open("numbered.png"))
    assert (numbered[12:76, :64] == seeded[:64, :64]).all()  # the first image, below its number
    assert (numbered[:12, :20] < 255).any()
    np.save("narrow.npy", np.ones((2, 3)))
    result = run(*line, "--z", "narrow.npy")
    assert result.exit_code == 2
    assert "do not fit" in result.stderr
