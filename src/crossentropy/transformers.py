"""Language models of the library transformers with this package's losses: as their own loss, and fused with their head.

    >>> from crossentropy.transformers import causal_lm_loss, compute_loss_func, fuse_head, unfuse_head

`causal_lm_loss` takes logits in the dtype that they have, where transformers' own loss makes float32 of them first.
`fuse_head` makes no logits at all while a model trains.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

try:
    import torch
    from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}: crossentropy.transformers needs it; pip install 'crossentropy[transformers]'"
    ) from None

from ._options import EXTRAS, unknown
from .torch import cross_entropy, linear_cross_entropy

__all__ = ["causal_lm_loss", "compute_loss_func", "fuse_head", "linear_causal_lm_loss", "unfuse_head"]

_Model = TypeVar("_Model", bound=torch.nn.Module)

_OF_LOGITS = (*EXTRAS, "label_smoothing", "weight", "class_prior", "inplace")  # of `cross_entropy`
_OF_HIDDEN = (*EXTRAS, "label_smoothing", "weight", "class_prior", "rows")  # of `linear_cross_entropy`
_OF_LOSS = ("labels", "shift_labels", "num_items_in_batch", "ignore_index")
_SHORT = (torch.bfloat16, torch.float16)


def causal_lm_loss(
    logits: torch.Tensor,
    labels: torch.Tensor | None,
    vocab_size: int | None = None,
    num_items_in_batch: float | torch.Tensor | None = None,
    ignore_index: int = -100,
    shift_labels: torch.Tensor | None = None,
    **kw: Any,
) -> torch.Tensor:
    """The loss of a causal model, each position judged by the label of the next one: ``model.loss_function`` takes it.

    Parameters
    ----------
    logits : Tensor, shape (..., T, V)
        In the dtype that they have, and any strides: nothing of their size is copied.
    labels : Tensor, shape (..., T)
        The tokens, any integer dtype; not read where ``shift_labels`` is given.
    vocab_size : int, optional
        V, which transformers' models pass.
    num_items_in_batch : float, or Tensor of one element, optional
        What the sum is divided by: the labels that count in all micro-batches and ranks of a step. By default those of
        this call. 0 is for a step without any label that counts.
    ignore_index : int, default -100
        Positions with this label do not count.
    shift_labels : Tensor, shape (..., T), optional
        Labels that are shifted already.
    **kw
        Options of `crossentropy.torch.cross_entropy` by their names: ``label_smoothing``, ``focal``, ``inplace`` and
        so on, but for those of rows. What else a model was called with is passed over, as transformers' loss does;
        what is nearly an option is an error.

    Returns
    -------
    Tensor
        In nats, a scalar: float32, or float64 for logits of float64. NaN, with gradients 0, where no label counts.

    Raises
    ------
    TypeError, ValueError
        For shapes that do not go together, a label that is no class (an IndexError), and options outside their rules.

    Notes
    -----
    As `transformers.loss.loss_utils.ForCausalLMLoss`, without ``logits.float()``. Eq. 5 and 6 of the note.

    Examples
    --------
    >>> import torch
    >>> logits, labels = torch.zeros(1, 3, 4, dtype=torch.bfloat16), torch.tensor([[1, 2, -100]])
    >>> crossentropy.transformers.causal_lm_loss(logits, labels, vocab_size=4, num_items_in_batch=2)
    tensor(0.6931)
    """
    if not isinstance(logits, torch.Tensor) or logits.dim() < 2:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise TypeError(f"logits must be a tensor of shape (..., T, V), got {got}")
    if vocab_size is not None and vocab_size != logits.shape[-1]:
        raise ValueError(f"vocab_size must be the last axis of logits, {logits.shape[-1]}, got {vocab_size}")
    target = _targets(logits, labels, shift_labels, ignore_index)
    options = {name: kw[name] for name in _OF_LOGITS if name in kw}
    if len(options) < len(kw):
        _refuse_misspelt("causal_lm_loss", kw, _OF_LOGITS)
    normalizer = _normalizer(num_items_in_batch, target, ignore_index)
    if logits.is_contiguous():
        logits, target = logits.view(-1, logits.shape[-1]), target.reshape(-1)
    else:
        logits = logits.movedim(-1, 1) if logits.dim() > 2 else logits
    dtype = torch.float32 if logits.dtype in _SHORT else None
    return cross_entropy(logits, target, ignore_index=ignore_index, normalizer=normalizer, dtype=dtype, **options)


def linear_causal_lm_loss(
    hidden_states: torch.Tensor,
    head: torch.nn.Linear,
    labels: torch.Tensor | None,
    num_items_in_batch: float | torch.Tensor | None = None,
    ignore_index: int = -100,
    shift_labels: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    """`causal_lm_loss` of the logits of ``head(hidden_states)``, which are never all there.

    Parameters
    ----------
    hidden_states : Tensor, shape (..., T, H)
        What the model's last norm returns.
    head : torch.nn.Linear
        The model's ``lm_head``, also one that is tied to the embedding.
    labels, num_items_in_batch, ignore_index, shift_labels
        As for `causal_lm_loss`.
    **options
        Options of `crossentropy.torch.linear_cross_entropy` by their names, but for those of rows: a model that caps
        its logits needs ``softcap``, one that scales them ``logit_scale``.

    Returns
    -------
    Tensor
        In nats, a scalar: float32, or float64 for float64.

    Raises
    ------
    TypeError, ValueError
        As `causal_lm_loss`; TypeError also for an option that there is not.

    Notes
    -----
    For models that `fuse_head` does not know. Eq. 5 and 6 of the note.

    Examples
    --------
    >>> import torch
    >>> hidden, head = torch.ones(1, 3, 2), torch.nn.Linear(2, 4, bias=False)
    >>> labels = torch.tensor([[0, 1, 2]])
    >>> loss = crossentropy.transformers.linear_causal_lm_loss(hidden, head, labels)
    >>> torch.allclose(loss, crossentropy.transformers.causal_lm_loss(head(hidden), labels))
    True
    """
    if not isinstance(hidden_states, torch.Tensor) or hidden_states.dim() < 2:
        got = f"shape {tuple(hidden_states.shape)}" if isinstance(hidden_states, torch.Tensor) else type(hidden_states)
        raise TypeError(f"hidden_states must be a tensor of shape (..., T, H), got {got}")
    if not isinstance(head, torch.nn.Linear):
        raise TypeError(f"head must be a torch.nn.Linear, got {type(head).__name__}")
    for name in options:
        if name not in _OF_HIDDEN:
            raise unknown("linear_causal_lm_loss", name, _OF_HIDDEN)
    target = _targets(hidden_states, labels, shift_labels, ignore_index)
    return linear_cross_entropy(
        hidden_states,
        head.weight,
        target,
        linear_bias=head.bias,
        ignore_index=ignore_index,
        normalizer=_normalizer(num_items_in_batch, target, ignore_index),
        **options,
    )


def compute_loss_func(
    outputs: Any,
    labels: torch.Tensor | None,
    num_items_in_batch: float | torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    """`causal_lm_loss` of a model's outputs: ``Trainer(compute_loss_func=...)`` takes it.

    Parameters
    ----------
    outputs : ModelOutput, dict or tuple
        What the model returns without labels: its ``logits``, in a tuple the first.
    labels, num_items_in_batch
        As for `causal_lm_loss`: Trainer passes what it counted over the micro-batches and ranks of a step.
    **options
        Those of `causal_lm_loss`, by `functools.partial`.

    Returns
    -------
    Tensor
        In nats, a scalar, as `causal_lm_loss`.

    Raises
    ------
    TypeError, ValueError
        As `causal_lm_loss`; ValueError also where there are no logits, or no labels.

    Notes
    -----
    Eq. 5 and 6 of the note.

    Examples
    --------
    >>> import torch
    >>> outputs = {"logits": torch.zeros(1, 3, 4)}
    >>> crossentropy.transformers.compute_loss_func(outputs, torch.tensor([[0, 1, 2]]))
    tensor(1.3863)
    """
    if isinstance(outputs, tuple):
        logits = outputs[0] if outputs else None
    else:
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if logits is None:
        raise ValueError(f"outputs must have logits, got {type(outputs).__name__} without any")
    for name in options:
        if name not in _OF_LOGITS:
            raise unknown("compute_loss_func", name, _OF_LOGITS)
    return causal_lm_loss(logits, labels, None, num_items_in_batch, **options)


def _targets(x: torch.Tensor, labels: Any, shift_labels: Any, ignore_index: int) -> torch.Tensor:
    """The label that judges each position of x (..., T, V or H), of the shape (..., T) and on the device of x."""
    name, given = ("labels", labels) if shift_labels is None else ("shift_labels", shift_labels)
    if not isinstance(given, torch.Tensor):
        raise ValueError(f"{name} must be a tensor, got {given!r:.80}")
    if given.numel() != x.shape[:-1].numel() or (shift_labels is None and given.shape[-1:] != x.shape[-2:-1]):
        raise ValueError(f"{name} must have shape {tuple(x.shape[:-1])}, got {tuple(given.shape)}")
    if shift_labels is None:
        if not given.dtype.is_signed:
            given = given.long()  # so that it can hold the index that is ignored
        last = given.new_full((*given.shape[:-1], 1), ignore_index)
        given = torch.cat([given[..., 1:], last], -1)
    return given.reshape(x.shape[:-1]).to(x.device)


def _normalizer(count: Any, target: torch.Tensor, ignore_index: int) -> Any:
    """What 'mean' divides by: None, with its own meaning, also for a step in which no label counts."""
    if isinstance(count, torch.Tensor):
        if count.numel() != 1:
            raise ValueError(f"num_items_in_batch must have one element, got shape {tuple(count.shape)}")
        count = count.reshape(())  # from (1, 1), of DataParallel
        if torch.compiler.is_compiling() or not count.is_cpu or count.requires_grad:
            return count.to(target.device)
        count = count.item()
    if count == 0 and not torch.compiler.is_compiling() and not bool((target != ignore_index).any()):
        return None
    return count


@functools.cache
def _is_nearly(name: str, names: tuple[str, ...]) -> bool:
    return bool(difflib.get_close_matches(name, names, 1, cutoff=0.8))


def _refuse_misspelt(function: str, given: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raise for a keyword that is nearly an option; whatever else a model was called with comes along."""
    if torch.compiler.is_compiling():
        return
    for name in given:
        if name not in names and _is_nearly(name, names):
            raise unknown(function, name, names)


