"""What processes of the tests need and takes long to import, but nothing that reads the Hub's variables as it is."""

import httpx2  # noqa: F401
import jinja2  # noqa: F401
import jsonschema  # noqa: F401
import pandas  # noqa: F401
import sacrebleu  # noqa: F401
import torch
import torch._dynamo
import torch.distributed.tensor
import torch.fx.experimental.symbolic_shapes
import torch.utils.data

torch.set_num_threads(1)
