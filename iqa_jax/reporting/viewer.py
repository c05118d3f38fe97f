"""A page of the pairs of an evaluation on which the model and people differ most."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from iqa_jax.evaluation.evaluation import Evaluation
from iqa_jax.reporting.page import Entry, Page
from iqa_jax.reporting.report import label_of, residuals
from iqa_jax.scoring.metric import BlindMetric, FullReferenceMetric
from iqa_jax.scoring.results import scale_text

VIEWED = 40  # pairs, since maps take time and pictures take disk


def write_viewer(
    evaluation: Evaluation,
    metric: FullReferenceMetric | BlindMetric,
    directory: Path,
    progress: Callable[[int], object] = lambda pairs: None,
) -> Path:
    """Writes a page (`iqa_jax.reporting.page`) of the pairs farthest above and below the linear fit.

    Args:
      metric: the weights that were evaluated, as `Predictor.metric` gives.
      directory: of the page.
      progress: called with the number of pairs just drawn.
    """
    source, residual = evaluation.source, residuals(evaluation)
    order = np.argsort(residual, kind="stable")
    chosen = order if len(order) <= VIEWED else [*order[: VIEWED // 2], *order[-VIEWED // 2 :]]
    with Page(directory, as_files=False) as page:
        entries = []
        for number, position in enumerate(chosen):
            name = str(source.name[position])
            reference = str(source.reference[position]) if source.paired else None
            files, images = [Path("distorted", name)], [source.distorted_image(position)]
            if reference:
                files.insert(0, Path("reference", reference))
                images.insert(0, source.reference_image(reference))
            quality = metric.map(*(images if metric.full_reference else images[-1:]))
            page.add(number, files, images, quality)
            measured = {
                label_of(source): float(source.mos[position]),
                "from the linear fit": float(residual[position]),
            }
            score = float(evaluation.predicted[position])
            entries.append(Entry(name, reference, reference or name, "", score, None, measured))
            progress(1)
        remark = f"{evaluation.weights}, {evaluation.crops} crops: {scale_text(metric.range)}; "
        remark += f"{len(entries)} of {len(source)} pairs"
        if len(entries) < len(source):
            remark += ", the most over-rated and the most under-rated"
        return page.write(f"{source.dataset}, {source.split}", remark, "MOS", entries)
