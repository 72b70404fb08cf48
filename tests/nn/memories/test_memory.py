"""What every memory promises: acting and learning agree, trials are rows, derivatives are exact; products by oneDNN."""

import pickle

import numpy as np
import pytest
import torch

from metarl.nn import products
from metarl.nn.memories.make import make_memory
from metarl.nn.products import ONEDNN_FROM, affine, product

METRICS = ("dot", "weighted_l1")  # beside the cosine, which is the retrieval memory's own
KINDS = ("gru", "lstm", "transformer", "retrieval", *(f"retrieval_{m}" for m in METRICS), "ntm", "memory_network")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
ROWS, STEPS, INPUT, SIZE, CONTEXT = 3, 17, 3, 8, 5  # trials more than three times as long as what is looked back on
pytestmark = pytest.mark.usefixtures("one_torch_thread")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(kind: str, *sizes: int, **settings):
    """A memory of a kind, or of ``retrieval_<metric>``."""
    name, _, metric = kind.partition("retrieval_")
    return make_memory("retrieval" if metric else name, *sizes, metric=metric or "cosine", **settings)


def small(kind: str):
    return made(kind, INPUT, SIZE, layers=2, heads=2, context=CONTEXT, width=3, hops=2)


def some_parameters(memory, seed: int = 0) -> torch.Tensor:
    """Initial parameters, float64, with nothing left at 0 or 1."""
    flat = memory.initial(np.random.default_rng(seed)).double()
    return flat + 0.1 * draw(len(flat), seed=seed + 1)


def set_up(kind: str, dtype: torch.dtype = torch.float64):
    memory = small(kind)
    x = draw(ROWS, STEPS, INPUT, seed=7).to(dtype)
    return memory, some_parameters(memory).to(dtype), x, memory.initial_state(ROWS, x)


def acted(memory, flat, x, state):
    """(features, state) of one step after the other."""
    state, features = tuple(part.clone() for part in state), []
    with torch.inference_mode():
        params = memory.unpack(flat)
        for t in range(x.shape[1]):
            y, state = memory.step(params, x[:, t], state)
            features.append(y)
    return torch.stack(features, dim=1), state


def assert_same(actual, expected, dtype: torch.dtype = torch.float64) -> None:
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for a, e in zip(actual, expected, strict=True):
        for part_a, part_e in zip(
            a if isinstance(a, tuple) else (a,), e if isinstance(e, tuple) else (e,), strict=True
        ):
            torch.testing.assert_close(part_a, part_e, rtol=tolerance, atol=tolerance)


@EVERY_KIND
def test_parameters_lie_in_one_vector_in_the_order_of_their_names(kind):
    memory = small(kind)
    flat = memory.initial(np.random.default_rng(5))
    assert flat.dtype == torch.float32 and flat.shape == (memory.num_parameters,) and bool(flat.isfinite().all())
    assert torch.equal(flat, memory.initial(np.random.default_rng(5)))
    assert not torch.equal(flat, memory.initial(np.random.default_rng(6)))
    views = memory.views(flat)
    assert [tuple(view.shape) for view in views] == list(memory.shapes().values())
    assert torch.equal(torch.cat([view.flatten() for view in views]), flat)
    assert all(view.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr() for view in views)
    with pytest.raises(ValueError, match=rf"expected parameters of shape \({len(flat)},\), got \({len(flat) + 1},\)"):
        memory.unpack(torch.zeros(len(flat) + 1))


@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_scan_is_its_steps_one_by_one(kind, dtype):
    memory, flat, x, state = set_up(kind, dtype)
    features, after = memory.scan(memory.unpack(flat), x, state)
    assert features.shape == (ROWS, STEPS, SIZE) and features.dtype == dtype
    assert_same((features, after), acted(memory, flat, x, state), dtype)
    assert all(part.dtype == dtype and len(part) == ROWS for part in (*state, *after))


