"""The drawing of one chest film.

A film is drawn the way X-rays form it: layers of tissue add attenuation, air in the lungs removes some, and a tone
curve turns the sum into grey. Pneumonia is a change in the lungs' air and markings, so that a consolidation hides the
border of heart or diaphragm by itself. All else (build, pose, exposure, size) is drawn apart from the class.
"""

from typing import Any, Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pneumonia.synthetic.branches import branches
from pneumonia.synthetic.canvas import Canvas, Image, Points, blur, edges, noise, smooth, tapered
from pneumonia.synthetic.pneumonia import consolidation, interstitial

VERSION = 1  # each version of the drawing writes its own folder, see `synthetic.write`
SEVERITY = (2.0, 1.3)  # of the beta distribution: from almost invisible to plain

Subtype = Literal["normal", "bacteria", "virus"]


def _cage(y: Any) -> Points:
    """Half width of the rib cage at height y."""
    return np.asarray(1 - (1 - np.clip((np.asarray(y) + 0.12) / 1.12, 0, 1)) ** 2.6)


def _mirrored(half: Any) -> Points:
    """The closed outline whose left half is given from top to bottom."""
    p = np.asarray(half, dtype=np.float64)
    return np.concatenate([p, p[::-1] * [-1, 1]])


def _both(points: Any) -> list[Points]:
    """A shape of the patient's left side and its mirror image."""
    p = np.asarray(points, dtype=np.float64)
    return [p, p * [-1, 1]]


def _skin(c: Canvas, build: Generator, pose: Generator) -> Image:
    """Soft tissue: trunk, neck, arms with their bones, chin."""
    fat, slope = build.uniform(0.05, 0.2), build.uniform(-0.12, 0.1)
    raised = pose.random() < 0.6
    half = [(0.3, -1.2), (0.3, -0.42), (0.42, -0.22), (0.85, -0.13 + slope), (1.25, slope), (1.28, 0.3)]
    outline = _mirrored([*half, (1.02 + fat, 0.5), (1.02 + fat, 1.0), (1.06 + fat, 1.9)])
    core = _mirrored([(0.3, -0.8), (0.4, -0.25), (0.95, -0.05), (1.05, 0.4), (1.0, 1.0), (1.0, 2.4)])
    trunk = c.paint(1.2, ([c.place(smooth(outline, 6))], 1))
    skin = trunk * (0.34 + 0.42 * c.paint(0.16 * c.unit, ([c.place(core)], 1)))
    ways = []
    for side in (-1, 1):
        angle = (pose.uniform(-0.9, 0.1) if raised else pose.uniform(1.2, 1.5)) + pose.normal(0, 0.1)
        shoulder = np.array([side * (1.17 + fat / 2), 0.06 + slope])
        ways.append(np.linspace(-0.06, 2.2, 9)[:, None] * [side * np.cos(angle), np.sin(angle)] + shoulder)
    lines = c.place(np.stack(ways))
    arms = c.ribbons(lines, np.array([0.12, 0.26, 0.26, 0.25, 0.24, 0.22, 0.2, 0.19, 0.18]) * c.unit)
    arm = c.paint(1.5, (arms, 0.42)) * (0.55 + 0.45 * c.paint(0.09 * c.unit, (arms, 1)))
    bones = c.ribbons(lines, np.array([0.07, 0.075, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05]) * c.unit)
    skin = np.maximum(skin, arm) + c.paint(1.0, (bones, 0.09)) + c.trace(0.7, (edges(bones), 1, 0.05))
    if pose.random() < 0.55:
        chin = _mirrored([(0.0, -0.3), (0.3, -0.42), (0.5, -0.62), (0.55, -1.2)])
        chin += [pose.normal(0, 0.08), pose.uniform(-0.2, 0.1)]
        skin += c.paint(2.5, ([c.place(smooth(chin))], 0.3))
    return skin


