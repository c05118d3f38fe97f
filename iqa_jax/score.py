"""Scores of image files: a number, a table, CSV, JSON or heat maps."""

import csv
import dataclasses
import io
import json
import math
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from iqa_jax.errors import UserError
from iqa_jax.files import output_file, writable_directory, write_whole
from iqa_jax.images import read_image
from iqa_jax.pairing import expand, find_pairs
from iqa_jax.together import do_together, grouped

_AHEAD = 2  # images decoded while another is scored
_PART = 32  # images that a process takes at a time, when several do the work
_LEGEND = 72  # pixels of width
_BAR = 16


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one pair.

    Attributes:
      target, reference: the files; no reference for a no-reference metric.
      score: in the metric's units; None if it could not be computed.
      error: why not, or why the heat map could not be written; None if all went well.
      passing: whether another try may succeed: the device was out of memory, say, or the disk full.
    """

    target: Path
    reference: Path | None
    score: float | None = None
    error: str | None = None
    passing: bool = False


class _Passing(UserError):
    """A failure of the machine, not of what it was given."""


_COLUMNS = ("target", "reference", "score", "error")


def score_files(
    metric,
    pairs: Sequence[tuple[Path, Path | None]],
    *,
    maps: Mapping[Path, Path] | None = None,
    say: Callable[[str], None] = warnings.warn,
    progress: Callable[[int], object] = lambda pairs: None,
) -> list[Result]:
    """Scores pairs of files; what fails is told in its result and does not stop the others.

    Files are decoded and heat maps written in threads, beside the metric's work.  The pairs of one
    reference are scored one after the other, with the reference prepared once.

    Args:
      metric: as `iqa_jax.load` gives.
      pairs: (target, reference) files.
      maps: the file for the heat map of each target, see `save_map` and `map_files`.
      say: is told what `read_image` has to say.
      progress: called with 1 after each pair.
    Returns:
      A result for each pair, in their order.
    """
    groups: dict[Path | None, list[int]] = {}
    for position, (_, reference) in enumerate(pairs):
        groups.setdefault(reference, []).append(position)
    images = _read_ahead(_in_order(pairs, groups), say)
    scores, written = {}, {}

    with ThreadPoolExecutor(1) as writer:
        for positions in groups.values():
            reference = next(images)
            before, prepared = (), ()
            if metric.full_reference:
                before, prepared = (reference,), (_attempt(metric.prepare, reference),)
            for position in positions:
                target = next(images)
                score = scores[position] = _attempt(_score, metric, *prepared, target)
                if maps and not isinstance(score, UserError):
                    mapped = _attempt(metric.map, *before, target)
                    wait(list(written.values())[-1:])  # no more than one map waits in memory
                    written[position] = writer.submit(
                        _attempt, save_map, maps[pairs[position][0]], target, mapped, metric.range
                    )
                progress(1)

    results = []
    for position, (target, reference) in enumerate(pairs):
        score = scores[position]
        failure = written[position].result() if position in written else None
        passing = isinstance(failure, _Passing)
        if isinstance(score, UserError):
            results.append(Result(target, reference, None, str(score), isinstance(score, _Passing)))
        else:
            told = None if failure is None else f"no map: {failure}"
            results.append(Result(target, reference, score, told, passing))
    return results


def _in_order(pairs, groups: dict[Path | None, list[int]]) -> Iterator[Path | None]:
    """Each reference followed by its targets."""
    for reference, positions in groups.items():
        yield reference
        yield from (pairs[position][0] for position in positions)


def _read_ahead(paths: Iterable[Path | None], say) -> Iterator[np.ndarray | UserError | None]:
    """The image of each path or why it cannot be read, decoded in a thread; None for None."""

    def read(path):
        return None if path is None else _attempt(lambda: read_image(path, say=say))

    with ThreadPoolExecutor(1) as reader:
        waiting = deque()
        for path in paths:
            waiting.append(reader.submit(read, path))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _attempt(function: Callable, *arguments):
    """What `function` returns; a failure, raised or among the arguments, is returned as a UserError."""
    failures = [argument for argument in arguments if isinstance(argument, UserError)]
    if failures:
        return failures[0]
    try:
        return function(*arguments)
    except UserError as error:
        return error
    except (OSError, MemoryError, RuntimeError) as error:  # RuntimeError: also the device's, out of memory
        return _Passing((str(error) or type(error).__name__).splitlines()[0])


def _score(metric, *images) -> float:
    score = float(metric(*images))
    if not math.isfinite(score):
        raise UserError(f"the metric gives {score}; are the weights damaged?")
    return score


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Columns target, reference, score, error; a row for each result.

    A name that is not UTF-8 stands there with its own bytes.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows([getattr(result, column) for column in _COLUMNS] for result in results)
    write_whole(path, text.getvalue())


def to_json(results: Sequence[Result]) -> list[dict]:
    """Objects with target, reference, and score or error; what a result does not have is left out."""
    return [
        {
            name: str(value) if isinstance(value, Path) else value
            for name in _COLUMNS
            if (value := getattr(result, name)) is not None
        }
        for result in results
    ]


def heat_map(image: np.ndarray, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colours for the quality, half transparent over the image in grey, and a legend on the right.

    Args:
      image: (H, W, 3) uint8.
      values: (H, W), in the metric's units.
      low, high: the values of the first and last colour, purple and yellow.
    Returns:
      (H, W + 72, 3) uint8.
    """
    from matplotlib import colormaps

    colors = colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    level = np.clip((values - low) / (high - low), 0, 1) * 255
    grey = np.asarray(Image.fromarray(image).convert("L"))
    over = colors[level.astype(np.uint8)] // 2 + grey[..., None] // 2

    height = len(image)
    legend = np.full((height, _LEGEND, 3), 255, np.uint8)
    legend[:, 4 : 4 + _BAR] = colors[np.linspace(255, 0, height).astype(np.uint8)][:, None]
    legend = Image.fromarray(legend)
    draw = ImageDraw.Draw(legend)
    draw.text((8 + _BAR, 1), f"{high:.4g}", fill="black", anchor="lt")
    draw.text((8 + _BAR, height - 2), f"{low:.4g}", fill="black", anchor="lb")
    return np.concatenate([over, np.asarray(legend)], axis=1)


