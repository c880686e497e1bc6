"""Blocks of classes beyond the conformance suite's: any split in any association, memory, bits, digits."""

import functools
import itertools
import pickle
import tracemalloc

import hypothesis
import hypothesis.strategies as st
import mpmath
import numpy as np
import pytest

import crossentropy
from crossentropy import _merging, blocks, reference
from crossentropy.testing import dtypes, largest_error
from crossentropy.testing.edge_cases.blocks import check, of_blocks


@st.composite
def splits(draw):
    """Logits, targets, cuts with blocks of no class among them, and the order in which pairs are combined."""
    dtype, classes = draw(st.sampled_from([np.float32, np.float64])), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale, offset = draw(st.sampled_from([0.01, 1, 5, 20])), draw(st.sampled_from([0, -50, 300]))
    x, y = rng.standard_normal((4, classes)) * scale + offset, rng.integers(0, classes, 4)
    x[np.arange(4), y] += draw(st.floats(0, 60))
    cuts = sorted(draw(st.lists(st.integers(0, classes), max_size=7)))
    pairs = draw(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=8, max_size=8))
    return x.astype(dtype), y, [0, *cuts, classes], pairs


@hypothesis.given(drawn=splits(), smoothing=st.sampled_from([0.0, 0.1]))
@hypothesis.settings(max_examples=60, deadline=None)
def test_any_split_in_any_association_is_the_whole(drawn, smoothing):
    x, y, cuts, pairs = drawn
    name, classes, options = x.dtype.name, x.shape[1], {"label_smoothing": smoothing}
    parts = [blocks.chunk(x[:, a:b], y, a, classes, **options) for a, b in itertools.pairwise(cuts)]
    at_once = blocks.aggregate(blocks.combine(*parts), **options)
    for i, j in pairs:
        if len(parts) > 1:
            one = parts.pop(i % len(parts))
            parts[j % len(parts)] = blocks.combine(one, parts[j % len(parts)])
    row = reference.Row(**options)
    rows = zip(x.astype(float).tolist(), y.tolist(), strict=True)
    expected = np.array([reference.cross_entropy(z, c, row) for z, c in rows])
    for losses in (at_once, blocks.aggregate(parts[0], **options)):
        assert largest_error(losses.astype(x.dtype), expected, name) <= (2 if name == "float32" else 3)
        assert (losses[expected > 0] > 0).all()  # no loss of 0 that is none


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_long_rows_in_blocks(kernels, name):
    """Past the classes that kernels take as tiles, and past a block of theirs: the target in each in turn."""
    rng, cuts = np.random.default_rng(4), (0, 70, 70, 2300)
    x = (rng.standard_normal((4, 2300)) * 3).astype(name)
    x[1, 69], x[2, 2299], x[3, 5] = 30, 30, 30  # leaders: a target, a target past a block, and another class
    y, w = np.array([70, 69, 2299, 2200]), rng.uniform(0, 2, 2300)
    check(x, y, cuts)
    check(x, y, cuts, reference.Row(1.0, w.tolist(), 0.1, 0.01), class_weight=w, label_smoothing=0.1,
          z_loss=0.01)  # fmt: skip
    if name != "float64":  # the reference's own way to a capped logit is slow
        given = {"softcap": 20.0, "margin": 0.5, "reduction": "none"}
        losses, grad = of_blocks(x, y, cuts, softcap=20.0, margin=0.5)
        whole = crossentropy.cross_entropy_and_grad(x, y, **given)
        np.testing.assert_allclose(losses, whole.loss, rtol=3e-7)
        np.testing.assert_allclose(grad.astype(float), whole.grad.astype(float), rtol=1e-6, atol=1e-30)
    x[:, :70] = -np.inf
    q = rng.dirichlet(np.ones(2300), 4).astype(name)
    q[:2, :70] = 0
    check(x, q, cuts)


def numbers(found):
    """The numbers as they are, since NumPy has NaNs in records unequal."""
    return found.view(np.float64)


