"""Data sets in miniature: the real names and layout, small placeholder images."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int]) -> np.ndarray:
    """A smooth random image (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))


def noisy(image: np.ndarray, strength: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(image.shape)
    return np.clip(np.rint(image + strength * noise), 0, 255).astype(np.uint8)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def pipal(
    folder: Path,
    *,
    references: int = 4,
    per_reference: int = 6,
    test_references: int = 0,
    test_per_reference: int = 66,
    size: tuple[int, int] = (112, 112),
    spelling: str = "Distortion_{}",
) -> Path:
    """A PIPAL folder: `references` spread over the four Distortion folders, and the test pairs."""
    for number in range(references):
        name = f"A{number + 1:04d}"
        image = picture(number, size)
        save(folder / "Train_Ref" / f"{name}.bmp", image)
        lines = []
        for index in range(per_reference):
            file = f"{name}_{index % 2:02d}_{index // 2:02d}.bmp"
            save(
                folder / spelling.format(number % 4 + 1) / file,
                noisy(image, 8.0 * index, 100 * number + index),
            )
            lines.append(f"{file},{1700 - 90 * index + 3 * number:.4f}\n")
        label = folder / "Train_Label" / f"{name}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text("".join(lines))
    for number in range(test_references):
        name = f"A{number + 300:04d}"
        image = picture(1000 + number, size)
        save(folder / "NTIRE2022_FR_Testing_Ref" / f"{name}.bmp", image)
        for index in range(test_per_reference):
            file = folder / "NTIRE2022_FR_Testing_Dis" / f"{name}_10_{index:02d}.bmp"
            save(file, noisy(image, float(index), 100 * number + index))
    return folder
