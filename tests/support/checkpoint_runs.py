"""What test_sharded_checkpoints.py runs on each process: saving, being killed, loading, going on."""

import os
import signal

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import fallline as fl
from support.sharded_runs import mesh_of, network, replayed, shard, whole_result_of

WIDE, LOW = torch.float32, torch.bfloat16
KINDS = {
    "everything": (WIDE, lambda p: fl.AdamW(p, amsgrad=True, ema_decay=0.9, clip_grad_norm=0.5)),
    "lamb": (WIDE, lambda p: fl.LAMB(p, lr=0.1, ema_decay=0.9, weight_decay_mode="independent")),
    "rounded": (LOW, lambda p: fl.Adam(p, lr=0.1, stochastic_rounding=True, state_dtype=LOW, rounding_seed=7)),
    "master": (LOW, lambda p: fl.NAdamW(p, lr=0.1, master_weights=True)),
    "int8": (WIDE, lambda p: fl.AdamW(p, lr=0.1, state_dtype="int8", ema_decay=0.9)),
    "split24 and int8": (LOW, lambda p: fl.AdEMAMix(p, lr=0.1, master_weights="split24", state_dtype="int8")),
    "split": (LOW, lambda p: fl.AdamW(p, lr=0.1, master_weights="split24", state_dtype=LOW)),
    "rmsprop": (WIDE, lambda p: fl.RMSprop(p, centered=True, momentum=0.9)),
    "sgd": (WIDE, lambda p: fl.SGD(p, lr=0.1, momentum=0.9)),
    "lion": (WIDE, lambda p: fl.Lion(p, lr=0.01)),
    "sam": (WIDE, lambda p: fl.SAM(fl.AdamW(p))),
}
SAVED, END = 4, 8


def built(kind, spread):
    dtype, make = KINDS[kind]
    model = shard(network(dtype), mesh_of("fsdp")) if spread else network(dtype)
    return model, make(model.parameters())


def store(model, opt, folder):
    weights, state = get_state_dict(model, opt)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)


def fetch(model, opt, folder, spread):
    blocks = [group for group in opt.param_groups if group["state_dtype"] == "int8" and not spread]
    for group in blocks:  # a checkpoint of DTensors has numbers, one of plain tensors codes
        group["state_dtype"] = LOW
    weights, state = get_state_dict(model, opt)
    found = {"model": weights, "optimizer": state}
    dcp.load(found, checkpoint_id=folder)
    set_state_dict(model, opt, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
    for group in blocks:
        group["state_dtype"] = "int8"


def uninterrupted():
    """Return by kind parameters and state at the time of saving and at the end."""
    results = {}
    for kind in KINDS:
        model, opt = built(kind, True)
        replayed(model, opt, range(SAVED))
        halfway = whole_result_of(model, opt)
        replayed(model, opt, range(SAVED, END))
        results[kind] = halfway, whole_result_of(model, opt)
    return results


def killed(folder):
    """Save each in mid-run, and die in a later step."""
    for kind in KINDS:
        model, opt = built(kind, True)
        replayed(model, opt, range(SAVED))
        store(model, opt, folder / kind)
    replayed(model, opt, range(SAVED, SAVED + 2))
    os.kill(os.getpid(), signal.SIGKILL)


def resumed(folder, spread=True):
    """Return by kind parameters and state as loaded, and at the end."""
    results = {}
    for kind in KINDS:
        model, opt = built(kind, spread)
        fetch(model, opt, folder / kind, spread)
        loaded = whole_result_of(model, opt)
        replayed(model, opt, range(SAVED, END))
        results[kind] = loaded, whole_result_of(model, opt)
    return results
