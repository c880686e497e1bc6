"""What torch tests its own losses with (OpInfo and ModuleInfo, in torch.testing._internal), and what is right there.

It is what torch itself says of the same inputs in float64.
"""

import contextlib
import functools
import random
import types
from typing import NamedTuple

import numpy as np
import pytest
import torch

import crossentropy.torch as ours
from crossentropy.testing.ulps import LIMITS, spacing

THEIRS = types.SimpleNamespace(
    cross_entropy=torch.nn.functional.cross_entropy,
    log_softmax=torch.nn.functional.log_softmax,
    CrossEntropyLoss=torch.nn.CrossEntropyLoss,
)
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
SOURCES = ["nn.functional.cross_entropy", "log_softmax", "log_softmax.with_dtype", "nn.CrossEntropyLoss"]


@functools.cache
def torchs_tests():
    """torch's descriptions of its own functions and modules, by name; what importing them sets is set back."""
    pytest.importorskip("expecttest", reason="torch's own tests import it")
    hypothesis = pytest.importorskip("hypothesis", reason="torch's own tests import it")
    profile = hypothesis.settings.get_current_profile_name()
    try:
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
    except ImportError as missing:
        pytest.skip(f"torch's own tests cannot be imported: {missing}")
    finally:
        hypothesis.settings.load_profile(profile)  # torch's is of 10 examples, for every property test from here on
        # torch's tests let no flag of torch.backends be set; those after these may want to.
        torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True
    return {f"{op.name}.{op.variant_test_name}".rstrip("."): op for op in op_db} | {m.name: m for m in module_db}


# ---------------------------------------------------------------------- samples


class Sample(NamedTuple):
    """One call of one of the three functions, under either namespace."""

    function: str
    args: tuple
    options: dict  # of the constructor, where the function is a module

    def __call__(self, namespace):
        function = getattr(namespace, self.function)
        if self.function == "CrossEntropyLoss":
            return function(**self.options)(*self.args)
        return function(*self.args, **self.options)

    def changed(self, change):
        """With something else for each tensor."""
        args = [change(value) if isinstance(value, torch.Tensor) else value for value in self.args]
        options = {name: change(v) if isinstance(v, torch.Tensor) else v for name, v in self.options.items()}
        return self._replace(args=tuple(args), options=options)

    @property
    def wanted(self):
        """The inputs that want a gradient."""
        return tuple(value for value in self.args if isinstance(value, torch.Tensor) and value.requires_grad)

    @property
    def weighs_below_0(self):
        """Whether class weights are below 0, which the drop-in hands to torch's own function."""
        return "weight" in self.options and bool((self.options["weight"] < 0).any())


def leaf(value):
    """A copy with no history."""
    return value.detach().clone().requires_grad_(value.requires_grad)


def wide(value):
    """A copy in float64."""
    return value.detach().double().requires_grad_(value.requires_grad) if value.is_floating_point() else value


def strided(value):
    """A copy that is every other element of something larger."""
    return torch.stack([value.detach()] * 2, -1)[..., 0].requires_grad_(value.requires_grad)


@contextlib.contextmanager
def the_same_numbers():
    """Both of the generators that torch's samples are drawn from, in one state in every run."""
    before = random.getstate()
    random.seed(20190601)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20190601)
        yield
    random.setstate(before)


def as_drawn(source, dtype, requires_grad=True):
    """All of torch's samples of a function or module. ModuleInfo lists no bfloat16, but has samples for any dtype."""
    info = torchs_tests()[source]
    with the_same_numbers():
        if source == "nn.CrossEntropyLoss":
            drawn = info.module_inputs_func(info, "cpu", dtype, requires_grad, training=False)
            found = [Sample("CrossEntropyLoss", i.forward_input.args, i.constructor_input.kwargs) for i in drawn]
        else:
            drawn = info.sample_inputs("cpu", dtype, requires_grad)
            found = [Sample(info.name.rpartition(".")[2], (i.input, *i.args), i.kwargs) for i in drawn]
    assert found
    return [sample.changed(leaf) for sample in found]


