"""A call is a step, however often a loop makes it; only a step that a GradScaler is known to have skipped is none."""

import copy
import pickle

import pytest
import torch
from torch.optim.lr_scheduler import LinearLR, SequentialLR, StepLR

import fallline as fl
from fallline import schedules as fs
from support.schedulers import EVERY_SCHEDULE, lrs, parameter, sgd, train

KNOWN = {  # optimizers that GradScaler calls even for a step that it skips
    "torch's fused": lambda params: torch.optim.Adam(params, lr=1.0, fused=True),
    "ours": lambda params: fl.AdamW(params, lr=1.0),
    "SAM": lambda params: fl.SAM(fl.SGD(params, lr=1.0)),
}
EVERY_KNOWN = pytest.mark.parametrize("make", KNOWN.values(), ids=KNOWN)


def scaled_step(optimizer, scaler, weight, skip):
    """Make one step under a GradScaler, with an Inf in the gradient (SAM's second one) if `skip`."""
    for phase in ("first", "second") if isinstance(optimizer, fl.SAM) else ("only",):
        optimizer.zero_grad()
        scaler.scale(weight.sum()).backward()
        if skip and phase != "first":
            weight.grad[0] = torch.inf
        if phase == "first":
            scaler.unscale_(optimizer)
            optimizer.first_step()
    scaler.step(optimizer)
    scaler.update()


def new_scaler():
    return torch.amp.GradScaler("cpu", init_scale=8.0)


@EVERY_SCHEDULE
@EVERY_KNOWN
def test_a_step_that_gradscaler_skips_does_not_count(make, build, pure):
    weight = parameter()
    optimizer = make([weight])
    scheduler, scaler = build(optimizer), new_scaler()
    counted = 0
    for skip in (True, False, True, True, False, False):
        before = weight.detach().clone()
        scaled_step(optimizer, scaler, weight, skip)
        scheduler.step()
        assert not skip or torch.equal(weight, before)
        counted += not skip
        assert (scheduler.last_epoch, lrs(optimizer)) == (counted, [pure(counted, 1.0)])


@EVERY_KNOWN
@pytest.mark.parametrize("calls", [2, 3])
def test_none_of_several_calls_after_a_skipped_step_counts(make, calls):
    """As under accelerate, whose prepared scheduler calls ours once per process."""
    weight = parameter()
    optimizer = make([weight])
    scheduler, scaler = fs.Linear(optimizer, 100), new_scaler()
    for skip in (True, False, False, True, False):
        scaled_step(optimizer, scaler, weight, skip)
        for _ in range(calls):
            scheduler.step()
    assert scheduler.last_epoch == 3 * calls


def test_an_epoch_counts_though_its_last_update_was_skipped():
    weight = parameter()
    optimizer = torch.optim.Adam([weight], fused=True)
    scheduler, scaler = fs.Cosine(optimizer, 10), new_scaler()
    for skip in (False, True):
        scaled_step(optimizer, scaler, weight, skip)
    scheduler.step()
    assert scheduler.last_epoch == 1


def test_a_skipped_step_of_an_optimizer_that_is_not_called_counts_as_in_torch():
    weight = parameter()
    optimizer, theirs = torch.optim.SGD([weight], lr=1.0), torch.optim.SGD([parameter()], lr=1.0)
    scheduler, scaler = fs.Linear(optimizer, 4), new_scaler()
    torchs = LinearLR(theirs, 1.0, 0.0, 4)
    theirs.step()
    for skip in (True, False, True):
        scaled_step(optimizer, scaler, weight, skip)
        scheduler.step()
        torchs.step()
    assert scheduler.last_epoch == torchs.last_epoch == 3


def test_the_scale_tells_the_user_of_a_skipped_step():
    """The loop that docs/scale/mixed-precision.md gives for optimizers that GradScaler does not call."""
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler, scaler = fs.Linear(optimizer, 10), new_scaler()
    for skip in (True, False, True, False):
        scale = scaler.get_scale() if scaler._scale is not None else 8.0
        scaled_step(optimizer, scaler, weight, skip)
        if scaler.get_scale() >= scale:
            scheduler.step()
    assert scheduler.last_epoch == 2


