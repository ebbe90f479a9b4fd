"""Folders of images that are decoded in every epoch, batch by batch, by worker processes."""

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
from backroads.data.source import Batches, Source
from backroads.errors import DataError

READ_AT_ONCE = 256  # images in a batch, where a folder is read as a whole


class StreamSource(Source):
    """Images that are decoded when they are needed.

    Random resized crops are cut from the file's own pixels, by the workers; all else is done on the device, as for
    images in memory.

    Args:
        files: where the images are.
        normalise: made for ``device``.
        augment: how training images are varied.
        device: where batches go.
        reading: how they are read for evaluation.
        workers: number of processes that decode.
        unreadable: counts the images that cannot be read.
    """

    def __init__(
        self,
        files: Files,
        normalise: Normalise,
        augment: Augment,
        device: torch.device,
        *,
        reading: Reading,
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
        for step, (x, kept) in enumerate(self._decoded(decoder)):
            if not len(kept):
                raise DataError(
                    f"none of the {picks.shape[1]} images of a batch can be read, such as "
                    f"{self.files.path(int(picks[step][0]))}; mend or remove them"
                )
            draws = rest.draw(seed, epoch, positions[step][kept], self.reading.size, picks[step][kept]).to(self.device)
            yield draws.apply(x), self.files.y[picks[step][kept]].to(self.device)

    def _plain(self, picks: Sequence[Tensor]) -> Batches:
        for batch, (x, kept) in zip(picks, self._decoded(Decoder(self.files, picks, self.reading)), strict=True):
            if len(kept):
                yield x, self.files.y[batch[kept]].to(self.device)

    def _decoded(self, decoder: Decoder) -> Batches:
        """Normalised images of each batch, and their indices in it; the others are counted."""
        for pixels, kept, bad in decode(decoder, self.workers, pin=self.device.type == "cuda"):
            self.unreadable.add(bad)
            yield self.normalise(pixels.to(self.device, non_blocking=True)), kept


def read_all(files: Files, reading: Reading, grey: bool, workers: int, unreadable: UnreadableImages) -> Arrays:
    """Decode all images of a split; those that cannot be read are left out, with their labels.

    ``grey`` says whether one channel is expected; there are three as soon as an image has colour. Raises DataError if
    too many images cannot be read.
    """
    picks = torch.arange(len(files.y)).split(READ_AT_ONCE)
    x = torch.empty((len(files.y), 1 if grey else 3, *reading.size), dtype=torch.uint8)
    labels: list[Tensor] = []
    done = 0
    for batch, (pixels, kept, bad) in zip(picks, decode(Decoder(files, picks, reading), workers), strict=True):
        unreadable.add(bad)
        if pixels.shape[1] > x.shape[1]:
            x = x.repeat(1, 3, 1, 1)
        x[done : done + len(kept)] = pixels
        done += len(kept)
        labels.append(files.y[batch[kept]])
    return Arrays(x[:done], torch.cat(labels))
