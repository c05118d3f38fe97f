"""The report of an evaluation, and samples as a model sees them in training."""

import functools
import os
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from iqa_jax.data.source import PairSource
from iqa_jax.errors import DataError
from iqa_jax.evaluation.baselines import psnr, ssim
from iqa_jax.evaluation.evaluation import Evaluation
from iqa_jax.files import writable_directory, write_whole
from iqa_jax.reporting.plots import Panel, polynomial_fit, save_bars, save_panels, save_scatter
from iqa_jax.reporting.templates import environment

_THUMBNAIL = 288  # longest side of an image in the report
_WORST = 3  # pairs shown each way
_EXAMPLES = 5  # distorted versions shown of one reference
_MEASURES = {"plcc": "PLCC", "srcc": "SRCC", "krcc": "KRCC", "rmse": "RMSE", "main_score": "main score"}


def write_report(evaluation: Evaluation, directory: Path, *, viewer: Path | None = None) -> Path:
    """Writes `report-NAME.html`, which needs no other file, and its figures as PNG; returns the page.

    The figures are `scatter-NAME.png`, `types-NAME.png` (if the data set has distortion types),
    `overrated-NAME.png` and `underrated-NAME.png` (if there are such pairs) and `examples-NAME.png`
    (if there are references).

    Args:
      viewer: a page in `directory` to link to, see `iqa_jax.reporting.viewer`.
    Raises:
      UserError: `directory` is not writable.
    """
    templates = environment()
    directory = writable_directory(directory)
    source, predicted = evaluation.source, evaluation.predicted
    label = label_of(source)

    def figure(kind):
        return directory / f"{kind}-{evaluation.name}.png"

    save_scatter(figure("scatter"), predicted, source.mos, label=label)
    types = evaluation.by("distortion")
    if types:
        save_bars(figure("types"), _sorted_srcc(types), label="SRCC")
    over, under = _worst(evaluation)
    for kind, panels in (("overrated", over), ("underrated", under)):
        if panels:
            save_panels(figure(kind), panels, columns=1)
    examples = _examples(evaluation)
    if examples:
        save_panels(figure("examples"), examples, columns=3)

    html = templates.get_template("report.html.jinja").render(
        source=source,
        facts=_facts(evaluation),
        label=label,
        measures=_MEASURES,
        rows=_metric_rows(evaluation),
        baselines=[name.upper() for name in evaluation.baselines],
        scatter=figure("scatter").read_bytes(),
        bars=figure("types").read_bytes() if types else None,
        thirds=_thirds(evaluation),
        types=types,
        references=evaluation.by("reference"),
        worst={"Over-rated": over, "Under-rated": under},
        viewer=viewer and quote(os.fsencode(viewer.relative_to(directory).as_posix())),
        examples=examples,
    )
    page = directory / f"report-{evaluation.name}.html"
    write_whole(page, html)
    return page


def save_samples(
    path: Path, source: PairSource, *, count: int, seed: int, crop_size: int, rotation: float
) -> None:
    """Draws pairs as a model sees them, with the crops of the first pass of a training run with `seed`.

    Args:
      count: how many pairs are drawn from `source` by `seed`; all if it has fewer.
      crop_size, rotation: see `iqa_jax.ops.augment.augment_pair`.
    Raises:
      DataError: an image is smaller than the crop.
    """
    import jax

    from iqa_jax.ops.augment import augment_pair
    from iqa_jax.ops.keys import example_key

    drawn = np.random.default_rng(seed).choice(len(source), min(count, len(source)), replace=False)
    source = source.select(np.sort(drawn))
    if source.size.min() < crop_size:
        name = source.name[source.size.min(axis=1).argmin()]
        raise DataError(f"{source.dataset}: {name} is smaller than crop_size={crop_size}")
    augment = jax.jit(functools.partial(augment_pair, crop_size=crop_size, rotation=rotation))
    panels = []
    for position, name in enumerate(source.name):
        distorted, index, mos = source.distorted_image(position), source.index[position], source.mos[position]
        reference = source.reference_image(source.reference[position]) if source.paired else distorted
        size = np.array(distorted.shape[:2], np.int32)
        crops = augment(example_key(seed, 0, index), reference, distorted, size)
        shown = [np.rint(np.asarray(crop) * 255).astype(np.uint8) for crop in crops]
        score = "no label" if np.isnan(mos) else f"{label_of(source)} {mos:.4g}"
        images = [*zip(("reference", "distorted"), shown, strict=True)][0 if source.paired else 1 :]
        panels.append(Panel(images, [name, score]))
    save_panels(path, panels, columns=2)


def label_of(source: PairSource) -> str:
    """The name of the labels; they are negated if lower is better."""
    return source.score.kind if source.score.higher_is_better else f"−{source.score.kind}"


