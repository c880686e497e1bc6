"""What stands around the loss, drawn at random (see fuzz.py): row numbers, second derivatives, divergences, weights.

The arrays and options are those of a loss's case; what is more is drawn from a sequence of its own (`Case.own`).
"""

import math

import numpy as np
from fuzz_cases import FLOATS, draw_values, draw_weights
from fuzz_checks import in_place, into, loss_units, near, same_bits, transformed, within

import crossentropy
from crossentropy import autograd, reference
from crossentropy._options import PER_ROW
from crossentropy.divergences import OPTIONS as OF_DIVERGENCES
from crossentropy.row_numbers import LOG_PROB_OPTIONS
from crossentropy.second_derivatives import OPTIONS as OF_HESSIANS
from crossentropy.testing import result_dtype
from crossentropy.testing.edge_cases import binary, distillation, row_statistics, second_derivatives

TINY = {"float16": 2.0**-6, "bfloat16": 2.0**-118, "float32": 2.0**-118, "float64": 2.0**-960}


def by_reference(case, call):
    """What a call gives by the specification."""
    with crossentropy.config(backend="reference", check=case.check), np.errstate(all="ignore"):
        return call(case.x.astype(np.float64))


def given(case, names):
    """Those of the case's options."""
    case.options = {name: value for name, value in case.options.items() if name in names}
    return case.options


def rows_of(case, a):
    """An array of the logits' shape as rows, (N, C), in float64."""
    return np.moveaxis(np.asarray(a), case.axis, -1).reshape(-1, case.classes).astype(np.float64)


def as_given(case, rows):
    """And back."""
    return np.moveaxis(np.asarray(rows, np.float64).reshape(*case.rows, case.classes), -1, case.axis)


def factors(case):
    """By what each row's loss is multiplied, and its gradient: its weight over the divisor, times what arrives."""
    o = case.options
    v = np.asarray(o.get("sample_weight", np.ones(case.rows)), float) * np.asarray(o.get("where", True))
    by = v
    if not case.probabilities and ("class_weight" in o or "ignore_index" in o):
        v = v * (case.t.astype(object) != o.get("ignore_index")).astype(bool)
        w = np.asarray(o.get("class_weight", np.ones(case.classes)), float)
        known = (v > 0) & (case.t >= 0) & (case.t < case.classes)
        by = v * np.where(known, w[np.where(known, case.t, 0).astype(int)], 0)
    of_loss = v / ((o.get("normalizer", by.sum()) or 1.0) if o.get("reduction", "mean") == "mean" else 1.0)
    return of_loss.reshape(-1), (of_loss * np.abs(np.asarray(case.g, float))).reshape(-1)


# ---------------------------------------------------------------------- row numbers


def draw_statistics(case):
    """The options, without a reduction."""
    given(case, PER_ROW)["reduction"] = "none"
    return {name: value for name, value in case.options.items() if name != "reduction"}


def expect_statistics(case):
    """The numbers of each row; units of the loss; how large the logits are, as options transform them."""
    options = draw_statistics(case)
    found = by_reference(case, lambda x: crossentropy.row_statistics(x, case.t, **options))
    if not case.x.size:
        return found, None, np.zeros(case.rows)
    x = case.x.astype(np.float64)
    with np.errstate(all="ignore"):
        loss_unit, _ = loss_units(case, x)
        case.options["margin"] = 0.0  # which is the loss's own
        z, _ = transformed(case, np.moveaxis(x, case.axis, -1))
    return found, loss_unit, np.nan_to_num(np.abs(z), nan=0, posinf=0).max(-1)


