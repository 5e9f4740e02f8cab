#!/usr/bin/env bash
# The first hour with images, an encoder and numbers of one's own, offline: first-hour.sh [FOLDER]
set -euo pipefail
mkdir -p "${1:-first-hour}"
cd "${1:-first-hour}"
export DCGAN_EVAL_CACHE="$PWD/cache"

echo "== 400 images of many sizes in Imagenette's layout: pieces of two photographs, digits, and waves"
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
        width, height = draw.integers(40, 120, 2)
        make(48).convert("RGB").resize((width, height)).save(path)
PY
dcgan-eval data check images

echo "== an encoder of one's own: a checkpoint of MoCo, its tensors named as MoCo names them"
python - <<'PY'
import torch
import torchvision

torch.manual_seed(0)
network = torchvision.models.resnet18(num_classes=128)
torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in network.state_dict().items()}}, "moco.pth")
PY
moco=(--arch torchvision:resnet18 --checkpoint moco.pth --image-size 64 --pool avg1 --normalise imagenet)
dcgan-eval svm images "${moco[@]}" --layer 'layer[34]' --record records/moco.json

echo "== the bundled network beside it"
dcgan-eval svm images --image-size 32 --layer conv6 --record records/dcgan.json
dcgan-eval compare records/moco.json records/dcgan.json

echo "== features made elsewhere: here the mean and the spread of each channel"
python - <<'PY'
from pathlib import Path

import numpy as np
from PIL import Image

for split in ("train", "test"):
    files = sorted(Path("images", split).rglob("*.png"))
    pixels = [np.asarray(Image.open(file)) / 255 for file in files]
    features = [np.concatenate([image.mean((0, 1)), image.std((0, 1))]) for image in pixels]
    np.savez(f"{split}.npz", features=np.float32(features), labels=[file.parent.name for file in files])
PY
dcgan-eval svm own --features train.npz test.npz --record records/given.json

echo "== every record can be verified"
dcgan-eval list records
dcgan-eval report records --out report.html
dcgan-eval verify records/moco.json "${moco[@]}"
dcgan-eval verify records/dcgan.json --image-size 32
dcgan-eval verify records/given.json --features train.npz test.npz

echo "== a gate for this encoder: it closes on a damaged checkpoint"
cat >mine.toml <<'TOML'
[[run]]
name = "moco"
protocol = "images"
arch = "torchvision:resnet18"
checkpoint = "moco.pth"
layer = ["layer3", "layer4"]
image-size = 64
pool = "avg1"
normalise = "imagenet"

[run.bands]
score = 2.5   # percentage points
time = inf    # this script shares its processor with others
TOML
dcgan-eval regress --suite mine.toml --update
cp moco.pth good.pth
python - <<'PY'
import torch

checkpoint = torch.load("moco.pth", weights_only=True)
checkpoint["state_dict"]["module.encoder_q.bn1.weight"].zero_()  # nothing of the image passes
torch.save(checkpoint, "moco.pth")
PY
code=0
dcgan-eval regress --suite mine.toml || code=$?
test "$code" = 1 || { echo "the damage was not noticed: exit code $code" >&2; exit 1; }
mv good.pth moco.pth
dcgan-eval regress --suite mine.toml

echo "== what all of this left in the cache"
dcgan-eval cache list
