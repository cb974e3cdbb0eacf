"""One profile for all property tests: no deadlines, as machines differ, and the same examples every time."""

from hypothesis import settings

settings.register_profile("segue", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("segue")
