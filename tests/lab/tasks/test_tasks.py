"""Every built-in task evaluates what its loss is, and says where its data are."""

import pytest
import torch

from fallline.cli import data as command
from fallline.lab.tasks import TASKS, get_task
from support.task_data import fixed


@pytest.mark.parametrize("name", TASKS)
def test_one_forward_pass_evaluates_what_the_loss_is(name, cifar_archive, clothes):
    torch.manual_seed(0)
    task = get_task(name)
    model = task.model().eval()
    with torch.no_grad():
        batch = next(task.batches("val", fixed()))
        metrics = task.evaluate(model, batch)
        assert metrics["loss"] == pytest.approx(task.loss(model, batch).item())
        with torch.autocast("cpu", torch.bfloat16):  # a loss of bfloat16 would have two or three digits
            loss, items = task.loss(model, batch), task.losses(model, batch)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(metrics["loss"], rel=0.02)
    assert {values.dtype for values in items.values()} <= {torch.float32, torch.float64}
    assert 0 <= metrics.get("accuracy", 1) <= 1


@pytest.mark.parametrize("name", TASKS)
def test_the_data_command_says_where_the_data_are(name, cifar_archive, clothes, data_folder, capsys):
    command.show(name)
    printed = capsys.readouterr().out
    assert get_task(name).data_digest() in printed
    for path in get_task(name).data_files()[:6]:
        assert str(path) in printed


@pytest.mark.parametrize("name", TASKS)
def test_no_part_of_a_network_rounds_a_float64_model_to_float32(name, cifar_archive, clothes):
    """A central difference with steps of 1e-7 would be mostly rounding error if float32 took part."""
    torch.manual_seed(0)
    task = get_task(name)
    model = task.model().double().eval()
    inputs, targets = next(task.batches("val", fixed()))
    batch = tuple(part[:8].double() if part.is_floating_point() else part[:8] for part in (inputs, targets))
    params = list(model.parameters())
    slope = torch.autograd.grad(task.loss(model, batch), params)
    direction = [torch.randn_like(p) for p in params]
    values = []
    with torch.no_grad():
        for shift in (1e-7, -2e-7):  # to p + 1e-7 d, then to p - 1e-7 d
            torch._foreach_add_(params, direction, alpha=shift)
            values.append(task.loss(model, batch).item())
    expected = sum((g * d).sum().item() for g, d in zip(slope, direction, strict=True))
    assert (values[0] - values[1]) / 2e-7 == pytest.approx(expected, rel=1e-4)
