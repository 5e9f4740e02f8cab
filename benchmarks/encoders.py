"""Encoders of other families, for comparison: ``--encoder benchmarks.encoders:untrained_vit``."""

from __future__ import annotations

from torch import nn
from torchvision.models import VisionTransformer


def untrained_vit() -> nn.Module:
    """Return a small vision transformer for 32x32 images: 8x8 patches of 4x4 pixels, six blocks of width 192."""
    return VisionTransformer(
        image_size=32, patch_size=4, num_layers=6, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=10
    )
