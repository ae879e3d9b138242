"""Drafters in the engines that people serve with. What runs inside an engine imports nothing of training."""
