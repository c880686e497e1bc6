"""Compile kernels/ into crossentropy._native: one source for the block functions, one object file for each ISA."""

import os
import platform
import sysconfig
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError
from setuptools.modified import newer_group

MACOS = platform.system() == "Darwin"
# unit -> (GCC and Clang flags, MSVC flags)
BASE_UNIT = {"kernels/blocks/unit_base.c": ([], [])}
X86_UNITS = {
    "kernels/blocks/unit_avx2.c": (["-mavx2", "-mfma", "-mf16c", "-mpopcnt"], ["/arch:AVX2"]),
    "kernels/blocks/unit_avx512.c": (
        ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mf16c", "-mpopcnt"],
        ["/arch:AVX512"],
    ),
}
X86_UNITS |= {unit.replace("blocks", "products"): flags for unit, flags in X86_UNITS.items()}
BASE_UNIT |= {unit.replace("blocks", "products"): flags for unit, flags in BASE_UNIT.items()}
# Every arm64 CPU has NEON. GCC, before it knows how many registers there are, moves loads so far from their use that a
# step's sums no longer fit into them; these CPUs choose an order of their own. (Clang takes no notice.)
ARM64_UNITS = {
    f"kernels/{part}/unit_neon.c": ([] if MACOS else ["-fno-schedule-insns"], []) for part in ("blocks", "products")
}
# Units for which not every compiler has the instructions: (the macro that says so, flags, a line that needs them).
AVX512_BF16 = [*X86_UNITS["kernels/blocks/unit_avx512.c"][0], "-mavx512bf16"]
PROBED_UNITS = {
    "kernels/products/unit_avx512_bf16.c": (
        "HAVE_AVX512_BF16_UNIT",
        AVX512_BF16,
        "__m512bh f(__m512 a, __m512 b) { return _mm512_cvtne2ps_pbh(a, b); }",
    ),
    "kernels/products/unit_amx.c": (
        "HAVE_AMX_UNIT",
        [*AVX512_BF16, "-mamx-tile", "-mamx-bf16"],
        "void f(void) { _tile_dpbf16ps(0, 1, 2); }",
    ),
}
INTERFACE = "src/crossentropy/include"  # what the package gives to programs in C
# What knows no ISA, with the compiler's own flags.
SOURCES = [
    "kernels/_native.pyx",
    "kernels/c_api.c",
    "kernels/math/compensated.c",
    "kernels/blocks/dispatch.c",
    "kernels/products/product.c",
] + [
    f"kernels/rows/{name}.c"
    for name in (
        "by_biases",
        "by_elements",
        "by_products",
        "by_rows",
        "by_streams",
        "by_tiles",
        "distillation",
        "fused_rows",
        "hessians",
        "layout",
        "log_probs_backward",
        "log_softmax_backward",
        "logits",
        "losses",
        "merging",
        "parallel",
        "place",
        "read_rows",
        "results",
        "row_statistics",
        "startable",
        "targets",
        "usual_tiles",
        "weighted_logsumexp",
        "write_rows",
    )
]
# No -ffast-math and no contraction: both break the rounding by a magic constant and the error-free transforms.
COMMON = {
    "unix": ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"],
    "msvc": ["/O2", "/std:c11", "/fp:precise"],
}
# What GCC makes copies of loops and functions by, for flags that are constant. The kernels do that themselves where it
# matters; the compiler's copies are a sixth of the module, and spare no time (docs/performance.md). Clang has no such
# flags, and takes no notice of them.
FEWER_COPIES = ["-fno-unswitch-loops", "-fno-ipa-cp-clone", "-fno-split-loops", "-fno-peel-loops"]
# What .ci/run looks for stray accesses and undefined behaviour with, and for data races (GCC, Clang): those between the
# threads of the pool, since OpenMP's runtime is not compiled so.
SANITIZE = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-fsanitize=thread"],
}.get(os.environ.get("CROSSENTROPY_SANITIZE"), [])
SANITIZE += ["-fno-omit-frame-pointer", "-O1", "-g"] if SANITIZE else []
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")
REQUIRE_NATIVE = os.environ.get("CROSSENTROPY_REQUIRE_NATIVE") == "1"
# What is compiled for, which need not be this machine: sysconfig goes by _PYTHON_HOST_PLATFORM, and setuptools by the
# other variable, where Visual Studio compiles for another architecture.
TARGET = os.environ.get("VSCMD_ARG_TGT_ARCH") or sysconfig.get_platform()
# On macOS one compilation may be for both: each one's units are empty for the other, and the flags are x86-64's.
# For ThreadSanitizer there is the base unit alone, in which it sees every access: it does not see the masked ones of
# AVX-512, and stores that bypass the caches.
X86 = MACOS or (TARGET.lower().endswith(("x86_64", "amd64", "x64")) and "-fsanitize=thread" not in SANITIZE)
ARM64 = MACOS or TARGET.lower().endswith(("aarch64", "arm64"))


def for_x86(flags):
    return [part for flag in flags for part in ("-Xarch_x86_64", flag)] if MACOS else flags