@EVERY_KIND
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("cuts", [[1], [4], [9, 11], [16]], ids=str)
def test_a_scan_can_be_cut_anywhere_with_the_state_carried_over(kind, twice, cuts):
    memory, flat, x, state = set_up(kind)
    flat.requires_grad_()
    whole = memory.scan(memory.unpack(flat), x, state, twice=twice)
    pieces = []
    for piece in x.tensor_split(cuts, dim=1):
        features, state = memory.scan(memory.unpack(flat), piece, state, twice=twice)
        pieces.append(features)
    joined = torch.cat(pieces, dim=1)
    assert_same((joined, state), whole)
    weight = draw(*joined.shape, seed=3)
    # an undetached state hands gradients over the cut
    gradients = [torch.autograd.grad((features * weight).sum(), flat)[0] for features in (joined, whole[0])]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-11)


@EVERY_KIND
def test_a_scan_goes_on_where_steps_ended_and_steps_where_a_scan_ended(kind):
    memory, flat, x, state = set_up(kind)
    params = memory.unpack(flat)
    whole = memory.scan(params, x, state)
    first, between = acted(memory, flat, x[:, :7], state)
    second, middle = memory.scan(params, x[:, 7:12], between)
    third, after = acted(memory, flat, x[:, 12:], middle)
    assert_same((torch.cat([first, second, third], dim=1), after), whole)


@EVERY_KIND
def test_a_scan_leaves_input_and_state_as_they_were(kind):
    memory, flat, x, state = set_up(kind)
    _, state = acted(memory, flat, x, state)
    state = tuple(part.clone() for part in state)
    before = [part.clone() for part in (x, *state, flat)]
    for twice in (False, True):
        memory.scan(memory.unpack(flat), x, state, twice=twice)
    assert all(torch.equal(part, copy) for part, copy in zip((x, *state, flat), before, strict=True))


@EVERY_KIND
def test_a_trial_alone_is_as_it_is_in_company(kind):
    memory, flat, x, state = set_up(kind)
    together = memory.scan(memory.unpack(flat), x, state)
    for row in range(ROWS):
        alone = memory.scan(memory.unpack(flat), x[row : row + 1], tuple(part[row : row + 1] for part in state))
        assert_same(alone, (together[0][row : row + 1], tuple(part[row : row + 1] for part in together[1])))


@EVERY_KIND
def test_rows_of_the_state_go_on_elsewhere_among_trials_of_any_age(kind):
    memory, flat, x, state = set_up(kind)
    reference, _ = memory.scan(memory.unpack(flat), x, state)
    ages = (2, 0, 11)  # younger than the window, new, older
    exported = []
    for row, age in enumerate(ages):
        _, at_age = acted(memory, flat, x[:, :age], state) if age else (None, state)
        exported.append(tuple(part[[row]].numpy().copy() for part in at_age))
    mixed = tuple(torch.from_numpy(np.concatenate(parts)) for parts in zip(*exported, strict=True))
    rest = torch.stack([x[row, age : age + 6] for row, age in enumerate(ages)])
    expected = torch.stack([reference[row, age : age + 6] for row, age in enumerate(ages)])
    scanned, after = memory.scan(memory.unpack(flat), rest, mixed)
    torch.testing.assert_close(scanned, expected, rtol=1e-12, atol=1e-12)
    twice, after_twice = memory.scan(memory.unpack(flat), rest, mixed, twice=True)
    assert_same((twice, after_twice), (scanned, after))
    stepped, after_steps = acted(memory, flat, rest, mixed)
    torch.testing.assert_close(stepped, expected, rtol=1e-12, atol=1e-12)
    # a row's unwritten slots may hold anything: only what follows from a state counts
    more = x[:, :3]
    continued = [memory.scan(memory.unpack(flat), more, part)[0] for part in (after, after_steps)]
    assert_same(continued[:1], continued[1:])