def check_statistics(case, expected):
    """The numbers of each row, and the gradient of those that have one."""
    options = draw_statistics(case)
    (want, loss_unit, size), name = expected, result_dtype(case.result, "loss")
    found = crossentropy.row_statistics(case.x, case.t, **options)
    changed = {"logit_scale", "softcap", "class_prior"} & set(options)
    # A transformed logit has been rounded to float64: what it then lacks is in every number of its row.
    rounded = size * (1 + np.log(case.classes or 1)) * (1 if name == "float64" else 2.0**-29) if changed else 0.0
    limit = row_statistics.ENTROPY[case.result.name]
    within(found.loss, want.loss, case.result, "loss", loss_unit)
    within(found.logsumexp, want.logsumexp, case.result, "loss", np.maximum(size, np.log(case.classes or 1)))
    tiny = 2.0 ** (-1000 if name == "float64" else -138)  # see loss_units
    near(found.entropy, want.entropy, case.result, "entropy", name, limit, np.maximum(rounded, tiny))
    near(found.max_prob, want.max_prob, case.result, "max_prob", name, limit, rounded * want.max_prob)
    if not case.probabilities:
        within(found.log_prob, want.log_prob, case.result, "loss", rounded)
    else:
        assert found.log_prob is found.rank is None
    if not changed:
        assert np.array_equal(found.argmax, want.argmax), "argmax"
        assert case.probabilities or np.array_equal(found.rank, want.rank), "rank"
    with crossentropy.config(threads=1):
        one = crossentropy.row_statistics(case.x, case.t, **options)
    for field, got, again in zip(found._fields[:7], found, one, strict=False):
        assert got is None or np.array_equal(got, again, equal_nan=True), f"{field} on one thread: other bits"
    if not case.probabilities and case.classes:
        check_log_probs(case, options, rounded)


def check_log_probs(case, options, rounded):
    """The gradient of log-probabilities and entropies."""
    options = {name: value for name, value in options.items() if name in LOG_PROB_OPTIONS}
    g = [case.own_rng.uniform(-2, 2, case.rows) * case.own.choice([0, 1, 1]) for _ in range(2)]
    _, saved = autograd.log_probs_forward(case.x, case.t, **options)
    got = autograd.log_probs_backward(saved, *g)
    assert got.dtype == case.result
    want = by_reference(
        case, lambda x: autograd.log_probs_backward(autograd.log_probs_forward(x, case.t, **options)[1], *g)
    )
    prior = options.get("class_prior")
    row = reference.Row(
        logit_scale=options.get("logit_scale", 1.0),
        softcap=options.get("softcap", 0.0) or 0.0,
        class_prior=None if prior is None else np.asarray(prior, float).tolist(),
    )
    y, ignored = np.asarray(case.t).reshape(-1).tolist(), options.get("ignore_index")
    unit = np.zeros((len(y), case.classes))
    for n, z in enumerate(rows_of(case, case.x).tolist()):
        if y[n] != ignored and 0 <= y[n] < case.classes:
            unit[n] = reference.log_probs_terms(z, y[n], *(float(np.ravel(a)[n]) for a in g), row)
    more = 1 + np.reshape(np.broadcast_to(rounded, case.rows), -1)[:, None]
    unit = as_given(case, np.maximum(np.nan_to_num(unit, posinf=0) * more, TINY[case.result.name]))
    limit = row_statistics.GRADIENT[case.result.name]
    near(got, want, case.result, "log_probs_backward", case.result.name, limit, unit)
    into(case, lambda to: autograd.log_probs_backward(saved, *g, out=to), got)


# ---------------------------------------------------------------------- second derivatives


def draw_hessian(case):
    """The kind, the vector, and the arguments with them."""
    kind = case.own.choice(reference.HESSIANS)
    options, u = given(case, OF_HESSIANS), None
    if kind == "gauss_newton_product":
        u = case.own_rng.standard_normal(case.x.shape) * case.own.choice([1, 1, 1e-3, 100])
        u = case.place(u.astype(case.result), r=case.own)
    return kind, u, options


def expect_hessian(case):
    """Loss, gradient and second derivative, and the units of each."""
    kind, u, options = draw_hessian(case)
    want = by_reference(
        case, lambda x: crossentropy.cross_entropy_grad_hess(
            x, case.t, hessian=kind, vector=None if u is None else u.astype(float), **options)
    )  # fmt: skip
    if not case.x.size:
        return want, (None, None, None)
    case.g = 1.0
    with np.errstate(all="ignore"):
        return want, (*loss_units(case, case.x.astype(np.float64)), hessian_units(case, kind, u))


