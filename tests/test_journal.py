"""What a work has done so far, as it survives damage."""

import json
import random

import pytest

from iqa_jax.files import Busy
from iqa_jax.journal import Journal, OtherJob, sealed, unsealed

pytestmark = pytest.mark.quick
IDENTITY = {"weights": "abc", "crops": "ten"}
NAMES = [
    "plain.png",
    "a,b.png",
    'quo"ted.png',
    "two\nlines\r.png",
    "\u2028sep.png",
    "caf\udce9.png",
    "日本.png",
]
RESULTS = {name: 3.0 + number / 7 for number, name in enumerate(NAMES)}


@pytest.fixture
def path(tmp_path):
    with Journal(tmp_path / "journal", IDENTITY) as journal:
        for name, result in RESULTS.items():
            journal.add(name, result)
    return tmp_path / "journal"


def test_any_name_comes_back_as_it_was(path):
    assert Journal(path, IDENTITY).results == RESULTS
    assert path.read_bytes().isascii() and path.read_bytes().count(b"\n") == 1 + len(NAMES)
    assert Journal(path, IDENTITY, anew=True).results == {}


def test_nothing_is_written_before_the_first_entry(tmp_path):
    with Journal(tmp_path / "journal", IDENTITY) as journal:
        assert journal.results == {}
    assert not any(tmp_path.iterdir())


def test_damage_loses_entries_and_never_changes_one(path):
    """Bytes flipped, cut, swapped, doubled and zeroed, a thousand times."""
    whole, chance = path.read_bytes(), random.Random(0)
    lost = 0
    for _ in range(1000):
        content, at = bytearray(whole), chance.randrange(len(whole))
        match chance.randrange(5):
            case 0:
                content[at] ^= 1 << chance.randrange(8)
            case 1:
                del content[at:]
            case 2:
                content[at : at + 40] = bytes(40)
            case 3:
                lines = content.splitlines(keepends=True)
                chance.shuffle(lines)
                content = b"".join(lines)
            case 4:
                content[at:at] = content[chance.randrange(len(whole)) :]
        path.write_bytes(content)
        results = Journal(path, IDENTITY).results
        assert results.items() <= RESULTS.items()
        lost += len(results) < len(RESULTS)
    assert lost > 300


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: c[:-30], lambda c: b"\0" + c[1:], lambda c: b""]
)
def test_after_damage_the_next_entry_is_kept(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    with Journal(path, IDENTITY) as journal:
        kept = dict(journal.results)
        journal.add("next", 1.0)
    assert Journal(path, IDENTITY).results == {**kept, "next": 1.0}
    with Journal(path, IDENTITY) as journal:
        journal.add("last", 2.0)
    assert Journal(path, IDENTITY).results == {**kept, "next": 1.0, "last": 2.0}


def test_other_work_is_refused_and_its_lines_are_never_taken(path):
    other = {**IDENTITY, "weights": "xyz"}
    with pytest.raises(OtherJob) as refused:
        Journal(path, other)
    assert refused.value.args == (IDENTITY,)
    content = path.read_bytes()
    for header in (b"", b"damaged\n", f"{sealed(other, {})}\n".encode()):
        path.write_bytes(header + content.partition(b"\n")[2])
        assert Journal(path, other).results == {}


def test_a_file_of_another_format_is_computed_again(tmp_path):
    (tmp_path / "journal").write_text(json.dumps(IDENTITY) + "\nplain.png,3.0,0.1\n")
    with Journal(tmp_path / "journal", IDENTITY) as journal:
        assert journal.results == {}
        journal.add("plain.png", 3.0)
    assert Journal(tmp_path / "journal", IDENTITY).results == {"plain.png": 3.0}


def test_a_number_that_is_none_is_not_kept(tmp_path):
    with Journal(tmp_path / "journal", IDENTITY) as journal, pytest.raises(ValueError, match="JSON"):
        journal.add("plain.png", float("nan"))
    with pytest.raises(ValueError, match="damaged"):
        unsealed('["plain.png", NaN]', IDENTITY)


def test_one_process_at_a_time(path):
    with Journal.locked(path, IDENTITY) as journal:
        journal.add("next", 1.0)
        with pytest.raises(Busy), Journal.locked(path, IDENTITY):
            pass
        assert Journal(path, IDENTITY).results == {**RESULTS, "next": 1.0}  # reading needs no lock
