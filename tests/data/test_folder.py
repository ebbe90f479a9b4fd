"""Folders as they come: links, loops, pipes, and names in any bytes."""

from __future__ import annotations

import os
import socket
from collections import Counter
from pathlib import Path

import pytest
from data.images import make_folder

from backroads.data import folder as module
from backroads.data import load_dataset
from backroads.data.folder import list_classes
from backroads.errors import ConfigError


def listed(folder: Path) -> Counter[str]:
    """How many images each class has; each must be of the class whose folder it lies in."""
    files, classes = list_classes(folder)
    names = [os.fsdecode(bytes(name)) for name in files.names]
    assert len(set(map(os.path.realpath, (folder / name for name in names)))) == len(names)
    assert [classes[label] for label in files.y] == [name.partition(os.sep)[0] for name in names]
    return Counter(classes[label] for label in files.y)


def test_loops_of_links_end_and_count_nothing_twice(tmp_path: Path) -> None:
    train = make_folder(tmp_path) / "train"
    (train / "cat" / "up").symlink_to("..")
    (train / "cat" / "top").symlink_to(tmp_path)
    (train / "cat" / "self").symlink_to(".")
    (train / "dog" / "more").mkdir()
    (train / "dog" / "more" / "back").symlink_to(train / "dog")
    (train / "dog" / "again").symlink_to("more")
    (train / "dog" / "000 again.png").symlink_to("000.png")
    (train / "dog" / "ring").symlink_to("ring")
    (train / "none").symlink_to("none")
    assert listed(train) == {"cat": 6, "dog": 6}
    assert len(load_dataset(f"folder:{tmp_path}").train) == 12


def test_links_to_images_elsewhere_are_followed(tmp_path: Path) -> None:
    train = make_folder(tmp_path / "a") / "train"
    other = make_folder(tmp_path / "b", classes=("cat", "dog", "bird")) / "train"
    (train / "cat" / "more").symlink_to(other / "cat")
    (train / "bird").symlink_to(other / "bird")
    (train / "dog" / "one.png").symlink_to(other / "dog" / "000.png")
    (train / "dog" / "two.png").symlink_to(other / "dog" / "000.png")
    assert listed(train) == {"cat": 12, "dog": 7, "bird": 6}


@pytest.mark.parametrize(
    ("link", "to", "message"),
    [
        ("wolf", "dog", r"wolf of class 'wolf' leads to .*dog, which belongs to 'dog'"),
        ("cat/dogs", "../dog", r"cat/dogs of class 'cat' leads to .*dog, which belongs to 'dog'"),
        ("cat/one.png", "../dog/000.png", r"one\.png of class 'cat' leads to .*000\.png, which belongs to 'dog'"),
        ("wolf", ".", r"wolf leads back to a folder that holds it; remove this link"),
    ],
)
def test_what_belongs_to_two_classes_is_refused(link: str, to: str, message: str, tmp_path: Path) -> None:
    train = make_folder(tmp_path) / "train"
    (train / link).symlink_to(to)
    with pytest.raises(ConfigError, match=message):
        list_classes(train)


def test_one_image_that_two_classes_link_to_is_refused(tmp_path: Path) -> None:
    train = make_folder(tmp_path / "a") / "train"
    other = make_folder(tmp_path / "b") / "train" / "cat" / "000.png"
    for name in ("cat", "dog"):
        (train / name / "new.png").symlink_to(other)
    with pytest.raises(ConfigError, match=r"dog/new\.png of class 'dog' leads to .*000\.png, which belongs to 'cat'"):
        list_classes(train)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_file_is_named_and_never_opened(
    kind: str, linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = make_folder(tmp_path) / "train"
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    special = tmp_path / "special" if linked else train / "dog" / "a.png"
    if kind == "pipe":
        os.mkfifo(special)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(os.path.relpath(special))
    elif linked:
        special = Path("/dev/null")
    else:
        pytest.skip("to make a device needs rights")
    if linked:
        (train / "dog" / "a.png").symlink_to(special)
    (train / "dog" / "pipe.txt").touch()
    with pytest.raises(ConfigError, match=rf"dog/a\.png is a {kind}; remove it"):
        load_dataset(f"folder:{tmp_path}")


def test_pipes_that_are_no_images_are_left_alone(tmp_path: Path) -> None:
    train = make_folder(tmp_path) / "train"
    os.mkfifo(train / "dog" / "pipe")
    os.mkfifo(train / "pipe")
    assert listed(train) == {"cat": 6, "dog": 6}


def test_depth_and_number_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = make_folder(tmp_path) / "train"
    deepest = train / "dog" / "/".join("d" * module.DEPTH)
    deepest.mkdir(parents=True)
    (train / "dog" / "000.png").rename(deepest / "000.png")
    assert listed(train) == {"cat": 6, "dog": 6}
    (deepest / "d").mkdir()
    with pytest.raises(ConfigError, match="expected at most 32 folders within each other"):
        list_classes(train)
    (deepest / "d").rmdir()
    monkeypatch.setattr(module, "ENTRIES", 20)
    with pytest.raises(ConfigError, match=r"expected at most 20 files and folders in .*train, and there are more"):
        list_classes(train)


def test_links_that_lead_nowhere_count_as_unreadable_images(tmp_path: Path) -> None:
    train = make_folder(tmp_path) / "train"
    (train / "dog" / "gone.png").symlink_to("nowhere.png")
    (train / "dog" / "ring.png").symlink_to("ring.png")
    data = load_dataset(f"folder:{tmp_path}", corrupt_limit=2)
    assert sorted(map(os.path.basename, data.train.corrupt)) == ["gone.png", "ring.png"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = make_folder(tmp_path) / "train"
    (train / "dog" / "shut").mkdir()
    listing = os.scandir

    def scandir(folder: str | Path) -> object:
        if os.path.basename(folder) == "shut":  # root may list everything
            raise PermissionError(13, "Permission denied", folder)
        return listing(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ConfigError, match=r"shut cannot be listed \(Permission denied\)"):
        list_classes(train)
