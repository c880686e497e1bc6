"""JAX's losses: the numbers of the NumPy functions, bit by bit, in what JAX makes of a function; optax's semantics."""

import re
from functools import partial

import numpy as np
import pytest
from subprocesses import run

import crossentropy
from crossentropy.testing import same

jax = pytest.importorskip("jax", reason="needs JAX")
optax = pytest.importorskip("optax", reason="needs optax, which crossentropy.jax is held to")
pytest.importorskip("crossentropy._native", reason="needs the compiled module")

import jax.numpy as jnp  # noqa: E402

from crossentropy.jax import log_softmax, softmax_cross_entropy  # noqa: E402
from crossentropy.jax import softmax_cross_entropy_with_integer_labels as loss_of  # noqa: E402

RNG = np.random.default_rng(7)
X = RNG.normal(0, 3, (4, 5, 6)).astype(np.float32)
Y = RNG.integers(0, 6, (4, 5))
Q = RNG.dirichlet(np.ones(6), (4, 5)).astype(np.float32)
ROWS = RNG.random((4, 5)) < 0.6


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def refuses(error, message):
    return pytest.raises(error, match=re.escape(message))


def near(got, want, rel=2e-6):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rel, atol=rel), got, want)


def of_numpy(x, t, **options):
    return crossentropy.cross_entropy_and_grad(np.asarray(x), np.asarray(t), **options)


def gradient_of_mean(x, t, rows=None, **options):
    """What float32(1/N) gives that arrives at each row, as JAX has it."""
    g = np.float32(1) / np.float32(rows or np.asarray(t).size)
    return of_numpy(x, t, reduction="none", grad_output=float(g), **options).grad


# ---------------------------------------------------------------------- losses and gradients


@pytest.mark.parametrize(("kind", "axis"), [("float16", 1), ("bfloat16", -1), ("float32", -1), ("float32", 0)])
def test_losses_and_gradients_are_those_of_numpy(kind, axis, rng):
    x = jnp.asarray(X, kind)
    y = rng.integers(0, X.shape[axis], np.delete(X.shape, axis))

    @jax.jit
    def values(x):
        wide = partial(loss_of, labels=y, axis=axis, dtype=jnp.float32)
        # The sum of the losses is what forward does not expect, and their mean is.
        grads = jax.grad(lambda x: wide(x).sum())(x), jax.grad(lambda x: wide(x).mean())(x)
        theirs = optax.softmax_cross_entropy_with_integer_labels(x, y, axis)
        return wide(x), loss_of(x, y, axis), theirs, *grads

    loss, grad = of_numpy(x, y, axis=axis, reduction="none")
    wide, as_optax, theirs, of_sum, of_mean = values(x)
    same(wide, loss)
    same(as_optax, np.asarray(jnp.asarray(loss).astype(kind)))
    near(as_optax, theirs, 16 * jnp.finfo(kind).eps)
    same(of_sum, grad)
    same(of_mean, gradient_of_mean(x, y, axis=axis))


def test_float64():
    def values(x):
        grads = jax.grad(lambda x: loss_of(x, Y).sum())(x), jax.grad(lambda x: loss_of(x, Y).mean())(x)
        return loss_of(x, Y), *grads, log_softmax(x, 1), softmax_cross_entropy(x, Q)

    with jax.enable_x64(True):
        x = np.asarray(X, np.float64)
        each, of_sum, of_mean, log_p, of_probabilities = jax.jit(values)(x)
    loss, grad = of_numpy(x, Y, reduction="none")
    same(each, loss)
    same(of_sum, grad)
    same(of_mean, of_numpy(x, Y).grad)
    same(log_p, crossentropy.log_softmax(x, 1))
    same(of_probabilities, crossentropy.cross_entropy(x, Q, reduction="none"))


