"""Corpora by name, user data and evaluation questions. `catalog` has the table of corpora on the Hub."""