def samples(source, dtype):
    """The same, with the absolute values of class weights, which torch draws from [-9, 9)."""
    found = as_drawn(source, dtype)
    for sample in found:
        if "weight" in sample.options:
            sample.options["weight"].abs_()
    return found


def served(source, dtype):
    """Those, with a gradient on the logits alone: what the kernels are made for."""
    return [
        sample._replace(
            args=(sample.args[0], *(v.detach() if isinstance(v, torch.Tensor) else v for v in sample.args[1:]))
        )
        for sample in samples(source, dtype)
    ]


def handed_over(source, dtype):
    """Those with a gradient on the targets, with and without one on the logits: torch's own function takes them."""
    both = [sample for sample in samples(source, dtype) if len(sample.wanted) > 1]
    return both + [sample._replace(args=(sample.args[0].detach(), *sample.args[1:])) for sample in both]


def wrong(source, dtype):
    """torch's wrong inputs of a function or module, each with the type that torch's own tests expect."""
    info = torchs_tests()[source]
    with the_same_numbers():
        if source == "nn.CrossEntropyLoss":
            function = info.module_error_inputs_func  # None in older versions
            drawn = [] if function is None else function(info, "cpu", dtype, True, training=False)
            calls = [(w.error_type, w.module_error_input) for w in drawn]
            return [(t, Sample("CrossEntropyLoss", i.forward_input.args, i.constructor_input.kwargs)) for t, i in calls]
        drawn = [] if info.error_inputs_func is None else info.error_inputs("cpu")
        calls = [(w.error_type, w.sample_input) for w in drawn]
        return [(t, Sample(info.name.rpartition(".")[2], (i.input, *i.args), i.kwargs)) for t, i in calls]


# ---------------------------------------------------------------------- what is right

# torch's samples are drawn at random, so the limits of the contract are doubled, as in fuzz.py, which says why.
SLACK = 2

# What torch's own float64 result may be off by, in units of the largest term: logits are in [-9, 9), so that each of
# the two subtractions in a log-softmax rounds by 2^-49 at most, and an exponential of it is off by as much.
TRUTH = 32 * 2.0**-52


def limit(dtype, what):
    """In ulps of the result. A 16-bit loss is a float32 one rounded once, and so within 0.51, as all that is 16-bit."""
    return 0.51 if dtype.itemsize == 2 else SLACK * LIMITS[name_of(dtype)][what]


def name_of(dtype):
    """float32 of torch.float32."""
    return str(dtype).removeprefix("torch.")


def numbers(value):
    """As an array of float64, with two numbers of each that is complex."""
    value = value.detach()
    return (torch.view_as_real(value.to(torch.complex128)) if value.is_complex() else value.double()).numpy()


def same_bits(one, other):
    """As `torch.equal`, with NaN equal to NaN, which is the mean over no row."""
    return one.dtype == other.dtype and np.array_equal(numbers(one), numbers(other), equal_nan=True)


def upstream(value):
    """A gradient to arrive at a value: positive, so that the sum over a row cancels nothing, and no powers of 2."""
    generator = torch.Generator().manual_seed(20190601)
    return (0.5 + 1.5 * torch.rand(value.shape, generator=generator, dtype=torch.float64)).to(value.dtype)


def results(sample, namespace, g=None):
    """What a call gives, and the gradients on what wants one, by default from `upstream`."""
    value = sample(namespace)
    g = upstream(value) if g is None else g.to(value.dtype)
    return value, torch.autograd.grad(value, sample.wanted, g) if sample.wanted else ()


def class_axis(sample):
    """The axis of the classes."""
    return sample.args[1] if sample.function == "log_softmax" else min(sample.args[0].ndim - 1, 1)


