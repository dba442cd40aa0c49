"""Videos and cameras, frame by frame, by PyAV (the extra ``video``)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from kseg.errors import KsegError, first_line
from kseg.evaluation.sources import CAMERA, Source
from kseg.lazy import import_extra


class VideoReader:
    """The frames of a video or camera, upright as viewers show them.

    Attributes:
        path: of the file or device.
        total: frames, 0 where the file does not say.
        rate: frames a second, on average.
        time_base: seconds of one unit of a frame's time.

    Raises:
        KsegError: PyAV is not installed, or the file is missing, damaged or has no video.
    """

    def __init__(self, source: Source) -> None:
        self.path = source.path
        self._av = import_extra("av", "video", source.path)
        device = source.name == CAMERA and not source.path.suffix
        with self._errors():
            self._container = self._av.open(str(source.path), format="v4l2" if device else None)
        if not self._container.streams.video:
            self._container.close()
            raise KsegError(f"{source.path}: has no video; name a file that has")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.total: int = self._stream.frames
        self.rate = Fraction(self._stream.average_rate or 25)
        self.time_base: Fraction = self._stream.time_base

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        """(H, W, 3) uint8 RGB and the time of each frame, in units of ``time_base``, rising."""
        frames = self._container.decode(self._stream)
        time: int | None = None
        with contextlib.closing(self._container):
            while True:
                with self._errors():
                    frame = next(frames, None)
                if frame is None:
                    return
                # Degrees counterclockwise, as rot90 counts.
                image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                # AVI has no times: frames that were stored in another order than they are shown
                # in have guessed ones. Its unit is a frame.
                least = (frame.pts or 0) if time is None else time + 1
                time = least if frame.pts is None else max(frame.pts, least)
                yield np.ascontiguousarray(image), time

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (self._av.error.FFmpegError, OSError) as error:
            raise KsegError(
                f"{self.path}: not a readable video ({first_line(error)}); name another file"
            ) from error


class VideoWriter:
    """Writes frames of one size with the times of a reader's.

    Args:
        path: .mp4 is H.264 for viewers: a row or column is repeated where a side is odd;
            .mkv is FFV1 with one channel and keeps every value.
        reader: whose rate and times it takes.
    """

    def __init__(self, path: Path, reader: VideoReader) -> None:
        self._av = import_extra("av", "video", path)
        self._source = reader.path
        self._lossless = path.suffix == ".mkv"
        self._container = self._av.open(str(path), "w")
        codec = "ffv1" if self._lossless else "libx264"
        self._stream = self._container.add_stream(codec, rate=reader.rate)
        self._stream.pix_fmt = "gray" if self._lossless else "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = reader.time_base
        self._shape: tuple[int, ...] | None = None

    def write(self, picture: np.ndarray, time: int) -> None:
        """Adds (H, W, 3) uint8 RGB to .mp4, or (H, W) uint8 to .mkv.

        Raises:
            KsegError: a frame of another size than the first, or one that cannot be encoded.
        """
        if not self._lossless:
            odd = [(0, side % 2) for side in picture.shape[:2]]
            picture = np.pad(picture, [*odd, (0, 0)], mode="edge")
        if self._shape is None:
            self._shape = picture.shape
            self._stream.height, self._stream.width = picture.shape[:2]
        if picture.shape != self._shape:
            raise KsegError(
                f"{self._source}: its frames change from {self._shape[:2]} to {picture.shape[:2]} "
                "(H, W); cut the video there"
            )
        kind = "gray" if self._lossless else "rgb24"
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=kind)
        frame.pts = time
        frame.time_base = self._stream.codec_context.time_base
        with self._errors():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Ends the file.

        Raises:
            KsegError: a frame that cannot be encoded.
        """
        with self._errors():
            self._container.mux(self._stream.encode(None))
            self._container.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # of the disk, which atomic_write tells of
            raise
        except self._av.error.FFmpegError as error:
            raise KsegError(
                f"{self._source}: cannot be written as a video ({error.strerror}); convert it to "
                "an .mp4 of a constant frame rate first"
            ) from error