@EVERY_SCHEDULE
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_scheduler_called_once_per_process_ends_with_the_run(processes, build, pure):
    """As accelerate's AcceleratedScheduler calls it."""
    optimizer = sgd(1.0)
    scheduler = build(optimizer)
    for update in range(1, 20 // processes + 1):
        optimizer.step()
        for _ in range(processes):
            scheduler.step()
        assert lrs(optimizer) == [pure(update * processes, 1.0)]


@EVERY_SCHEDULE
def test_a_loop_of_calls_resumes_at_a_step(build, pure):
    optimizer = sgd(1.0)
    scheduler = build(optimizer)
    for _ in range(7):
        scheduler.step()
    assert train(optimizer, scheduler, 5) == [[pure(k, 1.0)] for k in range(7, 12)]


@pytest.mark.parametrize("order", ["build, load", "load, build"])
def test_a_loop_of_calls_resumes_after_loading_the_optimizer(order):
    trained = sgd(1.0)
    train(trained, fs.WarmupCosine(trained, 3, 20), 12)
    fresh = sgd(0.3)
    if order == "build, load":
        scheduler = fs.WarmupCosine(fresh, 3, 20)
        fresh.load_state_dict(trained.state_dict())
    else:
        fresh.load_state_dict(trained.state_dict())
        scheduler = fs.WarmupCosine(fresh, 3, 20)
    for _ in range(12):
        scheduler.step()
    assert lrs(fresh) == [fs.warmup_cosine(3, 20)(12)]


def test_another_optimizer_can_take_the_place_of_the_first():
    first, second = sgd(1.0), torch.optim.Adam([parameter()], lr=0.5, fused=True)
    scheduler = fs.Linear(first, 10)
    train(first, scheduler, 2)
    scheduler.optimizer = second
    assert train(second, scheduler, 2)[1:] == [[fs.linear(10)(3, 0.5)]]
    assert lrs(first) == [fs.linear(10)(2)], "the first is left alone"
    assert not first._optimizer_step_post_hooks and len(second._optimizer_step_post_hooks) == 1
    weight, scaler = second.param_groups[0]["params"][0], new_scaler()
    scaled_step(second, scaler, weight, skip=True)
    scheduler.step()
    assert scheduler.last_epoch == 4, "skipped steps of the second are known"


def test_a_wrapper_that_bypasses_its_step_counts_as_any_other():
    class Wrapper(torch.optim.Optimizer):  # two phases that bypass `step`, or `step`, which may do nothing
        def __init__(self, base):
            super().__init__(base.param_groups, base.defaults)
            self.param_groups = base.param_groups
            self.base = base

        def second_step(self):
            self.base.step()

        def step(self, closure=None):
            pass

    optimizer = Wrapper(sgd(1.0))
    scheduler = fs.StepDecay(optimizer, 1, 0.5)
    optimizer.second_step()
    scheduler.step()
    assert lrs(optimizer) == [0.5]
    optimizer.step()
    scheduler.step()
    assert lrs(optimizer) == [0.25], "a call is a step"


def test_a_wrapper_without_torchs_constructor_is_seen_through():
    class Prepared(torch.optim.Optimizer):  # as accelerate's AcceleratedOptimizer
        def __init__(self, optimizer):
            self.optimizer = optimizer

        param_groups = property(lambda self: self.optimizer.param_groups)
        state = property(lambda self: self.optimizer.state)

        def step(self, closure=None):
            self.optimizer.step(closure)

    weight = parameter()
    optimizer = Prepared(fl.SGD([weight], lr=1.0))
    scheduler, scaler = fs.Linear(optimizer, 10), new_scaler()
    for skip in (True, False, True):
        scaled_step(optimizer.optimizer, scaler, weight, skip)
        scheduler.step()
        scheduler.step()
    assert scheduler.last_epoch == 2


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_skipped_step_is_known_to_a_copy_and_to_a_saved_state(clone):
    weight = parameter()
    optimizer = fl.SGD([weight], lr=1.0)
    scheduler, scaler = fs.Linear(optimizer, 10), new_scaler()
    scaled_step(optimizer, scaler, weight, skip=True)
    twin, follower = clone((optimizer, scheduler))
    loaded = fs.Linear(fl.SGD([parameter()], lr=1.0), 10)
    loaded.load_state_dict(scheduler.state_dict())
    for one, own in ((follower, twin), (loaded, loaded.optimizer)):
        one.step()
        assert one.last_epoch == 0
        assert train(own, one, 3)[1:] == [[fs.linear(10)(1)], [fs.linear(10)(2)]]
    assert scheduler.last_epoch == 0


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")  # from torch's own parts
def test_a_sequential_lr_may_start_with_a_sequential_lr():
    def run(first, then):
        optimizer = sgd(1.0)
        inner = SequentialLR(optimizer, [first(optimizer), then(optimizer, 3, 0.25)], milestones=[5])
        outer = SequentialLR(optimizer, [inner, then(optimizer, 2, 0.1)], milestones=[9])
        return train(optimizer, outer, 14)

    for ours, theirs in [
        (lambda opt: fs.StepDecay(opt, 2, 0.5), lambda opt: StepLR(opt, 2, 0.5)),
        (lambda opt: fs.Warmup(opt, 4), lambda opt: LinearLR(opt, 0.25, 1.0, 3)),
    ]:
        assert run(ours, fs.StepDecay) == [pytest.approx(row, rel=1e-12) for row in run(theirs, StepLR)]
