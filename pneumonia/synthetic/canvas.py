"""The canvas on which a film is drawn: body coordinates, soft shapes, lines, and smooth noise."""

from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Image = NDArray[np.float32]
Points = NDArray[np.float64]  # [..., points, 2]


def smooth(points: Any, n: int = 8) -> Points:
    """The closed Catmull-Rom curve through `points` [k, 2], as [k * n, 2]."""
    p = np.asarray(points, dtype=np.float64)
    a, b, c, d = (np.roll(p, s, axis=0)[:, None] for s in (1, 0, -1, -2))
    t = (np.arange(n) / n)[None, :, None]
    return (b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))).reshape(-1, 2)


def noise(rng: Generator, shape: tuple[int, int], cell: float) -> Image:
    """Smooth noise [H, W] of mean 0 and deviation about 1, with lumps of about `cell` pixels."""
    h, w = shape
    grid = rng.standard_normal((int(h / cell) + 3, int(w / cell) + 3), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC), dtype=np.float32) * np.float32(1.3)


def blur(image: NDArray[Any], sigma: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.float32)


class Canvas:
    """Pixels of one film, and where the body lies on them.

    Body coordinates: x from -1 to 1 across the rib cage (the patient's right is at -1, the viewer's left), y from 0 at
    the apex of the lungs to about 1 at the domes of the diaphragm.
    """

    def __init__(self, rng: Generator, build: Generator) -> None:
        aspect = rng.uniform(1.08, 1.6)
        area = 320 * 256 * rng.uniform(0.85, 1.15)
        self.shape = h, w = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
        tall = h * rng.uniform(0.5, 0.64)  # pixels from apex to dome
        self.unit = min(tall * build.uniform(0.72, 0.9) * rng.uniform(0.95, 1.05), w * rng.uniform(0.4, 0.46))
        self.tall = tall
        self.origin = np.array([w * (0.5 + rng.normal(0, 0.025)), h * rng.uniform(0.13, 0.22)])
        tilt = rng.normal(0, 0.035)
        self.turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        self.twist = float(rng.normal(0, 0.035))  # the patient's rotation: front and back shift apart
        self.bend = build.normal(0, 0.012, size=(2, 2))
        self.phase = build.uniform(0, 6.28, size=(2, 2))

    def place(self, points: Any, depth: float = 0.0) -> Points:
        """Body to pixel coordinates; `depth` is -1 for the back and 1 for the front of the chest."""
        p = np.asarray(points, dtype=np.float64)
        x, y = p[..., 0], p[..., 1]
        u = x * (1 + self.twist * np.sign(x) * np.minimum(np.abs(x), 1)) + depth * self.twist
        u = u + self.bend[0, 0] * np.sin(3 * y + self.phase[0, 0]) + self.bend[0, 1] * np.sin(5 * x + self.phase[0, 1])
        v = y + self.bend[1, 0] * np.sin(3 * x + self.phase[1, 0]) + self.bend[1, 1] * np.sin(6 * y + self.phase[1, 1])
        return np.asarray(np.stack([u * self.unit, v * self.tall], axis=-1) @ self.turn + self.origin)

    def paint(self, soft: float, *layers: tuple[Any, float]) -> Image:
        """The layers (pixel polygons [n, points, 2], value), later ones on top, blurred by `soft` pixels: [H, W].

        Where polygons overlap that are neighbours in the list, both are filled; others leave a hole there.
        """
        h, w = self.shape
        small = 1 if soft < 1.8 else 2 if soft < 5 else 4  # wide blurs are done at a lower resolution
        mask = np.zeros((-(-h // small), -(-w // small)), dtype=np.uint8)
        top = max(value for _, value in layers)
        for polygons, value in layers:
            fixed = list(((np.asarray(polygons) + 0.5) * (16 / small) - 7.5).astype(np.int32))
            for half in (fixed[0::2], fixed[1::2]):  # one call a polygon would be right everywhere, and slow
                cv2.fillPoly(mask, half, (255 * value / top,), lineType=cv2.LINE_AA, shift=4)
        return self._soften(mask, soft, small, top)

    def trace(self, soft: float, *layers: tuple[Any, int, float]) -> Image:
        """The layers (pixel lines [n, points, 2], thickness in pixels, value), blurred by `soft` pixels: [H, W]."""
        mask = np.zeros(self.shape, dtype=np.uint8)
        top = max(value for *_, value in layers)
        for lines, thickness, value in layers:
            fixed = list((np.asarray(lines) * 16 + 0.5).astype(np.int32))
            cv2.polylines(mask, fixed, False, (255 * value / top,), thickness, lineType=cv2.LINE_AA, shift=4)
        return self._soften(mask, soft, 1, top)

    def _soften(self, mask: NDArray[np.uint8], soft: float, small: int, top: float) -> Image:
        image = cv2.GaussianBlur(mask if small < 4 else mask.astype(np.float32), (0, 0), soft / small)
        if small > 1:
            image = cv2.resize(image, self.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return np.multiply(image, np.float32(top / 255), dtype=np.float32)

    def ribbons(self, lines: Points, half: Any) -> Points:
        """Bands about pixel `lines` [..., n, 2], of half width `half` (pixels, broadcast to [..., n]): [..., 2n, 2]."""
        along = np.gradient(lines, axis=-2)
        along /= np.linalg.norm(along, axis=-1, keepdims=True) + 1e-9
        across = np.stack([-along[..., 1], along[..., 0]], axis=-1) * np.broadcast_to(half, lines.shape[:-1])[..., None]
        return np.concatenate([lines + across, (lines - across)[..., ::-1, :]], axis=-2)


def edges(bands: Points) -> Points:
    """The two long sides of bands [n, 2k, 2], as lines [2n, k, 2]."""
    k = bands.shape[-2] // 2
    return np.concatenate([bands[:, :k], bands[:, k:]])


def tapered(lines: Points, thickness: int, value: float) -> list[tuple[Points, int, float]]:
    """Layers to trace for lines [n, 9, 2] that begin with `thickness` and thin out."""
    return [(lines[:, 2 * k : 2 * k + 3], max(thickness - k, 1), value) for k in reversed(range(4))]
