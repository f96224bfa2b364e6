"""``asynclave run``: the main job, on virtual time, from the first client to the report."""
