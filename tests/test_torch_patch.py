"""crossentropy.torch.patch: what it replaces, and that all is as it was afterwards; calls that stay PyTorch's."""

import copy
import logging
import pickle
import threading

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

import torch.nn.functional as F  # noqa: E402

import crossentropy.torch  # noqa: E402
from crossentropy.torch import Patch, patch  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning",
    "ignore:`torch.jit:FutureWarning",  # the same from 2.15 on
)

OWN = {name: getattr(F, name) for name in ("cross_entropy", "log_softmax")}
CONFIDENT = torch.tensor([[60.0, 0.0]])  # a loss of 9e-27, which PyTorch's function has as 0
FIRST = torch.tensor([0])
NO_LOSS = torch.nn.CrossEntropyLoss()  # made before any patch


@pytest.fixture(autouse=True)
def _as_it_was():
    torch.manual_seed(0)
    yield
    assert {name: getattr(F, name) for name in OWN} == OWN


def is_ours():
    return F.cross_entropy(CONFIDENT, FIRST).item() > 0


def test_functions_and_modules_that_are_there_take_the_kernels():
    log_softmax = torch.nn.LogSoftmax(-1)
    assert NO_LOSS(CONFIDENT, FIRST) == log_softmax(CONFIDENT)[0, 0] == 0
    with patch() as patched:
        for loss in (F.cross_entropy(CONFIDENT, FIRST), NO_LOSS(CONFIDENT, FIRST), -log_softmax(CONFIDENT)[0, 0]):
            assert loss.item() == pytest.approx(8.75651e-27, rel=1e-5, abs=0)
        assert patched.calls == 3
        assert not patched.fallbacks
    assert NO_LOSS(CONFIDENT, FIRST) == log_softmax(CONFIDENT)[0, 0] == 0
    assert patched.calls == 3


def test_a_call_differentiates_as_without_a_patch():
    logits, targets = torch.randn(7, 5, 3), torch.randint(5, (7, 3))
    keywords = {"weight": torch.rand(5), "ignore_index": 2, "reduction": "sum", "label_smoothing": 0.1}
    gradients = []
    for names in ([], ["cross_entropy"]):
        z = logits.clone().requires_grad_()
        with patch("log_softmax", *names):
            assert (F.cross_entropy is OWN["cross_entropy"]) is not bool(names)
            loss = F.cross_entropy(z, targets, **keywords) + F.log_softmax(z, 1).square().sum()
            loss.backward()
        gradients.append((loss.detach(), z.grad))
    torch.testing.assert_close(*gradients)


def test_patches_are_nested_and_undone_in_any_order():
    one = patch()
    two = patch("cross_entropy")
    with one, patch(), two:
        assert is_ours()
    assert not is_ours()
    first, second = patch(), patch()
    first.undo()
    assert is_ours()
    first.undo()
    assert is_ours()
    second.undo()
    assert not is_ours()
    with first:
        with first:
            assert is_ours()
        assert is_ours()
    assert not is_ours()
    with pytest.raises(ZeroDivisionError), patch():
        1 / 0  # noqa: B018


