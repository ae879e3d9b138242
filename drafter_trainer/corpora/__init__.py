"""Corpora, user data and evaluation questions. The table of corpora on the Hub is in `catalog`."""
