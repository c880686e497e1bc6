"""What a loss drawn at random must be (see fuzz.py), by every way there is, and what must be refused."""

import functools

import numpy as np
from fuzz_cases import FLOATS

import crossentropy
from crossentropy import autograd, reference
from crossentropy._options import NUMERIC, OPTIONS
from crossentropy.testing import LIMITS, largest_error, result_dtype

# The contract's limits are for rows of its own table. Rows that are drawn at random pass them now and then: e^z is off
# by up to 1.2 ulp, which is two where a result's mantissa is near 2 and that of e^z near 1, and where logits are equal
# so are their errors, and those of the sums that they are added to.
SLACK = 2
largest: dict[tuple[str, str], float] = {}  # error seen, by what of which dtype, in ulp


def within(got, expected, dtype, what, unit_at=None):
    """Assert that a result is near the reference's."""
    near(got, expected, dtype, what, result_dtype(dtype, what), LIMITS[dtype.name][what], unit_at)


def near(got, expected, dtype, what, name, limit, unit_at=None):
    """The same of so many ulps of the format of that name."""
    error = largest_error(got, expected, name, unit_at)
    largest[what, dtype.name] = max(error, largest.get((what, dtype.name), 0))
    allowed = SLACK * limit if limit > 1 else limit + 0.01
    assert error <= allowed, f"{what} of {dtype.name}: {error:.2f} ulp, allowed {allowed}"


def same_bits(got, expected, way):
    """Equal, NaN for NaN; 0 for -0."""
    a, b = (np.asarray(values, np.float64) for values in (got, expected))
    assert np.array_equal(a, b, equal_nan=True), f"{way}: other bits"


def transformed(case, z):
    """The logits that the loss is of, and their slopes, as NumPy has them."""
    o, a, c = case.options, case.options.get("logit_scale", 1.0), case.options.get("softcap", 0.0)
    z, slope = z * a, np.full(z.shape, a)
    if c:
        e = np.exp(-2 * np.abs(z) / c)
        z, slope = c * np.tanh(z / c), slope * (4 * e / (1 + e) ** 2)
    z = z + np.asarray(o.get("class_prior", 0.0), float)
    if o.get("margin"):
        z = z - o["margin"] * (np.arange(case.classes) == case.t[..., None])
    return z, slope


def loss_units(case, x):
    """The size of the largest terms of the loss (only lambda lse^2 has any that cancel) and of the gradient.

    A transformed logit has been rounded to float64: its own ulp is in the loss, and in each probability.
    """
    o, (z, slope) = case.options, transformed(case, np.moveaxis(x, case.axis, -1))
    c, eps, lam = case.classes, o.get("label_smoothing", 0.0), o.get("z_loss", 0.0)
    w, v = np.asarray(o.get("class_weight", np.ones(c)), float), np.asarray(o.get("sample_weight", np.ones(case.rows)))
    v, q = v.astype(float), np.moveaxis(case.t, case.axis, -1).astype(float) if case.probabilities else 0
    v = v * np.asarray(o.get("where", True))
    by = v.sum()
    if not case.probabilities:
        y = case.t.astype(object)
        q = (np.arange(c) == y[..., None]).astype(float)
        v = v * (y != o.get("ignore_index")).astype(bool)
        by = (v * (q * w).sum(-1)).sum()
    by = o.get("normalizer", by) if o.get("reduction", "mean") == "mean" else 1.0
    t, m = w * ((1 - eps) * q + eps / c), np.nan_to_num(z.max(-1), nan=0, posinf=0, neginf=0)
    p = np.exp(z - m[..., None])
    p = np.nan_to_num(p / p.sum(-1, keepdims=True), posinf=0)
    lse, gamma = np.abs(m) + np.log(c), o.get("focal", 0.0)
    data = np.nan_to_num(np.where(t > 0, t * (m[..., None] + np.log(c) - z), 0).sum(-1), nan=0, posinf=0, neginf=0)
    p_y = (p * (q > 0)).sum(-1) if gamma else np.zeros(())
    g = (gamma * np.maximum(1 - p_y, 1e-16) ** (gamma - 1) * p_y * data)[..., None] * q if gamma else 0.0
    t = t * ((1 - p_y) ** gamma)[..., None] + g
    a = (t.sum(-1) + 2 * lam * lse)[..., None]
    factor = (v * np.abs(np.asarray(case.g, float)) / (by or 1.0))[..., None]
    plain = not case.probabilities and not {"class_weight", "class_prior", *NUMERIC} & set(o)
    grad = factor * slope * (np.zeros(1) if plain else np.maximum(a * p, t))
    # what is below e^max 2^-160 does not count in float32, and loses digits below 2^-1022 in float64
    grad = np.maximum(grad, factor * a * 2.0 ** (-138 if case.result.itemsize < 8 else -1000))
    loss = v * lam * lse * lse
    if {"class_prior", "logit_scale", "softcap", "margin", "focal"} & set(o):
        size = np.nan_to_num(np.abs(z), nan=0, posinf=0).max(-1) * (1 if case.result.itemsize == 8 else 2.0**-29)
        loss, grad = loss + v * t.sum(-1) * size, grad * (1 + size[..., None] + gamma * (case.result.itemsize == 8))
    loss = loss if o.get("reduction") == "none" else loss.sum() / (by or 1.0)
    return loss, np.moveaxis(np.broadcast_to(grad, z.shape), -1, case.axis)


