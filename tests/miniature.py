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


def _versions(image: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    return [noisy(image, 10.0 * (k + 1), seed + k) for k in range(count)]


def kadid10k(folder: Path) -> Path:
    """Two references, types 1 and 11, levels 1 and 2."""
    lines = ["dist_img,ref_img,dmos,var"]
    for number in (1, 2):
        image = picture(number, (48, 64))
        save(folder / "images" / f"I{number:02d}.png", image)
        for kind in (1, 11):
            for level, version in enumerate(_versions(image, 2, 10 * kind), start=1):
                name = f"I{number:02d}_{kind:02d}_{level:02d}.png"
                save(folder / "images" / name, version)
                lines.append(f"{name},I{number:02d}.png,{4.5 - level - kind / 100},0.7")
    (folder / "dmos.csv").write_text("\n".join(lines) + "\n")
    return folder


def tid2013(folder: Path) -> Path:
    """I01 and i25, with the mixed case of the copies in circulation."""
    lines = []
    for number, reference, pattern in (
        (1, "I01.BMP", "i01_{:02d}_{}.bmp"),
        (25, "i25.bmp", "I25_{:02d}_{}.BMP"),
    ):
        image = picture(number, (48, 64))
        save(folder / "reference_images" / reference, image)
        for kind in (1, 24):
            for level, version in enumerate(_versions(image, 2, 10 * kind), start=1):
                save(folder / "distorted_images" / pattern.format(kind, level), version)
                lines.append(f"{6.5 - level - kind / 100:.5f} I{number:02d}_{kind:02d}_{level}.bmp")
    (folder / "mos_with_names.txt").write_text("\r\n".join(lines) + "\r\n")
    return folder


def csiq(folder: Path, form: str = "xlsx") -> Path:
    """1600 and snow_leaves, types awgn and jpeg2000; the table as a spreadsheet, csv or txt."""
    header = ["image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
    rows = []
    for name in ("1600", "snow_leaves"):
        image = picture(len(name), (48, 48))
        save(folder / "src_imgs" / f"{name}.png", image)
        for index, (kind, told, file) in enumerate(
            (("awgn", "noise", "AWGN"), ("jpeg2000", "jpeg 2000", "jpeg2000"))
        ):
            for level, version in enumerate(_versions(image, 2, 10 * index), start=1):
                save(folder / "dst_imgs" / kind / f"{name}.{file}.{level}.png", version)
                image_cell = int(name) if name.isdigit() else name
                rows.append([image_cell, index + 1, told, level, 0.05, 0.3 * level + 0.01 * index])
    if form == "xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        book.active.title = "all_by_distortion"
        sheet = book.create_sheet("all_by_image")
        for row in ([], ["all images"], [], header, *rows):
            sheet.append([None, None, None, *row])  # the table begins in D4
        book.save(folder / "csiq.DMOS.xlsx")
    else:
        delimiter = "," if form == "csv" else "\t"
        lines = [delimiter.join(map(str, row)) for row in (header, *rows)]
        (folder / f"csiq.DMOS.{form}").write_text("\n".join(lines) + "\n")
    return folder


def live(folder: Path) -> Path:
    """Two references; each type has both distorted, one of them twice, and an undistorted copy.

    The lines of info.txt are not in the order of the images, and some are blank.
    """
    from scipy.io import savemat

    references = {
        name: picture(len(name), size) for name, size in (("bikes.bmp", (48, 64)), ("sailing1.bmp", (64, 48)))
    }
    for name, image in references.items():
        save(folder / "refimgs" / name, image)
    dmos, undistorted, names = [], [], []
    for kind in ("jp2k", "jpeg", "wn", "gblur", "fastfading"):
        info = []
        for number, (name, strength) in enumerate(
            (("bikes.bmp", 10), ("sailing1.bmp", 20), ("bikes.bmp", 0), ("bikes.bmp", 40)), start=1
        ):
            save(folder / kind / f"img{number}.bmp", noisy(references[name], strength, number))
            info.append(f"{name} img{number}.bmp {strength / 100}")
            dmos.append(1.5 * strength + len(kind) / 10)
            undistorted.append(int(strength == 0))
            names.append(name)
        (folder / kind / "info.txt").write_text("\n" + "\n\n".join(reversed(info)) + "\n")
    savemat(folder / "dmos_realigned.mat", {"dmos_new": [dmos], "orgs": [undistorted]})
    savemat(folder / "refnames_all.mat", {"refnames_all": np.array([names], dtype=object)})
    return folder


def pairs(folder: Path, size: tuple[int, int] = (40, 50)) -> Path:
    """Two references with three distorted images each, the last of them without a score."""
    lines = ["reference, distorted, mos, distortion, level"]
    for number in range(2):
        image = picture(number, (size[0], size[1] + number))
        save(folder / "photos" / f"p{number}.png", image)
        for level, version in enumerate(_versions(image, 3, number), start=1):
            save(folder / "distorted" / f"p{number}-{level}.png", version)
            score = "" if level == 3 else str(80 - 10 * level - number)
            lines.append(f"photos/p{number}.png, distorted/p{number}-{level}.png, {score}, noise, {level}")
    (folder / "mine.csv").write_text("\n".join(lines) + "\n")
    return folder / "mine.csv"
