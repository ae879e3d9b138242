raise ModuleNotFoundError("recipes are launched, not imported: accelerate launch recipes/finetune.py --config …")
