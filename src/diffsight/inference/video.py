"""Read films frame by frame, and write them. Only this module imports PyAV (extra ``video``).

Times are those of the file: a frame has a *timestamp*, a whole number of units of the film's time
base, so that a film with a variable frame rate keeps its times exactly.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from diffsight.datasets.files import check_size
from diffsight.errors import InputError, MissingExtraError
from diffsight.types import Picture

FILM_SUFFIXES = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
        *(".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
    )
)
INSTALL = "pip install 'diffsight[video]'"
DEFAULT_RATE = Fraction(25)  # of films that do not state their frame rate
DEFAULT_UNIT_S = Fraction(1, 90_000)
MPEG4_UNIT_S = Fraction(1, 60_000)  # the format allows 16 bits
SEGMENT_FORMAT = "nut"  # keeps timestamps exactly
# encoders of the overlay in the order of preference, with their options
ENCODERS = {
    "libx264": {"preset": "superfast", "crf": "20"},
    "libopenh264": {},
    "mpeg4": {"qmin": "2", "qmax": "5"},
}


class DamagedFilmError(InputError):
    """A film is damaged or cut off; the frames before the damage could be read."""


@dataclass(frozen=True)
class Frame:
    """One upright frame of a film.

    Attributes:
        image: RGB from 0 to 255.
        number: number of the frame; the first is 1.
        timestamp: time in units of ``Film.unit_s``.
        time_s: time in seconds, as the film states it.
    """

    image: UInt8[Tensor, "3 h w"]
    number: int
    timestamp: int
    time_s: float


def can_read_films() -> bool:
    """Return whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def is_film(path: Path) -> bool:
    """Return whether a file is a film, by its suffix."""
    return path.suffix.lower() in FILM_SUFFIXES


def read_frames(path: str | Path) -> Iterator[UInt8[Tensor, "3 h w"]]:
    """Yield the upright frames of a film, one after another.

    A few frames are in memory at a time. ``diffsight.pipeline`` accepts the result as a stream.

    Args:
        path: film in any format that PyAV reads.

    Raises:
        InputError: if PyAV is not installed, or the file is not a film. A ``DamagedFilmError`` is
            raised after the frames before the damage.
    """
    with Film(path) as film:
        for frame in film:
            yield frame.image


