"""Requests that are almost right, in great numbers: hundreds by `test_fuzz.py`, as many as one likes by
`python -m tests.fuzz`. What must hold of every answer is in `judge.py`."""
