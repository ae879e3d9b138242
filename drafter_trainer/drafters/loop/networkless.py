"""A drafter without a network: what is passed as `assistant_model` where lookup and n-gram table draft alone.

Assisted decoding asks an assistant for its configuration, its generation settings, its device and its `generate`, and
for no weights. transformers finds these classes in a repository by `auto_map` in `config.json`, with
`trust_remote_code=True`; without, it refuses the repository, as it should: there is nothing that its own loop could
draft with.
"""

import torch
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel

MODEL_TYPE = "networkless_drafter"


class NetworklessConfig(PreTrainedConfig):
    """The part of a configuration that assisted decoding compares with the target's.

    Args:
        vocab_size (`int`): Size of the target's vocabulary.
    """

    model_type = MODEL_TYPE

    vocab_size: int = 0


class NetworklessDrafter(PreTrainedModel, GenerationMixin):
    """Stand where a drafter's network would.

    What drafts is the loop that `loop.generate.attach_loop` gives it, or a subclass' own `generate`.
    """

    config_class = NetworklessConfig

    def __init__(self, config: NetworklessConfig) -> None:
        super().__init__(config)
        # A model is where its weights are, so it has one.
        self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.post_init()

    @classmethod
    def for_vocabulary(cls, size: int) -> "NetworklessDrafter":
        """Make one for a target whose vocabulary has this size; in a repository its code lies in `custom_generate/`.

        Args:
            size (`int`): Ids, padding included.
        """
        code = "custom_generate/networkless"
        classes = {
            "AutoConfig": f"{code}.{NetworklessConfig.__name__}",
            "AutoModelForCausalLM": f"{code}.{NetworklessDrafter.__name__}",
        }
        return cls(NetworklessConfig(vocab_size=size, auto_map=classes)).eval()

    def generate(self, *args, **kwargs):
        """Refuse to answer by itself, or to draft before there is a loop.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "this drafter has no network and answers nothing: load it with load_drafter, or with "
            "trust_remote_code=True, and pass it to the target's generate as assistant_model"
        )
