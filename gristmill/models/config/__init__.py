"""What models are made of: one plain, checked dataclass a body.

Every config says `family`, `vocab_size`, `dim`, `layers`, `heads`, `head_dim` and `context`, counts its matrix
products (`matmul_parameters`) and its training FLOPs (`flops_per_token`).
"""

from gristmill.models.config.decoder import DecoderConfig
from gristmill.models.config.encoder import EncoderConfig
from gristmill.models.config.encoder_decoder import EncoderDecoderConfig
from gristmill.models.config.moe import MoEConfig
from gristmill.models.config.two_stream import TwoStreamConfig

__all__ = ["DecoderConfig", "EncoderConfig", "EncoderDecoderConfig", "MoEConfig", "TwoStreamConfig"]
