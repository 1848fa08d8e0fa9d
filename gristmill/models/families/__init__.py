"""Families: a public architecture as presets, a config in both directions, and a map of weight names.

In: the content of a public `config.json`. Out: our config, and the same content again.
A new family is one file here and one line in `FAMILIES`. May call: core, models.config, the bodies.
"""

from gristmill.models.families.bert import BERT
from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.gpt2 import GPT2
from gristmill.models.families.gpt3 import GPT3
from gristmill.models.families.gristmill import GRISTMILL
from gristmill.models.families.llama import LLAMA
from gristmill.models.families.mistral import MISTRAL
from gristmill.models.families.mixtral import MIXTRAL
from gristmill.models.families.moe import MOE
from gristmill.models.families.mt5 import MT5
from gristmill.models.families.palm import PALM
from gristmill.models.families.qwen import QWEN
from gristmill.models.families.roberta import ROBERTA
from gristmill.models.families.t5 import T5
from gristmill.models.families.xlm import XLM
from gristmill.models.families.xlm_roberta import XLM_ROBERTA
from gristmill.models.families.xlnet import XLNET

FAMILIES: dict[str, Family] = {family.name: family for family in (
    LLAMA, GRISTMILL, GPT2, GPT3, MISTRAL, QWEN, PALM, MIXTRAL, MOE, BERT, ROBERTA, XLM, XLM_ROBERTA, XLNET, T5, MT5,
)}
"""Name of a family, as recipes call it -> what it is."""

__all__ = ["FAMILIES", "Family", "WeightName"]
