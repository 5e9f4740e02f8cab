"""Weights on disk: what is written is read back, and nothing foreign is."""

from __future__ import annotations

import json
import pickle
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dcgan_eval.errors import WeightsError
from dcgan_eval.files import sha256_of
from dcgan_eval.models.bundled import bundled_dir, bundled_networks, read_manifest, resolve
from dcgan_eval.models.dcgan import build
from dcgan_eval.models.presets import get_preset
from dcgan_eval.models.weights import load_network, read_card, save_network


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "d.safetensors"
    save_network(build(get_preset("svhn32"), seed=0)[0], path, card={"seen_images": 7})
    return path


def test_round_trip(saved: Path) -> None:
    D = load_network(saved)
    expected = build(get_preset("svhn32"), seed=0)[0].state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in D.state_dict().items())
    assert not D.training
    assert read_card(saved)["card"] == {"seen_images": 7}


def test_half_precision_keeps_batch_norm_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    D = build(get_preset("svhn32"), seed=0)[0]
    save_network(D, path, half=True)
    tensors = load_file(path)
    assert tensors["conv2.conv.weight"].dtype == torch.float16
    assert tensors["conv2.norm.running_var"].dtype == torch.float32
    # float16 keeps 11 significant bits
    read = load_network(path).conv2.conv.weight
    assert torch.allclose(read, D.conv2.conv.weight, rtol=2**-10, atol=1e-7)


def test_a_pickle_is_named_and_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return (Path.touch, (tmp_path / "exploded",))

    for name, data in (("plain.pkl", pickle.dumps(Bomb())), ("torch.pt", b"PK\x03\x04rest")):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(WeightsError, match="pickle"):
            load_network(path)
    assert not (tmp_path / "exploded").exists()


def test_truncated_file(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="no complete safetensors"):
        load_network(saved)


def test_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="no discriminator of this toolkit"):
        load_network(path)