def test_whatever_arrives(rng):
    """Weights of rows, an auxiliary loss, a pullback that is used twice."""
    g = rng.normal(size=Y.shape).astype(np.float32)
    want = of_numpy(X, Y, reduction="none", grad_output=g).grad
    for wrap in (jax.jit, lambda function: function):
        same(wrap(jax.grad(lambda x: (loss_of(x, Y) * g).sum()))(X), want)
    _, back = jax.vjp(lambda x: loss_of(x, Y), X)
    mean = np.full(Y.shape, np.float32(1) / np.float32(Y.size))
    for arrives, expected in ((mean, gradient_of_mean(X, Y)), (g, want)) * 2:
        same(back(jnp.asarray(arrives))[0], expected)


def test_the_mean_takes_one_pass():
    """Of the compiled program: the gradient is made with the loss, and not copied afterwards."""
    program = jax.jit(jax.value_and_grad(lambda x: loss_of(x, Y).mean())).lower(X).compile().as_text()
    assert program.count('custom_call_target="crossentropy_losses"') == 1
    assert program.count('custom_call_target="crossentropy_gradient"') == 1
    assert "output_to_operand_aliasing" in program
    assert " copy(" not in program
    assert "exponential" not in program


def test_labels_of_any_integer_dtype():
    kinds = ("int8", "int16", "int32", "uint8", "uint16", "uint32")
    for got in jax.jit(lambda: [loss_of(X, jnp.asarray(Y, kind)) for kind in kinds])():
        same(got, crossentropy.cross_entropy(X, Y, reduction="none"))


@pytest.mark.parametrize("classes", [6, 300])
def test_a_label_that_is_no_class_is_nan(classes, rng):
    x = rng.normal(size=(6, classes)).astype(np.float32)
    y = np.array([1, -1, -100, classes, 2**31 - 1, 0], np.int32)
    both = [0, 5]

    def values(x):
        return jax.value_and_grad(lambda x: loss_of(x, y).sum(where=jnp.arange(6) % 5 == 0))(x), loss_of(x, y)

    (loss, grad), each = jax.jit(values)(x)
    good = crossentropy.cross_entropy(x[both], y[both], reduction="none")
    assert np.isnan(each[1:5]).all()
    same(each[jnp.array(both)], good)
    near(loss, good.sum())
    assert np.isnan(grad[1:5]).all()  # 0 times NaN
    same(grad[jnp.array(both)], of_numpy(x[both], y[both], reduction="sum").grad)
    with crossentropy.config(backend="reference"):  # JAX's operations
        near(jax.jit(lambda x: values(x))(x), ((loss, grad), each))


def test_edges():
    """No rows, one row, one class, no class; infinities and NaN as everywhere."""
    shapes = ((0, 3), (1, 3), (1, 1), (2, 0), (0, 0))

    def values(x):
        y = jnp.zeros(len(x), int)
        loss, grad = jax.value_and_grad(lambda x: loss_of(x, y).sum())(x)
        return loss, grad, log_softmax(x), softmax_cross_entropy(x, jnp.ones_like(x))

    for settings in ({}, {"backend": "reference"}):
        with crossentropy.config(**settings):
            found = jax.jit(lambda: [values(jnp.zeros(shape)) for shape in shapes])()
        for (rows, classes), (loss, grad, log_p, of_ones) in zip(shapes, found, strict=True):
            near(loss, np.nan if rows and not classes else rows * np.log(max(classes, 1)))
            assert grad.shape == log_p.shape == (rows, classes)
            assert of_ones.shape == (rows,)
    assert loss_of(jnp.zeros(3), 2).shape == ()
    x = np.array([[np.inf, 0, 1], [-np.inf, 0, 1], [np.nan, 0, 1], [-np.inf] * 3, [3e38, -3e38, 0]], np.float32)
    gradient = jax.jit(jax.grad(lambda x, y: loss_of(x, y).sum()))
    for label in range(3):
        y = np.full(5, label)
        loss, grad = of_numpy(x, y, reduction="none")
        same(loss_of(x, y), loss)
        same(gradient(x, y), grad)


