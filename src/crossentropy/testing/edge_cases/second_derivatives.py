"""Second derivatives: every kind against the reference, confident rows, rows that do not count, layouts."""

from __future__ import annotations

import itertools

import numpy as np

from ... import cross_entropy_and_grad, cross_entropy_grad_hess, reference
from ..ulps import FORMATS, largest_error, refuses, require, same
from .case import INF, NAN, edge_case, numbers

# Ulps of an entry, and of its largest term in a product: the reference's own included.
MOST = {"float32": 5, "float64": 10, "float16": 0.6, "bfloat16": 0.6}

# Pairwise: (targets, class weights, sample weights, label_smoothing, z_loss)
CHOICES = (
    ("index", False, False, 0.0, 0.0),
    ("index", True, True, 0.1, 0.0),
    ("index", True, False, 0.0, 0.05),
    ("probability", False, True, 0.0, 0.05),
    ("probability", True, False, 0.1, 0.0),
)


def wanted(x, targets, rows, kind, vector):
    """What each row must be, and the largest term of each entry."""
    want, unit = [], []
    for n, (z, target, row) in enumerate(zip(x.astype(float).tolist(), targets, rows, strict=True)):
        if kind == "gauss_newton_product":
            u = vector[n].astype(float)
            want.append(reference.cross_entropy_hessian_product(z, target, u.tolist(), row))
            s = reference.partial(z)
            a, b = reference.curvature(z, target, row)
            p = np.array(reference.softmax(z))
            others = np.where(p > 0.5, s.rest / (1 + s.rest), 1.0)
            spread = abs(a) * (u.max() - u.min()) * others + b * np.abs(u).max()
            unit.append(row.weight * p * spread)
        else:
            want.append(reference.cross_entropy_hessian(z, target, row, kind))
            unit.append(np.abs(want[-1]))
    return np.array(want), np.array(unit)


def check(x, targets, rows, kind, vector=None, **options):
    """Hold the second derivative to the reference's, and loss and gradient to those of the usual function."""
    found = cross_entropy_grad_hess(x, targets, hessian=kind, vector=vector, reduction="sum", **options)
    loss, grad = cross_entropy_and_grad(x, targets, reduction="sum", **options)
    if kind != "gauss_newton_product":  # which goes row by row, however few classes there are
        same(found.loss, loss)
        same(found.grad, grad)
    np.testing.assert_allclose(np.asarray(found.loss, float), np.asarray(loss, float), rtol=1e-6)
    each = targets.tolist() if targets.ndim == 1 else targets.astype(float).tolist()
    each = [max(t, 0) if isinstance(t, int) else t for t in each]
    want, unit = wanted(x, each, rows, kind, vector)
    name = x.dtype.name
    error = largest_error(found.hess, want, name, np.maximum(unit, 2.0 ** (FORMATS[name][1] + 4)))
    require(error <= MOST[name], f"{kind}, {name}: {error:.2f} ulp, allowed {MOST[name]}")
    return found


@edge_case("second derivatives: every kind")
def _(dtype):
    numbers_of = itertools.count()
    for (n, classes), choice in itertools.product(((5, 4), (3, 33), (2, 80)), CHOICES):
        targets, weighs, counts, epsilon, z_loss = choice
        rng = np.random.default_rng(next(numbers_of))
        x = (rng.standard_normal((n, classes)) * 2).astype(dtype)
        x[0, 1] = 16
        w = rng.uniform(0.5, 2, classes) if weighs else None
        v = rng.uniform(0.5, 2, n) if counts else None
        if targets == "index":
            t = rng.integers(0, classes, n)
        else:
            t = rng.dirichlet(np.ones(classes), n).astype(np.float64 if dtype == np.float64 else np.float32)
        row = reference.Row(1.0, None if w is None else w.tolist(), epsilon, z_loss)
        rows = [row._replace(weight=1.0 if v is None else v[i]) for i in range(n)]
        options = {"class_weight": w, "sample_weight": v, "label_smoothing": epsilon, "z_loss": z_loss}
        for kind in reference.HESSIANS:
            vector = rng.standard_normal((n, classes)).astype(dtype) if kind == "gauss_newton_product" else None
            check(x, t, rows, kind, vector, **options)


@edge_case("second derivatives: confident rows")
def _(dtype):
    for classes, gap in itertools.product((2, 9, 70), (12.0, 40.0)):
        x = np.zeros((2, classes)).astype(dtype)
        x[0, 1] = x[1, 0] = gap
        rows = [reference.PLAIN] * 2
        for kind in ("diagonal", "xgboost", "lightgbm"):
            check(x, np.array([1, 1]), rows, kind)
        check(x, np.array([1, 1]), rows, "gauss_newton_product", numbers(2, classes, dtype))


