"""Models and losses that cannot be differentiated twice: recovered with one line, or one clear error."""

import pytest
import torch
from torch import nn

from fallline.errors import ArgumentError, ArgumentTypeError, GradientError, LandscapeWarning, LossError
from fallline.landscape import Dense, GaussNewton, Hessian
from support.landscapes import build, loss, matrix, split, true_hessian


class SilentlyWrong(torch.autograd.Function):
    """x³, with a backward that autograd cannot see through and does not complain about."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 3 * grad * ctx.saved_tensors[0].square()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_second_derivative_that_is_silently_wrong_is_found(dtype):
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False).to(dtype)
    x = torch.tensor([[1.0, 2.0, -1.0]], dtype=dtype)

    def cubed(m, x):
        return SilentlyWrong.apply(m(x)).mean()

    rejected = r"finite-difference; rejected: double-backward: .* differs .* largest error in weight"
    with pytest.warns(LandscapeWarning, match=rejected):
        H = Hessian(model, cubed, x)
    right = 6 * (x @ model.weight.detach().T).item() * x.T @ x
    assert H.hvp == "finite-difference"
    tolerance = 1e-6 if dtype == torch.float64 else 1e-2
    assert (matrix(H) - right).abs().max() < tolerance * right.abs().max()
    with pytest.raises(GradientError, match='pass hvp="auto"'):
        Hessian(model, cubed, x, hvp="double-backward")


def test_a_hundredth_of_the_curvature_may_not_be_missing():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1, bias=False).double(), torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)

    def mostly_right(m, x):
        return 100 * m(x).square().mean() + SilentlyWrong.apply(m(x)).mean()

    with pytest.warns(LandscapeWarning, match=r"differs from a finite difference by 3%, with the largest error in"):
        H = Hessian(model, mostly_right, x)
    right = (200 + 6 * (x @ model.weight.detach().T).item()) * x.T @ x
    assert (matrix(H) - right).abs().max() < 1e-6 * right.abs().max()


def test_kinks_are_no_missing_derivative():
    """In float32 a finite difference of this network is wrong by over a tenth, at every step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 2))
    H = Hessian(model, loss, (torch.randn(200, 20), torch.randint(2, (200,))))
    assert H.hvp == "double-backward" and H.disagreement < 1e-3


def test_what_cannot_be_compared_in_float64_is_compared_as_it_is():
    torch.manual_seed(0)
    model, x, factor = nn.Linear(3, 1, bias=False), torch.randn(4, 3), torch.ones(1, 1, dtype=torch.float32)
    H = Hessian(model, lambda m, x: (m(x) @ factor).pow(3).mean(), x)  # in float64 these have no product
    assert H.hvp == "double-backward" and H.disagreement < 0.01
    with pytest.warns(LandscapeWarning, match="because of kinks or a missing second derivative"):
        Hessian(model, lambda m, x: SilentlyWrong.apply(m(x) @ factor).mean(), x)


def test_flash_attention_is_recovered_with_one_line():
    model, batch = build("attention")
    with pytest.warns(LandscapeWarning, match="attention is computed by PyTorch's math kernel") as said:
        H = Hessian(model, loss, batch)
        matrix(H)
    assert len(said) == 1


@pytest.mark.slow  # the compiler's own import takes seconds
def test_a_compiled_module_is_recovered_with_one_line():
    model, batch = build("mlp")
    whole = true_hessian(model, batch)
    with pytest.warns(LandscapeWarning, match=r"torch.compile'd code is run eagerly \(the model\)") as said:
        H = Hessian(torch.compile(model, backend="aot_eager"), loss, batch)
    assert (matrix(H) - whole).abs().max() < 1e-10 and len(said) == 1
    assert H.objective.names[0] == "0.weight"
    model[0] = torch.compile(model[0], backend="aot_eager")
    with pytest.warns(LandscapeWarning, match=r"eagerly \(0\)"):
        H = Hessian(model, loss, batch)
    assert (matrix(H) - whole).abs().max() < 1e-10


