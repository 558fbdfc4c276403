"""MVSA's layout: the label file, and finding it in a folder or a zip."""

import os
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsent.errors import InputError, UsageError
from mvsent.pairs import Label
from mvsent.sources import mvsa as mvsa_source
from mvsent.sources.mvsa import find_root, open_mvsa, parse_annotations, parse_vote

HEADER = "ID\ttext,image"


def parsed(text, encoding="utf-8"):
    return parse_annotations(text.encode(encoding), "labels.txt")


def complaint(data):
    """The one line that a bad label file gets."""
    with pytest.raises(InputError) as error:
        parse_annotations(data if isinstance(data, bytes) else data.encode(), "labels.txt")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_single_has_one_column_of_votes():
    found = parsed(f"{HEADER}\n1\tneutral,positive\n2\tnegative,neutral\n")
    assert found.ids.to_pylist() == ["1", "2"]
    assert found.votes.tolist() == [[[1, 2]], [[0, 1]]]
    assert found.name == "mvsa-single"


def test_multiple_has_several():
    found = parsed(
        f"{HEADER}\ttext,image\ttext,image\n1\tneutral,positive\tnegative,neutral\tpositive,positive\n"
    )
    assert found.votes.tolist() == [[[1, 2], [0, 1], [2, 2]]]
    assert found.name == "mvsa-multiple"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_any_line_end_and_a_missing_last_one_are_read(end, last):
    text = end.join([HEADER, "1\tneutral,positive", "2\tnegative,neutral"]) + (end if last else "")
    assert parsed(text).ids.to_pylist() == ["1", "2"]


def test_case_spaces_blank_lines_and_a_byte_order_mark_do_not_matter():
    found = parsed("\ufeffid\tText, Image\n\n1\t Neutral , POSITIVE\n\n")
    assert found.votes.tolist() == [[[1, 2]]]


@pytest.mark.parametrize("data", [b"", b"\n \r\n"])
def test_an_empty_file_is_named(data):
    assert "labels.txt: the file is empty" in complaint(data)


def test_a_header_alone_is_no_dataset():
    assert "a header and no rows" in complaint(HEADER + "\n")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_refused_with_the_way_to_convert_it(encoding):
    message = complaint(f"{HEADER}\n1\tneutral,positive\n".encode(encoding))
    assert "UTF-16" in message
    assert "iconv" in message


