"""Drafters in serving engines. Modules that run inside an engine import nothing from training."""
