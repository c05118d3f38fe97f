"""Agreement of metrics with people on judged pictures: the tables of docs/agreement.md.

    pip install '.[report]' piq torchvision ssimulacra2 && apt-get install libjxl-devtools
    python benchmarks/agreement.py judged.csv
    python benchmarks/agreement.py judged.csv --weights runs/conformer --measure haarpsi --measure vsi

The table has the columns reference, distorted, and mos (higher is better) or dmos (lower is better), and, if
there is one, distortion; files are relative to it.  Without the column reference, only what needs none is
measured, and a column content may say which pictures belong together.

The metrics of this project score whole pictures as `score` does.  HaarPSI, MDSI, GMSD, VSI, FSIMc, IW-SSIM,
MS-SSIM, VIF and SSIM are piq's on RGB, as its functions compute them by default; the tables were made with
piq 0.8.0.  PSNR is this project's, on luma.  Butteraugli is libjxl's, as its 3-norm and as its maximum;
SSIMULACRA 2 and BRISQUE come from packages of these names.  What is not installed is left out.

Intervals are those of a bootstrap over references.  Each row is compared with the best classical measure on
the same resamples.  PLCC is that after the 5-parameter logistic.  Thirds are those of the opinions, see
docs/protocol.md.
"""

import csv
import functools
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from measures import MEASURES, installed, measured_files
from tables import Output, put_out
from tqdm import tqdm

import iqa_jax
from iqa_jax.data.layouts import read_pair_table
from iqa_jax.data.numerals import numbers
from iqa_jax.errors import DataError, UserError
from iqa_jax.evaluation.agreement import correlations, srcc, thirds
from iqa_jax.evaluation.statistics import ComparedNumber, compare_numbers, fit_logistic
from iqa_jax.ops.programs import keep_programs
from iqa_jax.scoring.files import score_files
from iqa_jax.scoring.load import BLIND, FULL_REFERENCE

SHIPPED = {FULL_REFERENCE: "full-reference (shipped)", BLIND: "blind (shipped; no reference)"}


class Judged(NamedTuple):
    """Judged pictures: (N,) each; no references where the table has none, a content for each pair."""

    references: list[Path | None]
    distorted: list[Path]
    contents: np.ndarray
    mos: np.ndarray
    types: np.ndarray


def read(table: Path) -> Judged:
    """The rows of a table that have an opinion."""
    problems: list[str] = []
    listed = read_pair_table(table, ("distorted",), problems, lambda line: print(line, file=sys.stderr))
    rows = listed.rows
    columns = rows[0][1] if rows else {}
    label = "dmos" if "dmos" in columns else "mos"
    opinions = numbers([row.get(label) for _, row in rows])
    if problems or not any(opinion is not None for opinion in opinions):
        raise DataError("; ".join(problems) or f"{table}: no column mos or dmos with numbers")
    known = [(row, opinion) for (_, row), opinion in zip(rows, opinions, strict=True) if opinion is not None]

    def file(row: dict[str, str], column: str) -> Path:
        return table.parent / listed.path(table.parent, row[column])

    references = [file(row, "reference") if row.get("reference") else None for row, _ in known]
    distorted = [file(row, "distorted") for row, _ in known]
    contents = [
        str(reference or row.get("content") or path)
        for reference, path, (row, _) in zip(references, distorted, known, strict=True)
    ]
    mos = np.array([opinion if label == "mos" else -opinion for _, opinion in known])
    types = np.array([row.get("distortion", "") for row, _ in known])
    return Judged(references, distorted, np.array(contents), mos, types)


def own_scores(judged: Judged, weights: str) -> np.ndarray | None:
    """Scores of whole pictures by a metric of this project; None if it lacks the references that it needs."""
    metric = iqa_jax.load(weights)
    if metric.full_reference and None in judged.references:
        print(f"left out: {weights}; there are no references", file=sys.stderr)
        return None
    references = judged.references if metric.full_reference else [None] * len(judged.mos)
    pairs = list(zip(judged.distorted, references, strict=True))
    scores = np.full(len(pairs), np.nan)
    for position, result in tqdm(score_files(metric, pairs), weights, len(pairs), unit="pair"):
        if result.score is None:
            raise DataError(f"{result.target}: {result.error}")
        scores[position] = result.score
    return scores


def classical_scores(judged: Judged, names: list[str], processes: int) -> dict[str, np.ndarray]:
    """Scores by the titles of measures; one that fails on a pair is left out with a line that says why."""
    names, lines = installed(names, paired=None not in judged.references)
    found: list[dict] = []
    if names:
        work = functools.partial(measured_files, names)
        pairs = zip(judged.references, judged.distorted, strict=True)
        with multiprocessing.get_context("spawn").Pool(min(processes, len(judged.mos))) as pool:
            found += tqdm(pool.imap(work, pairs), "other measures", len(judged.mos), unit="pair")
    scores = {}
    for name in names:
        title, column = MEASURES[name].title, [values[name] for values in found]
        failed = next((position for position, value in enumerate(column) if isinstance(value, str)), None)
        if failed is None:
            scores[title] = np.array(column)
        else:
            lines.append(f"left out: {title}; {judged.distorted[failed]}: {column[failed]}")
    print("\n".join(lines), end="\n" * bool(lines), file=sys.stderr)
    return scores