@pytest.mark.parametrize(
    "header", ["1\tneutral,positive", "ID,text,image", "ID", "ID\ttext", "ID\timage,text"]
)
def test_a_file_without_the_header_is_refused(header):
    assert "labels.txt:1: not the header" in complaint(f"{header}\n1\tneutral,positive\n")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("3\tneutral", "not two of negative, neutral, positive: 'neutral'"),
        ("3\tneutral,happy", "'neutral,happy'"),
        ("3\tneutral,positive,negative", "'neutral,positive,negative'"),
        ("3\t", "''"),
        ("3\tNA", "'NA'"),
        ("3", "0 votes where the header has 1"),
        ("3\tneutral,positive\tneutral,positive", "2 votes where the header has 1"),
        ("3 neutral,positive", "0 votes where the header has 1"),
        ("../3\tneutral,positive", "an id that cannot be a file name: '../3'"),
        ("\tneutral,positive", "an id that cannot be a file name: ''"),
        ("2\tneutral,positive", "id 2 is already on line 3"),
        ("\ufffd\tneutral,positive", "an id that cannot be a file name"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(row, says):
    message = complaint(
        f"{HEADER}\r\n1\tneutral,positive\r\n2\tneutral,positive\r\n{row}\r\n4\tneutral,sad\r\n"
    )
    assert message.startswith("labels.txt:4: ")
    assert says in message


def test_blank_lines_count_as_lines():
    assert complaint(f"{HEADER}\n\n\n1\tneutral,sad\n").startswith("labels.txt:4: ")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_of_blanks_is_skipped_like_an_empty_one(end):
    lines = [HEADER, "1\tneutral,positive", "   ", "2\tnegative,neutral", "  "]
    assert parsed(end.join(lines) + end).ids.to_pylist() == ["1", "2"]
    assert parsed(end.join(lines)).ids.to_pylist() == ["1", "2"]
    assert complaint(end.join([*lines, "3\tsad,sad"])).startswith("labels.txt:6: ")


@pytest.mark.parametrize("row", ["1\0\tneutral,neutral", "1\tneu\0tral,neutral", "\0" * 40])
def test_a_row_with_zero_bytes_is_a_bad_row_and_not_utf16(row):
    message = complaint(f"{HEADER}\n{row}\n")
    assert message.startswith("labels.txt:2: ")
    assert "UTF-16" not in message


def test_a_file_of_zero_bytes_is_not_utf16():
    assert "labels.txt:1: not the header" in complaint(bytes(4096))


def test_bytes_that_are_no_utf8_are_named_by_line():
    assert complaint(HEADER.encode() + b"\n1\tneutral,\xff\xfe\n").startswith("labels.txt:2: ")


def test_a_fault_deep_in_a_large_file_is_named_by_its_line():
    rows = "".join(f"{i}\tneutral,positive\n" for i in range(120_000))
    assert complaint(f"{HEADER}\n{rows}7\tneutral,positive\n").startswith(
        "labels.txt:120002: id 7 is already on line 9"
    )


def test_a_repeated_id_that_is_no_number_is_named_too():
    message = complaint(f"{HEADER}\nx-1\tneutral,neutral\n2\tneutral,neutral\nx-1\tneutral,neutral\n")
    assert "labels.txt:4: id x-1 is already on line 2" in message


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("blank", ["", "  "])
def test_a_repeated_id_is_named_by_its_line_whatever_ends_the_lines(end, blank):
    rows = [HEADER, blank, "17\tneutral,neutral", "7\tneutral,neutral", blank, "7\tneutral,positive"]
    assert complaint(end.join(rows)).startswith("labels.txt:6: id 7 is already on line 4")


def test_ids_that_do_not_rise_are_fine():
    assert parsed(f"{HEADER}\n9\tneutral,neutral\n2\tneutral,neutral\nx-1\tneutral,neutral\n").ids.to_pylist() == [
        "9", "2", "x-1",
    ]  # fmt: skip


labels = st.sampled_from(list(Label))
ids = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,8}", fullmatch=True)
files = st.integers(1, 4).flatmap(
    lambda k: st.dictionaries(ids, st.lists(st.tuples(labels, labels), min_size=k, max_size=k), min_size=1)
)