def hessian_units(case, kind, u):
    """The largest term of each entry."""
    o, z = case.options, rows_of(case, case.x)
    eps, w = o.get("label_smoothing", 0.0), np.asarray(o.get("class_weight", np.ones(case.classes)), float)
    if case.probabilities:
        q = rows_of(case, case.t)
    else:
        q = np.reshape(case.t, (-1, 1)).astype(object) == np.arange(case.classes)
    m = z.max(-1, keepdims=True)
    e = np.exp(z - m)
    p = np.nan_to_num(e / e.sum(-1, keepdims=True), posinf=0)
    lse = np.nan_to_num(np.abs(m), posinf=0) + np.log(case.classes)
    rest = np.sort(e)[..., :-1].sum(-1, keepdims=True)  # of the classes but the one that leads
    others = np.nan_to_num(np.where(p > 0.5, rest / (1 + rest), 1 - p))
    b = 2 * o.get("z_loss", 0.0)
    a = (w * ((1 - eps) * q.astype(float) + eps / case.classes)).sum(-1, keepdims=True) + b * lse
    if kind == "upper_bound":
        unit = np.broadcast_to(0.5 * a + b, p.shape)
    elif kind == "gauss_newton_product":
        v = rows_of(case, u)
        most, least = v.max(-1, keepdims=True), v.min(-1, keepdims=True)
        unit = p * (a * (most - least) * np.where(p > 0.5, others, 1) + b * np.maximum(np.abs(most), np.abs(least)))
    else:
        unit = 2 * (a * p * others + b * p * p)
    return as_given(case, np.maximum(unit * factors(case)[0][:, None], TINY[case.result.name]))


def check_hessian(case, expected):
    """Loss, gradient and second derivative at once."""
    kind, u, options = draw_hessian(case)
    want, (loss_unit, grad_unit, unit) = expected

    def call(**more):
        return crossentropy.cross_entropy_grad_hess(case.x, case.t, hessian=kind, vector=u, **options, **more)

    found = call()
    assert found.grad.dtype == found.hess.dtype == case.result
    within(found.loss, want.loss, case.result, "loss", loss_unit)
    within(found.grad, want.grad, case.result, "grad", grad_unit)
    limit = second_derivatives.MOST[case.result.name]
    near(found.hess, want.hess, case.result, kind, case.result.name, limit, unit)
    with crossentropy.config(threads=1):
        one = call()
    for got, again, what in zip(one, found, found._fields, strict=True):
        same_bits(got, again, f"{what} on one thread")
    beside = case.out().array
    into(case, lambda to: call(out=beside, hess_out=to).hess, found.hess)
    same_bits(beside, found.grad, "the gradient into out")


# ---------------------------------------------------------------------- distillation


def draw_distillation(case):
    """The teacher's logits, near the student's or not, and the arguments."""
    own, rng = case.own, case.own_rng
    dtype = own.choice([case.result] * 3 + list(FLOATS))
    x = np.moveaxis(case.x, case.axis, -1).astype(np.float64)
    if own.random() < 0.5 or not x.size:
        t = draw_values(own, rng, x.shape, dtype) if x.size else np.zeros(x.shape, dtype)
    else:
        noise = own.choice([0, 1e-6, 1e-3, 0.1, 0.5, 3, 30]) * rng.standard_normal(x.shape)
        if own.random() < 0.3:
            noise *= rng.random(x.shape) < 0.05  # few classes differ
        with np.errstate(all="ignore"):
            t = (x + noise + own.choice([0, 0, 5.5, -300])).astype(dtype)
    options = given(case, OF_DIVERGENCES) | {
        "kind": own.choice(reference.KINDS),
        "temperature": own.choice([1.0, 1.0, 1.0, 2.0, 0.7, 4.0, 100.0, 1e-3, 1e30]),
        "beta": own.choice([0.5, 0.3, 0.9, 1e-3]),
        "grad_output": case.g,
    }
    return case.place(np.moveaxis(t, -1, case.axis), r=own), options


def expect_distillation(case):
    """Loss and gradient, and the units of both."""
    t, options = draw_distillation(case)
    wide = np.result_type(case.result, np.float32) if t.dtype.itemsize < 8 else np.dtype(np.float64)
    with np.errstate(over="ignore"):
        z = t.astype(np.float64)
    want = by_reference(case, lambda x: crossentropy.distillation(x, z, **options))
    if not case.x.size:
        return want, wide, None, None
    kind, temperature, beta = options["kind"], options["temperature"], options["beta"]
    of_loss, of_grad = factors(case)
    units = np.zeros((len(of_loss), case.classes))
    for n, row in enumerate(zip(rows_of(case, case.x).tolist(), rows_of(case, z).tolist(), strict=True)):
        if of_loss[n] and reference.pair(*row, temperature) is not None:
            with np.errstate(all="ignore"):
                units[n] = distillation.unit_of(*row, kind, temperature, beta)
    units = np.nan_to_num(units, posinf=0) * of_grad[:, None]
    loss_unit = 1e-12 * of_loss.reshape(case.rows)
    loss_unit = loss_unit if options.get("reduction") == "none" else loss_unit.sum()
    least = max(TINY[case.result.name], 2.0**distillation.LEAST)
    return want, wide, loss_unit, as_given(case, np.maximum(units, least))


