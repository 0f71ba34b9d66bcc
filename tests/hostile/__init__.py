"""Clients that mean harm, over real sockets. `python -m tests.hostile` measures what `test_guardrails.py` states."""
