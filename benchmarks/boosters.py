"""A round of boosting with this package's objectives beside the libraries' own: `python benchmarks/boosters.py`.

Both train in one process, a round each in turn, so that other work on the machine meets both alike.
"""

import argparse
import time

import lightgbm as lgb
import numpy as np
import xgboost as xgb

from crossentropy.boosting import lightgbm_objective, xgboost_objective


def boosters_of_xgboost(x, y, classes, threads):
    """(own, ours): what trains one more round."""
    data = xgb.DMatrix(x, y)
    settings = {
        "num_class": classes,
        "base_score": 0.5,
        "max_depth": 4,
        "nthread": threads,
        "objective": "multi:softprob",
    }
    own, ours = xgb.Booster(settings, [data]), xgb.Booster(settings, [data])
    objective = xgboost_objective()
    rounds = [0, 0]

    def one(which, booster, objective):
        booster.update(data, rounds[which], objective)
        rounds[which] += 1

    return lambda: one(0, own, None), lambda: one(1, ours, objective)


def boosters_of_lightgbm(x, y, classes, threads):
    """(own, ours): what trains one more round."""
    settings = {
        "num_class": classes,
        "boost_from_average": False,
        "num_leaves": 15,
        "num_threads": threads,
        "verbose": -1,
    }
    own = lgb.Booster(settings | {"objective": "multiclass"}, lgb.Dataset(x, y))
    ours = lgb.Booster(settings | {"objective": "none"}, lgb.Dataset(x, y))
    objective = lightgbm_objective()
    return own.update, lambda: ours.update(fobj=objective)


def main():
    """Print the least and the middle time of a round of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((asked.rows, asked.features), dtype=np.float32)
    y = (
        x @ rng.standard_normal((asked.features, asked.classes)) + rng.gumbel(size=(asked.rows, asked.classes))
    ).argmax(1)
    for library, boosters in (("XGBoost", boosters_of_xgboost), ("LightGBM", boosters_of_lightgbm)):
        steps = dict(zip(("own", "ours"), boosters(x, y, asked.classes, asked.threads), strict=True))
        times = {name: [] for name in steps}
        for n in range(asked.rounds + 2):
            for name, step in steps.items():
                begun = time.perf_counter()
                step()
                if n > 1:  # the first rounds build histograms' bins
                    times[name].append(1e3 * (time.perf_counter() - begun))
        least, middle = ({name: f(t) for name, t in times.items()} for f in (min, np.median))
        print(
            f"{library}: own objective {least['own']:.0f} ms a round (median {middle['own']:.0f}), "
            f"this package's {least['ours']:.0f} ({middle['ours']:.0f})"
        )


if __name__ == "__main__":
    main()
