"""Errors of the numerics floor: a stable code and a sentence the user can act on."""

from __future__ import annotations

from typing import ClassVar


class StrategyError(Exception):
    """Base of every error raised by this package.

    Parameters
    ----------
    sentence : str
        What is wrong and what to do about it; never holds update content.
    """

    code: ClassVar[str] = "STRATEGY"

    def __init__(self, sentence: str) -> None:
        super().__init__(f"{self.code}: {sentence}")
        self.sentence = sentence


class LeakyRecipe(StrategyError):
    """The recipe's successive models can be differenced into single updates."""

    code = "LEAKY_RECIPE"


class UnprivateRecipe(StrategyError):
    """Differential privacy cannot be kept: what one client changes in a release is not bounded."""

    code = "DP_RECIPE"


class UnknownRecipe(StrategyError):
    """No recipe has this name."""

    code = "UNKNOWN_RECIPE"


class UnknownPolicy(StrategyError):
    """No selection policy has this name."""

    code = "UNKNOWN_POLICY"


class BadOption(StrategyError):
    """An option is unknown, has the wrong type or is out of range."""

    code = "BAD_OPTION"


class ManifestMismatch(StrategyError):
    """Arrays differ from the layout, or are no model at all."""

    code = "MANIFEST_MISMATCH"


class ReleaseNotReady(StrategyError):
    """A merge was asked for before the window and the release rule allow it."""

    code = "RELEASE_NOT_READY"


class MergeDue(StrategyError):
    """The buffer is full: merge before offering the next update."""

    code = "MERGE_DUE"


class BadState(StrategyError):
    """A saved state does not belong to this engine."""

    code = "BAD_STATE"
