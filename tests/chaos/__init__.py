"""The fault harness: a mixed load, faults injected into it, and an audit of what became of every call.

`python -m tests.chaos` (`make chaos`) is the long form; `test_chaos.py` runs a short one. A run's services, processes
and ledger live in one folder, and nothing of it is shared with other tests.
"""
