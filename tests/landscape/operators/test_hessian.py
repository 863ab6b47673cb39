"""Products with the Hessian against torch.func, whatever the model, the split of the data and the way."""

import pytest
import torch
from torch import nn

from fallline.errors import ArgumentError, LossError
from fallline.landscape import GaussNewton, Hessian, Preconditioned, trace
from support.landscapes import MODELS, build, loss, matrix, quadratic, split, true_hessian

pytestmark = pytest.mark.filterwarnings("ignore:.*math kernel:fallline.errors.LandscapeWarning")
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)


@EVERY_MODEL
def test_products_equal_torch_func(name):
    model, batch = build(name)
    H = Hessian(model, loss, batch)
    model.eval()
    found = matrix(H)
    assert (found - true_hessian(model, batch)).abs().max() < 1e-10
    assert (found - found.T).abs().max() < 1e-10
    assert H.matvecs == H.shape[0] and H.hvp == "double-backward"


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
@pytest.mark.parametrize("name", ["cifar10", "cifar10-resnet", "cifar10-vit"])
def test_the_networks_for_cifar10_have_exact_products(name, cifar_archive):
    """Convolutional networks with BatchNorm and a vision transformer, on pictures of noise."""
    from fallline.lab.tasks import get_task

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


def test_the_kept_graph_follows_parameters_and_buffers():
    model, batch = build("cnn")
    H = Hessian(model, loss, batch)
    matrix(H)
    model.eval()
    for move in (lambda p: p.data.mul_(2.0), lambda p: p.detach().add_(0.1)):  # without and with a new version
        for moved in (model.parameters(), [model[1].running_mean]):
            for p in moved:
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
    with pytest.raises(ArgumentError, match="one tensor, in one call per batch, got 2 calls"):
        GaussNewton(model, lambda m, b: loss(m, b) + loss(m, b), batch)
    with pytest.raises(LossError, match="loss must depend on the output of the model"):
        GaussNewton(model, lambda m, b: (m(b[0]), m.weight.square().sum())[1], batch)


def test_a_preconditioned_matrix_has_the_eigenvalues_of_the_quotient():
    A = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    A, p = A + A.T, torch.arange(1.0, 7.0, dtype=torch.float64)
    found = torch.linalg.eigvalsh(matrix(Preconditioned(A, p)))
    right = torch.linalg.eigvals(torch.diag(1 / p) @ A).real.sort().values
    assert (found - right).abs().max() < 1e-12
    with pytest.raises(ArgumentError, match=r"diagonal must have shape \(6,\), got list"):
        Preconditioned(A, [1.0] * 6)
    with pytest.raises(ArgumentError, match="diagonal must be positive, got 0"):
        Preconditioned(A, torch.zeros(6))


def test_the_cost_is_known_before_the_first_product():
    model, batch = build("mlp")
    H = Hessian(model, loss, batch)
    for operator in (
        H,
        Hessian(model, loss, split(batch, 6, 4)),
        GaussNewton(model, loss, batch),
        Preconditioned(H, 1 + torch.rand(32)),
    ):
        steps = []
        trace(operator, 10, progress=steps.append)
        assert (steps[0].done, steps[0].total) == (0, 10) and steps[0].seconds > 0


def test_scipy_takes_it():
    from scipy.sparse.linalg import eigsh

    A = torch.diag(torch.arange(1.0, 21.0, dtype=torch.float64))
    model, energy, data = quadratic(A)
    H = Hessian(model, energy, [data])
    assert eigsh(H.to_scipy(), k=2)[0] == pytest.approx([19.0, 20.0])
    assert H.matvecs > 2
