#!/usr/bin/env bash
# Build the image for a CPU and run the quickstart in it, without a network.
# TORCH_INDEX: package index that has torch's wheels for CPUs [default: the usual one, whose wheels bring CUDA along].
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' dcgan_eval/__init__.py)
docker build --build-arg TORCH_INDEX="${TORCH_INDEX:-}" --file docker/Dockerfile --tag "dcgan-eval:$version" .
docker run --rm --network none "dcgan-eval:$version" quickstart
