"""What must hold of the loss of hidden states, whatever the chunks, the layout of memory and the backend: exact numbers
are the conformance suite's (crossentropy.testing), here are sizes and values by code path.
"""

import math

import numpy as np
import pytest
from conftest import DTYPES

import crossentropy
from crossentropy import linear_cross_entropy, linear_cross_entropy_and_grad, linear_log_probs
from crossentropy.linear import products
from crossentropy.testing import LIMITS, largest_error

NAMES = ("hidden", "weight", "bias")
# |gradient - exact| <= C 2^-24 (|g| |W|), and (|g|^T |X|), where g is the exact gradient on the logits that were
# computed. Products sum some hundred terms one after the other and then such sums, whatever V is: 29 is the worst that
# was seen of 4096 classes by OpenBLAS.
C = 64


def layer(rng, n=9, features=5, classes=7, dtype=np.float32):
    """Hidden states, weight, bias and classes."""
    hidden = rng.standard_normal((n, features)).astype(dtype)
    weight = rng.standard_normal((classes, features)).astype(dtype)
    return hidden, weight, rng.standard_normal(classes).astype(dtype), rng.integers(0, classes, n)


def near(found, expected, rel=2e-6):
    """To rounding: of sums in another order."""
    np.testing.assert_allclose(found.loss, expected.loss, rtol=rel)
    for name in NAMES:
        got, right = getattr(found, name), getattr(expected, name)
        assert (got is None) == (right is None), name
        if right is not None and right.size:
            np.testing.assert_allclose(got, right, rtol=0, atol=rel * max(np.abs(right).max(), 1e-30), err_msg=name)


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize("rows", [1, 7, 128, 150, 400])
def test_chunks_of_any_length_agree(backend, rng, rows):
    hidden, weight, bias, y = layer(rng, 150, 8, 11)
    y[::5] = -100
    options = {"ignore_index": -100, "label_smoothing": 0.1, "z_loss": 1e-3, "class_weight": rng.uniform(0.5, 2, 11)}
    whole = linear_cross_entropy_and_grad(hidden, weight, y, bias=bias, **options)
    found = linear_cross_entropy_and_grad(hidden, weight, y, bias=bias, rows=rows, **options)
    near(found, whole)
    loss = linear_cross_entropy(hidden, weight, y, bias=bias, rows=rows, **options)
    assert loss == pytest.approx(float(whole.loss), rel=2e-6)


@pytest.mark.parametrize("shape", [(0, 5, 7), (1, 5, 7), (9, 1, 7), (9, 5, 1), (9, 0, 7), (0, 0, 1), (1, 1, 1)])
def test_the_smallest_sizes(backend, rng, shape):
    hidden, weight, bias, y = layer(rng, *shape)
    z = hidden.astype(np.float64) @ weight.astype(np.float64).T + bias
    found = linear_cross_entropy_and_grad(hidden, weight, y, bias=bias, reduction="sum")
    losses, g = crossentropy.cross_entropy_and_grad(z, y, reduction="sum")
    right = found._replace(loss=losses, hidden=g @ weight, weight=g.T @ hidden, bias=g.sum(0))
    near(found, right)
    for name, like in zip(NAMES, (hidden, weight, bias), strict=True):
        assert getattr(found, name).shape == like.shape
        assert getattr(found, name).dtype == np.float32
    if shape[2] == 1:
        assert found.loss == 0
        assert not any(getattr(found, name).any() for name in NAMES)
    assert linear_log_probs(hidden, weight, y, bias=bias).entropy.shape == y.shape


