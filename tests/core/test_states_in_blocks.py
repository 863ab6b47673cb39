"""State dicts, groups and readers of states that are stored in 8 bits."""

import pytest
import torch

import fallline as fl
from fallline.backends import blocks
from fallline.backends.blocks import encode
from fallline.errors import ArgumentError, StateError
from fallline.landscape import Hessian, sharpness
from support.variants import normal, parameter, same_bits, same_state, through_a_file, train


def with_state(cls=fl.AdamW, shape=(600,), steps=3, **options):
    param = parameter(*shape)
    opt = cls([param], lr=0.01, **{"state_dtype": "int8", **options})
    train(opt, range(steps))
    return param, opt


def test_a_loaded_state_goes_on_to_the_bit():
    _, opt = with_state()
    saved = through_a_file(opt.state_dict())
    kinds = {key: value.dtype for key, value in saved["state"][0].items()}
    assert kinds == {
        "exp_avg_codes": torch.int8,
        "exp_avg_scale": torch.float32,
        "exp_avg_sq_codes": torch.uint8,
        "exp_avg_sq_scale": torch.float32,
        "step": torch.float32,
    }
    twin = torch.nn.Parameter(opt.param_groups[0]["params"][0].detach().clone())
    other = fl.AdamW([twin], lr=0.01, state_dtype="int8")
    other.load_state_dict(saved)
    assert same_bits(train(opt, range(3, 6)), train(other, range(3, 6))) and same_state(opt, other)


@pytest.mark.parametrize(("saved", "own"), [("int8", None), ("int8", torch.bfloat16), (None, "int8")])
def test_the_optimizer_that_loads_decides_on_blocks(saved, own, recwarn):
    param, opt = with_state(state_dtype=saved)
    before = opt.state_as_numbers(param)
    other = fl.AdamW([parameter(600)], state_dtype=own)
    other.load_state_dict(opt.state_dict())
    (twin,) = other.param_groups[0]["params"]
    after = other.state_as_numbers(twin)
    assert not recwarn.list and other.param_groups[0]["state_dtype"] == own
    if own == "int8":
        assert other.state[twin]["exp_avg_codes"].dtype == torch.int8 and "exp_avg" not in other.state[twin]
        assert all(((after[key] - x).abs() <= 0.07 * x.abs() + 1e-5).all() for key, x in before.items())
    else:
        assert other.state[twin]["exp_avg"].dtype == (own or torch.float32)
        assert all(torch.equal(after[key].float(), x) for key, x in before.items())  # bfloat16 holds them exactly
    train(other, [3])


def test_a_state_dict_of_torch_is_put_into_blocks():
    param = parameter(600)
    theirs = torch.optim.AdamW([param])
    train(theirs, range(2))
    opt = fl.AdamW([param], state_dtype="int8")
    opt.load_state_dict(theirs.state_dict())
    assert {"exp_avg_codes", "exp_avg_sq_scale"} <= opt.state[param].keys()
    torch.testing.assert_close(
        opt.state_as_numbers(param)["exp_avg_sq"], theirs.state[param]["exp_avg_sq"], rtol=0.07, atol=1e-9
    )


def test_torch_never_takes_codes_for_numbers():
    param, opt = with_state()
    theirs = torch.optim.AdamW([param])
    theirs.load_state_dict(opt.state_dict())
    with pytest.raises(KeyError, match="exp_avg"):
        theirs.step()
    param, opt = with_state(fl.SGD, momentum=0.9)
    theirs = torch.optim.SGD([param], lr=1.0, momentum=0.9)
    theirs.load_state_dict(opt.state_dict())
    before = param.detach().clone()
    theirs.step()  # it starts a new momentum
    assert torch.allclose(before - theirs.param_groups[0]["lr"] * param.grad, param)


@pytest.mark.parametrize("backend", ["fused", "foreach"])
def test_another_order_in_memory_keeps_the_values(backend):
    param = torch.nn.Parameter(normal(8, 5, 7, 3).contiguous(memory_format=torch.channels_last))
    opt = fl.AdamW([param], state_dtype="int8", backend=backend)
    train(opt, range(3))
    expected = opt.state_as_numbers(param)["exp_avg_sq"]
    saved = through_a_file(opt.state_dict())
    assert saved["state"][0]["exp_avg_sq"].dtype == torch.bfloat16  # codes would fit this order only
    for layout in (torch.channels_last, torch.contiguous_format):
        twin = torch.nn.Parameter(param.detach().contiguous(memory_format=layout))
        other = fl.AdamW([twin], state_dtype="int8", backend=backend)
        other.load_state_dict(saved)
        ratio = other.state_as_numbers(twin)["exp_avg_sq"] / expected
        assert (ratio == 1).all() if layout is torch.channels_last else (ratio - 1).abs().max() <= 0.07
        train(other, [3])


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda s: s.update(exp_avg_scale=s["exp_avg_scale"][:1]), r"torch.float32 of shape \(1,\)"),
        (lambda s: s.update(exp_avg_scale=s["exp_avg_scale"].bfloat16()), r"torch.bfloat16 of shape \(3,\)"),
        (lambda s: s.update(exp_avg_scale=torch.ones(6)[::2]), r"torch.float32 of shape \(3,\)"),
        (lambda s: s.pop("exp_avg_scale"), "None"),
    ],
)
def test_scales_that_do_not_fit_are_found_before_a_step(damage, found):
    param, opt = with_state()
    damage(opt.state[param])
    before = param.detach().clone()
    with pytest.raises(StateError, match=f"AdamW: exp_avg_codes must be int8 .*, got torch.int8 and {found}; put back"):
        train(opt, [3])
    assert torch.equal(before, param)


