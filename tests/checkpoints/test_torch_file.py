"""Files of torch.save are read as torch reads them, and nothing that they name is called."""

from __future__ import annotations

import collections
import contextlib
import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from lib_lora_train.checkpoints.torch_file import STORAGES, DamagedFileError, UnsafePickleError, read_torch_file

LAYOUTS = {"zip": {}, "stream": {"_use_new_zipfile_serialization": False}}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def saved(request, tmp_path):
    """saved(content): the path of a file of torch.save, in each of its layouts."""

    def save(content: object) -> Path:
        torch.save(content, tmp_path / "a.ckpt", **request.param)
        return tmp_path / "a.ckpt"

    return save


def equal(found: object, expected: object) -> bool:
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(equal(found[key], expected[key]) for key in expected)
    return found == expected


@pytest.mark.parametrize("dtype", STORAGES.values(), ids=str)
def test_every_type_of_number(saved, dtype):
    values = torch.arange(24).reshape(2, 3, 4).to(dtype)
    assert equal(read_torch_file(saved({"w": values})), {"w": values})


def test_what_a_checkpoint_holds(saved):
    weights = collections.OrderedDict(
        whole=torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        scalar=torch.tensor(0.5),
        empty=torch.zeros(0, 3),
        trained=torch.nn.Parameter(torch.ones(2)),
    )
    weights["part"] = weights["whole"][1:, ::2].t()
    content = {
        "state_dict": weights,
        "epoch": 3,
        "rates": [1e-4, None, True],
        "pair": (1, "zwölf"),
        "shape": torch.Size((2, 3)),
        "big": 2**70,
    }
    found = read_torch_file(saved(content))
    assert equal({**found, "state_dict": 0}, {**content, "state_dict": 0})
    assert equal(dict(found["state_dict"]), {name: tensor.detach() for name, tensor in weights.items()})


def test_the_state_dict_of_a_module(saved):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    assert equal(dict(read_torch_file(saved(module.state_dict()))), dict(module.state_dict()))


def test_tensors_stay_after_the_file_is_closed_and_writing_to_them_leaves_it_as_it_was(saved):
    path = saved({"w": torch.zeros(1000)})
    before = path.read_bytes()
    weight = read_torch_file(path)["w"]
    weight += 1
    assert weight.sum() == 1000
    assert path.read_bytes() == before


class Call:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class TestNothingIsCalled:
    @pytest.mark.parametrize("where", ["alone", "beside weights", "as a key"])
    @pytest.mark.parametrize("function", ["os.system", "builtins.exec", "builtins.getattr", "torch.load", "Path.touch"])
    def test_whatever_the_file_names(self, saved, tmp_path, where, function):
        ran = tmp_path / "it ran"
        call = {
            "os.system": Call(__import__("os").system, f"touch '{ran}'"),
            "builtins.exec": Call(exec, f"open({str(ran)!r}, 'w')"),
            "builtins.getattr": Call(getattr, ran, "touch"),
            "torch.load": Call(torch.load, str(ran)),
            "Path.touch": Call(Path.touch, ran),
        }[function]
        content = {"alone": call, "beside weights": {"w": torch.ones(1), "x": call}, "as a key": [{(call,): 1}]}[where]
        with pytest.raises(UnsafePickleError):
            read_torch_file(saved(content))
        assert not ran.exists()

    def test_a_whole_module(self, saved):
        with pytest.raises(UnsafePickleError):
            read_torch_file(saved(torch.nn.Linear(2, 2)))

    def test_a_dotted_name_reaches_nothing(self, tmp_path):
        dotted = b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93."
        with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
            archive.writestr("a/data.pkl", dotted)
        with pytest.raises(UnsafePickleError):
            read_torch_file(tmp_path / "a.ckpt")


class TestDamagedFiles:
    def test_cut_anywhere(self, saved, tmp_path):
        content = saved({"w": torch.ones(100), "v": torch.ones(7)}).read_bytes()
        for length in range(0, len(content), 13):
            (tmp_path / "cut").write_bytes(content[:length])
            with pytest.raises(DamagedFileError):
                read_torch_file(tmp_path / "cut")

    def test_one_byte_changed_raises_no_other_error(self, saved, tmp_path):
        content = bytearray(saved({"w": torch.ones(5)}).read_bytes())
        for at in range(0, len(content), 3):
            changed = content.copy()
            changed[at] ^= 0xFF
            (tmp_path / "changed").write_bytes(changed)
            with contextlib.suppress(DamagedFileError, UnsafePickleError):
                read_torch_file(tmp_path / "changed")

    @pytest.mark.parametrize("content", [b"", b"<html>", bytes(100), pickle.dumps({"w": 1}), pickle.dumps("text")])
    def test_something_else(self, tmp_path, content):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(DamagedFileError):
            read_torch_file(tmp_path / "a")

    def test_a_tensor_larger_than_its_storage(self, tmp_path):
        """A file that claims more elements than it has must not give the memory behind them."""
        buffer = io.BytesIO()
        torch.save({"w": torch.ones(4)}, buffer)
        with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(tmp_path / "a", "w") as target:
            for entry in source.infolist():
                data = source.read(entry)
                if entry.filename.endswith("data.pkl"):
                    assert b"K\x04\x85" in data  # the size, (4,)
                    data = data.replace(b"K\x04\x85", b"K\xff\x85")
                target.writestr(entry.filename, data)
        with pytest.raises(DamagedFileError):
            read_torch_file(tmp_path / "a")