@pytest.mark.parametrize("features", [0, 1, 5])
def test_one_row_without_an_axis(backend, rng, features):
    hidden, weight, bias, _ = layer(rng, 1, features)
    for more in ({}, {"ignore_index": 1}, {"sample_weight": [3.0], "reduction": "sum"}):
        rows = linear_cross_entropy_and_grad(hidden, weight, [2], bias=bias, **more)
        more |= {"sample_weight": 3.0} if "sample_weight" in more else {}
        row = linear_cross_entropy_and_grad(hidden[0], weight, 2, bias=bias, **more)
        assert np.shape(row.loss) == ()
        assert row.hidden.shape == (features,)
        near(row._replace(hidden=row.hidden[None]), rows)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_row_counts(backend, rng, reduction):
    hidden, weight, bias, _ = layer(rng)
    hidden[:] = np.nan
    found = linear_cross_entropy_and_grad(
        hidden, weight, np.full(9, -100), bias=bias, ignore_index=-100, reduction=reduction
    )
    np.testing.assert_array_equal(found.loss, np.nan if reduction == "mean" else 0)
    for name in NAMES:
        assert not getattr(found, name).any(), name
    several = linear_cross_entropy_and_grad(
        hidden.reshape(3, 3, 5), weight, np.full((3, 3), 2), sample_weight=np.zeros((3, 3))
    )
    assert several.hidden.shape == (3, 3, 5)
    assert not several.hidden.any()
    assert not several.weight.any()


def test_rows_of_several_axes_are_rows(backend, rng):
    hidden, weight, bias, y = layer(rng, 12)
    y[4:6] = -100
    flat = linear_cross_entropy_and_grad(hidden, weight, y, bias=bias, ignore_index=-100, reduction="none")
    found = linear_cross_entropy_and_grad(
        hidden.reshape(2, 3, 2, 5), weight, y.reshape(2, 3, 2), bias=bias, ignore_index=-100, reduction="none"
    )
    assert found.loss.shape == (2, 3, 2)
    near(found._replace(loss=found.loss.ravel(), hidden=found.hidden.reshape(12, 5)), flat)


# ---------------------------------------------------------------------- values


def test_rows_that_do_not_count_may_hold_anything(backend, rng):
    hidden, weight, bias, y = layer(rng, 40)
    for spoilt, option in (
        (np.arange(40) % 3 == 0, "ignore_index"),
        (np.arange(40) < 20, "ignore_index"),  # what is left is a slice
        (np.arange(40) % 3 == 0, "sample_weight"),
    ):
        x, t = hidden.copy(), y.copy()
        x[spoilt] = np.where(np.arange(5) % 2, np.nan, np.inf)
        options = {"sample_weight": np.where(spoilt, 0.0, 2.0)}
        if option == "ignore_index":
            t[spoilt] = -100
            options = {"ignore_index": -100}
        found = linear_cross_entropy_and_grad(x, weight, t, bias=bias, rows=8, **options)
        kept = linear_cross_entropy_and_grad(hidden[~spoilt], weight, y[~spoilt], bias=bias, rows=8)
        assert not found.hidden[spoilt].any()
        near(found._replace(hidden=found.hidden[~spoilt]), kept)
        losses = linear_cross_entropy(x, weight, t, bias=bias, reduction="none", **options)
        assert not losses[spoilt].any()


def test_nan_in_a_row_that_counts_is_told_by_that_row_alone(backend, rng):
    hidden, weight, _, y = layer(rng)
    hidden[3] = np.nan
    found = linear_cross_entropy_and_grad(hidden, weight, y, reduction="none", rows=4)
    assert np.isnan(found.loss).tolist() == (np.arange(9) == 3).tolist()
    assert np.isnan(found.hidden).all(1).tolist() == (np.arange(9) == 3).tolist()


def test_probabilities_as_targets(backend, rng):
    hidden, weight, bias, y = layer(rng)
    one_hot = np.eye(7)[y]
    near(
        linear_cross_entropy_and_grad(hidden, weight, one_hot, bias=bias, rows=4),
        linear_cross_entropy_and_grad(hidden, weight, y, bias=bias),
    )
    q = rng.dirichlet(np.ones(7), 9).astype(np.float32)
    z = (hidden @ weight.T + bias).astype(np.float64)
    loss, g = crossentropy.cross_entropy_and_grad(z, q)
    found = linear_cross_entropy_and_grad(hidden, weight, q, bias=bias, rows=4)
    near(found, found._replace(loss=loss, hidden=g @ weight, weight=g.T @ hidden, bias=g.sum(0)), 5e-6)


