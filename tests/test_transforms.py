"""Scale, softcap and margin in float32 lanes: as accurate as logits that are as they came, in every ISA unit."""

import numpy as np
import pytest

import crossentropy
from crossentropy import native
from crossentropy.testing.ulps import spacing

# The loss within the contract, the gradient of its larger term times the slope.
LOSS, GRAD = 1.5, 3.5
# By code path: rows added by parts and in lanes, a partial last vector, a group and the next; and 16 bits.
SIZES = ((65, np.float32), (300, np.float32), (2500, np.float32), (4097, np.float32), (700, np.float16))
CHANGES = (
    {"logit_scale": 0.7},
    {"logit_scale": 1 / 3, "margin": 0.6},
    {"softcap": 30.0},
    {"softcap": 50.0, "logit_scale": 1.3},
    {"softcap": 1.5},
    {"logit_scale": 64.0, "margin": 22.4},
    {"softcap": 33.3, "margin": -3.0, "focal": 2.0},
)


def truth(x, t, logit_scale=1.0, softcap=0.0, margin=0.0, focal=0.0):
    """Loss, gradient and the larger term of each of its entries, in float64 forms in which nothing cancels."""
    z, slope, each = x.astype(np.float64) * logit_scale, np.full(x.shape, logit_scale), np.arange(len(x))
    if softcap:
        e = np.exp(-2 * np.abs(z / softcap))
        z, slope = softcap * np.tanh(z / softcap), slope * 4 * e / (1 + e) ** 2
    z[each, t] -= margin
    below_max = z.max(axis=1) - z[each, t]
    p = np.exp(z - z.max(axis=1, keepdims=True))
    of_y = p[each, t].copy()
    p[each, t] = 0
    rest = p.sum(axis=1)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        loss = np.where(of_y > rest, np.log1p(rest / of_y), np.log(rest + of_y) + below_max)
    below_1, p = rest / (rest + of_y), p / (rest + of_y)[:, None]
    p[each, t] = of_y / (rest + of_y)
    f, g = below_1**focal, focal * below_1 ** (focal - 1) * p[each, t] * loss if focal else 0.0
    grad = p * (f + g)[:, None]
    terms = grad.copy()
    grad[each, t] = -(f + g) * below_1
    terms[each, t] = np.maximum(terms[each, t], f + g)
    return f * loss, grad * slope, terms * slope


@pytest.mark.parametrize("isa", native.SUPPORTED_ISAS)
@pytest.mark.parametrize(("classes", "dtype"), SIZES)
def test_changed_logits_are_as_accurate_as_others(isa, classes, dtype):
    rng = np.random.default_rng(classes)
    rows = max(4, 4000 // classes)
    for options in CHANGES:
        for lead in (0, 10):  # confident rows, whose small losses show what logits are rounded by
            x, t = rng.standard_normal((rows, classes)) * 4, rng.integers(0, classes, rows)
            x[np.arange(rows), t] += lead / options.get("logit_scale", 1.0)
            x = x.astype(dtype)
            loss, grad, terms = truth(x, t, **options)
            with crossentropy.config(backend="native", isa=isa):
                got = crossentropy.cross_entropy_and_grad(x, t, reduction="none", **options)
            name = np.dtype(dtype).name
            assert (np.abs(got.loss - loss) / spacing(loss, "float32")).max() <= LOSS, options
            limit = GRAD if dtype == np.float32 else 0.51
            assert (np.abs(got.grad.astype(float) - grad) / spacing(terms, name)).max() <= limit, options