@edge_case("second derivatives: undefined, ignored and masked")
def _(dtype):
    for classes in (5, 70):
        x = numbers(6, classes, dtype)
        x[0, 2] = NAN
        x[1, 1] = INF
        x[2] = -INF
        x[3, 1] = -INF
        x[4] = NAN
        t = np.array([0, 0, 0, 0, -100, 3])
        for kind in reference.HESSIANS:
            u = numbers(6, classes, dtype, 2) if kind == "gauss_newton_product" else None
            found = cross_entropy_grad_hess(x, t, hessian=kind, vector=u, reduction="sum", ignore_index=-100)
            nan = np.isnan(found.hess.astype(float))
            require(nan[:3].all() and not nan[3:].any(), f"{kind}: {found.hess}")
            require(not found.hess[4].any(), f"{kind}: an ignored row")
            if kind not in ("upper_bound", "xgboost"):
                require(found.hess[3, 1] == 0, f"{kind}: a masked class")
        v = np.array([0, 0, 0, 1.0, 0, 1.0])
        found = cross_entropy_grad_hess(x, np.zeros(6, int), sample_weight=v)
        require(not found.hess[v == 0].any() and found.hess[3:4].any(), "rows of weight 0")
        none = cross_entropy_grad_hess(x, t, sample_weight=np.zeros(6))
        require(np.isnan(none.loss) and not none.grad.any() and not none.hess.any(), "the mean over no row")


@edge_case("second derivatives: rows that do not count, of classes without a weight")
def _(dtype):
    """Not even the least value of xgboost's is theirs, whatever they hold."""
    each = itertools.product((2, 5, 40, 300), (0.0, 0.1), reference.HESSIANS)
    for classes, epsilon, kind in each:
        n = 19
        x, t, off = numbers(n, classes, dtype, classes), np.arange(n) % classes, np.arange(n) % 3 == 0
        w = np.ones(classes)
        w[0], w[t[::4]] = 2, 0
        v = np.where(off, 0, 1.5)
        x[3], x[6, 0], x[9] = NAN, INF, -INF
        u = numbers(n, classes, dtype, 2) if kind == "gauss_newton_product" else None
        rows = [reference.Row(1.5, w.tolist(), epsilon)] * n
        given = {"vector": u, "class_weight": w, "label_smoothing": epsilon, "hessian": kind, "reduction": "sum"}
        for how in ({"sample_weight": v}, {"where": ~off, "sample_weight": np.full(n, 1.5)}):
            found = cross_entropy_grad_hess(x, t, **given, **how)
            require(not found.hess[off].any() and not found.grad[off].any(), f"{kind}, {classes}, {list(how)}")
        of_u = None if u is None else u[~off]
        check(x[~off], t[~off], [r for r, o in zip(rows, off, strict=True) if not o], kind, of_u,
              class_weight=w, sample_weight=v[~off], label_smoothing=epsilon)  # fmt: skip
        ignored = cross_entropy_grad_hess(x, np.where(off, 1, np.where(t == 1, 0, t)), ignore_index=1, **given)
        require(not ignored.hess[off].any() and not ignored.grad[off].any(), f"{kind}, {classes}, ignored")


@edge_case("second derivatives: layouts and reductions")
def _(dtype):
    for classes in (5, 70):
        x, t = numbers(20, classes, dtype), np.arange(20) % 5
        for kind in ("diagonal", "gauss_newton_product"):
            u = numbers(20, classes, dtype, 2) if kind == "gauss_newton_product" else None
            of = {} if u is None else {"vector": u}
            found = cross_entropy_grad_hess(x, t, hessian=kind, reduction="sum", **of)
            if u is not None:
                of = {"vector": np.ascontiguousarray(u.T)}
            turned = np.ascontiguousarray(x.T)
            grad, hess = np.empty_like(turned), np.empty_like(turned)
            got = cross_entropy_grad_hess(
                turned, t, hessian=kind, reduction="sum", axis=0, out=grad, hess_out=hess, **of
            )
            require(got.grad is grad and got.hess is hess)
            for one, other in ((got.hess.T, found.hess), (got.grad.T, found.grad)):
                error = largest_error(one, other.astype(float), dtype.name, np.abs(other.astype(float)) + 2.0**-10)
                require(error <= MOST[dtype.name] + 0.5, f"class axis first: {error} ulp")
        mean = cross_entropy_grad_hess(x, t).hess.astype(float)
        each = cross_entropy_grad_hess(x, t, reduction="none").hess.astype(float)
        np.testing.assert_allclose(mean * 20, each, rtol=2e-2 if dtype.itemsize == 2 else 1e-6, atol=1e-5)


@edge_case("second derivatives: arguments that are refused")
def _(dtype):
    x, t = numbers(3, 4, dtype), np.array([0, 1, 2])
    for message, options in (
        ("hessian must be one of 'diagonal', 'upper_bound', ", {"hessian": "full"}),
        ("hessian='gauss_newton_product' needs a vector, got None", {"hessian": "gauss_newton_product"}),
        ("hessian='diagonal' takes no vector", {"vector": x}),
        ("vector must be", {"hessian": "gauss_newton_product", "vector": x[:, :3]}),
        ("out must not share memory with logits", {"out": x}),
        ("hess_out must have shape (3, 4)", {"hess_out": np.empty((3, 3), dtype)}),
    ):
        with refuses(ValueError, message):
            cross_entropy_grad_hess(x, t, **options)
    with refuses(TypeError, "unexpected keyword argument 'softcap'"):
        cross_entropy_grad_hess(x, t, softcap=30.0)
    both = np.empty_like(x)
    with refuses(ValueError, "hess_out must not share memory with out"):
        cross_entropy_grad_hess(x, t, out=both, hess_out=both)