def test_probabilities():
    want = crossentropy.cross_entropy_and_grad(X, Q, reduction="none")
    low, halves = np.array([-np.inf, 0, 1], np.float32), np.array([0, 0.5, 0.5], np.float32)

    def values(f):
        return [
            jax.value_and_grad(lambda x, q: (f(x, q) ** 2).mean(), (0, 1))(X, Q),
            jax.grad(lambda q: f(X, q).sum())(Q),
            f(X, Q[0, 0]),  # broadcast
            f(X, Q, axis=None),
            f(X, Q, axis=(0, 2)),
        ]

    theirs = jax.jit(lambda: values(optax.softmax_cross_entropy))()
    near(jax.jit(lambda: values(softmax_cross_entropy))(), theirs, 2e-5)
    near(softmax_cross_entropy(low, halves), np.log1p(np.e) - 0.5)
    with crossentropy.config(backend="reference"):
        near(jax.jit(lambda: values(softmax_cross_entropy))(), theirs, 2e-5)
        near(softmax_cross_entropy(low, halves), np.log1p(np.e) - 0.5)
    grad = jax.jit(jax.grad(lambda x: softmax_cross_entropy(x, Q).sum()))(X)
    same(softmax_cross_entropy(X, Q), want.loss)
    same(grad, want.grad)
    one_hot = [np.eye(6, dtype=kind)[Y] for kind in (int, bool, np.float16)]
    for got in jax.jit(lambda: [softmax_cross_entropy(X, q) for q in one_hot])():
        same(got, loss_of(X, Y))


def test_log_softmax(rng):
    g, where = rng.normal(size=X.shape).astype(np.float32), rng.random(X.shape) < 0.7
    axes = (-1, (0, 2), None)

    def values(f):
        each = [f(X, axis) for axis in axes]
        grads = [jax.grad(lambda x, a=axis: (f(x, a) * g).sum())(X) for axis in axes]
        return each, grads, f(X, 1, where)

    each, grads, masked = jax.jit(lambda: values(log_softmax))()
    want = jax.jit(lambda: values(jax.nn.log_softmax))()
    near((each, grads, masked), want, 1e-5)
    for axis, got in zip(axes, each, strict=True):
        same(got, crossentropy.log_softmax(X, axis))
    _, saved = crossentropy.autograd.log_softmax_forward(X)
    same(grads[0], crossentropy.autograd.log_softmax_backward(saved, g))
    with crossentropy.config(backend="reference"):
        near(jax.jit(lambda: values(log_softmax))(), want, 1e-5)


def test_several_axes_of_classes(rng):
    y = rng.integers(0, 20, 6)

    def values(f):
        return [f(X, y, axis) for axis in ((0, 1), (1, 0))]

    theirs = jax.jit(lambda: values(optax.softmax_cross_entropy_with_integer_labels))()
    near(jax.jit(lambda: values(loss_of))(), theirs)


# ---------------------------------------------------------------------- what does not count


def test_where_of_rows():
    padded, none = np.where(ROWS, Y, -100), np.zeros_like(ROWS)
    theirs = optax.softmax_cross_entropy_with_integer_labels

    def mean(x, y, f=loss_of, where=ROWS):
        return f(x, y, where=where).sum() / max(where.sum(), 1)

    @jax.jit
    def ours(x):
        each = [loss_of(x, padded, where=ROWS), loss_of(x, padded, where=ROWS[..., None])]
        return (
            [*each, softmax_cross_entropy(x, Q, where=ROWS)],
            jax.value_and_grad(mean)(x, padded),
            jax.value_and_grad(mean)(x, padded, where=none),
        )

    each, (loss, grad), (nothing, zeros) = ours(X)
    want = jax.jit(lambda: theirs(X, Y, where=ROWS))()
    near(each, [want, want, optax.softmax_cross_entropy(X, Q, where=ROWS)])
    near(loss, crossentropy.cross_entropy(X, padded, ignore_index=-100))
    same(grad, gradient_of_mean(X, padded, ROWS.sum(), ignore_index=-100))
    near(grad, jax.jit(jax.grad(partial(mean, f=theirs)))(X, Y))
    assert nothing == 0
    assert not zeros.any()


