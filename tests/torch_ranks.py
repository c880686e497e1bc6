"""Processes that work together for tests/test_torch_parallel.py: `python tests/torch_ranks.py RESULTS.json`.

One process imports PyTorch and forks the ranks, since starting it takes seconds: four, which go through all cases of
torch_rank_cases.py, also as groups of two and three; and pairs for each fault, at the same time. What each of them
raised is written as JSON.
"""

import datetime
import json
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

RANKS = 4
DEADLINE = 150  # after which everything is killed


def main(results: Path, *chosen: str) -> None:
    """Fork all ranks, wait for them, and write what they found: in the cases of these names, by default in all."""
    import torch
    import torch._dynamo  # which DistributedDataParallel imports: once, before there are ranks
    import torch.distributed.tensor
    import torch_rank_cases as cases
    import torch_rank_draws  # noqa: F401 -- whose cases are among them then
    import torch_rank_faults as faults

    def of(functions):
        return {name: f for name, f in functions.items() if not chosen or name in chosen}

    timeout = datetime.timedelta(seconds=faults.TIMEOUT)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        children = {}
        for rank in range(RANKS):
            children[_forked(_go_through, Path(folder), "cases", rank, RANKS, cases.TIMEOUT, of(cases.CASES))] = None
        for rank in range(2):
            children[_forked(_go_through, Path(folder), "pairs", rank, 2, cases.TIMEOUT, of(cases.OF_TWO))] = None
        for name, fault in of(faults.FAULTS).items():
            for rank in range(faults.RANKS):
                pid = _forked(_go_through, Path(folder), name, rank, faults.RANKS, timeout, {name: fault})
                children[pid] = None
        end = time.monotonic() + DEADLINE
        while any(code is None for code in children.values()):
            for pid, code in children.items():
                if code is None and (done := os.waitpid(pid, os.WNOHANG))[0]:
                    children[pid] = done[1]
            if time.monotonic() > end:
                for pid in (pid for pid, code in children.items() if code is None):
                    os.kill(pid, 9)
            time.sleep(0.05)
        found = {path.stem: json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
    results.write_text(json.dumps(found))


def _forked(function, *arguments) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function(*arguments)
        code = 0
    finally:
        os._exit(code)


def _go_through(folder: Path, name: str, rank: int, ranks: int, timeout: datetime.timedelta, cases: dict) -> None:
    import torch.distributed as dist

    warnings.simplefilter("ignore")
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    found, path = {}, folder / f"{name}-{rank}.json"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/{name}.store",
        rank=rank,
        world_size=ranks,
        timeout=timeout,
    )
    for case, function in cases.items():
        began = time.perf_counter()
        try:
            said = function(rank)
            found[case] = {"error": "", "said": said, "seconds": time.perf_counter() - began}
        except BaseException:
            found[case] = {"error": traceback.format_exc(), "said": None, "seconds": time.perf_counter() - began}
        path.write_text(json.dumps(found))
        if found[case]["error"]:
            break  # the others would wait for what does not come any more


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(Path(sys.argv[1]), *sys.argv[2:])
