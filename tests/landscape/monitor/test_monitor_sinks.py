"""Where a monitor writes its rows."""

import copy
import json
import math
import sys

import pytest
import torch

from fallline.errors import MissingExtraError
from fallline.landscape import Monitor, tensorboard
from support.landscapes import squares
from support.monitor_runs import batch, net


def test_a_file_gets_a_line_a_row(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path / "runs" / "monitor.jsonl"
    monitor = Monitor(model, optimizer, every=1, sinks=[path])
    for k in range(2):
        optimizer.zero_grad()
        (squares(model, batch(k)) * (math.inf if k else 1)).backward()
        optimizer.step()
        assert len(path.read_text().splitlines()) == k + 1  # there at once
    monitor.close()
    first, second = map(json.loads, path.read_text().splitlines())
    assert first["step"] == 1 and first["grad_norm"] > 0
    assert second["grad_norm"] is None


def test_a_summary_writer_gets_scalars():
    class Fake:
        def __init__(self):
            self.calls, self.flushed = [], False

        def add_scalar(self, *call):
            self.calls.append(call)

        def flush(self):
            self.flushed = True

    model, writer = net(), Fake()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, sinks=[writer]) as monitor:
        squares(model, batch(0)).backward()
        optimizer.step()
        row = copy.copy(monitor.row)
    assert writer.calls == [(f"monitor/{k}", v, 1) for k, v in row.items() if k != "step"]
    assert writer.flushed


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = []
    with Monitor(model, optimizer, every=1, sinks=[tensorboard(tmp_path), rows.append]):
        for k in range(3):
            optimizer.zero_grad()
            squares(model, batch(k)).backward()
            optimizer.step()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    for name in rows[0].keys() - {"step"}:
        events = found.Scalars(f"monitor/{name}")
        assert [event.step for event in events] == [1, 2, 3]
        assert [event.value for event in events] == pytest.approx([row[name] for row in rows], rel=1e-6)  # float32


def test_tensorboard_is_written_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match="pip install tensorboard"):
        tensorboard(tmp_path)
