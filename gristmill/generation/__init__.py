"""Generation: the engine that evaluation, alignment and serving share, and the text layer above it.

In: a model and token ids (Engine), or a model folder and text (LanguageModel). Out: tokens with log-probabilities,
or completions. Requests join and leave a running batch, and none of them changes another's result.
May call: core, data, tokenizer, tokens, models, objectives, training.
"""

from gristmill.generation.engine import Engine, Output, TokenEvent
from gristmill.generation.sampling import Sampling
from gristmill.generation.text import Completion, LanguageModel, TextStream, TokenLogprob

__all__ = ["Completion", "Engine", "LanguageModel", "Output", "Sampling", "TextStream", "TokenEvent", "TokenLogprob"]