def _facts(evaluation):
    source, score = evaluation.source, evaluation.source.score
    label = f"{score.kind}, {score.low:zg} to {score.high:zg}, "
    if score.higher_is_better:
        label += "higher is better"
    else:
        label += "lower is better; this page negates it, so that higher is better throughout"
    facts = {"Attention": evaluation.warning} if evaluation.warning else {}
    return facts | {
        "Data set": source.dataset,
        "Split": source.split,
        "Pairs": len(source),
        "References": len(set(source.reference)),
        "Label": label,
        "Weights": evaluation.weights,
        "Crops": evaluation.crops,
    }


def _metric_rows(evaluation):
    """Rows of the table of metrics: name, value, interval, values of the baselines, why a fit failed."""
    baselines = evaluation.baseline_metrics().values()
    rows = []
    for key, name in _MEASURES.items():
        others = [metrics[key] for metrics in baselines]
        rows.append((name, evaluation.metrics[key], evaluation.intervals[key], others, ""))
    nothing = (float("nan"), float("nan"))
    for fit, values in evaluation.mapped().items():
        for key, value in values.items():
            name = f"{_MEASURES[key]}, {fit[-1]}-parameter logistic"
            interval = evaluation.intervals.get(f"{fit}_{key}", nothing)
            others = [float("nan")] * len(baselines)
            rows.append((name, value, interval, others, evaluation.fits[fit].message))
    return rows


def _thirds(evaluation):
    """Metrics of each third of the opinions, by its name and the range of its labels."""
    return {
        f"{name}: {metrics['lowest_mos']:z.4g} to {metrics['highest_mos']:z.4g}"
        if metrics["pairs"]
        else name: metrics
        for name, metrics in evaluation.by_opinion().items()
    }


def _sorted_srcc(groups):
    """SRCC of each group, best first, undefined ones last."""
    values = {name: metrics["srcc"] for name, metrics in groups.items()}
    return dict(sorted(values.items(), key=lambda item: (np.isnan(item[1]), -item[1])))


def residuals(evaluation: Evaluation) -> np.ndarray:
    """How far each prediction lies above the linear fit, (N,)."""
    mos, predicted = evaluation.source.mos, evaluation.predicted
    line = polynomial_fit(mos, predicted, 1)(mos)
    return np.where(np.isclose(predicted, line), 0.0, predicted - line)


def _worst(evaluation):
    """Panels of the pairs that lie farthest above and farthest below the linear fit."""
    source, predicted, label = evaluation.source, evaluation.predicted, label_of(evaluation.source)
    residual = residuals(evaluation)
    order = np.argsort(residual, kind="stable")

    def panel(position):
        images = [(f"Distorted image {source.name[position]}", source.distorted_image(position))]
        if source.paired:
            name = source.reference[position]
            images.insert(0, (f"Reference {name}", source.reference_image(name)))
        return Panel(
            [(title, _thumbnail(image)) for title, image in images],
            [
                source.name[position],
                f"{label} {source.mos[position]:.4g}, predicted {predicted[position]:.4g}",
                f"{residual[position]:+.3g} from the linear fit",
            ],
        )

    over = [panel(position) for position in order[::-1][:_WORST] if residual[position] > 0]
    under = [panel(position) for position in order[:_WORST] if residual[position] < 0]
    return over, under


def _examples(evaluation):
    """Panels of the first reference and of distorted versions across their range of MOS, if it has any."""
    if not evaluation.source.paired:
        return []
    source = evaluation.source
    name, label = source.reference[0], label_of(source)
    candidates = np.flatnonzero(source.reference == name)
    mos = source.mos[candidates]
    nearest = [np.abs(mos - target).argmin() for target in np.linspace(mos.max(), mos.min(), _EXAMPLES)]
    reference = source.reference_image(name)
    panels = [Panel([(f"Reference {name}", _thumbnail(reference))], [name, "reference"])]
    for position in candidates[list(dict.fromkeys(nearest))]:
        distorted = source.distorted_image(position)
        if evaluation.baselines:
            decibel, similarity = (evaluation.baselines[key][position] for key in ("psnr", "ssim"))
        else:
            decibel, similarity = psnr(reference, distorted), ssim(reference, distorted)
        caption = [
            source.name[position],
            f"PSNR {decibel:.2f} dB".replace("inf", "∞"),
            f"SSIM {similarity:.3f}",
            f"{label} {source.mos[position]:.4g}",
            f"predicted {evaluation.predicted[position]:.4g}",
        ]
        image = _thumbnail(distorted)
        panels.append(Panel([(f"Distorted image {source.name[position]}", image)], caption))
    return panels


def _thumbnail(image):
    small = Image.fromarray(image)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(small)
