"""Files of weights that ask for much time or memory, or have numbers in formats that are not NumPy's."""

import io
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save

from iqa_jax.errors import WeightsError
from iqa_jax.weights.pytorch.sources import read_checkpoint

pytestmark = pytest.mark.quick


def doubled(kind, depth=45):
    """A container that holds itself twice over, so often that nobody can walk through it."""
    content = kind()
    for _ in range(depth):
        content = {"a": content, "b": content} if kind is dict else kind([content, content])
    return content


class Called:
    """Pickled as a call of a function with something that takes for ever to hash or to print."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


def nested(depth):
    content: dict = {}
    for _ in range(depth):
        content = {"a": content}
    return content


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize(
    "content",
    [
        doubled(list),
        doubled(tuple),
        doubled(dict),
        {"a": torch.ones(2), "b": doubled(list)},
        nested(300),
        Called(dict, [(doubled(tuple), 1)]),
        Called(str, doubled(tuple)),
        {"a": torch.ones(1).expand(40_000, 40_000)},
        {f"a{number}": torch.ones(100_000)[:] for number in [0]} | {"b": torch.ones(1).expand(2**40)},
    ],
    ids=["lists", "tuples", "dicts", "entry", "deep", "key", "text", "expanded", "huge"],
)
def test_what_grows_beyond_its_file_is_refused_at_once(tmp_path, content, older):
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not older)
    with pytest.raises(WeightsError, match="a.pth: (holds a|entry|not a PyTorch checkpoint)"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_key_of_tuples_in_one_another_is_not_hashed(tmp_path):
    pickled = b"\x80\x02})" + b"2\x86" * 45 + b"K\x01s."  # {((…), (…)): 1}
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("x/data.pkl", pickled)
    with pytest.raises(WeightsError, match=r"a.pth: not a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "a.pth")


def test_what_lies_beside_the_weights_may_be_anything(tmp_path):
    content = {
        "state_dict": {"a": torch.ones(2)},
        "history": doubled(list),
        "names": {1, 2},
        "tree": doubled(dict),
    }
    torch.save(content, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["a"].tolist() == [1, 1]


def test_shared_numbers_are_read_for_each_name(tmp_path):
    base = torch.arange(6.0)
    torch.save({"a": base, "b": base.view(2, 3), "c": base.view(2, 3).T}, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")
    assert found["c"].tolist() == [[0, 3], [1, 4], [2, 5]] and found["a"][-1] == 5


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    plain = io.BytesIO()
    torch.save({"a": torch.zeros(1_000_000)}, plain)
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    with pytest.raises(WeightsError, match="a.pth: not a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_numbers_of_eight_and_sixteen_bits_become_float32(tmp_path, name):
    numbers = torch.tensor([0.5, -1.5, 448.0]).to(getattr(torch, name))
    (tmp_path / "a.safetensors").write_bytes(save({"a": numbers}))
    torch.save({"a": numbers}, tmp_path / "a.pth")
    for file in ("a.safetensors", "a.pth"):
        found = read_checkpoint(tmp_path / file)["a"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, numbers.float().numpy())
    assert np.dtype(getattr(ml_dtypes, name)).itemsize == numbers.element_size()


def test_other_numbers_are_named(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save({"scale": torch.ones(4).to(torch.float8_e8m0fnu)}))
    with pytest.raises(WeightsError, match="a.safetensors: 'scale' is kept as F8_E8M0, expected one of F64"):
        read_checkpoint(tmp_path / "a.safetensors")