def expect_loss(case):
    """What the reference says, in float64: loss, gradient and their units."""
    x = case.x.astype(np.float64)
    with crossentropy.config(backend="reference", check=case.check), np.errstate(all="ignore"):
        want = crossentropy.cross_entropy_and_grad(x, case.t, **case.options, grad_output=case.g)
        return *want, *(loss_units(case, x) if x.size else (None, None))


def check_loss(case, expected):
    """The loss and its gradient by every way there is."""
    x, t, o, g = case.x, case.t, case.options, case.g
    got = crossentropy.cross_entropy_and_grad(x, t, **o, grad_output=g)
    loss, grad, loss_unit, grad_unit = expected
    assert got.grad.dtype == case.result
    assert got.loss.dtype == (np.float64 if case.result.itemsize == 8 else np.float32)
    within(got.loss, loss, case.result, "loss", loss_unit)
    within(got.grad, grad, case.result, "grad", grad_unit)
    same_bits(crossentropy.cross_entropy(x, t, **o), got.loss, "the loss alone")
    again, saved = autograd.forward(x, t, **o)
    same_bits(again, got.loss, "autograd.forward")
    same_bits(autograd.backward(saved, g), got.grad, "autograd.backward")
    with crossentropy.config(threads=1):
        one = crossentropy.cross_entropy_and_grad(x, t, **o, grad_output=g)
    same_bits(one.loss, got.loss, "the loss on one thread")
    same_bits(one.grad, got.grad, "the gradient on one thread")
    whole = crossentropy.cross_entropy_and_grad(x, t, **o, grad_output=g, out=case.out().array)
    same_bits(whole.loss, got.loss, "the loss beside a given out")
    into(case, lambda to: crossentropy.cross_entropy_grad(x, t, **o, grad_output=g, out=to), got.grad)
    into(case, lambda to: autograd.backward(saved, g, out=to), got.grad)
    in_place(case, lambda z: crossentropy.cross_entropy_grad(z, t, **o, grad_output=g, out=z), got.grad)
    in_place(case, lambda z: autograd.backward(autograd.forward(z, t, **o)[1], g, out=z), got.grad)


def into(case, call, want, out=None):
    """The same into an array of any layout."""
    out = out or case.out()
    assert call(out.array) is out.array
    same_bits(out.array, want, "into out")
    out.assert_only_elements_written()


def in_place(case, call, want):
    """The same where the logits lie (which integers can't be, nor rows that share memory)."""
    if case.dtype == case.result and not case.layout.repeated:
        logits = case.x.astype(case.dtype)
        into(case, call, want, case.out(logits, case.layout._replace(read_only=False)))


def expect_rows(case):
    """What the reference says, in float64: log-softmax, softmax, logsumexp and the size of its larger term."""
    x = case.x.astype(np.float64)
    m = np.abs(np.nan_to_num(np.max(x, case.axis, initial=-np.inf), nan=0, posinf=0, neginf=0))
    with crossentropy.config(backend="reference"):
        return *(f(x, case.axis) for f in (crossentropy.log_softmax, crossentropy.softmax, crossentropy.logsumexp)), m