@EVERY_KIND
def test_what_can_be_differentiated_twice_has_the_same_values_and_gradients(kind):
    memory, flat, x, state = set_up(kind)
    _, state = acted(memory, flat, x, state)
    inputs = [part.clone().requires_grad_() for part in (flat, x, *state)]
    weight = draw(ROWS, STEPS, SIZE, seed=5)
    results, gradients = [], []
    for twice in (False, True):
        features, after = memory.scan(memory.unpack(inputs[0]), inputs[1], tuple(inputs[2:]), twice=twice)
        loss = (features * weight).sum() + sum((part * part).sum() for part in after)
        results.append((features, after))
        gradients.append(torch.autograd.grad(loss, inputs, materialize_grads=True))
    assert_same(*results)
    for once, twice in zip(*gradients, strict=True):
        torch.testing.assert_close(once, twice, rtol=1e-10, atol=1e-11)


def tiny(kind: str):
    """A scan of four steps with a window of three as a function of parameters and inputs, and both of them."""
    heads = 2 if kind == "transformer" else 1
    memory = made(kind, 2, 4, layers=1, heads=heads, context=3, width=2, hops=2)
    state = memory.initial_state(2, draw(1))

    def scan(flat, x, twice=False):
        features, after = memory.scan(memory.unpack(flat), x, state, twice=twice)
        return features, *(part for part in after if part.requires_grad)

    return scan, (some_parameters(memory).requires_grad_(), draw(2, 4, 2, seed=9).requires_grad_())


@EVERY_KIND
def test_gradients_are_those_of_finite_differences(kind):
    scan, arguments = tiny(kind)
    assert torch.autograd.gradcheck(scan, arguments, eps=1e-6, atol=1e-6, fast_mode=True)


@EVERY_KIND
def test_second_derivatives_are_those_of_finite_differences(kind):
    scan, arguments = tiny(kind)
    assert torch.autograd.gradgradcheck(
        lambda flat, x: scan(flat, x, twice=True)[0], arguments, eps=1e-6, atol=1e-5, fast_mode=True
    )


@EVERY_KIND
def test_a_product_with_a_fisher_matrix_is_that_of_the_explicit_jacobian(kind):
    scan, (flat, x) = tiny(kind)
    x, v = x.detach(), draw(len(flat), seed=11)
    here = scan(flat, x, twice=True)[0]
    loss = 0.5 * (here - here.detach()).square().sum()  # its Hessian at this point is JᵀJ
    (gradient,) = torch.autograd.grad(loss, flat, create_graph=True)
    (image,) = torch.autograd.grad(gradient, flat, v)
    jacobian = torch.autograd.functional.jacobian(lambda p: scan(p, x)[0], flat).reshape(-1, len(flat))
    assert float(image.norm()) > 1e-3
    torch.testing.assert_close(image, jacobian.T @ (jacobian @ v), rtol=1e-9, atol=1e-10)


@EVERY_KIND
def test_a_memory_is_a_picklable_value(kind):
    memory = small(kind)
    assert pickle.loads(pickle.dumps(memory)) == memory
    with pytest.raises(AttributeError):
        memory.size = 4


def test_make_memory_has_sensible_defaults_and_refuses_what_cannot_be():
    assert make_memory("gru", 3, 8).shapes().keys() == make_memory("lstm", 3, 8, layers=1).shapes().keys()
    transformer = make_memory("transformer", 3, 8)
    assert (transformer.layers, transformer.heads, transformer.context) == (2, 4, 128)
    retrieval = make_memory("retrieval", 3, 8, heads=2, context=7)
    assert (retrieval.layers, retrieval.heads, retrieval.context) == (1, 2, 7)
    with pytest.raises(ValueError, match="expected a size that is an even multiple of 4 heads, got 12"):
        make_memory("transformer", 3, 12)
    with pytest.raises(ValueError, match="expected a size that is a multiple of 4 heads, got 10"):
        make_memory("retrieval", 3, 10)
    turing = make_memory("ntm", 3, 8, context=7, width=5)
    assert (turing.layers, turing.heads, turing.slots, turing.width) == (1, 1, 7, 5)
    network = make_memory("memory_network", 3, 8, context=7)
    assert (network.hops, network.context) == (3, 7)
    with pytest.raises(ValueError, match="expected at least 1 head and 1 slot of width 1, got 1 heads and 0 slots"):
        make_memory("ntm", 3, 8, context=0)
    for kind in ("transformer", "retrieval", "memory_network"):
        with pytest.raises(ValueError, match="expected a context of at least 1, got 0"):
            make_memory(kind, 3, 8, context=0)