def _bones(c: Canvas, build: Generator) -> Image:
    """Ribs, spine, clavicles and shoulder blades."""
    pitch, drop = build.uniform(0.11, 0.125), build.uniform(0.2, 0.3)
    number = np.arange(10)
    start = -0.05 + pitch * number + build.normal(0, 0.004, 10)
    end = start + drop * np.linspace(0.7, 1.5, 10)  # where a rib turns forward, at the side of the chest
    theta = np.linspace(0, np.pi / 2, 14)
    back, front = [], []
    for side in (-1, 1):
        x0, x1 = 0.09, _cage(end)[:, None] * 0.985
        x = x0 + (x1 - x0) * np.sin(theta) ** 1.05
        y = start[:, None] + (end - start)[:, None] * (1 - np.cos(theta)) - 0.02 * np.sin(2 * theta)
        back.append(np.stack([side * x, y + build.normal(0, 0.004)], axis=-1))
        inner = build.uniform(0.3, 0.42) + 0.03 * number[:7, None]
        x = inner + (x1[:7] - inner) * np.cos(theta * 0.96)
        y = end[:7, None] + (0.1 + 0.022 * number[:7, None]) * np.sin(theta) ** 0.8 * (1 + 0.3 * theta)
        front.append(np.stack([side * x, y], axis=-1))
    thick = 0.037 * c.unit * build.uniform(0.85, 1.15)
    back_ribs = c.ribbons(c.place(np.concatenate(back), -0.6), thick * np.linspace(0.8, 1.05, 14))
    front_ribs = c.ribbons(c.place(np.concatenate(front), 0.5), thick * np.linspace(0.95, 1.25, 14))
    wall = np.linspace(0.02, 1.25, 24)
    walls = c.ribbons(c.place(np.stack(_both(np.stack([_cage(wall), wall], axis=-1)))), 2.0)

    column, width = pitch * 0.97, build.uniform(0.1, 0.12)
    tops = -0.75 + column * np.arange(22)
    middles = np.stack([0 * tops, tops], axis=-1)
    box = np.array([(-1, 0), (-0.9, 0.5), (-1, 1), (0, 0.95), (1, 1), (0.9, 0.5), (1, 0), (0, 0.06)])
    blocks = c.place(box * [width, 0.84 * column] + middles[:, None], -0.7)
    spine = c.ribbons(c.place(middles, -0.7), width * 1.06 * c.unit)
    around = np.linspace(0, 2 * np.pi, 9)
    ring = np.stack([np.cos(around), np.sin(around)], axis=-1) * [0.024, 0.022]
    pedicles = [c.place(ring + (middles + [m * width * 0.62, column * 0.42])[:, None], -0.8) for m in (-1, 1)]
    spikes = c.place(ring * [0.5, 1.2] + (middles + [0, column * 0.75])[:, None], -0.9)

    lift, reach = build.uniform(-0.16, 0.0), build.uniform(0.84, 0.96)
    along = np.linspace(0, 1, 17)
    bow = np.polyval(np.polyfit([0, 0.2, 0.5, 0.8, 1], [0.12, 0.05, 0.35 * lift, lift, lift + 0.04], 4), along)
    key = np.stack([0.09 + (reach - 0.09) * along, bow], axis=-1)
    stout = np.interp(along, [0, 0.2, 0.5, 0.8, 1], [0.045, 0.033, 0.028, 0.031, 0.038])
    keys = c.ribbons(c.place(np.stack(_both(key)), 0.9), c.unit * stout)
    blade = [(0.3, -0.02), (0.42, 0.0), (0.3, 0.3), (0.12, 0.62), (0.02, 0.55), (0.05, 0.2)]
    blades = np.stack([c.place(b, -1) for b in _both(smooth(np.array(blade) + [build.uniform(0.72, 1.0), 0], 6))])
    rims = np.concatenate([blades, blades[:, :1]], axis=1)
    discs = np.concatenate([blocks, blocks[:, :1]], axis=1)
    return np.asarray(
        c.paint(2.2, (walls, 0.12), ([spine], 0.06))
        + c.paint(0.8, (blades, 0.05), (back_ribs, 0.115), (blocks, 0.065))
        + c.paint(0.9, (front_ribs, 0.06), (keys, 0.13), (spikes, 0.05))
        + c.trace(0.7, (rims, 2, 0.05), (edges(front_ribs), 1, 0.04), (edges(back_ribs), 1, 0.08))
        + c.trace(0.7, (discs, 1, 0.06), (np.concatenate(pedicles), 1, 0.06), (edges(keys), 1, 0.08))
    )


def _lungs(c: Canvas, build: Generator, domes: tuple[float, float]) -> tuple[list[Points], list[Points]]:
    """Outlines of the lungs, and of the belly below each; `domes`: how low the diaphragm stands on either side."""
    across = np.linspace(0.93, 0.08, 14)
    lungs, bellies = [], []
    for side, dome in zip((-1, 1), domes, strict=True):
        deep, peak = build.uniform(0.12, 0.2), build.uniform(0.42, 0.52)
        floor = np.stack([across, dome - 0.03 + deep * np.abs((across - peak) / 0.45) ** 2.2], axis=-1)
        floor[:, 1] = np.minimum(floor[:, 1], dome + deep * np.where(across > peak, 1, 0.35))
        y = np.linspace(0.0, floor[0, 1], 16)
        outer = np.stack([0.95 * _cage(y), y], axis=-1)
        apex = np.array([(0.11, 0.12), (0.14, 0.02), (0.18, -0.012)])
        lungs.append(c.place(np.concatenate([apex, outer, floor]) * [side, 1], 0.2))
        under = np.array([*floor, (-0.05, dome + 0.03), (-0.05, 2.4), (0.97, 2.4), (0.98, dome + deep)])
        bellies.append(c.place(under * [side, 1], 0.2))
    return lungs, bellies


