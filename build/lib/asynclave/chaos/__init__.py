"""``asynclave chaos``: break everything on purpose, and count what is lost."""
