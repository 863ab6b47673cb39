"""Products with the Hessian against torch.func, whatever the model, the split of the data and the way."""

import warnings

import pytest
import torch
from torch import nn

from fallline.errors import ArgumentError, GradientError, LandscapeWarning, LossError
from fallline.landscape import Dense, GaussNewton, Hessian, Preconditioned
from landscapes import MODELS, build, loss, quadratic, true_hessian

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*math kernel:fallline.errors.LandscapeWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),  # torch.func's own
]
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)


def matrix(H):
    return H @ torch.eye(H.shape[0], dtype=H.dtype)


def split(batch, *sizes):
    return list(zip(*(part.split(sizes) for part in batch), strict=True))


@EVERY_MODEL
def test_products_equal_torch_func(name):
    model, batch = build(name)
    H = Hessian(model, loss, batch)
    model.eval()
    found = matrix(H)
    assert (found - true_hessian(model, batch)).abs().max() < 1e-10
    assert (found - found.T).abs().max() < 1e-10
    assert H.matvecs == H.shape[0] and H.hvp == "double-backward"


CONVOLUTIONS = [
    {},
    {"stride": 2, "padding": 1},
    {"groups": 2, "bias": False},
    {"dilation": 2, "padding": (2, 1)},
    {"padding": "valid"},
    {"padding": (1, 0), "stride": (1, 2)},
]


def convolutional(**options):
    torch.manual_seed(0)
    last = nn.Conv2d(2, 4, 2, **options)
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), last, nn.Tanh(), *pooled).double()
    return model, (torch.randn(5, 1, 7, 6, dtype=torch.float64), torch.randint(2, (5,)))


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_every_kind_of_convolution_has_exact_products(options):
    model, batch = convolutional(**options)
    assert (matrix(Hessian(model, loss, batch)) - true_hessian(model, batch)).abs().max() < 1e-12


def test_a_product_has_no_convolution_with_a_kernel_of_the_size_of_the_picture():
    """PyTorch's own second derivative has, and takes twice as long for it."""
    model, batch = convolutional()
    H, kernels = Hessian(model, loss, batch), []

    class Recorded(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution.default:
                kernels.append(tuple(args[1].shape[2:]))
            return func(*args, **(kwargs or {}))

    H @ torch.ones(H.shape[0], dtype=torch.float64)
    with Recorded():
        H @ torch.ones(H.shape[0], dtype=torch.float64)
    assert kernels and set(kernels) <= {(3, 3), (2, 2)}


def test_a_convolution_under_autocast_is_left_to_pytorch():
    model, batch = convolutional()
    model, batch = model.float(), (batch[0].float(), batch[1])

    def cast(m, b):
        with torch.autocast("cpu", torch.bfloat16):
            return loss(m, b)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LandscapeWarning)  # bfloat16 is too coarse for a finite difference
        assert matrix(Hessian(model, cast, batch)).isfinite().all()


@pytest.mark.parametrize("sizes", [(10,), (8, 2), (1, 9), (3, 3, 4)])
@EVERY_MODEL
def test_products_are_the_same_over_any_split_of_the_data(name, sizes):
    model, batch = build(name)
    H = Hessian(model, loss, split(batch, *sizes))
    model.eval()
    assert (matrix(H) - true_hessian(model, batch)).abs().max() < 1e-10


def test_means_weigh_by_what_they_are_told():
    """Of 7 and 3 tokens in rows of their own; by rows, both batches would count alike."""
    model = nn.Linear(1, 1, bias=False).double()
    data = [torch.full((1, 7), 2.0, dtype=torch.float64), torch.full((1, 3), 1.0, dtype=torch.float64)]

    def mean(model, batch):
        return model(batch.reshape(-1, 1)).square().mean() / 2

    one = torch.ones(1, dtype=torch.float64)
    assert (Hessian(model, mean, data, weight=lambda batch: batch.numel()) @ one).item() == pytest.approx(3.1)
    assert (Hessian(model, mean, data) @ one).item() == pytest.approx(2.5)


def test_batch_statistics_are_differentiated_in_train_mode():
    model, batch = build("cnn")
    found = matrix(Hessian(model, loss, batch, mode="train"))
    frozen = matrix(Hessian(model, loss, batch))
    params = list(model.parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in params])

    def gradient(vector):
        for p, part in zip(params, vector.split([p.numel() for p in params]), strict=True):
            p.data.copy_(part.view(p.shape))
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(model.train(), batch), params)])

    h = 1e-5
    columns = [(gradient(flat + h * e) - gradient(flat - h * e)) / (2 * h) for e in torch.eye(len(flat)).double()]
    assert (found - torch.stack(columns)).abs().max() < 1e-7  # of central differences
    assert (found - frozen).abs().max() > 0.01