def test_threads_patch_and_call_at_once():
    failures = []
    start = threading.Barrier(4)

    def work():
        start.wait()
        for _ in range(50):
            with patch() as patched:
                if not is_ours() or patched.calls < 1:
                    failures.append(repr(patched))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_what_the_kernels_refuse_is_pytorchs_and_counted(caplog):
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    infinite = torch.tensor([1.0, float("inf"), 1.0])
    calls = [  # by a refusal of ours, and handed on by our own function
        (F.cross_entropy, (logits, targets), {"weight": infinite, "reduction": "none"}),
        (F.cross_entropy, (logits, targets), {"label_smoothing": -0.5}),
        (F.cross_entropy, (logits, targets), {"weight": -torch.ones(3)}),
        (torch.func.grad(lambda z: F.cross_entropy(z, targets)), (logits,), {}),
        (torch.func.vmap(lambda z: F.log_softmax(z, 0)), (logits,), {}),
        (crossentropy.torch.CrossEntropyLoss(weight=-torch.ones(3)), (logits, targets), {}),
    ]
    own = [f(*args, **kwargs) for f, args, kwargs in calls]
    calls[:3] = [(lambda *a, **k: F.cross_entropy(*a, **k), *rest) for _, *rest in calls[:3]]
    with caplog.at_level(logging.INFO, "crossentropy.torch"), patch() as patched:
        for _ in range(2):
            found = [f(*args, **kwargs) for f, args, kwargs in calls]
            torch.testing.assert_close(found, own)
    assert patched.calls == 0
    assert patched.fallbacks.total() == 2 * len(calls)
    assert patched.fallbacks["torch.func and forward-mode AD"] == 4
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == len(set(said)) == len(patched.fallbacks)
    assert any("label_smoothing must be in [0, 1], got -0.5" in line for line in said)
    assert [record.levelno for record in caplog.records].count(logging.INFO) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"target": torch.tensor([0, 1])},
        {"target": torch.tensor([0, 1, 3])},
        {"target": torch.tensor([0, 1, 2]), "reduction": "median"},
        {"target": None},
        {"target": torch.tensor([0, 1, 2]), "z_losss": 1.0},
    ],
    ids=["shape", "class", "reduction", "nothing", "keyword"],
)
def test_errors_are_pytorchs(arguments):
    found = []
    for context in (patch("log_softmax"), patch()):
        with context, pytest.raises((ValueError, IndexError, TypeError)) as caught:
            F.cross_entropy(torch.zeros(3, 3), **arguments)
        found.append((caught.type, str(caught.value), caught.value.__context__))
    assert found[0] == found[1]


def test_what_it_says(caplog):
    with caplog.at_level(logging.INFO, "crossentropy.torch"):
        patched = patch("cross_entropy")
        F.cross_entropy(CONFIDENT, FIRST)
        F.cross_entropy(CONFIDENT, FIRST, label_smoothing=-1.0)
        patched.undo()
    assert isinstance(patched, Patch)
    assert repr(patched) == (
        "<crossentropy.torch.patch of torch.nn.functional.cross_entropy (torch.nn.CrossEntropyLoss): undone; 1 calls "
        "by crossentropy, 1 by PyTorch; RuntimeError: label_smoothing must be in [0, 1], got -1.0: 1>"
    )
    assert "in force; 0 calls" in caplog.records[0].getMessage()
    with pytest.raises(ValueError, match=r"names must be of 'cross_entropy', 'log_softmax', got 'nll_loss'"):
        patch("nll_loss")


def test_another_programs_replacement_on_top_is_left(monkeypatch, caplog):
    patched = patch("cross_entropy")
    below = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda *args, **kwargs: below(*args, **kwargs))
    assert is_ours()
    patched.undo()
    assert "replaced by another program" in caplog.text
    assert not is_ours()
    with patch() as again:
        assert is_ours()
        assert again.calls == 1
    assert not is_ours()
    monkeypatch.undo()
    F.cross_entropy = OWN["cross_entropy"]  # what stood there when the other program came is ours, which is undone


class Named(torch.Tensor):
    """A tensor that sees which functions it is given to."""

    seen = ()

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.seen = (*cls.seen, function)
        return super().__torch_function__(function, types, args, kwargs)


def test_overrides_get_the_function_of_that_name():
    z = CONFIDENT.as_subclass(Named)
    with patch() as patched:
        assert F.cross_entropy(z, FIRST).item() > 0
        assert F.cross_entropy in Named.seen
        with torch.device("cpu"):  # a mode of that kind
            assert is_ours()
        assert patched.calls == 2
        assert not patched.fallbacks


def test_compiled_scripted_exported_and_pickled_while_it_is_in_force():
    torch._dynamo.reset()

    def compute(z, target):
        return F.cross_entropy(z, target) - F.log_softmax(z, -1)[:, 0].sum()

    compiled = torch.compile(compute, backend="aot_eager", fullgraph=True)
    assert compiled(CONFIDENT, FIRST) == 0
    with patch():
        assert compiled(CONFIDENT, FIRST) > 0
        assert torch.jit.script(torch.nn.CrossEntropyLoss())(CONFIDENT, FIRST) == 0  # PyTorch's own
        graph = torch.export.export(torch.nn.CrossEntropyLoss(), (CONFIDENT, FIRST)).graph
        assert "crossentropy.cross_entropy" in str(graph)
        assert pickle.loads(pickle.dumps(F.cross_entropy)) is copy.deepcopy(F.cross_entropy) is F.cross_entropy
    assert compiled(CONFIDENT, FIRST) == 0