def _heart(build: Generator, ratio: float, base: float) -> Points:
    """The outline of the heart and the great vessels, on a diaphragm at `base`."""
    left, right = 1.28 * ratio, 0.62 * ratio
    heart = np.array(
        [(0.1, 0.1), (0.13, 0.2), (0.2, 0.27), (0.19, 0.36), (0.23, 0.44), (0.62 * left, 0.58), (0.9 * left, 0.72)]
        + [(left, 0.86), (0.93 * left, base + 0.02), (0.4 * left, base + 0.1), (-0.6 * right, base + 0.06)]
        + [
            (-0.95 * right, base - 0.08),
            (-right, 0.78),
            (-0.88 * right, 0.62),
            (-0.15, 0.5),
            (-0.14, 0.3),
            (-0.13, 0.1),
        ]
    )
    return np.asarray(heart + build.normal(0, 0.008, heart.shape))


def draw(
    subtype: Subtype, rng: Generator, *, build: Generator | None = None, severity: float | None = None
) -> NDArray[np.uint8]:
    """A frontal chest film, uint8 [H, W] of about 256 x 320 pixels.

    With equally seeded `rng` the three subtypes show the same body in the same pose and differ by the disease alone.
    `severity`, from 0 (hardly anything to see) to 1, is drawn if not given. Films whose `build` is equally seeded show
    one patient, in another pose and at another exposure each.
    """
    pose, disease, own = rng.spawn(3)
    build = build or own
    c = Canvas(pose, build)
    s = c.unit / 130

    breath = pose.normal(0, 0.05)  # below 0 for a shallow one
    domes = (0.95 + breath, 1.0 + breath + build.normal(0, 0.02))
    lungs, bellies = _lungs(c, build, domes)
    lung = c.paint(1.3, (lungs, 1))
    belly = c.paint(1.4, (bellies, 0.12)) + c.paint(9, (bellies, 0.1))
    belly *= 1 + 0.13 * noise(build, c.shape, 32 * s)

    ratio = build.uniform(0.42, 0.56) - 0.4 * breath  # cardiothoracic
    outline = c.place(smooth(_heart(build, ratio, domes[1])), 0.4)
    shadow = c.paint(1.5 + 1.5 * pose.random(), ([outline], 1))
    heart_depth = c.paint(0.1 * c.unit, ([outline], 0.06))
    if build.random() < 0.3:  # thymus, a sail beside the upper heart
        sail = np.array([(0.05, 0.12), (0.2, 0.2), (build.uniform(0.3, 0.42), 0.46), (0.2, 0.47), (0.05, 0.5)])
        sail *= [build.choice([-1, 1]), 1]
        shadow = np.maximum(shadow, c.paint(2.2, ([c.place(smooth(sail), 0.8)], build.uniform(0.4, 0.8))))

    # heavy vessels and crowded bases look like disease but are not
    vessels = np.concatenate([branches(build, np.array([m * 0.2, 0.46]), 1.25, 0.75, 12) for m in (-1, 1)])
    tree = c.trace(1.1, *tapered(c.place(vessels), 3, 0.15))
    hila = [c.place(smooth(p)) for p in _both([(0.13, 0.36), (0.24, 0.42), (0.27, 0.55), (0.13, 0.62)])]
    mottle = 0.009 * noise(build, c.shape, 5 * s) + 0.006 * noise(build, c.shape, 12 * s)
    marks = (tree + c.paint(5, (hila, 0.1)) + mottle) * build.uniform(0.4, 1.15)
    air = lung * (1 - 0.84 * shadow) * (0.8 + 0.25 * c.paint(0.1 * c.unit, (lungs, 1)))
    air *= 1 - np.clip(0.06 + 0.03 * noise(build, c.shape, 70 * s), 0, 0.3)
    if breath < -0.04:
        air *= 1 - c.paint(0.2 * c.unit, (bellies, 0.5))

    if subtype != "normal":
        if severity is None:
            severity = float(disease.beta(*SEVERITY))
        air, marks = (consolidation if subtype == "bacteria" else interstitial)(c, disease, air, marks, severity)

    tissue = _skin(c, build, pose) + belly + heart_depth - 0.46 * air + lung * (0.4 + 0.6 * air) * marks
    tissue += _bones(c, build) * (1 - 2 * belly)
    windpipe = c.ribbons(c.place([(0.02, -0.5), (0.015, 0.0), (0.0, 0.2), (-0.01, 0.3)], 0.1), 0.05 * c.unit)
    tissue -= c.paint(2, ([windpipe], 0.07))
    if build.random() < 0.5:  # gas in the stomach
        bubble = np.array([(0.3, 0.0), (0.55, -0.07), (0.75, 0.02), (0.7, 0.14), (0.4, 0.16)]) + [0, domes[1] + 0.12]
        bubble += pose.normal(0, 0.03, bubble.shape)
        tissue -= c.paint(2, ([c.place(smooth(bubble))], pose.uniform(0.08, 0.25)))
    return _expose(c, pose, tissue)


