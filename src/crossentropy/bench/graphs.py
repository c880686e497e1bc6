"""The peers that run a graph: TensorFlow, and onnxruntime on a model of one operator; both are imported when used."""

from __future__ import annotations

import os
import time

import numpy as np

from .prepared import Prepared, array_alone, compiled, loss_alone

# ---------------------------------------------------------------------- TensorFlow


def tensorflow(p, threads) -> Prepared:
    """The faster of its graph as it is and compiled by XLA, as its user would find out; both occur."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: not a line about each instruction set
    import tensorflow as tf

    axis = p.case.axis
    z, t = tf.constant(p.x), tf.constant(p.targets)
    if p.case.op == "probability targets":
        loss = lambda z, t: tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(t, z, axis))  # noqa: E731
    else:
        rest = [each for each in range(len(p.case.shape)) if each != axis % len(p.case.shape)]
        last = (lambda z: z) if axis == -1 else lambda z: tf.transpose(z, [*rest, axis])  # the only axis that it takes
        loss = lambda z, t: tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(t, last(z)))  # noqa: E731

    def both(z, t):
        with tf.GradientTape() as tape:
            tape.watch(z)
            found = loss(z, t)
        return found, tape.gradient(found, z)

    functions = {
        "loss": loss,
        "log-softmax": lambda z, t: tf.nn.log_softmax(z, axis),
        "softmax": lambda z, t: tf.nn.softmax(z, axis),
    }

    def arrays(result):
        if p.case.op == "loss":
            return loss_alone(float(result))
        return array_alone(np.asarray(result)) if p.case.op in functions else (float(result[0]), np.asarray(result[1]))

    def prepared(by_xla):
        graph = tf.function(functions.get(p.case.op, both), autograph=False, jit_compile=by_xla)
        return compiled(Prepared(lambda: graph(z, t), arrays))

    return min(map(prepared, (False, True)), key=_seconds)


def _seconds(prepared) -> float:
    """What a call takes at best, of two."""
    found = []
    for _ in range(2):
        start = time.perf_counter()
        prepared.call()
        found.append(time.perf_counter() - start)
    return min(found)


# ---------------------------------------------------------------------- onnxruntime


def onnxruntime(p, threads) -> Prepared:
    """A session on arrays of NumPy's, whose results are new arrays in memory that it keeps."""
    import onnxruntime as ort

    from ..native import current_threads

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = current_threads()  # by default it takes one for two threads of a core
    settings.log_severity_level = 3
    session = ort.InferenceSession(_model(p), settings, providers=["CPUExecutionProvider"])
    given = {"x": p.x}
    if p.case.op == "loss":
        given |= {"t": p.targets} | ({"w": p.options["class_weight"]} if "class_weight" in p.options else {})
    return Prepared(lambda: session.run(None, given)[0], loss_alone if p.case.op == "loss" else array_alone)


def _model(p) -> bytes:
    """The operator that computes the case, which takes the classes of a loss along axis 1."""
    from onnx import helper

    shape, element = p.case.shape, helper.np_dtype_to_tensor_dtype(p.x.dtype)
    inputs = [helper.make_tensor_value_info("x", element, shape)]
    if p.case.op == "loss":
        rows = [*shape[:1], *shape[2:]]
        inputs.append(helper.make_tensor_value_info("t", helper.np_dtype_to_tensor_dtype(p.targets.dtype), rows))
        if "class_weight" in p.options:
            inputs.append(helper.make_tensor_value_info("w", element, shape[1:2]))
        more = {name: value for name, value in p.options.items() if name == "ignore_index"}
        node, result = ("SoftmaxCrossEntropyLoss", {"reduction": "mean", **more}), []
    else:
        node, result = ("LogSoftmax" if p.case.op == "log-softmax" else "Softmax", {"axis": p.case.axis}), shape
    operator = helper.make_node(node[0], [each.name for each in inputs], ["y"], **node[1])
    outputs = [helper.make_tensor_value_info("y", element, result)]
    graph = helper.make_graph([operator], p.case.op, inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def onnxruntime_lacks(case) -> str:
    """Why it does not serve a case."""
    if case.op not in ("loss", "log-softmax", "softmax"):
        return "no gradient"
    return "no bfloat16 of NumPy's" if case.dtype == "bfloat16" else ""
