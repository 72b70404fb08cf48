"""Networks and their derivatives against autograd in float64."""

import pytest
import torch
from synthetic import naive_outputs

from metarl.nn import elementwise
from metarl.nn.derivatives import Curvature, Linearization, Scratch
from metarl.nn.mlp import MLP

SHAPES = [(3, 2), (3, 4, 2), (2, 5, 4, 3), (1, 3, 3, 3, 1)]
NETWORKS = pytest.mark.parametrize(
    ("mlp", "stack"), [(MLP(sizes, kind), c) for sizes in SHAPES for kind in ("tanh", "relu") for c in (1, 3)], ids=str
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


def test_forward_by_hand():
    mlp = MLP((2, 2, 1))
    #                     W0 (in, out)         b0          W1          b1
    flat = torch.tensor([[1.0, 0.0, -1.0, 2.0, 0.5, -0.5, 3.0, -4.0, 0.25]], dtype=torch.float64)
    x = torch.tensor([[[0.3, 0.2]]], dtype=torch.float64)
    # z = (0.3 − 0.2 + 0.5, 0.4 − 0.5) = (0.6, −0.1)
    expected = 3 * torch.tanh(torch.tensor(0.6)) - 4 * torch.tanh(torch.tensor(-0.1)) + 0.25
    assert float(mlp.forward(mlp.layers(flat), x)) == pytest.approx(float(expected), rel=1e-6)
    relu = MLP((2, 2, 1), "relu")
    assert float(relu.forward(relu.layers(flat), x)) == pytest.approx(3 * 0.6 + 0.25)
    assert float(relu.outputs(relu.layers(flat), x.mT)) == pytest.approx(3 * 0.6 + 0.25)


def test_shapes_name_the_parameters_in_their_order():
    mlp = MLP((3, 4, 2))
    assert mlp.num_parameters == 3 * 4 + 4 + 4 * 2 + 2
    assert list(mlp.shapes().items()) == [
        ("layer0.weight", (3, 4)),
        ("layer0.bias", (4,)),
        ("layer1.weight", (4, 2)),
        ("layer1.bias", (2,)),
    ]


def test_layers_are_views_of_the_flat_vector():
    mlp, flat = MLP((2, 3)), torch.zeros(1, 10)
    mlp.layers(flat)[0][1].fill_(5.0)
    assert flat.tolist() == [[0] * 6 + [5] * 3 + [0]]


@NETWORKS
def test_forward_is_the_naive_network_by_rows_and_outputs_is_it_features_first(mlp, stack):
    flat, x = draw(stack, mlp.num_parameters), draw(stack, 6, mlp.sizes[0], seed=1)
    columns, before = x.mT.contiguous(), x.clone()
    expected = torch.stack([naive_outputs(mlp, flat[c], x[c]) for c in range(stack)])
    close(mlp.forward(mlp.layers(flat), x), expected)
    close(mlp.outputs(mlp.layers(flat), columns), expected.mT)
    assert torch.equal(Linearization(mlp, flat, columns, Scratch()).output, mlp.outputs(mlp.layers(flat), columns))
    assert torch.equal(x, before) and torch.equal(columns, before.mT)


@NETWORKS
def test_jacobian_products_are_autograds(mlp, stack):
    flat, x = draw(stack, mlp.num_parameters + 2), draw(stack, mlp.sizes[0], 6, seed=1)
    v, g = draw(*flat.shape, seed=2), draw(stack, mlp.sizes[-1], 6, seed=3)
    net = Linearization(mlp, flat, x, Scratch())
    pushed, pulled = net.jvp(v)[0].clone(), net.vjp(g).clone()
    for c in range(stack):

        def naive(p, c=c):
            return naive_outputs(mlp, p, x[c].T).T

        output, jv = torch.func.jvp(naive, (flat[c],), (v[c],))
        close(net.output[c], output)
        close(pushed[c], jv)
        close(pulled[c], torch.func.vjp(naive, flat[c])[1](g[c])[0])
    assert (pulled[:, -2:] == 0).all()  # parameters behind the network's own
    close((pulled * v).sum(-1), (g * pushed).sum((1, 2)))  # ⟨Jᵀg, v⟩ = ⟨g, Jv⟩


@NETWORKS
def test_hessian_products_are_autograds(mlp, stack):
    flat, x = draw(stack, mlp.num_parameters), draw(stack, mlp.sizes[0], 6, seed=1)
    scale, v = draw(stack, mlp.sizes[-1], 6, seed=2), draw(*flat.shape, seed=3)
    net = Linearization(mlp, flat, x, Scratch())
    curvature = Curvature(net, scale * net.output.cos())  # of the loss Σ scale·sin(output)
    d_output, d_hidden = net.jvp(v)
    product = curvature.product(v, -scale * net.output.sin() * d_output, d_hidden)
    for c in range(stack):

        def loss(p, c=c):
            return (scale[c] * naive_outputs(mlp, p, x[c].T).T.sin()).sum()

        close(curvature.gradient[c], torch.func.grad(loss)(flat[c]))
        close(product[c], torch.autograd.functional.hvp(loss, flat[c], v[c])[1])


def test_a_dead_relu_passes_nothing():
    mlp = MLP((1, 1, 1), "relu")
    flat = torch.tensor([[1.0, 0.0, 2.0, 0.5]])  # w0, b0, w1, b1
    net = Linearization(mlp, flat, torch.tensor([[[-1.0, 0.0, 3.0]]]), Scratch())
    assert net.output.flatten().tolist() == [0.5, 0.5, 6.5]
    # only x = 3 reaches w0 (2·3) and b0 (2); w1 sees h = 0, 0, 3; b1 sees all three
    assert net.vjp(torch.ones(1, 1, 3)).tolist() == [[6.0, 2.0, 3.0, 3.0]]


def test_networks_that_share_scratch_do_not_disturb_each_other():
    mlp, scratch = MLP((3, 4, 4, 2)), Scratch()
    flat, v = draw(2, mlp.num_parameters), draw(2, mlp.num_parameters, seed=1)
    inputs = [draw(2, 3, 5, seed=2), draw(2, 3, 5, seed=3), draw(2, 3, 9, seed=4)]
    shared = [Linearization(mlp, flat, x, scratch) for x in inputs]
    cotangents = [torch.ones_like(net.output) for net in shared]
    curvatures = [Curvature(net, g) for net, g in zip(shared, cotangents, strict=True)]
    for _ in range(2):
        for x, net, g, curvature in zip(inputs, shared, cotangents, curvatures, strict=True):
            alone = Linearization(mlp, flat, x, Scratch())
            expected = Curvature(alone, g).product(v, g, alone.jvp(v)[1])
            assert torch.equal(curvature.product(v, g, net.jvp(v)[1]), expected)
            assert torch.equal(net.vjp(g), alone.vjp(g))
    assert all((g == 1).all() for g in cotangents)


def test_scratch_keeps_one_memory_per_name_that_grows_and_follows_the_dtype():
    scratch, like = Scratch(), torch.zeros(2, 9, 3)  # [C, …, M]
    first = scratch.take("a", like, 4)
    assert first.shape == (2, 4, 3) and first.is_contiguous()
    memory = first.data_ptr()
    assert scratch.take("a", like, 4).data_ptr() == memory
    smaller = scratch.take("a", like[..., :2], 4)  # batches of many sizes share one memory
    assert smaller.shape == (2, 4, 2) and smaller.data_ptr() == memory
    assert scratch.take("b", like, 4).data_ptr() != memory
    larger = scratch.take("a", like, 5)
    assert larger.shape == (2, 5, 3) and scratch.take("a", like, 4).data_ptr() == larger.data_ptr()
    assert scratch.take("a", like.double(), 4).dtype == torch.float64


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_task_alone_has_the_bits_it_has_in_a_stack(activation):
    mlp = MLP((17, 64, 64, 6), activation)
    flat, x = draw(7, mlp.num_parameters).float() / 8, draw(7, 40, 17, seed=1).float()
    for network, given in ((mlp.forward, x), (mlp.outputs, x.mT.contiguous())):
        together = network(mlp.layers(flat), given)
        for c in range(7):
            assert torch.equal(network(mlp.layers(flat[c : c + 1]), given[c : c + 1])[0], together[c])


def test_tanh_is_exact_to_rounding_and_has_the_same_bits_wherever_a_number_lies():
    z = torch.cat([draw(1001).float() * 4, torch.tensor([0.0, -0.0, 1e-30, 20.0, -200.0])])
    h = MLP((1, 1), "tanh").activate(z.clone())
    torch.testing.assert_close(h.double(), torch.tanh(z.double()), rtol=3e-7, atol=0)
    for start in (1, 7, 1000):
        assert torch.equal(MLP((1, 1), "tanh").activate(z[start:].clone()), h[start:])


def test_tanh_can_be_differentiated_by_autograd():
    z = draw(5).requires_grad_()
    MLP((1, 1), "tanh").activate(z * 1.0).sum().backward()
    close(z.grad, 1 - torch.tanh(z.detach()).square())


def test_slopes_in_several_passes_are_those_in_one() -> None:
    """What stands in where a torch has no fused operator: the same numbers, in place."""
    grad, y = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)), torch.linspace(-0.9, 0.9, 50)
    for name, plain, further in (
        ("tanh_backward", lambda g, y: g * (1 - y * y), ()),
        ("sigmoid_backward", lambda g, y: g * y * (1 - y), ()),
        ("threshold_backward", lambda g, y, threshold: g * (y > threshold), (0.0,)),
    ):
        fused, several = grad[0].clone(), grad[0].clone()
        getattr(elementwise, name)(fused, y, *further, grad_input=fused)
        elementwise._operator(f"no_{name}", plain)(several, y, *further, grad_input=several)
        torch.testing.assert_close(several, fused)
        assert not torch.equal(several, grad[0])
