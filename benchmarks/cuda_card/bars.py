"""What is asked of the kernels, held against the records; and the rates that others published."""

READ, COPY, TIMES = 0.92, 0.88, 2.0  # of the measured read rate, of the copy rate, torch.compile's time over ours

# QuACK's cross-entropy, forward, bfloat16 on an H100, in GB/s, as its authors published them.
QUACK = {(32768, 1024): 1902, (32768, 4096): 2692, (32768, 16384): 3061, (32768, 65536): 3182, (16384, 131072): 3163}


def judged(records) -> list[dict]:
    """Each bar with what was measured at each shape; ``met`` is None where nothing was."""
    ours = [r for r in records if r["implementation"] == "crossentropy"]
    compiled = [r for r in records if r["implementation"] == "torch.compile"]

    def shares(op, classes, dtypes):
        chosen = [r for r in ours if r["op"] == op and r["shape"][1] >= classes and r["dtype"] in dtypes]
        return {_name(r): r["roof_fraction"] for r in chosen}

    times = {
        _name(r): r["times_ours"]
        for r in compiled
        if r["op"] == "loss + gradient" and r["shape"][1] >= 65536 and r["times_ours"] is not None
    }
    found = [
        ("loss: of the read rate, bfloat16, C >= 16384", READ, shares("loss", 16384, ("bfloat16",))),
        (
            "loss + gradient: of the copy rate, bfloat16, C >= 4096",
            COPY,
            shares("loss + gradient", 4096, ("bfloat16",)),
        ),
        ("loss + gradient: of the copy rate, float32, C >= 4096", COPY, shares("loss + gradient", 4096, ("float32",))),
        ("loss + gradient: torch.compile's time over ours, C >= 65536", TIMES, times),
    ]
    return [
        {"bar": text, "at_least": bar, "measured": got, "met": all(v >= bar for v in got.values()) if got else None}
        for text, bar, got in found
    ]


def anchors(records) -> list[dict]:
    """Our forward rates beside QuACK's, where the shape is the same."""
    return [
        {"shape": r["shape"], "gb_per_s": r["gb_per_s"], "quack_h100_gb_per_s": QUACK[tuple(r["shape"])]}
        for r in records
        if (r["implementation"], r["op"], r["dtype"]) == ("crossentropy", "loss", "bfloat16")
        and tuple(r["shape"]) in QUACK
    ]


def _name(record):
    return f"{' x '.join(map(str, record['shape']))} {record['dtype']}"
