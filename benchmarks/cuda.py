"""All that is to be run on a machine with an NVIDIA card, in one call: `python benchmarks/cuda.py`.

Checks (conformance, every regime of the kernels, bad targets, NVIDIA's sanitizers), times (a call's on the host, the
kernels' beside the card's own memory and other libraries), and a JSON document of it. cuda_card/ has the parts.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    # In place of this folder, where this file would hide NVIDIA's package "cuda"; and the checkout is imported.
    sys.path[:1] = [str(here / "cuda_card"), str(here.parent / "src")]
    from command import main

    sys.exit(main())

# pytest puts this folder first on sys.path too; who imports "cuda" then is to get NVIDIA's, which is a namespace.
__path__ = [str(folder) for folder in (Path(entry or ".", "cuda") for entry in sys.path) if folder.is_dir()]