def test_wrappers_of_parallel_training_are_taken_off(tmp_path):
    model, batch = build("mlp")
    whole = true_hessian(model, batch)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        with pytest.warns(LandscapeWarning, match="DistributedDataParallel"):
            H = Hessian(wrapped, loss, batch)
        assert (matrix(H) - whole).abs().max() < 1e-10
        with pytest.raises(ArgumentError, match=r"DistributedDataParallel at 0; pass the module inside"):
            Hessian(nn.Sequential(wrapped), loss, batch)
    finally:
        torch.distributed.destroy_process_group()


def test_recurrent_layers_have_products():
    torch.manual_seed(0)
    model, x = nn.LSTM(2, 3, batch_first=True).double(), torch.randn(4, 5, 2, dtype=torch.float64)
    H = Hessian(model, lambda m, x: m(x)[0].square().mean(), x)
    assert H.hvp == "double-backward" and H.disagreement < 1e-6


def test_dropout_is_the_same_in_every_product():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 20), nn.Dropout(0.5), nn.Linear(20, 2)).double()
    batch = (torch.randn(6, 3, dtype=torch.float64), torch.randint(2, (6,)))
    for data in (batch, split(batch, 4, 2)):
        H = Hessian(model, loss, data, mode="train")
        v = torch.randn(H.shape[0], dtype=torch.float64)
        first = H @ v
        torch.rand(7)
        assert torch.equal(H @ v, first)
    assert not torch.allclose(Hessian(model, loss, batch) @ v, first)


def by_batch_sampler(data, generator):
    order = torch.utils.data.RandomSampler(data, generator=generator)
    return {"batch_sampler": torch.utils.data.BatchSampler(order, 4, False)}


@pytest.mark.parametrize(
    "options",
    [lambda data, generator: {"batch_size": 4, "shuffle": True, "generator": generator}, by_batch_sampler],
    ids=["shuffled", "batch sampler"],
)
def test_a_loader_that_shuffles_and_augments_is_one_function(options):
    x, y = torch.randn(10, 3), torch.randint(2, (10,))
    data = torch.utils.data.TensorDataset(x, y)
    generator = torch.Generator().manual_seed(1)
    loader = torch.utils.data.DataLoader(data, **options(data, generator))
    before = generator.get_state()
    model, _ = build("mlp", dtype=torch.float32)
    H = Hessian(model, lambda m, b: loss(m, (b[0] + 0.1 * torch.randn(b[0].shape), b[1])), loader)
    v = torch.randn(H.shape[0])
    assert torch.equal(H @ v, H @ v)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (torch.zeros(3), r"shape \(2,\) or \(2, k\), got \(3,\)"),
        ([1.0, 2.0], "got list"),
        (torch.tensor([1.0, float("nan")]), "must be finite"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(vector, message):
    with pytest.raises(ArgumentError, match=message):
        Dense(torch.eye(2)) @ vector


def failing(change):
    """Arguments for a Hessian of a perceptron, with one thing wrong."""
    model, batch = build("mlp", items=4)
    given = {"model": model, "loss_fn": loss, "data": split(batch, 2, 2)}
    if "loss_fn" in change:
        given["loss_fn"] = change["loss_fn"]
    elif "data" in change:
        given["data"] = change["data"]
    else:
        change["on"](given)
    return given


def poisoned_batch(given):
    given["data"][1][0][0, 0] = float("nan")


def poisoned_parameter(given):
    given["model"][2].bias.data[1] = float("inf")


STRANGER = nn.Linear(3, 2).double()
draws = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"loss_fn": lambda m, b: m(b[0])},
            r"one real number, got a tensor of shape \(2, 2\) and dtype torch.float64",
        ),
        ({"loss_fn": lambda m, b: loss(m, b).item()}, r"must be a tensor, got \d.*; return the tensor, not loss\.item"),
        (
            {"loss_fn": lambda m, b: loss(m, b).detach()},
            r"depend on the parameters, got one without a graph for batch 0",
        ),
        ({"on": poisoned_batch}, "finite, got nan for batch 1; every parameter is finite"),
        ({"on": poisoned_parameter}, "finite, got .* for batch 0; parameter 2.bias is not finite"),
        ({"loss_fn": lambda m, b: (m(b[0]) * 0).square().sum().sqrt()}, "NaN or Inf in that of 0.weight for batch 0"),
        ({"loss_fn": lambda m, b: loss(m, b) * torch.rand((), generator=draws)}, "same at every evaluation, got"),
        ({"data": []}, "data must have a batch, got none"),
        (
            {"loss_fn": lambda m, b: (loss(m, b), m(b[0]))},
            "the loss must be a tensor, got a tuple; return only the mean loss",
        ),
        (
            {"loss_fn": lambda m, b: (m(b[0]).argmax(1) != b[1]).sum()},
            "one real number, got a tensor of .* torch.int64",
        ),
        ({"loss_fn": lambda m, b: loss(STRANGER, b)}, "independent of 0.weight and all others; pass the model that"),
    ],
)
def test_losses_that_cannot_be_measured_are_one_clear_error(change, message):
    with pytest.raises(LossError, match=f"^Hessian: .*{message}"):
        Hessian(**failing(change))


