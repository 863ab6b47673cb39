"""One walk through batches: what torch's default_collate and Hugging Face's collators make, and what users invent."""

import dataclasses
import datetime
import warnings
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import default_collate

from fallline.lab.provenance.manifest import data_digest
from fallline.lab.run.device import to_device
from fallline.lab.tasks import Task
from fallline.landscape.loss.averaging import items
from fallline.landscape.loss.batches import as_bytes, count_rows, examples, leaves, map_tensors, move

Pair = namedtuple("Pair", "x y")


class Encoding(UserDict):
    """As transformers' BatchEncoding: a UserDict with further attributes and attribute access."""

    def __init__(self, data, encodings=None):
        super().__init__(data)
        self._encodings = encodings

    def __getattr__(self, name):
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None


class Output(OrderedDict):
    """As transformers' ModelOutput: items are attributes too, and update is forbidden."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        object.__setattr__(self, key, value)

    def update(self, *args, **kwargs):
        raise TypeError("update is forbidden")


@dataclasses.dataclass(frozen=True)
class Frozen:
    name: str
    x: torch.Tensor


@dataclasses.dataclass
class Slotted:
    __slots__ = ("n", "x")
    x: torch.Tensor
    n: int


def rows_compressed(dense):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the layout beta, once per process
        return dense.to_sparse_csr()


X = torch.arange(6.0).reshape(3, 2)
COLLATED = [
    default_collate([{"text": "a", "x": torch.ones(2), "n": 1, "p": (1.5, "b")} for _ in range(3)]),
    default_collate([Pair(torch.ones(2), "a")] * 3),
    default_collate([("a", 1, np.float64(2.0), b"c", [np.ones(2)])] * 3),
    default_collate([OrderedDict(text="a", x=1)] * 3),
]
OTHERS = [
    Encoding({"text": ["a", "b", "c"], "input_ids": X}, encodings=["e"]),
    Output(text="a", x=X),
    defaultdict(list, {"text": ["a"], "x": X}),
    MappingProxyType({"text": "a", "x": X}),
    Frozen("a", X),
    Slotted(X, 3),
    SimpleNamespace(text="a", x=[X]),
    torch.return_types.max((X, torch.zeros(3, 2, dtype=torch.long))),
    pack_sequence([torch.ones(3, 2), torch.ones(2, 2)]),
    {"when": datetime.date(2020, 1, 1), "x": X, "f": len, "none": None},
]


def tensors(batch):
    return [leaf for leaf in leaves(batch) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("batch", COLLATED + OTHERS, ids=lambda batch: type(batch).__name__)
def test_a_batch_keeps_its_types_on_another_device(batch):
    before = [leaf if isinstance(leaf, torch.Tensor) else None for leaf in leaves(batch)]
    moved = to_device(batch, "meta")
    wanted = dict if isinstance(batch, MappingProxyType) else type(batch)
    assert type(moved) is wanted and list(map(type, leaves(moved))) == list(map(type, leaves(batch)))
    if not isinstance(batch, PackedSequence):  # which keeps its sizes on the CPU, or cannot be used
        assert tensors(moved) and {t.device.type for t in tensors(moved)} == {"meta"}
    after = [leaf if isinstance(leaf, torch.Tensor) else None for leaf in leaves(batch)]
    assert all(a is b for a, b in zip(before, after, strict=True))  # nothing is changed in place
    assert to_device(batch, "cpu") is batch


def test_named_parts_are_reached_by_their_names_after_the_move():
    assert to_device(Pair(X, "a"), "meta").x.device.type == "meta"
    assert to_device(Encoding({"input_ids": X}, ["e"]), "meta").input_ids.device.type == "meta"
    assert to_device(Encoding({"input_ids": X}, ["e"]), "meta")._encodings == ["e"]
    output = to_device(Output(x=X), "meta")
    assert output.x is output["x"] and output.x.device.type == "meta"
    packed = to_device(pack_sequence([torch.ones(3, 2)]), "meta")
    assert packed.data.device.type == "meta" and packed.batch_sizes.device.type == "cpu"


def test_an_object_moves_itself_if_it_can():
    class Graph:
        def __init__(self, x):
            self.x = x

        def to(self, device):
            return Graph(("moved to", device))

    assert move({"graph": Graph(X)}, "meta")["graph"].x == ("moved to", "meta")


def test_what_is_shared_stays_shared_and_a_circle_ends():
    batch = {"x": X, "again": [X]}
    moved = map_tensors(lambda t: t + 1, batch)
    assert moved["x"] is moved["again"][0]
    batch["self"] = batch
    assert tensors(batch) == [X, X] and count_rows(batch) == 3
    assert move(batch, "meta")["x"].device.type == "meta"
    assert map_tensors(lambda t: t, batch) is batch


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        *[(batch, 3) for batch in COLLATED],
        ({"text": "a text", "x": X}, 3),
        ([["a", "b"], {"x": torch.zeros(5, 2)}], 5),
        ({"loss_scale": torch.tensor(2.0), "x": X}, 3),
        ({"texts": ["a", "b"]}, 2),
        (np.zeros((4, 2)), 4),
        (torch.eye(3).to_sparse(), 3),
        (rows_compressed(torch.eye(3)), 3),
        (torch.tensor(1.0), 1),
        ("a text", None),
        ({}, None),
    ],
)
def test_rows_are_those_of_the_first_tensor_wherever_it_stands(batch, rows):
    assert count_rows(batch) == rows
    if rows is not None:
        assert Task.size(None, batch) == rows == items(batch)


def test_what_no_walk_can_count_is_a_sentence():
    class Named:
        name = "mine"

    with pytest.raises(ValueError, match=r"task mine: size must be defined .* got a batch of type str; write def size"):
        Task.size(Named(), "a text")


def test_examples_are_told_apart_by_texts_too():
    one, two, three = examples({"text": ["a", "b", "a"], "label": torch.tensor([1, 1, 1]), "source": "file"})
    assert one == three != two
    assert len(set(examples((np.array(["a", "b"], object), torch.zeros(2))))) == 2


@pytest.mark.parametrize("scale", [np.array(2.0), torch.tensor(2.0)], ids=["array", "tensor"])
def test_a_part_without_rows_belongs_to_no_example(scale):
    assert examples({"x": np.eye(3), "scale": scale}) == examples({"x": np.eye(3)})


def test_sparse_and_nested_tensors_have_a_content():
    dense = torch.eye(3)
    for sparse in (dense.to_sparse(), rows_compressed(dense)):
        assert as_bytes(sparse) == as_bytes(dense)
        assert examples(sparse) == examples(dense)
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    assert as_bytes(nested) != as_bytes(
        torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)], layout=torch.jagged)
    )
    assert as_bytes(object()) == as_bytes(object())


def test_the_hash_of_the_data_sees_texts_and_sparse_tensors():
    class Texts:
        def __init__(self, text):
            self.text = text

        def batches(self, split, generator):
            yield {"text": [self.text], "x": torch.eye(2).to_sparse()}

    assert data_digest(Texts("a")) == data_digest(Texts("a")) != data_digest(Texts("b"))
