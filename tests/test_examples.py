"""The examples run, learn, and come out the same with torch's loss, this package's, and its fused head."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the examples train PyTorch's models")
for _needed in ("click", "rich", "matplotlib"):
    pytest.importorskip(_needed, reason=f"the examples need {_needed}")

PATH = Path(__file__).parent.parent / "examples" / "character_model.py"
pytestmark = pytest.mark.skipif(not PATH.exists(), reason="the examples are in the source tree")


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("character_model", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(example):
    return example.Corpus.of(example.text())


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine, more would wait for each other; torch's number is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_text_is_held_out_by_paragraph(example, corpus):
    paragraphs = [paragraph.strip() for paragraph in example.text().split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs) > 1000
    whole = "".join(corpus.characters[i] for part in (corpus.training, corpus.held_out) for i in part.tolist())
    assert whole == example.text()
    assert len(corpus.training) == len(whole) * 9 // 10


def test_batches_are_pieces_of_the_text(example):
    one, two = (list(example.batches(torch.arange(1000), 3, 8, seed)) for seed in (0, 0))
    for (inputs, targets), again in zip(one, two, strict=True):
        assert inputs.shape == targets.shape == (8, example.LENGTH)
        assert torch.equal(inputs + 1, targets)
        assert all(map(torch.equal, (inputs, targets), again))


def test_the_curves_coincide(example, corpus):
    """Five steps in float32, whose rounding is 6e-8: a few roundings of the loss, and of the weights behind it.

    The tolerance is as narrow as that because AdamW divides by the gradient's size: only the eps in its denominator
    makes a factor in all of the gradient seen at all, and twice the gradient moves this curve by less than 1e-5.
    """
    corpus = corpus._replace(held_out=corpus.held_out[:5000])
    torchs, *ours = runs = example.train(*example.HEADS.values(), corpus=corpus, steps=5, batch=4)
    assert len(ours) == 2
    assert torchs.curve[0] == pytest.approx(np.log(len(corpus.characters)), rel=0.05)  # it knows nothing yet
    for run in ours:
        np.testing.assert_allclose(run.curve, torchs.curve, rtol=1e-6)
    for run in runs:
        assert ((run.head_times > 0) & (run.head_times < run.step_times)).all()
    held_out = [
        example.held_out_loss(run.model, corpus, head) for run, head in zip(runs, example.HEADS.values(), strict=True)
    ]
    assert held_out[1:] == pytest.approx([held_out[0]] * 2, rel=1e-6)


def test_the_fused_head_makes_no_logits(example, monkeypatch):
    """The linear layer itself is never called."""
    layer = torch.nn.Linear(8, 5)
    hidden, targets = torch.randn(6, 8), torch.arange(6) % 5
    expected = example.HEADS["torch"](hidden, layer, targets)
    monkeypatch.setattr(torch.nn.Linear, "forward", None)
    assert example.fused(hidden, layer, targets).item() == pytest.approx(expected.item(), rel=1e-6)


def test_it_learns(example, corpus):
    losses = []
    (run,) = example.train(example.fused, corpus=corpus, steps=40, batch=4, after_step=losses.append)
    assert losses == run.curve.tolist()
    assert run.curve[-5:].mean() < 0.8 * run.curve[0]


def test_the_command(example, tmp_path):
    from click.testing import CliRunner

    plot = tmp_path / "plot.png"
    done = CliRunner().invoke(example.main, ["--steps", "3", "--batch", "2", "--out", str(plot)])
    assert done.exit_code == 0, done.output
    assert "held-out loss" in done.output
    picture = plot.read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 30_000  # an empty pair of axes has fewer bytes


@pytest.mark.parametrize(("out", "message"), [("plot.txt", "must end in"), ("missing/plot.png", "not a directory")])
def test_a_bad_path_is_refused_before_the_training(example, tmp_path, monkeypatch, out, message):
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(example, "train", None)
    done = CliRunner().invoke(example.main, ["--out", out])
    assert done.exit_code == 2
    assert message in done.output
    assert not list(tmp_path.iterdir())
