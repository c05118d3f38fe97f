"""The model card of a metric: its training data, its agreement with people, and where it fails."""

import csv
from pathlib import Path

import jinja2
from photographs import LISTED, Photograph

TEMPLATE = Path(__file__).with_name("card.md.jinja")


def card_text(source: dict, listed: list[Photograph], judged: dict | None, *, full_reference: bool) -> str:
    """The card, Markdown, of weights that come from `source`.

    Args:
      judged: the `metrics-….json` that `evaluate` wrote for pairs that people judged, if there are any.
    """
    used = {photograph.number for photograph in listed}
    rows = list(csv.DictReader(LISTED.open(newline="", encoding="utf-8")))
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        full_reference=full_reference,
        photographs=[row for number, row in enumerate(rows) if number in used],
        held_out=sum(photograph.held_out for photograph in listed),
        training=source["training"],
        data=source["data"],
        judged=judged,
    )
    return text.strip() + "\n"
