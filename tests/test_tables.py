"""The command line on files as people have them: those of tests/data, and kinds made here, give what is right."""

import gc
import gzip
import io
import json
import multiprocessing
import os
import pathlib
import re
import sys
import zipfile

import numpy as np
import pytest
from command_line import within

for _needed in ("click", "rich", "matplotlib", "sklearn", "pandas", "skops"):
    pytest.importorskip(_needed, reason=f"the command line needs {_needed}")

HERE = pathlib.Path(__file__).parent / "data"
QUICK = "--epochs", "3", "--patience", "0"


def train(path, label, *options, cwd, code=0):
    """What the command says of a file, on both streams."""
    out, err = within("train", "--data", path, f"--label={label}", "--force", *QUICK, *options, cwd=cwd, code=code)
    return out + err


def classes_of(cwd):
    with np.load(cwd / "crossentropy-train" / "model.npz") as model:
        return model["classes"].tolist()


def features_of(cwd):
    with np.load(cwd / "crossentropy-train" / "model.npz") as model:
        return model["features"].tolist()


# The file, its label, what must be said (regular expressions), the classes, the features.
FILES = [
    ("missing.csv", "churn", [r"income +number +24", r"score +number +14"], ["maybe", "no", "yes"], 6),
    (
        "categories_str.csv",
        "segment",
        ["city +category +8 categories", "sex +category +2 categories"],
        ["0", "1", "2"],
        ["age", "income", "city_", "sex_F", "sex_M"],
    ),
    (
        "excel_eu.csv",
        "Klasse",
        ["separated by semicolons", "byte-order mark", "decimal commas", "Länge +number"],
        ["a", "b", "c"],
        ["Länge", "Breite", "Höhe", "Gewicht"],
    ),
    ("latin1.csv", "Klasse", ["cp1252", "Länge", "Höhe"], ["a", "b", "c"], ["Länge", "Breite", "Höhe", "Gewicht"]),
    *(
        (
            "headerless_words.csv",
            label,
            ["no header: columns are numbered from 1"],
            ["Iris-setosa", "Iris-versicolor", "Iris-virginica"],
            ["1", "2", "3", "4"],
        )
        for label in ("5", "-1")
    ),
    ("float_label12.csv", "label", ["12 classes"], [f"{c}.0" for c in range(12)], ["a", "b", "c", "d"]),
    ("pandas_index.csv", "label", ["column 1 +left out +an index"], ["0", "1", "2"], ["a", "b"]),
    (
        "rare.csv",
        "label",
        ["'unicorn' occurs once: trained on, and not tested"],
        ["a", "b", "c", "unicorn"],
        ["a", "b"],
    ),
    ("comment.csv", "label", ["# skipped", "header in line 2"], ["0.0", "1.0", "2.0"], ["a", "b", "c", "d"]),
    *(
        (
            file,
            "species",
            [r"sepal, width +number"],
            ["setosa blue", "versi,color", 'virgi"nica'],
            ["sepal length (cm)", "sepal, width", "petal", "noise"],
        )
        for file in ("quoted.csv", "zipped.csv.gz")
    ),
]


@pytest.mark.parametrize(("file", "label", "said", "classes", "features"), FILES)
def test_a_file_as_people_have_it(tmp_path, file, label, said, classes, features):
    out = train(HERE / file, label, cwd=tmp_path)
    assert "400 observations" in out
    for words in said:
        assert re.search(words, out), f"{words} in\n{out}"
    assert classes_of(tmp_path) == classes
    found = features_of(tmp_path)
    if isinstance(features, int):
        assert len(found) == features
    else:
        assert [name for name in found if not any(map(name.startswith, features))] == []
        assert len(found) >= len(features)


def test_the_zipped_file_gives_what_the_plain_one_does(tmp_path):
    models = []
    for file in ("quoted.csv", "zipped.csv.gz"):
        train(HERE / file, "species", cwd=tmp_path)
        with np.load(tmp_path / "crossentropy-train" / "model.npz") as model:
            models.append(model["weights"])
    np.testing.assert_array_equal(*models)


