"""Method `synonyms`: words replaced by others of the same meaning, in the same form.

Zhang, Zhao and LeCun 2015, "Character-level Convolutional Networks for Text Classification", section 2.4 (WordNet), and
Wang and Yang 2015, "That's So Annoying!!!" (neighbours in an embedding).
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gristmill.core.config import ModelRef, config, require
from gristmill.core.errors import UserError
from gristmill.core.hashing import digest, digest_file
from gristmill.core.writer import Writer
from gristmill.data.augment import wordnet as wordnets
from gristmill.data.augment.method import Made, Original, check_method, seed_of
from gristmill.data.augment.thesaurus import Thesaurus, WordCounts, from_vectors, from_wordnet
from gristmill.data.augment.vectors import read_vectors
from gristmill.data.augment.words import as_written, parts

_CLOSED = (
    "a about above across after again against ago all along already also although always am among an and another any "
    "are around as at away back be because been before behind being below beside between beyond both but by can cannot "
    "could did do does doing done down during each eight either else enough even ever every few first five for four "
    "from further had has have having he her here hers herself him himself his how however i if in indeed instead into "
    "is it its itself just last least less like many may me might mine more most much must my myself near need neither "
    "never next nine no nobody none nor not nothing now of off often on once one only onto or other others ought our "
    "ours ourselves out over own per perhaps quite rather same second seven several shall she should since six so some "
    "somebody someone something still such ten than that the their theirs them themselves then there therefore these "
    "they third this those though three through thus till to together too toward towards twice two under unless until "
    "up upon us very was we were what whatever when where whether which while who whoever whole whom whose why will "
    "with within without would yes yet you your yours yourself yourselves")
CLOSED = frozenset(_CLOSED.split())
"""English words of the closed classes (pronouns, prepositions, auxiliaries, numbers, ...): what a WordNet says of
`might` or `does` is about a noun of the same spelling."""


@config
class WordNetSource:
    """Synonyms from a WordNet that is installed."""

    kind: Literal["wordnet"] = "wordnet"
    """wordnet."""
    path: str | None = None
    """A folder with WordNet's files (data.noun, ...) or a WN-LMF file (.xml, .xml.gz, .xml.xz); null looks where
    Debian's package wordnet-base and NLTK's data put it."""
    senses: int = 1
    """How many of a word's senses count, the commonest first; 1 to 10."""

    def __post_init__(self) -> None:
        require(1 <= self.senses <= 10, "senses", "must be from 1 to 10")

    def fingerprint(self) -> list[str]:
        """Digests of what is read."""
        return [digest_file(path) for path in wordnets.files(wordnets.find(self.path))]

    def thesaurus(self, counts: WordCounts, writer: Callable[[str], Writer]) -> dict[str, Any]:
        """The value of a thesaurus file."""
        return from_wordnet(wordnets.read_wordnet(wordnets.find(self.path)), self.senses)


@config
class VectorSource:
    """Synonyms from the neighbours in a file of word vectors."""

    kind: Literal["vectors"] = "vectors"
    """vectors."""
    path: str
    """A text file of word2vec or GloVe (also .gz): a word and its numbers a line."""
    neighbours: int = 5
    """Nearest words that may stand for a word, 1 to 50."""
    least_similarity: float = 0.6
    """Their least cosine similarity, 0 to 1."""
    vocabulary: int = 20_000
    """Words that are looked at, in the order of the file; time grows with the square of this."""
    wordnet: str | None = None
    """A WordNet (see `wordnet`): where it knows both words they must share a part of speech."""

    def __post_init__(self) -> None:
        _check_neighbours(self)

    def fingerprint(self) -> list[str]:
        """Digests of what is read."""
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise UserError("this file is missing", where=self.path, fix="name a file of word vectors as text")
        return [digest_file(path), *_wordnet_digests(self.wordnet)]

    def thesaurus(self, counts: WordCounts, writer: Callable[[str], Writer]) -> dict[str, Any]:
        """The value of a thesaurus file."""
        words, vectors = read_vectors(Path(self.path).expanduser(), lambda word: word in counts.counts, self.vocabulary)
        return from_vectors(words, vectors, self.neighbours, self.least_similarity, "", _wordnet(self.wordnet))


@config
class ModelSource:
    """Synonyms from the neighbours among the input embeddings of a local model."""

    kind: Literal["model"] = "model"
    """model."""
    model: ModelRef
    """The model; tokens of it that are whole words are looked at."""
    neighbours: int = 5
    """Nearest words that may stand for a word, 1 to 50."""
    least_similarity: float = 0.4
    """Their least cosine similarity, 0 to 1."""
    vocabulary: int = 20_000
    """Words that are looked at, in the order of the tokenizer; time grows with the square of this."""
    wordnet: str | None = None
    """A WordNet (see `wordnet`): where it knows both words they must share a part of speech."""

    def __post_init__(self) -> None:
        _check_neighbours(self)

    def fingerprint(self) -> list[str]:
        """Digests of what is read besides the model."""
        return _wordnet_digests(self.wordnet)

    def thesaurus(self, counts: WordCounts, writer: Callable[[str], Writer]) -> dict[str, Any]:
        """The value of a thesaurus file."""
        words, vectors = writer(self.model).words()
        kept = [i for i, word in enumerate(words) if word in counts.counts][: self.vocabulary]
        if not kept:
            raise UserError("no token of this model is a word of the corpus", where=self.model,
                            fix="use a model whose tokenizer knows the corpus's words, or word vectors")
        return from_vectors([words[i] for i in kept], vectors[kept], self.neighbours, self.least_similarity, "",
                            _wordnet(self.wordnet))


