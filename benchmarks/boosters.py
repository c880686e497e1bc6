"""A round of boosting with this package's objectives beside the libraries' own: `python benchmarks/boosters.py`.

Both train in one process, a round each in turn, so that other work on the machine meets both alike. Where there is much
of that, time of the CPU is the better measure: with --threads 1 and CROSSENTROPY_NUM_THREADS=1, or waiting counts, too.
"""

import argparse
import time

import numpy as np

from crossentropy.boosting import lightgbm_objective, xgboost_objective


def boosters_of_xgboost(x, y, asked):
    """(own, ours): what trains one more round."""
    import xgboost as xgb  # without LightGBM, whose threads would be this package's, too, and wait longer

    data = xgb.DMatrix(x, y)
    settings = {
        "num_class": asked.classes,
        "base_score": 0.5,
        "max_depth": asked.depth,
        "nthread": asked.threads,
        "objective": "multi:softprob",
    }
    own, ours = xgb.Booster(settings, [data]), xgb.Booster(settings, [data])
    objective = xgboost_objective()
    rounds = [0, 0]

    def one(which, booster, objective):
        booster.update(data, rounds[which], objective)
        rounds[which] += 1

    return lambda: one(0, own, None), lambda: one(1, ours, objective)


def boosters_of_lightgbm(x, y, asked):
    """(own, ours): what trains one more round."""
    import lightgbm as lgb

    settings = {
        "num_class": asked.classes,
        "boost_from_average": False,
        "num_leaves": 2**asked.depth - 1,
        "num_threads": asked.threads,
        "verbose": -1,
    }
    own = lgb.Booster(settings | {"objective": "multiclass"}, lgb.Dataset(x, y))
    ours = lgb.Booster(settings | {"objective": "none"}, lgb.Dataset(x, y))
    objective = lightgbm_objective()
    return own.update, lambda: ours.update(fobj=objective)


def main():
    """Print what a round of each takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((asked.rows, asked.features), dtype=np.float32)
    y = (
        x @ rng.standard_normal((asked.features, asked.classes)) + rng.gumbel(size=(asked.rows, asked.classes))
    ).argmax(1)
    for library, boosters in (("XGBoost", boosters_of_xgboost), ("LightGBM", boosters_of_lightgbm)):
        steps = dict(zip(("own", "ours"), boosters(x, y, asked), strict=True))
        times = {name: [] for name in steps}
        for n in range(asked.rounds + 2):
            for name, step in steps.items():
                begun = time.perf_counter(), time.process_time()
                step()
                if n > 1:  # the first rounds sort the features into bins
                    times[name].append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
        for name, found in times.items():
            (least, least_cpu), (middle, middle_cpu) = (1e3 * f(found, axis=0) for f in (np.min, np.median))
            print(
                f"{library}, {'its own objective' if name == 'own' else 'this one'}: {least:.0f} ms a round at least, "
                f"{middle:.0f} in the middle; {least_cpu:.0f} and {middle_cpu:.0f} ms of CPU time"
            )


if __name__ == "__main__":
    main()
