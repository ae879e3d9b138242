"""The families of models that the lean network computes."""

# model_type -> whether a norm's weight is stored less one, and whether embeddings are scaled by sqrt(width)
FAMILIES = {
    "llama": (False, False),
    "mistral": (False, False),
    "qwen2": (False, False),
    "qwen3": (False, False),
    "gemma": (True, True),
    "gemma3_text": (True, True),
}


def reason_against(model) -> str | None:
    """Say why a network cannot be run lean, or `None` where it can."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"{config.model_type} is none of the families {', '.join(FAMILIES)}"
    if getattr(config, "attn_logit_softcapping", None) or getattr(config, "final_logit_softcapping", None):
        return "its logits are capped"
    if getattr(config, "use_bidirectional_attention", False):
        return "it attends to what comes after"
    if any(True for _ in model.get_decoder().layers[0].mlp.act_fn.parameters()):
        return f"its activation {config.hidden_act} has weights of its own"
    rope = config.rope_parameters
    for parameters in [rope] if "rope_type" in rope else rope.values():
        if parameters["rope_type"] in ("dynamic", "longrope"):
            return f"its rotary embedding {parameters['rope_type']} depends on the length"
    return None