def _expose(c: Canvas, rng: Generator, tissue: Image) -> NDArray[np.uint8]:
    """From attenuation to the developed film: scatter, leads, exposure, tone, grain, collimator, marker."""
    h, w = c.shape
    scatter = blur(cv2.resize(tissue, (w // 8, h // 8), interpolation=cv2.INTER_AREA), 3)
    tissue += 0.1 * cv2.resize(scatter, (w, h))
    if rng.random() < 0.25:
        tissue += _leads(c, rng)
    x, y = np.linspace(-0.5, 0.5, w, dtype=np.float32), np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None]
    fall, tilt = np.float32(rng.uniform(0, 0.15)), rng.normal(0, 0.05, 2).astype(np.float32)
    tissue += (tilt[0] * x - fall * x * x) + (tilt[1] * y - fall * y * y)
    sample = tissue[::3, ::3]
    level = sample[sample > 0.15].mean()  # an automatic exposure: no brighter for more disease
    curve = np.linspace(0, 2, 2048) ** rng.uniform(1.0, 1.35)
    curve = (255 * curve / (1 + curve**4) ** 0.25).astype(np.float32)
    light = (tissue - level) * np.float32(1024 * rng.uniform(0.85, 1.3)) + np.float32(1024 * rng.uniform(0.45, 0.62))
    film = curve[np.clip(light, 0, 2047).astype(np.int16)]
    film += rng.uniform(2, 7) * blur(rng.standard_normal((h, w), dtype=np.float32), rng.uniform(0.4, 0.8))
    if rng.random() < 0.2:
        top, bottom, left, right = rng.integers(2, 14, 4) * (rng.random(4) < 0.6)
        open_ = film[top : h - bottom, left : w - right].copy()
        film[:] = rng.choice([3, 245], p=[0.8, 0.2])
        film[top : h - bottom, left : w - right] = open_
    grey: NDArray[np.uint8] = np.clip(film, 0, 255).astype(np.uint8)
    if rng.random() < 0.7:
        letter, at = ("R", rng.uniform(0.02, 0.12)) if rng.random() < 0.85 else ("L", rng.uniform(0.86, 0.94))
        corner = (int(at * w), int(rng.uniform(0.08, 0.5) * h))
        cv2.putText(grey, letter, corner, cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.35, 0.6), (235,), 1, cv2.LINE_AA)
    return grey


def _leads(c: Canvas, rng: Generator) -> Image:
    """Electrodes with their wires, or a tube down the midline."""
    if rng.random() < 0.4:
        way = np.stack([np.cumsum(rng.normal(0.003, 0.01, 20)), np.linspace(-1, rng.uniform(0.5, 1.3), 20)], axis=-1)
        return c.trace(0.6, ([c.place(way)], 3, 0.1))
    count = rng.integers(1, 4)
    spots = np.stack([rng.uniform(-0.9, 0.9, count), rng.uniform(-0.1, 1.1, count)], axis=-1)[:, None]
    ends = np.stack([rng.choice([-1.6, 1.6], count), rng.uniform(0.3, 1.4, count)], axis=-1)[:, None]
    bows = (spots + ends) / 2 + rng.normal(0, 0.25, (count, 1, 2))
    t, turn = np.linspace(0, 1, 24)[:, None], np.linspace(0, 2 * np.pi, 12)
    wires = (1 - t) ** 2 * spots + 2 * t * (1 - t) * bows + t**2 * ends
    pads = spots + 0.035 * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    return c.trace(0.6, (c.place(wires), 1, 0.13)) + c.paint(0.7, (c.place(pads), 0.25))
