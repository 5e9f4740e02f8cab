"""Images that differ in size, or are too many for memory: decoded when they are asked for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from .decoding import Encoded, Namer, Pixels, as_array, count_channels, decode, map_in_order
from .items import Spool

T = TypeVar("T")


class MixedImages:
    """A sequence of images of any sizes that keeps none of them in memory.

    Parameters
    ----------
    items : sequence
        Encoded images: bytes, paths, or what else :func:`~dcgan_eval.data.decoding.decode` takes.
    where : callable
        Maps a row to what its image is called in an error.
    num_channels : int, optional
        1 or 3; None looks at every image's header: 1 if all are grey. Grey ones are repeated to 3.

    Raises
    ------
    DataError
        If the header of an image cannot be read.

    Examples
    --------
    >>> images = MixedImages([Path("a.jpg"), Path("b.png")], str)  # doctest: +SKIP
    >>> images.resized(224, rows=[1]).shape  # doctest: +SKIP
    (1, 224, 224, 3)
    """

    def __init__(self, items: Sequence[bytes | Path | Encoded], where: Namer, num_channels: int | None = None):
        self._items, self._where = items, where
        channels = map_in_order(lambda row: count_channels(items[row], where(row)), 0 if num_channels else len(items))
        self.num_channels = num_channels or max(channels, default=1)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"MixedImages({len(self)} images of {self.num_channels} channels)"

    def __getitem__(self, rows: int | slice | npt.ArrayLike) -> Pixels | list[Pixels]:
        """Decode one image, uint8 (H, W, C), or a list of them.

        Raises
        ------
        DataError
            If an image cannot be decoded.
        """
        if isinstance(rows, int | np.integer):
            return self._decoded(range(len(self))[int(rows)])
        return list(self.each(lambda pixels: pixels, rows))

    def each(self, function: Callable[[Pixels], T], rows: slice | npt.ArrayLike | None = None) -> Iterator[T]:
        """Decode images a few at a time and yield what a function makes of each.

        Parameters
        ----------
        function : callable
            Takes uint8 (H, W, C); called from several threads.
        rows : slice or array of int, optional
            Which images, in which order; None means all.

        Yields
        ------
        object
            Result of the function for each row, in order.

        Raises
        ------
        DataError
            If an image cannot be decoded.
        """
        index = self._index(rows)
        yield from map_in_order(lambda position: function(self._decoded(int(index[position]))), len(index))

    def resized(self, size: int, rows: slice | npt.ArrayLike | None = None) -> Pixels:
        """Bring images to one size: shorter side to ``size``, centre square.

        Parameters
        ----------
        size : int
            Height and width of the result, pixels.
        rows : slice or array of int, optional
            Which images; None means all. The result is in memory: ask for blocks of a large set.

        Returns
        -------
        ndarray of uint8, (M, size, size, C)

        Source
        ------
        Pillow's bicubic filter with antialiasing; sides and crop are rounded as torchvision's Resize and CenterCrop do.
        """
        index = self._index(rows)
        squares = np.empty((len(index), size, size, self.num_channels), np.uint8)
        for position, square in enumerate(self.each(lambda pixels: to_square(pixels, size), index)):
            squares[position] = square
        return squares

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Height and width of each image, upright: (N, 2) int64; the first call decodes all images."""
        return self._known[0]

    @property
    def uniform(self) -> bool:
        """Whether all images have one size."""
        return bool((self.sizes == self.sizes[:1]).all())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image; height and width are 0 where images differ in size."""
        height, width = self.sizes[0] if self.uniform else (0, 0)
        return int(height), int(width), self.num_channels

    @property
    def pixel_hashes(self) -> npt.NDArray[np.bytes_]:
        """Identity of each image: (N,), dtype ``S64``; the first call decodes all images.

        For images of one size, SHA-256 of the pixel bytes in (H, W, C) order, as for arrays; else SHA-256 of the line
        ``HxWxC`` and that number, so that the same bytes in another shape are another image.
        """
        return self._known[1]

    def take(self, rows: npt.ArrayLike) -> MixedImages:
        """Return the images at ``rows``, in that order; sizes and hashes that are known are carried over."""
        index = self._index(rows)
        where = self._where
        taken = MixedImages([self._items[row] for row in index], lambda row: where(int(index[row])), self.num_channels)
        if "_known" in self.__dict__:
            taken.__dict__["_known"] = tuple(values[index] for values in self._known)
        return taken

    @cached_property
    def _known(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bytes_]]:
        """Sizes and hashes, from one pass over all images."""
        seen = list(self.each(lambda pixels: (pixels.shape[:2], hashlib.sha256(pixels.data).hexdigest())))
        sizes = np.array([shape for shape, _ in seen], np.int64).reshape(-1, 2)
        hashes = [digest for _, digest in seen]
        if not (sizes == sizes[:1]).all():
            titles = (f"{height}x{width}x{self.num_channels}\n" for height, width in sizes.tolist())
            hashes = [hashlib.sha256((t + h).encode()).hexdigest() for t, h in zip(titles, hashes, strict=True)]
        return sizes, np.array(hashes, "S64")

    def _index(self, rows: slice | npt.ArrayLike | None) -> npt.NDArray[np.int64]:
        """Turn rows into their numbers."""
        everything = np.arange(len(self))
        return everything if rows is None else everything[rows if isinstance(rows, slice) else np.asarray(rows)]

    def _decoded(self, row: int) -> Pixels:
        """Decode one image, with the set's channels."""
        pixels = decode(self._items[row], self._where(row))
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], self.num_channels)))