# ---------------------------------------------------------------------- models without logits


def _as_it_is(config: Any) -> dict[str, float]:
    return {}


def _capped(config: Any) -> dict[str, float]:
    cap = config.final_logit_softcapping
    return {} if cap is None else {"softcap": float(cap)}


def _divided(config: Any) -> dict[str, float]:
    return {"logit_scale": 1 / config.logits_scaling}


def _scaled(config: Any) -> dict[str, float]:
    return {"logit_scale": float(config.logit_scale)}


# The models whose forward is: base model, a linear head, what the function here says of the logits, `loss_function`.
_HEADS: dict[str, Callable[[Any], dict[str, float]]] = {
    **dict.fromkeys(("GPT2LMHeadModel", "GPTBigCodeForCausalLM", "GPTNeoForCausalLM", "GPTNeoXForCausalLM"), _as_it_is),
    **dict.fromkeys(("GPTJForCausalLM", "OPTForCausalLM", "BloomForCausalLM", "FalconForCausalLM"), _as_it_is),
    **dict.fromkeys(("LlamaForCausalLM", "MistralForCausalLM", "MinistralForCausalLM", "GemmaForCausalLM"), _as_it_is),
    **dict.fromkeys(("Qwen2ForCausalLM", "Qwen3ForCausalLM", "PhiForCausalLM", "Phi3ForCausalLM"), _as_it_is),
    **dict.fromkeys(("OlmoForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM", "SmolLM3ForCausalLM"), _as_it_is),
    **dict.fromkeys(("StableLmForCausalLM", "Starcoder2ForCausalLM", "GlmForCausalLM", "Glm4ForCausalLM"), _as_it_is),
    **dict.fromkeys(("Gemma2ForCausalLM", "Gemma3ForCausalLM"), _capped),
    **dict.fromkeys(("CohereForCausalLM", "Cohere2ForCausalLM"), _scaled),
    "GraniteForCausalLM": _divided,
}


