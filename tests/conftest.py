"""What holds for all property tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine takes longer now and then than the 200 ms that an example has by default.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
