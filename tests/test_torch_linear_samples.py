"""The samples that torch tests its own linear_cross_entropy with, through `crossentropy.torch`."""

import unittest.mock
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="the samples are PyTorch's")
pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
if not hasattr(torch.nn.functional, "linear_cross_entropy"):
    pytest.skip("this PyTorch has no linear_cross_entropy", allow_module_level=True)

import torch_samples  # noqa: E402
from torch_samples import leaf, ours, the_same_numbers  # noqa: E402

FUNCTION, MODULE = "nn.functional.linear_cross_entropy", "nn.LinearCrossEntropyLoss"
SOURCES = [FUNCTION, f"{FUNCTION}.chunked", f"{FUNCTION}.chunked_none", MODULE]
# Of the largest number: the products' rounding, of terms that may be a hundred times as large as their sum.
# Of the terms of each sum. In bfloat16 two roundings: of the gradient on the logits for a product, and of the result.
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 2 * 2.0**-8, torch.float16: 1e-3}

# What torch says of its own chunked path, in these samples of it.
pytestmark = pytest.mark.filterwarnings("ignore:linear_cross_entropy:UserWarning")


class Sample(NamedTuple):
    """One call of the function; the module's layer stands among its arguments."""

    args: tuple  # input, linear_weight, target
    options: dict

    def changed(self, change):
        """With something else for each tensor."""

        def of(value):
            return change(value) if isinstance(value, torch.Tensor) else value

        return Sample(tuple(map(of, self.args)), {name: of(value) for name, value in self.options.items()})

    @property
    def wanted(self):
        """The inputs that want a gradient: not targets, which are torch's own matter."""
        found = [*self.args[:2], self.options.get("linear_bias")]
        return [a for a in found if a is not None and a.requires_grad]


def drawn(source, dtype):
    """All of torch's samples of the function, or the module."""
    info = torch_samples.torchs_tests()[source]
    with the_same_numbers():
        if source != MODULE:
            return [
                Sample((leaf(s.input), leaf(s.args[0]), s.args[1].detach()), dict(s.kwargs))
                for s in info.sample_inputs("cpu", dtype, True)
            ]
        found = []
        for each in info.module_inputs_func(info, "cpu", dtype, True, training=False):
            options = dict(each.constructor_input.kwargs)
            places = options.pop("out_features")
            for name in ("device", "dtype"):
                options.pop(name)
            x, target = each.forward_input.args
            _, classes = each.constructor_input.args
            weight = torch.randn(classes, *places, x.shape[-1]).to(dtype)
            if options.pop("bias", False):
                options["linear_bias"] = torch.randn(classes, *places).to(dtype).requires_grad_()
            found.append(Sample((leaf(x), weight.requires_grad_(), target), options))
        return found


def exact(sample):
    """The loss of the same numbers in float64, by torch's function without its chunks."""
    wide = sample.changed(torch_samples.wide)
    return torch.nn.functional.linear_cross_entropy(*wide.args, **wide.options | {"options": None}), wide.wanted


class _Terms(torch.autograd.Function):
    """A linear layer, of whose gradients every term is taken to be positive."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return torch._C._nn.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, g):
        x, weight = (t.abs() for t in ctx.saved_tensors)
        g = g.abs()
        rows = g.reshape(-1, g.shape[-1])
        return g @ weight, rows.T @ x.reshape(-1, x.shape[-1]), rows.sum(0) if ctx.has_bias else None


def gradients(sample, g):
    """The exact gradients, and the sums of their terms without signs."""
    right, wide = exact(sample)
    with unittest.mock.patch("torch.nn.functional.linear", _Terms.apply):
        again, parameters = exact(sample)
    pairs = torch.autograd.grad(right, wide, g), torch.autograd.grad(again, parameters, g)
    return list(zip(*pairs, strict=True))


def is_near(found, right, terms, dtype):
    if torch.isnan(right).all():  # the mean over no row
        return bool(torch.isnan(found).all())
    return bool(((found.double() - right).abs() <= LIMITS[dtype] * (terms.abs() + 1e-3)).all())


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("source", SOURCES)
def test_values_and_gradients_of_torchs_linear_samples(source, dtype):
    samples = drawn(source, dtype)
    assert len(samples) > 10
    for sample in samples:
        given = sample.changed(leaf)
        loss = ours.linear_cross_entropy(*given.args, **given.options)
        right, _ = exact(sample)
        assert loss.shape == right.shape
        assert loss.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        # A loss has the logits' rounding, which is that of float32 for 16 bits.
        assert is_near(loss, right, right, dtype), sample
        g = torch.rand(right.shape, dtype=torch.float64) + 0.5
        grads = torch.autograd.grad(loss, given.wanted, g.to(loss.dtype))
        for p, found, (expected, terms) in zip(given.wanted, grads, gradients(sample, g), strict=True):
            assert (found.dtype, found.shape) == (p.dtype, p.shape)
            if not torch.isnan(right).all():
                assert is_near(found, expected, terms, dtype), sample


def test_the_module_computes_what_torchs_does():
    info = torch_samples.torchs_tests()[MODULE]
    with the_same_numbers():
        inputs = info.module_inputs_func(info, "cpu", torch.float64, True, training=False)
    for each in inputs:
        theirs, mine = (
            namespace.LinearCrossEntropyLoss(*each.constructor_input.args, **each.constructor_input.kwargs)
            for namespace in (torch.nn, ours)
        )
        mine.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(mine(*each.forward_input.args), theirs(*each.forward_input.args))


@pytest.mark.parametrize("source", SOURCES)
def test_wrong_inputs_raise_what_torchs_raise(source):
    info = torch_samples.torchs_tests()[source]
    with the_same_numbers():
        if source == MODULE:
            wrong = [
                (w.error_type, w.module_error_input)
                for w in info.module_error_inputs_func(info, "cpu", torch.float32, True, training=False)
            ]
            calls = [
                (
                    error,
                    lambda w=w: ours.LinearCrossEntropyLoss(*w.constructor_input.args, **w.constructor_input.kwargs)(
                        *w.forward_input.args
                    ),
                )
                for error, w in wrong
            ]
        else:
            wrong = [(w.error_type, w.sample_input) for w in info.error_inputs("cpu")]
            calls = [(error, lambda s=s: ours.linear_cross_entropy(s.input, *s.args, **s.kwargs)) for error, s in wrong]
    assert len(calls) >= 5
    for error, call in calls:
        with pytest.raises(error):
            call()