def fuse_head(model: _Model, **options: Any) -> _Model:
    """Let a model make no logits while it trains: its loss is that of hidden states against its head's weight.

    Parameters
    ----------
    model : PreTrainedModel
        One of the types in the Notes, which is changed: its class becomes one that is derived from its own, with its
        name, and its ``loss_function`` becomes `causal_lm_loss` with the same options.
    **options
        Those of `linear_causal_lm_loss`: ``label_smoothing``, ``focal``, ``rows`` and so on. The model's own cap and
        scale of its logits are taken from its ``config``.

    Returns
    -------
    PreTrainedModel
        The same model; `unfuse_head` gives it back its own forward.

    Raises
    ------
    ValueError, TypeError
        For a model of another type, a head that is no plain `torch.nn.Linear`, and options that there are not.

    Notes
    -----
    A forward with labels, in training mode and with gradients enabled, returns outputs whose ``loss`` is
    `linear_causal_lm_loss` and whose ``logits`` are None. Every other forward is the model's own, with logits:
    evaluation, generation, and calls with ``logits_to_keep``, ``return_dict=False``, or hooks on the head (offloading,
    a head that FSDP or DeepSpeed shards by itself). ``num_items_in_batch`` comes with the call, as Trainer passes it.

    Types: GPT-2, GPT-BigCode, GPT-Neo, GPT-NeoX, GPT-J, OPT, Bloom, Falcon, Llama, Mistral, Ministral, Qwen 2 and 3,
    Gemma 1 to 3, Phi, Phi 3, OLMo 1 to 3, SmolLM 3, StableLM, StarCoder 2, GLM, GLM 4, Cohere 1 and 2, Granite.

    Examples
    --------
    >>> import torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    >>> tokens = torch.arange(8).reshape(1, 8)
    >>> outputs = crossentropy.transformers.fuse_head(model).train()(tokens, labels=tokens)
    >>> outputs.loss.shape, outputs.logits is None
    (torch.Size([]), True)
    """
    owner = _forward_of(type(model))
    if isinstance(model, _Fused):
        unfuse_head(model)
        owner = _forward_of(type(model))
    if owner.__name__ not in _HEADS or owner.__module__.partition(".")[0] != "transformers":
        known = ", ".join(_HEADS)
        raise ValueError(
            f"model must be one of {known}, got {type(model).__name__}; for another one there is linear_causal_lm_loss"
        )
    head = model.get_output_embeddings()  # type: ignore[operator]
    if type(head) is not torch.nn.Linear:
        raise ValueError(f"the model's head must be a plain torch.nn.Linear, got {type(head).__name__}")
    own = _HEADS[owner.__name__](model.config)
    for name in options:
        if name not in _OF_HIDDEN:
            raise unknown("fuse_head", name, _OF_HIDDEN)
        if name in own:
            raise ValueError(f"{name} is the model's own, {own[name]}, got {options[name]!r}")
    of_logits = {name: value for name, value in options.items() if name in _OF_LOGITS}
    model.__dict__["_before_fusion"] = model.__dict__.get("_loss_function")
    model.__dict__["_options_of_head"] = {**own, **options}
    model.loss_function = functools.partial(causal_lm_loss, **of_logits) if of_logits else causal_lm_loss  # type: ignore
    unfused: Any = type(model)
    model.__class__ = _fused_class(unfused)
    return model