def test_codes_of_the_other_kind_are_converted():
    param, opt = with_state()
    saved = opt.state_dict()
    saved["state"] = {0: dict(saved["state"][0])}
    codes, scales = encode(torch.full((600,), 0.5), torch.uint8)
    saved["state"][0] |= {"exp_avg_codes": codes, "exp_avg_scale": scales}
    opt.load_state_dict(saved)
    assert opt.state[param]["exp_avg_codes"].dtype == torch.int8
    assert (opt.state_as_numbers(param)["exp_avg"] == 0.5).all()


def test_long_states_are_converted_slice_by_slice(monkeypatch):
    param, opt = with_state(state_dtype=None)
    results = []
    for size in (256, 1 << 20):
        monkeypatch.setattr(blocks, "SLICE", size)
        other = fl.AdamW([param], state_dtype="int8")
        other.load_state_dict(opt.state_dict())
        results.append(other)
    assert same_state(*results)


@pytest.mark.parametrize(
    ("cls", "options", "change", "says"),
    [
        (fl.AdamW, {}, {"state_dtype": torch.int8}, "state_dtype must be .*, got torch.int8; pass 'int8'"),
        (fl.AdamW, {}, {"state_dtype": "int4"}, "state_dtype must be .*, got 'int4'; leave it out"),
        (fl.Adam, {"amsgrad": True}, {"state_dtype": "int8"}, "amsgrad needs an exact state"),
        (fl.Adafactor, {}, {"state_dtype": "int8"}, "state_dtype='int8' is for optimizers that"),
        (fl.AdamW, {}, {"master_weights": "split16"}, "master_weights must be True, False"),
    ],
)
def test_options_that_are_written_to_a_group_are_checked_before_a_step(cls, options, change, says):
    param = parameter(3, 4)
    opt = cls([param], **options)
    train(opt, [0])
    before = param.detach().clone()
    opt.param_groups[0] |= change
    with pytest.raises(ArgumentError, match=says):
        train(opt, [1])
    assert torch.equal(before, param)


def test_a_changed_option_changes_the_state_at_the_next_step():
    param, opt = with_state()
    for dtype, key in ((None, "exp_avg"), ("int8", "exp_avg_codes"), (torch.bfloat16, "exp_avg")):
        opt.param_groups[0]["state_dtype"] = dtype
        train(opt, [4])
        assert key in opt.state[param] and ("exp_avg_codes" in opt.state[param]) == (dtype == "int8")


def test_a_group_that_is_added_may_have_its_own_storage():
    _, opt = with_state()
    late, plain = parameter(300, seed=5), parameter(4, seed=6)
    opt.add_param_group({"params": [late]})
    opt.add_param_group({"params": [plain], "state_dtype": None})
    train(opt, range(3, 5))
    assert opt.state[late]["exp_avg_codes"].shape == (300,) and opt.state[plain]["exp_avg"].dtype == torch.float32
    other = fl.AdamW([{"params": p} for p in (parameter(600), parameter(300), parameter(4))], state_dtype="int8")
    other.load_state_dict(opt.state_dict())
    assert same_bits(
        [v for s in opt.state.values() for v in s.values()][:10],
        [v for s in other.state.values() for v in s.values()][:10],
    )


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda s: s.pop("exp_avg_scale"),
            r"exp_avg_codes .* exp_avg_scale of shape \(3,\) .*, got torch.int8 and None",
        ),
        (
            lambda s: s.update(exp_avg_scale=torch.ones(2)),
            r"exp_avg_scale of shape \(3,\) .*, got torch.int8 and torch.float32 of shape \(2,\)",
        ),
        (lambda s: s.update(exp_avg_codes=s["exp_avg_codes"][:5]), "exp_avg_codes of parameter 0 must have the shape"),
        (lambda s: s.update(exp_avg_codes=torch.ones(600)), "must be int8 or uint8, .*, got torch.float32"),
        (lambda s: (s.pop("exp_avg_codes"), s.pop("exp_avg_scale")), "must hold exp_avg, exp_avg_sq"),
    ],
)
def test_a_damaged_state_dict_is_refused(damage, says):
    _, opt = with_state()
    saved = opt.state_dict()
    saved["state"] = {0: dict(saved["state"][0])}
    damage(saved["state"][0])
    with pytest.raises(StateError, match=f"AdamW: .*{says}"):
        opt.load_state_dict(saved)


def test_sharpness_reads_second_moments_in_blocks():
    model, inputs = torch.nn.Linear(30, 1), normal(20, 30)
    opt = fl.AdamW(model.parameters(), lr=1e-3, state_dtype="int8")
    for _ in range(3):
        opt.zero_grad()
        model(inputs).square().mean().backward()
        opt.step()
    same = fl.AdamW(model.parameters(), lr=1e-3)
    same.load_state_dict(opt.state_dict())
    hessian = Hessian(model, lambda net, batch: net(batch).square().mean(), [inputs])
    assert sharpness(hessian, opt).value == sharpness(hessian, same).value
