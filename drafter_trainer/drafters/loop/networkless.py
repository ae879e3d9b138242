"""A drafter without a network, for `assistant_model`: lookup and an n-gram table draft.

Assisted decoding reads an assistant's configuration, generation settings, device and `generate`, and no weights.
transformers finds these classes in a repository by `auto_map` in `config.json`, with `trust_remote_code=True`. Without
it, the repository is rejected, since transformers' own loop has nothing to draft with.
"""

import torch
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel

MODEL_TYPE = "networkless_drafter"


class NetworklessConfig(PreTrainedConfig):
    """A configuration with the size of the target's vocabulary, which assisted decoding compares."""

    model_type = MODEL_TYPE

    vocab_size: int = 0


class NetworklessDrafter(PreTrainedModel, GenerationMixin):
    """A model without layers, which drafts with the loop that `loop.generate.attach_loop` gives it."""

    config_class = NetworklessConfig

    def __init__(self, config: NetworklessConfig) -> None:
        super().__init__(config)
        # A model's device is the device of its weights, so the model has a weight.
        self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.post_init()

    @classmethod
    def for_vocabulary(cls, size: int) -> "NetworklessDrafter":
        """Create a drafter for a target with a vocabulary of this size, padding included."""
        code = "custom_generate/networkless"
        classes = {
            "AutoConfig": f"{code}.{NetworklessConfig.__name__}",
            "AutoModelForCausalLM": f"{code}.{NetworklessDrafter.__name__}",
        }
        return cls(NetworklessConfig(vocab_size=size, auto_map=classes)).eval()

    def generate(self, *args, **kwargs):
        """Raise an error, since there is no loop yet.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "this drafter has no network and cannot generate text: load it with load_drafter, or with "
            "trust_remote_code=True, and pass it to the target's generate as assistant_model"
        )