def report(judged: Judged, scores: dict[str, np.ndarray], rivals: list[str], resamples: int) -> dict:
    """All figures, as JSON can hold them.

    Args:
      rivals: the classical measures that are full-reference; the best of them is what all are compared with.
    """

    def all_srcc(at: np.ndarray) -> dict[str, float]:
        return {title: _srcc(values[at], judged.mos[at]) for title, values in scores.items()}

    everything = all_srcc(np.arange(len(judged.mos)))
    best = max(rivals, key=lambda title: np.nan_to_num(everything[title], nan=-2)) if rivals else None
    with tqdm(total=resamples, desc="bootstrap", unit="resample") as bar:
        base = best or next(iter(scores))
        compared = compare_numbers(judged.contents, all_srcc, base, resamples=resamples, progress=bar.update)
    bands = thirds(judged.mos)
    kinds = {kind: np.flatnonzero(judged.types == kind) for kind in sorted(set(judged.types) - {""})}

    def figures(title: str, comparison: ComparedNumber) -> dict:
        values = scores[title]
        fit = fit_logistic(values, judged.mos, parameters=5)
        row = {
            "srcc": comparison.value,
            "interval_95": comparison.interval,
            "plcc": correlations(fit.mapped, judged.mos)["plcc"] if fit.succeeded else np.nan,
            "by_opinion": {name: _srcc(values[at], judged.mos[at]) for name, at in bands.items()},
            "by_type": {kind: _srcc(values[at], judged.mos[at]) for kind, at in kinds.items()},
        }
        if best is not None and title != best:
            row["difference"] = comparison.difference
            row["difference_interval_95"] = comparison.difference_interval
            row["verdict"] = comparison.verdict
        return row

    return {
        "pairs": len(judged.mos),
        "references": len(set(judged.contents)),
        "best_classical": best,
        "pairs_by_opinion": {name: len(at) for name, at in bands.items()},
        "pairs_by_type": {kind: len(at) for kind, at in kinds.items()},
        "measures": {title: figures(title, comparison) for title, comparison in compared.items()},
    }


def _srcc(values: np.ndarray, mos: np.ndarray) -> float:
    """NaN where it is not defined."""
    varied = len(mos) > 1 and np.ptp(values) > 0 and np.ptp(mos) > 0
    return srcc(values, mos) if varied else float("nan")


def markdown(found: dict) -> str:
    """The figures as two tables: over all and by opinion; by type, if there are several."""
    best = found["best_classical"]
    size = f"{found['pairs']} pairs, {found['references']} references"
    counts = [f"{name} ({count})" for name, count in found["pairs_by_opinion"].items()]
    compared = [f"difference to {best}", "its interval", "verdict"] if best else []
    header = [size, "SRCC", "interval", *compared, "PLCC", *counts]
    lines = [_line(header), f"|---|{'---:|' * (len(header) - 1)}"]
    for title, row in found["measures"].items():
        difference = [""] * len(compared)
        if "difference" in row:
            value = f"{row['difference']:+.3f}"
            difference = [value, _interval(row["difference_interval_95"], "+"), row["verdict"]]
        thirds_of = map(_number, row["by_opinion"].values())
        over_all = [_number(row["srcc"]), _interval(row["interval_95"])]
        lines.append(_line([title, *over_all, *difference, _number(row["plcc"]), *thirds_of]))
    kinds = found["pairs_by_type"]
    if len(kinds) > 1:
        lines += ["", _line(["SRCC by type", *(f"{kind} ({count})" for kind, count in kinds.items())])]
        lines.append(f"|---|{'---:|' * len(kinds)}")
        lines += [
            _line([title, *map(_number, row["by_type"].values())]) for title, row in found["measures"].items()
        ]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _interval(ends: tuple[float, float], sign: str = "") -> str:
    return "–" if np.isnan(ends[0]) else f"{ends[0]:{sign}.3f} to {ends[1]:{sign}.3f}"


def _finite(value):
    """None for NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def main(
    table: Annotated[Path, typer.Argument(help="The judged pictures.")],
    weights: Annotated[
        list[str] | None, typer.Option(help="Further weights to measure, as `score` takes them; repeatable.")
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Measure these alone, beside the weights; repeatable: {', '.join(MEASURES)}, "
            f"{', '.join(SHIPPED)}."
        ),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="That compute the other measures.")] = 2,
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 1000,
    scores: Annotated[
        Path | None, typer.Option(help="A CSV file for all scores of each pair; distances are negated.")
    ] = None,
    to_json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    output: Output = None,
) -> None:
    """Print how well metrics and other measures agree with the opinions in a table."""
    chosen = measure or [*SHIPPED, *MEASURES]
    if unknown := [name for name in chosen if name not in {*SHIPPED, *MEASURES}]:
        sys.exit(f"--measure {unknown[0]}: expected one of {', '.join([*SHIPPED, *MEASURES])}")
    keep_programs()
    try:
        judged = read(table)
        columns = {}
        for name in [*(name for name in SHIPPED if name in chosen), *(weights or [])]:
            values = own_scores(judged, name)
            if values is not None:
                columns[SHIPPED.get(name, name)] = values
        classical = classical_scores(judged, [name for name in MEASURES if name in chosen], processes)
    except UserError as error:
        sys.exit(f"error: {error}")
    if not (columns or classical):
        sys.exit("nothing was measured")
    rivals = [m.title for m in MEASURES.values() if m.title in classical and not m.blind]
    columns |= classical
    if scores:
        with open(scores, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["reference", "distorted", "distortion", "mos", *columns])
            files = zip(judged.references, judged.distorted, judged.types, judged.mos, strict=True)
            for known, values in zip(files, zip(*columns.values(), strict=True), strict=True):
                rows.writerow([*known, *(f"{value:.6f}" for value in values)])
    found = report(judged, columns, rivals, resamples)
    if to_json:
        to_json.write_text(json.dumps(_finite(found), indent=2) + "\n", encoding="utf-8")
    put_out(markdown(found), output)


if __name__ == "__main__":
    typer.run(main)
