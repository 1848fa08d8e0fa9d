"""From what somebody wants to a way of getting it: plain rules, each with its reason.

`decide` looks at every rule that applies. A rule excludes a way or speaks for or against it; of the ways that are not
excluded the one with the most votes is taken, and the cheaper one where votes are equal. From scratch is never
excluded, so that there is always an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from gristmill.core.config import config, require

Way = Literal["prompt", "lora", "finetune", "continue", "scratch"]
WAYS: tuple[Way, ...] = get_args(Way)
"""From the cheapest to the dearest: which one is taken where votes are equal."""
TITLES: Mapping[Way, str] = {
    "prompt": "use a public model as it is, by prompt",
    "lora": "fine-tune a public model with low-rank adapters (LoRA)",
    "finetune": "fine-tune all weights of a public model",
    "continue": "continue the pretraining of a public model on your text",
    "scratch": "train a model from scratch",
}
BYTES_PER_TOKEN = 4.2
"""Of English text; what turns megabytes into tokens (planning/tables/assumptions.yaml)."""
FEW_EXAMPLES, MANY_EXAMPLES = 50, 1000
LITTLE_TEXT_MB, MUCH_TEXT_MB = 20.0, 200.0
USABLE_SCRATCH_TOKENS = 2e9
"""Below this a model from scratch writes its domain's text, but does not hold a conversation about it."""
BYTES_TO_TRAIN = 20.0
"""Memory a parameter in full fine-tuning: fp32 weights, gradients, Adam's two moments, and activations."""
BYTES_TO_ADAPT = 6.0
BYTES_TO_USE = 5.0


@config
class Goal:
    """The answers of the interview."""

    purpose: Literal["chat", "write", "classify", "learn"] = "chat"
    """chat: answer questions; write: go on with text or code; classify: label texts or pull fields out of them;
    learn: see how such a model is made."""
    domain: Literal["general", "special", "code"] = "general"
    """general; special: a field or a company with words of its own; code: programs."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes."""
    quality: Literal["try", "good", "best"] = "good"
    """try: see whether it works at all; good: useful to its users; best: as good as the budget allows."""
    text_mb: float = 0.0
    """Raw text at hand, in megabytes."""
    examples: int = 0
    """Question and answer pairs (or labelled texts) at hand."""
    budget_usd: float = 0.0
    """US dollars for computing; 0: only the machine at hand."""
    days: float = 7.0
    """Until when it must be ready."""
    privacy: Literal["open", "private", "own"] = "private"
    """open: texts may go to others; private: they stay on your machines; own: besides, nobody else's weights, because
    all that the model learned from must be known."""

    def __post_init__(self) -> None:
        require(len(self.languages) > 0, "languages", "name at least one, e.g. en")
        for language in self.languages:
            require(2 <= len(language) <= 3 and language.isalpha() and language.islower(), "languages",
                    f"{language!r} is no ISO 639-1 code such as en, de, zh")
        require(0 <= self.text_mb < 1e12, "text_mb", "must not be negative")
        require(0 <= self.examples < 1e12, "examples", "must not be negative")
        require(0 <= self.budget_usd < 1e12, "budget_usd", "must not be negative")
        require(0 < self.days <= 36_500, "days", "must be positive")

    @property
    def text_tokens(self) -> float:
        """About how many tokens the raw text has."""
        return self.text_mb * 1e6 / BYTES_PER_TOKEN


@dataclass(frozen=True)
class Facts:
    """What the rules need to know besides the goal."""

    lora: bool
    """Whether this installation has low-rank adapters."""
    covered: bool
    """Whether a public model that fits was trained on all the languages."""
    full_fits: bool
    """Whether a public model of the wished size can be trained whole in the memory and the budget at hand."""
    scratch_tokens: float
    """Tokens that the budget and the text allow for a model from scratch."""


@dataclass(frozen=True)
class Rule:
    """votes: way -> for (positive) or against it. excludes: ways out of the question. because: in a sentence."""

    name: str
    applies: Callable[[Goal, Facts], bool]
    because: str
    votes: Mapping[Way, int] = field(default_factory=dict)
    excludes: tuple[Way, ...] = ()


