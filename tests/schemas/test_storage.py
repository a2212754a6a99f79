"""Local files: whole or not at all, nothing followed out of its folder."""

import os

import pytest

from maskmill.schemas import storage


def test_create_is_all_or_nothing(tmp_path):
    path = str(tmp_path / "deep" / "file")
    storage.write_bytes(path, b"old")

    def write_and_fail():
        with storage.create(path) as file:
            file.write(b"half of the new")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_and_fail()
    assert storage.read_bytes(path) == b"old"
    assert os.listdir(tmp_path / "deep") == ["file"]


def test_reading_ranges(tmp_path):
    path = str(tmp_path / "file")
    storage.write_bytes(path, bytes(range(100)))
    assert storage.read_bytes(path, 10, 5) == bytes(range(10, 15))
    assert storage.read_range(path, 90, 10) == bytes(range(90, 100))
    with pytest.raises(EOFError, match="ends at 5 of 10 bytes from offset 95"):
        storage.read_range(path, 95, 10)


def test_walk_follows_no_folder_links(tmp_path):
    for name in ("a.jpg", "b/c.jpg", "b/.hidden", ".git/x"):
        storage.write_bytes(str(tmp_path / name), b"12")
    os.symlink(tmp_path, tmp_path / "b" / "loop")
    os.symlink(tmp_path / "gone", tmp_path / "dangling.jpg")
    assert sorted(storage.walk(str(tmp_path))) == [
        (".git/x", 2),
        ("a.jpg", 2),
        ("b/.hidden", 2),
        ("b/c.jpg", 2),
        ("dangling.jpg", 0),
    ]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a\\b", "C:/x", "", "a\0b"])
def test_unsafe_names_are_refused(name):
    with pytest.raises(ValueError, match="unsafe path"):
        storage.check_relative(name)


def test_safe_names_pass():
    assert storage.check_relative("train2017/000..1.jpg") == "train2017/000..1.jpg"
