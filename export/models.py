"""Residual networks in plain torch: what the example trains, and what the benchmarks measure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3 × 3 convs with BatchNorm and a shortcut: [B, in, H, W] -> [B, out, ⌈H/stride⌉, ⌈W/stride⌉]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


class ResidualNet(nn.Module):
    """images [B, in, H, W] -> class scores [B, num_classes], or without classes the last stage's features.

    The stem is at stride 4 and is called `stem`; `layer1` keeps that stride, each later layer doubles it.
    """

    def __init__(
        self,
        stem: nn.Module,
        stem_channels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        num_classes: int,
    ):
        super().__init__()
        self.stem = stem
        channels, names = stem_channels, []
        for number, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            first = ResidualBlock(channels, width, stride=1 if number == 0 else 2)
            layer = nn.Sequential(first, *(ResidualBlock(width, width) for _ in range(count - 1)))
            self.add_module(f"layer{number + 1}", layer)
            names.append(f"layer{number + 1}")
            channels = width
        self.layers = tuple(names)
        self.pool = nn.AdaptiveAvgPool2d(1) if num_classes else nn.Identity()
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for name in self.layers:
            x = getattr(self, name)(x)
        x = self.pool(x)
        return self.fc(x.flatten(1) if isinstance(self.fc, nn.Linear) else x)


def small_resnet(
    widths: Sequence[int] = (32, 64, 128),
    blocks: Sequence[int] = (2, 2, 2),
    num_classes: int = 10,
    stem: int = 32,
    in_channels: int = 3,
    context: Sequence[int] = (),
) -> ResidualNet:
    """A network for small tasks: a stem of two stride-2 convs with `stem` channels, then one layer per width.

    `context` holds the dilations of further 3 × 3 convs that end the stem: a mask behind it then sees more of a
    position's surroundings, 8·dilation px more a conv.
    """
    convs = [*_conv(in_channels, stem // 2, stride=2), *_conv(stem // 2, stem, stride=2)]
    for dilation in context:
        convs += _conv(stem, stem, dilation=dilation)
    return ResidualNet(nn.Sequential(*convs), stem, widths, blocks, num_classes)


def _conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def resnet34_body(num_classes: int = 0, seed: int = 0) -> ResidualNet:
    """The shape of ResNet-34 with random weights, for timing: features [B, 512, H/32, W/32], or class scores.

    The weights depend on `seed` alone, and each residual branch is scaled down so that activations keep their
    size through all 16 blocks. torch's own random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        net = ResidualNet(stem, 64, (64, 128, 256, 512), (3, 4, 6, 3), num_classes)
        branches = [m for m in net.modules() if isinstance(m, ResidualBlock)]
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        for block in branches:
            nn.init.constant_(block.bn2.weight, len(branches) ** -0.5)
    return net.eval()
