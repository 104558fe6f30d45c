"""Scenes: one Fashion-MNIST garment, tinted, somewhere on a crop of a real photograph. The label is its class.

    python examples/ersm/data.py --out examples/ersm/scenes --count 400     # writes the shipped test scenes

Every scene is a function of (split, seed, number): the same three give the same pixels. Training and test scenes
share no garment (Fashion-MNIST's own split) and no piece of a photograph (left 60 % against right 40 % of each).
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
from collections.abc import Iterator
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = (  # the label's number is part of its name: folders sort, and read, as labels do
    "0_tshirt",
    "1_trouser",
    "2_pullover",
    "3_dress",
    "4_coat",
    "5_sandal",
    "6_shirt",
    "7_sneaker",
    "8_bag",
    "9_boot",
)
SIZE = 256  # px, a scene's side
OBJECT = (48, 88)  # px, shortest and longest side of a garment
PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "rocket")
TRAIN_SHARE = 0.6  # of each photograph's width
CROP = (0.55, 0.85)  # side of a photograph's crop ÷ side of the scene it fills
SATURATION = (0.65, 1.0)  # of a garment's colour
CACHE = Path.home() / ".cache" / "foveate"
DEBIAN_FOLDER = Path("usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Garments:
    """Fashion-MNIST, one split. `grey`, `alpha`: uint8 [N, 28, 28]; `labels`: int64 [N]."""

    grey: np.ndarray
    alpha: np.ndarray
    labels: np.ndarray


def fashion_mnist_folder(path: str | Path | None = None) -> Path:
    """The folder of the four .gz files: `path`, or Debian's package `dataset-fashion-mnist` (MIT) in the cache."""
    if path is not None:
        return Path(path)
    folder = CACHE / "fashion-mnist" / DEBIAN_FOLDER
    if not folder.is_dir():
        root = CACHE / "fashion-mnist"
        root.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "dataset-fashion-mnist"], cwd=root, check=True)
        package = next(root.glob("dataset-fashion-mnist*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
    return folder


def load_garments(split: str, path: str | Path | None = None) -> Garments:
    folder, stem = fashion_mnist_folder(path), {"train": "train", "test": "t10k"}[split]
    grey = _idx(folder / f"{stem}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    labels = _idx(folder / f"{stem}-labels-idx1-ubyte.gz", header=8)
    return Garments(grey, _silhouettes(grey), labels.astype(np.int64))


def _idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path, "rb") as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def _silhouettes(grey: np.ndarray) -> np.ndarray:
    """Where a garment is opaque: lit pixels, with gaps of up to two pixels inside the cloth closed (3×3 closing)."""
    lit = np.pad(grey > 12, ((0, 0), (2, 2), (2, 2)))
    grown = _window_max(lit)
    return np.where(_window_max(~grown), 0, 255).astype(np.uint8)


def _window_max(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape[1] - 2, mask.shape[2] - 2
    shifted = (mask[:, y : y + height, x : x + width] for y in range(3) for x in range(3))
    return np.logical_or.reduce(list(shifted))


def load_photographs(split: str, names: tuple[str, ...] = PHOTOGRAPHS) -> list[np.ndarray]:
    """uint8 [H, W, 3] each: the named ones of scikit-image's CC0 and public-domain pictures, the columns that belong
    to `split`."""
    from skimage import data

    pictures = []
    for name in names:
        picture = getattr(data, name)()
        picture = np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture
        border = int(TRAIN_SHARE * picture.shape[1])
        pictures.append(picture[:, :border] if split == "train" else picture[:, border:])
    return pictures


class Scenes:
    """The scenes of a split ("train" or "test"). `scene(i)` → (uint8 [size, size, 3], label), the same every time."""

    def __init__(self, split: str, seed: int = 0, size: int = SIZE, path: str | Path | None = None) -> None:
        self.split, self.seed, self.size = split, seed, size
        self.garments = load_garments(split, path)
        self.photographs = load_photographs(split)

    def scene(self, number: int) -> tuple[np.ndarray, int]:
        image, _, label = self._make(number)
        return image, label

    def batch(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scenes start … start + count − 1: uint8 [count, size, size, 3], the garments' opacity float32 [count, size,
        size] in 0 … 1, and labels int64 [count]."""
        images, silhouettes, labels = zip(*(self._make(start + i) for i in range(count)), strict=True)
        return np.stack(images), np.stack(silhouettes), np.array(labels)

    def _make(self, number: int) -> tuple[np.ndarray, np.ndarray, int]:
        rng = np.random.default_rng([self.seed, number, self.split == "test"])
        index = int(rng.integers(len(self.garments.labels)))
        scene = background(rng, self.photographs[rng.integers(len(self.photographs))], self.size)
        silhouette = _place(rng, scene, self.garments.grey[index], self.garments.alpha[index])
        return scene, silhouette, int(self.garments.labels[index])


def background(rng: np.random.Generator, photograph: np.ndarray, size: int) -> np.ndarray:
    """A square crop, turned, flipped, lit and scaled at random: uint8 [size, size, 3]."""
    side = min(int(size * rng.uniform(*CROP)), *photograph.shape[:2])
    y, x = (int(rng.integers(extent - side + 1)) for extent in photograph.shape[:2])
    crop = np.rot90(photograph[y : y + side, x : x + side], int(rng.integers(4)))
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    scaled = Image.fromarray(np.ascontiguousarray(crop)).resize((size, size), Image.Resampling.BICUBIC)
    light = (rng.uniform(0.6, 1.1) * rng.uniform(0.9, 1.1, 3)).astype(np.float32)
    return np.clip(np.asarray(scaled) * light, 0, 255).astype(np.uint8)


def _place(rng: np.random.Generator, scene: np.ndarray, grey: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Blends a garment into `scene` (in place): colour · (grey + a little), its silhouette as opacity. Returns that,
    float32 [size, size] in 0 … 1."""
    side = int(rng.integers(OBJECT[0], OBJECT[1] + 1))
    y, x = (int(v) for v in rng.integers(scene.shape[0] - side + 1, size=2))
    color = np.array(hsv_to_rgb(rng.random(), rng.uniform(*SATURATION), rng.uniform(0.6, 1.0)), np.float32)
    flip = 1 if rng.random() < 0.5 else -1
    cloth = (0.2 + 0.8 / 255 * scaled(grey[:, ::flip], side))[..., None] * color * 255
    opacity = scaled(alpha[:, ::flip], side) / 255
    window = scene[y : y + side, x : x + side]
    window[...] = (cloth * opacity[..., None] + window * (1 - opacity[..., None])).astype(np.uint8)
    silhouette = np.zeros(scene.shape[:2], np.float32)
    silhouette[y : y + side, x : x + side] = opacity
    return silhouette


def scaled(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [28, 28] → float32 [side, side] in 0 … 255."""
    picture = Image.fromarray(np.ascontiguousarray(image)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32)


def read_scenes(folder: str | Path) -> Iterator[tuple[np.ndarray, int]]:
    """The shipped scenes in their files' order: (uint8 [H, W, 3], label) each."""
    for label, classfolder in enumerate(sorted(p for p in Path(folder).iterdir() if p.is_dir())):
        for path in sorted(classfolder.glob("*.jpg")):
            yield np.asarray(Image.open(path).convert("RGB")), label


def write_scenes(scenes: Scenes, out: str | Path, count: int, quality: int = 90) -> int:
    """Writes out/<class>/<number>.jpg, count ÷ 10 of each class; returns the bytes written."""
    missing = dict.fromkeys(range(len(CLASSES)), count // len(CLASSES))
    number, size = 0, 0
    while any(missing.values()):
        image, label = scenes.scene(number)
        if missing[label]:
            missing[label] -= 1
            path = Path(out) / CLASSES[label] / f"{number:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=quality)
            size += path.stat().st_size
        number += 1
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description="Write labelled test scenes as <class>/<number>.jpg.")
    parser.add_argument("--out", default=Path(__file__).parent / "scenes", type=Path)
    parser.add_argument("--count", default=400, type=int)
    parser.add_argument("--seed", default=2024, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    scenes = Scenes("test", args.seed, path=args.fashion_mnist)
    size = write_scenes(scenes, args.out, args.count)
    print(f"✓ scenes  {args.count} in {args.out}  {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
