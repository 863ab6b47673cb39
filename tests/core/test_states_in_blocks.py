"""State dicts, groups and readers of states that are stored in 8 bits."""

import pytest
import torch

import fallline as fl
from fallline.errors import StateError
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


def test_torch_cannot_take_codes_for_numbers():
    param, opt = with_state()
    theirs = torch.optim.AdamW([param])
    theirs.load_state_dict(opt.state_dict())
    with pytest.raises(KeyError, match="exp_avg"):
        theirs.step()


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
            "exp_avg_codes .* with exp_avg_scale of shape \\(3,\\), got torch.int8 and None",
        ),
        (
            lambda s: s.update(exp_avg_scale=torch.ones(2)),
            "exp_avg_scale of shape \\(3,\\), got torch.int8 and \\(2,\\)",
        ),
        (lambda s: s.update(exp_avg_codes=s["exp_avg_codes"][:5]), "exp_avg_codes of parameter 0 must have the shape"),
        (lambda s: s.update(exp_avg_codes=torch.ones(600)), "must be int8 or uint8 .*, got torch.float32"),
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