@pytest.mark.parametrize("hvp", ["jvp", "finite-difference"])
@EVERY_MODEL
def test_the_other_ways_agree(name, hvp):
    model, batch = build(name)
    H = Hessian(model, loss, batch, hvp=hvp)
    model.eval()
    tolerance = 1e-10 if hvp == "jvp" else 1e-7
    assert (matrix(H) - true_hessian(model, batch)).abs().max() < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "cifar10-vit"])
def test_the_networks_for_cifar10_have_exact_products(name, tmp_path, monkeypatch):
    """A residual network with BatchNorm and a vision transformer, on pictures of noise."""
    from fallline.lab.tasks import get_task
    from test_tasks import batches, write_archive

    monkeypatch.setenv("FALLLINE_DATA", str(tmp_path))
    write_archive(tmp_path / "cifar-10-binary.tar.gz", batches())
    task = get_task(name, batch_size=3)
    torch.manual_seed(0)
    model = task.model().double()
    images, labels = next(iter(task.batches("train", torch.Generator().manual_seed(0))))
    batch = (images.double(), labels)
    H = Hessian(model, task.loss, batch, weight=task.size)
    v = torch.randn(H.shape[0], dtype=torch.float64)
    found = H @ v
    model.eval()
    params = {key: p.detach() for key, p in model.named_parameters()}
    parts = {
        key: part.view(p.shape)
        for (key, p), part in zip(params.items(), v.split([p.numel() for p in params.values()]), strict=True)
    }

    def value(p):
        return nn.functional.cross_entropy(torch.func.functional_call(model, p, (batch[0],)), batch[1])

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        right = torch.func.jvp(torch.func.grad(value), (params,), (parts,))[1]
    difference = found - torch.cat([right[key].reshape(-1) for key in params])
    assert difference.abs().max() < 1e-10 * found.abs().max() and H.hvp == "double-backward"


def test_float32_is_measured_in_float32():
    model, batch = build("mlp", dtype=torch.float32)
    found = matrix(Hessian(model, loss, batch))
    assert found.dtype == torch.float32
    assert (found - true_hessian(model, batch)).abs().max() < 1e-6


def test_the_kept_graph_follows_the_parameters():
    model, batch = build("mlp")
    H = Hessian(model, loss, batch)
    matrix(H)
    for move in (lambda p: p.data.mul_(2.0), lambda p: p.detach().add_(0.1)):  # without and with a new version
        for p in model.parameters():
            move(p)
        assert (matrix(H) - true_hessian(model, batch)).abs().max() < 1e-10


def test_unused_and_linear_parameters_give_zero_rows():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.linear, self.unused = nn.Linear(2, 1), nn.Parameter(torch.ones(3)), nn.Linear(2, 2)

    model = Odd()
    H = Hessian(model, lambda m, x: m.used(x).square().mean() + m.linear.sum(), torch.randn(4, 2))
    found = matrix(H)
    rows = found.abs().sum(1).split([3, 2, 1, 4, 2])  # a module's own parameters come first
    assert list(map(bool, (rows[0].any(), rows[1].any(), rows[2].any(), rows[3].any(), rows[4].any()))) == [
        False, True, True, False, False,
    ]  # fmt: skip
    assert not matrix(Hessian(model, lambda m, x: m.linear.sum(), torch.randn(4, 2))).any()


def test_a_choice_of_parameters_is_a_block():
    model, batch = build("mlp")
    whole = matrix(Hessian(model, loss, batch))
    H = Hessian(model, loss, batch, params=dict(model[2].named_parameters()))
    assert (matrix(H) - whole[20:, 20:]).abs().max() < 1e-12
    assert list(H.split(torch.zeros(H.shape[0]))) == ["weight", "bias"]
    model[0].requires_grad_(False)
    assert Hessian(model, loss, batch).shape == (12, 12)


def test_tied_parameters_count_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2, bias=False)
            self.b = nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    torch.manual_seed(0)
    model, x = Tied().double(), torch.randn(5, 2, dtype=torch.float64)
    found = matrix(Hessian(model, lambda m, x: m(x).square().mean(), x))
    right = torch.autograd.functional.hessian(
        lambda w: (x @ w.view(2, 2).T @ w.view(2, 2).T).square().mean(), model.a.weight.detach().reshape(-1)
    )
    assert (found - right).abs().max() < 1e-12


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

    with pytest.warns(LandscapeWarning, match=r"finite-difference: by double-backward: .* differs .* most in weight"):
        H = Hessian(model, cubed, x)
    right = 6 * (x @ model.weight.detach().T).item() * x.T @ x
    assert H.hvp == "finite-difference"
    tolerance = 1e-6 if dtype == torch.float64 else 1e-2
    assert (matrix(H) - right).abs().max() < tolerance * right.abs().max()
    with pytest.raises(GradientError, match='pass hvp="auto"'):
        Hessian(model, cubed, x, hvp="double-backward")


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
    with pytest.warns(LandscapeWarning, match="by kinks, or by a second derivative that is missing"):
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