def lines(*columns, header=None, delimiter=",", count=60):
    """A file of that many lines, each column by a function of the line's number."""
    body = [delimiter.join(str(column(i)) for column in columns) for i in range(count)]
    return "\n".join([header, *body] if header else body) + "\n"


def label(i):
    return "abc"[i % 3]


def x(i):
    return round((i * 37 % 101) / 10 + i % 3, 1)


def comma(i):
    return str(x(i)).replace(".", ",")


# Made here: the text, its label, options, what must be said.
MADE = {
    "thousands": (
        lines(lambda i: f'"{1000 + 137 * i:,}"', x, label, header="a,b,y"),
        "y",
        [],
        ["a +number", "between thousands"],
    ),
    "thousands and decimal commas": (
        lines(lambda i: f"1.{100 + i},{i % 10}", comma, label, header="a;b;y", delimiter=";"),
        "y",
        [],
        ["decimal commas", r"a +number", r"b +number"],
    ),
    "per cent": (lines(lambda i: f"{x(i)}%", x, label, header="a,b,y"), "y", [], ["a +number +per cent"]),
    "a label that is blank": (
        lines(x, lambda i: "" if i == 7 else label(i), header="a,y"),
        "y",
        [],
        ["1 observation without a label left out", "59 observations"],
    ),
    "booleans": (
        lines(lambda i: i % 2 == 0, lambda i: "yno"[i % 2], label, header="a,b,y"),
        "y",
        [],
        ["a +boolean", "b +boolean"],
    ),
    "dates": (
        lines(
            lambda i: f"2024-{i % 12 + 1:02}-{i % 28 + 1:02}",
            lambda i: f"{i % 28 + 1:02}.03.2023",
            label,
            header="a,b,y",
        ),
        "y",
        [],
        ["a +date", "b +date"],
    ),
    "times of day": (
        lines(lambda i: f"2024-01-02 {i % 24:02}:{i:02}:00", x, label, header="a,b,y"),
        "y",
        [],
        ["a +date"],
    ),
    "tabs": (lines(x, x, label, header="a\tb\ty", delimiter="\t"), "y", [], ["separated by tabs"]),
    "white space": (lines(x, x, label, header="a b y", delimiter=" "), "y", [], ["separated by white space"]),
    "bars": (lines(x, x, label, header="a|b|y", delimiter="|"), "y", [], ["separated by bars"]),
    "a delimiter of one's own": (lines(x, x, label, header="a:b:y", delimiter=":"), "y", ["--delimiter", ":"], ["':'"]),
    "nan": (lines(lambda i: "nan" if i % 9 == 0 else x(i), label, header="a,y"), "y", [], ["a +number +7"]),
    "missing values of one's own": (
        lines(lambda i: "-999" if i % 9 == 0 else "oops" if i == 1 else x(i), label, header="a,y"),
        "y",
        ["--na", "-999", "--na", "oops"],
        ["a +number +8"],
    ),
    "a label that looks continuous": (
        lines(x, lambda i: round(i % 29 + 0.37 * (i % 2), 2), header="a,y"),
        "y",
        [],
        ["label 'y' looks continuous"],
    ),
    "a title above": (
        "Report of 2024\n\n" + lines(x, x, label, header="a,b,y"),
        "y",
        [],
        ["1 line of text above skipped", "header in line 3"],
    ),
    "words without a header": (
        lines(
            lambda i: ["sunny", "rain"][i % 2], lambda i: ["hot", "cool", "mild"][i % 3], lambda i: ["no", "yes"][i % 2]
        ),
        "3",
        [],
        ["no header"],
    ),
    "words with a header": (
        lines(lambda i: ["sunny", "rain"][i % 2], lambda i: ["no", "yes"][i % 2], header="sky,play"),
        "play",
        [],
        ["header in line 1", "sky +category"],
    ),
    "numbers and no header, said": (lines(x, x, label), "-1", ["--no-header"], ["no header", "60 observations"]),
    "numbers as names": (lines(x, x, label, header="0,1,y"), "y", [], ["header in line 1", "60 observations"]),
    "numbers as names and labels": (lines(x, x, lambda i: i % 3, header="0,1,2"), "2", [], ["header in line 1"]),
    "names of rows": (
        lines(lambda i: f"row{i}", x, label, header="a,y"),
        "y",
        [],
        ["column 1 +left out +an identifier"],
    ),
    "an identifier": (
        lines(lambda i: 7919 * i % 10007, x, label, header="user_id,b,y"),
        "y",
        [],
        ["user_id +left out +an identifier"],
    ),
    "an identifier to keep": (
        lines(lambda i: 7919 * i % 10007, x, label, header="user_id,b,y"),
        "y",
        ["--keep", "user_id"],
        ["user_id +number"],
    ),
    "a column to drop": (lines(x, x, label, header="a,b,y"), "y", ["--drop", "b"], ["b +left out +--drop"]),
    "a column that is the same everywhere": (
        lines(lambda i: 5, lambda i: "k", x, label, header="a,b,c,y"),
        "y",
        [],
        ["a +left out +the same everywhere", "b +left out +the same everywhere"],
    ),
    "text": (
        lines(lambda i: f"some words {i % 110} and others", x, label, header="a,b,y", count=150),
        "y",
        [],
        ["a +left out +text: 110 different values"],
    ),
    "Windows' line ends and a last comma": (
        lines(x, x, label, lambda i: "", header="a,b,y,").replace("\n", "\r\n"),
        "y",
        [],
        ["column 4 +left out +60 +no values"],
    ),
    "line ends of old Macs": (
        lines(x, x, label, header="a,b,y").replace("\n", "\r"),
        "y",
        [],
        ["60 observations", "a +number"],
    ),
    "commas within quotes, over two lines": (
        lines(lambda i: f'"a, {i % 2}\nb"', x, label, header="a,b,y"),
        "y",
        [],
        ["60 observations", "a +category +2 categories"],
    ),
    "a quotation mark within a field": (
        lines(lambda i: f'{i % 2} 1/2" pipe', x, label, header="a,b,y"),
        "y",
        [],
        ["60 observations", "a +category +2 categories"],
    ),
    "money, and losses in brackets": (
        lines(
            lambda i: f"-${x(i)}" if i % 3 else f"${x(i)}",
            lambda i: f"({x(i)})" if i % 3 else x(i),
            lambda i: f"{x(i)} EUR",
            label,
            header="a,b,c,y",
        ),
        "y",
        [],
        [r"a +number", r"b +number", r"c +number +in EUR"],
    ),
    "units, typographic minus signs, and rooms": (
        lines(lambda i: f"{x(i)} kg", lambda i: f"\u2212{x(i)}", lambda i: f"{i % 7}B", label, header="a,b,c,y"),
        "y",
        [],
        ["a +number +in kg", "b +number", "c +category +7 categories"],
    ),
    "durations of more than a day": (
        lines(lambda i: f"{i % 50}:{i % 60:02}:00", label, header="a,y"),
        "y",
        [],
        ["a +number +a duration, in seconds"],
    ),
    "dates in two ways": (
        lines(lambda i: f"{i % 28 + 1:02}.01.2024" if i % 5 else f"2024-01-{i % 28 + 1:02}", label, header="a,y"),
        "y",
        [],
        ["a +date +written in two ways"],
    ),
    "comments among the lines": (
        "# one\na,b,y\n" + lines(x, x, label).replace("\n", "\n# more, of them\n", 3),
        "y",
        [],
        ["60 observations"],
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_a_kind_of_file(tmp_path, name):
    text, column, options, said = MADE[name]
    (tmp_path / "table.csv").write_text(text, newline="")
    out = train("table.csv", column, *options, cwd=tmp_path)
    for words in said:
        assert re.search(words, out), f"{words} in\n{out}"


@pytest.mark.parametrize(
    "classes",
    [
        ["0007", "007", "7"],  # equal as numbers: in the order of the text
        ["01", "1", "2", "10"],
        ["-2", "0", "9.5", "10.0", "1e3"],
        ["a2", "a10", "b1"],
        ["2024-01-05", "2024-02-01"],
        ["9007199254740992", "9007199254740993"],  # one float64
        ["NA", "other"],
        ["False", "True"],
    ],
)
def test_labels_are_text_as_written_in_natural_order(tmp_path, classes):
    (tmp_path / "table.csv").write_text(lines(x, lambda i: classes[::-1][i % len(classes)], header="a,y"))
    train("table.csv", "y", cwd=tmp_path)
    assert classes_of(tmp_path) == classes


def made_frame():
    import pandas as pd

    return pd.DataFrame(
        {
            "a": [float(x(i)) if i % 7 else None for i in range(60)],
            "city": [["Oslo", "Nice", None][i % 3] for i in range(60)],
            "when": pd.to_datetime(["2024-01-05 09:30"] * 30 + ["2024-06-01 10:00"] * 30),
            "sure": [i % 2 == 0 for i in range(60)],
            "y": ["7", "007", "0007"] * 20,
        }
    )


@pytest.mark.parametrize(
    "kind", ["parquet", "json", "jsonl", "jsonl.gz", "csv.zst", "tsv", "utf-16", "stdin", "xlsx", "zip"]
)
def test_other_kinds_of_files(tmp_path, kind, monkeypatch):
    frame, file, options = made_frame(), tmp_path / f"table.{kind}", []
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(file)
    elif kind.startswith("json"):
        text = frame.assign(when=frame.when.astype(str)).to_json(orient="records", lines=kind != "json")
        file.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    elif kind == "csv.zst":
        zstandard = pytest.importorskip("zstandard")
        file.write_bytes(zstandard.compress(frame.to_csv(index=False).encode()))
    elif kind == "xlsx":
        pytest.importorskip("openpyxl")
        frame.to_excel(file, index=False, startrow=2, startcol=1)
    elif kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("folder/table.csv", frame.to_csv(index=False))
            archive.writestr("__MACOSX/._table.csv", "\0")
    elif kind == "tsv":
        frame.to_csv(file, sep="\t", index=False)
    else:
        file = tmp_path / "table.csv"
        frame.to_csv(file, index=False, encoding="utf-16" if kind == "utf-16" else "utf-8")
    if kind == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
        file = "-"
    out = train(file, "y", *options, cwd=tmp_path)
    for words in ("60 observations", "a +number +9", "city +category +20", "when +date", "sure +boolean"):
        assert re.search(words, out), f"{words} in\n{out}"
    assert sorted(classes_of(tmp_path)) == ["0007", "007", "7"]


def test_numpy_files(tmp_path):
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.standard_normal((60, 3)), np.arange(60) % 3])
    np.save(tmp_path / "m.npy", values)
    out = train("m.npy", "-1", cwd=tmp_path)
    assert classes_of(tmp_path) == ["0", "1", "2"]
    assert "columns are numbered from 1" in out
    np.savez(tmp_path / "m.npz", x=values[:, :3], y=np.array(["b10", "b9", "b1"])[np.arange(60) % 3])
    train("m.npz", "y", cwd=tmp_path)
    assert classes_of(tmp_path) == ["b1", "b9", "b10"]