def check_rows(case, expected):
    """The row functions, and the backward of log-softmax."""
    x, axis = case.x, case.axis
    tiny = 2.0 ** (-1000 if case.result.itemsize == 8 else -138)  # see loss_units
    for f, want, limit in (
        (crossentropy.log_softmax, expected[0], "log_softmax"),
        (crossentropy.softmax, expected[1], "grad"),
    ):
        got = f(x, axis)
        assert got.dtype == case.result
        within(got, want, case.result, limit, tiny)
        into(case, lambda to, f=f: f(x, axis, out=to), got)
        in_place(case, lambda z, f=f: f(z, axis, out=z), got)
    lse = crossentropy.logsumexp(x, axis, keepdims=True)
    within(np.squeeze(lse, axis), expected[2], case.result, "loss", expected[3])
    log_p, saved = autograd.log_softmax_forward(x, axis)
    same_bits(log_p, crossentropy.log_softmax(x, axis), "log_softmax_forward")
    g = case.place(case.rng.standard_normal(x.shape).astype(case.r.choice(FLOATS)).astype(case.result))
    got = autograd.log_softmax_backward(saved, g)
    rows = [np.moveaxis(a, axis, -1).astype(np.float64) for a in (g, x)]
    want, size = np.empty((2, *rows[0].shape))
    for index in np.ndindex(rows[0].shape[:-1]):
        row = [a[index].tolist() for a in rows]
        want[index], size[index] = reference.log_softmax_backward(*row), reference.log_softmax_terms(*row)
    want, size = np.moveaxis(want, -1, axis), np.nan_to_num(np.moveaxis(size, -1, axis))
    within(got, want, case.result, "grad", size)
    into(case, lambda to: autograd.log_softmax_backward(saved, g, out=to), got)


def spoil(case, out):
    """The name of the argument that is made bad, and all arguments with it."""
    x, r, rows, c = case.x, case.r, case.rows, case.classes
    bad = {
        "targets": lambda: case.t if case.spoil_target() else case.t[None],
        "class_weight": lambda: r.choice([np.ones(c + 1), -np.ones(c), [np.nan] * c]),
        "sample_weight": lambda: r.choice([np.ones((*rows, 1)), np.full(rows, -1.0)]),
        "where": lambda: r.choice([np.ones((*rows, 1), bool), np.ones(rows)]),
        "class_prior": lambda: r.choice([np.ones(c + 1), np.full(c, np.inf), [np.nan] * c]),
        "axis": lambda: r.choice([x.ndim, -x.ndim - 1, 0.5]),
        "grad_output": lambda: np.ones((*rows, 2)),
        "logits": lambda: r.choice([x.astype(complex), x.astype(bool), np.ma.masked_array(x)]),
        "ignore_index": lambda: 1 if case.probabilities else 1.5,
    }
    bad |= {name: functools.partial(r.choice, option.bad) for name, option in OPTIONS.items() if option.bad}
    memory, at = case.inputs[0].memory.data, case.inputs[0].offset + r.randrange(1, case.result.itemsize)
    outs = [
        lambda: np.zeros((*x.shape, 1), case.result),
        lambda: np.zeros(x.shape, r.choice([d for d in FLOATS if d != case.result])),
        lambda: case.out(layout=case.out_layout._replace(read_only=True)).array,
        lambda: np.ndarray(x.shape, case.result, memory, at, x.strides),  # overlaps the logits
        lambda: np.ndarray(x.shape, case.result, memory, 0, [0] * x.ndim),  # and itself
        lambda: [0.0],
    ]
    name = r.choice(["targets", *bad, "out", "out", "out"])
    given = {"logits": x, "targets": case.t, "grad_output": case.g, "out": out.array, **case.options}
    return name, given | {name: r.choice(outs)() if name == "out" else bad[name]()}


def check_refused(case, expected):
    """A bad argument raises, and nothing is written."""
    out = case.out()
    name, arguments = spoil(case, out)
    calls = [crossentropy.cross_entropy_and_grad, crossentropy.cross_entropy_grad]
    if name not in ("out", "grad_output"):
        calls += [crossentropy.cross_entropy, autograd.forward]
    if name == "out":
        calls.append(crossentropy.softmax)
    for call in calls:
        given = dict(arguments)
        logits, targets = given.pop("logits"), given.pop("targets")
        if call is crossentropy.softmax:
            targets, given = case.axis, {"out": given["out"]}
        elif len(calls) == 4 and call in calls[2:]:
            del given["out"], given["grad_output"]
        try:
            call(logits, targets, **given)
        except (ValueError, TypeError, IndexError):
            continue
        raise AssertionError(f"{call.__name__} took a bad {name}: {arguments[name]!r}")
    out.assert_as_before()


CHECKS = {
    "loss": (expect_loss, check_loss),
    "rows": (expect_rows, check_rows),
    "refused": (lambda case: None, check_refused),
}