def test_a_loader_that_shuffles_and_augments_is_one_function():
    x, y = torch.randn(10, 3), torch.randint(2, (10,))
    data = torch.utils.data.TensorDataset(x, y)
    generator = torch.Generator().manual_seed(1)
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, generator=generator)
    before = generator.get_state()
    model, _ = build("mlp", dtype=torch.float32)
    H = Hessian(model, lambda m, b: loss(m, (b[0] + 0.1 * torch.randn(b[0].shape), b[1])), loader)
    v = torch.randn(H.shape[0])
    assert torch.equal(H @ v, H @ v)
    assert torch.equal(generator.get_state(), before)


def test_gauss_newton_is_the_fisher_matrix_of_cross_entropy():
    """Σ over classes of p·∇log p·∇log p', an expression without second derivatives."""
    for name in MODELS:
        model, batch = build(name, items=3)
        G = GaussNewton(model, loss, batch)
        model.eval()
        params = dict(model.named_parameters())

        def log_probabilities(p, model=model, x=batch[0]):
            return torch.func.functional_call(model, p, (x,)).log_softmax(-1)

        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            parts = torch.func.jacfwd(log_probabilities)({k: p.detach() for k, p in params.items()})
        J = torch.cat([parts[k].reshape(3, 2, -1) for k in params], -1)
        p = log_probabilities({k: p.detach() for k, p in params.items()}).exp()
        right = torch.einsum("ik,ika,ikb->ab", p, J, J) / 3
        assert (matrix(G) - right).abs().max() < 1e-10


def test_gauss_newton_of_a_linear_model_is_the_hessian():
    torch.manual_seed(0)
    model, batch = nn.Linear(3, 2).double(), build("mlp")[1]
    G = GaussNewton(model, loss, split(batch, 7, 3))
    assert (matrix(G) - true_hessian(model, batch)).abs().max() < 1e-12
    with pytest.raises(ArgumentError, match="one tensor, in one call a batch, got 2 calls"):
        GaussNewton(model, lambda m, b: loss(m, b) + loss(m, b), batch)


def test_a_preconditioned_matrix_has_the_eigenvalues_of_the_quotient():
    A = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    A, p = A + A.T, torch.arange(1.0, 7.0, dtype=torch.float64)
    found = torch.linalg.eigvalsh(matrix(Preconditioned(A, p)))
    right = torch.linalg.eigvals(torch.diag(1 / p) @ A).real.sort().values
    assert (found - right).abs().max() < 1e-12
    with pytest.raises(ArgumentError, match="diagonal must be positive, got 0"):
        Preconditioned(A, torch.zeros(6))


def test_scipy_takes_it():
    from scipy.sparse.linalg import eigsh

    A = torch.diag(torch.arange(1.0, 21.0, dtype=torch.float64))
    model, energy, data = quadratic(A)
    H = Hessian(model, energy, [data])
    assert eigsh(H.to_scipy(), k=2)[0] == pytest.approx([19.0, 20.0])
    assert H.matvecs > 2


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


draws = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"loss_fn": lambda m, b: m(b[0])},
            r"one real number, got a tensor of shape \(2, 2\) and torch.float64",
        ),
        ({"loss_fn": lambda m, b: loss(m, b).item()}, "must return a tensor, got "),
        (
            {"loss_fn": lambda m, b: loss(m, b).detach()},
            r"depend on the parameters, got one without a graph for batch 0",
        ),
        ({"on": poisoned_batch}, "finite, got nan for batch 1; every parameter is finite"),
        ({"on": poisoned_parameter}, "finite, got .* for batch 0; parameter 2.bias is not finite"),
        ({"loss_fn": lambda m, b: (m(b[0]) * 0).square().sum().sqrt()}, "NaN or Inf in that of 0.weight for batch 0"),
        ({"loss_fn": lambda m, b: loss(m, b) * torch.rand((), generator=draws)}, "same at every evaluation, got"),
        ({"data": []}, "data must have a batch, got none"),
    ],
)
def test_losses_that_cannot_be_measured_are_one_clear_error(change, message):
    with pytest.raises(LossError, match=f"^Hessian: .*{message}"):
        Hessian(**failing(change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "test"}, "mode must be one of eval, train, got mode='test'"),
        ({"hvp": "exact"}, "hvp must be one of auto, double-backward"),
        ({"params": []}, "params must be parameters of the model"),
        ({"weight": lambda batch: 0}, "weight must give a finite number > 0 for every batch, got 0"),
    ],
)
def test_bad_arguments_are_one_clear_error(options, message):
    model, batch = build("mlp", items=4)
    with warnings.catch_warnings(), pytest.raises(ArgumentError, match=message):
        Hessian(model, loss, batch, **options)
