"""Films in files: colours that are easy to check, other codecs, times, turns and damage."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

UNIT_S = Fraction(1, 12_800)  # 512 units are a frame at 25 frames per second


def write_film(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    turn: tuple[Any, ...] | None = None,
    options: dict[str, str] | None = None,
    pixel_aspect: Fraction = Fraction(1),
) -> Path:
    """Write frames ``h w 3`` as a film of 25 frames per second; return its path.

    Args:
        path: file to write, in the format of its suffix.
        frames: RGB frames of one size.
        codec: encoder; libx264 is used without loss.
        times: timestamps in units of ``UNIT_S``.
        turn: arguments of PyAV's ``set_display_rotation``.
        options: options of the container.
        pixel_aspect: width of a pixel divided by its height.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    lossless = {"qp": "0", "preset": "ultrafast"} if codec == "libx264" else {}
    with av.open(str(path), "w", options=options or {}) as film:
        stream = film.add_stream(codec, rate=25, options=lossless)
        context = stream.codec_context
        context.height, context.width = frames[0].shape[:2]
        context.pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
        context.time_base, context.gop_size = UNIT_S, 10
        context.sample_aspect_ratio = pixel_aspect
        if turn is not None:
            stream.set_display_rotation(*turn)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = (times[i] if times else 512 * i), UNIT_S
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Write a file with a sound and no pictures; return its path."""
    import av

    with av.open(str(path), "w") as film:
        stream = film.add_stream("aac", rate=48_000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 4800), np.float32), format="fltp", layout="mono"
        )
        sound.sample_rate = 48_000
        film.mux(stream.encode(sound))
        film.mux(stream.encode())
    return path


def noisy_scene(count: int, height: int = 32, width: int = 40, noise: int = 12) -> list[np.ndarray]:
    """Return frames of a still picture, each with fresh noise of up to ``noise`` grey levels."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    scene = np.stack([rows * 4 + 40, columns * 3 + 60, (rows + columns) * 2 + 30], axis=2)
    return [
        np.clip(scene + rng.integers(-noise, noise + 1, scene.shape), 0, 255).astype(np.uint8)
        for _ in range(count)
    ]


def read_times(path: Path) -> list[float]:
    """Return the times of all frames of a film in seconds, relative to the first one."""
    import av

    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        times = [frame.pts for frame in film.decode(stream)]
        return [float((time - times[0]) * stream.time_base) for time in times]


def stack(frames: Sequence[Tensor]) -> np.ndarray:
    """Return images ``3 h w`` as one array ``n h w 3`` of integers."""
    return torch.stack(list(frames)).permute(0, 2, 3, 1).numpy().astype(int)
