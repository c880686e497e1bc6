"""The machine code of the CUDA kernels for an H100, executed without one: benchmarks/cuda_sass is what executes it.

What the simulator cannot see is here what is executed: registers, rounding, predicates, which threads of a warp meet,
16-byte accesses, shared memory and clusters as the compiler left them. Every access is checked, and every race between
barriers. Kernels are few, since each takes seconds to compile: pairs of a form of work, a result and a dtype.
"""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import DTYPES

import crossentropy
from crossentropy import autograd, reference, testing
from crossentropy.testing import same, within
from crossentropy.testing.covering import covering

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
FORMS = {  # vectors of 16 bytes of a row, classes less, rows, vectors of a part of a row
    "part of a warp": (40, 0, 5, 0),
    "a warp": (128, 0, 3, 0),
    "a block": (200, 0, 3, 0),
    "a cluster": (2049, 0, 2, 0),
    "streamed": (90, 1, 3, 0),
    "streamed by a cluster": (2100, 3, 2, 0),
    "classes apart": (5, 0, 5, 0),
    "in parts": (200, 0, 2, 64),
}
RESULTS = ("loss", "gradient", "pair", "smooth", "smooth pair", "probabilities", "log_softmax", "log_softmax_backward")
MOST = 12  # kernels, each of which takes seconds to compile: the choices that cover most come first
KERNELS = covering({"form": tuple(FORMS), "result": RESULTS, "kind": tuple(DTYPES)}, 2, lambda chosen: False)[:MOST]
CALLS = covering(
    {
        "values": ("normal", "one far ahead", "tenth -inf", "far from 0", "confident", "huge"),
        "class_weight": (False, True),
        "sample_weight": (False, True),
        "z_loss": (0.0, 0.01),
        "ignored": (False, True),
    },
    2,
    lambda chosen: False,
)
PER_KERNEL = 2  # calls


