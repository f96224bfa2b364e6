"""Names under which strategy and clients exchange entries in Flower's records."""

from __future__ import annotations

RUN_ID = "asynclave-run-id"
BASE_VERSION = "asynclave-base-version"
WEIGHTED_BY = "asynclave-weighted-by"
REPLIES = "asynclave-replies"
RECEIPT = "asynclave-receipt"
UTILISATION = "utilisation"
"""Metric in which a node may report its load, in per cent."""
