"""crossentropy.transformers: models of transformers train as with their own loss; what comes along; misuse."""

import copy
import functools
import logging
import pickle
import sys

import numpy as np
import pytest
from subprocesses import run

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from transformers.loss.loss_utils import ForCausalLMLoss  # noqa: E402

import crossentropy.transformers as bindings  # noqa: E402
from crossentropy.torch import cross_entropy  # noqa: E402
from crossentropy.transformers import (  # noqa: E402
    causal_lm_loss,
    compute_loss_func,
    fuse_head,
    linear_causal_lm_loss,
    unfuse_head,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning",
    "ignore:`torch.jit:FutureWarning",  # the same from 2.15 on
)

V, T = 61, 10
SMALL = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
GPT2 = {"n_positions": T, "n_embd": 16, "n_layer": 1, "n_head": 2} | dict.fromkeys(
    ("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0
)
LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA |= {"num_key_value_heads": 2, "max_position_embeddings": T, "head_dim": 8}


def model_of(name, **more):
    """A tiny model of that name, of random numbers that are large enough for its loss to matter, in training mode."""
    torch.manual_seed(0)
    model_class = getattr(transformers, name)
    config = model_class.config_class(**SMALL, **more)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.train()


MODELS = {
    "gpt2": lambda: model_of("GPT2LMHeadModel", **GPT2),  # its head is its embedding
    "llama": lambda: model_of("LlamaForCausalLM", **LLAMA),
    "llama, tied": lambda: model_of("LlamaForCausalLM", **LLAMA, tie_word_embeddings=True),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def batches(count=1, rows=3):
    """(tokens, labels, those that count), with padding that does not count."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        tokens = torch.randint(V, (rows, T), generator=generator)
        lengths = torch.randint(2, T + 1, (rows, 1), generator=generator)
        labels = torch.where(torch.arange(T) < lengths, tokens, -100)
        yield tokens, labels, int((labels[:, 1:] != -100).sum())


def gradients_of(model):
    return {name: p.grad for name, p in model.named_parameters()}


def with_our_loss(model):
    model.loss_function = causal_lm_loss
    return model


WAYS = {"loss function": with_our_loss, "fused head": fuse_head}


@pytest.mark.parametrize("way", WAYS)
def test_a_model_trains_as_with_its_own_loss(model, way):
    losses = []
    for changed in (copy.deepcopy(model), WAYS[way](model)):
        optimizer = torch.optim.AdamW(changed.parameters(), lr=1e-2)
        losses.append([])
        for tokens, labels, _ in list(batches(2)) * 10:
            found = changed(input_ids=tokens, labels=labels)
            found.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(found.loss.item())
    assert losses[0][-1] < losses[0][1] - 0.5
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-5)


@pytest.mark.parametrize("way", WAYS)
def test_micro_batches_add_up_to_the_whole_batch(model, way):
    parts = list(batches(3))
    count = sum(n for *_, n in parts)
    own = copy.deepcopy(model)
    own(
        input_ids=torch.cat([t for t, *_ in parts]), labels=torch.cat([labels for _, labels, _ in parts])
    ).loss.backward()
    for number in (count, torch.tensor(count), torch.tensor([[float(count)]])):
        changed = WAYS[way](copy.deepcopy(model))
        for tokens, labels, _ in parts:
            changed(input_ids=tokens, labels=labels, num_items_in_batch=number).loss.backward()
        torch.testing.assert_close(gradients_of(changed), gradients_of(own), rtol=1e-4, atol=1e-6)


def test_a_fused_head_makes_logits_where_they_are_wanted(model):
    (tokens, labels, _), own = next(batches()), copy.deepcopy(model)
    fuse_head(model)
    assert isinstance(model, type(own))
    assert type(model).__name__ == type(own).__name__
    found = model(tokens, labels=labels, output_hidden_states=True)
    assert found.logits is None
    assert len(found.hidden_states) == 2
    assert set(found) >= {"loss", "hidden_states"}
    assert "logits" not in set(found)
    for keywords in ({"labels": labels, "return_dict": False}, {}, {"logits_to_keep": 2}):
        logits = model(tokens, **keywords)[bool("labels" in keywords)]
        torch.testing.assert_close(logits, own(tokens, **keywords)[bool("labels" in keywords)])
    with torch.no_grad():
        assert model(tokens, labels=labels).logits is not None
    model.eval(), own.eval()
    evaluated = model(tokens, labels=labels)
    assert evaluated.logits.shape == (3, T, V)
    torch.testing.assert_close(evaluated.loss, own(tokens, labels=labels).loss)
    keywords = {"max_new_tokens": 3, "do_sample": False, "attention_mask": torch.ones(3, 4, dtype=torch.int64)}
    assert model.generate(tokens[:, :4], **keywords).equal(own.generate(tokens[:, :4], **keywords))
    unfuse_head(model)
    assert type(model) is type(own)
    assert model.__dict__.keys() == own.__dict__.keys()
    assert model.train()(tokens, labels=labels).logits is not None


def test_a_fused_head_is_copied_pickled_saved_and_found_by_its_name(model, tmp_path):
    tokens, labels, _ = next(batches())
    fuse_head(model, z_loss=0.01, label_smoothing=0.1)
    loss = model(tokens, labels=labels).loss
    torch.save(model, tmp_path / "model")
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / "model", weights_only=False),
    ):
        found = other(tokens, labels=labels)
        assert found.logits is None
        assert found.loss == loss
        assert other.get_output_embeddings() is not model.get_output_embeddings()
    model.save_pretrained(tmp_path / "saved")
    loaded = type(unfuse_head(model)).from_pretrained(tmp_path / "saved")
    assert loaded.config.architectures == [type(model).__name__]
    assert loaded(tokens, labels=labels).logits is not None


def test_a_resized_embedding_frozen_parts_and_checkpointing_go_through_a_fused_head(model):
    (tokens, labels, _), own = next(batches()), copy.deepcopy(model)
    found = []
    for changed in (own, fuse_head(model)):
        changed.resize_token_embeddings(V + 3, mean_resizing=False)
        with torch.no_grad():
            changed.get_output_embeddings().weight[V:] = 0.1
        getattr(changed, "activation_checkpointing_enable", changed.gradient_checkpointing_enable)()  # its newer name
        changed.base_model.requires_grad_(False)
        changed.get_output_embeddings().weight.requires_grad_(True)
        loss = changed(tokens, labels=labels, use_cache=False).loss
        loss.backward()
        found.append((loss.detach(), changed.get_output_embeddings().weight.grad))
    assert found[0][1].abs().max() > 0
    torch.testing.assert_close(*found)


def test_a_head_with_hooks_is_called(model):
    (tokens, labels, _), calls = next(batches()), []
    handle = fuse_head(model).get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    assert model(tokens, labels=labels).logits is not None
    assert calls
    handle.remove()
    assert model(tokens, labels=labels).logits is None


def test_a_fused_model_is_compiled_in_one_graph():
    torch._dynamo.reset()
    tokens, labels, count = next(batches())
    model, own = fuse_head(MODELS["llama"]()), MODELS["llama"]()
    losses = []
    for changed in (own, torch.compile(model, backend="aot_eager", fullgraph=True)):
        losses.append(changed(tokens, labels=labels, num_items_in_batch=torch.tensor(count), use_cache=False).loss)
        losses[-1].backward()
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(gradients_of(model), gradients_of(own), rtol=1e-4, atol=1e-6)


def test_autocast_and_bfloat16_models(model):
    tokens, labels, _ = next(batches())
    for dtype in (torch.float32, torch.bfloat16):
        own = copy.deepcopy(model).to(dtype)
        losses = []
        for changed in (own, with_our_loss(copy.deepcopy(own)), fuse_head(copy.deepcopy(own))):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.float32):
                loss = changed(tokens, labels=labels).loss
            loss.backward()
            assert loss.dtype is torch.float32
            assert changed.get_output_embeddings().weight.grad.dtype is dtype
            losses.append(loss.item())
        assert losses[1] == pytest.approx(losses[0], rel=1e-6)  # of the same logits of bfloat16
        assert losses[2] == pytest.approx(losses[0], rel=1e-2)  # whose logits are not rounded


TINY = {
    **LLAMA,
    **GPT2,
    **{
        "word_embed_proj_dim": 16,
        "ffn_dim": 24,
        "do_layer_norm_before": True,
        "dropout": 0.0,
        "activation_dropout": 0.0,
    },
    **{"num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]], "rotary_dim": 4, "rotary_pct": 0.5},
    **{"hidden_dropout": 0.0, "attention_dropout": 0.0, "embed_dropout": 0.0, "resid_dropout": 0.0},
    **{
        "sliding_window": 8,
        "use_cache": False,
        "logits_scaling": 3.0,
        "logit_scale": 0.3,
        "partial_rotary_factor": 0.5,
    },
    **{"final_logit_softcapping": 2.0, "residual_dropout": 0.0, "embedding_dropout": 0.0},
}


@pytest.mark.parametrize("kind", sorted({kind.__name__ for kind in bindings._HEADS.values()}))
def test_every_type_has_the_loss_and_the_gradients_of_its_logits(kind):
    tokens, labels, count = next(batches())
    for name in [name for name, of_config in bindings._HEADS.items() if of_config.__name__ == kind]:
        if not hasattr(transformers, name):
            continue  # an older one, which does not have it
        defaults = getattr(transformers, name).config_class().to_dict()
        own = model_of(name, **{key: value for key, value in TINY.items() if key in defaults})
        found = []
        for changed in (own, fuse_head(copy.deepcopy(own))):
            outputs = changed(tokens, attention_mask=tokens * 0 + 1, labels=labels, num_items_in_batch=count)
            outputs.loss.backward()
            found.append((outputs.loss.detach(), gradients_of(changed)))
        assert outputs.logits is None, name
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


# ---------------------------------------------------------------------- the loss itself


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "count", [None, 7, torch.tensor(7), torch.tensor([[7.0]])], ids=["mean", "int", "tensor", "1, 1"]
)
@pytest.mark.parametrize("shifted", [False, True])
def test_the_loss_is_that_of_transformers(dtype, count, shifted):
    torch.manual_seed(0)
    _, labels, _ = next(batches())
    labels[0, 3] = 5
    keywords = {"num_items_in_batch": count, "ignore_index": 5, "output_attentions": True}
    labels[labels == -100] = 5
    if shifted:
        keywords["shift_labels"] = labels.reshape(1, -1)
    found = []
    for loss_of in (ForCausalLMLoss, causal_lm_loss):
        logits = torch.randn(3, T, V, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()
        loss = loss_of(logits, None if shifted else labels, V, **keywords)
        loss.sum().backward()
        assert logits.grad.dtype is dtype
        found.append((loss.detach().float().reshape(()), logits.grad.float()))
    exact = {torch.float32: 1e-6, torch.float64: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype]
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=exact, atol=1e-7)


def test_logits_go_to_the_kernels_as_they_are(monkeypatch):
    seen = []

    def recorded(input, *args, **kwargs):
        seen.append((input.data_ptr(), input.dtype, kwargs))
        return cross_entropy(input, *args, **kwargs)

    monkeypatch.setattr(bindings, "cross_entropy", recorded)
    labels = torch.randint(V, (2, 5))
    whole = torch.randn(2, 8, V + 2, dtype=torch.bfloat16)
    for logits in (whole[:, :5, :V], whole[:, :5].contiguous()[..., :V], torch.randn(2, V, 5).transpose(1, 2)):
        loss = causal_lm_loss(logits, labels, V, z_loss=0.1, label_smoothing=0.2)
        address, dtype, options = seen.pop()
        assert (address, dtype) == (logits.data_ptr(), logits.dtype)
        assert (options["z_loss"], options["label_smoothing"]) == (0.1, 0.2)
        copied = logits[:, :-1].float().reshape(-1, V)
        expected = cross_entropy(copied, labels[:, 1:].reshape(-1), z_loss=0.1, label_smoothing=0.2)
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_labels_of_any_integer_dtype(dtype):
    labels = torch.randint(V, (3, T))
    logits = torch.randn(3, T, V)
    torch.testing.assert_close(causal_lm_loss(logits, labels.to(dtype), V), ForCausalLMLoss(logits, labels, V))


def test_a_step_in_which_no_label_counts():
    """Its loss is NaN, as that of transformers; its gradient is 0, where theirs is NaN in every parameter."""
    labels = torch.full((3, T), -100)
    for count in (None, 0, torch.tensor(0)):
        logits = torch.randn(3, T, V, requires_grad=True)
        loss = causal_lm_loss(logits, labels, V, count)
        loss.backward()
        assert loss.isnan()
        assert not logits.grad.any()
    logits = torch.randn(3, T, V, requires_grad=True)
    loss = causal_lm_loss(logits, labels, V, 7)  # on one rank of several
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
    one = causal_lm_loss(torch.randn(2, 1, V), torch.zeros(2, 1, dtype=torch.int64), V)
    assert one.isnan()


def test_the_gradient_may_take_the_place_of_the_logits(model):
    (tokens, labels, _), own = next(batches()), copy.deepcopy(model)
    model.loss_function = functools.partial(causal_lm_loss, inplace=True)
    for changed in (own, model):
        changed(tokens, labels=labels).loss.backward()
    torch.testing.assert_close(gradients_of(model), gradients_of(own), rtol=1e-4, atol=1e-6)


def test_outputs_of_every_kind():
    logits, labels = torch.randn(3, T, V), torch.randint(V, (3, T))
    expected = ForCausalLMLoss(logits, labels, V, num_items_in_batch=9)
    outputs = transformers.modeling_outputs.CausalLMOutput(logits=logits)
    for given in (outputs, {"logits": logits}, (logits, None)):
        torch.testing.assert_close(compute_loss_func(given, labels, num_items_in_batch=9), expected)
    smoothed = functools.partial(compute_loss_func, label_smoothing=0.5)(outputs, labels)
    assert smoothed != compute_loss_func(outputs, labels)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda z, t: causal_lm_loss(z, t, V + 1),
            ValueError,
            "vocab_size must be the last axis of logits, 61, got 62",
        ),
        (lambda z, t: causal_lm_loss(z, t[:, 1:], V), ValueError, r"labels must have shape \(3, 10\), got \(3, 9\)"),
        (lambda z, t: causal_lm_loss(z, t.T, V), ValueError, r"labels must have shape \(3, 10\), got \(10, 3\)"),
        (lambda z, t: causal_lm_loss(z, None, V), ValueError, "labels must be a tensor, got None"),
        (
            lambda z, t: causal_lm_loss(z, t, V, shift_labels=t[1:]),
            ValueError,
            r"shift_labels must have shape \(3, 10\)",
        ),
        (
            lambda z, t: causal_lm_loss(z[0, 0], t, V),
            TypeError,
            r"logits must be a tensor of shape \(\.\.\., T, V\), got",
        ),
        (lambda z, t: causal_lm_loss(None, t, V), TypeError, "logits must be a tensor"),
        (lambda z, t: causal_lm_loss(z, t, V, -1), ValueError, "normalizer must be finite and positive, got -1"),
        (lambda z, t: causal_lm_loss(z, t, V, 0), ValueError, "normalizer must be finite and positive, got 0"),
        (lambda z, t: causal_lm_loss(z, t, V, torch.ones(2)), ValueError, "num_items_in_batch must have one element"),
        (lambda z, t: causal_lm_loss(z, t, V, z_los=1.0), TypeError, "'z_los'; did you mean 'z_loss'"),
        (lambda z, t: causal_lm_loss(z, t, V, z_loss=-1.0), ValueError, "z_loss must be finite and not negative"),
        (lambda z, t: causal_lm_loss(z, t + V, V), IndexError, "Target|target"),
        (lambda z, t: compute_loss_func({"loss": 1}, t), ValueError, "outputs must have logits, got dict without any"),
        (lambda z, t: compute_loss_func((z,), None), ValueError, "labels must be a tensor, got None"),
        (lambda z, t: compute_loss_func((z,), t, smoothing=1), TypeError, "did you mean 'label_smoothing'"),
        (lambda z, t: linear_causal_lm_loss(z, z, t), TypeError, "head must be a torch.nn.Linear, got Tensor"),
        (lambda z, t: linear_causal_lm_loss(z, torch.nn.Linear(V, 2), t, row=1), TypeError, "did you mean 'rows'"),
        (
            lambda z, t: fuse_head(torch.nn.Linear(2, 2)),
            ValueError,
            "model must be one of GPT2LMHeadModel, .* got Linear",
        ),
        (
            lambda z, t: unfuse_head(torch.nn.Linear(2, 2)),
            ValueError,
            "must be one that fuse_head has changed, got Linear",
        ),
        (lambda z, t: fuse_head(MODELS["llama"](), zloss=1), TypeError, "did you mean 'z_loss'"),
    ],
)
def test_misuse_is_told(call, error, says):
    with pytest.raises(error, match=says):
        call(torch.zeros(3, T, V), torch.zeros(3, T, dtype=torch.int64))


def test_a_head_that_is_not_plain_and_a_forward_of_ones_own_are_refused():
    model = MODELS["llama"]()
    model.lm_head = torch.nn.Sequential(model.lm_head)
    with pytest.raises(ValueError, match=r"the model's head must be a plain torch.nn.Linear, got Sequential"):
        fuse_head(model)

    class Own(transformers.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    with pytest.raises(ValueError, match=r"model must be one of .*, got Own"):
        fuse_head(Own(MODELS["llama"]().config))
    capped = model_of("Gemma2ForCausalLM", **LLAMA)
    with pytest.raises(ValueError, match=r"softcap is the model's own, 30\.0, got 5\.0"):
        fuse_head(capped, softcap=5.0)
    assert type(capped) is transformers.Gemma2ForCausalLM


def test_a_class_that_was_derived_since_is_not_taken_away():
    """As FSDP derives one, which the model needs to be whole."""
    (tokens, labels, _), model = next(batches()), fuse_head(MODELS["llama"]())
    model.__class__ = type("Sharded", (type(model),), {})
    assert model(tokens, labels=labels).logits is None
    with pytest.raises(ValueError, match=r"class must be the one that fuse_head made, got Sharded"):
        unfuse_head(model)
    assert model(tokens, labels=labels).logits is None


def test_a_head_may_be_fused_again_and_gives_back_a_loss_function_that_was_set():
    (tokens, labels, _), model = next(batches()), with_our_loss(MODELS["llama"]())
    fuse_head(model, label_smoothing=0.5)
    smoothed = model(tokens, labels=labels).loss
    fuse_head(model)
    assert model(tokens, labels=labels).loss != smoothed
    assert unfuse_head(model).loss_function is causal_lm_loss


# ---------------------------------------------------------------------- Trainer, and several processes


def history(tmp_path, way):
    """What Trainer logs of 4 steps of 2 micro-batches of unequal lengths, and then of an evaluation."""
    from transformers import Trainer, TrainingArguments

    model = MODELS["llama"]()
    rows = [
        {"input_ids": t, "labels": labels}
        for part, each, _ in batches(8, 2)
        for t, labels in zip(part, each, strict=True)
    ]
    keywords = {}
    if way == "compute_loss_func":
        keywords["compute_loss_func"] = compute_loss_func
    elif way != "its own":
        WAYS[way](model)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=4,
        logging_steps=1,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:5], **keywords)
    trainer.train()
    found = trainer.predict(rows[:5])
    assert found.predictions.shape == (5, T, V)
    steps = [line for line in trainer.state.log_history if "loss" in line]
    return [line["loss"] for line in steps], [line["grad_norm"] for line in steps], found.metrics["test_loss"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:accelerate", "ignore::FutureWarning:accelerate")
def test_trainer_accumulates_gradients_as_with_the_models_own_loss(tmp_path, caplog):
    pytest.importorskip("accelerate", reason="Trainer needs accelerate")
    caplog.set_level(logging.ERROR)
    expected = history(tmp_path, "its own")
    assert len(expected[0]) == 4
    assert expected[0][-1] < expected[0][0]
    for way in ("compute_loss_func", *WAYS):
        for found, own in zip(history(tmp_path, way), expected, strict=True):
            np.testing.assert_allclose(found, own, rtol=2e-4, err_msg=way)


def test_ranks_with_unequal_numbers_of_tokens_train_as_one_process(tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available() or sys.platform == "win32":
        pytest.skip("needs gloo and fork")
    tokens, *_ = next(batches(1, 4))
    labels = torch.where(torch.arange(T) < torch.tensor([[10], [9], [3], [2]]), tokens, -100)
    own, steps = MODELS["gpt2"](), []
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    torch.save((own, tokens, labels), tmp_path / "all")
    for _ in range(3):
        loss = own(input_ids=tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append(loss.item())
    code = f"""
    import copy, os
    import torch, transformers
    from crossentropy.transformers import causal_lm_loss, fuse_head
    from torch.nn.parallel import DistributedDataParallel

    model, tokens, labels = torch.load({str(tmp_path / "all")!r}, weights_only=False)
    torch.set_num_threads(1)
    rank = 0 if os.fork() else 1
    torch.distributed.init_process_group("gloo", init_method="file://{tmp_path}/meet", rank=rank, world_size=2)
    other = copy.deepcopy(model)
    other.loss_function = causal_lm_loss
    tokens, labels = tokens[2 * rank : 2 * rank + 2], labels[2 * rank : 2 * rank + 2]
    found = []
    for changed in (fuse_head(model), other):
        parallel = DistributedDataParallel(changed)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            count = (labels[:, 1:] != -100).sum()
            torch.distributed.all_reduce(count)
            loss = parallel(input_ids=tokens, labels=labels, num_items_in_batch=count).loss
            (2 * loss).backward()  # DDP takes the mean of the ranks' gradients
            optimizer.step()
            optimizer.zero_grad()
            whole = loss.detach().clone()
            torch.distributed.all_reduce(whole)
            losses.append(whole.item())
        found.append((losses, changed.state_dict()))
    if rank == 0:
        torch.save(found, {str(tmp_path / "found")!r})
    torch.distributed.destroy_process_group()
    if rank == 0:
        os.wait()
    """
    run(code, timeout=300, options=("-W", "ignore"))
    for losses, state in torch.load(tmp_path / "found"):
        np.testing.assert_allclose(losses, steps, rtol=1e-5)
        torch.testing.assert_close(state, own.state_dict(), rtol=1e-4, atol=1e-6)
