"""A kernel compiled as for a card that is not there, described, and held to what it was written for."""

import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from numba.cuda import codegen, compiler, dispatcher, types
from numba.cuda.cudadrv import driver as linking
from units import CARD, Unit

from crossentropy._backends.cuda import driver, launch, matrices, one_logit, reductions, weighted

REGISTERS, MOST_REGISTERS = 65536, 255  # of a multiprocessor; of a thread
WAYS = {
    "ptxas": "PTX for compute capability 9.0 at most, assembled whole, as a driver does",
    "link": "by Numba's linker, with its optimization at link time",
}


class Asked(NamedTuple):
    """What `driver.Kernel` is made of, and stands in its place."""

    function: object
    arguments: list
    threads: int
    at_once: int = 1
    cluster: int = 1
    of: tuple | None = None


def prepare(put=setattr):
    """Let Numba compile for a card that is not there; its assembler is to say what it used. ``put`` as `setattr`."""

    def options(linker, ptx, original=linking._Linker._get_linker_options):
        found = original(linker, ptx)
        found.ptxas_options = ["-v"]
        return found

    # What comes before PTX does not depend on the compute capability: one run of it serves all.
    put(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=divmod(CARD, 10)))
    put(linking._Linker, "_get_linker_options", options)
    put(driver, "Kernel", Asked)
    put(reductions, "Kernel", Asked)


def library(made: Asked):
    """A kernel as `cuda.jit` makes it, before it is PTX."""
    return compiler._compile_pyfunc_with_fixup(
        made.function,
        types.void(*made.arguments),
        device=False,
        cc=divmod(CARD, 10),
        abi="numba",
        launch_bounds=(made.threads, made.at_once),
    )[0]


def assembled(code, sm: int, way: str) -> tuple[bytes, str, str]:
    """(machine code, what the assembler said, PTX) of a library."""
    if way == "link":
        code._lto, cc = True, (*divmod(sm, 10), "a") if sm >= 90 else divmod(sm, 10)
        return code.get_cubin(cc=cc).code, code.get_linkerinfo(cc), code.get_lto_ptx(cc=cc)
    # Past 9.0 NVVM is another compiler, which leaves loops over what is kept of a row as loops, and the row in memory.
    ptx = code.get_asm_str(cc=divmod(min(sm, 90), 10))
    return (*by_ptxas(ptx, sm), ptx)


def by_ptxas(ptx: str, sm: int) -> tuple[bytes, str]:
    """(machine code, what the assembler said)."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "k.ptx"), Path(folder, "k.cubin")
        source.write_text(ptx)
        command = [tool("ptxas"), f"-arch=sm_{sm}", "-v", source, "-o", made]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        return made.read_bytes(), said


@cache
def tool(name):
    from cuda import pathfinder

    return Path(pathfinder.find_nvidia_binary_utility("nvdisasm")).with_name(name)


def compiled(unit: Unit, capabilities: tuple[int, ...], way: str) -> list[tuple[dict, list[str]]]:
    """A record for each compute capability, and what is wrong with it."""
    try:
        if unit.shape is None:
            name, *arguments = unit.result
            made = next(getattr(m, name) for m in (reductions, weighted, matrices, one_logit) if name in vars(m))(
                0, *arguments
            )
        else:
            made = launch.compiled(0, unit.kind, unit.shape, unit.result)
        code = library(made)
    except Exception as error:
        return [({"name": unit.name, "sm": sm}, [_said(error)]) for sm in capabilities]
    found = []
    for sm in capabilities:
        try:
            record = described(*assembled(code, sm, way))
            wrong = faults(unit, made, record)
        except Exception as error:
            record, wrong = {}, [_said(error)]
        found.append(({"name": unit.name, "sm": sm} | record, wrong))
    return found


def compiled_item(item):
    """`compiled`, of a pool's one argument."""
    return compiled(*item)