def save_map(path: Path, image: np.ndarray, quality, scale: tuple[float, float]) -> None:
    """Writes a heat map as PNG.

    Args:
      image: (H, W, 3) uint8.
      quality: what `metric.map` gave for it.
      scale: values of the first and last colour.
    """
    buffer = io.BytesIO()
    Image.fromarray(heat_map(image, quality.values, *scale)).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())


def map_files(directory: Path, targets: Iterable[Path]) -> dict[Path, Path]:
    """`NAME-map.png` for each target; where several have one name, `NAME-map-2.png` and so on."""
    taken, files = set(), {}
    for target in dict.fromkeys(targets):
        name, number = f"{target.stem}-map.png", 2
        while name.lower() in taken:  # some file systems do not tell the case
            name, number = f"{target.stem}-map-{number}.png", number + 1
        files[target] = directory / name
        taken.add(name.lower())
    return files


def score_command(
    metric,
    target_patterns: Sequence[str],
    reference: str | None = None,
    *,
    csv: Path | None = None,
    as_json: bool = False,
    sort: bool = False,
    map_dir: Path | None = None,
    together: Path | None = None,
) -> int:
    """Scores files and prints a number for one pair, a table for several, or JSON.

    Progress, remarks and failures go to standard error.

    Args:
      metric: as `iqa_jax.load` gives.
      target_patterns: files, directories or patterns.
      reference: a file, directory or pattern, or a CSV file of pairs; None for a no-reference metric.
      csv: a file to write, too.
      as_json: standard output is a list of objects, see `to_json`.
      sort: the best first, failures last.
      map_dir: directory for heat maps.
      together: directory of a job that other processes, given the same, do too; see `do_together`.
    Returns:
      Exit code: 0, or 1 if something failed.
    Raises:
      UserError: nothing to score, or it cannot be paired.
    """
    from tqdm import tqdm

    pairs = _pairs(metric, target_patterns, reference)
    if csv:
        csv = output_file(csv)
        _check_not_read(csv, pairs, reference)
    maps = None
    if map_dir:
        maps = map_files(writable_directory(map_dir), [target for target, _ in pairs])
    said = set()
    with tqdm(total=len(pairs), desc="scoring", unit="image", leave=False, disable=len(pairs) == 1) as bar:

        def say(text):
            if text not in said:
                said.add(text)
                bar.write(text, file=sys.stderr)

        def of(some, progress=bar.update):
            return score_files(metric, some, maps=maps, say=say, progress=progress)

        results = _score_together(of, metric, pairs, together, bar) if together else of(pairs)
    if sort:
        results.sort(key=lambda r: math.inf if r.score is None else -r.score)
    if csv:
        write_csv(csv, results)
    if as_json:
        print(json.dumps(to_json(results), indent=2))
    else:
        _print_scores(results)
    failed = [result for result in results if result.error]
    for result in failed:
        print(f"error: {_failure(result)}", file=sys.stderr)
    return 1 if failed else 0