def test_sparse_gradients_are_refused():
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True))
    with pytest.raises(GradientError, match=r"^Hessian: gradients must be dense, got a sparse one for 0.weight"):
        Hessian(model, lambda m, x: m(x).square().mean(), torch.tensor([1, 2]))


def test_a_loss_in_float64_is_the_same_to_more_than_six_digits():
    with pytest.raises(LossError, match=r"^Hessian: .*same at every evaluation"):
        Hessian(**failing({"loss_fn": lambda m, b: loss(m, b) * (1 + 1e-7 * torch.rand((), generator=draws).double())}))


def test_gauss_newton_finds_a_loss_that_is_not_always_the_same():
    with pytest.raises(LossError, match=r"^GaussNewton: .*same at every evaluation"):
        GaussNewton(**failing({"loss_fn": lambda m, b: loss(m, b) * torch.rand((), generator=draws)}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "test"}, "mode must be one of eval, train, got mode='test'"),
        ({"hvp": "exact"}, "hvp must be one of auto, double-backward"),
        ({"params": []}, "params must have a parameter, got none; unfreeze some"),
        ({"params": ["0.wait"]}, "params must be a list of names or parameters of the model, got '0.wait' in it"),
        ({"params": STRANGER.weight}, r"or parameters of the model, got a tensor of shape \(3,\) in it"),
        ({"weight": lambda batch: 0}, "weight must return a finite number > 0 for every batch, got 0"),
        ({"weight": lambda batch: None}, "weight must return a finite number > 0 for every batch, got None"),
        ({"weight": "tokens"}, "weight must be a function of a batch, got 'tokens'"),
        ({"loss_fn": "mse"}, "loss_fn must be a function of model and batch, got 'mse'"),
        (
            {"data": [torch.zeros(2, 3), torch.zeros(2).long()]},
            r"got tensors of 2-d float32 and 1-d int64.*tuple\(batch\)",
        ),
        (
            {"data": [(torch.zeros(0, 3).double(), torch.zeros(0).long())]},
            "every batch must have a row, got an empty one",
        ),
    ],
)
def test_bad_arguments_are_one_clear_error(options, message):
    model, batch = build("mlp", items=4)
    with pytest.raises((ArgumentError, ArgumentTypeError), match=f"^Hessian: .*{message}"):
        Hessian(**{"model": model, "loss_fn": loss, "data": batch, **options})


def test_parameters_go_by_name():
    model, batch = build("mlp")
    by_name, itself = (
        Hessian(model, loss, batch, params=["2.bias"]),
        Hessian(model, loss, batch, params=[model[2].bias]),
    )
    assert torch.equal(matrix(by_name), matrix(itself)) and by_name.objective.names == ["2.bias"]


@pytest.mark.parametrize("operator", [Hessian, GaussNewton])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_no_curvature(operator, dtype):
    """One half-precision tensor among the others is enough: its products are noise, whatever the bound says."""
    model, batch = build("mlp")
    model[2].bias.data = model[2].bias.data.to(dtype)
    with pytest.raises(ArgumentError, match=rf"^{operator.__name__}: .* float32 or float64, got 2.bias of {dtype}, "):
        operator(model, loss, batch)
