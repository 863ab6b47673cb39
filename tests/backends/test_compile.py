"""The compile backend follows the goldens, and no number is compiled in. Each graph takes seconds, so most are slow."""

import shutil

import pytest
import torch

from fallline.optimizers import AdamW
from oracles import cases, golden
from support.golden_runs import CLASSES, FLOAT64, check_float32_params, run
from support.variants import EVERY_CLASS, distance, parameter, set_grads, state_of, train, variants

pytestmark = [
    pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # of torch.compile's own parts
]
slow = pytest.mark.slow
NAMES = [next(name for name in golden.names() if golden.load(name).case.optimizer == key) for key in CLASSES]


@slow
@pytest.mark.parametrize("name", NAMES)
def test_it_follows_the_golden(name):
    record = golden.load(name)
    limit = getattr(cases.oracle_of(record.case), "FLOAT64", FLOAT64)
    assert golden.difference(record, run(record.case, "compile", torch.float64)) <= limit
    check_float32_params(record, run(record.case, "compile", torch.float32))


@slow
@EVERY_CLASS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_options_together_are_those_of_the_reference(cls, dtype):
    def trained(backend):
        params = [parameter(3, 4, seed=1, dtype=dtype), parameter(70, seed=2, dtype=dtype)]
        return train(cls(params, backend=backend, clip_grad_norm=1.0, **variants(cls)["everything"]), range(4))

    # Lion's sign may turn where a mean of rounded gradients crosses 0; here it does not.
    assert distance(trained("compile"), trained("reference")) <= (2**-7 if dtype is torch.bfloat16 else 8e-6)


@pytest.mark.slow
def test_it_rounds_stochastically_as_the_reference_does():
    low = torch.bfloat16

    def trained(backend):
        params = [parameter(40, 3, seed=1, dtype=low), parameter(700, seed=2, dtype=low)]
        options = {"state_dtype": low, "stochastic_rounding": True, "rounding_seed": 3}
        return train(AdamW(params, backend=backend, **options), range(4))

    pairs = zip(trained("compile"), trained("reference"), strict=True)
    assert sum((a != b).sum().item() for a, b in pairs) <= 4  # of 820: a float32 rounded elsewhere, near a threshold


@pytest.mark.slow
@pytest.mark.parametrize("low", [{}, {"master_weights": "split24"}])
def test_it_stores_blocks_as_the_reference_does(low):
    def trained(backend):
        dtype = torch.bfloat16 if low else torch.float32
        params = [parameter(40, 3, seed=1, dtype=dtype), parameter(700, seed=2, dtype=dtype), parameter(dtype=dtype)]
        opt = AdamW(params, backend=backend, state_dtype="int8", **low)
        weights = train(opt, range(4))
        return weights, [value for state in state_of(opt) for key, value in state.items() if "_codes" in key]

    (weights, codes), (others, expected) = trained("compile"), trained("reference")
    assert distance(weights, others) <= (2**-7 if low else 8e-6)
    assert sum((a != b).sum().item() for a, b in zip(codes, expected, strict=True)) <= 8  # of 1,642


@slow
@EVERY_CLASS
def test_neither_a_new_lr_nor_a_new_step_compiles_anew(cls):
    params = [parameter(5, seed=1), parameter(300, seed=2)]
    opt = cls(params, backend="compile", weight_decay=0.1, clip_grad_norm=1.0)
    train(opt, range(2))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step, lr in enumerate([1e-2, 5e-3, 0.0, torch.tensor(1e-3)]):
            opt.param_groups[0]["lr"] = lr
            set_grads(params, step)
            opt.step()


@slow
def test_the_test_above_can_fail():
    """torch.compile's own way with a number: it is compiled in."""
    compiled = torch.compile(lambda x, lr: x * lr, dynamic=False)
    compiled(torch.ones(3), 0.1)
    with (
        torch._dynamo.config.patch(error_on_recompile=True, specialize_float=True),
        pytest.raises(Exception, match="ecompil"),
    ):
        compiled(torch.ones(3), 0.2)
