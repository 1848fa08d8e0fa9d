"""What datatrove says of documents; run by the Python of an environment that has datatrove and spaCy.

    python datatrove_oracle.py DOCUMENTS.json RESULTS.json

For each text: its words, the sentences of each line, the reason of each filter (null where it keeps the document), the
text that the C4 filter leaves, and the values behind the rules, by datatrove's own functions.
"""

import json
import sys

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.c4_filters import CITATION_REGEX
from datatrove.pipeline.filters.gopher_repetition_filter import (
    find_all_duplicate,
    find_duplicates,
    find_top_duplicate,
    get_n_grams,
)
from datatrove.utils.text import PUNCTUATION_SET, split_into_sentences, split_into_words

FILTERS = {
    "quality": GopherQualityFilter(), "repetition": GopherRepetitionFilter(), "c4": C4QualityFilter(),
    "c4_any_end": C4QualityFilter(filter_no_terminal_punct=False), "fineweb": FineWebQualityFilter(),
}


def describe(text):
    found = {"text": text, "words": split_into_words(text), "reasons": {}, "edited": {}}
    lines = {CITATION_REGEX.sub("", line.strip()) for line in text.splitlines()}
    found["sentences"] = {line: len(split_into_sentences(line)) for line in lines}
    for name, block in FILTERS.items():
        document = Document(text=text, id="")
        try:
            verdict = block.filter(document)
        except ZeroDivisionError:
            verdict = False, "crash"
        found["reasons"][name] = None if verdict is True else verdict[1]
        if name.startswith("c4") and verdict is True:
            found["edited"][name] = document.text
    found["values"] = values(text, found["words"])
    return found


def values(text, words):
    rule = FILTERS["repetition"]
    if not text:
        return {}
    result = {}
    split = {"paragraph": rule.paragraph_exp.split(text.strip()), "line": rule._line_splitter.split(text)}
    for name, parts in split.items():
        number, characters = find_duplicates(parts)
        result[f"datatrove_repetition_v1.duplicate_{name}s"] = number / len(parts)
        result[f"datatrove_repetition_v1.duplicate_{name}_characters"] = characters / len(text)
    for n, _ in rule.top_n_grams:
        grams = get_n_grams(words, n)
        result[f"datatrove_repetition_v1.top_{n}gram"] = find_top_duplicate(grams) / len(text) if grams else 0
    for n, _ in rule.dup_n_grams:
        result[f"datatrove_repetition_v1.duplicate_{n}gram"] = find_all_duplicate(words, n) / len(text)
    spoken = [len(w) for w in words if any(c not in PUNCTUATION_SET for c in w)]
    result["datatrove_quality_v1.words"] = len(spoken)
    result["datatrove_quality_v1.mean_word_length"] = float(np.mean(spoken)) if spoken else 0
    result["datatrove_quality_v1.alphabetic_words"] = sum(any(map(str.isalpha, w)) for w in words) / max(len(words), 1)
    lines = [line for line in text.split("\n") if line.strip() != ""]
    if lines:
        stops = FILTERS["fineweb"].stop_chars
        result["datatrove_fineweb_v1.punctuated_lines"] = sum(line.endswith(stops) for line in lines) / len(lines)
        result["datatrove_fineweb_v1.duplicate_line_characters"] = (
            find_duplicates(lines)[1] / len(text.replace("\n", "")))
    return result


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        documents = json.load(file)
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump([describe(text) for text in documents], file)
