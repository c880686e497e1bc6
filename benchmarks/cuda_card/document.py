"""What a run found: put together from its parts' records, judged, printed, written down."""

import json
import re
from pathlib import Path

import bars

PREDICTED = Path(__file__).resolve().parent.parent / "results" / "cuda-compile.json"
MAY_RUN_OUT = (
    "first",
    "sanitizers",
    "speed",
)  # stages whose parts may be cut short; elsewhere it is a fault, as of a dead lock


class Found:
    """The records of all parts."""

    def __init__(self):
        self.checks, self.skipped, self.records, self.host, self.roofs, self.compilers = {}, [], [], [], [], []
        self.decided: list[dict] = []  # records of what is timed first, most of which is timed again

    @property
    def failures(self):
        return [text for each in self.checks.values() for text in each["failed"]]

    def skip(self, what, why):
        self.skipped.append({"what": what, "why": why})
        print(f"left out: {what}: {why}", flush=True)

    def add(self, stage, part):
        """What a part said, and how it ended."""
        name = stage if stage == "conformance" else part.name  # its shares together
        for each in part.of_kind("checks"):
            self._count(name, part.seconds, **each)
        self.skipped += part.of_kind("skipped")
        if stage == "first":
            self.decided += part.of_kind("record")
        else:
            self.records += part.of_kind("record")
        self.host += part.of_kind("host_us")
        self.roofs += part.of_kind("roofs")
        self.compilers += part.of_kind("compiler")
        if not part.ended:
            return
        if stage in MAY_RUN_OUT and part.ended == "its time was up":
            self.skip(f"the rest of {part.name}", part.ended)
        else:
            self._count(name, part.seconds, 0, [f"{part.name}: {part.ended}"], 0, 0)
            print(f"failed: {part.name}: {part.ended}", flush=True)

    def _count(self, name, seconds, passed, failed, not_run, of):
        if not of and not failed:
            return
        sums = self.checks.setdefault(name, {"passed": 0, "failed": [], "not_run": 0, "of": 0, "seconds": 0})
        sums["passed"] += passed
        sums["failed"] += failed
        sums["not_run"] += not_run
        sums["of"] += of
        sums["seconds"] = max(sums["seconds"], seconds)

    def document(self, machine, versions, date, commit, seconds) -> dict:
        """All of it, for JSON."""
        again = {_case(r) for r in self.records}
        self.records = [*self.records, *(r for r in self.decided if _case(r) not in again)]
        starts = [each["start_s"] for each in self.compilers]
        return {
            "kind": "cuda",
            "machine": machine,
            "versions": versions,
            "date": date,
            "commit": commit,
            "seconds": seconds,
            "checks": self.checks,
            "bars": bars.judged(self.records),
            "quack": bars.anchors(self.records),
            "host_us": self.host,
            "roofs": self.roofs,
            "torch_compile_start_s": max(starts, default=None),
            "left_out": self.skipped,
            "records": self.records,
        }


def slug(gpu) -> str:
    """A card's name as that of a file."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def _case(record):
    return (*record["shape"], record["dtype"], record["op"], record["implementation"])


def predicted(gpu: str) -> dict[tuple, str]:
    """What was predicted of a card, by case: milliseconds by bytes and by instructions."""
    if not PREDICTED.exists():
        return {}
    document = json.loads(PREDICTED.read_text(encoding="utf-8"))
    card = next((name for name in document.get("cards", {}) if name.lower() in gpu.lower()), None)
    found = {}
    for p in document["predictions"] if card else ():
        for op in (p["op"], f"{p['op']} in place"):
            by_bytes, by_slots = p[card]["ms_bytes"], p[card]["ms_issue"]
            text = f"predicted {by_bytes:.3f} ms by bytes, {by_slots:.3f} by {p['slots']:.0f} slots a logit"
            found[p["rows"], p["classes"], p["dtype"], op] = text
    return found


def beside_predictions(records, machine) -> str:
    """A line for each record, with what was predicted of ours."""
    lines, expected = ["", "=== first"], predicted(machine["gpu"])
    for r in records:
        case = *r["shape"], r["dtype"], r["op"]
        text = expected.get(case, "nothing predicted") if r["implementation"] == "crossentropy" else ""
        what = f"{r['shape'][0]} x {r['shape'][1]} {r['dtype']}, {r['op']}, {r['implementation']}"
        share = f"{r['gb_per_s']:.0f} GB/s, {r['roof_fraction']:.1%} of {r['roof']}"
        lines.append(f"{what}: {1e3 * r['median_s']:.3f} ms, {share}{'; ' if text else ''}{text}")
    return "\n".join(lines if records else [*lines, "nothing was timed"])


def _times(document):
    """The records as a table: the shape, the operation; ours, then others by how many times as long they take."""
    cases, expects = {}, predicted(document["machine"]["gpu"])
    for r in document["records"]:
        cases.setdefault((*r["shape"], r["dtype"], r["op"]), {})[r["implementation"]] = r
    for (rows, classes, dtype, op), found in sorted(cases.items(), key=lambda item: item[0][2:] + item[0][:2]):
        ours = found.pop("crossentropy", None)
        text = f"{rows} x {classes} {dtype}, {op}: "
        if ours is None:
            yield text + "not ours"
            continue
        text += f"{1e3 * ours['median_s']:.3f} ms, {ours['gb_per_s']:.0f} GB/s, "
        text += f"{ours['roof_fraction']:.1%} of {ours['roof']}"
        if (expected := expects.get((rows, classes, dtype, op))) is not None:
            text += f"; {expected}"
        others = [f"{name} {r['times_ours']:.2f} x" for name, r in found.items() if r["times_ours"]]
        yield text + (f"; {', '.join(others)}" if others else "")


def summary(document) -> str:
    """The end of what is printed."""
    lines = ["", "=== times"]
    lines += _times(document)
    for each in document["roofs"]:
        place = f"{each['rows']} x {each['classes']} {each['dtype']}"
        lines.append(f"{place}: read {each['read_gb_per_s']} GB/s, copy {each['copy_gb_per_s']} GB/s")
    compiled = [r["compile_s"] for r in document["records"] if r["compile_s"] is not None]
    if compiled:
        lines.append(f"torch.compile's first calls, beside other work: {min(compiled):.1f} to {max(compiled):.1f} s")
    lines += ["=== the host's time of a call, us"]
    lines += [f"{each['call']}: {each['median']}" for each in document["host_us"]]
    lines += ["=== left out"]
    lines += [f"{each['what']}: {each['why']}" for each in document["left_out"]] or ["nothing"]
    lines += ["=== beside QuACK's published forward rates on an H100, GB/s"]
    for each in document["quack"]:
        shape = " x ".join(map(str, each["shape"]))
        lines.append(f"{shape}: {each['gb_per_s']:.0f}, QuACK {each['quack_h100_gb_per_s']}")
    lines += ["=== bars"]
    for each in document["bars"]:
        met = {True: "met", False: "NOT met", None: "not measured"}[each["met"]]
        measured = ", ".join(f"{where}: {value:.3f}" for where, value in each["measured"].items())
        lines.append(f"{met}: {each['bar']}, at least {each['at_least']}: {measured or 'nothing'}")
    lines += ["=== checks"]
    for name, each in document["checks"].items():
        passed = f"{each['passed']} passed, {len(each['failed'])} failed, {each['not_run']} not run of {each['of']}"
        lines.append(f"{name}: {passed}, {each['seconds']:.0f} s")
        lines += [f"    {text}" for text in each["failed"][:12]]
    return "\n".join(lines)
