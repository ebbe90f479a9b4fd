"""Episodes: what is drawn, in which order, from which classes, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backroads.errors import ConfigError
from backroads.plasticity.settings import LEARNERS, resolve
from backroads.plasticity.tasks.episode import Episodes, Tasks
from backroads.plasticity.tasks.load import load_tasks
from backroads.plasticity.tasks.sinusoids import Sinusoids

SINUSOID = {"task": "sinusoid", "tasks": 3, "steps_per_task": 4, "batch_size": 5, "hidden": [8]}


def sinusoids(**changes: Any) -> Tasks:
    return load_tasks(resolve({**SINUSOID, **changes}))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """12 classes to train on, 6 to validate, 7 to test; a pixel's value is 10 times the class, plus the image."""
    arrays = {}
    for name, classes, first in (("train", 12, 0), ("val", 6, 12), ("test", 7, 18)):
        y = np.repeat(np.arange(first, first + classes), 8)
        x = np.broadcast_to((10 * y + np.tile(np.arange(8), classes))[:, None, None], (len(y), 9, 9))
        arrays |= {f"{name}_x": x.astype(np.uint8), f"{name}_y": y}
    np.savez(tmp_path / "letters.npz", **arrays)
    return tmp_path / "letters.npz"


def letters(archive: Path, **changes: Any) -> Any:
    given = {"image_size": 9, "front": "none", "steps_per_task": 3, "eval_learn": 5, "eval_test": 2, **changes}
    return resolve({"task": f"npz:{archive}", **given})


def pixels(episodes: Episodes, index: torch.Tensor) -> torch.Tensor:
    """The number that each image was made of."""
    return (episodes.inputs[index][..., 0, 0, 0] * 255).round().long()


def test_sinusoids_are_of_the_amplitudes_and_phases_of_the_source() -> None:
    pools = Sinusoids(resolve({}).task, seed=0).pools
    assert [len(pools[split]) for split in ("train", "validation", "test")] == [400, 1000, 1000]
    A, phi = pools["test"].T
    assert A.min() >= 0.1
    assert A.max() < 5.1
    assert abs(float(A.mean()) - 2.6) < 0.2
    assert phi.min() >= 0
    assert phi.max() < math.pi
    assert not torch.equal(pools["validation"], pools["test"])


def test_an_episode_of_sinusoids_is_pure_batches_of_each_task_and_a_query_of_all() -> None:
    episodes = sinusoids().episodes("train", 0, 2)
    x = episodes.inputs[episodes.support]
    assert x.shape == (2, 12, 5, 4)
    assert episodes.y.shape == (2, 12, 5, 1)
    assert episodes.query.shape == (2, 15)
    position = x[..., :3].argmax(-1)
    assert torch.equal(position, episodes.task[..., None].expand(-1, -1, 5))
    assert torch.equal(x[..., :3].sum(-1), torch.ones(2, 12, 5))
    assert torch.equal(episodes.inputs[episodes.query][..., :3].argmax(-1), episodes.task_query)
    assert episodes.task.sort().values.tolist() == [[0] * 4 + [1] * 4 + [2] * 4] * 2
    # Within a task all points lie on one sinusoid: y = A cos(phi) sin(x) + A sin(phi) cos(x).
    for task in range(3):
        value, y = x[0, episodes.task[0] == task, :, 3].flatten(), episodes.y[0, episodes.task[0] == task].flatten()
        basis = torch.stack([value.sin(), value.cos()], 1)
        fitted = torch.linalg.lstsq(basis, y[:, None]).solution
        torch.testing.assert_close(basis @ fitted, y[:, None], rtol=1e-3, atol=1e-4)
        assert 0.1 <= float(fitted.norm()) < 5.1


@pytest.mark.parametrize("order", ["iid", "continual"])
def test_the_continual_order_is_one_task_after_another(order: str) -> None:
    task = sinusoids(order=order).episodes("train", 0, 1).task[0].tolist()
    assert (task == sorted(task)) == (order == "continual")


def test_episodes_are_a_function_of_seed_split_and_number() -> None:
    tasks = sinusoids()
    same, other = tasks.episodes("train", 3, 1), tasks.episodes("train", 4, 1)
    assert torch.equal(same.inputs, sinusoids().episodes("train", 3, 1).inputs)
    assert not torch.equal(same.inputs, other.inputs)
    assert not torch.equal(same.inputs, tasks.episodes("test", 3, 1).inputs)
    assert not torch.equal(same.inputs, sinusoids(seed=1).episodes("train", 3, 1).inputs)


