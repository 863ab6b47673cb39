"""Train under accelerate, save after three steps, resume from there, and print both results as JSON."""

import json
import sys

import torch
from accelerate import Accelerator

import fallline as fl
from support.clients import STEPS, batches, classes_loss, network, optimizer_of, scheduler_of


def run(folder, resume):
    """Return what the first process has after a run, or after one that resumes."""
    accelerator = Accelerator(cpu=True, step_scheduler_with_optimizer=False)  # else it calls it once per process
    model = network()
    optimizer = optimizer_of(model.parameters())
    scheduler = scheduler_of(optimizer)
    data = [row for inputs, classes in batches() for row in zip(inputs, classes, strict=True)]
    loader = torch.utils.data.DataLoader(data, batch_size=4 // accelerator.num_processes)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    findings = fl.lint(model, optimizer, scheduler, total_steps=STEPS)
    rates = []
    if resume:
        accelerator.load_state(folder)
        loader = accelerator.skip_first_batches(loader, 3)
    with fl.watch(optimizer) as watch:
        for batch in loader:
            accelerator.backward(classes_loss(model, batch))
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if len(rates) == 3 and not resume:
                accelerator.save_state(folder)
    return {
        "processes": accelerator.num_processes,
        "weights": {name: value.tolist() for name, value in accelerator.unwrap_model(model).state_dict().items()},
        "rates": rates,
        "findings": [finding.id for finding in findings],
        "steps": watch.record.steps,
        "not_zeroed": watch.record.not_zeroed,
    }


if __name__ == "__main__":
    results = [run(sys.argv[1], resume) for resume in (False, True)]
    if Accelerator(cpu=True).is_main_process:
        print("RESULT" + json.dumps(results))
    Accelerator(cpu=True).end_training()