def test_where_of_classes(rng):
    where = rng.random(X.shape) < 0.7
    where[0, 0] = False  # a row without a class does not count
    y = np.where(where.any(-1), where.argmax(-1), 0)

    def both(f, g):
        return [
            (f(X, t, where=where), jax.grad(lambda x, t=t, f=f: (f(x, t, where=where) ** 2).sum())(X))
            for f, t in ((f, y), (g, Q))
        ]

    got = jax.jit(lambda: both(loss_of, softmax_cross_entropy))()
    want = jax.jit(lambda: both(optax.softmax_cross_entropy_with_integer_labels, optax.softmax_cross_entropy))()
    for (loss, grad), (their_loss, their_grad) in zip(got, want, strict=True):
        near(loss, their_loss)
        near(grad[1:], their_grad[1:], 2e-5)
        assert not grad[0, 0].any()  # optax: NaN
    assert loss_of(X, np.where(where.any(-1), (~where).argmax(-1), 0), where=where).max() == np.inf


# ---------------------------------------------------------------------- what JAX makes of a function


def test_vmap():
    def values(x):
        rows = jax.vmap(lambda x, y, w: loss_of(x, y, where=w).sum() / w.sum())
        return (
            [
                jax.vmap(jax.vmap(loss_of))(x, Y),
                jax.vmap(loss_of, (1, 1), 1)(x, Y),
                jax.vmap(partial(loss_of, axis=0), (0, 0))(x.transpose(0, 2, 1), Y),
            ],
            jax.vmap(loss_of, (None, 0))(x[0], Y[:2])[0],
            jax.vmap(loss_of, (0, None))(x, Y[0])[0],
            jax.vmap(jax.grad(lambda x, y: loss_of(x, y).mean()))(x, Y),
            jax.grad(lambda x: jax.vmap(loss_of)(x, Y).mean())(x),
            jax.grad(lambda x: rows(x, Y, ROWS)[1])(x)[1],
            jax.vmap(log_softmax)(x),
        )

    every, first, again, of_each, of_all, of_one, log_p = jax.jit(values)(X)
    each = crossentropy.cross_entropy(X, Y, reduction="none")
    for got in every:
        same(got, each)
    same(first, each[0])
    same(again, each[0])
    for i in range(4):
        same(of_each[i], gradient_of_mean(X[i], Y[i]))
    same(of_all, gradient_of_mean(X, Y))
    counted = np.where(ROWS[1], Y[1], 9)
    same(of_one, gradient_of_mean(X[1], counted, ROWS[1].sum(), ignore_index=9))
    same(log_p, crossentropy.log_softmax(X))
    same(jax.vmap(loss_of)(X, Y), each)  # without jit


@pytest.mark.parametrize(
    "name",
    ["classes", *(pytest.param(name, marks=pytest.mark.slow) for name in ("probabilities", "log_softmax"))],
)
def test_derivatives_of_the_gradient(name, rng):
    x, v = X[0, :3], rng.normal(size=(3, 6)).astype(np.float32)
    ours, theirs, t = {
        "classes": (loss_of, optax.softmax_cross_entropy_with_integer_labels, Y[0, :3]),
        "probabilities": (softmax_cross_entropy, optax.softmax_cross_entropy, Q[0, :3]),
        "log_softmax": (
            lambda x, q: (log_softmax(x) * q).sum(-1),
            lambda x, q: (jax.nn.log_softmax(x) * q).sum(-1),
            Q[0, :3],
        ),
    }[name]

    def derivatives(f):
        def gradient(x):
            return jax.grad(lambda x: (f(x, t) ** 2).sum())(x)

        def along(x):  # reverse over reverse
            return jax.grad(lambda x: (gradient(x) * v).sum())(x)

        found = jax.jvp(gradient, (x,), (v,)), along(x), jax.grad(lambda x: (along(x) * v).sum())(x)
        if name == "probabilities":
            found += (jax.grad(lambda q: (jax.grad(lambda x: (f(x, q) ** 2).sum())(x) * v).sum())(t),)
        return found

    near(jax.jit(derivatives, static_argnums=0)(ours), jax.jit(derivatives, static_argnums=0)(theirs), 1e-4)


