"""Which tests are in the fast layer: `python -m pytest` runs that, `python -m pytest -m ""` everything.

Everything is in the fast layer once, and crossed only with the backends. Of a test that runs on several backends and
has other parameters, so many of its cases are kept that every pair of a backend and another parameter's value occurs
(an ISA unit of the native backend counts as a backend); the rest is marked `slow`. Tests without a backend are kept
whole. Those whose cases take seconds each are named below. test_layers.py holds the fast layer to this.
"""

import collections
import random

import pytest

BACKENDS = ("kernels", "isa_unit", "backend")  # the fixtures of conftest.py whose values name one
# A parameter with more values than this meets every backend, but not every ISA unit: all choices of options.
MANY = 200

# Each value of each parameter occurs, crossed with nothing: every case starts a process, compares with all of PyTorch's
# samples, has Hypothesis think of thirty arrays, or is one of hundreds.
VALUES = {
    "test_a_gradient_on_probabilities_is_torchs",
    "test_a_model_trains_as_with_its_own_loss",
    "test_ctrl_c_ends_a_long_call",
    "test_orders_of_strides",
    "test_products",
    "test_row_statistics_of_every_length",  # beside the reference, whose rows take seconds
    "test_row_statistics_of_long_rows",
    "test_property",
    "test_streamed_results_are_those_of_small_calls",
    "test_the_loss_is_that_of_transformers",
    "test_the_same_bits_however_it_is_called",
    "test_values_and_gradients",
    "test_values_and_gradients_of_torchs_linear_samples",
}
# The first case alone.
FIRST = {
    "test_a_call_drawn_at_random_is_that_of_its_logits",  # of two hundred; the others of that file are chosen
    "test_compiled_in_one_graph",  # the others start a C++ compiler
    "test_eight_threads_at_once_also_as_the_first_call",  # as does Numba's, with nothing on disk
    "test_forks_while_another_thread_is_in_a_call",  # 200 of them
    "test_gradcheck_and_gradgradcheck",  # test_torch_samples.py has others
    "test_more_than_2_31_elements",
    "test_onnx",  # its exporters take seconds each
    "test_onnx_of_probabilities",
    "test_onnx_with_class_axis_1_of_several",
    "test_python_without_assertions",
    "test_rows_from_a_users_own_function",
    "test_the_loss_takes_no_memory_of_the_logits_size",
    "test_twenty_thousand_calls_leave_nothing_behind",
}
# None at all.
SLOW = {
    "test_a_peer_that_is_missing_or_fails_gets_a_line",
    "test_a_worker_that_is_killed_changes_nothing",  # clusters of processes, as the next two
    "test_dask_processes_have_the_same_bits",
    "test_mpi_merges_evaluations",
    "test_the_command_has_a_few_blocks_in_memory_at_a_time",  # of a gigabyte
    "test_a_bad_environment_variable_gets_one_line",  # nine processes; test_surroundings.py has the messages
    "test_a_stream_that_lacks_the_symbols",
    "test_a_fused_model_is_compiled_in_one_graph",
    "test_a_module_compiled_with_everything",
    "test_distributed_data_parallel",
    "test_distributed_training_of_a_tied_embedding",
    "test_it_learns",  # the example's command trains, too
    "test_kernels_are_compiled_once_and_kept",  # by Numba, several times in processes of their own
    "test_kernels_of_several_processes_go_together",
    "test_every_option_at_once",  # Numba compiles it for a minute
    "test_some_options_of_each_row",
    "test_from_parallel_loops",
    "test_functions_of_rows",
    "test_functions_of_rows_that_are_strided",
    "test_no_row_counts_in_compiled_code",
    "test_the_environment_s_isa_and_threads",
    "test_the_example_extensions_are_built_and_right",  # by setuptools and Cython
    "test_machine_code",  # of CUDA kernels, which take seconds each to compile
    "test_info_says_why_a_backend_is_missing",
    "test_memory_of_a_chunk_of_logits",
    "test_no_memory_but_the_gradients",
    "test_ranks_with_unequal_numbers_of_tokens_train_as_one_process",
    "test_records_are_complete",  # the quick benchmarks of every backend, ISA and number of threads
    "test_rows_from_python",  # Numba compiles each row function again for each dtype, and keeps none
    "test_the_document_says_on_what",  # the same benchmarks
    "test_the_defaults_do_well",  # sixteen trainings
    "test_train_without_arguments",  # the other tests of the command train, too
    "test_kernels_that_cannot_be_kept_are_used",
    "test_rows_of_any_stride_and_in_place",  # Numba compiles each row function again for each layout
    "test_the_curves_coincide",
    "test_the_scales_of_float32_are_found_again",  # among 2^25
    "test_where_nothing_can_be_written",
    "test_within_the_contract_on_a_million_rows",
    "test_undefined_rows",  # Numba compiles its row functions for one more dtype
}
# Cases of tests that are kept otherwise: what other libraries take to start.
SLOW_CASES = {
    f"test_peers_compute_the_same[{name}]"
    for name in ("JAX", "TensorFlow", "onnxruntime", "reference", "scikit-learn", "torch")
}

collected: list[tuple[str, bool]] = []  # the node id of each test of this session, and whether it is slow


def mark(items):
    """Mark what is not in the fast layer as slow."""
    cases = collections.defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    for name, those in cases.items():
        kept = fast(name.rpartition("::")[2], those)
        for item in those:
            collected.append((item.nodeid, item not in kept))
            if item not in kept:
                item.add_marker(pytest.mark.slow)


def fast(name, items):
    """The cases of a test that are in the fast layer."""
    if name in SLOW:
        return set()
    if name in FIRST:
        return set(items[:1])
    seen = collections.defaultdict(set)
    for parameter, value in (each for item in items for each in values(item)):
        seen[parameter].add(value)
    many = {parameter for parameter, found in seen.items() if len(found) > MANY}
    promised = {item: promises(item, many, crossed=name not in VALUES) for item in items}
    kept = {item for item in items if not promised[item]}
    order = random.Random(name).sample(items, len(items))  # another one for each test, the same in every run
    missing = set().union(*promised.values())
    for least in range(max(map(len, promised.values())), 0, -1):  # those that keep most promises at once first
        for item in order:
            if len(promised[item] & missing) >= least:
                missing -= promised[item]
                kept.add(item)
    return {item for item in kept if item.name not in SLOW_CASES}


def promises(item, many, crossed):
    """What the fast layer has because of a case: pairs of a backend and a value, or, not crossed, values."""
    if not crossed:
        return set(values(item))
    found = set()
    for unit in (value for parameter, value in parameters(item) if parameter in BACKENDS):
        backend = unit.partition("-")[0]
        others = (each for each in values(item) if each[0] not in BACKENDS)
        found |= {(backend if each[0] in many else unit, *each) for each in others} or {(unit,)}
    return found


def parameters(item):
    """(name, value) of each, also of those of its fixtures."""
    return item.callspec.params.items() if hasattr(item, "callspec") else ()


def values(item):
    """The same, but a value is told by its identity, because some cannot be hashed: all cases share the objects."""
    return [(name, id(value)) for name, value in parameters(item)]
