"""What a type checker knows of the README's Python; mypy and pyright check it, nobody runs it."""

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import jax
import numpy as np
from PIL import Image

import iqa_jax
from iqa_jax import BlindMetric, FullReferenceMetric, Metric, QualityMap

# The metrics that the package ships with.
metric = iqa_jax.load()
assert_type(metric, FullReferenceMetric)
assert_type(iqa_jax.load("full-reference", crops="ten"), FullReferenceMetric)
blind = iqa_jax.load("blind", batch_size=4)
assert_type(blind, BlindMetric)

# Files, images of Pillow's and arrays, by position or by keyword.
reference, distorted = iqa_jax.read_image("original.png"), iqa_jax.read_image(Path("restored.png"))
assert_type(reference, np.ndarray)
assert_type(metric("original.png", "restored.png"), np.ndarray)
assert_type(metric(distorted=Path("restored.png"), reference=Image.new("RGB", (64, 64))), np.ndarray)
assert_type(metric(metric.prepare(reference), distorted, mask="part.png"), np.ndarray)
assert_type(blind("restored.png"), np.ndarray)

# The content of files, open files, lists of pictures of any sizes.
assert_type(metric(Path("original.png").read_bytes(), open("restored.png", "rb")), np.ndarray)
assert_type(metric("original.png", ["blurred.png", "sharpened.png"]), np.ndarray)
assert_type(metric(metric.prepare(["a.png", "b.png"]), (reference, b"")), np.ndarray)
assert_type(blind([distorted, Path("restored.png")], mask=[None, "part.png"]), np.ndarray)
assert_type(blind(distorted=distorted), np.ndarray)
assert_type(metric.map(reference, distorted), QualityMap)
assert_type(blind.map(distorted).values, np.ndarray)
assert_type(metric.stream([(reference, distorted)]), Iterator[np.floating])
assert_type(metric.range, tuple[float, float])
assert_type(metric.higher_is_better, bool)

# A loss to train with.
images = jax.numpy.zeros((2, 64, 64, 3))
assert_type(metric.loss(images, images), jax.Array)
assert_type(metric.loss(reference=images, distorted=images, windows=4, key=jax.random.key(0)), jax.Array)
assert_type(blind.loss(images), jax.Array)

# Other weights: which of the two it is, a program asks.
mine = iqa_jax.load("runs/conformer", step="latest", ema=True)
assert_type(mine, Metric)
assert_type(iqa_jax.load(Path("runs/conformer")), Metric)
assert_type(mine(reference, distorted), np.ndarray)
assert_type(mine.loss(images), jax.Array)
if isinstance(mine, FullReferenceMetric):
    assert_type(mine(reference=reference, distorted=distorted), np.ndarray)

# The classical measures.
assert_type(iqa_jax.psnr(reference, distorted), float | np.ndarray)
assert_type(iqa_jax.ssim(reference=reference, distorted=distorted), float | np.ndarray)

# A shift against the reference, undone.
assert_type(iqa_jax.align(reference, "restored.png").distorted, np.ndarray)
assert_type(iqa_jax.align(reference, distorted).shift, tuple[float, float])
