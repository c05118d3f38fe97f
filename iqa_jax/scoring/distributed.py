"""Scores of files and of data sets on a Ray cluster."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.errors import UserError
from iqa_jax.files import local_path
from iqa_jax.parallel.cluster import TRIES, WorkersLost, run_parts
from iqa_jax.parallel.jobs import grouped
from iqa_jax.scoring.dataset import Predictor
from iqa_jax.scoring.files import score_files
from iqa_jax.scoring.load import load
from iqa_jax.scoring.results import FilePair, Result
from iqa_jax.weights.hub import on_hub

_FILES, _PAIRS = 32, 64  # in a part: files, or pairs of a data set


def score_files_on_cluster(
    weights: str | os.PathLike,
    options: Mapping,
    pairs: Sequence[FilePair],
    *,
    address: str,
    workers: int,
    only: Iterable[int] | None = None,
    masks: Mapping[Path, Path] | None = None,
    resize: str | None = None,
) -> Iterator[tuple[int, Result]]:
    """As `score_files`, by the workers of a cluster; the pairs of one reference stay together.

    Args:
      weights, options: the arguments of `load`.
      address, workers: see `iqa_jax.parallel.cluster.run_parts`.
    """
    chosen = range(len(pairs)) if only is None else list(only)
    groups = grouped([pairs[k][1] or pairs[k][0] for k in chosen], _FILES)
    parts = [[chosen[k] for k in group] for group in groups]
    files = [[tuple(path and path.resolve() for path in pairs[k]) for k in part] for part in parts]
    shown = {target.resolve(): mask.resolve() for target, mask in (masks or {}).items()}
    build = functools.partial(_file_worker, _from_anywhere(weights), dict(options), shown, resize)
    try:
        for number, results in run_parts(build, files, address=address, workers=workers):
            for position, result in zip(parts[number], results, strict=True):
                target, reference = pairs[position]  # as they were given, not as the workers find them
                yield position, dataclasses.replace(result, target=target, reference=reference)
    except WorkersLost as failure:
        for number, reason in failure.reasons.items():
            error = f"one of {len(parts[number])} images whose worker ended {TRIES} times: {reason}"
            for position in parts[number]:
                target, reference = pairs[position]
                yield position, Result(target, reference, error=error, transient=True)


def _file_worker(weights: str, options: dict, masks: Mapping, resize: str | None) -> Callable:
    metric = load(weights, **options)

    def work(pairs: Sequence[FilePair]) -> list[Result]:
        results = dict(score_files(metric, pairs, masks=masks, resize=resize, say=lambda text: None))
        return [results[position] for position in range(len(pairs))]

    return work


def predict_on_cluster(
    weights: str | os.PathLike,
    options: Mapping,
    source: PairSource,
    *,
    data_dir: str,
    address: str,
    workers: int,
    progress: Callable[[int], object] = lambda pairs: None,
) -> np.ndarray:
    """Predicted MOS (N,) of the pairs, by the workers of a cluster, where the prepared data lie too.

    Args:
      weights, options: the arguments of `Predictor`.
      data_dir: where the prepared data lie.
    """
    parts = grouped(source.reference, _PAIRS)
    place = _from_anywhere(data_dir) if data_dir else ""
    build = functools.partial(
        _split_worker, _from_anywhere(weights), dict(options), source.dataset, source.base, place
    )
    predicted = np.empty(len(source), np.float32)
    positions = [source.index[part] for part in parts]
    try:
        for number, scores in run_parts(build, positions, address=address, workers=workers):
            predicted[parts[number]] = scores
            progress(len(parts[number]))
    except WorkersLost as failure:
        first = parts[next(iter(failure.reasons))]
        raise UserError(f"{source.dataset}: from {source.name[first[0]]} on, {failure}") from None
    return predicted


def _split_worker(weights: str, options: dict, dataset: str, split: str, data_dir: str) -> Callable:
    predictor = Predictor(weights, **options)
    whole = PairSource(prepare_dataset(dataset, data_dir=data_dir or None), split)
    return lambda positions: predictor(whole.select(positions))


def _from_anywhere(path: str | os.PathLike) -> str:
    """A path that is valid in any working directory; a name or an address as it is."""
    is_path = not on_hub(path) and local_path(path).exists()
    return str(local_path(path).absolute()) if is_path else os.fspath(path)
