"""Why an update is refused: stable codes, each with a sentence to act on."""

from __future__ import annotations

from enum import StrEnum


class Reject(StrEnum):
    """Codes of a refused update; the value is the code on the wire."""

    NONFINITE = "NONFINITE"
    WRONG_SHAPE = "WRONG_SHAPE"
    NORM_TOO_LARGE = "NORM_TOO_LARGE"
    BAD_NUM_EXAMPLES = "BAD_NUM_EXAMPLES"
    TOO_STALE = "TOO_STALE"
    UNKNOWN_BASE_VERSION = "UNKNOWN_BASE_VERSION"
    DUPLICATE_UPDATE = "DUPLICATE_UPDATE"
    CLIENT_QUOTA = "CLIENT_QUOTA"
    LEVERAGE_BOUND = "LEVERAGE_BOUND"
    DP_BUDGET = "DP_BUDGET"


_SENTENCES = {
    Reject.NONFINITE: (
        "The update holds NaN or infinite values; lower the learning rate or clip gradients."
    ),
    Reject.WRONG_SHAPE: (
        "The update is not one flat float32 vector of the model's length; "
        "train the model this run was opened with."
    ),
    Reject.NORM_TOO_LARGE: (
        "The update's L2 norm is above the bound of this run; clip it or train fewer local steps."
    ),
    Reject.BAD_NUM_EXAMPLES: (
        "The number of examples must be an integer from 1 to the bound of this run."
    ),
    Reject.TOO_STALE: "The update's base version is too old; fetch the current model and retrain.",
    Reject.UNKNOWN_BASE_VERSION: (
        "The base version was never released in this run; fetch the current model and retrain."
    ),
    Reject.DUPLICATE_UPDATE: (
        "An update with this id, or from this client and base version, was counted already; "
        "train from a newer model."
    ),
    Reject.CLIENT_QUOTA: (
        "This client has used its share of the current buffer; send again after the next release."
    ),
    Reject.LEVERAGE_BOUND: (
        "No release of this buffer would have kept the leverage bound, so all of it was discarded "
        "and nothing of it was merged; train from the current model and send again."
    ),
    Reject.DP_BUDGET: (
        "This client's privacy budget in this run is spent: a further release with it would pass "
        "max_epsilon. It takes no further part."
    ),
}


def sentence(code: Reject) -> str:
    """Return what a refused client should do.

    Parameters
    ----------
    code : Reject
        The reason of the refusal.

    Returns
    -------
    str
        One sentence without any content of the update.
    """
    return _SENTENCES[code]