def check_distillation(case, expected):
    """A divergence and its gradient."""
    t, options = draw_distillation(case)
    want, wide, loss_unit, unit = expected

    def call(x=case.x, **more):
        return crossentropy.distillation(x, t, **options, **more)

    found = call()
    assert found.grad.dtype == case.result
    assert found.loss.dtype == (np.float64 if wide.itemsize == 8 else np.float32)
    name = result_dtype(wide, "loss")
    near(found.loss, want.loss, wide, options["kind"], name, distillation.LOSS[name], loss_unit)
    # An error of z/T is one of e^(z/T) that many times, and z/T is up to 745.
    limit = distillation.GRAD[case.result.name] * (4 if options["temperature"] != 1 and wide.itemsize == 8 else 1)
    near(found.grad, want.grad, case.result, f"{options['kind']} gradient", case.result.name, limit, unit)
    with crossentropy.config(threads=1):
        one = call()
    same_bits(one.loss, found.loss, "the loss on one thread")
    same_bits(one.grad, found.grad, "the gradient on one thread")
    into(case, lambda to: call(out=to).grad, found.grad)
    in_place(case, lambda z: call(z, out=z).grad, found.grad)


# ---------------------------------------------------------------------- logsumexp with weights


def draw_weighted(case):
    """Weights of either sign, of any floating or integer dtype, for each class or logit."""
    own, shape = case.own, list(case.x.shape)
    if own.random() < 0.4:
        shape = [n if a == case.axis or own.random() < 0.3 else 1 for a, n in enumerate(shape)]
    b = draw_weights(own, case.own_rng, shape)
    if b.dtype.kind != "u" and own.random() < 0.5:
        b = b * case.own_rng.choice([-1, 1], shape).astype(b.dtype)
    return case.place(b, r=own)


def expect_weighted(case):
    """The log and sign of each row, the sizes of what they are made of, and which rows are all but nothing."""
    b = draw_weighted(case)
    log, sign = by_reference(
        case, lambda x: crossentropy.logsumexp(x, case.axis, b=b.astype(np.float64), return_sign=True)
    )
    with np.errstate(all="ignore"):
        x = np.moveaxis(case.x.astype(np.float64), case.axis, -1)
        w = np.moveaxis(np.broadcast_to(np.abs(b.astype(np.float64)), case.x.shape), case.axis, -1)
        logs = np.where(w > 0, np.log(w), 0)
        sizes = np.where(w > 0, np.nan_to_num(np.abs(x), nan=0, posinf=0) + np.abs(logs), 0)
        terms = np.where(w > 0, x + logs, -np.inf)
        cancels = np.exp(np.minimum(np.logaddexp.reduce(terms, -1, initial=-np.inf) - log, 50))
    return log, sign, np.nan_to_num(sizes.max(-1, initial=0) * cancels, nan=0, posinf=0), cancels


def check_weighted(case, expected):
    """log |sum b e^z| and the sign of that sum."""
    b = draw_weighted(case)
    log, sign, unit, cancels = expected
    got = crossentropy.logsumexp(case.x, case.axis, b=b, return_sign=True)
    known = ~(cancels > 1e4)  # of other rows rounding errors are all that is left
    within(np.where(known, got.log, 0), np.where(known, log, 0), case.result, "loss", np.maximum(unit, 1))
    assert np.array_equal(np.where(known, got.sign, 0), np.where(known, sign, 0), equal_nan=True), "sign"
    with crossentropy.config(threads=1):
        one = crossentropy.logsumexp(case.x, case.axis, b=b, return_sign=True)
    same_bits(one.log, got.log, "the log on one thread")
    same_bits(one.sign, got.sign, "the sign on one thread")


# ---------------------------------------------------------------------- losses of one logit