def test_generator_offered_as_discriminator(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    save_network(build(get_preset("svhn32"), seed=0)[1], path)
    with pytest.raises(WeightsError, match="holds no discriminator"):
        load_network(path)


def test_nan_weights(tmp_path: Path) -> None:
    D = build(get_preset("svhn32"), seed=0)[0]
    with torch.no_grad():
        D.conv2.conv.weight[0, 0, 0, 0] = float("nan")
    path = tmp_path / "nan.safetensors"
    save_network(D, path)
    with pytest.raises(WeightsError, match=r"not finite, first in 'conv2\.conv\.weight'"):
        load_network(path)


def test_tensor_of_another_shape(tmp_path: Path, saved: Path) -> None:
    tensors = load_file(saved)
    tensors["conv1.conv.weight"] = tensors["conv1.conv.weight"][:, :1].contiguous()
    header = {"format": "dcgan-eval-weights-1", "preset": "svhn32", "network": "discriminator"}
    save_file(tensors, tmp_path / "bad.safetensors", metadata=header)
    with pytest.raises(WeightsError, match=r"conv1\.conv\.weight.*Got: shape \(64, 1, 5, 5\)"):
        load_network(tmp_path / "bad.safetensors")


def test_failed_writing_keeps_what_was_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dcgan_eval.files.os.replace", full)
    with pytest.raises(WeightsError, match="cannot be written"):
        save_network(build(get_preset("svhn32"), seed=1)[0], saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.glob("*.partial*")) == []


def test_unknown_name_and_missing_file() -> None:
    with pytest.raises(WeightsError, match="no bundled weights named 'imagenet'"):
        resolve("imagenet")
    with pytest.raises(WeightsError, match="does not exist"):
        resolve("no/such/file.safetensors")


def test_manifest_lists_exactly_what_is_bundled() -> None:
    manifest = read_manifest()
    listed = {"manifest.json"}
    for name, entry in manifest["weights"].items():
        assert "discriminator" in bundled_networks(name)
        for kind in bundled_networks(name):
            path = bundled_dir() / entry[kind]["file"]
            assert sha256_of(path) == entry[kind]["sha256"]
            assert path.stat().st_size == entry[kind]["size_bytes"]
            assert resolve(name, kind) == path
            assert load_network(path, kind).preset.name == entry["preset"]
            listed.add(path.name)
        listed |= set(entry["files"])
    assert {p.name for p in bundled_dir().iterdir() if not p.name.startswith((".", "__"))} == listed
    assert manifest["default"] in manifest["weights"]
    json.dumps(manifest)


def test_what_only_a_checkout_holds_is_named_by_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path
    (installed / "manifest.json").write_bytes((bundled_dir() / "manifest.json").read_bytes())
    monkeypatch.setattr("dcgan_eval.models.bundled.bundled_dir", lambda: installed)
    with pytest.raises(WeightsError, match=r"pretrained/faces64\.generator\.safetensors of a checkout"):
        resolve("faces64", "generator")
    with pytest.raises(WeightsError, match="reinstall"):  # one that every installation has
        resolve("mnist28_keras")


def test_the_wheel_leaves_out_what_the_manifest_says() -> None:
    settings = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    excluded = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["exclude"]
    only = [name for name, entry in read_manifest()["weights"].items() if entry.get("checkout_only")]
    assert excluded == [f"/pretrained/{name}.*" for name in only]


def test_the_default_generator_is_one_that_every_installation_has() -> None:
    assert resolve(None, "generator").name == "imagenet32-contrad.generator.safetensors"


def test_any_changed_bit_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    places = np.random.default_rng(0).integers(0, 8 * len(content), 30).tolist()
    places += np.random.default_rng(1).integers(64, 8 * length, 300).tolist()  # the header: card, names, shapes
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        saved.write_bytes(damaged)
        with pytest.raises(WeightsError):
            load_network(saved)
    saved.write_bytes(content)
    load_network(saved)


def test_weights_of_before_the_digest_still_load(saved: Path, tmp_path: Path) -> None:
    header = {"format": "dcgan-eval-weights-1", "preset": "svhn32", "network": "discriminator", "card": "{}"}
    save_file(load_file(saved), tmp_path / "old.safetensors", metadata=header)
    assert load_network(tmp_path / "old.safetensors").preset.name == "svhn32"
    save_file(load_file(saved), tmp_path / "bare.safetensors", metadata=header | {"format": "dcgan-eval-weights-2"})
    with pytest.raises(WeightsError, match="no digest"):
        load_network(tmp_path / "bare.safetensors")


@pytest.mark.parametrize("field", ["card", "width", "num_layers", "preset"])
@pytest.mark.parametrize("value", ["", "[1]", '"x"', "7.5", "-3", "\u0664", "[" * 100_000, "{", "0"])
def test_headers_of_wrong_types_are_sentences(saved: Path, tmp_path: Path, field: str, value: str) -> None:
    header = {"format": "dcgan-eval-weights-1", "preset": "svhn32", "network": "discriminator", field: value}
    save_file(load_file(saved), tmp_path / "odd.safetensors", metadata=header)
    with pytest.raises(WeightsError):
        (read_card if field == "card" else load_network)(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("kind", ["discriminator", "generator"])
def test_the_width_is_in_the_file(tmp_path: Path, kind: str) -> None:
    narrow = get_preset("dcgan64", 8)
    network = dict(zip(("discriminator", "generator"), build(narrow, seed=0), strict=True))[kind]
    save_network(network, tmp_path / "n.safetensors")
    found = load_network(tmp_path / "n.safetensors", kind)
    assert found.preset == narrow
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in network.state_dict().items())
    assert read_card(tmp_path / "n.safetensors")["width"] == "8"


@pytest.mark.parametrize(
    "damage",
    [
        "[]",
        "null",
        "{}",
        '{"default": "a", "weights": []}',
        '{"default": "a", "weights": {"a": 3}}',
        '{"default": "a", "weights": {"a": {"discriminator": {"file": 1, "sha256": "", "size_bytes": 0}}}}',
        '{"default": ["a"], "weights": {}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_manifest_is_a_sentence(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcgan_eval.models.bundled.bundled_dir", lambda: tmp_path)
    (tmp_path / "manifest.json").write_text(damage)
    with pytest.raises(WeightsError, match="manifest"):
        read_manifest()
