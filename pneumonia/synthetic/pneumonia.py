"""What pneumonia looks like in a drawn film."""

import numpy as np
from numpy.random import Generator

from pneumonia.synthetic.branches import branches
from pneumonia.synthetic.canvas import Canvas, Image, noise, smooth, tapered


def consolidation(c: Canvas, rng: Generator, air: Image, marks: Image, severity: float) -> tuple[Image, Image]:
    """A lobe, or part of one, filled: an irregular soft patch in which some bronchi stay open."""
    s, side = c.unit / 130, rng.choice([-1, 1])
    x, y, a, b = [(0.4, 0.2, 0.3, 0.22), (0.5, 0.55, 0.36, 0.22), (0.5, 0.82, 0.42, 0.24)][rng.integers(3)]
    centre = np.array([side * x, y]) + rng.normal(0, 0.06, 2)
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radius = rng.uniform(0.8, 1.4) * np.exp(rng.normal(0, 0.16, (12, 1)))
    patch = np.stack([a * np.cos(turn), b * np.sin(turn)], axis=-1) * radius + centre
    mask = c.paint(0.07 * c.unit, ([c.place(smooth(patch, 6))], 1))
    lumps = 0.28 * noise(rng, c.shape, 16 * s) + 0.15 * noise(rng, c.shape, 7 * s)
    mask = np.clip(mask * (1.25 + lumps), 0, 1)
    bronchi = c.place(branches(rng, centre * [0.6, 1], 0.9, 0.5, 4))
    mask *= 1 - c.trace(0.9, *tapered(bronchi, 3, rng.uniform(0.05, 0.5)))
    return air * (1 - mask * (0.15 + 0.85 * severity)), marks


def interstitial(c: Canvas, rng: Generator, air: Image, marks: Image, severity: float) -> tuple[Image, Image]:
    """Both lungs: thickened bronchial walls, a net of fine lines, and a haze that is densest about the hila."""
    s, amount = c.unit / 130, 0.08 + 0.92 * severity
    turn = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    cloud = np.stack([0.34 * np.cos(turn), 0.36 * np.sin(turn)], axis=-1)
    clouds = [
        c.place(cloud * np.exp(rng.normal(0, 0.2, (10, 1))) + [m * rng.uniform(0.28, 0.4), rng.uniform(0.45, 0.65)])
        for m in (-1, 1)
    ]
    haze = c.paint(0.15 * c.unit, (clouds, 1))
    haze = np.clip(haze * (1 + 0.35 * noise(rng, c.shape, 18 * s)), 0, 1)
    net = np.exp(-((noise(rng, c.shape, 8 * s) / 0.35) ** 2)) - 0.3
    streaks = np.concatenate([branches(rng, np.array([m * 0.2, 0.48]), 1.2, 0.7, 12) for m in (-1, 1)])
    walls = c.trace(1.3, *tapered(c.place(streaks), 4, 0.17))
    return air * (1 - 0.42 * amount * haze), marks + amount * (walls + 0.11 * net * (0.35 + 0.65 * haze))
