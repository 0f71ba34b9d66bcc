"""Requests that are almost right, in great numbers: hundreds by `test_fuzz.py`, as many as one likes by
`python -m tests.fuzz`. What must hold of every answer is in `judge.py`.

What reads a client's bytes before anything else is known of it stands in `parsers.py` by itself, where it is quick
enough to be fuzzed by coverage (`make fuzz-coverage`, with atheris). The whole front end is not: it waits for a
database."""