def draw_binary(case):
    """Targets that are hard or soft, weights for all or some axes, and the arguments with these; what is focal."""
    own, rng, shape = case.own, case.own_rng, case.x.shape
    t = rng.random(shape)
    if own.random() < 0.5:
        t = (t < own.choice([0.5, 0.1])).astype(own.choice([bool, np.int64, np.uint8, *FLOATS]))
    else:
        t = t.astype(own.choice(FLOATS))
    options = {}
    for name in ("weight", "pos_weight"):
        if own.random() < 0.3:
            axes = [n if own.random() < 0.7 else 1 for n in shape][own.randrange(len(shape)) :]
            options[name] = case.place(draw_weights(own, rng, axes), r=own)
    focal = own.random() < 0.4
    if focal:
        options.pop("pos_weight", None)
        options |= {"alpha": own.choice([None, 0.25, 0.0, 1.0]), "gamma": own.choice([2.0, 0.5, 1.0, 1.5, 5.0])}
    options["reduction"] = own.choice(["none", "none", "sum", "mean"])
    g = own.choice([1.0, -1.0, 0.0, 3.7, 1e-30])
    if options["reduction"] == "none" and own.random() < 0.3:
        g = case.place(rng.uniform(-2, 2, shape).astype(np.float64 if case.result.itemsize == 8 else np.float32), r=own)
    return case.place(t, r=own), options, g, focal


def of_binary(focal):
    """The loss with its gradient, and alone."""
    if focal:
        return crossentropy.sigmoid_focal_loss_and_grad, crossentropy.sigmoid_focal_loss
    return crossentropy.binary_cross_entropy_with_logits_and_grad, crossentropy.binary_cross_entropy_with_logits


def focal_term(z, t, gamma):
    """The size of the two terms of a focal loss' slope on z, which nearly cancel for some soft targets."""
    p, s = 1 / (1 + math.exp(min(-z, 700))), 1 / (1 + math.exp(min(z, 700)))
    left = t * s + (1 - t) * p
    return left**gamma * abs(p - t) if left else 0.0


def expect_binary(case):
    """Losses and gradients, and the larger of the two terms of each gradient."""
    t, options, g, focal = draw_binary(case)
    lanes = np.float64 if case.result.itemsize == 8 else np.float32
    t = (t if t.dtype.kind in "biu" else t.astype(case.result)).astype(np.float64)
    as_rounded = {
        name: options[name].astype(lanes).astype(np.float64) for name in ("weight", "pos_weight") if name in options
    }
    want = by_reference(case, lambda x: of_binary(focal)[0](x, t, **(options | as_rounded), grad_output=g))
    w, r = (np.broadcast_to(as_rounded.get(name, 1.0), t.shape) for name in ("weight", "pos_weight"))
    rows = [a.ravel().tolist() for a in (case.x.astype(np.float64), t, w, r)]
    units, gamma, alpha = [], options.get("gamma", 0.0), options.get("alpha")
    for z, target, weight, positive in zip(*rows, strict=True):
        sides = (reference.Binary(weight, positive * side, gamma, alpha) for side in (0, 1))
        unit = max(abs(reference.binary_cross_entropy_grad(z, target, side)) for side in sides)
        units.append(max(unit, weight * focal_term(z, target, gamma)) if focal and math.isfinite(z) else unit)
    by = np.abs(np.asarray(g, float)) / (t.size or 1 if options["reduction"] == "mean" else 1)
    unit = np.nan_to_num(np.reshape(units, t.shape), posinf=0) * by
    return want, np.maximum(unit, TINY[case.result.name])


def check_binary(case, expected):
    """A loss of one logit each, and its gradient."""
    t, options, g, focal = draw_binary(case)
    both, alone = of_binary(focal)
    want, unit = expected

    def call(x=case.x, **more):
        return both(x, t, **options, grad_output=g, **more)

    found = call()
    assert found.grad.dtype == case.result
    name, more = case.result.name, 1.0
    if focal and case.result.itemsize == 8:
        more = binary.FOCAL * max(1.0, (1 + options["gamma"]) / 3)  # that of the exponent grows with it
    what = "focal" if focal else "binary"
    tiny = TINY[name] if name == "float64" else 0.0  # below 2^-1020 a float64 loss may be 0
    lanes = result_dtype(case.result, "loss")
    near(found.loss, want.loss, case.result, what, lanes, binary.LOSS[name] * more, tiny)
    near(found.grad, want.grad, case.result, f"{what} gradient", name, binary.GRAD[name] * more, unit)
    same_bits(alone(case.x, t, **options), found.loss, "the loss alone")
    with crossentropy.config(threads=1):
        same_bits(call().grad, found.grad, "the gradient on one thread")
    into(case, lambda to: call(out=to).grad, found.grad)
    in_place(case, lambda z: call(z, out=z).grad, found.grad)


CHECKS_AROUND = {
    "statistics": (expect_statistics, check_statistics),
    "second derivatives": (expect_hessian, check_hessian),
    "distillation": (expect_distillation, check_distillation),
    "weighted": (expect_weighted, check_weighted),
    "binary": (expect_binary, check_binary),
}