def _check_not_read(output: Path, pairs, reference: str | None) -> None:
    """Raises UserError if a file to write is one of those that are read."""
    read = {path for pair in pairs for path in pair if path} | ({Path(reference)} if reference else set())
    if output.exists() and any(path.exists() and output.samefile(path) for path in read):
        raise UserError(f"{output}: is read here; choose another file to write")


def _score_together(of, metric, pairs, directory: Path, bar) -> list[Result]:
    """The results of all pairs, of which other processes have worked out a part."""
    parts = grouped([reference or target for target, reference in pairs], _PART)
    identity = {"metric": metric.describe(), "pairs": [[str(path) for path in pair] for pair in pairs]}

    def advance(number):
        bar.update(len(parts[number]))

    def work(number):
        found = of([pairs[position] for position in parts[number]], progress=lambda pairs: None)
        for result in found:
            if result.passing:  # not to be kept as what came of it
                raise UserError(f"{_failure(result)}; what is done is kept, start again to go on")
        return [[result.score, result.error] for result in found]

    done = do_together(directory, len(parts), work, identity=identity, progress=advance)
    results: list = [None] * len(pairs)
    for part, values in zip(parts, done, strict=True):
        for position, (score, error) in zip(part, values, strict=True):
            results[position] = Result(*pairs[position], score, error)
    return results


def _pairs(metric, target_patterns, reference) -> list[tuple[Path, Path | None]]:
    if not metric.full_reference:
        if reference is not None:
            raise UserError("this metric needs no reference; leave --reference out")
        return [(target, None) for target in expand(target_patterns)]
    if reference is None:
        raise UserError("this metric compares with a reference; give --reference FILE, DIRECTORY or CSV")
    return find_pairs(target_patterns, reference)


def _failure(result: Result) -> str:
    """The reason, with the target's name where it does not have it already."""
    name = str(result.target)
    return result.error if result.error.startswith(name) else f"{name}: {result.error}"


def _print_scores(results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    scores = [result.score for result in results if result.score is not None]
    if len(results) == 1:
        print(*(f"{score:.4f}" for score in scores), end="\n" if scores else "")
        return
    mean = f", mean {np.mean(scores):.4f}" if scores else ""
    table = Table(caption=f"{len(scores)} of {len(results)} scored{mean}")
    table.add_column("target", overflow="fold")
    table.add_column("reference", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    for result in results:
        score = "–" if result.score is None else f"{result.score:.4f}"
        table.add_row(str(result.target), str(result.reference or "–"), score)
    Console(markup=False, highlight=False, emoji=False).print(table)
