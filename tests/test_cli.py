"""The command line, run in an empty directory: in a process of its own as by a user, or in this one, which is fast."""

import csv
import io
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from command_line import within
from subprocesses import run

for _needed in ("click", "rich", "matplotlib", "sklearn", "pandas", "skops"):
    pytest.importorskip(_needed, reason=f"the command line needs {_needed}")

PNG = b"\x89PNG\r\n\x1a\n"


def crossentropy(*arguments, cwd, code=0, **environment):
    """Standard output and error of the command, whose exit code must be as expected; no traceback, ever."""
    done = subprocess.run(
        [sys.executable, "-m", "crossentropy", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def number(pattern, text):
    return float(re.search(pattern + r"\s+(-?\d+\.\d+)", text).group(1))


def test_train_without_arguments(tmp_path):
    out, _ = crossentropy("train", cwd=tmp_path)
    assert number("accuracy", out) >= 0.965
    assert 0 < number("test loss", out) < 0.2
    assert number(r"H\(P,Q\)", out) >= number(r"H\(P\)", out) - 1e-6
    assert "cost" in out  # the progress bar
    results = tmp_path / "crossentropy-train"
    pictures = ["calibration.png", "confusion.png", "loss.png"]
    assert sorted(path.name for path in results.iterdir()) == [*pictures, "model.npz", "model.skops", "report.html"]
    for picture in pictures:
        assert (results / picture).read_bytes().startswith(PNG)
    page = (results / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == 3
    assert not re.findall(r"(?:src|href)=.https?:", page)  # a file by itself
    assert 'name="viewport"' in page


def test_the_table_adds_up_and_the_model_can_be_used(tmp_path):
    from sklearn.datasets import load_iris

    out, _ = crossentropy("train", "--data", "iris", "--out", "results", cwd=tmp_path)
    rows = re.findall(
        r"^(\w+) +(\d+) +(\d+) +(\d+) +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)", out, re.M
    )
    assert [row[0] for row in rows] == ["setosa", "versicolor", "virginica"]
    training, test, predicted, right = (sum(int(row[i]) for row in rows) for i in (1, 2, 3, 4))
    assert (training + test, predicted) == (150, test)
    assert number("accuracy", out) == pytest.approx(right / test, abs=1e-4)
    with np.load(tmp_path / "results" / "model.npz") as model:
        x, y = load_iris(return_X_y=True)
        z = (x - model["mean"]) / model["scale"] @ model["weights"] + model["bias"]
        assert (z.argmax(axis=1) == y).mean() > 0.95
        assert model["classes"].tolist() == ["setosa", "versicolor", "virginica"]


@pytest.fixture
def flowers(tmp_path):
    """A user's file, made of real measurements: header, quoted names, labels as words."""
    from sklearn.datasets import load_iris

    iris = load_iris()
    path = tmp_path / "flowers.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["species", *iris.feature_names])
        for x, y in zip(iris.data, iris.target, strict=True):
            writer.writerow([iris.target_names[y], *x])
    return path


def test_train_on_a_csv_file(flowers, tmp_path):
    out, _ = within("train", "--data", flowers, "--label", "species", "--class-weight", "balanced", cwd=tmp_path)
    assert "versicolor" in out
    assert number("accuracy", out) > 0.8


def test_train_on_a_csv_file_without_header_and_with_semicolons(flowers, tmp_path):
    lines = flowers.read_text().splitlines()[1:]
    numbers = {"setosa": "9", "versicolor": "10", "virginica": "11"}
    for name, number_ in numbers.items():
        lines = [line.replace(name, number_) for line in lines]
    flowers.write_text("\n".join(lines).replace(",", ";") + "\n\n")
    out, _ = within("train", "--data", flowers, "--label", "1", cwd=tmp_path)
    assert re.findall(r"^(9|10|11) +\d", out, re.M) == ["9", "10", "11"]  # as numbers, not as words


def test_train_on_an_npz_file(tmp_path):
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    np.savez(tmp_path / "wine.npz", measurements=x, cultivar=y)
    out, _ = within("train", "--data", "wine.npz", "--label", "cultivar", "--label-smoothing", "0.1", cwd=tmp_path)
    assert number("accuracy", out) > 0.9


def header_only(lines):
    return lines[:1]


BAD_FILES = {
    "a word among the numbers": (
        lambda lines: [*lines[:7], lines[7].replace("4.6", "four"), *lines[8:]],
        "column 'sepal length (cm)' is not numeric: observation 7 holds 'four'",
    ),
    "numbers past float64's square": (
        lambda lines: [*lines[:3], "setosa,1e308,1,1,1", *lines[4:], *["setosa,-1e308,1,1,1"] * 9],
        "feature 'sepal length (cm)' is too large to standardise",
    ),
    "infinity": (lambda lines: [*lines[:3], "setosa,1,inf,1,1", *lines[4:]], "of observation 3 is inf"),
    "one class": (lambda lines: lines[:51], "a single class, 'setosa'"),
    "a short line": (lambda lines: [*lines, "setosa,1,2"], "line 152 has 3 fields, the header has 5"),
    "no observations": (header_only, "no observations"),
    "nothing": (lambda lines: [], "empty file"),
    "no features": (lambda lines: [line.split(",")[0] for line in lines], "no features beside the label"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_csv_file_gets_one_line(flowers, tmp_path, name):
    change, message = BAD_FILES[name]
    flowers.write_text("\n".join(change(flowers.read_text().splitlines())))
    out, err = within("train", "--data", flowers, "--label", "species", cwd=tmp_path, code=2)
    assert message in err
    assert len(err.splitlines()) == 1
    assert "accuracy" not in out
    assert os.listdir(tmp_path) == ["flowers.csv"]


def test_other_bad_input_gets_one_line(flowers, tmp_path):
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81,1\n")
    (tmp_path / "no.npz").write_text("not an archive")
    (tmp_path / "file").write_text("")
    np.savez(tmp_path / "two.npz", a=np.zeros((4, 2)), b=np.zeros((4, 3)), y=np.arange(4))
    np.savez(tmp_path / "words.npz", a=np.full((4, 2), "x"), y=np.arange(4))
    np.savez(tmp_path / "objects.npz", a=np.full((4, 2), None), y=np.arange(4))
    np.savez(tmp_path / "ragged.npz", a=np.zeros((4, 2)), y=np.arange(3))
    np.savez(tmp_path / "continuous.npz", a=np.zeros((4, 2)), y=np.array([0.5, 1, 1, 0]))
    np.savez(tmp_path / "complex.npz", a=np.zeros((4, 2)), y=np.zeros(4, complex))
    np.savez(tmp_path / "infinite.npz", a=np.zeros((4, 2)), y=np.array([np.inf, 1, 1, 0]))
    np.save(tmp_path / "lone.npy", np.zeros((4, 2)))
    (tmp_path / "lone.npy").rename(tmp_path / "lone.npz")
    np.savez_compressed(tmp_path / "corrupt.npz", a=np.random.default_rng(0).random((400, 2)), y=np.zeros(400, int))
    damaged = bytearray((tmp_path / "corrupt.npz").read_bytes())
    damaged[200:1200] = bytes(1000)
    (tmp_path / "corrupt.npz").write_bytes(damaged)
    before = sorted(os.listdir(tmp_path))
    for arguments, message in (
        (["--data", "missing.csv"], "missing.csv: no such file"),
        (
            ["--data", "cifar"],
            "the data must be one of digits, wine, iris, breast_cancer, or a .csv, .tsv",
        ),
        (["--data", flowers], "--label must name the column of the labels; its columns are 'species'"),
        (["--data", flowers, "--label", "kind"], "no column 'kind'; its columns are 'species'"),
        (["--data", "binary.csv", "--label", "1"], "not a text file in utf-16"),
        (["--data", "iris", "--label", "x"], "--label goes with a file"),
        (["--data", "no.npz"], "not an .npz file"),
        (["--data", "two.npz"], "exactly one array beside 'y' must be a matrix of features; it holds 'a', 'b', 'y'"),
        (["--data", "two.npz", "--label", "z"], "no array 'z' for the labels"),
        (["--data", "words.npz"], "array 'a' is not numeric"),
        (["--data", "objects.npz"], "not an .npz file of plain arrays"),
        (["--data", "ragged.npz"], "one label a row is needed"),
        (["--data", "complex.npz"], "must be integers, strings or numbers, got complex128"),
        (["--data", "infinite.npz"], "a label is inf: labels must be finite"),
        (["--data", "lone.npz"], "--label must name the column"),
        (["--data", "corrupt.npz"], "not an .npz file"),
        (["--out", "file"], "--out file: file is not a directory"),
        (["--out", "file/below"], "is not a directory"),
        (["--learning-rate", "1e300"], "lower the learning rate"),
    ):
        out, err = within("train", *arguments, cwd=tmp_path, code=2)
        assert message in err, err
        assert len(err.splitlines()) == 1, err
        assert "accuracy" not in out
        assert sorted(os.listdir(tmp_path)) == before


def test_a_wrong_option_is_refused(tmp_path):
    wrong = [
        ["--epochs", "0"],
        ["--momentum", "1"],
        ["--nonsense"],
        ["--learning-rate", "nan"],
        ["--weight-decay", "inf"],
    ]
    for arguments in (*wrong, ["--label-smoothing", "nan"], ["--momentum", "nan"]):
        _, err = within("train", *arguments, cwd=tmp_path, code=2)
        assert arguments[0] in err


def test_plot(tmp_path):
    out, _ = crossentropy("plot", cwd=tmp_path)
    assert "figure1.png" in out
    assert (tmp_path / "figure1.png").read_bytes().startswith(PNG)
    within("plot", "--out", "pictures/loss.svg", cwd=tmp_path)
    assert b"<svg" in (tmp_path / "pictures" / "loss.svg").read_bytes()
    _, err = within("plot", "--out", "loss.txt", cwd=tmp_path, code=2)
    assert len(err.splitlines()) == 1


def test_figure_1_is_the_function():
    from crossentropy.cli import plots

    left, right = plots.figure_1().axes
    p, loss = left.lines[0].get_data()
    np.testing.assert_allclose(loss, -np.log(p), rtol=1e-13)
    np.testing.assert_allclose(right.lines[0].get_ydata(), p - 1, rtol=1e-12)
    np.testing.assert_allclose(right.lines[1].get_ydata(), -1 / p, rtol=1e-12)


def test_info(tmp_path):
    out, _ = crossentropy("info", cwd=tmp_path, CROSSENTROPY_NUM_THREADS="1")
    for text in ("backend native", "backend reference", "CROSSENTROPY_NUM_THREADS"):
        assert text in out
    from crossentropy import native

    assert re.search(rf"threads: +1 \({native.THREADS}\)", out)
    for text in ("CPU: ", "compiler: ", "OpenMP: ", "torch: ", "jax: ", "numba: ", "NumPy: "):
        assert f"\n{text}" in out
    narrow, _ = crossentropy("info", cwd=tmp_path, CROSSENTROPY_NUM_THREADS="1", COLUMNS="30")
    assert narrow == out  # lines to be copied are never folded


def test_a_bad_environment_variable_gets_one_line(tmp_path):
    for command in ("info", "train", "plot"):
        for variable in ("CROSSENTROPY_ISA", "CROSSENTROPY_BACKEND", "CROSSENTROPY_NUM_THREADS"):
            _, err = crossentropy(command, cwd=tmp_path, code=2, **{variable: "sse9"})
            assert "must be" in err
            assert len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == []


def test_names_that_rich_and_matplotlib_could_take_for_markup(flowers, tmp_path):
    text = flowers.read_text().replace("setosa", "[/b]").replace("versicolor", "$10_$20").replace("virginica", "[red]")
    flowers.write_text(text)
    out, _ = within("train", "--data", flowers, "--label", "species", cwd=tmp_path)
    for name in ("[/b]", "$10_$20", "[red]"):
        assert name in out


def test_a_stream_that_lacks_the_symbols(tmp_path):
    crossentropy("train", "--data", "iris", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (tmp_path / "crossentropy-train" / "model.npz").exists()
    crossentropy("plot", "--help", cwd=tmp_path, PYTHONIOENCODING="ascii")


def test_a_column_that_hardly_varies_and_labels_past_2_53(flowers, tmp_path):
    lines = flowers.read_text().splitlines()
    rows = [line.split(",", 1) for line in lines[1:]]
    label = {"setosa": 9007199254740992, "versicolor": 9007199254740993, "virginica": 3}
    body = [f"{label[name]},{0.1 if i else 0.2},{rest}" for i, (name, rest) in enumerate(rows)]
    flowers.write_text("\n".join(["species,constant," + lines[0].split(",", 1)[1], *body]))
    out, _ = within("train", "--data", flowers, "--label", "species", "--seed", "1", cwd=tmp_path)
    assert "9007199254740993" in out
    assert number("test loss", out) < 5


def test_info_says_why_a_backend_is_missing(tmp_path):
    code = """
import sys
sys.modules["crossentropy._native"] = None
from crossentropy.__main__ import main
sys.argv = ["crossentropy", "info"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stderr
    assert "missing: the compiled module crossentropy._native is missing" in done.stdout.replace("\n", " ")


def test_without_the_extra_one_line_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['click'] = None; from crossentropy.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stderr.strip() == "crossentropy: the command line needs click: python -m pip install 'crossentropy[cli]'"
    )


def test_the_version_without_the_extra(tmp_path):
    code = """
import sys
sys.modules['click'] = None
sys.argv = ['crossentropy', '--version']
from crossentropy.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    with_it, _ = within("--version", cwd=tmp_path)
    assert (done.stdout, done.returncode) == (with_it, 0)


def test_help_and_version_import_nothing_heavy():
    code = """
import sys
from crossentropy.cli.app import main
try:
    main([sys.argv[1]], prog_name="crossentropy")
except SystemExit:
    pass
print([name for name in ("pandas", "sklearn", "matplotlib", "skops", "scipy", "torch", "rich") if name in sys.modules])
"""
    for option in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "[]", done.stdout


@pytest.mark.parametrize(
    ("name", "least"), [("iris", 0.96), ("digits", 0.965), ("wine", 0.96), ("breast_cancer", 0.963)]
)
def test_the_defaults_do_well(tmp_path, name, least):
    """On the mean of four splits: as scikit-learn's LogisticRegression within a hundredth (docs/command_line.md)."""
    found = []
    for seed in range(4):
        out, _ = within("train", "--data", name, "--seed", seed, "--force", cwd=tmp_path)
        found.append(number("accuracy", out))
    assert np.mean(found) >= least, found


def test_the_epoch_that_is_kept_is_the_last_one_as_good_as_the_best():
    from crossentropy import training
    from crossentropy.cli import fitting

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 2)), rng.integers(0, 2, 400)
    watch, models = fitting._Watch(patience=2), []
    for slope in (4.0, 0.0, 0.02, 3.0, 5.0):  # of labels that nothing tells: 0 is best, 0.02 can't be told from it
        models.append(training.Model(np.array([[0, slope], [0, slope]]), np.zeros(2)))
        loss, ended = watch.after_epoch(len(models) - 1, models[-1], x, y)
        assert loss == pytest.approx(models[-1].loss(x, y))
    assert watch.kept == 2
    np.testing.assert_array_equal(watch.weights.weights, models[2].weights)
    assert ended


def test_what_validated_is_trained_on_in_the_end(tmp_path):
    out, _ = within("train", "--data", "iris", "--epochs", "5", cwd=tmp_path)
    assert "then anew with the validation part: 5 epochs" in out
    from crossentropy import training
    from crossentropy.cli import bundled, labels, model, train

    table, texts, columns = bundled.load("iris")
    y = np.unique(texts, return_inverse=True)[1]
    fitted, watched, _ = train.split(y, 0.25, 0.15, 0)
    rows = np.concatenate([fitted, watched])
    x = model.fit_features(model.features(columns), table.frame, rows)
    made, _ = training.fit(x, y[rows], epochs=5, learning_rate=0.05, weight_decay=0.002)
    assert labels.natural(set(texts)) == sorted(set(texts))
    with np.load(tmp_path / "crossentropy-train" / "model.npz") as saved:
        np.testing.assert_allclose(saved["weights"], made.weights, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("moment", ["reading", "to train"])
def test_an_interrupt_leaves_nothing(tmp_path, moment):
    """While a file is read, and while a model is trained."""
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.standard_normal((40_000, 8)).round(5), rng.integers(0, 3, 40_000)])
    np.savetxt(tmp_path / "large.csv", rows, "%g", ",", header=",".join("abcdefghy"), comments="")
    started = subprocess.Popen(
        [sys.executable, "-u", "-m", "crossentropy", "train", "--data", "large.csv", "--label", "y", "--patience", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    for line in started.stdout:
        if moment in line:
            break
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 1, err
    assert err.strip() == "Aborted!"
    assert os.listdir(tmp_path) == ["large.csv"]


def test_an_interrupt_before_there_is_a_command_is_told_as_any():
    """While modules are imported, which takes longest where files are cold."""
    program = """
import sys
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "crossentropy.cli.app":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from crossentropy.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert (done.stdout, done.stderr.strip()) == ("", "Aborted!")


def test_an_interrupt_that_an_import_loses_is_not_lost(tmp_path):
    """As some extension modules do: the error of what they call is gone when they are imported."""
    (tmp_path / "loses.py").write_text(
        """
import signal, time
try:
    signal.raise_signal(signal.SIGINT)
    time.sleep(0.2)
except BaseException:
    pass
imported = True
"""
    )
    out = run(
        """
        import time
        from crossentropy.cli.interrupts import none_is_lost
        try:
            with none_is_lost():
                import loses
                time.sleep(30)
        except KeyboardInterrupt:
            print(loses.imported)
        """,
        PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
    )
    assert out.strip() == "True"


def test_a_second_interrupt_does_not_wait_for_an_import(tmp_path):
    """Which may never end, as of files on a server that is gone."""
    (tmp_path / "hangs.py").write_text(
        """
import signal, time
signal.raise_signal(signal.SIGINT)
print("waits", flush=True)
time.sleep(0.2)
signal.raise_signal(signal.SIGINT)
time.sleep(30)
"""
    )
    out = run(
        """
        import time
        from crossentropy.cli.interrupts import none_is_lost
        try:
            with none_is_lost():
                import hangs
        except KeyboardInterrupt:
            time.sleep(0.2)  # in which no other comes
            print("stopped")
        """,
        PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
    )
    assert out.split() == ["waits", "stopped"]


def test_a_second_run_asks_or_is_forced(tmp_path, monkeypatch):
    quick = "train", "--data", "iris", "--epochs", "2"
    within(*quick, cwd=tmp_path)
    before = (tmp_path / "crossentropy-train" / "model.npz").read_bytes()
    _, err = within(*quick, cwd=tmp_path, code=2)
    assert "it already holds loss.png" in err
    assert "--force writes over them" in err

    class Person(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Person("n\n"))
    within(*quick, "--seed", "1", cwd=tmp_path, code=1)
    assert (tmp_path / "crossentropy-train" / "model.npz").read_bytes() == before
    monkeypatch.setattr(sys, "stdin", Person("y\n"))
    within(*quick, "--seed", "1", cwd=tmp_path)
    within(*quick, "--seed", "2", "--force", cwd=tmp_path)
    assert (tmp_path / "crossentropy-train" / "model.npz").read_bytes() != before


def test_a_rate_that_makes_the_cost_run_away_is_said(tmp_path):
    out, _ = within("train", "--data", "digits", "--learning-rate", "100", cwd=tmp_path)
    assert re.search("note: the cost ran away: .* --learning-rate 100 is too high", out)
    assert "ran away" in (tmp_path / "crossentropy-train" / "report.html").read_text(encoding="utf-8")
    for name in ("digits", "iris"):
        assert "ran away" not in within("train", "--data", name, "--force", cwd=tmp_path)[0]


def test_a_class_never_predicted_is_named_and_no_infinity_is_printed(tmp_path):
    rng = np.random.default_rng(0)
    y = np.where(np.arange(400) % 40 == 0, "rare", "usual")
    np.savez(tmp_path / "noise.npz", x=rng.standard_normal((400, 2)), y=y)
    out, _ = within("train", "--data", "noise.npz", cwd=tmp_path)
    assert "have no finite value, since 'rare' was never predicted" in out
    assert not re.search(r"\b(inf|nan)\b", out)


@pytest.mark.parametrize("columns", ["60", None])
def test_a_narrow_terminal_and_a_pipe(flowers, tmp_path, columns):
    """No line of a table is longer than 60 columns; in a pipe tables are not folded, and there are no escapes."""
    environment = {} if columns is None else {"COLUMNS": columns}
    done = subprocess.run(
        [sys.executable, "-m", "crossentropy", "train", "--data", flowers, "--label", "species", "--epochs", "3"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | environment,
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    table = [line for line in done.stdout.splitlines() if re.match(r"class |─|versicolor |virginica |sepal ", line)]
    assert len(table) >= 6
    assert max(map(len, (line.rstrip() for line in table))) <= (60 if columns else 200)
    for word in ("precision", "recall", "F1", "versicolor"):
        assert word in done.stdout
    assert done.stdout.startswith("reading flowers")


def test_no_two_commands_write_a_file_of_the_same_name():
    from crossentropy.bench import OPS, plots
    from crossentropy.cli import evaluate, train

    figures = [f"bench-{plots.file_name(op)}.png" for op in OPS]
    names = [*train.FILES, *evaluate.FILES, "figure1.png", "bench.json", *figures]
    assert len(set(names)) == len(names)


def test_pictures_of_any_number_of_classes_and_of_a_run_that_diverged():
    from crossentropy.cli import fitting, plots, scores

    rng = np.random.default_rng(0)
    for k in (2, 20, 21, 150):
        z, y = rng.standard_normal((600, k)), np.arange(600) % k
        found = scores.score(z, y, [f"class {c}" for c in range(k)])
        made = plots.confusion(y, found.predicted, found.classes)
        matrix, bar = made.axes
        assert bar.get_ylabel() == "share of the true class"
        assert bool(matrix.texts) == (k <= 20)
        shares = np.asarray(matrix.images[0].get_array())
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        plots.calibration(found).savefig(io.BytesIO())
        made.savefig(io.BytesIO())
    costs = np.geomspace(1e-9, 1e30, 40).reshape(4, 10)
    history = fitting.History(costs, [1.0, 1e10, 1e20, 1e30], [np.nan] * 4, 0, "", "it ran away")
    made = plots.cost(history, "$x$")
    made.savefig(io.BytesIO())
    low, high = made.axes[0].get_ylim()
    assert 0 < low < high < np.inf


def test_calibration_is_scikit_learns_and_its_error_the_mean_distance():
    from crossentropy import softmax
    from crossentropy.cli import scores

    rng = np.random.default_rng(1)
    z, y = rng.standard_normal((500, 3)) * 2, rng.integers(0, 3, 500)
    found = scores.score(z, y, list("abc"))
    confidence, right = softmax(z).max(axis=1), z.argmax(axis=1) == y
    group = np.searchsorted(np.percentile(confidence, np.arange(10, 100, 10)), confidence)
    distance = [abs(right[group == g].mean() - confidence[group == g].mean()) for g in range(10)]
    assert found.calibration_error == pytest.approx(np.average(distance, weights=np.bincount(group)))


def test_the_benchmarks_chart_shows_every_implementation():
    """Also one that has no colour of its own, or was timed on small arrays alone, for which there is no roof."""
    from crossentropy.bench import plots

    names = ["crossentropy", "torch", "crossentropy.torch", "reference", "some other"]
    record = {"op": "loss", "dtype": "float32", "inputs": "normal", "axis": -1, "isa": "avx2", "shape": [32, 10]}
    records = [record | {"implementation": name, "gb_per_s": 1.0, "roof_gb_per_s": None} for name in names]
    records.append(record | {"implementation": "torch", "gb_per_s": 2.0, "roof_gb_per_s": 9.0, "shape": [64, 1000]})
    shown = [line.get_label() for line in plots.rates(records, "loss", every=True).axes[0].lines]
    assert shown == [
        "the roof: memory alone",
        "crossentropy, avx2",
        "torch",
        "crossentropy.torch",
        "reference",
        "some other",
    ]
    assert [line.get_label() for line in plots.rates(records, "loss").axes[0].lines] == [
        "the roof: memory alone",
        "torch",
    ]


def test_without_a_command_there_is_a_tour(tmp_path):
    """On a screen of 80 columns and 24 lines, with every command."""
    from crossentropy.cli.app import COMMANDS

    out, _ = within(cwd=tmp_path)
    assert len(out.splitlines()) <= 23
    assert max(map(len, out.splitlines())) <= 80
    for name in COMMANDS:
        assert f"crossentropy {name}" in out
    assert "thread" in out or "says why" in out
