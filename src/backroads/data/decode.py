"""Decode image files, in this process or in workers. Files that cannot be read are reported, not raised."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor

from backroads.data.augment import boxes, uniforms
from backroads.data.parts import Files
from backroads.extras import extra_named

if TYPE_CHECKING:
    from PIL.Image import Image

THINNEST = 1000  # of an image's sides: resized to its shorter one, a thinner image could fill the memory
# Images (N, C, H, W) uint8, their indices (N,) int64 in the batch, and (path, reason) of those that cannot be read.
Decoded = tuple[Tensor, Tensor, list[tuple[str, str]]]

# What is read, whatever a file is called: pillow would start another program, Ghostscript, for PostScript.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")


def pillow() -> ModuleType:
    """``PIL.Image``; raises MissingDependencyError."""
    with extra_named("reading images"):
        import PIL.Image
    return PIL.Image


def open_image(path: str) -> Image:
    """The image in a file, its pixels not yet read; raises what pillow does, or ValueError.

    Pillow itself refuses images of more than 179 million pixels.
    """
    image: Image = pillow().open(path, formats=FORMATS)
    if max(image.size) > THINNEST * min(image.size):
        image.close()
        raise ValueError(f"its sides, {image.width} x {image.height}, differ more than {THINNEST} times")
    return image


def is_deep(image: Image) -> bool:
    """Whether an image has more than 8 bits a channel."""
    return image.mode == "F" or image.mode.startswith("I")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        size: (H, W) of the result.
        resize: whether images of another size are resized; they count as unreadable otherwise.
        margin: the shorter side is resized to this multiple of the result's, before the middle is cut out.
        rgb: whether there are always three channels; otherwise a batch that is all grey has one.
        zoom: (seed, epoch) of random resized crops, which replace the middle; None for no such crops.
    """

    size: tuple[int, int]
    resize: bool
    margin: float = 1.0
    rgb: bool = True
    zoom: tuple[int, int] | None = None

    def __call__(self, path: str, u: Tensor | None) -> NDArray[np.uint8]:
        """Pixels, (H, W) of a grey image or (H, W, 3); ``u``: random numbers to crop by, (1, COLUMNS), or None."""
        with open_image(path) as image:
            if is_deep(image):
                raise ValueError("more than 8 bits a channel")
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")  # pillow warns of a direct conversion to RGB
            image = image.convert("L" if image.mode in ("1", "L") and not self.rgb else "RGB")
            if u is not None:
                top, left, h, w = boxes(u, image.height, image.width)[0].tolist()
                image = _resized(image.crop((left, top, left + w, top + h)), self.size)
            elif self.resize:
                image = self._middle(image)
            elif (image.height, image.width) != self.size:
                raise ValueError(
                    f"its size is {image.height} x {image.width} and not {self.size[0]} x {self.size[1]} like the "
                    "others'; give image_size to resize all"
                )
            return np.array(image)

    def _middle(self, image: Image) -> Image:
        h, w = self.size
        shorter, longer = round(self.margin * min(h, w)), max(image.size) / min(image.size)
        tall = image.height > image.width
        image = _resized(image, (int(shorter * longer), shorter) if tall else (shorter, int(shorter * longer)))
        top, left = round((image.height - h) / 2), round((image.width - w) / 2)
        return image.crop((left, top, left + w, top + h))


def _resized(image: Image, size: tuple[int, int]) -> Image:
    return image.resize((size[1], size[0]), pillow().Resampling.BILINEAR)


class Decoder(torch.utils.data.Dataset[Decoded]):
    """Batches of decoded images.

    Args:
        files: where the images are.
        picks: for each batch the indices of its images, (N,) int64.
        reading: how they are read.
        positions: (batches, N) of the images in the epoch, for random crops.
    """

    def __init__(
        self, files: Files, picks: Sequence[Tensor] | Tensor, reading: Reading, positions: Tensor | None = None
    ) -> None:
        self.files, self.reading = files, reading
        self.picks, self.positions = picks, positions

    def __len__(self) -> int:
        return len(self.picks)

    def __getitem__(self, number: int) -> Decoded:
        u = None
        if self.reading.zoom is not None and self.positions is not None:
            u = uniforms(*self.reading.zoom, self.positions[number])
        images: list[NDArray[np.uint8]] = []
        kept: list[int] = []
        bad: list[tuple[str, str]] = []
        for place, index in enumerate(self.picks[number].tolist()):
            path = self.files.path(index)
            try:
                images.append(self.reading(path, None if u is None else u[place : place + 1]))
            except MemoryError:
                raise
            except Exception as error:  # decoders raise nearly anything for broken files
                bad.append((path, f"{type(error).__name__}: {error}"))
            else:
                kept.append(place)
        return _stack(images, self.reading), torch.tensor(kept, dtype=torch.int64), bad


def _stack(images: list[NDArray[np.uint8]], reading: Reading) -> Tensor:
    if not images:
        return torch.empty((0, 3 if reading.rgb else 1, *reading.size), dtype=torch.uint8)
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2) for image in images]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return torch.from_numpy(np.stack(images))[:, None]


def decode(decoder: Decoder, workers: int, pin: bool = False) -> Iterator[Decoded]:
    """All batches of a decoder, in order, read ahead by so many worker processes (0: by this process).

    With ``pin``, they are in page-locked memory, which is copied to a GPU faster.
    """
    loader: torch.utils.data.DataLoader[Decoded] = torch.utils.data.DataLoader(
        decoder,
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_ignore_interrupts,
        pin_memory=pin,
        generator=torch.Generator(),  # torch's global generator must not be advanced
    )
    yield from loader


def _unchanged(decoded: Any) -> Any:
    return decoded


def _ignore_interrupts(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches workers, too; their parent stops them
