"""The Gauss-Newton matrix of models that return objects, and of losses that do not come through the output alone."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fallline.errors import ArgumentError, ArgumentTypeError, LossError
from fallline.landscape import GaussNewton, eigsh
from support.landscapes import matrix


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor
    loss: torch.Tensor | None = None


class Net(nn.Module):
    """A classifier that returns what `form` makes of its logits, its hidden layer, and its loss if it has labels."""

    def __init__(self, form):
        super().__init__()
        self.first, self.last, self.form = nn.Linear(3, 4), nn.Linear(4, 2), form

    def forward(self, x, labels=None):
        hidden = torch.tanh(self.first(x))
        logits = self.last(hidden)
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return self.form(logits, hidden, loss)


def build(form, dtype=torch.float64):
    torch.manual_seed(0)
    return Net(form).to(dtype), (torch.randn(5, 3, dtype=dtype), torch.randint(2, (5,)))


def dense(model, batch):
    """J'·L''·J from a Jacobian by autograd and the covariance of the probabilities."""
    params = dict(model.named_parameters())
    sizes = [p.numel() for p in params.values()]
    plain = Net(lambda logits, hidden, loss: logits).double()

    def logits(flat):
        parts = zip(params, flat.split(sizes), params.values(), strict=True)
        named = {name: part.view(p.shape) for name, part, p in parts}
        return torch.func.functional_call(plain, named, (batch[0].double(),))

    flat = torch.cat([p.detach().double().reshape(-1) for p in params.values()])
    J, p = torch.autograd.functional.jacobian(logits, flat), logits(flat).softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return torch.einsum("ika,ikl,ilb->ab", J, inner, J) / 5


def ce(select):
    return lambda model, batch: nn.functional.cross_entropy(select(model(batch[0])), batch[1])


FORMS = {
    "object": (lambda logits, hidden, loss: Output(logits, hidden, loss), lambda out: out.logits),
    "tuple": (lambda logits, hidden, loss: (logits, hidden), lambda out: out[0]),
    "dict": (lambda logits, hidden, loss: {"hidden": hidden, "logits": logits}, lambda out: out["logits"]),
    "tensor": (lambda logits, hidden, loss: logits, lambda out: out),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_selected_output_gives_the_matrix(form):
    make, select = FORMS[form]
    model, batch = build(make)
    G = GaussNewton(model, ce(select), batch, outputs=select)
    assert (matrix(G) - dense(model, batch)).abs().max() < 1e-12


def test_the_model_may_compute_the_loss_itself():
    model, batch = build(FORMS["object"][0], torch.float32)
    G = GaussNewton(model, lambda m, b: m(b[0], labels=b[1]).loss, batch, outputs=lambda out: out.logits)
    right = dense(model, batch)
    assert (matrix(G) - right).abs().max() < 1e-5 * right.abs().max()
    assert eigsh(G, 1).values.item() == pytest.approx(torch.linalg.eigvalsh(right)[-1].item(), rel=1e-5)


def test_several_batches_are_averaged():
    make, select = FORMS["tuple"]
    model, batch = build(make)
    data = [tuple(part[:2] for part in batch), tuple(part[2:] for part in batch)]
    assert (matrix(GaussNewton(model, ce(select), data, outputs=select)) - dense(model, batch)).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("form", "outputs", "error", "message"),
    [
        ("object", None, ArgumentError, r"got Output; select it by outputs=, such as lambda out: out.logits"),
        ("tuple", lambda out: out, ArgumentError, "got tuple; select it by outputs="),
        ("object", lambda out: out.loss, ArgumentError, "got NoneType; select it by"),
        ("object", lambda out: out.logits * 1, LossError, "return the tensor itself, not one computed from it"),
        ("object", "logits", ArgumentTypeError, r"outputs must be a function of the model's output, got 'logits'"),
        ("object", lambda out: out.hidden, LossError, "of the norm does not come through it"),
    ],
)
def test_what_is_no_output_is_one_clear_error(form, outputs, error, message):
    make, select = FORMS[form]
    model, batch = build(make)
    with pytest.raises(error, match=f"^GaussNewton: .*{message}"):
        GaussNewton(model, ce(select), batch, outputs=outputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "extra",
    [
        lambda m, out: 0.01 * sum(p.square().sum() for p in m.parameters()),
        lambda m, out: out.hidden.abs().mean(),
    ],
    ids=["a penalty on weights", "an auxiliary loss"],
)
def test_a_loss_that_does_not_come_through_the_output_is_an_error(extra, dtype):
    model, batch = build(FORMS["object"][0], dtype)

    def loss(model, batch):
        out = model(batch[0])
        return nn.functional.cross_entropy(out.logits, batch[1]) + extra(model, out)

    with pytest.raises(LossError, match=r"only through the output of the model, got a gradient of which .* leave pen"):
        GaussNewton(model, loss, batch, outputs=lambda out: out.logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_near_zero_is_no_reason_to_refuse(dtype):
    """At a minimum the gradients of the items cancel, and what is left is rounding."""
    model, batch = build(FORMS["tensor"][0], dtype)
    batch = (torch.ones(4, 3, dtype=dtype), torch.tensor([0, 1, 0, 1]))
    with torch.no_grad():
        model.last.weight[1], model.last.bias[1] = model.last.weight[0], model.last.bias[0]
    G = GaussNewton(model, ce(lambda out: out), batch)
    assert G.gradient().norm() < 1e-6 and matrix(G).any()