def on_log_softmax(sample, g):
    """The gradient G that arrives at the log-softmax where g arrives at the result.

    That on the logits is G - p sum G, so that G is seen at logits where p is 1 for one class: for the other classes.
    """
    if sample.function == "log_softmax":
        return g
    x, *others = (value.detach() for value in sample.args)
    axis, at = class_axis(sample), []
    for certain in (0, 1):
        logits = torch.zeros_like(x)
        logits.select(axis, certain).fill_(1e4)
        logits.requires_grad_()
        at.append(torch.autograd.grad(sample._replace(args=(logits, *others))(THEIRS), logits, g)[0])
    at[0].select(axis, 0).copy_(at[1].select(axis, 0))
    return at[0]


class Judge:
    """Holds results against the truth; counts them, and keeps the largest errors."""

    def __init__(self):
        self.samples = self.numbers = 0
        self.ours, self.theirs = {}, {}  # the largest errors in ulp, by what; not of float64, which the truth is, too
        self.failures = []

    def near(self, what, got, theirs, exact, unit=0.0, slack=0.0):
        """Of torch's dtype and shape, and within the limit, in ulps at the exact value or ``unit``, plus ``slack``.

        So it is never further from the truth than torch's by more than that, either.
        """
        assert (got.shape, got.dtype, got.device) == (theirs.shape, theirs.dtype, theirs.device)
        exact = numbers(exact)
        if np.isnan(exact).all():  # the mean over no row
            assert torch.isnan(got).all()
            return
        assert np.isfinite(exact).all()
        ulp = spacing(np.maximum(np.abs(exact), unit), name_of(theirs.dtype))
        error, their_error = (np.abs(numbers(value) - exact) for value in (got, theirs))
        for largest, errors in ((self.ours, error), (self.theirs, their_error)):
            if theirs.dtype != torch.float64:
                largest[what] = max(largest.get(what, 0.0), float((errors / ulp).max(initial=0)))
        worst = float(((error - slack) / ulp).max(initial=0))
        allowed = limit(theirs.dtype, what)
        if not worst <= allowed:  # also NaN
            self.failures.append(f"{what} of {theirs.dtype}: {worst:.3f} ulp beyond the slack, allowed {allowed}")
        self.numbers += exact.size

    def sample(self, sample):
        """One sample, value and gradient."""
        self.samples += 1
        theirs, their_grads = results(sample.changed(leaf), THEIRS)
        got, grads = results(sample.changed(leaf), ours)
        g = upstream(theirs)
        exact_sample = sample.changed(wide)
        exact, exact_grads = results(exact_sample, THEIRS, g)
        assert got.requires_grad == theirs.requires_grad
        axis, log_p = class_axis(sample), exact_sample.args[0].detach().log_softmax(class_axis(sample))
        arriving = on_log_softmax(exact_sample, g.to(exact.dtype)).detach()
        through_p = numbers(log_p.exp() * arriving.sum(axis, keepdim=True))
        unit = np.maximum(np.abs(numbers(arriving)), np.abs(through_p))
        if sample.function == "log_softmax":
            self.near("log_softmax", got, theirs, exact, slack=TRUTH)
            # Its backward has p from the log-softmax as it was rounded, in torch as here.
            rounded = limit(theirs.dtype, "log_softmax") * spacing(numbers(log_p), name_of(theirs.dtype))
            slack = np.abs(through_p) * np.expm1(rounded)
        else:
            mass = on_log_softmax(exact_sample, torch.ones_like(exact)).abs().sum(axis)
            self.near(
                "loss", got, theirs, exact, slack=TRUTH * numbers(mass if mass.shape == exact.shape else mass.sum())
            )
            slack = 0.0
        for grad, their, right in zip(grads, their_grads, exact_grads, strict=True):
            self.near("grad", grad, their, right, unit, slack + TRUTH * unit)

    def __str__(self):
        errors = ", ".join(f"{what} {self.ours[what]:.3g} ({self.theirs[what]:.3g})" for what in self.ours)
        return f"{self.samples:3} samples {self.numbers:6} numbers {len(self.failures):2} failures   {errors}"


def judged(source, dtype):
    """All the samples of a function or module in one dtype, held against the truth."""
    judge = Judge()
    for sample in served(source, dtype):
        judge.sample(sample)
    assert judge.samples
    return judge