@config
class Synonyms:
    """Words replaced by synonyms: of a WordNet, or near in an embedding."""

    kind: Literal["synonyms"] = "synonyms"
    """synonyms."""
    name: str = ""
    """What the made documents are called after; default `synonyms`."""
    share: float = 1.0
    """Share of the documents that it takes, above 0 to 1; chosen by the hash of their ids."""
    copies: int = 1
    """Texts made of each document."""
    languages: list[str] = field(default_factory=lambda: ["en"])
    """Only documents in these languages; empty takes all but code and languages without spaces."""
    rate: float = 0.1
    """Words replaced for each word of the text, above 0 to 1, as far as it has words with synonyms."""
    source: Annotated[WordNetSource | VectorSource | ModelSource, Field(discriminator="kind")] = WordNetSource()
    """Where synonyms come from: `wordnet`, `vectors` or `model`."""
    least_count: int = 2
    """A replacement must occur this often in the training documents; 0 allows words that never do."""
    most_frequent: float = 0.001
    """Words that make up more than this share of all words (`the`, `be`) are left alone; 1 leaves none."""

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_method(self)
        require(0 < self.rate <= 1, "rate", "must be above 0 and at most 1")
        require(self.least_count >= 0, "least_count", "must not be negative")
        require(0 < self.most_frequent <= 1, "most_frequent", "must be above 0 and at most 1")


def replaced(original: Original, method: Synonyms, name: str, copy: int, seed: int, thesaurus: Thesaurus,
             counts: WordCounts) -> Made:
    """One changed copy. A word that is replaced is so in the whole text, by the same synonym."""
    chance = random.Random(seed_of(seed, name, original.id, copy))
    pieces = list(parts(original.text))
    words = [part for part, is_word in pieces if is_word]
    choices: dict[str, list[str]] = {}
    closed = CLOSED if original.language == "en" else frozenset()
    for word in dict.fromkeys(word.lower() for word in words if len(word) > 2):
        if word in closed:
            continue
        if method.most_frequent >= 1 or counts.share(word) <= method.most_frequent:
            known = [other for other in thesaurus.replacements(word)
                     if counts.counts.get(other, 0) >= method.least_count]
            if known:
                choices[word] = known
    occurrences: dict[str, int] = {}
    for word in words:
        if word.lower() in choices and not _a_name(word):
            occurrences[word.lower()] = occurrences.get(word.lower(), 0) + 1
    wanted = math.floor(method.rate * len(words) + chance.random())
    chosen: dict[str, str] = {}
    for word in chance.sample(sorted(occurrences), len(occurrences)):
        if wanted <= 0:
            break
        chosen[word] = chance.choice(choices[word])
        wanted -= occurrences[word]
    text = "".join(as_written(chosen[part.lower()], part) if is_word and part.lower() in chosen and not _a_name(part)
                   else part for part, is_word in pieces)
    if original.language == "en":
        text = _articles(text, chosen)
    return Made(original.id, copy, text, about={"replaced": len(chosen)})


def _articles(text: str, chosen: dict[str, str]) -> str:
    """`a` and `an` before replaced words as their sound asks, by their first letter."""
    for old, new in chosen.items():
        if (old[0] in "aeiou") != (new[0] in "aeiou"):
            rest = "n" if new[0] in "aeiou" else ""
            text = re.sub(rf"\b([Aa])n?( {re.escape(new)}\b)", rf"\g<1>{rest}\g<2>", text)
    return text


def _a_name(word: str) -> bool:
    """A capital that is not the whole word may be a name; so is not told from the first word of a sentence."""
    return word[0].isupper() and not word.isupper()


def _check_neighbours(source: Any) -> None:
    require(1 <= source.neighbours <= 50, "neighbours", "must be from 1 to 50")
    require(0 <= source.least_similarity <= 1, "least_similarity", "must be from 0 to 1")
    require(10 <= source.vocabulary <= 200_000, "vocabulary", "must be from 10 to 200000")


def _wordnet(path: str | None) -> wordnets.WordNet | None:
    return wordnets.read_wordnet(wordnets.find(path)) if path is not None else None


def _wordnet_digests(path: str | None) -> list[str]:
    return [digest([digest_file(file) for file in wordnets.files(wordnets.find(path))])] if path is not None else []
