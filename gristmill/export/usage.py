"""How a released model is used, by what kind of body it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gristmill.models.families import FAMILIES
from gristmill.tokenizer import Tokenizer


@dataclass(frozen=True)
class Use:
    """What a body is good for."""

    body: str
    """What it is called in a sentence."""
    pipeline: str
    """The task as model hubs name it."""
    writes: bool
    """Whether it makes text."""


USES = {
    "Decoder": Use("decoder", "text-generation", True),
    "Encoder": Use("encoder", "fill-mask", False),
    "EncoderDecoder": Use("encoder-decoder", "text2text-generation", True),
    "TwoStream": Use("two-stream model", "text-generation", True),
}
"""Class of the body -> its use."""


def usage(name: str, model: Any, tokenizer: Tokenizer) -> str:
    """Commands and code that use the release, as Markdown."""
    writers = {"Decoder": _decoder, "Encoder": _encoder, "EncoderDecoder": _encoder_decoder}
    ours, theirs = writers.get(type(model).__name__, _logits)(name, tokenizer)
    parts = ["With Gristmill:", ours]
    if FAMILIES[model.config.family].public_class:
        parts += ["With transformers:", theirs]
    return "\n\n".join(parts)


def _decoder(name: str, tokenizer: Tokenizer) -> tuple[str, str]:
    chat = tokenizer.chat_template is not None
    ask = ('ids = tokenizer.apply_chat_template([{"role": "user", "content": "..."}], add_generation_prompt=True, '
           'return_tensors="pt", return_dict=True)' if chat else 'ids = tokenizer("...", return_tensors="pt")')
    ours = f"""```
gristmill {"chat" if chat else "generate"} {name}{"" if chat else ' --prompt "..."'}
gristmill serve {name}
```"""
    return ours, f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
{ask}
print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))
```"""


def _encoder(name: str, tokenizer: Tokenizer) -> tuple[str, str]:
    text = f'"... {tokenizer.special_tokens.get("mask_token", "")} ..."'
    ours = f"""```python
import gristmill

print(gristmill.load("{name}").fill({text}))
```"""
    return ours, f"""```python
from transformers import pipeline

print(pipeline("fill-mask", "{name}")({text}))
```"""


def _encoder_decoder(name: str, tokenizer: Tokenizer) -> tuple[str, str]:
    gap = "... <extra_id_0> ..." if tokenizer.sentinel_ids else "..."
    end = tokenizer.token_name(tokenizer.document_end_id)
    ours = f"""```
gristmill generate {name} --prompt "{gap}"
```"""
    return ours, f"""```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSeq2SeqLM.from_pretrained("{name}")
ids = tokenizer("{gap}{end}", add_special_tokens=False, return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))
```"""


def _logits(name: str, tokenizer: Tokenizer) -> tuple[str, str]:
    ours = f"""```python
import gristmill

lm = gristmill.load("{name}")
print(lm.logits(lm.tokenizer.encode("...")))
```"""
    return ours, f"""```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
print(AutoModel.from_pretrained("{name}")(**tokenizer("...", return_tensors="pt")))
```"""