def unfuse_head(model: _Model) -> _Model:
    """Give a model back its own forward and loss function, which `fuse_head` has changed.

    Parameters
    ----------
    model : PreTrainedModel
        One that `fuse_head` has changed.

    Returns
    -------
    PreTrainedModel
        The same model.

    Raises
    ------
    ValueError
        For a model whose head is not fused.

    Notes
    -----
    ``unfuse_head(fuse_head(model))`` is the model as it was.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    >>> type(crossentropy.transformers.unfuse_head(crossentropy.transformers.fuse_head(model))) is GPT2LMHeadModel
    True
    """
    if not isinstance(model, _Fused):
        raise ValueError(f"model must be one that fuse_head has changed, got {type(model).__name__}")
    if "_unfused" not in vars(type(model)):  # FSDP does the same to a class
        raise ValueError(
            f"model's class must be the one that fuse_head made, got {type(model).__name__}, derived from it"
        )
    model.__class__ = type(model)._unfused
    before = model.__dict__.pop("_before_fusion")
    del model.__dict__["_options_of_head"]
    model.__dict__.pop("_loss_function", None)
    if before is not None:
        model.loss_function = before
    return model


class _Fused:
    """What the classes that `_fused_class` derives have in common."""

    _unfused: type

    def __reduce_ex__(self, protocol: Any) -> Any:  # a class that is made on the spot has no name to be pickled by
        reduced: Any = super().__reduce_ex__(protocol)
        made, (_, *arguments), *rest = reduced
        return _made_again, (made, self._unfused, *arguments), *rest