BAD = {
    "a line cut short": ("a,b,y\n" + lines(x, x, label) + "1,2\n", [], "line 62 has 2 fields, the header has 3"),
    "a line too long": ("a,b,y\n" + lines(x, x, label) + "1,2,a,4\n", [], "line 62 has 4 fields, the header has 3"),
    "a short line past the sample": (
        lines(x, x, label, header="a,b,y", count=60_000) + "1,2\n" + lines(x, x, label),
        [],
        "line 60002 has 2 fields",
    ),
    "a word among the numbers": (
        lines(lambda i: "four" if i == 6 else x(i), x, label, header="a,b,y"),
        [],
        "column 'a' is not numeric: observation 7 holds 'four', as 1 of 60 values are no numbers; "
        "--na 'four' takes it as missing, --drop 'a' leaves the column out",
    ),
    "a word far down": (
        lines(x, x, label, header="a,b,y", count=60_000) + "oops,2,a\n",
        [],
        "column 'a' is not numeric: observation 60001 holds 'oops'",
    ),
    "a page of the web": ("<!DOCTYPE html>\n<html>404</html>\n", [], "a page of HTML or XML, not a table"),
    "another delimiter": (lines(x, label, header="a~y", delimiter="~"), [], "'a~y': --delimiter, if something else"),
    "a header that comes again": (
        lines(x, label, header="a,y") + lines(x, label, header="a,y"),
        [],
        "no header was recognised: --header, if there is one",
    ),
    "infinity": (lines(lambda i: "inf" if i == 2 else x(i), label, header="a,y"), [], "of observation 3 is inf"),
    "two columns of that name": (lines(x, label, label, header="a,y,y"), [], "column 'y' occurs twice"),
    "every label once": (lines(x, lambda i: f"w{i}", header="a,y"), [], "every label of 'y' occurs once"),
    "labels all blank": (lines(x, lambda i: "", header="a,y"), [], "every label is blank"),
    "an encoding there is not": (lines(x, label, header="a,y"), ["--encoding", "utf-99"], "knows no encoding 'utf-99'"),
    "no column to drop": (lines(x, label, header="a,y"), ["--drop", "q"], "no column 'q'; its columns are 'a', 'y'"),
    "nothing left": (lines(x, label, header="a,y"), ["--drop", "a"], "no features beside the label"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_can_not_be_read_gets_one_line(tmp_path, name):
    text, options, message = BAD[name]
    (tmp_path / "table.csv").write_text(text)
    _, err = within("train", "--data", "table.csv", "--label", "y", *options, cwd=tmp_path, code=2)
    assert message in err
    assert len(err.splitlines()) == 1


def test_no_class_is_without_training(tmp_path):
    """A test part so large that scikit-learn's would leave the rare classes out of training."""
    names = "a" * 100 + "bb" + "cc" + "dd"
    (tmp_path / "rare.csv").write_text("x,y\n" + "".join(f"{x(i)},{name}\n" for i, name in enumerate(names)))
    out = train("rare.csv", "y", "--class-weight", "balanced", "--test-fraction", "0.8", cwd=tmp_path)
    assert re.search("trained 3 of", out)
    for name in "abcd":
        assert int(re.search(rf"^{name} +(\d+)", out, re.MULTILINE).group(1)) >= 1


def test_predict_and_evaluate_take_the_data_as_train_did(tmp_path):
    import pandas as pd
    from skops import io as skops_io

    from crossentropy.cli.model import TYPES

    frame = made_frame()
    frame.to_csv(tmp_path / "table.csv", index=False)
    train("table.csv", "y", cwd=tmp_path)
    model = "crossentropy-train/model.skops"
    out, err = within("predict", model, "table.csv", "--probabilities", cwd=tmp_path)
    table = pd.read_csv(io.StringIO(out), dtype={"predicted": str})
    assert list(table.columns) == ["predicted", "probability", "p(0007)", "p(007)", "p(7)"]
    assert len(table) == 60
    assert set(table.predicted) <= {"7", "007", "0007"}
    np.testing.assert_allclose(table.iloc[:, 2:].sum(axis=1), 1, atol=1e-5)
    # The same without the label, in another order, with a category and a word that the model has not seen.
    other = frame.drop(columns="y")[["sure", "city", "a", "when"]].astype({"a": object})
    other.loc[0, "city"], other.loc[1, "a"] = "Rome", "oops"
    other.to_csv(tmp_path / "other.csv", index=False)
    again, err = within("predict", model, "other.csv", "--out", "p.csv", cwd=tmp_path)
    assert again == ""
    assert "1 value of column 'a' can't be read as the model's data" in err
    same = pd.read_csv(tmp_path / "p.csv", dtype={"predicted": str})
    assert same.predicted[2:].tolist() == table.predicted[2:].tolist()
    _, err = within("predict", model, "other.csv", "--out", "p.csv", cwd=tmp_path, code=2)
    assert "--force" in err
    # In Python, as docs/command_line.md says.
    saved = skops_io.load(tmp_path / model, trusted=TYPES)
    columns = frame.drop(columns="y").assign(sure=frame.sure.astype(float))
    assert saved["pipeline"].predict(columns).tolist() == table.predicted.tolist()
    out, _ = within("evaluate", model, "table.csv", "--out", "evaluated", cwd=tmp_path)
    accuracy = float(re.search(r"accuracy +([\d.]+)", out).group(1))
    assert accuracy == pytest.approx((table.predicted == frame.y).mean(), abs=1e-4)
    names = {"evaluation.html", "evaluation-confusion.png", "evaluation-calibration.png"}
    assert {path.name for path in (tmp_path / "evaluated").iterdir()} == names
    _, err = within("evaluate", model, "other.csv", cwd=tmp_path, code=2)
    assert "no column 'y'" in err
    for bad in ("table.csv", "nothing.skops"):
        _, err = within("predict", bad, "table.csv", cwd=tmp_path, code=2)
        assert len(err.splitlines()) == 1
    frame.drop(columns="city").to_csv(tmp_path / "less.csv", index=False)
    _, err = within("predict", model, "less.csv", cwd=tmp_path, code=2)
    assert "no column 'city', which the model needs" in err


def test_predict_on_data_without_header(tmp_path):
    train(HERE / "headerless_words.csv", "-1", cwd=tmp_path)
    model = "crossentropy-train/model.skops"
    whole, _ = within("predict", model, HERE / "headerless_words.csv", cwd=tmp_path)
    rows = (HERE / "headerless_words.csv").read_text().splitlines()
    (tmp_path / "features.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows) + "\n")
    assert within("predict", model, "features.csv", cwd=tmp_path)[0] == whole
    # The label first: then the numbers of the columns after it are one less without it.
    moved = [f"{row.rpartition(',')[2]},{row.rpartition(',')[0]}" for row in rows]
    (tmp_path / "moved.csv").write_text("\n".join(moved) + "\n")
    train("moved.csv", "1", cwd=tmp_path)
    assert (
        within("predict", model, "features.csv", cwd=tmp_path)[0]
        == within("predict", model, "moved.csv", cwd=tmp_path)[0]
    )


def test_evaluate_tells_of_labels_that_the_model_does_not_know(tmp_path):
    train(HERE / "comment.csv", "label", cwd=tmp_path)
    text = (HERE / "comment.csv").read_text().replace(",2.0\n", ",9\n", 3).replace(",1.0\n", ",\n", 1)
    (tmp_path / "other.csv").write_text(text)
    out, _ = within("evaluate", "crossentropy-train/model.skops", "other.csv", cwd=tmp_path)
    assert "1 observation without a label left out" in out
    assert "3 observations of classes that the model does not know left out: '9'" in out
    assert "396 observations" in out


def test_a_large_file_in_blocks_is_as_a_small_one(tmp_path, monkeypatch):
    """Features a block at a time, medians of a sample: what every row gives is what it would give alone."""
    from crossentropy.cli import model

    train(HERE / "missing.csv", "churn", cwd=tmp_path)
    whole = dict(np.load(tmp_path / "crossentropy-train" / "model.npz"))
    monkeypatch.setattr(model, "BLOCK", 7)
    train(HERE / "missing.csv", "churn", cwd=tmp_path)
    blocks = dict(np.load(tmp_path / "crossentropy-train" / "model.npz"))
    for name in ("weights", "bias", "mean", "scale"):
        np.testing.assert_allclose(blocks[name], whole[name], rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(model, "SAMPLE", 50)
    train(HERE / "missing.csv", "churn", cwd=tmp_path)
    assert features_of(tmp_path) == whole["features"].tolist()


def test_another_process_makes_the_files_of_a_large_table(tmp_path, monkeypatch):
    """It imports what that needs meanwhile; the files are those of a small one."""
    from crossentropy.cli import results
    from crossentropy.cli import train as command

    def files():
        train(HERE / "missing.csv", "churn", cwd=tmp_path)
        return [(tmp_path / "crossentropy-train" / name).read_bytes() for name in results.PICTURES]

    here = files()
    monkeypatch.setattr(command, "LARGE", 0)
    monkeypatch.setattr(command, "import_the_rest", lambda: None)
    assert files() == here
    out, _ = within("evaluate", "crossentropy-train/model.skops", HERE / "missing.csv", cwd=tmp_path)
    assert "accuracy" in out


def test_what_another_process_is_asked_for(monkeypatch):
    """Its result or its error; what it can't do, or no more, is done here."""
    from crossentropy.cli.beside import Beside

    beside = Beside()
    assert beside.ask(divmod, 7, 2)() == (3, 1)
    beside.start(gc.collect)
    number = beside.ask(os.getpid)
    assert number() != os.getpid()
    for result in (number, beside.ask(os.getpid)):  # it has ended
        assert result() == os.getpid()
    beside.start(gc.collect)
    with pytest.raises(ZeroDivisionError):
        beside.ask(divmod, 7, 0)()

    def refused(process):
        raise OSError("as many processes as are allowed")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refused)
    beside = Beside()
    beside.start(gc.collect)
    assert beside.ask(os.getpid)() == os.getpid()


def test_a_plain_file_is_read_by_pyarrow_as_by_pandas(tmp_path):
    """And its numbers are the nearest to what is written."""
    from crossentropy.cli import dialect, reading, source

    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(500) * 10.0 ** rng.integers(-9, 9, 500)
    texts = [repr(float(number)) for number in numbers]
    text = lines(lambda i: texts[i], lambda i: ["", "NA", "n/a", i][i % 4], lambda i: f" {label(i)}", count=500)
    (tmp_path / "table.csv").write_text("a,b,y\r\n" + text.replace("\n", "\r\n") + "\r\n")
    opened = source.open_source(str(tmp_path / "table.csv"))
    with opened.raw:
        how = dialect.recognise(opened.unpacked().read(), "")
        settings = opened, how, [0, 1], ["", "NA", "n/a"], lambda done, total: None
        plain, usual = reading._plain(*settings), reading._any(*settings)
    np.testing.assert_array_equal(plain[0], numbers)
    np.testing.assert_array_equal(plain[1], usual[1])
    assert [value.strip() for value in plain[2]] == usual[2].tolist()


@pytest.mark.parametrize(("text", "classes"), [
    ('{"rows": [{"a": 1.5, "y": "p"}, {"a": 2.5, "y": "q"}, {"a": 1, "y": "p"}, {"a": 2, "y": "q"}]}', ["p", "q"]),
    ('{"a": {"0": 1, "1": 2, "2": 1, "3": 2}, "y": {"0": "p", "1": "q", "2": "p", "3": "q"}}', ["p", "q"]),
    ('{"columns": ["a", "y"], "index": [0, 1, 2, 3], "data": [[1, 5], [2, 6], [1, 5], [2, 6]]}', ["5", "6"]),
])  # fmt: skip
def test_json_as_others_write_it(tmp_path, text, classes):
    (tmp_path / "table.json").write_text(text)
    train("table.json", "y", "--test-fraction", "0.5", cwd=tmp_path)
    assert classes_of(tmp_path) == classes


def test_numbers_with_a_unit_are_predicted_with_it(tmp_path):
    text = lines(lambda i: f"{x(i)} kg", lambda i: f"{i % 50}:{i % 60:02}", label, header="a,b,y")
    (tmp_path / "table.csv").write_text(text)
    train("table.csv", "y", cwd=tmp_path)
    _, err = within("predict", "crossentropy-train/model.skops", "table.csv", cwd=tmp_path)
    assert "can't be read" not in err
    (tmp_path / "table.csv").write_text(text.replace(" kg", " lb"))
    _, err = within("predict", "crossentropy-train/model.skops", "table.csv", cwd=tmp_path)
    assert "60 values of column 'a' can't be read as the model's data" in err


@pytest.mark.parametrize("rows", [7, 8192])
def test_features_are_what_the_pipeline_makes_of_the_rows(monkeypatch, rows):
    from crossentropy.cli import model
    from crossentropy.cli.columns import Column

    frame = made_frame().drop(columns="y")
    frame["sure"], frame["city"] = frame.sure.astype(float), frame.city.astype(object)
    frame.loc[3:5, "sure"] = np.nan
    kinds = ["number", "category", "date", "boolean"]
    pipeline = model.features([Column(*pair) for pair in zip(frame.columns, kinds, strict=True)])
    monkeypatch.setattr(model, "BLOCK", rows)
    order = np.random.default_rng(0).permutation(60)
    fitted = model.fit_features(pipeline, frame, order[:40])
    np.testing.assert_allclose(fitted, pipeline.transform(frame.iloc[order[:40]]), rtol=1e-12, atol=1e-12)
    others = model.blockwise(pipeline, frame, order[40:])
    np.testing.assert_allclose(others, pipeline.transform(frame.iloc[order[40:]]), rtol=1e-12, atol=1e-12)


def test_a_workbook_without_openpyxl(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "table.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
        archive.writestr("xl/more.xml", "")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    _, err = within("train", "--data", "table.xlsx", "--label", "y", cwd=tmp_path, code=2)
    assert err == "Error: table.xlsx: .xlsx needs openpyxl: python -m pip install openpyxl\n"


def test_json_that_is_none(tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps(3))
    _, err = within("train", "--data", "bad.json", "--label", "y", cwd=tmp_path, code=2)
    assert "not lines of JSON objects" in err


def test_reading_tells_how_far_it_is(tmp_path):
    from crossentropy.cli.data_options import Reading
    from crossentropy.cli.reading import read
    from crossentropy.cli.source import open_source

    (tmp_path / "table.csv").write_text(lines(x, x, label, header="a,b,y", count=400_000))
    source, seen = open_source(str(tmp_path / "table.csv")), []
    with source.raw:
        read(source, Reading(), "y", progress=lambda done, total: seen.append(done / total))
    assert seen == sorted(seen)
    assert seen[0] < 0.3
    assert seen[-1] == 1
    assert len(seen) > 4


def test_a_letter_that_is_not_utf8_far_down(tmp_path):
    text = lines(x, lambda i: "é" if i > 59_990 else label(i), header="a,y", count=60_000)
    (tmp_path / "table.csv").write_bytes(text.encode("latin-1"))
    out = train("table.csv", "y", cwd=tmp_path)
    assert "encoding cp1252" in out
    assert classes_of(tmp_path) == ["a", "b", "c", "é"]
    _, err = within(
        "train", "--data", "table.csv", "--label", "y", "--encoding", "utf-8", "--force", cwd=tmp_path, code=2
    )
    assert "not a text file in utf-8" in err
