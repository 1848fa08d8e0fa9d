"""What our `SpacyWords` says of documents; run by the Python of an environment that has spaCy.

    python spacy_words_oracle.py DOCUMENTS.json RESULTS.json
"""

import json
import re
import sys

from gristmill.data.signals.compat.spacy_words import SpacyWords

CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")

if __name__ == "__main__":
    splitter = SpacyWords()
    with open(sys.argv[1], encoding="utf-8") as file:
        documents = json.load(file)
    found = []
    for text in documents:
        lines = {CITATION.sub("", line.strip()) for line in text.splitlines()}
        found.append({"words": splitter.words(text), "sentences": {line: splitter.sentences(line) for line in lines}})
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump(found, file)
