"""Models: plain bodies, their presets, and the way to and from public weights.

In: a config (or a public folder). Out: a `torch.nn.Module` that turns token ids into logits.
Model code knows no rank, optimizer, loss or dtype policy; parallelism and compilation are applied from outside.
Loading a public checkpoint and saving one are exact inverses, proven by logits.
May import: core, data, tokenizer, tokens. Heavy public formats live in `loading`, `saving`, `gguf`, `llama2c`.
"""

from gristmill.models.config import DecoderConfig
from gristmill.models.decoder import Decoder

__all__ = ["Decoder", "DecoderConfig"]
