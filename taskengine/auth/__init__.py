"""Tokens: whose they are, and what they allow. Knows issuers, keys and metadata; neither requests nor tasks."""
