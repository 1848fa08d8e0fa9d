"""A WordNet of a few words, in both forms."""

from __future__ import annotations

from pathlib import Path

SYNSETS = [  # part of speech, words
    ("n", ["car", "automobile", "motorcar"]), ("n", ["physician", "doctor"]), ("n", ["village", "hamlet"]),
    ("v", ["explain", "explicate"]), ("a", ["quick", "fast"]), ("a", ["large", "big"]), ("n", ["child", "kid"]),
    ("v", ["purchase", "buy"]), ("n", ["purchase"]), ("n", ["guest", "visitor"]), ("n", ["town", "burgh"]),
    ("v", ["speak", "talk"]), ("n", ["New York", "Big Apple"]),
]


def lmf(path: Path, language: str = "en") -> Path:
    """WN-LMF."""
    entries = []
    words = sorted({(word, part) for part, group in SYNSETS for word in group})
    for number, (word, part) in enumerate(words):
        senses = "".join(f'<Sense id="s{number}-{i}" synset="y{i}">{_count(word, part)}</Sense>'
                         for i, (p, group) in enumerate(SYNSETS) if p == part and word in group)
        form = '<Form writtenForm="children"/>' if word == "child" else ""
        entries.append(f'<LexicalEntry id="e{number}"><Lemma writtenForm="{word}" partOfSpeech="{part}"/>{form}{senses}'
                       "</LexicalEntry>")
    synsets = "".join(f'<Synset id="y{i}" ili="" partOfSpeech="{p}"/>' for i, (p, _) in enumerate(SYNSETS))
    path.write_text('<?xml version="1.0" encoding="UTF-8"?>\n'
                    '<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.1.dtd">\n'
                    f'<LexicalResource><Lexicon id="tiny" label="Tiny" email="a@example.org" license="CC0" '
                    f'language="{language}" version="1">'
                    f"{''.join(entries)}{synsets}</Lexicon></LexicalResource>", encoding="utf-8")
    return path


def _count(word: str, part: str) -> str:
    return "<Count>9</Count>" if (word, part) == ("purchase", "v") else ""


def database(folder: Path) -> Path:
    """Princeton's files."""
    folder.mkdir()
    licence = "  1 This is a licence.\n"
    for name, part in {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}.items():
        data, index = [], {}
        for number, (p, group) in enumerate(SYNSETS):
            if p == part:
                words = " ".join(f"{word.replace(' ', '_')} 0" for word in group)
                data.append(f"{number:08d} 00 {part} {len(group):02x} {words} 000 | a gloss\n")
                for word in group:
                    index.setdefault(word.replace(" ", "_").lower(), []).append(f"{number:08d}")
        (folder / f"data.{name}").write_text(licence + "".join(data))
        (folder / f"index.{name}").write_text(licence + "".join(
            f"{word} {part} {len(at)} 0 {len(at)} 0 {' '.join(at)}\n" for word, at in sorted(index.items())))
    (folder / "noun.exc").write_text("children child\n")
    (folder / "verb.exc").write_text("bought buy\nspoke speak\nspoken speak\n")
    (folder / "cntlist.rev").write_text("purchase%2:40:00:: 1 9\n")
    return folder