@pytest.mark.slow
def test_hessian():
    f, g = (lambda x, f=f: f(x, Y[0, 0]) for f in (loss_of, optax.softmax_cross_entropy_with_integer_labels))
    near(jax.jit(jax.hessian(f))(X[0, 0]), jax.jit(jax.hessian(g))(X[0, 0]))


def test_checkpoint_scan_and_donation():
    def step(total, each):
        return total + jax.checkpoint(loss_of)(*each).mean(), None

    grad = jax.jit(jax.grad(lambda x: jax.lax.scan(step, 0.0, (x, jnp.asarray(Y)))[0]))(X)
    for i in range(4):
        same(grad[i], gradient_of_mean(X[i], Y[i]))
    update = jax.jit(lambda x, y: x - jax.grad(lambda x: loss_of(x, y).mean())(x), donate_argnums=0)
    near(update(jnp.asarray(X), Y), X - of_numpy(X, Y).grad)


def test_other_platforms_get_jaxs_operations():
    function = jax.jit(jax.value_and_grad(lambda x: loss_of(x, Y).mean()))
    program = jax.export.export(function, platforms=["cuda"])(X).mlir_module()
    assert "@crossentropy_" not in program
    assert "exponential" in program


def test_settings_count_when_a_function_is_traced(rng):
    from crossentropy import native

    x = rng.normal(0, 3, (70, 500)).astype(np.float32)
    y = rng.integers(0, 500, 70)
    for threads, isa in enumerate(native.SUPPORTED_ISAS, 1):
        with crossentropy.config(isa=isa, threads=threads):
            lowered = jax.jit(jax.grad(lambda x: loss_of(x, y).mean())).lower(x)
            want = gradient_of_mean(x, y)
            assert f"threads = {native.current_threads()} " in lowered.as_text()
            assert f"isa = {native.ISAS.index(isa)} " in lowered.as_text()
        same(lowered.compile()(x), want)
    with crossentropy.config(backend="reference"):
        assert "@crossentropy_" not in jax.jit(lambda x: loss_of(x, y)).lower(x).as_text()


def test_a_jaxlib_that_refuses_the_kernels(monkeypatch):
    """A warning, once, and JAX's operations."""
    module = crossentropy.jax

    def refusing(name, capsule, platform):
        raise ValueError("another version")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refusing)
    module._registered.cache_clear()
    with pytest.warns(RuntimeWarning, match="does not take crossentropy's kernels.*another version") as found:
        near([loss_of(X, Y) for _ in range(2)], [crossentropy.cross_entropy(X, Y, reduction="none")] * 2)
    assert len(found) == 1
    assert found[0].filename == __file__
    monkeypatch.undo()
    module._registered.cache_clear()
    same(loss_of(X, Y), crossentropy.cross_entropy(X, Y, reduction="none"))  # the same functions, handed over again


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: loss_of(X, Q), TypeError, "labels must be integers, got float32"),
        (lambda: loss_of(Y, Y), TypeError, "logits must be float16, bfloat16, float32 or float64, got int"),
        (
            lambda: loss_of(X, Y[0]),
            ValueError,
            "labels must have the shape of logits without the class axis, (4, 5), got",
        ),
        (lambda: loss_of(np.float32(1), 0), ValueError, "logits must have a class axis, got a scalar"),
        (lambda: loss_of(X, Y, 3), ValueError, "axis must be one of logits with 3 axes, got 3"),
        (lambda: log_softmax(X, (1, -2)), ValueError, "axis must name one axis or more, and none twice, got (1, -2)"),
        (lambda: log_softmax(X, ()), ValueError, "axis must name one axis or more, and none twice, got ()"),
        (lambda: loss_of(X, Y, where=Q), TypeError, "where must be boolean, got float32"),
        (
            lambda: loss_of(X, Y, where=ROWS[0]),
            ValueError,
            "where must have the rows' shape, (4, 5), or that of logits",
        ),
        (
            lambda: softmax_cross_entropy(X, Q[:3]),
            ValueError,
            "labels must have a shape that broadcasts to that of logits",
        ),
        (lambda: loss_of(X, Y, dtype=int), TypeError, "dtype must be floating, got int"),
    ],
)
def test_bad_input(call, error, message):
    with refuses(error, message):
        call()