def beside_each_other(compile):
    """A compiler's ``compile``, which takes its sources in turn, with several of them under way at once."""

    def compiled(sources, **how):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [o for objects in pool.map(lambda source: compile([source], **how), sources) for o in objects]

    return compiled


class BuildKernels(build_ext):
    """Compile every ISA unit with its own flags and link them into one module."""

    def build_extension(self, ext):
        try:
            self.build_units(ext)
        except OSError as error:  # no such compiler: what `optional` forgives is a CompileError
            raise CompileError(str(error)) from error

    def build_units(self, ext):
        kind = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        common = COMMON[kind] + SANITIZE
        fewer_copies = [] if MACOS or SANITIZE else FEWER_COPIES
        os.makedirs(self.build_temp, exist_ok=True)  # where probes lie
        known = self.known_units(kind)
        ext.define_macros += [(macro, None) for macro, _, _ in known.values()]
        units = BASE_UNIT | (X86_UNITS if X86 else {}) | (ARM64_UNITS if ARM64 else {})
        flags = {
            unit: msvc if kind == "msvc" else fewer_copies + for_x86(unix) for unit, (unix, msvc) in units.items()
        } | {unit: fewer_copies + unix for unit, (_, unix, _) in known.items()}

        def compiled(unit):
            """The unit; one of an earlier build with the same flags stays: it takes a minute, and knows no Python."""
            how = common + flags[unit]
            key = zlib.crc32(repr((getattr(self.compiler, "compiler_so", ""), how)).encode())
            folder = os.path.join(self.build_temp, f"{key:08x}")
            (there,) = self.compiler.object_filenames([unit], output_dir=folder)
            headers = [path for path in ext.depends if path.endswith(".h")]
            if not self.force and not newer_group([unit, *headers, __file__], there):
                return [there]
            return self.compiler.compile(
                [unit], output_dir=folder, include_dirs=ext.include_dirs, extra_postargs=how, depends=ext.depends
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # the largest, which take minutes one after the other
            for objects in pool.map(compiled, flags):
                ext.extra_objects += objects
        ext.extra_compile_args += common
        if self.openmp(kind):
            ext.extra_compile_args.append("/openmp" if kind == "msvc" else "-fopenmp")
            ext.extra_link_args += [] if kind == "msvc" else ["-fopenmp"]
        if kind == "unix" and platform.system() == "Linux":
            ext.extra_link_args += SANITIZE or ["-s"]
        self.compiler.compile = beside_each_other(self.compiler.compile)
        super().build_extension(ext)

    def known_units(self, kind):
        """The probed units whose flags and instructions this compiler knows: GCC's and Clang's, on Linux alone."""
        if kind != "unix" or not X86 or platform.system() != "Linux":
            return {}
        return {unit: how for unit, how in PROBED_UNITS.items() if self.compiles(*how)}

    def compiles(self, name, flags, line):
        probe = os.path.join(self.build_temp, f"{name.lower()}.c")
        with open(probe, "w", encoding="utf-8") as file:
            file.write(f"#include <immintrin.h>\n{line}\n")
        try:
            self.compiler.compile([probe], output_dir=self.build_temp, extra_postargs=flags)
        except CompileError:
            return False
        return True

    def openmp(self, kind):
        """CROSSENTROPY_OPENMP=0 builds without; otherwise wherever a probe compiles and links."""
        if os.environ.get("CROSSENTROPY_OPENMP", "1") == "0":
            return False
        if kind == "msvc":
            return True
        probe = os.path.join(self.build_temp, "openmp_probe.c")
        with open(probe, "w", encoding="utf-8") as file:
            file.write("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
        try:
            objects = self.compiler.compile([probe], output_dir=self.build_temp, extra_postargs=["-fopenmp"])
            self.compiler.link_executable(
                objects, os.path.join(self.build_temp, "openmp_probe"), extra_postargs=["-fopenmp"]
            )
        except Exception:  # whatever a compiler driver raises: the build goes on, and threads are Python's
            return False
        return True


native = Extension(
    "crossentropy._native",
    sources=SOURCES,
    include_dirs=["kernels", INTERFACE],
    # Every header and unit: they go into the sdist and an edit rebuilds.
    depends=sorted(
        str(path)
        for folder in ("kernels", INTERFACE)
        for kind in ("*.h", "*.c", "*.pyx", "*.pxi")
        for path in Path(folder).rglob(kind)
    ),
    define_macros=[("Py_LIMITED_API", "0x030B0000")] * ABI3
    + [("HAVE_X86_UNITS", None)] * X86
    + [("HAVE_NEON_UNITS", None)] * ARM64,
    py_limited_api=ABI3,
)


def extensions():
    from Cython.Build import cythonize

    (extension,) = cythonize([native], build_dir="build")
    # Without a compiler the package installs all the same and says at first use what is missing. Set here since
    # cythonize makes an Extension of its own and drops this.
    extension.optional = not REQUIRE_NATIVE
    return [extension]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildKernels},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
