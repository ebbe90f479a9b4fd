"""Folders of images that are read anew in every epoch, batch by batch, by worker processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from backroads.data.augment import Augment
from backroads.data.check import UnreadableImages
from backroads.data.decode import Decoder, Reading, decode
from backroads.data.memory import Normalise
from backroads.data.parts import Arrays, Files
from backroads.data.source import Batches, IndexedSource
from backroads.errors import DataError

READ_AT_ONCE = 256  # images, where a folder is read as a whole


class StreamSource(IndexedSource):
    """Images that are decoded when they are needed.

    Random resized crops are cut from the file's own pixels, in the workers; all else is done on the device, as for
    images in memory.

    Args:
        files: where they are. reading: how they are read for evaluation. normalise: made for ``device``.
        augment: how training images are varied. device: where batches go. workers: processes that decode.
        unreadable: counts what cannot be read.
    """

    def __init__(
        self,
        files: Files,
        reading: Reading,
        normalise: Normalise,
        augment: Augment,
        device: torch.device,
        workers: int,
        unreadable: UnreadableImages,
    ) -> None:
        self.files, self.reading, self.normalise, self.augment = files, reading, normalise, augment
        self.device, self.workers, self.unreadable = device, workers, unreadable
        self.corrupt = unreadable.reasons

    def __len__(self) -> int:
        return len(self.files.y)

    def _varied(self, picks: Tensor, positions: Tensor, seed: int, epoch: int) -> Batches:
        reading = dataclasses.replace(self.reading, zoom=(seed, epoch)) if self.augment.resized else self.reading
        rest = dataclasses.replace(self.augment, resized=False)
        decoder = Decoder(self.files, picks, reading, positions)
        for step, (pixels, kept, bad) in enumerate(decode(decoder, self.workers, self._pin)):
            self._count(bad)
            if not len(kept):
                raise DataError(
                    f"none of the {picks.shape[1]} images of a batch can be read, such as {bad[0][0]} ({bad[0][1]}); "
                    "mend or remove them"
                )
            draws = rest.draw(seed, epoch, positions[step][kept], self.reading.size).to(self.device)
            yield draws.apply(self._normalised(pixels)), self._labels(picks[step][kept])

    def _plain(self, picks: Sequence[Tensor]) -> Batches:
        decoder = Decoder(self.files, picks, self.reading)
        for batch, (pixels, kept, bad) in zip(picks, decode(decoder, self.workers, self._pin), strict=True):
            self._count(bad)
            if len(kept):
                yield self._normalised(pixels), self._labels(batch[kept])

    @property
    def _pin(self) -> bool:
        return self.device.type == "cuda"

    def _count(self, bad: list[tuple[str, str]]) -> None:
        for path, reason in bad:
            self.unreadable.add(path, reason)

    def _normalised(self, pixels: Tensor) -> Tensor:
        return self.normalise(pixels.to(self.device, non_blocking=True))

    def _labels(self, picks: Tensor) -> Tensor:
        return self.files.y[picks].to(self.device)


def read_all(files: Files, reading: Reading, grey: bool, workers: int, unreadable: UnreadableImages) -> Arrays:
    """All images of a split at once; those that cannot be read are left out, with their labels.

    Args:
        grey: whether one channel is expected to do; it is three as soon as an image has colour.

    Raises:
        DataError: when too many cannot be read.
    """
    picks = torch.arange(len(files.y)).split(READ_AT_ONCE)
    x = torch.empty((len(files.y), 1 if grey else 3, *reading.size), dtype=torch.uint8)
    labels: list[Tensor] = []
    done = 0
    for batch, (pixels, kept, bad) in zip(picks, decode(Decoder(files, picks, reading), workers), strict=True):
        for path, reason in bad:
            unreadable.add(path, reason)
        if pixels.shape[1] > x.shape[1]:
            x = x.repeat(1, 3, 1, 1)
        x[done : done + len(kept)] = pixels
        done += len(kept)
        labels.append(files.y[batch[kept]])
    return Arrays(x[:done], torch.cat(labels))