def to_square(pixels: Pixels, size: int) -> Pixels:
    """Resize the shorter side of an image (H, W, C) to ``size`` and cut out the centre: (size, size, C)."""
    height, width, channels = pixels.shape
    scaled = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    if min(height, width) != size:
        sides = (size, size * height // width) if width <= height else (size * width // height, size)
        scaled = scaled.resize(sides, Image.Resampling.BICUBIC)  # Pillow's filter widens with the scale: antialiased
    left, top = round((scaled.width - size) / 2), round((scaled.height - size) / 2)
    return as_array(scaled.crop((left, top, left + size, top + size)))


class Unit(Protocol):
    """A piece of a set of encoded images."""

    def __len__(self) -> int: ...

    def items(self) -> Sequence[bytes | Encoded]:
        """Read or open its images."""
        ...

    def paths(self) -> list[Path]:
        """Return the files on the disk that it is read from."""
        ...


def gather(units: Sequence[Unit], where: Namer, memory_bytes: int) -> Pixels | MixedImages:
    """Decode images into one array if they have one size and fit in memory, else leave them to be decoded later.

    Parameters
    ----------
    units : sequence of Unit
        The images, piece by piece; at least one.
    where : callable
        Maps a row to what its image is called in an error.
    memory_bytes : int
        The most that the array may take.

    Returns
    -------
    ndarray of uint8, (N, H, W, C), or MixedImages
        C is 1 if all are grey.

    Raises
    ------
    DataError
        If an image cannot be decoded.
    """
    images = _decoded_together(units, where, memory_bytes)
    if images is not None:
        return images
    spool = Spool()  # contents that are in memory go to the disk, so that any of them can be read again
    items = [spool.add(item) if isinstance(item, bytes) else item for unit in units for item in unit.items()]
    return MixedImages(items, where)


def _decoded_together(units: Sequence[Unit], where: Namer, memory_bytes: int) -> Pixels | None:
    """Decode all images into one array; None once one of them does not fit."""
    images, start, channels = None, 0, 1
    for unit in units:
        items = unit.items()
        if images is None:
            shape = (sum(map(len, units)), *decode(items[0], where(0)).shape[:2], 3)
            if math.prod(shape) > memory_bytes:
                return None
            images = np.empty(shape, np.uint8)
        for found in map_in_order(partial(_decode_into, images, start, items, where), len(items)):
            if not found:
                return None
            channels = max(channels, found)
        start += len(items)
    return images if images is None or channels == 3 else images[..., :1].copy()


def _decode_into(images: Pixels, start: int, items: Sequence[bytes | Encoded], where: Namer, position: int) -> int:
    """Decode an image to its place and return its channels; 0 if it has another size."""
    row = start + position
    pixels = decode(items[position], where(row))
    if pixels.shape[:2] != images.shape[1:3]:
        return 0
    images[row] = pixels  # broadcasts grey over three channels
    return pixels.shape[2]