# -- recall ------------------------------------------------------------------------------------------------------------

VALUES = 2


def recall_trials(rows: int, pairs: int, pause: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (key, whether asked, outcome of the step before) [rows, T, pairs + 3], outcomes asked for [rows, pairs].

    Keys are shown in any order, each one's outcome arrives a step later; after a pause the keys come again. Who knows
    which outcomes there were, and not to which keys they belong, is right in three of four cases where there are two.
    """
    shown, asked = (np.argsort(rng.random((rows, pairs)), axis=1) for _ in range(2))
    outcome = rng.integers(VALUES, size=(rows, pairs))  # by key
    row, t, query = np.arange(rows)[:, None], np.arange(pairs)[None], pairs + pause
    x = np.zeros((rows, query + pairs, pairs + 1 + VALUES), np.float32)
    x[row, t, shown] = 1
    x[row, t + 1, pairs + 1 + np.take_along_axis(outcome, shown, 1)] = 1
    x[row, query + t, asked] = 1
    x[:, query:, pairs] = 1
    return torch.from_numpy(x), torch.from_numpy(np.take_along_axis(outcome, asked, 1))


@pytest.mark.parametrize(
    ("kind", "pairs", "size", "pause", "updates", "lr"),
    [
        ("gru", 2, 16, 2, 200, 1e-2),
        ("lstm", 2, 16, 2, 200, 1e-2),
        ("transformer", 2, 16, 4, 60, 1e-2),
        ("retrieval", 2, 16, 4, 40, 1e-2),
        ("retrieval_dot", 2, 16, 4, 60, 1e-2),
        ("retrieval_weighted_l1", 2, 16, 4, 60, 1e-2),
        ("memory_network", 2, 16, 4, 60, 1e-2),
        ("ntm", 2, 16, 2, 200, 1e-2),
        pytest.param("gru", 4, 32, 4, 800, 1e-2, marks=pytest.mark.slow),
        pytest.param("lstm", 4, 32, 4, 800, 1e-2, marks=pytest.mark.slow),
        pytest.param("transformer", 4, 32, 20, 200, 5e-3, marks=pytest.mark.slow),
        pytest.param("retrieval", 4, 32, 20, 200, 5e-3, marks=pytest.mark.slow),
    ],
)
def test_associative_recall_is_learned(kind, pairs, size, pause, updates, lr):
    rng = np.random.default_rng(0)
    memory = made(kind, pairs + 1 + VALUES, size, heads=1 if kind == "ntm" else 2, context=size, width=8)
    head = torch.from_numpy(rng.normal(scale=0.1, size=size * VALUES).astype(np.float32))
    flat = torch.cat([memory.initial(rng), head]).requires_grad_()
    optimizer = torch.optim.Adam([flat], lr=lr)

    def logits(x: torch.Tensor) -> torch.Tensor:
        params = memory.unpack(flat[: memory.num_parameters])
        features, _ = memory.scan(params, x, memory.initial_state(len(x), x))
        return features[:, -pairs:] @ flat[memory.num_parameters :].view(size, VALUES)

    for _ in range(updates):
        x, target = recall_trials(64, pairs, pause, rng)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits(x).flatten(0, 1), target.flatten()).backward()
        optimizer.step()
    with torch.no_grad():
        x, target = recall_trials(1000, pairs, pause, rng)
        assert float((logits(x).argmax(-1) == target).float().mean()) > 0.9


# -- products ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def onednn_calls(monkeypatch):
    """What is handed to oneDNN's operator, by the shapes of x and of the transposed weight."""
    calls, found = [], products._onednn()
    if found is None:
        pytest.skip("this torch has no such operator")

    def operator(x, weight, *rest):
        calls.append((tuple(x.shape), tuple(weight.shape)))
        return found(x, weight, *rest)

    operator.binary = lambda x, other, weight, *rest: (
        calls.append((tuple(x.shape), tuple(weight.shape))) or found.binary(x, other, weight, *rest)
    )
    monkeypatch.setattr(products, "_onednn", lambda: operator)
    return calls


def layouts(rows: int, columns: int, seed: int) -> dict[str, torch.Tensor]:
    """One matrix [rows, columns] as it may come to lie in memory."""
    plain = draw(rows, columns, seed=seed).float()
    padded = torch.full((rows, columns + 3), torch.nan)
    padded[:, 1:-2] = plain
    offset = torch.cat([torch.full((3,), torch.nan), plain.flatten()])[3:].view(rows, columns)
    return {"plain": plain, "transposed": plain.mT.contiguous().mT, "columns": padded[:, 1:-2], "offset": offset}


def test_a_large_product_is_the_same_whatever_the_strides(onednn_calls):
    m, n, k = 96, 160, 128
    bias, addend = draw(n, seed=3).float(), draw(m, n, seed=4).float()
    for x in layouts(m, k, 1).values():
        for weight in layouts(k, n, 2).values():
            exact = x.double() @ weight.double()
            with torch.no_grad():
                results = product(x, weight), product(x, weight, bias), product(x, weight, addend)
                expanded = product(x, weight, bias[:1].expand(n)), product(x, weight, addend[:1].expand(m, n))
            for result, plus in zip((*results, *expanded), (0, bias, addend, bias[0], addend[0]), strict=True):
                torch.testing.assert_close(result.double(), exact + plus, rtol=1e-4, atol=1e-4)
    assert m * n * k >= ONEDNN_FROM and set(onednn_calls) == {((m, k), (n, k))} and len(onednn_calls) == 4 * 4 * 5


def test_only_large_products_without_gradients_in_float32_go_to_onednn(onednn_calls):
    x, weight, bias = draw(128, 128).float(), draw(128, 64).float(), draw(64).float()
    assert ONEDNN_FROM == 128 * 128 * 64
    with torch.no_grad():
        product(x[1:], weight, bias)
        product(x.double(), weight.double(), bias.double())
    product(x, weight, bias)
    assert not onednn_calls
    with torch.no_grad():
        product(x, weight, bias)
    assert len(onednn_calls) == 1


def test_without_onednn_products_are_torchs(monkeypatch):
    monkeypatch.setattr(products, "_onednn", lambda: None)
    x, weight, bias = draw(128, 128).float(), draw(128, 64).float(), draw(64).float()
    with torch.no_grad():
        assert torch.equal(product(x, weight, bias), torch.addmm(bias, x, weight))
        assert torch.equal(product(x, weight), x @ weight)


@pytest.mark.parametrize("twice", [False, True])
def test_affine_maps_are_differentiated_exactly(twice):
    x, weight, bias = (part.requires_grad_() for part in (draw(2, 5, 3), draw(3, 4, seed=1), draw(4, seed=2)))
    torch.testing.assert_close(affine(x, weight, bias, twice=twice), x @ weight + bias)
    assert torch.autograd.gradcheck(lambda *parts: affine(*parts, twice=twice), (x, weight, bias))
    if twice:
        assert torch.autograd.gradgradcheck(lambda *parts: affine(*parts, twice=True), (x, weight, bias))


def test_affine_maps_by_onednn_have_the_gradients_of_torchs(onednn_calls):
    x, weight, bias = (
        part.float().requires_grad_() for part in (draw(4, 50, 96), draw(96, 128, seed=1), draw(128, seed=2))
    )
    cotangent = draw(128, 50, 4, seed=3).float().permute(2, 1, 0)
    fast = torch.autograd.grad(affine(x, weight, bias), (x, weight, bias), cotangent)
    assert len(onednn_calls) == 3
    plain = torch.autograd.grad(x @ weight + bias, (x, weight, bias), cotangent)
    for ours, torchs in zip(fast, plain, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-4)