def test_the_identity_is_exactly_neutral():
    x, y = np.random.default_rng(1).standard_normal((7, 9)), np.arange(7)
    x[1, 0], x[2], y[3] = np.nan, -np.inf, -1
    for entropy in (False, True):
        found = blocks.chunk(x, y, 0, 12, entropy=entropy, ignore_index=-1)
        none = blocks.identity(7, entropy=entropy)
        for together in (blocks.combine(none, found), blocks.combine(found, none), blocks.combine(none, none, found)):
            np.testing.assert_equal(numbers(together), numbers(found))
        np.testing.assert_equal(numbers(pickle.loads(pickle.dumps(found))), numbers(found))
        np.testing.assert_equal(blocks.combine(none, none), none)


def test_no_digit_of_a_class_weight_is_lost():
    """What arrives at a class of small weight beside one of large weight, which a sum of both would round away."""
    x, y = np.random.default_rng(2).standard_normal((8, 12)) * 3, np.arange(8)
    w = np.geomspace(1e-12, 1, 12)
    x[np.arange(8), y] += 4
    for smoothing in (0.0, 0.3):
        options = {"label_smoothing": smoothing}
        at = blocks.cuts(12, 3)
        parts = [blocks.chunk(x[:, a:b], y, a, 12, class_weight=w[a:b], **options) for a, b in itertools.pairwise(at)]
        whole = functools.reduce(blocks.combine, parts)
        row = reference.Row(class_weight=w.tolist(), **options)
        rows = list(zip(x.tolist(), y.tolist(), strict=True))
        grads = [blocks.gradient(x[:, a:b], y, whole, a, 12, class_weight=w[a:b], **options)
                 for a, b in itertools.pairwise(at)]  # fmt: skip
        expected = [reference.cross_entropy_grad(z, c, row) for z, c in rows]
        terms = np.array([reference.largest_terms(z, c, row) for z, c in rows])
        assert largest_error(np.concatenate(grads, axis=1), expected, "float64", terms) <= 6


def test_no_array_of_the_size_of_the_logits_is_made():
    x, y = np.zeros((256, 20000), np.float32), np.arange(256)
    out = np.empty_like(x)
    tracemalloc.start()
    try:
        found = blocks.chunk(x, y, 10000, 40000, class_weight=np.ones(20000), label_smoothing=0.1)
        blocks.gradient(x, y, found, 10000, 40000, out=out, label_smoothing=0.1, class_weight=np.ones(20000))
        blocks.chunk(x, y, 10000, 40000, entropy=True)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes / 10
    finally:
        tracemalloc.stop()


def test_bits_do_not_depend_on_threads_nor_on_where_a_block_lies():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((64, 3000), dtype=np.float32), rng.integers(0, 9000, 64)
    buffer = np.empty(64 * 3000 + 3, np.float32)[3:].reshape(64, 3000)
    buffer[...] = x
    wide = np.concatenate([x, x], axis=1)
    first = blocks.chunk(x, y, 3000, 9000, partition=9, label_smoothing=0.1)
    assert first.shape == (3, 64)
    for where in (buffer, wide[:, :3000]):
        assert blocks.chunk(where, y, 3000, 9000, partition=9, label_smoothing=0.1).tobytes() == first.tobytes()
    with crossentropy.config(threads=1):
        assert blocks.chunk(x, y, 3000, 9000, partition=9, label_smoothing=0.1).tobytes() == first.tobytes()


