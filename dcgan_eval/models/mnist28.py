"""Three pairs for 28x28 digits that are no ladders: the paper's conditional one and two that others made popular.

Outside, all images are in [-1, 1], as everywhere in this package: the conditional generator, which ends in a sigmoid s,
returns 2 s - 1, and its discriminator maps images back to [0, 1] before it looks at them.

Labels ride along: the conditional discriminator takes :func:`~dcgan_eval.models.networks.with_planes` of images and
one-hot labels, the conditional generator takes latent vectors with the one-hot label appended and passes the label's
planes on beside the image. So whoever trains a pair sees only x and z.

Source: as each class says. Deviations: every D ends in a linear unit without bias, as the family does; the two
re-implementations give theirs one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, max_pool2d, pad

from .networks import (
    BATCH_NORM_EPS,
    LEAKY_SLOPE,
    ConvRung,
    DeconvRung,
    Discriminator,
    Generator,
    initialise,
    with_planes,
)
from .presets import Preset

KERAS_EPS = 1e-3  # of batch norm; Keras' default
DROPOUT = 0.25
_SEED_SIDE = 7  # side of the map that a generator begins with: 7, 14, 28


class ConditionalDiscriminator(Discriminator):
    """The paper's discriminator of digits and their labels, which reach every layer.

    Convolutions 64 and 128 (5x5, stride 2), 1,024 units, one linear unit; batch norm on all but the first and the last.

    Source: arXiv:1511.06434, supplement; the script released in 2016. Deviations: batch norm has gain and bias, as in
    the rest of the family; that script gives it none.
    """

    def __init__(self, preset: Preset):
        super().__init__(preset)
        classes = preset.num_classes
        first, second = preset.conv_channels
        self.conv1 = ConvRung(preset.image_channels + classes, first, 2, 5, normalise=False)
        self.conv2 = ConvRung(first + classes, second, 2, 5, normalise=True)
        self.trunk_width = second * _SEED_SIDE**2
        self.fc = nn.Linear(self.trunk_width + classes, 1024, bias=False)
        self.fc_norm = nn.BatchNorm1d(1024, eps=BATCH_NORM_EPS)
        self.linear: nn.Linear = nn.Linear(1024 + classes, 1, bias=False)
        self.apply(initialise)

    def trunk(self, x_NCHW: Tensor) -> Tensor:
        """Return maps (N, 128, 7, 7) for images in [-1, 1] followed by the planes of their labels."""
        image_NCHW, y_NK = self._parted(x_NCHW)
        h_NCHW = self.conv1(with_planes((image_NCHW + 1) / 2, y_NK))  # (N, 64, 14, 14)
        return self.conv2(with_planes(h_NCHW, y_NK))  # (N, 128, 7, 7)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the logit of "real", (N,), for images in [-1, 1] followed by the planes of their labels."""
        y_NK = self._parted(x_NCHW)[1]
        h_NU = torch.cat([self.trunk(x_NCHW).flatten(1), y_NK], 1)  # (N, 6272 + 10)
        h_NU = leaky_relu(self.fc_norm(self.fc(h_NU)), LEAKY_SLOPE)  # (N, 1024)
        return self.linear(torch.cat([h_NU, y_NK], 1)).squeeze(1)

    def _parted(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and one-hot labels."""
        channels = self.preset.image_channels
        return x_NCHW[:, :channels], x_NCHW[:, channels:, 0, 0]


class ConditionalGenerator(Generator):
    """The paper's generator of digits of a given class; the label reaches every layer.

    1,024 units, 128x7x7 units, fractionally strided convolutions 64 and 1 (5x5), sigmoid; batch norm
    on all but the last.

    Source: arXiv:1511.06434, supplement; the script released in 2016. Deviations: batch norm has gain and bias, as in
    the rest of the family; that script gives it none.
    """

    def __init__(self, preset: Preset):
        super().__init__(preset)
        classes = preset.num_classes
        first, second = preset.conv_channels
        width = second * _SEED_SIDE**2
        self.fc1 = nn.Linear(preset.z_dim + classes, 1024, bias=False)
        self.fc1_norm = nn.BatchNorm1d(1024, eps=BATCH_NORM_EPS)
        self.fc2 = nn.Linear(1024 + classes, width, bias=False)
        self.fc2_norm = nn.BatchNorm1d(width, eps=BATCH_NORM_EPS)
        self.deconv1 = DeconvRung(second + classes, first, 2, 5, last=False)
        self.deconv2 = nn.ConvTranspose2d(first + classes, preset.image_channels, 5, 2, 2, output_padding=1, bias=False)
        self.apply(initialise)

    def forward(self, z_NZ: Tensor) -> Tensor:
        """Return images in (-1, 1) followed by the planes of their labels, (N, 1 + 10, 28, 28), for z (N, 100 + 10)."""
        y_NK = z_NZ[:, self.preset.z_dim :]
        h_NU = torch.relu(self.fc1_norm(self.fc1(z_NZ)))  # (N, 1024)
        h_NU = torch.relu(self.fc2_norm(self.fc2(torch.cat([h_NU, y_NK], 1))))  # (N, 6272)
        h_NCHW = h_NU.unflatten(1, (-1, _SEED_SIDE, _SEED_SIDE))
        h_NCHW = self.deconv1(with_planes(h_NCHW, y_NK))  # (N, 64, 14, 14)
        s_NCHW = torch.sigmoid(self.deconv2(with_planes(h_NCHW, y_NK)))  # (N, 1, 28, 28)
        return with_planes(2 * s_NCHW - 1, y_NK)


class KerasConv(nn.Module):
    """Convolution padded as Keras pads "same", zero pad (0, 1), batch norm, LeakyReLU and dropout.

    With stride 2 Keras pads right and bottom more than left and top: (0, 1) for a 3x3 kernel on an even side, (1, 1) on
    an odd one.

    Parameters
    ----------
    in_channels, out_channels, stride : int
        Geometry, 3x3; (H, W) becomes (ceil(H / stride), ceil(W / stride)).
    normalise : bool
        Whether batch norm follows.
    extra : bool
        Whether a row and a column of zeros are added at bottom and right, before batch norm.
    """

    KERNEL = 3

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, normalise: bool, extra: bool = False):
        super().__init__()
        self.extra = extra
        self.conv = nn.Conv2d(in_channels, out_channels, self.KERNEL, stride)
        self.norm = keras_norm(out_channels, 0.8) if normalise else None
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, h_NCHW: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride)), plus the extra row."""
        height, width = h_NCHW.shape[2:]
        h_NCHW = self.conv(pad(h_NCHW, (*self._padding(width), *self._padding(height))))
        if self.extra:
            h_NCHW = pad(h_NCHW, (0, 1, 0, 1))
        if self.norm is not None:
            h_NCHW = self.norm(h_NCHW)
        return self.dropout(leaky_relu(h_NCHW, LEAKY_SLOPE))

    def _padding(self, side: int) -> tuple[int, int]:
        """Return zeros before and after a side."""
        stride = self.conv.stride[0]
        total = max(0, (-(-side // stride) - 1) * stride + self.KERNEL - side)
        return total // 2, total - total // 2


class KerasDiscriminator(Discriminator):
    """Convolutions 32, 64, 128 (stride 2) and 256 (stride 1), 3x3, each with dropout; 28, 14, 7 padded to 8, 4, 4.

    Source: a popular Keras re-implementation of DCGAN. Deviations: no bias of the linear unit.
    """

    def __init__(self, preset: Preset):
        super().__init__(preset)
        inputs = (preset.image_channels, *preset.conv_channels)
        for i, name in enumerate(self.layer_names):
            stride = 2 if i < 3 else 1
            block = KerasConv(inputs[i], inputs[i + 1], stride, normalise=i > 0, extra=i == 1)
            self.add_module(name, block)
        self.trunk_width = inputs[-1] * 4 * 4
        self.linear = nn.Linear(self.trunk_width, 1, bias=False)
        self.apply(initialise_as_keras)


class KerasGenerator(Generator):
    """128x7x7 units with ReLU, then twice: nearest upsampling, 3x3 convolution (128, 64), batch norm, ReLU; tanh.

    Source: a popular Keras re-implementation of DCGAN. Deviations: none.
    """

    def __init__(self, preset: Preset):
        super().__init__(preset)
        self.project = nn.Linear(preset.z_dim, 128 * _SEED_SIDE**2)
        self.conv1 = nn.Conv2d(128, 128, 3, padding=1)
        self.norm1 = keras_norm(128, 0.8)
        self.conv2 = nn.Conv2d(128, 64, 3, padding=1)
        self.norm2 = keras_norm(64, 0.8)
        self.conv3 = nn.Conv2d(64, preset.image_channels, 3, padding=1)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.apply(initialise_as_keras)

    def forward(self, z_NZ: Tensor) -> Tensor:
        """Return images (N, 1, 28, 28) in (-1, 1) for latent vectors (N, 100)."""
        h_NCHW = torch.relu(self.project(z_NZ)).unflatten(1, (-1, _SEED_SIDE, _SEED_SIDE))  # (N, 128, 7, 7)
        h_NCHW = torch.relu(self.norm1(self.conv1(self.upsample(h_NCHW))))  # (N, 128, 14, 14)
        h_NCHW = torch.relu(self.norm2(self.conv2(self.upsample(h_NCHW))))  # (N, 64, 28, 28)
        return torch.tanh(self.conv3(h_NCHW))  # (N, 1, 28, 28)


class TanhDiscriminator(Discriminator):
    """Convolutions 64 ("same") and 128 ("valid"), 5x5, tanh and max-pooling after each; 1,024 tanh units, one linear.

    Features tap what stands before the max-pooling: 28x28 and 10x10.

    Source: a popular tutorial, against the paper's guidelines on purpose. Deviations: no bias of the linear unit.
    """

    def __init__(self, preset: Preset):
        super().__init__(preset)
        first, second = preset.conv_channels
        self.conv1 = nn.Sequential(nn.Conv2d(preset.image_channels, first, 5, padding=2), nn.Tanh())
        self.conv2 = nn.Sequential(nn.Conv2d(first, second, 5), nn.Tanh())
        self.trunk_width = second * 10 * 10
        self.fc = nn.Linear(second * 5 * 5, 1024)
        self.linear: nn.Linear = nn.Linear(1024, 1, bias=False)
        self.apply(initialise_as_keras)

    def trunk(self, x_NCHW: Tensor) -> Tensor:
        """Return maps (N, 128, 10, 10) for images (N, 1, 28, 28) in [-1, 1]."""
        return self.conv2(max_pool2d(self.conv1(x_NCHW), 2))  # (N, 64, 14, 14) -> (N, 128, 10, 10)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the logit of "real", (N,), for images (N, 1, 28, 28) in [-1, 1]."""
        h_NU = max_pool2d(self.trunk(x_NCHW), 2).flatten(1)  # (N, 3200)
        return self.linear(torch.tanh(self.fc(h_NU))).squeeze(1)  # (N, 1024) -> (N,)


class TanhGenerator(Generator):
    """1,024 tanh units, 128x7x7 with batch norm, tanh; then twice nearest upsampling, 5x5 convolution (64, 1), tanh.

    Source: a popular tutorial, against the paper's guidelines on purpose. Deviations: none.
    """

    def __init__(self, preset: Preset):
        super().__init__(preset)
        width = 128 * _SEED_SIDE**2
        self.fc1 = nn.Linear(preset.z_dim, 1024)
        self.fc2 = nn.Linear(1024, width)
        self.fc2_norm = keras_norm(width, 0.99, flat=True)
        self.conv1 = nn.Conv2d(128, 64, 5, padding=2)
        self.conv2 = nn.Conv2d(64, preset.image_channels, 5, padding=2)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.apply(initialise_as_keras)

    def forward(self, z_NZ: Tensor) -> Tensor:
        """Return images (N, 1, 28, 28) in (-1, 1) for latent vectors (N, 100)."""
        h_NU = torch.tanh(self.fc1(z_NZ))
        h_NU = torch.tanh(self.fc2_norm(self.fc2(h_NU)))
        h_NCHW = self.upsample(h_NU.unflatten(1, (-1, _SEED_SIDE, _SEED_SIDE)))  # (N, 128, 14, 14)
        h_NCHW = self.upsample(torch.tanh(self.conv1(h_NCHW)))  # (N, 64, 28, 28)
        return torch.tanh(self.conv2(h_NCHW))


def keras_norm(channels: int, momentum: float, *, flat: bool = False) -> nn.BatchNorm1d | nn.BatchNorm2d:
    """Return batch norm with Keras' epsilon; its momentum is the share of the old average, torch's that of the new."""
    return (nn.BatchNorm1d if flat else nn.BatchNorm2d)(channels, eps=KERAS_EPS, momentum=1 - momentum)


def initialise_as_keras(module: nn.Module) -> None:
    """Draw weights by Glorot's uniform rule and set biases to 0: Keras' defaults; batch norm begins with 1 and 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


MNIST28_NETWORKS: dict[str, tuple[type[Discriminator], type[Generator]]] = {
    "mnist28_cond": (ConditionalDiscriminator, ConditionalGenerator),
    "mnist28_keras": (KerasDiscriminator, KerasGenerator),
    "mnist28_tanh": (TanhDiscriminator, TanhGenerator),
}
