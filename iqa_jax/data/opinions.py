"""KADID-10k's mean opinion scores of its distortions.

`kadid10k_mean_mos.csv`, beside this file, holds the mean opinion score of each type and level over the data
set's 81 photographs, and the parameter where it is known (Lin, Hosu and Saupe, QoMEX 2019).

    mean_opinion("jpeg", 4)            # 1.9454, on a scale from 1 (bad) to 5 (excellent)
"""

import csv
import functools
import importlib.resources

from iqa_jax.data.distortions import KADID_TYPES, check_level
from iqa_jax.errors import UserError


def mean_opinion(type: str, level: int) -> float:
    """KADID-10k's mean opinion score of a type and level, from 1 (bad) to 5 (excellent).

    Raises:
      UserError: an unknown type or level, or one outside KADID-10k.
    """
    check_level(type, level)
    if type not in KADID_TYPES:
        raise UserError(f"no opinion is known of {type}: expected one of {', '.join(KADID_TYPES)}")
    return _opinions()[type, level]


@functools.cache
def _opinions():
    file = importlib.resources.files("iqa_jax.data") / "kadid10k_mean_mos.csv"
    lines = file.read_text(encoding="utf-8").splitlines()[1:]  # the first names the source
    return {(row["type"], int(row["level"])): float(row["mos_mean"]) for row in csv.DictReader(lines)}