@pytest.mark.slow
@given(files, st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_read_back(rows, end):
    n_annotators = len(next(iter(rows.values())))
    lines = ["\t".join(["ID"] + ["text,image"] * n_annotators)]
    lines += ["\t".join([id, *(f"{text},{image}" for text, image in votes)]) for id, votes in rows.items()]
    found = parsed(end.join(lines))
    assert found.ids.to_pylist() == list(rows)
    assert found.votes.tolist() == [[list(vote) for vote in votes] for votes in rows.values()]


@given(st.binary(max_size=80))
def test_any_bytes_are_parsed_or_refused_in_one_line(data):
    for head in (b"", HEADER.encode() + b"\n"):
        try:
            parse_annotations(head + data, "labels.txt")
        except InputError as error:
            assert "\n" not in str(error)


@given(st.text(max_size=20))
def test_a_vote_is_two_labels_or_refused(cell):
    try:
        assert all(isinstance(label, Label) for label in parse_vote(cell))
    except ValueError as error:
        assert repr(cell) in str(error)


# Folders and zips


def folder(root, name="labelResultAll.txt"):
    (root / "data").mkdir(parents=True)
    (root / name).write_text(f"{HEADER}\n1\tneutral,positive\n")
    (root / "data" / "1.txt").write_text("hello")
    (root / "data" / "1.jpg").write_bytes(b"picture")
    return root


def zipped(tmp_path, members, **options):
    path = tmp_path / "mvsa.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


LABELS = f"{HEADER}\n1\tneutral,positive\n"
MEMBERS = {"labelResultAll.txt": LABELS, "data/1.txt": "hello", "data/1.jpg": "picture"}


def contents(root):
    with open_mvsa(root) as mvsa:
        return mvsa.annotations().ids.to_pylist(), mvsa.text("1"), mvsa.image("1", 100)


EXPECTED = (["1"], b"hello", b"picture")


def test_a_folder_is_read(tmp_path):
    assert contents(folder(tmp_path / "MVSA")) == EXPECTED


def test_a_folder_in_the_folder_is_found(tmp_path):
    folder(tmp_path / "MVSA_Single" / "MVSA")
    assert contents(tmp_path / "MVSA_Single") == EXPECTED


@pytest.mark.parametrize("prefix", ["", "MVSA_Single/", "MVSA_Single\\"])
def test_a_zip_with_or_without_a_top_folder_is_read(tmp_path, prefix):
    members = {prefix + name.replace("/", prefix[-1:] or "/"): data for name, data in MEMBERS.items()}
    assert contents(zipped(tmp_path, members | {"__MACOSX/._labelResultAll.txt": "x"})) == EXPECTED


def test_missing_files_are_none(tmp_path):
    with open_mvsa(folder(tmp_path / "MVSA")) as mvsa:
        assert mvsa.text("2") is None
        assert mvsa.image("2", 100) is None
    with open_mvsa(zipped(tmp_path, MEMBERS)) as mvsa:
        assert mvsa.text("2") is None


def test_folders_and_pipes_are_no_files(tmp_path):
    root = folder(tmp_path / "MVSA")
    (root / "data" / "2.txt").mkdir()
    os.mkfifo(root / "data" / "3.txt")
    with open_mvsa(root) as mvsa:
        assert mvsa.text("2") is None
        assert mvsa.text("3") is None


def test_reads_stop_one_byte_after_the_limit(tmp_path):
    for root in (folder(tmp_path / "MVSA"), zipped(tmp_path, MEMBERS)):
        with open_mvsa(root) as mvsa:
            assert mvsa.image("1", 3) == b"pict"


def test_names_that_lead_out_of_a_zip_lead_nowhere(tmp_path):
    root = zipped(
        tmp_path,
        {f"x/{name}": data for name, data in MEMBERS.items()} | {"../../evil.txt": "evil", "/etc/x": ""},
    )
    before = sorted(tmp_path.rglob("*"))
    assert contents(root) == EXPECTED
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bomb_costs_no_more_than_the_limit(tmp_path):
    root = zipped(tmp_path, MEMBERS | {"data/1.jpg": bytes(50_000_000)})
    with open_mvsa(root) as mvsa:
        assert len(mvsa.image("1", 1000)) == 1001


def test_a_label_file_without_end_is_refused_whether_zipped_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr(mvsa_source, "MAX_LABEL_FILE_BYTES", len(LABELS) - 1)
    for root in (folder(tmp_path / "MVSA"), zipped(tmp_path, MEMBERS)):
        with open_mvsa(root) as mvsa, pytest.raises(InputError, match=r"labelResultAll\.txt: more than"):
            mvsa.annotations()


def test_files_that_cannot_be_opened_are_named(tmp_path):
    root = folder(tmp_path / "MVSA")
    (root / "data" / "2.txt").symlink_to("2.txt")
    with open_mvsa(root) as mvsa:
        with pytest.raises(InputError, match=r"data/2\.txt: cannot be read \(.*symbolic links"):
            mvsa.text("2")
        with pytest.raises(InputError, match=r"cannot be read \(File name too long\)"):
            mvsa.image("3" * 300, 100)


def rewritten(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


def test_a_member_larger_than_it_declares_is_damaged(tmp_path):
    size = (60_000).to_bytes(4, "little")
    root = rewritten(
        zipped(tmp_path, MEMBERS | {"data/1.jpg": os.urandom(60_000)}), size, (1000).to_bytes(4, "little")
    )
    with open_mvsa(root) as mvsa, pytest.raises(InputError, match=r"data/1\.jpg: damaged in mvsa\.zip"):
        mvsa.image("1", 100_000)


def test_a_damaged_member_is_named(tmp_path):
    root = rewritten(
        zipped(tmp_path, MEMBERS | {"data/1.jpg": b"A" * 9 + bytes(range(256))}),
        bytes(range(90, 99)),
        b"?" * 9,
    )
    with open_mvsa(root) as mvsa, pytest.raises(InputError, match="damaged in"):
        mvsa.image("1", 1000)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_is_named_however_it_is_packed(tmp_path, method):
    path = tmp_path / "mvsa.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in (MEMBERS | {"data/1.jpg": os.urandom(5000)}).items():
            archive.writestr(name, data)
        start = archive.getinfo("data/1.jpg").header_offset + 30 + len("data/1.jpg")
    data = bytearray(path.read_bytes())
    for at in range(start + 9, start + 4000):
        data[at] ^= 0xFF
    path.write_bytes(data)
    with open_mvsa(path) as mvsa, pytest.raises(InputError, match=r"data/1\.jpg: damaged in mvsa\.zip"):
        mvsa.image("1", 10_000)


def test_an_encrypted_zip_is_refused(tmp_path):
    root = zipped(tmp_path, MEMBERS)
    data = bytearray(root.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = data.index(signature)
        data[at + offset] |= 1
    root.write_bytes(data)
    with pytest.raises(InputError, match="encrypted"), open_mvsa(root):
        pass


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    path = tmp_path / "labels.rar"
    path.write_bytes(b"Rar!")
    with pytest.raises(InputError, match="neither a folder nor a readable zip"), open_mvsa(path):
        pass


def test_a_truncated_zip_is_refused(tmp_path):
    path = zipped(tmp_path, MEMBERS)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="neither a folder nor a readable zip"), open_mvsa(path):
        pass


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with (
        pytest.raises(UsageError, match=r"nowhere: no such folder .*\. Give"),
        open_mvsa(tmp_path / "nowhere"),
    ):
        pass


def test_a_folder_without_a_label_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no labelResultAll\.txt in it"), open_mvsa(tmp_path):
        pass


def test_two_datasets_in_one_folder_are_refused(tmp_path):
    folder(tmp_path / "a")
    folder(tmp_path / "b")
    with (
        pytest.raises(InputError, match=r"a/labelResultAll\.txt, b/labelResultAll\.txt"),
        open_mvsa(tmp_path),
    ):
        pass


@pytest.mark.parametrize("name", ["MVSA_Single", "MVSA", "MVSA-Multiple", "mvsa-multiple", "MVSA_Single.zip"])
def test_the_root_is_found_by_its_name(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "mvsa-notes.txt").touch()
    assert find_root(tmp_path).name == name


def test_a_zip_beside_its_folder_is_passed_over(tmp_path):
    (tmp_path / "MVSA_Single").mkdir()
    (tmp_path / "MVSA_Single.zip").touch()
    assert find_root(tmp_path).name == "MVSA_Single"


def test_no_root_or_two_roots_are_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="mvsent reconcile-mvsa ROOT"):
        find_root(tmp_path)
    (tmp_path / "MVSA_Single").mkdir()
    (tmp_path / "MVSA_Multiple").mkdir()
    with pytest.raises(UsageError, match="MVSA_Multiple, MVSA_Single"):
        find_root(tmp_path)
