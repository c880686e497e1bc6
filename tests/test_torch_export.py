"""Models that end in crossentropy.torch leave the program: as ONNX by both exporters, as TorchScript, as a pickle."""

import copy
import importlib.util
import io
import pickle
import warnings

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

from crossentropy.torch import CrossEntropyLoss, cross_entropy, log_softmax  # noqa: E402

MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


class Ending(torch.nn.Module):
    """A layer and what comes after it."""

    def __init__(self, end):
        super().__init__()
        self.layer, self.end = torch.nn.Linear(5, 7), end

    def forward(self, x, t):
        return self.end(self.layer(x), t)


OPTIONS = [
    {},
    {"reduction": "sum", "label_smoothing": 0.1},
    {"reduction": "none", "z_loss": 0.1},
    {"weight": torch.linspace(0.5, 2, 7), "z_loss": 0.1},
    {"dtype": torch.float64},
    {"weight": torch.linspace(0.5, 2, 7), "label_smoothing": 0.1, "z_loss": 0.1},
]
ENDS = {f"CrossEntropyLoss({', '.join(options)})": CrossEntropyLoss(**options) for options in OPTIONS}
ENDS |= {"cross_entropy": cross_entropy, "log_softmax": lambda z, t: log_softmax(z, 1)[t >= 0]}


def arguments():
    torch.manual_seed(0)
    return torch.randn(6, 5), torch.tensor([0, 3, -100, 6, 2, 3])


# ---------------------------------------------------------------------- ONNX


@needs_onnx
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_onnx(end, dynamo):
    x, t = arguments()
    run_onnx(Ending(end), x, t, dynamo)


@needs_onnx
@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx_of_probabilities(dynamo):
    x, _ = arguments()
    for options in ({}, {"weight": torch.linspace(0.5, 2, 7), "label_smoothing": 0.1, "z_loss": 0.1}):
        run_onnx(Ending(CrossEntropyLoss(**options)), x, torch.softmax(torch.randn(6, 7), 1), dynamo)


@needs_onnx
@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx_with_class_axis_1_of_several(dynamo):
    """And 32-bit classes, of which PyTorch's function takes none."""
    loss, t = CrossEntropyLoss(label_smoothing=0.1), torch.randint(4, (2, 3, 5), dtype=torch.int32)
    run_onnx(loss, torch.randn(2, 4, 3, 5), t, dynamo)


def run_onnx(model, x, t, dynamo):
    """The exported model, run by onnxruntime, gives what the model gives."""
    import onnxruntime

    model, file = model.eval(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters': what they deprecate, and that this is a trace
        if dynamo:
            torch.onnx.export(model, (x, t), dynamo=True, verbose=False).save(file)
        else:
            torch.onnx.export(model, (x, t), file, dynamo=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    names = [given.name for given in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (x.numpy(), t.numpy()), strict=True)))
    torch.testing.assert_close(torch.from_numpy(found), model(x, t).detach())


# ---------------------------------------------------------------------- TorchScript


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning")
def test_scripted(options):
    """By PyTorch's operations; the module itself stays what it was."""
    (x, t), model = arguments(), Ending(CrossEntropyLoss(**options))
    scripted = torch.jit.script(model)
    assert "cross_entropy_loss" in str(scripted.end.forward.inlined_graph)
    for target in (t, t.int(), torch.softmax(torch.randn(6, 7), 1)):
        found, wanted = scripted(x, target), model(x, target)
        torch.testing.assert_close(found, wanted)
        gradients = (torch.autograd.grad(a.sum(), model.layer.weight)[0] for a in (found, wanted))
        torch.testing.assert_close(*gradients)
    assert type(model.end) is CrossEntropyLoss


# ---------------------------------------------------------------------- as a module


def test_what_is_shown_of_a_module():
    assert repr(CrossEntropyLoss()) == repr(torch.nn.CrossEntropyLoss())
    assert repr(CrossEntropyLoss(z_loss=1e-4)) == "CrossEntropyLoss(z_loss=0.0001)"
    shown = repr(CrossEntropyLoss(torch.ones(3), inplace=True, dtype=torch.float32))
    assert shown == "CrossEntropyLoss(inplace=True, dtype=torch.float32)"


def test_a_module_that_was_pickled_before_it_had_options():
    loss = CrossEntropyLoss(torch.rand(7), label_smoothing=0.1)
    state = loss.__getstate__()
    for name in ("inplace", "dtype", "z_loss"):
        del state[name]
    old = CrossEntropyLoss.__new__(CrossEntropyLoss)
    old.__setstate__(state)
    x, t = torch.randn(6, 7), arguments()[1]
    assert torch.equal(old(x, t), loss(x, t))
    assert repr(old) == repr(loss)


def test_a_module_with_a_dtype_is_copied_whole():
    loss = CrossEntropyLoss(torch.rand(7), dtype=torch.float32, z_loss=0.1, inplace=True)
    x, t = torch.randn(6, 7, dtype=torch.bfloat16), arguments()[1]
    for other in (copy.deepcopy(loss), copy.copy(loss), pickle.loads(pickle.dumps(loss))):
        assert repr(other) == repr(loss)
        assert other(x, t).dtype == torch.float32
        assert torch.equal(other(x, t), loss(x, t))
    CrossEntropyLoss(torch.rand(7)).load_state_dict(loss.state_dict())
    torch.nn.CrossEntropyLoss(torch.rand(7)).load_state_dict(loss.state_dict())