def _made_again(made: Callable[..., Any], unfused: type, *arguments: Any) -> Any:
    return made(_fused_class(unfused), *arguments)


def _forward_of(model_class: type) -> type:
    """The class that has the forward of a model."""
    return next((c for c in model_class.__mro__ if "forward" in vars(c)), model_class)


@functools.cache
def _fused_class(unfused: type) -> type:
    """The class of a model whose head is fused: of the same name, since what is saved of a model has that."""
    own: Any = unfused.forward  # type: ignore[attr-defined]
    parameters = list(inspect.signature(own).parameters.values())[1:]
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    @functools.wraps(own)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if len(args) > len(names) or not _is_for_fusion(self, given):
            return own(self, *args, **kwargs)
        of_loss = {name: given.pop(name) for name in _OF_LOSS if given.get(name) is not None}
        for name in ("logits_to_keep", "return_dict", *_OF_LOSS):
            given.pop(name, None)
        outputs = self.base_model(**given)
        head = self.get_output_embeddings()
        loss = linear_causal_lm_loss(outputs.last_hidden_state, head, **of_loss, **self._options_of_head)
        left = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return CausalLMOutputWithCrossAttentions(loss=loss, **left)

    body = {"forward": forward, "_unfused": unfused, "__module__": unfused.__module__, "__doc__": unfused.__doc__}
    return type(unfused.__name__, (_Fused, unfused), body)


def _is_for_fusion(model: Any, given: Mapping[str, Any]) -> bool:
    """Whether a forward with these arguments trains, and nothing asks for its logits or has to see them made."""
    if not (model.training and torch.is_grad_enabled()) or given.get("labels") is None:
        return False
    keep = given.get("logits_to_keep")
    if isinstance(keep, torch.Tensor) or keep:
        return False
    return_dict = given.get("return_dict")
    if not (model.config.return_dict if return_dict is None else return_dict):
        return False
    head = model.get_output_embeddings()
    return type(head) is torch.nn.Linear and not (head._forward_hooks or head._forward_pre_hooks)
