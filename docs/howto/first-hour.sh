#!/usr/bin/env bash
# The first hour with images, an encoder and numbers of one's own, offline: first-hour.sh [FOLDER]
set -euo pipefail
mkdir -p "${1:-first-hour}"
cd "${1:-first-hour}"
export DCGAN_EVAL_CACHE="$PWD/cache" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

echo "== 400 images in Imagenette's layout: pieces of two photographs, digits, and waves"
python - <<'PY'
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

draw = np.random.default_rng(0)
china, flower = load_sample_images().images
digits = load_digits().images


def piece(photograph, side):
    y, x = (draw.integers(0, length - 2 * side) for length in photograph.shape[:2])
    return Image.fromarray(photograph[y : y + 2 * side, x : x + 2 * side])


def waves(side):
    y, x = np.mgrid[:side, :side] / draw.uniform(2, 9, (2, 1, 1))
    return Image.fromarray((127 + 120 * np.sin(x + y)[..., None] * draw.uniform(0.3, 1, 3)).astype(np.uint8))


kinds = {
    "n01": lambda side: piece(china, side),
    "n02": lambda side: piece(flower, side),
    "n03": lambda side: Image.fromarray((digits[draw.integers(len(digits))] * 15).astype(np.uint8)),
    "n04": waves,
}
for name, make in kinds.items():
    for number in range(100):
        split = "train" if number < 70 else "test"
        path = Path("images", split, name, f"{number:03d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        make(48).convert("RGB").resize((64, 64)).save(path)
PY
dcgan-eval data check images

echo "== an encoder of one's own: a checkpoint of MoCo, its tensors named as MoCo names them"
cat >mine.py <<'PY'
import torch
import torchvision


def moco():
    network = torchvision.models.resnet18(num_classes=128)
    tensors = torch.load("moco.pth", weights_only=True)["state_dict"]
    network.load_state_dict({key.removeprefix("module.encoder_q."): value for key, value in tensors.items()})
    return network
PY
python - <<'PY'
import torch
import torchvision

torch.manual_seed(0)
network = torchvision.models.resnet18(num_classes=128)
torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in network.state_dict().items()}}, "moco.pth")
PY
dcgan-eval svm images --encoder mine:moco --layer 'layer[34]' --pool avg1 --normalise imagenet --record records/moco.json
dcgan-eval baseline pixels images --record records/pixels.json
dcgan-eval compare records/moco.json records/pixels.json

echo "== every record can be verified"
dcgan-eval list records
dcgan-eval report records --out report.html
dcgan-eval verify records/pixels.json
dcgan-eval verify records/moco.json --encoder mine:moco --pool avg1 --normalise imagenet
