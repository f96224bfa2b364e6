"""Home-automation commands in 65 languages, from home-assistant-intents (Apache-2.0).

The package holds sentence templates; ``hassil`` parses them. The task is to tell the intent
(turn on, set a timer, ...) from the words. A user is a language.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.data.examples import Examples, Rows, Source
from fl_sim.data.files import package_folder

T = TypeVar("T")

NUM_FEATURES = 512
"""Buckets that character n-grams are hashed to."""

_TEMPLATES = 10
_DRAWS = 3
_TEST_EVERY = 5


@dataclass(frozen=True)
class Command:
    """A sentence that a person could say.

    Attributes
    ----------
    text : str
        The sentence; slots that each household fills itself read "{name}", "{area}".
    intent : str
        Name of the intent, for example "HassTurnOn".
    language : str
        Language code, for example "en" or "pt-BR".
    held_out : bool
        True if it is for testing: every fifth template of an intent is kept for that.
    """

    text: str
    intent: str
    language: str
    held_out: bool


@functools.cache
def commands() -> tuple[Command, ...]:
    """Return three sentences of up to ten templates per intent and language, none twice.

    Ten of an intent's templates, evenly spaced, keep the few intents with many templates from
    being most of the data, and hassil from parsing for half a minute.

    Raises
    ------
    ConfigInvalid
        CONFIG_INVALID if home-assistant-intents or hassil is missing.
    """
    package_folder("hassil", extra="data")
    folder = package_folder("home_assistant_intents", extra="data") / "data"
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ConfigInvalid(Code.CONFIG_INVALID, f"There are no sentence templates in {folder}.")
    return tuple(command for file in files for command in _language(file))


@functools.cache
def source() -> Source:
    """Turn the sentences into weights of their character n-grams.

    Features are float32 of shape (n, 512): pairs and triples of characters hashed by CRC-32,
    counted, and scaled to length 1. Test sentences come from templates not trained on.
    """
    spoken = commands()
    intents = sorted({command.intent for command in spoken})
    languages = sorted({command.language for command in spoken})
    train, train_users = _select(spoken, intents, languages, held_out=False)
    test, test_users = _select(spoken, intents, languages, held_out=True)
    return Source(train, test, tuple(intents), tuple(languages), train_users, test_users)


def _select(
    spoken: Sequence[Command], intents: list[str], languages: list[str], *, held_out: bool
) -> tuple[Examples, Rows]:
    chosen = [command for command in spoken if command.held_out == held_out]
    labels = np.array([intents.index(c.intent) for c in chosen], dtype=np.int64)
    users = np.array([languages.index(c.language) for c in chosen], dtype=np.int64)
    features = np.stack([_ngrams(c.text) for c in chosen])
    return Examples(features, labels).freeze(), users


def _ngrams(text: str) -> npt.NDArray[np.float32]:
    padded = f" {text.casefold()} "
    grams = [padded[i : i + n] for n in (2, 3) for i in range(len(padded) - n + 1)]
    buckets = [zlib.crc32(gram.encode()) % NUM_FEATURES for gram in grams]
    counts = np.bincount(buckets, minlength=NUM_FEATURES).astype(np.float32)
    weights: npt.NDArray[np.float32] = counts / np.linalg.norm(counts)
    return weights


def _language(file: Path) -> Iterator[Command]:
    """Yield the sentences of one language; the same in every process."""
    from hassil.intents import Intents
    from hassil.parse_expression import parse_sentence

    from fl_sim.data.templates import Drawer

    language = Intents.from_dict(json.loads(file.read_text(encoding="utf-8")))
    rng = np.random.default_rng(zlib.crc32(file.stem.encode()))
    said = set()
    for intent, definition in sorted(language.intents.items()):
        templates = [(block, text) for block in definition.data for text in block.sentence_texts]
        for number, (block, template) in enumerate(_spread(templates, _TEMPLATES), start=1):
            drawer = Drawer(
                {**language.expansion_rules, **block.expansion_rules},
                {**language.slot_lists, **block.slot_lists},
                rng,
            )
            sentence = parse_sentence(template)
            for text in (drawer.sentence(sentence) for _ in range(_DRAWS)):
                if text and text not in said:
                    said.add(text)
                    yield Command(text, intent, file.stem, number % _TEST_EVERY == 0)


def _spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` of the items, evenly spaced, in their order."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]