RULES: tuple[Rule, ...] = (
    Rule("known origin", lambda g, f: g.privacy == "own",
         "everything that the model learned from must be known, so that nobody else's weights can be inside",
         excludes=("prompt", "lora", "finetune", "continue")),
    Rule("to learn", lambda g, f: g.purpose == "learn",
         "to see how a model is made, one makes one: a small one from raw text shows every stage",
         votes={"scratch": 10}),
    Rule("no adapters here", lambda g, f: not f.lora,
         "this version of Gristmill has no low-rank adapters yet", excludes=("lora",)),
    Rule("too few examples", lambda g, f: g.examples < FEW_EXAMPLES,
         f"fewer than {FEW_EXAMPLES} examples teach a form, not a skill", excludes=("lora", "finetune")),
    Rule("some examples", lambda g, f: FEW_EXAMPLES <= g.examples < MANY_EXAMPLES,
         f"{FEW_EXAMPLES} to {MANY_EXAMPLES} examples are enough to adapt a model that can nearly do it",
         votes={"lora": 3, "finetune": 2}),
    Rule("many examples", lambda g, f: g.examples >= MANY_EXAMPLES,
         f"{MANY_EXAMPLES} examples and more are worth training on", votes={"finetune": 4, "lora": 3}),
    Rule("labels", lambda g, f: g.purpose == "classify" and g.examples >= FEW_EXAMPLES,
         "a small model fine-tuned on labels is more reliable and far cheaper to run than a prompt",
         votes={"finetune": 2, "lora": 1}),
    Rule("does not fit", lambda g, f: not f.full_fits,
         "training every weight of a public model needs more memory, time or money than there is",
         excludes=("finetune", "continue"), votes={"lora": 1}),
    Rule("too little text", lambda g, f: g.text_mb < LITTLE_TEXT_MB,
         f"less than {LITTLE_TEXT_MB:.0f} MB of text change what a model knows only by heart",
         excludes=("continue",), votes={"scratch": -2}),
    Rule("words of its own", lambda g, f: g.domain == "special" and g.text_mb >= LITTLE_TEXT_MB,
         "a field with words of its own is learned from its text, which public models have not seen",
         votes={"continue": 3, "scratch": 1}),
    Rule("much text", lambda g, f: g.text_mb >= MUCH_TEXT_MB,
         f"{MUCH_TEXT_MB:.0f} MB of text and more move a model noticeably", votes={"continue": 2, "scratch": 1}),
    Rule("text to write like", lambda g, f: g.purpose == "write" and g.text_mb >= LITTLE_TEXT_MB,
         "who wants text gone on with needs a model that has read such text", votes={"continue": 2, "scratch": 1}),
    Rule("language not covered", lambda g, f: not f.covered,
         "no public model that Gristmill opens and that fits was trained on all these languages",
         votes={"prompt": -3, "lora": -2, "finetune": -2, "continue": 1, "scratch": 1}),
    Rule("first a try", lambda g, f: g.quality == "try",
         "before anything is trained, a public model with a good prompt shows in an hour what is missing",
         votes={"prompt": 3}),
    Rule("general knowledge", lambda g, f: g.domain == "general" and g.purpose in ("chat", "classify"),
         "public models have read more general text than anybody can collect for this",
         votes={"prompt": 2, "scratch": -3}),
    Rule("not enough to converse",
         lambda g, f: g.purpose in ("chat", "classify") and f.scratch_tokens < USABLE_SCRATCH_TOKENS,
         "the budget and the text allow a model from scratch that completes text, not one that understands questions",
         votes={"scratch": -3}),
    Rule("scratch is dear", lambda g, f: g.purpose != "learn",
         "a model from scratch must learn from your text what public models learned from trillions of tokens",
         votes={"scratch": -2}),
    Rule("soon", lambda g, f: g.days < 2,
         "in less than two days there is no time for a second attempt",
         votes={"prompt": 2, "continue": -1, "scratch": -1}),
    Rule("as good as possible", lambda g, f: g.quality == "best",
         "the best results come from a good public model that is trained further", votes={"finetune": 1, "lora": 1,
                                                                                          "continue": 1}),
)


@dataclass(frozen=True)
class Decision:
    """The way that was taken, and why; reasons are of the rules that applied."""

    way: Way
    votes: Mapping[Way, int]
    reasons: tuple[str, ...]
    """What spoke for it."""
    doubts: tuple[str, ...]
    """What spoke against it."""
    others: Mapping[Way, str]
    """Every other way -> why not."""
    excluded: tuple[Way, ...] = ()
    """Ways that are out of the question."""


def decide(goal: Goal, facts: Facts) -> Decision:
    """Apply the rules."""
    applied = [rule for rule in RULES if rule.applies(goal, facts)]
    votes: dict[Way, int] = {way: sum(rule.votes.get(way, 0) for rule in applied) for way in WAYS}
    excluded = {way: rule.because for rule in reversed(applied) for way in rule.excludes}
    way = max((w for w in WAYS if w not in excluded), key=lambda w: (votes[w], -WAYS.index(w)))
    reasons = [rule.because for rule in applied if rule.votes.get(way, 0) > 0]
    if way == "scratch":
        reasons += [rule.because for rule in applied if rule.name == "known origin"]
    if not reasons:
        reasons = [{"prompt": "nothing at hand makes training better than a prompt: too few examples, too little text",
                    }.get(way, "the other ways are out of the question or have more against them")]
    others: dict[Way, str] = {}
    for other in WAYS:
        if other == way:
            continue
        against = [rule.because for rule in applied if rule.votes.get(other, 0) < 0]
        others[other] = excluded.get(other) or (
            against[0] if against else "less speaks for it, or it costs more for the same")
    return Decision(way, votes, tuple(reasons), tuple(r.because for r in applied if r.votes.get(way, 0) < 0), others,
                    tuple(w for w in WAYS if w in excluded))
