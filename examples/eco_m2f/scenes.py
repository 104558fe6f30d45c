"""Scenes: one to five Fashion-MNIST garments, some half hidden, on one or two real textures, by day or by night;
panoptic truth.

    python -m examples.eco_m2f.scenes --out examples/eco_m2f/scenes.npz --count 48    # writes the shipped test scenes

Every scene is a function of (split, seed, number): the same three give the same pixels. Training and test scenes
share no garment (Fashion-MNIST's own split) and no piece of a texture (left 60 % against right 40 % of each).

Scenes differ in how hard they are: a hard one has more garments, smaller and more hidden. Half of them are seen by
night, when a camera counts few photons: the fewer, the more noise.

Truth is one map, int32 [size, size]: category · 1000 + instance, as Cityscapes writes it. Things count their instances
from 1, stuff has instance 0.
"""

from __future__ import annotations

import argparse
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from foveate.pipeline.panoptic import save_panoptic

from examples.ersm.data import background, load_garments, load_photographs, scaled

THINGS = ("top", "trouser", "dress", "sandal", "shoe", "bag")
LABELS = (
    (0, 2),
    (1,),
    (3,),
    (5,),
    (7, 9),
    (8,),
)  # the thing's Fashion-MNIST labels; coats and shirts are left out
TEXTURES = ("brick", "grass", "gravel")
CATEGORIES = THINGS + TEXTURES
INSTANCES = 1000  # identities to a category
SIZE = 128  # px, a scene's side
MOST = 5  # garments
NIGHT = 0.5  # of the scenes
PHOTONS = (2.0, 16.0)  # of a white pixel by night, least and most
VISIBLE = 0.35  # of every garment, at least
TRIES = 20  # places for a garment, before it is left out


@dataclass(frozen=True)
class Difficulty:
    """How a scene is made. `side`: px, shortest and longest of a garment; `photons`: of a white pixel, on the mean;
    infinite by day."""

    level: float
    garments: int
    textures: int
    side: tuple[float, float]
    photons: float


def difficulty(rng: np.random.Generator) -> Difficulty:
    level = float(rng.random())
    night = rng.random() < NIGHT
    return Difficulty(
        level=level,
        garments=1 + min(MOST - 1, int(MOST * level)),
        textures=1 + int(2 * rng.random()),
        side=(44 - 12 * level, 80 - 32 * level),
        photons=float(np.exp(rng.uniform(*np.log(PHOTONS)))) if night else np.inf,
    )


def segments(truth: np.ndarray) -> list[tuple[int, int, bool]]:
    """(identity, category, is it a thing) of each segment of a map."""
    found = [(int(i), int(i) // INSTANCES) for i in np.unique(truth)]
    return [(identity, category, category < len(THINGS)) for identity, category in found]


class Scenes:
    """The scenes of a split ("train" or "test"). `scene(i)` → (image uint8 [size, size, 3], truth int32 [size, size]),
    the same every time; `difficulty(i)` → how it was made."""

    def __init__(self, split: str, seed: int = 0, size: int = SIZE, path: str | Path | None = None) -> None:
        self.split, self.seed, self.size = split, seed, size
        self.garments = load_garments(split, path)
        self.places = [np.flatnonzero(np.isin(self.garments.labels, labels)) for labels in LABELS]
        self.textures = load_photographs(split, TEXTURES)

    def scene(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = self._rng(number)
        made = difficulty(rng)
        canvas = _Canvas(self.size)
        for kind in rng.permutation(len(TEXTURES))[: made.textures]:
            canvas.lay(rng, background(rng, self.textures[kind], self.size), len(THINGS) + int(kind))
        for _ in range(made.garments):
            self._place(rng, made, canvas)
        image = np.clip(canvas.image, 0, 255)
        if made.photons < np.inf:
            image = rng.poisson(image * made.photons / 255) * 255 / made.photons  # shot noise
        return np.clip(image, 0, 255).astype(np.uint8), canvas.truth

    def difficulty(self, number: int) -> Difficulty:
        return difficulty(self._rng(number))

    def batch(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Scenes start … start + count − 1: uint8 [count, size, size, 3] and int32 [count, size, size]."""
        images, truths = zip(*(self.scene(start + i) for i in range(count)), strict=True)
        return np.stack(images), np.stack(truths)

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number, self.split == "test"])

    def _place(self, rng: np.random.Generator, made: Difficulty, canvas: _Canvas) -> None:
        """Puts a garment where it leaves enough of the others visible; nowhere, if no such place is found."""
        category = int(rng.integers(len(THINGS)))
        index = int(rng.choice(self.places[category]))
        side = round(rng.uniform(*made.side) * self.size / SIZE)
        flip = 1 if rng.random() < 0.5 else -1
        opacity = scaled(self.garments.alpha[index][:, ::flip], side)[..., None] / 255
        color = np.array(hsv_to_rgb(rng.random(), rng.uniform(0.4, 1.0), rng.uniform(0.6, 1.0)), np.float32)
        cloth = (50 + 0.8 * scaled(self.garments.grey[index][:, ::flip], side))[..., None] * color
        for y, x in rng.integers(self.size - side + 1, size=(TRIES, 2)):
            window = np.s_[y : y + side, x : x + side]
            if canvas.paste(window, cloth, opacity, category):
                return


class _Canvas:
    """A scene in the making: `image` float32 [size, size, 3], `truth` int32 [size, size]; `whole`: each segment's
    pixels before anything hid some of them."""

    def __init__(self, size: int) -> None:
        self.image = np.zeros((size, size, 3), np.float32)
        self.truth = np.zeros((size, size), np.int32)
        self.whole: dict[int, int] = {}

    def lay(self, rng: np.random.Generator, texture: np.ndarray, category: int) -> None:
        """Texture on all of the canvas, or, if there is one already, beyond a straight line near the middle."""
        size = len(self.truth)
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.25, 0.25) * size
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        region = (np.cos(angle) * x + np.sin(angle) * y > offset) | (not self.whole)
        self.image[region] = texture[region]
        self.truth[region] = category * INSTANCES
        self.whole = dict(zip(*np.unique(self.truth, return_counts=True), strict=True))

    def paste(
        self,
        window: tuple[slice, slice],
        cloth: np.ndarray,
        opacity: np.ndarray,
        category: int,
    ) -> bool:
        """Lays a garment on, if that leaves `VISIBLE` of each segment; whether it did."""
        shape = opacity[..., 0] > 0.5
        below, hidden = np.unique(self.truth[window][shape], return_counts=True)
        for identity, count in zip(below, hidden, strict=True):
            if np.count_nonzero(self.truth == identity) - count < VISIBLE * self.whole[identity]:
                return False
        self.image[window] = cloth * opacity + self.image[window] * (1 - opacity)
        instance = sum(identity // INSTANCES == category for identity in self.whole) + 1
        identity = category * INSTANCES + instance
        self.truth[window][shape] = identity
        self.whole[identity] = int(np.count_nonzero(shape))
        return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write test scenes as npz: images, and their truth as labels."
    )
    parser.add_argument("--out", default=Path(__file__).parent / "scenes.npz", type=Path)
    parser.add_argument("--count", default=48, type=int)
    parser.add_argument("--seed", default=2024, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    images, labels = Scenes("test", args.seed, path=args.fashion_mnist).batch(0, args.count)
    save_panoptic(args.out, images, labels, range(len(THINGS)))
    print(f"✓ scenes  {args.count} in {args.out}  {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
