"""A share of crossentropy.testing.conformance() on the card: `conformance.py SHARE OF SECONDS [MOST]`.

Checks are grouped by what they compile (dtype, and index targets or not), so that shares, which are processes, compile
little twice. Edge cases and properties come first; option sets in an order that is spread over all of them at any time.
"""

import sys
import time

import lines


def spread(items):
    """The same, so that however many are taken they lie evenly: steps of the golden section."""
    count = len(items)
    order = sorted(range(count), key=lambda i: i * 0.6180339887498949 % 1)
    return [items[i] for i in order]


def share_of(checks, is_options, share, shares):
    """The checks of a share: (name, check), the first first."""
    families = {}
    for name, check in checks:
        dtype, kind = name.rpartition(", ")[2], "index" if name.startswith("index-") else "others"
        families.setdefault((dtype, kind), []).append((name, check))
    mine = [families[key] for key in sorted(families)[share::shares]]
    first = [item for family in mine for item in family if not is_options(item[1])]
    return first + spread([item for family in mine for item in family if is_options(item[1])])


def main(share, shares, seconds, most):
    start = time.monotonic()
    import cuda_backend  # tests/, which also puts the simulator in place

    import crossentropy
    from crossentropy import testing

    def is_options(check):
        return check.func is testing.check_options

    on_device = [named for named in testing.conformance() if not named[0].startswith("binary:")]
    checks = share_of(on_device, is_options, share, shares)
    failed, done, why = [], 0, "its time was up"
    for name, check in checks[:most]:
        if time.monotonic() - start > seconds:
            break
        done += 1
        try:
            with crossentropy.config(backend=cuda_backend):
                check()
        except Exception as error:  # a check may find anything; the others are run all the same
            text = f"{name}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            failed.append(text)
            lines.say(f"failed: {text}")
            if not isinstance(error, AssertionError) and spoilt(cuda_backend):
                why = "the card is lost to this process"
                break
    lines.record("checks", passed=done - len(failed), failed=failed, not_run=len(checks) - done, of=len(checks))
    left = f", {len(checks) - done} not run ({why if most is None else 'as asked'})" if done < len(checks) else ""
    lines.say(f"{done - len(failed)} passed, {len(failed)} failed{left}, in {time.monotonic() - start:.0f} s")


def spoilt(cuda_backend) -> bool:
    """Whether the card answers this process no more."""
    if cuda_backend.SIMULATED:
        return False
    try:
        cuda_backend.cuda.synchronize()
    except Exception:
        return True
    return False


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else None)