class Film:
    """A film that is read from its beginning, once.

    Args:
        path: film in any format that PyAV reads.

    Attributes:
        path: path of the film.
        unit_s: unit of timestamps in seconds (the time base).
        frame_rate: mean number of frames per second; None if the film does not state it.
        frame_count: number of frames that the film states; it may be wrong, and None is unknown.

    Raises:
        InputError: if PyAV is not installed, or the file is not a film.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        av = load_pyav()
        try:
            # an absolute path is never taken for a protocol, and a playlist reads no other host
            self._container = av.open(
                str(self.path.absolute()), options={"protocol_whitelist": "file"}
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = _reason(error)
            raise InputError(
                f"{self.path}: not a film that can be read, or its end is missing ({reason})"
            ) from None
        pictures = [
            one
            for one in self._container.streams.video
            if not one.disposition & av.stream.Disposition.attached_pic
        ]
        if not pictures:
            self._container.close()
            raise InputError(f"{self.path}: has no video stream: give a film or an image")
        self._stream = pictures[0]
        self._stream.thread_type = "AUTO"
        self.unit_s = self._stream.time_base or DEFAULT_UNIT_S
        self.frame_rate = self._stream.average_rate or self._stream.guessed_rate or None
        self.frame_count = self._stream.frames or self._count_from_duration()
        self._size: tuple[int, int] | None = None  # of the first frame, before it is turned
        self._pixel_aspect = Fraction(1)

    def __enter__(self) -> Self:
        """Return the film; it is closed when the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._container.close()

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a pixel of the upright frames, divided by its height; 1 before the first."""
        return self._pixel_aspect

    def __iter__(self) -> Iterator[Frame]:
        """Yield the upright frames in order.

        A frame of another size than the first is resized to that size.

        Raises:
            DamagedFilmError: after the last frame before the damage, or if there is no frame.
            InputError: if the size of the frames is not supported.
        """
        av = load_pyav()
        number, timestamp, time_s = 0, -1, 0.0
        step = max(1, round(1 / (self.unit_s * (self.frame_rate or DEFAULT_RATE))))
        try:
            for raw in self._decode():
                own = raw.pts if raw.pts is not None else timestamp + step
                timestamp = own if not number else max(own, timestamp + 1)
                time_s = float(timestamp * self.unit_s)
                image = self._to_image(raw)
                number += 1
                yield Frame(image, number, timestamp, time_s)
        except av.FFmpegError as error:
            raise self._damaged(number, time_s, _reason(error)) from None
        if not number:
            raise InputError(f"{self.path}: contains no frame: copy or download it again")
        if self._is_cut_off():
            raise self._damaged(number, time_s, "the end of the file is missing")

    def _decode(self) -> Iterator[Any]:
        """Yield frames of PyAV up to the first that is marked as damaged."""
        av = load_pyav()
        for packet in self._container.demux(self._stream):
            for raw in packet.decode():
                if raw.is_corrupt:
                    raise av.error.InvalidDataError(0, "a frame is damaged")
                yield raw

    def _to_image(self, raw: Any) -> UInt8[Tensor, "3 h w"]:
        if self._size is None:
            check_size(self.path, raw.width, raw.height)
            self._size = (raw.width, raw.height)
            aspect = self._stream.sample_aspect_ratio or Fraction(1)
            self._pixel_aspect = 1 / aspect if _orientation(raw)[0] else aspect
        pixels = raw.to_ndarray(format="rgb24", width=self._size[0], height=self._size[1])
        is_transposed, flips_rows, flips_columns = _orientation(raw)
        if is_transposed:
            pixels = pixels.swapaxes(0, 1)
        pixels = pixels[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def _count_from_duration(self) -> int | None:
        duration = self._stream.duration
        if not duration or not self.frame_rate:
            return None
        return round(duration * self.unit_s * self.frame_rate)

    def _is_cut_off(self) -> bool:
        """Return whether the index of the file names frames beyond its end."""
        size = self._container.size
        return 0 < size < max((one.pos + one.size for one in self._stream.index_entries), default=0)

    def _damaged(self, number: int, time_s: float, reason: str) -> InputError:
        if not number:
            return InputError(f"{self.path}: damaged from its first frame on ({reason})")
        return DamagedFilmError(
            f"{self.path}: damaged after frame {number} at {time_s:.2f} s ({reason}): the frames "
            "up to there are used"
        )


class FilmWriter:
    """Writes pictures as a film: H.264 if PyAV was built with an encoder for it, else MPEG-4.

    The file is complete when the block of the context manager ends. Files that are written with the
    same arguments can be joined by ``join_films``.

    Args:
        path: file to write, in the format NUT.
        hw: height and width of the pictures in pixels.
        unit_s: unit of timestamps in seconds.
        frame_rate: mean number of frames per second.
        pixel_aspect: width of a pixel divided by its height.
    """

    def __init__(
        self,
        path: Path,
        hw: tuple[int, int],
        unit_s: Fraction,
        frame_rate: Fraction | None = None,
        pixel_aspect: Fraction = Fraction(1),
    ) -> None:
        av = load_pyav()
        name = find_encoder()
        self._container = av.open(str(path), "w", format=SEGMENT_FORMAT)
        rate = (frame_rate or DEFAULT_RATE).limit_denominator(1001)
        self._stream = self._container.add_stream(name, rate=rate, options=ENCODERS[name])
        context = self._stream.codec_context
        context.height, context.width = hw
        # H.264 halves the resolution of colours only for even sizes
        is_odd = name != "mpeg4" and any(side % 2 for side in hw)
        context.pix_fmt = self._format = "yuv444p" if is_odd else "yuv420p"
        context.max_b_frames = 0  # so that joined films have increasing times
        context.sample_aspect_ratio = pixel_aspect
        self._matrix = "itu601"
        if name != "mpeg4":  # which cannot store how colours are encoded
            self._matrix = "itu709"
            context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
            context.color_range = 1  # limited, the usual one
        self._path = path
        self._given_unit_s = self._unit_s = unit_s
        if name == "mpeg4" and unit_s.denominator >= 2**16:
            self._unit_s = MPEG4_UNIT_S
        context.time_base = self._unit_s

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Finish the file; after an error it is only closed."""
        try:
            if kind is None:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()

    def add(self, picture: Picture, timestamp: int) -> None:
        """Append a picture.

        Args:
            picture: RGB picture of the size of the film.
            timestamp: time in units of ``unit_s``, greater than that of the previous picture.

        Raises:
            InputError: if the picture cannot be encoded or written.
        """
        av = load_pyav()
        pixels = np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy())
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format=self._format, dst_colorspace=self._matrix)
        frame.pts = round(timestamp * self._given_unit_s / self._unit_s)
        frame.time_base = self._unit_s
        try:
            self._container.mux(self._stream.encode(frame))
        except av.FFmpegError as error:
            reason = _reason(error)
            raise InputError(f"{self._path}: the film cannot be written ({reason})") from error


def join_films(parts: Sequence[Path], path: Path) -> None:
    """Write films of ``FilmWriter`` one after another to an MP4 file, without encoding them again.

    Args:
        parts: films with the same arguments; their timestamps increase from part to part.
        path: file to write.
    """
    av = load_pyav()
    options = {"movflags": "+faststart"}  # a browser can play it while it is loaded
    with av.open(str(path), "w", format="mp4", options=options) as joined:
        stream = None
        for part in parts:
            with av.open(str(part)) as film:
                source = film.streams.video[0]
                if stream is None:
                    stream = joined.add_stream_from_template(source)
                for packet in film.demux(source):
                    if packet.size:  # the last packet is an empty one
                        packet.dts = packet.pts  # frames are stored in the order of their times
                        packet.stream = stream
                        joined.mux(packet)


def find_encoder() -> str:
    """Return the name of the encoder for films that are written.

    Raises:
        InputError: if PyAV is not installed, or was built without all of them.
    """
    av = load_pyav()
    for name in ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except ValueError:  # PyAV's error for an unknown codec is one
            continue
        return name
    raise InputError("PyAV cannot write H.264 or MPEG-4: install it with `pip install av`")


def load_pyav() -> Any:
    """Return the module ``av``.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError(f"av is not installed: {INSTALL}") from None
    return av


def _orientation(raw: Any) -> tuple[bool, bool, bool]:
    """Return how a frame of PyAV is turned upright.

    Returns:
        Whether rows and columns are exchanged, and whether rows and columns are then reversed. They
        come from the display matrix of the file, which maps (x, y) to (a x + c y, b x + d y).
    """
    data = raw.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), dtype=np.int32).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def _reason(error: Exception) -> str:
    """Return the reason of an error of PyAV without its number and the name of the function."""
    return str(getattr(error, "strerror", None) or error).lower()
