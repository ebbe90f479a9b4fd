"""A small convolutional net with batch norm for 8x8 images."""

from __future__ import annotations

import collections

import torch


def digits_conv(width: int = 8, classes: int = 10) -> torch.nn.Module:
    """Two 3x3 convolutions with batch norm and ReLU, 8x8 -> 4x4, and a linear readout.

    Input (N, 1, 8, 8), output (N, classes).

    Args:
        width: channels of the first convolution; the second has twice as many.
        classes: number of classes.
    """

    def block(inputs: int, outputs: int, stride: int) -> torch.nn.Module:
        return torch.nn.Sequential(
            collections.OrderedDict(
                conv=torch.nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
                norm=torch.nn.BatchNorm2d(outputs),
                relu=torch.nn.ReLU(inplace=True),
            )
        )

    return torch.nn.Sequential(
        collections.OrderedDict(
            block1=block(1, width, 1),
            block2=block(width, 2 * width, 2),
            flatten=torch.nn.Flatten(),
            readout=torch.nn.Linear(32 * width, classes),
        )
    )
