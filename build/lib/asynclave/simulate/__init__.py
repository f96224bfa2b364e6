"""``asynclave simulate``: sweeps over seeds on the fast path of ``fl_sim``."""
