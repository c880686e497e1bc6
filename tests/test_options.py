"""One description of a loss: what the table of options says is what every public function shows, takes and refuses."""

import importlib.util
import inspect
import typing

import numpy as np
import pytest

import crossentropy
from crossentropy import autograd, blocks, reference, testing
from crossentropy._backends import registry
from crossentropy._options import DEFAULTS, EXTRAS, LINEAR, NUMERIC, OPTIONS
from crossentropy.testing import same

X, T = np.random.default_rng(0).standard_normal((32, 10), dtype=np.float32), np.arange(32) % 10
FUNCTIONS = [
    crossentropy.cross_entropy,
    crossentropy.cross_entropy_and_grad,
    crossentropy.cross_entropy_grad,
    autograd.forward,
    lambda *given, **options: autograd.restored(np.zeros((32, autograd.FIELDS)), None, *given, **options),
]


def arrays(result):
    """What a function returns, as a tuple."""
    return result if isinstance(result, tuple) else (result,)


LINEAR_FUNCTIONS = [crossentropy.linear_cross_entropy, crossentropy.linear_cross_entropy_and_grad]


@pytest.mark.parametrize("function", [*FUNCTIONS[:4], autograd.restored, *LINEAR_FUNCTIONS], ids=lambda f: f.__name__)
def test_signature_and_docstring_show_every_option(function):
    shown = inspect.signature(function).parameters
    names = LINEAR if function in LINEAR_FUNCTIONS else tuple(OPTIONS)
    assert set(names) == set(shown) & set(OPTIONS)
    for name in names:
        option = OPTIONS[name]
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert shown[name].default is option.default
        assert f"    {name} : {option.kind}\n        " in function.__doc__


def test_the_typed_dict_has_them():
    assert set(crossentropy.LossOptions.__annotations__) == set(OPTIONS)
    assert crossentropy.LossOptions.__required_keys__ == frozenset()
    assert set(crossentropy.LinearOptions.__annotations__) == set(LINEAR) == set(OPTIONS) - {"axis"}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_misspelt_option_names_the_function_and_the_nearest(function):
    with pytest.raises(TypeError, match=r"\w+\(\) got an unexpected keyword argument 'label_smothing'; did you mean"):
        function(X, T, label_smothing=0.1)
    with pytest.raises(TypeError, match="'xyz'; its options are axis, class_weight"):
        function(X, T, xyz=0.1)


@pytest.mark.parametrize("function", FUNCTIONS[1:3])
def test_a_misspelt_keyword_of_the_function_s_own_is_named_too(function):
    with pytest.raises(TypeError, match="'grad_ouput'; did you mean 'grad_output'"):
        function(X, T, grad_ouput=1.0)


def test_types_can_be_asked_for():
    for function in (*FUNCTIONS[:4], autograd.restored, crossentropy.logsumexp, crossentropy.training.fit):
        assert typing.get_type_hints(function)["return"] is not None


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.bad])
def test_what_is_outside_the_rule_is_told_so(function, name):
    for value in OPTIONS[name].bad:
        with pytest.raises((TypeError, ValueError), match=rf"^{name} must be .*{'got' if value is not None else ''}"):
            function(X, T, **{name: value})


def test_every_option_of_a_row_is_crossed_and_drawn():
    for name in NUMERIC:
        assert OPTIONS[name].samples, name
        assert OPTIONS[name].draws, name
        assert OPTIONS[name].bad, name


@pytest.fixture
def short_ways(monkeypatch):
    """How many calls asked for the backend's way for plain calls."""
    asked, light = [], registry.light

    def counted():
        asked.append(1)
        return light()

    monkeypatch.setattr(registry, "light", counted)
    return asked


@pytest.mark.parametrize("function", FUNCTIONS[:3])
def test_documented_defaults_are_no_options(function, short_ways):
    """Each by itself and all together, as other objects than the table's."""
    plain = function(X, T)
    equal = {name: float(str(value)) if isinstance(value, float) else value for name, value in DEFAULTS.items()}
    whole = {name: int(DEFAULTS[name]) for name in NUMERIC}  # as the documentation has them
    for given in (*({name: value} for name, value in equal.items()), equal, whole):
        got = function(X, T, **given)
        for one, other in zip(arrays(got), arrays(plain), strict=True):
            same(one, other)
    assert len(short_ways) == len(equal) + 3


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("function", FUNCTIONS[:3])
def test_no_option_is_lost_on_small_plain_arrays(function, name, short_ways):
    plain, got = function(X, T), function(X, T, **{name: OPTIONS[name].samples[0]})
    for one, other in zip(arrays(got), arrays(plain), strict=True):
        assert not np.array_equal(one, other)
    assert len(short_ways) == 1


@pytest.mark.parametrize("size", [6, 100])
def test_focal_of_a_target_far_ahead_of_its_block(size, kernels, rng):
    """Focal comes once the blocks are merged, but shows what the block with the target has beside it."""
    x, options = rng.standard_normal((2, 2 * size)).astype(np.float32), {"focal": 0.5, "label_smoothing": 0.1}
    x[:, 1], x[:, size:] = 130, x[:, size:] - 20
    t, starts = np.array([1, 1]), (0, size)
    parts = [blocks.chunk(x[:, k : k + size], t, k, 2 * size, **options) for k in starts]
    losses = blocks.aggregate(blocks.combine(*parts), **options)
    expected, _, _ = testing.exact(x, t.tolist(), [reference.Row(**options)] * 2)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_an_index_that_no_class_is_ignored_by_goes_the_short_way(short_ways):
    same(crossentropy.cross_entropy(X, T, ignore_index=-100), crossentropy.cross_entropy(X, T))
    crossentropy.cross_entropy(X, T, ignore_index=3)
    assert len(short_ways) == 2


def test_the_drop_in_takes_what_is_beyond_pytorch():
    if not importlib.util.find_spec("torch"):
        pytest.skip("torch is missing")
    import crossentropy.torch as ours

    shown = inspect.signature(ours.cross_entropy).parameters
    for name in EXTRAS:
        assert shown[name].default == DEFAULTS[name]
        assert f"    {name} : {OPTIONS[name].kind}\n        " in ours.cross_entropy.__doc__
        assert getattr(ours.CrossEntropyLoss(), name) == DEFAULTS[name]
        assert inspect.signature(ours.CrossEntropyLoss).parameters[name].default == DEFAULTS[name]
        assert f"    {name} : {OPTIONS[name].kind}\n        " in ours.CrossEntropyLoss.__doc__
    with pytest.raises(TypeError, match="'zloss'; did you mean 'z_loss'"):
        ours.CrossEntropyLoss(zloss=1e-4)
    with pytest.raises(TypeError, match="'inplac'; did you mean 'inplace'"):
        ours.CrossEntropyLoss(inplac=True)
    assert typing.get_type_hints(ours.cross_entropy)["return"] is not None
