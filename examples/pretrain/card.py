"""The model card of a metric: its training data, its agreement with people, and where it fails."""

import csv
import json
from pathlib import Path

import jinja2
from photographs import LISTED, Photograph

TEMPLATE = Path(__file__).with_name("card.md.jinja")


def write_card(path: Path, run: Path, listed: list[Photograph], judged: Path | None, *, half: bool) -> Path:
    """Writes the card of the metric that was trained in `run`.

    Args:
      judged: the `metrics-….json` that `evaluate` wrote for pairs that people judged, if there are any.
      half: whether the numbers are kept as float16.
    """
    record = json.loads((run / "config.json").read_text())
    used = {photograph.number for photograph in listed}
    rows = list(csv.DictReader(LISTED.open(newline="", encoding="utf-8")))
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        full_reference=record["model"]["name"] != "blind_student",
        half=half,
        photographs=[row for number, row in enumerate(rows) if number in used],
        held_out=sum(photograph.held_out for photograph in listed),
        training=record["training"],
        data=record["data"],
        last=json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]),
        judged=judged and json.loads(judged.read_text()),
    )
    path.write_text(text.strip() + "\n", encoding="utf-8")
    return path