class OnDevice:
    """What a CUDA array is known by."""

    @property
    def __cuda_array_interface__(self):
        return {"shape": (2, 3), "typestr": "<f4", "data": (0, False), "strides": None, "version": 3}


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda x, y: blocks.chunk(x, y, 0.5, 9), TypeError, "start must be an integer, got 0.5"),
        (lambda x, y: blocks.chunk(x, y, 0, 0), ValueError, "classes must be positive, the number of all, got 0"),
        (lambda x, y: blocks.chunk(np.float64(0), y, 0, 9), ValueError, "logits must have a class axis, got a scalar"),
        (lambda x, y: blocks.chunk(x, y.astype(float), 0, 9), TypeError, "must be integers"),
        (lambda x, y: blocks.chunk(x, y, 0, 9, class_weight=np.ones(9)), ValueError, r"must have shape \(3,\)"),
        (lambda x, y: blocks.chunk(x, y, 0, 9, partition=0), ValueError, "partition must be positive, got 0"),
        (lambda x, y: blocks.chunk(x, y, 0, 9, entropy=True, margin=1.0), ValueError, "margin is the loss's own"),
        (lambda x, y: blocks.chunk(OnDevice(), y, 0, 9), TypeError, "logits must be on the host, got a CUDA array"),
        (lambda x, y: blocks.combine(), TypeError, "got a NoneType"),
        (lambda x, y: blocks.aggregate(np.zeros(2)), TypeError, "got of dtype float64"),
        (lambda x, y: blocks.gradient(x, y, blocks.identity(2), 0, 9, grad_output=np.ones(3)), ValueError, "got"),
        (lambda x, y: blocks.gradient(x, y, blocks.identity(2), 0, 9, out=np.ones(3)), ValueError, "out must have"),
    ],
)
def test_refuses(call, error, told):
    with pytest.raises(error, match=told):
        call(np.zeros((2, 3)), np.array([0, 8]))


def test_a_target_that_is_no_class_makes_its_row_nan_where_targets_are_not_checked():
    x, y = np.zeros((3, 4)), np.array([0, 8, -1])
    with crossentropy.config(check=False):
        found = blocks.chunk(x, y, 4, 8)
        assert np.isnan(blocks.aggregate(found)).tolist() == [False, True, True]
        assert np.isnan(blocks.gradient(x, y, found, 4, 8)).all(axis=1).tolist() == [False, True, True]


def test_cuts_of_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="classes must not be negative, got -3"):
        blocks.cuts(-3, 2)
    with pytest.raises(ValueError, match="partition must be positive, got 0"):
        blocks.cuts(3, 0)
    with pytest.raises(TypeError, match=r"classes must be an integer, got 1\.5"):
        blocks.cuts(1.5, 2)


def records(rng, ranks, rows, name, width):
    """What ranks tell of rows, as it comes by a wire: of ``width`` bytes each, aligned or not."""
    real = np.dtype(name)
    found = np.zeros((ranks, rows), np.dtype({"names": ["rest", "max", "target"], "formats": ["f8", real, real],
                                              "offsets": [0, 8, 8 + real.itemsize], "itemsize": width}))  # fmt: skip
    found["max"] = rng.standard_normal((ranks, rows)) * rng.choice([0.01, 3, 300], rows) + rng.choice([0, 1e4], rows)
    found["rest"] = rng.exponential(size=(ranks, rows)) ** rng.choice([1, 40], rows)
    found["target"] = np.where(np.arange(ranks)[:, None] == rng.integers(ranks, size=rows), found["max"] - 2, -np.inf)
    found["max"][:, ::7] = found["max"][0, ::7]  # of several with the maximum, the first one leads
    found["max"][rng.integers(ranks), 1::9], found["rest"][0, 1::9] = -np.inf, 0
    found["max"][:, 3::31], found["max"][-1, 5::37], found["target"][0, 5::37] = -np.inf, np.nan, np.nan
    return found