@pytest.mark.slow
def test_several_devices_and_threads():
    """Sharded by jit and by shard_map, and from threads at once; in a process that has two devices."""
    run(
        """
        import threading
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        import crossentropy
        from crossentropy.jax import softmax_cross_entropy_with_integer_labels as loss_of

        rng = np.random.default_rng(1)
        x, y = rng.normal(size=(64, 3000)).astype(np.float32), rng.integers(0, 3000, 64)
        want = crossentropy.cross_entropy_and_grad(x, y)
        mesh = Mesh(jax.devices(), ("rows",))
        assert len(jax.devices()) == 2
        step = jax.jit(jax.value_and_grad(lambda x, y: loss_of(x, y).mean()))

        def right(found):
            np.testing.assert_allclose(found[0], want.loss, rtol=1e-6)
            np.testing.assert_allclose(found[1], want.grad, rtol=1e-6)

        right(step(*(jax.device_put(a, NamedSharding(mesh, P("rows"))) for a in (x, y))))
        local = lambda x, y: jax.lax.pmean(loss_of(x, y).mean(), "rows")
        right(jax.value_and_grad(jax.shard_map(local, mesh=mesh, in_specs=P("rows"), out_specs=P()))(x, y))
        mapped = jax.pmap(lambda x, y: loss_of(x, y))(x.reshape(2, 32, -1), y.reshape(2, 32))
        np.testing.assert_array_equal(mapped.ravel(), crossentropy.cross_entropy(x, y, reduction="none"))
        for place in (NamedSharding(mesh, P("rows")), jax.devices()[1]):  # arrays for the functions for NumPy, too
            a = jax.device_put(x, place)
            loss, grad = crossentropy.cross_entropy_and_grad(a, y)
            assert grad.sharding == a.sharding
            np.testing.assert_array_equal(grad, want.grad)
            assert float(loss) == want.loss
        threads = [threading.Thread(target=lambda: [right(step(x, y)) for _ in range(20)]) for _ in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        """,
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
        JAX_PLATFORMS="cpu",
    )


def test_a_gradient_goes_into_the_memory_of_an_array_that_is_donated(rng):
    """No new memory is asked for: docs/howto/jax.md."""
    x, t = jnp.asarray(rng.standard_normal((64, 300), np.float32)), jnp.asarray(rng.integers(0, 300, 64))
    loss = jax.value_and_grad(lambda x: loss_of(x, t).mean())
    step = jax.jit(lambda x, last: loss(x), donate_argnums=1, keep_unused=True)
    expected, last = jax.jit(loss)(x), jnp.zeros_like(x)
    for _ in range(3):
        place = last.unsafe_buffer_pointer()
        value, last = step(x, last)
        assert last.unsafe_buffer_pointer() == place
        np.testing.assert_array_equal(value, expected[0])
        np.testing.assert_array_equal(last, expected[1])
