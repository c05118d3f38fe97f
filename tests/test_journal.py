"""What a work has done so far, as it survives damage."""

import json
import random

import pytest

from iqa_jax.journal import Journal, OtherWork, sealed, unsealed

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
ENTRIES = [[name, 3.0 + number / 7] for number, name in enumerate(NAMES)]


@pytest.fixture
def path(tmp_path):
    with Journal(tmp_path / "journal", IDENTITY) as journal:
        for entry in ENTRIES:
            journal.add(entry)
    return tmp_path / "journal"


def test_any_name_comes_back_as_it_was(path):
    assert Journal(path, IDENTITY).entries == ENTRIES
    assert path.read_bytes().isascii() and path.read_bytes().count(b"\n") == 1 + len(NAMES)
    assert Journal(path, IDENTITY, anew=True).entries == []


def test_nothing_is_written_before_the_first_entry(tmp_path):
    with Journal(tmp_path / "journal", IDENTITY) as journal:
        assert journal.entries == []
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
        entries = Journal(path, IDENTITY).entries
        assert all(entry in ENTRIES for entry in entries)
        lost += len(entries) < len(ENTRIES)
    assert lost > 300


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: c[:-30], lambda c: b"\0" + c[1:], lambda c: b""]
)
def test_after_damage_the_next_entry_is_kept(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    with Journal(path, IDENTITY) as journal:
        kept = list(journal.entries)
        journal.add(["next", 1.0])
    assert Journal(path, IDENTITY).entries == [*kept, ["next", 1.0]]
    with Journal(path, IDENTITY) as journal:
        journal.add(["last", 2.0])
    assert Journal(path, IDENTITY).entries[-2:] == [["next", 1.0], ["last", 2.0]]


def test_other_work_is_refused_and_its_lines_are_never_taken(path):
    other = {**IDENTITY, "weights": "xyz"}
    with pytest.raises(OtherWork) as refused:
        Journal(path, other)
    assert refused.value.args == (IDENTITY,)
    content = path.read_bytes()
    for header in (b"", b"damaged\n", f"{sealed(other, {})}\n".encode()):
        path.write_bytes(header + content.partition(b"\n")[2])
        assert Journal(path, other).entries == []


def test_a_file_of_another_format_is_computed_again(tmp_path):
    (tmp_path / "journal").write_text(json.dumps(IDENTITY) + "\nplain.png,3.0,0.1\n")
    with Journal(tmp_path / "journal", IDENTITY) as journal:
        assert journal.entries == []
        journal.add(["plain.png", 3.0])
    assert Journal(tmp_path / "journal", IDENTITY).entries == [["plain.png", 3.0]]


def test_a_number_that_is_none_is_not_kept(tmp_path):
    with Journal(tmp_path / "journal", IDENTITY) as journal, pytest.raises(ValueError, match="JSON"):
        journal.add(["plain.png", float("nan")])
    with pytest.raises(ValueError, match="damaged"):
        unsealed('["plain.png", NaN]', IDENTITY)
