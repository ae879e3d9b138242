"""Self-distillation: the target completes prompts, and its completions become training rows."""