def test_tied_weights(backend, rng):
    """Hidden states that are rows of the weight: each gradient is of its own place in the formula."""
    _, weight, _, _ = layer(rng, classes=12)
    hidden = weight[2:9]
    before = weight.copy()
    found = linear_cross_entropy_and_grad(hidden, weight, np.arange(7), rows=3)
    near(found, linear_cross_entropy_and_grad(hidden.copy(), weight, np.arange(7), rows=3))
    np.testing.assert_array_equal(weight, before)
    with pytest.raises(ValueError, match=r"out\['hidden'\] must not share memory with"):
        linear_cross_entropy_and_grad(hidden, weight, np.arange(7), out={"hidden": hidden})


def test_micro_batches_add_up_to_one_call(backend, rng):
    hidden, weight, bias, y = layer(rng, 40, 6, 9)
    y[[3, 17, 18]] = -100
    whole = linear_cross_entropy_and_grad(hidden, weight, y, bias=bias, ignore_index=-100)
    total = {"weight": np.zeros_like(weight), "bias": np.zeros_like(bias)}
    count, loss, on_hidden = float((y != -100).sum()), 0.0, []
    for part in np.split(np.arange(40), [7, 7, 19]):  # the second is empty
        found = linear_cross_entropy_and_grad(
            hidden[part], weight, y[part], bias=bias, ignore_index=-100, normalizer=count, out=total, accumulate=True
        )
        assert found.weight is total["weight"]
        loss += float(found.loss)
        on_hidden.append(found.hidden)
    near(whole._replace(loss=loss, hidden=np.concatenate(on_hidden), **total), whole)
    hidden_twice = {"hidden": whole.hidden.copy()}
    linear_cross_entropy_and_grad(
        hidden, weight, y, bias=bias, ignore_index=-100, out=hidden_twice, accumulate=True, rows=6
    )
    np.testing.assert_allclose(hidden_twice["hidden"], 2 * whole.hidden, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_each_gradient_alone_is_that_of_all(backend, rng, name):
    hidden, weight, bias, y = layer(rng)
    all_of_them = linear_cross_entropy_and_grad(hidden, weight, y, bias=bias, rows=4)
    alone = linear_cross_entropy_and_grad(hidden, weight, y, bias=bias, rows=4, wrt=name)
    np.testing.assert_array_equal(getattr(alone, name), getattr(all_of_them, name))
    assert [getattr(alone, other) for other in NAMES if other != name] == [None, None]


# ---------------------------------------------------------------------- against the logits


def drawn(seed):
    """A call drawn at random: arguments, options, and what is given beside them."""
    rng = np.random.default_rng(seed)
    rows_shape = [(), (0,), (1,), (13,), (3, 5), (2, 3, 4), (4, 0)][rng.integers(7)]
    features, classes = int(rng.integers(0, 9)), int(rng.integers(1, 12))
    hidden = rng.standard_normal((*rows_shape, features))
    weight, bias = rng.standard_normal((classes, features)), rng.standard_normal(classes)
    options = {"reduction": ["mean", "sum", "none"][rng.integers(3)]}
    likely = lambda share: rng.random() < share  # noqa: E731
    if likely(0.3):
        targets = rng.dirichlet(np.ones(classes), rows_shape)
    else:
        targets = rng.integers(0, classes, rows_shape)
        if likely(0.5):
            options["ignore_index"] = -100
            targets = np.where(rng.random(rows_shape) < 0.4, -100, targets)
    if likely(0.3):
        options["sample_weight"] = np.where(rng.random(rows_shape) < 0.3, 0, rng.uniform(0.1, 3, rows_shape))
    if likely(0.3):
        options["class_weight"] = np.where(rng.random(classes) < 0.2, 0, rng.uniform(0.1, 3, classes))
    options |= {"label_smoothing": 0.2} if likely(0.3) else {}
    options |= {"z_loss": 0.01} if likely(0.3) else {}
    options |= {"normalizer": 3.5} if likely(0.3) and options["reduction"] == "mean" else {}
    options |= {"empty": 0.0} if likely(0.3) and options["reduction"] == "mean" else {}
    if likely(0.5):
        options["grad_output"] = rng.standard_normal(rows_shape if options["reduction"] == "none" else ())
    rows = [None, 1, 3, 100][rng.integers(4)]
    wrt = [name for name in NAMES if likely(0.7)]
    return rng, hidden, weight, (bias if likely(0.5) else None), targets, options, rows, wrt


def flat(a):
    """The array as (rows, K), K of which may be 0."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


@pytest.mark.parametrize("seed", range(40))
def test_a_call_drawn_at_random_is_that_of_its_logits(backend, seed):
    rng, hidden, weight, bias, targets, options, rows, wrt = drawn(seed)
    z = hidden @ weight.T + (0 if bias is None else bias)
    right, g = crossentropy.cross_entropy_and_grad(z, targets, **options)
    x, g = flat(hidden), flat(g)
    expected = {"hidden": (g @ weight).reshape(hidden.shape), "weight": g.T @ x, "bias": g.sum(0)}
    accumulate, out = bool(rng.random() < 0.5), {}
    for name, like in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if name in wrt and like is not None and rng.random() < 0.6:
            out[name] = np.full(like.shape, 0.5)[..., ::-1]
    accumulate = accumulate and bool(out)
    found = linear_cross_entropy_and_grad(
        hidden, weight, targets, bias=bias, rows=rows, wrt=wrt, out=out, accumulate=accumulate, **options
    )
    np.testing.assert_allclose(found.loss, right, rtol=1e-12, atol=1e-12)
    for name in NAMES:
        got = getattr(found, name)
        if name not in wrt or (name == "bias" and bias is None):
            assert got is None
            continue
        begun = 0.5 if accumulate and name in out else 0.0
        np.testing.assert_allclose(got, expected[name] + begun, rtol=1e-11, atol=1e-12, err_msg=name)
    options.pop("grad_output", None)
    loss = linear_cross_entropy(hidden, weight, targets, bias=bias, rows=rows, **options)
    np.testing.assert_allclose(loss, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_log_probs_drawn_at_random_are_those_of_the_logits(backend, seed):
    rng, hidden, weight, bias, _, _, rows, wrt = drawn(seed)
    rows_shape = hidden.shape[:-1]
    index = np.where(rng.random(rows_shape) < 0.3, -1, rng.integers(0, len(weight), rows_shape))
    g_p, g_h = rng.standard_normal((2, *rows_shape))
    z = hidden @ weight.T + (0 if bias is None else bias)
    log_p, p, counts = crossentropy.log_softmax(z), crossentropy.softmax(z), index >= 0
    at = np.eye(len(weight))[index]
    entropy = -(p * log_p).sum(-1)
    found = crossentropy.linear_log_probs_and_grad(
        *(hidden, weight, index), bias=bias, rows=rows, ignore_index=-1, wrt=wrt, grad_log_prob=g_p, grad_entropy=g_h
    )
    np.testing.assert_allclose(found.log_prob, np.where(counts, (log_p * at).sum(-1), 0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.entropy, np.where(counts, entropy, 0), rtol=1e-12, atol=1e-12)
    g = g_p[..., None] * (at - p) - g_h[..., None] * p * (log_p + entropy[..., None])
    x, g = flat(hidden), flat(np.where(counts[..., None], g, 0))
    expected = {"hidden": (g @ weight).reshape(hidden.shape), "weight": g.T @ x, "bias": g.sum(0)}
    for name in NAMES:
        got = getattr(found, name)
        if name in wrt and not (name == "bias" and bias is None):
            np.testing.assert_allclose(got, expected[name], rtol=1e-11, atol=1e-12, err_msg=name)
        else:
            assert got is None


# ---------------------------------------------------------------------- how arrays lie


def laid_out(a, how, rng):
    """The same numbers in another layout of memory."""
    if how == "negative strides":
        return a[::-1, ::-1].copy()[::-1, ::-1]
    if how == "transposed":
        return a.T.copy().T
    if how == "every third":
        wide = rng.standard_normal((a.shape[0] * 2, a.shape[1] * 3)).astype(a.dtype)
        wide[::2, ::3] = a
        return wide[::2, ::3]
    if how == "swapped bytes":
        return a.astype(a.dtype.newbyteorder())
    if how == "misaligned":
        raw = np.empty(a.nbytes + 1, np.uint8)
        moved = raw[1:].view(a.dtype).reshape(a.shape)
        moved[...] = a
        return moved
    assert how == "read-only"
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = ["negative strides", "transposed", "every third", "swapped bytes", "misaligned", "read-only"]


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("how", LAYOUTS)
def test_any_layout_of_hidden_and_weight(backend, rng, how, real):
    hidden, weight, bias, y = layer(rng, 19, 6, 8, real)
    y[5] = -100
    options = {"bias": bias, "ignore_index": -100, "rows": 7}
    plain = linear_cross_entropy_and_grad(hidden, weight, y, **options)
    for x, w in (
        (laid_out(hidden, how, rng), weight),
        (hidden, laid_out(weight, how, rng)),
        (laid_out(hidden, how, rng), laid_out(weight, how, rng)),
    ):
        before = x.tobytes(), w.tobytes()
        found = linear_cross_entropy_and_grad(x, w, y, **options)
        near(found, plain, 2e-6 if real is np.float32 else 1e-14)
        assert (x.tobytes(), w.tobytes()) == before
        assert all(getattr(found, name).dtype == real for name in NAMES)


def test_strides_of_0(backend, rng):
    hidden, weight, _, y = layer(rng)
    for x, w in (
        (np.broadcast_to(hidden[0], hidden.shape), weight),
        (hidden, np.broadcast_to(weight[0], weight.shape)),
        (hidden, np.broadcast_to(weight[:, :1], weight.shape)),
    ):
        found = linear_cross_entropy_and_grad(x, w, y, rows=4)
        near(found, linear_cross_entropy_and_grad(x.copy(), w.copy(), y))


@pytest.mark.parametrize("how", ["negative strides", "transposed", "every third", "misaligned"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_any_layout_of_out(backend, rng, how, accumulate):
    hidden, weight, bias, y = layer(rng, 19, 6, 8)
    y[5] = -100
    plain = linear_cross_entropy_and_grad(hidden, weight, y, bias=bias, ignore_index=-100)
    begun = {"hidden": np.ones_like(hidden), "weight": np.full_like(weight, 2)}
    out = {name: laid_out(a, how, rng) for name, a in begun.items()}
    found = linear_cross_entropy_and_grad(
        hidden, weight, y, bias=bias, ignore_index=-100, rows=7, out=out, accumulate=accumulate
    )
    for name, a in out.items():
        assert getattr(found, name) is a
        right = getattr(plain, name) + accumulate * begun[name]
        np.testing.assert_allclose(a, right, atol=1e-6)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_out_of_float32_for_16_bits(backend, rng, name):
    """A sum over micro-batches is not rounded between them."""
    if (dtype := DTYPES[name]) is None:
        pytest.skip("bfloat16 arrays need ml_dtypes")
    hidden, weight, bias, y = layer(rng, 33, 6, 8, dtype)
    out = {"weight": np.zeros((8, 6), np.float32)}
    for _ in range(3):
        linear_cross_entropy_and_grad(hidden, weight, y, bias=bias, out=out, accumulate=True)
    wide = [a.astype(np.float32) for a in (hidden, weight, bias)]
    right = linear_cross_entropy_and_grad(wide[0], wide[1], y, bias=wide[2]).weight
    unit = 2.0**-8 if dtype.name == "bfloat16" else 1e-6
    np.testing.assert_allclose(out["weight"], 3 * right, atol=3 * unit * np.abs(right).max())


# ---------------------------------------------------------------------- accuracy


def confident(rng, n, features, classes, size):
    """Rows whose target leads by far: hidden is ``size`` times its class's direction (and a little of everything)."""
    weight = rng.standard_normal((classes, features)) * 2 / np.sqrt(features)
    y = rng.integers(0, classes, n)
    directions = weight[y] / np.linalg.norm(weight[y], axis=1, keepdims=True)
    hidden = size * directions + 0.05 * rng.standard_normal((n, features))
    return hidden, weight, y


def computed_logits(hidden, weight):
    """Those that the loss is of, where all rows are one chunk."""
    z = np.empty((len(hidden), len(weight)), np.float32)
    products.for_arrays(hidden.dtype).logits(hidden, weight, z)
    return z


def exact_gradient(z, y):
    """Losses and the gradient of their mean on the logits, in float64, by forms in which nothing cancels."""
    z, at = z.astype(np.float64), (np.arange(len(z)), y)
    e = np.exp(z - z.max(1, keepdims=True))
    own = e[at]
    e[at] = 0
    rest = e.sum(1)
    g = e / (rest + own)[:, None]
    g[at] = -rest / (rest + own)
    return np.where(own >= rest, np.log1p(rest / own), np.log(rest + own) - np.log(own)), g / len(z)


@pytest.mark.parametrize(("size", "loss"), [(None, 8.0), (14.0, 6e-8), (18.0, 1e-10)])
def test_gradients_are_those_of_the_computed_logits(kernels, rng, size, loss):
    n, features, classes = 256, 256, 4096
    if size is None:
        hidden, weight, _, y = layer(rng, n, features, classes)
        weight /= 16
    else:
        hidden, weight, y = confident(rng, n, features, classes, size)
    hidden, weight = hidden.astype(np.float32), weight.astype(np.float32)
    found = linear_cross_entropy_and_grad(hidden, weight, y, rows=n)
    losses, g = exact_gradient(computed_logits(hidden, weight), y)
    assert loss / 30 < losses.mean() < loss * 30
    x, w = hidden.astype(np.float64), weight.astype(np.float64)
    for got, right, terms in (
        (found.hidden, g @ w, np.abs(g) @ np.abs(w)),
        (found.weight, g.T @ x, np.abs(g).T @ np.abs(x)),
    ):
        worst = float((np.abs(got - right) / terms).max() * 2**24)
        assert worst <= C, worst
        norm = np.linalg.norm(got - right, axis=1) / np.linalg.norm(right, axis=1)
        assert norm.max() < 1e-4
    each = linear_cross_entropy(hidden, weight, y, rows=n, reduction="none")
    assert (each >= 0).all()
    assert largest_error(each, losses, "float32") <= LIMITS["float32"]["loss"]


@pytest.mark.parametrize("size", [None, 14.0, 18.0])
def test_gradients_of_bfloat16(kernels, rng, size):
    """Within 5e-3 of a row's norm of what the same bfloat16 operands have in float64: a rounding of each is 2^-9."""
    if DTYPES["bfloat16"] is None:
        pytest.skip("bfloat16 arrays need ml_dtypes")
    n, features, classes = 256, 128, 2048
    if size is None:
        hidden, weight, _, y = layer(rng, n, features, classes)
        weight /= 8
    else:
        hidden, weight, y = confident(rng, n, features, classes, size)
    hidden, weight = hidden.astype(DTYPES["bfloat16"]), weight.astype(DTYPES["bfloat16"])
    found = linear_cross_entropy_and_grad(hidden, weight, y, rows=n)
    x, w = hidden.astype(np.float64), weight.astype(np.float64)
    losses, g = exact_gradient(x @ w.T, y)
    assert found.loss == pytest.approx(losses.mean(), rel=1e-4)
    for got, right in ((found.hidden, g @ w), (found.weight, g.T @ x)):
        norm = np.linalg.norm(got.astype(np.float64) - right, axis=1) / np.linalg.norm(right, axis=1)
        assert norm.max() <= 5e-3, norm.max()


def test_a_loss_is_that_of_logits(backend, rng, dtype):
    """The same options mean the same: on logits that are exact, bit for bit."""
    hidden, weight = (rng.integers(-2, 3, size).astype(dtype) for size in ((9, 4), (7, 4)))
    y, bias = rng.integers(0, 7, 9), rng.integers(-2, 3, 7).astype(dtype)
    real = np.float64 if dtype.itemsize == 8 else np.float32
    z = hidden.astype(real) @ weight.astype(real).T + bias.astype(real)
    for options in (
        {},
        {"label_smoothing": 0.2, "z_loss": 0.1},
        {"class_weight": np.arange(1.0, 8), "ignore_index": int(y[0])},
        {"reduction": "none", "sample_weight": np.arange(9.0)},
        {"normalizer": 5.0},
        {"reduction": "sum"},
    ):
        found = linear_cross_entropy(hidden, weight, y, bias=bias, **options)
        np.testing.assert_array_equal(found, crossentropy.cross_entropy(z, y, **options))


# ---------------------------------------------------------------------- errors


def test_bad_arguments_are_told_by_name_rule_and_value(rng):
    hidden, weight, bias, y = layer(rng)
    good = {"hidden": hidden, "weight": weight, "targets": y, "bias": bias}
    frozen = np.zeros_like(weight)
    frozen.flags.writeable = False
    for changed, error, message in (
        ({"rows": 2.5}, TypeError, "rows must be an integer, got 2.5"),
        ({"rows": -1}, ValueError, "rows must be at least 1, got -1"),
        ({"weight": weight[0]}, ValueError, "weight must have shape (V, H) with the H of hidden, 5, got (5,)"),
        ({"bias": bias[:, None]}, ValueError, "bias must have shape (7,), got (7, 1)"),
        ({"hidden": hidden.astype(complex)}, TypeError, "hidden must be"),
        ({"bias": bias.astype(str)}, TypeError, "bias must be"),
        ({"targets": np.where(np.arange(9) == 4, -1, y)}, IndexError, "targets[4] = -1 is not in [0, 7)"),
        ({"out": weight}, TypeError, "out must be a mapping with some of 'hidden', 'weight', 'bias', got ndarray"),
        ({"out": {"weight": frozen}}, ValueError, "out['weight'] must be writeable"),
        ({"out": {"bias": bias.astype(np.float64)}}, ValueError, "out['bias'] must have dtype float32, got float64"),
        ({"out": {"bias": np.zeros(7, np.float32)}, "wrt": "hidden"}, ValueError, "out has 'bias', whose gradient"),
        ({"out": {"weight": frozen}, "accumulate": 1}, TypeError, "accumulate must be True or False, got 1"),
        ({"wrt": ["hidden", "x"]}, ValueError, "wrt must be of 'hidden', 'weight', 'bias', got 'x'"),
        ({"label_smoothing": 2.0}, ValueError, "label_smoothing must be"),
        ({"grad_output": np.ones(9)}, ValueError, "grad_output must"),
        ({"axis": 0}, TypeError, "unexpected keyword argument 'axis'"),
    ):
        with pytest.raises(error) as told:
            linear_cross_entropy_and_grad(**(good | changed))
        assert message in str(told.value), changed


def test_nothing_is_written_and_nothing_warned_of_before_an_error(rng):
    hidden, weight, _, y = layer(rng)
    out = {"hidden": np.full_like(hidden, 3), "weight": np.full_like(weight, 4)}
    y[8] = 7
    with pytest.raises(IndexError, match=r"targets\[8\] = 7"):  # a warning would be an error, too: pyproject.toml
        linear_cross_entropy_and_grad(hidden, weight, y, rows=2, out=out)
    assert (out["hidden"] == 3).all()
    assert (out["weight"] == 4).all()