def values(name, rng, rows, classes):
    """Logits, which every dtype has."""
    x = 3 * rng.standard_normal((rows, classes))
    if name == "one far ahead":
        x[:, classes // 3] = 60
    elif name == "tenth -inf":
        x[rng.random(x.shape) < 0.1] = -np.inf
        x[0] = -np.inf
    elif name == "far from 0":
        x += np.linspace(-3e4, 3e4, rows)[:, None]
    elif name == "huge":
        x = rng.uniform(-1, 1, x.shape) * np.array([6e4, 3e38, 1e8, 2e7, 1e30])[:rows, None]
    elif name == "confident":
        x = np.where(np.arange(classes) == 7 % classes, 0, -np.linspace(1, 30, rows)[:, None] - abs(x))
    return x


@pytest.fixture(scope="module")
def emulator():
    """The emulated memory; while it is there, kernels are compiled for an H100 and run there."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        pytest.skip("the simulator is there")
    pytest.importorskip("numba.cuda.cudadrv.nvvm", reason="numba-cuda compiles the kernels")
    pytest.importorskip("cuda.pathfinder", reason="it finds ptxas and nvdisasm")
    sys.path[:0] = [str(BENCHMARKS / "cuda_machine_code"), str(BENCHMARKS / "cuda_sass")]
    import cuda_backend
    import emulated
    import machine_code
    from memory import Memory

    from crossentropy._backends.cuda import driver, launch, matrices, plans, reductions, weighted

    def forget():
        """Kernels that were compiled for a card, or for none."""
        plans._plans.clear()
        for module in (launch, matrices, reductions, weighted):
            for cached in vars(module).values():
                if hasattr(cached, "cache_clear"):
                    cached.cache_clear()

    forget()
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        machine_code.prepare(patch.setattr)
        emulated.Kernel.memory = memory = Memory()
        for place in (driver, reductions):
            patch.setattr(place, "Kernel", emulated.Kernel)
        for name, answer in (("device", 0), ("devices", 1), ("multiprocessors", 1), ("has_clusters", True)):
            patch.setattr(driver, name, lambda *_, answer=answer: answer)
        patch.setattr(cuda_backend, "emulated", memory)
        stack.enter_context(crossentropy.config(backend=cuda_backend))
        yield memory
    forget()


def expected(x, targets, w, v, numbers):
    """(loss, gradient, its largest terms), by the reference."""
    rows = [reference.Row(weight, w, **numbers) for weight in v]
    return testing.exact(x, targets, rows)


def check(result, x, rng, chosen, dtype, layout):
    """One call of a kernel's, against the reference, and against itself in place."""
    n, classes = x.shape
    if result == "log_softmax":
        p = crossentropy.log_softmax(layout(x))
        within(p, [reference.log_softmax(row) for row in x.astype(float).tolist()], dtype, "log_softmax")
        return
    if result == "log_softmax_backward":
        g = rng.standard_normal(x.shape).astype(dtype)
        _, saved = autograd.log_softmax_forward(layout(x))
        pairs = list(zip(g.astype(float).tolist(), x.astype(float).tolist(), strict=True))
        wanted, terms = (
            [f(*pair) for pair in pairs] for f in (reference.log_softmax_backward, reference.log_softmax_terms)
        )
        within(autograd.log_softmax_backward(saved, layout(g)), wanted, dtype, "grad", unit_at=np.array(terms))
        return
    w = rng.uniform(0, 2, classes) * (rng.random(classes) > 0.2) if chosen["class_weight"] else None
    v = np.where(np.arange(n) == 1, 0.0, rng.uniform(0.3, 2, n)) if chosen["sample_weight"] else np.ones(n)
    y = rng.integers(0, classes, n)
    numbers = {"z_loss": chosen["z_loss"], "label_smoothing": 0.1 if result.startswith("smooth") else 0.0}
    given = {"class_weight": w, "sample_weight": v if chosen["sample_weight"] else None, "reduction": "none", **numbers}
    targets, each, weights = y, y.tolist(), v.copy()
    if result == "probabilities":
        targets = (rng.dirichlet(np.ones(classes), n) * (rng.random(x.shape) > 0.3)).astype(
            np.float64 if dtype == np.float64 else np.float32
        )
        each = targets.astype(float).tolist()
    elif chosen["ignored"]:
        given["ignore_index"], weights[y == y[-1]] = int(y[-1]), 0
    with np.errstate(over="ignore", invalid="ignore"):
        loss, grad, unit = expected(x, each, None if w is None else w.tolist(), weights, numbers)
    if result == "loss":
        within(crossentropy.cross_entropy(layout(x), targets, **given), loss, dtype, "loss")
        return
    if "pair" in result:
        found, saved = autograd.forward(layout(x), targets, **given)
        gradient = autograd.backward(saved)
    else:
        to = layout(x)
        found, gradient = crossentropy.cross_entropy_and_grad(to, targets, **given)
        again = crossentropy.cross_entropy_and_grad(to, targets, out=to, **given)
        same(again.loss, found)
        same(to, gradient)
    within(found, loss, dtype, "loss")
    within(gradient, grad, dtype, "grad", unit_at=unit)


@pytest.mark.parametrize(
    ("number", "chosen"), list(enumerate(KERNELS)), ids=lambda v: " ".join(v.values()) if isinstance(v, dict) else ""
)
def test_machine_code(emulator, monkeypatch, number, chosen):
    from crossentropy._backends.cuda import driver, launch, plans

    vectors, less, rows, part = FORMS[chosen["form"]]
    dtype = DTYPES[chosen["kind"]]
    if dtype is None:
        pytest.skip("bfloat16 arrays need ml_dtypes")
    if part:
        monkeypatch.setattr(launch, "PART", part)
        monkeypatch.setattr(driver, "multiprocessors", lambda device: 4 * rows)
    classes = vectors * (16 // dtype.itemsize) - less
    layout = np.asfortranarray if chosen["form"] == "classes apart" else np.copy
    for k in range(PER_KERNEL):
        rng = np.random.default_rng([number, k])
        call = CALLS[(PER_KERNEL * number + k) % len(CALLS)]
        with np.errstate(over="ignore"):
            x = values(call["values"], rng, rows, classes).astype(dtype)
        emulator.forget()
        check(chosen["result"], x, rng, call, dtype, layout)
        plans._plans.clear()


TO_ITS_WORD = ("S2R R0, SR_TID.X", "SHF.L.U32 R1, R0, 0x2, RZ", "VIADD R1, R1, 0x400")
OF_THE_OTHER_WARP = ("LOP3.LUT R2, R1, 0x80, RZ, 0x3c, !PT", "LDS R3, [R2]")
# A barrier of one arrival at 0x600, of a cluster of one block; and what stores a word at 0x400 by it.
BARRIER = (
    "MOV R8, 0x1ffffe", "MOV R9, 0x7ffff800", "MOV R10, 0x600", "ISETP.NE.AND P0, PT, R0, RZ, PT",
    "@!P0 SYNCS.EXCH.64 URZ, [R10], R8", "BAR.SYNC.DEFER_BLOCKING 0x0",
)  # fmt: skip
SENT = ("MOV R12, 0x400", "MOV R13, 0x600", "@!P0 STAS [R12.64], R10")
ARRIVED = ("MOV R14, 0x4", "@!P0 SYNCS.ARRIVE.TRANS64 RZ, [R10], R14")
HAS_COME = ("SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [R10], RZ",)
READ = ("LDS R3, [R12]",)
FAULTS = {
    "a race in shared memory": ("STS [R1], R0", *OF_THE_OTHER_WARP),
    "out of shared memory": ("STS [R1+0x400], R0",),
    "not at a multiple of 4 of shared": ("STS [R1+0x2], R0",),
    "out of bounds": ("MOV R6, 0x1000", "MOV R7, RZ", "LDG.E R8, desc[UR4][R6.64]"),
    "unknown instruction FROB.X": ("FROB.X R1, R2",),
    "unknown instruction FADD.SAT": ("FADD.SAT R1, R2, R3",),
    "threads that do not take part": ("ISETP.LT.AND P0, PT, R0, 0x7, PT", "@P0 SHFL.BFLY PT, R3, R0, 0x10, 0x1f"),
    "no barrier has begun": SENT,
    "not what a barrier begins with": ("MOV R8, 0x1ffffe", "MOV R9, RZ", "SYNCS.EXCH.64 URZ, [R1+0x200], R8"),
    "more arrive at a barrier": (*BARRIER, "SYNCS.ARRIVE.TRANS64 RZ, [R10], R8"),
    "read before it has come": (*BARRIER, *SENT, *ARRIVED, *READ),
    "sent while what was there may be read": (*BARRIER, *SENT, *ARRIVED, *HAS_COME, *READ, *SENT),
    "wait at a barrier for others": (*BARRIER, *SENT, "MOV R14, 0x8", ARRIVED[1], *HAS_COME),
    "its barrier is another's": (*BARRIER, "MOV R12, 0x1000400", *SENT[1:]),
    "others that never come": ("ISETP.LT.AND P0, PT, R0, 0x20, PT", "@P0 BAR.SYNC 0x0", "@!P0 UCGABAR_WAIT"),
}


@pytest.fixture
def emulated(monkeypatch):
    """A function: the machine after it has run some instructions, a block of two warps."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "cuda_sass"))
    pytest.importorskip("numba", reason="it has the fused multiply-add")
    from machine import Machine
    from memory import Memory
    from program import Program

    def run(*texts):
        lines = []
        for k, text in enumerate((*TO_ITS_WORD, *texts, "EXIT")):
            guard, _, rest = text.partition(" ") if text[0] == "@" else ("", "", text)
            lines.append(f"        /*{16 * k:04x}*/ {guard:>14} {rest} ;  /* 0x{0:016x} */")
        machine = Machine(Program("\n".join(lines)), b"", 64, 1, 1, Memory(1 << 12), 1024)
        machine.run()
        return machine

    return run


@pytest.mark.parametrize("message", FAULTS)
def test_the_emulator_stops_where_a_card_would_go_on(emulated, message):
    with pytest.raises(Exception, match=message) as raised:
        emulated(*FAULTS[message])
    assert type(raised.value).__name__ == "Fault"


def test_the_emulator_does_what_instructions_say(emulated):
    machine = emulated("STS [R1], R0", "BAR.SYNC.DEFER_BLOCKING 0x0", *OF_THE_OTHER_WARP)
    assert np.array_equal(machine.R[3], np.arange(64) ^ 32)
    assert machine.issued.tolist() == [2] * 8  # once a warp
    machine = emulated(*BARRIER, *SENT, *ARRIVED, *HAS_COME, *READ)
    assert (machine.R[3] == 0x600).all()
    one_ulp = np.uint32(0x3F800001)
    machine = emulated("MOV R4, 0x3f800001", "FFMA R5, R4, R4, -1", "FFMA.RP R6, R4, R4, RZ", "FFMA.RM R7, R4, R4, RZ")
    exact = 1 + 2**-22 + 2**-46  # of the square
    assert machine.R[5].view(np.float32)[0] == np.float32(exact - 1)
    assert machine.R[6][0] == one_ulp + 2
    assert machine.R[7][0] == one_ulp + 1
    machine = emulated("MOV R4, 0x80000000", "IADD3 R5, P0, R4, R4, RZ", "IADD3.X R6, RZ, RZ, RZ, P0, !PT")
    assert (machine.R[5][0], machine.R[6][0]) == (0, 1)
    machine = emulated("MOV R4, 0x12345678", "PRMT R5, R4, 0x3210, RZ", "PRMT R6, R4, 0x0123, RZ")
    assert (machine.R[5][0], machine.R[6][0]) == (0x12345678, 0x78563412)


def test_a_kernel_is_compiled_once_and_kept(monkeypatch, tmp_path):
    """Found by what it is made of; a file that is broken, or a folder where nothing can be written, is as none."""
    pytest.importorskip("numba.cuda")
    from crossentropy._backends.cuda import kept

    asked = []

    def compiled(text):
        asked.append(text)
        return text

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for of in (("rows", 1), ("rows", 2), ("rows", 1)):
        assert kept.kept(of, lambda of=of: compiled(f"PTX of {of}")) == f"PTX of {of}"
    assert asked == ["PTX of ('rows', 1)", "PTX of ('rows', 2)"]
    files = list(kept.folder().iterdir())
    assert len(files) == 2
    for path in files:
        path.write_bytes(b"broken")
    assert kept.kept(("rows", 1), lambda: compiled("anew")) == "anew"
    assert kept.kept(("rows", 1), lambda: compiled("never")) == "anew"
    monkeypatch.setattr(kept, "_made_with", lambda: b"other sources")
    assert kept.kept(("rows", 1), lambda: compiled("of other sources")) == "of other sources"
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert kept.kept(("rows", 1), lambda: compiled("kept nowhere")) == "kept nowhere"