def _said(error):
    text = getattr(error, "stderr", "") or str(error)
    return f"does not compile: {' '.join(text.split())[:200]}"


def registers_of(said: str) -> int:
    """Of a thread, by the assembler."""
    return max(map(int, re.findall(r"Used (\d+) registers", said)))


def described(code: bytes, said: str, ptx: str) -> dict:
    """What a kernel takes, and has."""
    sass = codegen.run_nvdisasm(SimpleNamespace(code=code), ["-c", "-ndf"])
    instructions = re.findall(r"/\*[0-9a-f]{4,}\*/ +(?:@!?\w+ +)?(\w[\w.]*)", sass)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    shared = re.findall(r"(\d+) bytes smem", said) or re.findall(r"\.shared[^;\n]*\[(\d+)\]", ptx)
    directives = dict(re.findall(r"^\.(maxntid|minnctapersm|reqnctapercluster) +(\d+)", ptx, re.MULTILINE))
    return {
        "registers": registers_of(said),
        "spills": sum(int(stored) + int(loaded) for _, stored, loaded in frames),
        "stack": max(int(stack) for stack, _, _ in frames),
        "shared": sum(map(int, shared)),
        "loads": sum(bool(re.match(r"LDG\.E\b.*\.128", i)) for i in instructions),
        "stores": sum(bool(re.match(r"STG\.E\b.*\.128", i)) for i in instructions),
        "halves": sum(bool(re.match(r"STG\.E\b.*\.64", i)) for i in instructions),
        "instructions": sum(i != "NOP" for i in instructions),
        "fences": sum(i.startswith("MEMBAR") for i in instructions),
        "float64": ".f64" in ptx,
        "calls": bool(re.search(r"^\s*(?:@\S+\s+)?call\b", ptx, re.MULTILINE)),
        "threads": int(directives.get("maxntid", 0)),
        "at_once": int(directives.get("minnctapersm", 0)),
        "cluster": int(directives.get("reqnctapercluster", 1)),
    }


def faults(unit: Unit, made: Asked, found: dict) -> list[str]:
    """What a kernel has that it should not have, or has not that it should."""
    wrong = []
    if (found["threads"], found["at_once"]) != (made.threads, made.at_once):
        wrong.append(f"launch bounds {found['threads'], found['at_once']} instead of {made.threads, made.at_once}")
    else:
        limit = min(MOST_REGISTERS, REGISTERS // (found["threads"] * found["at_once"]) // 8 * 8)
        if found["registers"] > limit:
            wrong.append(f"{found['registers']} registers, where its launch bounds allow {limit}")
    if found["spills"]:
        wrong.append(f"{found['spills']} bytes of spills")
    if found["calls"]:
        wrong.append("a device function that is not inlined")
    if found["fences"]:
        wrong.append("a fence, which waits for the stores of the row before")
    if found["cluster"] != made.cluster:
        wrong.append(f"clusters of {found['cluster']} blocks instead of {made.cluster}")
    if unit.shape is None:
        return wrong  # its sums are float64, and no vectors are read
    if found["float64"] and "float64" not in (unit.kind, unit.result.q):
        wrong.append("float64 arithmetic")
    if unit.result.transforms:
        return wrong  # so long a loop over what is kept of a row stays a loop, and the row in a thread's own memory
    if unit.shape.alone:
        return wrong  # one thread's row: the parts that wait to be merged are in its own memory, and classes lie apart
    if found["stack"]:
        wrong.append(f"a stack frame of {found['stack']} bytes")
    reads = unit.result.reads == "row" or unit.result.writes
    vectors = max(1, unit.shape.kept)
    if reads and found["loads"] < vectors:
        wrong.append(f"{found['loads']} loads of 16 bytes instead of {vectors} or more")
    stores, size = ("halves", 8) if unit.result.to else ("stores", 16)
    if unit.result.writes and found[stores] < vectors:
        wrong.append(f"{found[stores]} stores of {size} bytes instead of {vectors} or more")
    return wrong
