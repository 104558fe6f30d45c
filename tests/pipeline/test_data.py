"""Data specs: what each gives, and a named error for each way it can be wrong."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from foveate.pipeline.data import open_data
from foveate.runtime.errors import FoveateError, InputError, MissingExtraError
from foveate.runtime.manifest import Preprocess

PLAIN = Preprocess()


def picture(level: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def save(path, pixels, **options):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("b.png", "a.jpg", "c.bmp")):
        save(tmp_path / "images" / name, picture(60 * number))
    (tmp_path / "images" / "readme.txt").write_text("not an image")
    return tmp_path / "images"


@pytest.fixture
def classes(tmp_path):
    for name, count in (("dog", 3), ("cat", 1), ("owl", 2)):
        for number in range(count):
            save(tmp_path / "classes" / name / f"{number}.png", picture(10 * number))
    return tmp_path / "classes"


def test_an_image_folder_gives_its_images_by_name_without_labels(folder):
    data = open_data(folder, PLAIN)
    samples = list(data.samples())
    assert [s.name.rsplit("/", 1)[1] for s in samples] == ["a.jpg", "b.png", "c.bmp"]
    assert data.count == 3 and all(s.label is None for s in samples)
    assert all(s.image.shape == (1, 3, 6, 8) and s.image.dtype == np.float32 for s in samples)
    assert samples[1].image.max() == 0 and samples[2].image[0, 0, 0, 0] == pytest.approx(120 / 255)


def test_iterating_gives_pairs_and_can_be_repeated(folder):
    data = open_data(folder, PLAIN)
    first, second = list(data), list(data)
    assert len(first) == len(second) == 3
    assert all(np.array_equal(a[0], b[0]) and a[1] is None for a, b in zip(first, second, strict=True))


def test_a_single_image_file_is_a_data_set_of_one(folder):
    assert len(list(open_data(folder / "b.png", PLAIN))) == 1


def test_the_preprocessing_is_applied(folder):
    [image, *_] = [image for image, _ in open_data(folder, Preprocess(size=(4, 4), mean=(1, 1, 1)))]
    assert image.shape == (1, 3, 4, 4)
    assert image.max() < 0


def test_class_folders_number_labels_by_name(classes):
    data = open_data(classes, PLAIN)
    assert sorted(label for _, label in data) == [0, 1, 1, 1, 2, 2]


def test_a_limit_takes_classes_in_turn(classes):
    assert [label for _, label in open_data(classes, PLAIN, limit=4)] == [0, 1, 2, 1]


def test_class_folders_follow_the_program_s_labels(classes):
    data = open_data(classes, PLAIN, classes=("owl", "dog", "fox", "cat"))
    assert sorted(label for _, label in data) == [0, 0, 1, 1, 1, 3]
    with pytest.raises(InputError, match="1 that the program has no label for \\(owl\\)"):
        open_data(classes, PLAIN, classes=("dog", "cat"))


def test_an_npz_of_uint8_images_is_preprocessed(tmp_path):
    images = np.stack([picture(0), picture(255)])
    np.savez(tmp_path / "d.npz", images=images, labels=np.array([3, 4]))
    samples = list(open_data(tmp_path / "d.npz", PLAIN).samples())
    assert [s.label for s in samples] == [3, 4] and samples[1].image.max() == 1
    assert [s.name for s in samples] == ["d.npz[0]", "d.npz[1]"]


def test_an_npz_of_float_images_is_taken_as_it_is(tmp_path):
    images = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32)
    labels = np.zeros((2, 5, 7), np.int64)
    np.savez_compressed(tmp_path / "d.npz", images=images, labels=labels)
    samples = list(open_data(str(tmp_path / "d.npz"), Preprocess(size=(4, 4)), limit=1).samples())
    assert len(samples) == 1 and np.array_equal(samples[0].image, images[:1])
    assert samples[0].label.shape == (5, 7)


def test_a_function_of_the_user_is_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "own_scenes.py").write_text(
        "import numpy as np\n"
        "def scenes():\n"
        "    yield np.full((6, 8, 3), 255, np.uint8), 1\n"
        "    yield np.zeros((3, 6, 8), np.float32), None\n"
    )
    monkeypatch.chdir(tmp_path)
    data = open_data("own_scenes:scenes", PLAIN)
    assert data.count is None
    (first, label), (second, none) = data
    assert first.shape == second.shape == (1, 3, 6, 8) and first.max() == 1 and (label, none) == (1, None)
    assert str(tmp_path) not in sys.path
    sys.modules.pop("own_scenes", None)


def test_images_are_upright_by_their_exif_orientation(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    save(tmp_path / "turned.jpg", picture(9, 6, 8), exif=exif)
    [(image, _)] = open_data(tmp_path, PLAIN)
    assert image.shape == (1, 3, 8, 6)


def _mismatch(path):
    np.savez(path / "d.npz", images=np.zeros((3, 4, 4, 3), np.uint8), labels=np.zeros(2, int))
    return path / "d.npz"


def _one_label(path):
    np.savez(path / "d.npz", images=np.zeros((3, 4, 4, 3), np.uint8), labels=7)
    return path / "d.npz"


def _wrong_dtype(path):
    np.savez(path / "d.npz", images=np.zeros((3, 3, 4, 4), np.float64))
    return path / "d.npz"


def _no_images(path):
    np.savez(path / "d.npz", pictures=np.zeros(3))
    return path / "d.npz"


def _objects(path):
    np.savez(path / "d.npz", images=np.array([{"a": 1}], object))
    return path / "d.npz"


def _truncated(path):
    save(path / "good.png", picture(3, 64, 64))
    (path / "broken.png").write_bytes((path / "good.png").read_bytes()[:60])
    return path


def _mixed(path):
    save(path / "top.png", picture(1))
    save(path / "cat" / "0.png", picture(1))
    return path


def _not_an_archive(path):
    (path / "d.npz").write_bytes(b"PK\x03\x04 nothing")
    return path / "d.npz"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere", "no such file or folder"),
        (lambda path: path / "nowhere.npz", "no such file or folder"),
        (lambda path: path, "an empty folder"),
        (_mixed, "1 image.s. and the class folders cat"),
        (_mismatch, "2 labels for 3 images"),
        (_one_label, "1 labels for 3 images"),
        (_wrong_dtype, r"d.npz\[0\]: got float64 \[3, 4, 4\]"),
        (_no_images, "no array `images`"),
        (_objects, "cannot be read"),
        (_not_an_archive, "cannot be read"),
        (_truncated, "broken.png: got a file that cannot be read"),
        (lambda path: "no_such_module:function", "no module 'no_such_module'"),
        (lambda path: "json:no_such_function", "no function 'no_such_function' in json"),
        (lambda path: ":", "importable"),
    ],
)
def test_each_way_to_be_wrong_has_its_message(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        list(open_data(make(tmp_path), PLAIN))


def test_a_function_that_yields_no_pairs_or_nothing_is_refused(tmp_path, monkeypatch):
    (tmp_path / "own_bad.py").write_text("def nothing():\n    return []\ndef numbers():\n    return [1]\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no image"):
        list(open_data("own_bad:nothing", PLAIN))
    with pytest.raises(InputError, match="got int; expected a pair"):
        list(open_data("own_bad:numbers", PLAIN))
    sys.modules.pop("own_bad", None)


def test_an_error_inside_the_user_s_module_passes_through(tmp_path, monkeypatch):
    (tmp_path / "own_broken.py").write_text("import no_such_dependency\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        open_data("own_broken:images", PLAIN)


def test_a_limit_below_one_is_refused(folder):
    with pytest.raises(InputError, match="limit 0"):
        open_data(folder, PLAIN, limit=0)


def test_without_pillow_the_error_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"foveate\[report\]"):
        list(open_data(folder, PLAIN))


def test_errors_are_the_user_s_to_mend(tmp_path):
    with pytest.raises(FoveateError) as caught:
        open_data(tmp_path / "nowhere", PLAIN)
    assert caught.value.exit_code == 2 and caught.value.fix