@pytest.mark.parametrize("learner", sorted(LEARNERS))
def test_every_learner_of_one_seed_lives_through_the_same_episodes(learner: str, archive: Path) -> None:
    for own, flp in (
        (sinusoids(learner=learner, initial_plasticity=1e-3), sinusoids()),
        (load_tasks(letters(archive, learner=learner, initial_plasticity=1e-3)), load_tasks(letters(archive))),
    ):
        for split in ("train", "validation", "test"):
            a, b = own.episodes(split, 5, 2), flp.episodes(split, 5, 2)
            for name in ("inputs", "support", "y", "query", "y_query", "task", "task_query"):
                assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_meta_training_sees_drawn_images_under_permuted_labels(archive: Path) -> None:
    tasks = load_tasks(letters(archive))
    episodes = tasks.episodes("train", 0, 50)
    seen, asked = pixels(episodes, episodes.support)[..., 0], pixels(episodes, episodes.query)
    assert seen.shape == (50, 15)
    assert asked.shape == (50, 15)
    labels = set()
    for e in range(50):
        by_label = {int(label): set((seen[e][episodes.y[e, :, 0] == label] // 10).tolist()) for label in range(5)}
        assert all(len(classes) == 1 for classes in by_label.values())  # a label is one class
        assert len(set.union(*by_label.values())) == 5
        assert set.union(*by_label.values()) <= set(range(12))  # of the training split
        for label in range(5):  # the query has the same labels
            assert set((asked[e][episodes.y_query[e] == label] // 10).tolist()) == by_label[label]
        assert len(set(seen[e].tolist())) == 15  # no image twice in what is seen
        labels.add(next(iter(by_label[0])))
    assert len(labels) > 5  # a class has another label in another episode
    overlap = [len(set(seen[e].tolist()) & set(asked[e].tolist())) for e in range(50)]
    assert 0 < sum(overlap) / 50 < 15  # drawn anew: 3 * 3 / 8 of each class on average
    assert abs(sum(overlap) / 50 - 5 * 9 / 8) < 1.5


def test_labels_of_any_output_are_drawn_from_the_whole_head_in_meta_training_only(archive: Path) -> None:
    tasks = load_tasks(letters(archive, labels="any", head=30))
    episodes = tasks.episodes("train", 0, 50)
    seen, asked = pixels(episodes, episodes.support)[..., 0], pixels(episodes, episodes.query)
    assert set(episodes.y.flatten().tolist()) == set(range(30))  # 250 draws of 30: one is left out once in 300 tries
    for e in range(50):
        labels = set(episodes.y[e].flatten().tolist())
        assert len(labels) == 5
        for label in labels:
            of_seen, of_asked = (
                seen[e][episodes.y[e, :, 0] == label] // 10,
                asked[e][episodes.y_query[e] == label] // 10,
            )
            assert len(set(of_seen.tolist())) == 1
            assert set(of_seen.tolist()) == set(of_asked.tolist())
    first = load_tasks(letters(archive, head=30))
    assert torch.equal(tasks.episodes("test", 0, 3).y, first.episodes("test", 0, 3).y)


def test_each_image_of_an_episode_is_there_once(archive: Path) -> None:
    episodes = load_tasks(letters(archive)).episodes("train", 0, 4)
    values = (episodes.inputs[:, 0, 0, 0] * 255).round().tolist()
    assert len(set(values)) == len(values) < 4 * 30


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluations_learn_from_the_first_images_and_test_on_others(archive: Path, split: Any) -> None:
    episodes = load_tasks(letters(archive)).episodes(split, 0, 3)
    assert set((pixels(episodes, episodes.support) % 10).flatten().tolist()) == {0, 1, 2}
    assert set((pixels(episodes, episodes.query) % 10).flatten().tolist()) == {5, 6}
    classes = set((pixels(episodes, episodes.query) // 10).flatten().tolist())
    assert classes <= set({"validation": range(12, 18), "test": range(18, 25)}[split])


def test_without_a_validation_split_the_last_classes_are_held_out(tmp_path: Path, archive: Path) -> None:
    with np.load(archive) as arrays:
        np.savez(tmp_path / "two.npz", **{name: arrays[name] for name in arrays if not name.startswith("val")})
    tasks = load_tasks(letters(tmp_path / "two.npz", validation_classes=4, tasks=4))
    for split, classes in (("train", set(range(8))), ("validation", set(range(8, 12)))):
        found = [tasks.episodes(split, number, 1) for number in range(30)]  # type: ignore[arg-type]
        assert set.union(*[set((pixels(e, e.support) // 10).flatten().tolist()) for e in found]) == classes


def test_images_in_floating_point_are_taken_as_they_are(tmp_path: Path, archive: Path) -> None:
    with np.load(archive) as arrays:
        np.savez(tmp_path / "f.npz", **{name: x / -3.0 if name.endswith("x") else x for name, x in arrays.items()})
    whole, real = (load_tasks(letters(path)).episodes("test", 0, 1).inputs for path in (archive, tmp_path / "f.npz"))
    torch.testing.assert_close(real, whole * 255 / -3.0)


@pytest.mark.parametrize("by_csv", [False, True])
def test_folders_come_by_class_or_by_csv(tmp_path: Path, by_csv: bool) -> None:
    for split, classes in (("train", "abc"), ("val", "de"), ("test", "fg")):
        lines = ["filename,label"]
        for name in classes:
            for n in range(4):
                folder = tmp_path / "images" if by_csv else tmp_path / split / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (12, 12), (10 * ord(name) % 256, n, 0)).save(folder / f"{name}{n}.png")
                lines.append(f"{name}{n}.png,{name}")
        if by_csv:
            (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    given = {"image_size": 9, "front": "none", "tasks": 2, "steps_per_task": 2, "eval_learn": 2, "eval_test": 2}
    tasks = load_tasks(resolve({"task": f"folder:{tmp_path}", **given}))
    assert tasks.shape == (3, 9, 9)
    for split in ("train", "validation", "test"):
        episodes = tasks.episodes(split, 0, 2)  # type: ignore[arg-type]
        assert episodes.support.shape == (2, 4, 1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"filename,label\na.png,a\nb.png", "expected rows of filename and label, got .* in row 2"),
        (b"file,class\na.png,a", "expected rows of filename and label"),
        (b"filename,label", "expected rows of filename and label, got none"),
        (b"filename,label\n\xff.png,a", "expected a csv file in UTF-8"),
    ],
)
def test_a_damaged_list_of_files_is_answered(tmp_path: Path, table: bytes, message: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "train.csv").write_bytes(table)
    with pytest.raises(ConfigError, match=message):
        load_tasks(resolve({"task": f"folder:{tmp_path}"}))


def test_omniglot_is_read_in_its_layout_and_size(tmp_path: Path) -> None:
    ink = np.ones((12, 20, 20, 20), dtype=bool)
    ink[:, :, 5:15, 5:15] = False
    for name in ("background", "evaluation"):
        np.savez(tmp_path / f"images_{name}.npz", images=ink)
    config = resolve(
        {"task": "omniglot", "root": str(tmp_path), "image_size": 10, "front": "none", "validation_classes": 5}
    )
    tasks = load_tasks(config)
    assert tasks.shape == (1, 10, 10)
    episodes = tasks.episodes("test", 0, 1)
    assert float(episodes.inputs.max()) == 1.0  # paper
    assert float(episodes.inputs[:, 0, 5, 5].max()) == 0.0  # ink
    with pytest.raises(ConfigError, match="tasks: expected at most 6, the classes of train, got 7"):
        tasks.episodes("train", 0, 1, tasks=7)  # 12, without the last one and five held out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": 13, "eval_test": 1}, "tasks: expected at most 12, the classes of train, got 13"),
        ({"steps_per_task": 9}, "expected 9 images of every class of train for steps_per_task 9, and class 0 has 8"),
        ({"head": 3}, "head: expected at least 5 outputs"),
        ({"task": "npz:nowhere.npz"}, "expected a file that numpy.savez wrote"),
        ({"task": "pictures"}, "task: expected sinusoid, omniglot, folder:PATH or npz:PATH, got 'pictures'"),
        ({"task": "omniglot"}, "root: expected the folder of Omniglot's files"),
        ({"batch_size": 2}, "batch_size: expected a divisor of the 15 samples"),
    ],
)
def test_what_cannot_fill_an_episode_is_refused(archive: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_tasks(letters(archive, **changes) if "task" not in changes else resolve(changes))


def test_an_evaluation_that_a_split_cannot_fill_is_refused(archive: Path) -> None:
    with pytest.raises(ConfigError, match="expected 9 images of every class of validation for eval_learn 5"):
        load_tasks(letters(archive, eval_test=4)).check("validation", 5)
    with pytest.raises(ConfigError, match="steps_per_task: expected at most 2, the images of a class to learn from"):
        load_tasks(letters(archive, eval_learn=2)).check("test", 5)


def test_sinusoids_beyond_the_capacity_are_refused() -> None:
    with pytest.raises(ConfigError, match="tasks: expected at most 3, the capacity of the input, got 4"):
        sinusoids().episodes("train", 0, 1, tasks=4)
    with pytest.raises(ConfigError, match="at most the 2 sinusoids of the pool"):
        resolve({**SINUSOID, "pool": 2})