def test_losses_merged_in_one_pass_are_those_of_the_arithmetic():
    """The native kernel's beside NumPy's, number by number; and both beside the exact ones."""
    merge_losses = pytest.importorskip("crossentropy.native", reason="needs the compiled module").merge_losses
    for name, width, ranks in itertools.product(["float32", "float64"], [24, 27], [1, 2, 5]):
        parts = records(np.random.default_rng(ranks), ranks, 400, name, width)
        whole, losses, rounded = np.empty((3, 400)), np.empty(400), np.empty(400, np.float32)
        merge_losses(parts, losses, whole)
        merge_losses(parts, rounded)
        expected = _merging.merged_at_once({kind: parts[kind].astype(float) for kind in parts.dtype.names})
        for kind, found in zip(("max", "rest", "target"), whole, strict=True):
            np.testing.assert_allclose(found, expected[kind], rtol=1e-15, err_msg=kind)
        np.testing.assert_allclose(losses, _merging.losses(expected), rtol=2e-15)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(rounded, losses.astype(np.float32))
        known = np.flatnonzero(np.isfinite(losses))[:40]
        assert len(known) == 40
        exact = [_exact_loss(*(parts[kind][:, n].tolist() for kind in ("max", "rest", "target"))) for n in known]
        assert largest_error(losses[known], exact, "float64") <= 2


def _exact_loss(maxima, rests, targets):
    with mpmath.workdps(60):
        of_blocks = [mpmath.exp(m) * (1 + mpmath.mpf(rest)) for m, rest in zip(maxima, rests, strict=True)]
        return float(mpmath.log(mpmath.fsum(of_blocks)) - max(targets))


def test_what_is_told_of_a_block_is_what_a_forward_finds(isa_unit):
    """To the last bit, on one thread and on several; a row that does not count may have any numbers."""
    for name in ("float32", "float64", "bfloat16"):
        _is_told(name, np.random.default_rng(5))


def _is_told(name, rng):
    from crossentropy.native import tell_block

    x, y = rng.standard_normal((300, 2, 130)).astype(dtypes()[name])[:, 1], rng.integers(0, 400, 300)
    x[3], x[4, 5], x[5, 6] = -np.inf, np.inf, np.nan
    y[:3], ignored = (99, 100, 229), 17
    y[7:9] = ignored
    found = blocks.columns_of_classes(x, y, y != ignored, 100, 400, {})
    for width in (24, 31):
        to = np.zeros(300, {"names": ["target", "max", "rest"], "formats": ["f4", "f4", "f8"], "offsets": [0, 4, 8],
                            "itemsize": width})  # fmt: skip
        for threads in (1, 4):
            assert tell_block(x, y, 100, 400, ignored, to, threads) == -1
            for kind in to.dtype.names:
                expected = found[kind].astype(to.dtype[kind])
                np.testing.assert_array_equal(to[kind][y != ignored], expected[y != ignored], err_msg=kind)
        y[11] = 400
        to["rest"] = 7
        assert tell_block(x, y, 100, 400, ignored, to) == 11
        assert (to["rest"] == 7).all()
        y[11] = 399


@pytest.mark.parametrize("options", [{}, {"softcap": 5.0}, {"logit_scale": 0.5}, {"focal": 1.0}])
def test_a_row_without_an_axis_is_one_of_several(options):
    x = np.array([[1.0, -np.inf, 3.0, 0.5], [0.0, 1.0, 2.0, 3.0]])
    for y, (first, last) in itertools.product((0, 2), ((0, 2), (2, 4))):
        given = y, first, 4
        alone = blocks.chunk(x[0, first:last], *given, **options)
        assert alone == blocks.chunk(x[:, first:last], np.array([y, y]), first, 4, **options)[0]
        if "focal" in options:
            continue
        of_entropy = blocks.chunk(x[:, first:last], np.array([y, y]), first, 4, entropy=True, **options)
        alone = blocks.chunk(x[0, first:last], *given, entropy=True, **options)
        assert alone == of_entropy[0]
        slopes = blocks.log_probs_gradient(
            x[:, first:last], np.array([y, y]), of_entropy, first, 4, grad_log_prob=1.0, **options
        )
        found = blocks.log_probs_gradient(x[0, first:last], y, alone, first, 4, grad_log_prob=1.0, **options)
        np.testing.assert_array_equal(found, slopes[0])
