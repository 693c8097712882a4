import json

import pytest

from common.errors import UserError
from data.file_tree import list_tree
from data.metadata import read_metadata
from data.pictures import Picture


def read(root, files, pictures=("a.jpg", "b.jpg", "sub/c.jpg")):
    for name in pictures:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, text in files.items():
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_metadata(root, list_tree(root))


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def row(name="a.jpg", text="one", **more):
    return dict(file_name=name, text=text, **more)


def test_a_csv_table(tmp_path):
    text = '\ufeffText,file_name,Title,authors,width\n"one,\n two",./a.jpg,T,Ann | Bo,3\n three ,sub/c.jpg,,,\n'
    found = read(tmp_path, {"metadata.csv": text})
    assert found.pictures == [
        Picture("a.jpg", "one, two", title="T", authors=("Ann", "Bo")),
        Picture("b.jpg", problem="no caption: no row of metadata.csv"),
        Picture("sub/c.jpg", "three"),
    ]
    assert found.orphans == found.notes == []


def test_json_lines(tmp_path):
    table = lines(
        row(title=" T ", author="Ann", genres=["Fantasy", None, "Horror"], width=[1]),
        row("b.jpg", None),
        row("nowhere.jpg"),
        row("sub/c.jpg", 3),
    )
    found = read(tmp_path, {"metadata.jsonl": "\ufeff\n" + table})
    assert found.pictures == [
        Picture("a.jpg", "one", title="T", authors=("Ann",), genres=("Fantasy", "Horror")),
        Picture("b.jpg", problem="no caption: line 3 of metadata.jsonl has no text"),
        Picture("sub/c.jpg", problem="no caption: the text in line 5 of metadata.jsonl is not a string"),
    ]
    where = "caption without a picture: line 4 of metadata.jsonl, and there is no picture of this name"
    assert found.orphans == [("nowhere.jpg", where)]


def test_names_are_found_in_either_form_and_from_the_tables_folder(tmp_path):
    pictures = ("train/u\u0308 1.jpg", "test/\u00fc.JPG")
    files = {"train/metadata.csv": "file_name,text\n\u00fc 1.jpg,one\n", "test/metadata.jsonl": ""}
    files["test/metadata.jsonl"] = lines(row("u\u0308.JPG", "two"))
    found = read(tmp_path, files, pictures)
    assert found.pictures == [Picture("test/\u00fc.JPG", "two"), Picture("train/u\u0308 1.jpg", "one")]


def test_damaged_rows_are_left_out(tmp_path):
    for name, table in {
        "metadata.csv": b"file_name,text\na.jpg,caf\xe9\nb.jpg,two,three\nsub/c.jpg,\n",
        "metadata.jsonl": b'{"file_name": "a.jpg", "text": "caf\xe9"}\n{"file_name": "b.jpg", "text": "\\ud800"}\n'
        b'{"file_name": "sub/c.jpg", "text": "\\n"}\n',
    }.items():
        (tmp_path / name).mkdir()
        found = read(tmp_path / name, {name: table})
        where = (2, 3) if name == "metadata.csv" else (1, 2)
        assert [name for name, _ in found.orphans] == [f"line {line} of {name}" for line in where]
        kinds = [picture.problem.partition(":")[0] for picture in found.pictures]
        assert kinds == ["no caption", "no caption", "empty caption"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", r"metadata\.jsonl has no column file_name, text; it has no rows"),
        (lines(dict(image="a.jpg", caption="x")), "no column file_name, text; it has 'image', 'caption': rename"),
        (lines(row()) + "{broken\n", r"line 2 is not JSON \(Expecting property name.*\): each line must be an object"),
        (lines(row()) + "[" * 100_000 + "\n", "line 2 is not JSON"),
        ("[" + lines(row()), "line 1 is not JSON"),
        (lines(["a.jpg", "one"]), "line 1 is not a JSON object: each line must be an object"),
        (lines(row(), row("")), "rows have no file_name.*; line 2"),
        (lines(row(), row(7), row(None)), "rows have no file_name.*; line 2; line 3"),
        (lines(row("../a.jpg"), row("sub/../b.jpg")), r"outside of the folder.*; line 1: '\.\./a\.jpg'; line 2"),
        (lines(row("/etc/a.jpg")), "outside of the folder.*; line 1: '/etc/a.jpg'"),
        (lines(row(r"C:\a.jpg"), row(r"..\a.jpg")), "outside of the folder.*; line 1: .*; line 2: "),
        (lines(*[row()] * 6), r"name one file twice.*; lines 1 and 2: 'a\.jpg'; .*; lines 1 and 4.* and 2 more"),
        (lines(row("sub/c.jpg"), row("./sub//c.jpg")), "name one file twice.*; lines 1 and 2"),
        ("{}\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
    ],
)
def test_what_makes_a_whole_table_doubtful_is_an_error(tmp_path, table, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, {"metadata.jsonl": table})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_csv_table_without_text_tells_its_columns(tmp_path):
    with pytest.raises(UserError, match=r"has no column text: .* begins 'file_name, caption'"):
        read(tmp_path, {"metadata.csv": "file_name,caption\na.jpg,one\n"})


def test_links_may_not_lead_out_of_the_folder(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "secret.jpg").touch()
    (root / "inside.jpg").symlink_to("a.jpg")
    assert len(read(root, {"metadata.jsonl": lines(row("inside.jpg"), row())}, ["a.jpg"]).pictures) == 2
    (root / "out.jpg").symlink_to("../secret.jpg")
    with pytest.raises(UserError, match=r"line 1: 'out\.jpg' is a link that leads out of the folder: copy the files"):
        read(root, {"metadata.jsonl": lines(row("out.jpg"))})
