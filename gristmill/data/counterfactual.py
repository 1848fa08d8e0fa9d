"""The same English text about the other gender: he becomes she, mother becomes father. For balancing a corpus.

Counterfactual data augmentation: Lu et al. (2018), "Gender bias in neural natural language processing", section 4;
Zhao et al. (2018), "Gender bias in coreference resolution", section 4.1. The words and the rules are ours. Names
stay, and so does everything that is not in the table.
"""

from __future__ import annotations

import re

_PAIRS = """
he she; himself herself; man woman; men women; boy girl; boys girls; boyish girlish; boyhood girlhood; guy gal; guys
gals; lad lass; lads lasses; gentleman lady; gentlemen ladies; sir madam; mr mrs; male female; males females;
masculine feminine; masculinity femininity; manhood womanhood; manly womanly; father mother; fathers mothers;
fatherhood motherhood; fatherly motherly; fatherless motherless; fathered mothered; dad mom; dads moms; daddy mommy;
papa mama; paternal maternal; paternity maternity; son daughter; sons daughters; brother sister; brothers sisters;
brotherhood sisterhood; brotherly sisterly; husband wife; husbands wives; uncle aunt; uncles aunts; nephew niece;
nephews nieces; grandfather grandmother; grandfathers grandmothers; grandpa grandma; granddad grandmom; grandson
granddaughter; grandsons granddaughters; stepfather stepmother; stepfathers stepmothers; stepson stepdaughter;
stepsons stepdaughters; stepbrother stepsister; stepbrothers stepsisters; godfather godmother; godson goddaughter;
boyfriend girlfriend; boyfriends girlfriends; groom bride; grooms brides; widower widow; widowers widows; bachelor
spinster; king queen; kings queens; prince princess; princes princesses; duke duchess; dukes duchesses; emperor
empress; emperors empresses; baron baroness; barons baronesses; count countess; heir heiress; heirs heiresses; actor
actress; actors actresses; waiter waitress; waiters waitresses; host hostess; hosts hostesses; steward stewardess;
stewards stewardesses; hero heroine; heroes heroines; wizard witch; wizards witches; monk nun; monks nuns; abbot
abbess; priest priestess; priests priestesses; landlord landlady; landlords landladies; policeman policewoman;
policemen policewomen; businessman businesswoman; businessmen businesswomen; chairman chairwoman; chairmen chairwomen;
spokesman spokeswoman; spokesmen spokeswomen; congressman congresswoman; congressmen congresswomen; salesman
saleswoman; salesmen saleswomen; sportsman sportswoman; sportsmen sportswomen; fraternity sorority; fraternities
sororities; schoolboy schoolgirl; schoolboys schoolgirls; cowboy cowgirl; cowboys cowgirls; fiancé fiancée; masseur
masseuse; patriarch matriarch; patriarchs matriarchs; patriarchal matriarchal; patriarchy matriarchy
"""
UNAMBIGUOUS: dict[str, str] = {}
"""Words with one counterpart each; swapping twice gives the word back."""
for _pair in _PAIRS.replace("\n", " ").split(";"):
    _one, _other = _pair.split()
    UNAMBIGUOUS[_one], UNAMBIGUOUS[_other] = _other, _one
for _word in ("count", "countess"):  # `count` is a verb far more often
    del UNAMBIGUOUS[_word]
ONE_WAY = {"ms": "mr", "miss": "mr", "mum": "dad", "mums": "dads", "mummy": "daddy", "bridegroom": "bride"}
"""Words whose counterpart has another one. `miss` only as a title: with a capital, before a name."""
AMBIGUOUS = frozenset({"her", "his", "him", "hers"})
"""her is him or his, his is her or hers: what stands around them tells."""

_WORD = re.compile(r"[A-Za-zé]+")
_NEXT = re.compile(r"[ \t\n]+([A-Za-z']+)")
_LAST = re.compile(r"([A-Za-z']+)[ \t\n]+$")

_NO_NOUN = frozenset(["to", "for", "with", "at", "in", "on", "from", "by", "of", "about", "as", "into", "onto", "over",
                      "under", "after", "before", "than", "because", "and", "or", "but", "nor", "if", "when",
                      "whenever", "while", "that", "who", "whom", "whose", "which", "what", "how", "why", "where",
                      "wherever", "the", "a", "an", "this", "these", "those", "it", "he", "she", "they", "we", "you",
                      "i", "them", "us", "me", "is", "was", "were", "be", "been", "are", "am", "had", "has", "have",
                      "did", "does", "do", "will", "would", "could", "should", "can", "may", "might", "must", "shall",
                      "cannot", "not", "up", "down", "out", "off", "away", "again", "too", "so", "then", "there",
                      "here", "now", "yesterday", "today", "tonight", "tomorrow", "once", "twice", "alone", "some",
                      "any", "no", "all", "both", "less", "until", "till", "since", "during", "through", "throughout",
                      "without", "within", "upon", "against", "between", "toward", "towards", "across", "around",
                      "along", "behind", "near", "beside", "besides", "beyond", "among", "though", "although",
                      "unless", "whether", "instead", "anyway", "anymore", "later", "soon", "sooner", "never",
                      "always", "often", "sometimes", "already", "yet", "still", "even", "just", "also", "either",
                      "neither", "however", "therefore", "more", "much", "a", "lot", "everything", "something",
                      "nothing", "anything", "everyone", "someone", "one", "two", "three", "home", "inside", "outside",
                      "forward", "together", "apart", "enough", "aside", "ahead", "aboard", "abroad", "afterwards",
                      "afterward", "ever", "really"])
"""Words that do not begin a noun phrase behind `her`; so it is an object: told her to, saw her in."""
_NOUNS_IN_LY = frozenset(["family", "only", "early", "lovely", "friendly", "elderly", "daily", "weekly", "monthly",
                          "yearly", "holy", "belly", "bully", "jelly", "ally", "reply", "assembly", "lonely", "likely",
                          "unlikely", "deadly", "ugly", "silly", "curly", "lively", "costly", "ghostly", "motherly",
                          "fatherly", "womanly", "manly", "homely", "supply", "butterfly"])
_PERCEPTION = frozenset(["let", "lets", "letting", "make", "makes", "made", "making", "help", "helps", "helped",
                         "helping", "see", "sees", "saw", "seen", "seeing", "hear", "hears", "heard", "hearing",
                         "watch", "watches", "watched", "watching", "feel", "feels", "felt", "notice", "noticed",
                         "have", "had"])
_BARE_VERBS = frozenset(["go", "cry", "feel", "know", "do", "get", "take", "come", "leave", "look", "understand",
                         "think", "want", "run", "stop", "learn", "stay", "see", "be", "walk", "speak", "smile",
                         "laugh", "sit", "stand", "move", "fall", "sleep", "eat", "drink", "play", "sing", "dance",
                         "die", "live", "believe", "realize", "realise", "forget", "remember", "say", "tell", "ask",
                         "try", "start", "begin", "keep", "give", "put", "bring", "pass", "enter", "become", "seem",
                         "appear", "wait", "work", "find", "read", "write", "talk", "pay", "choose", "decide"])
_KEEPING = frozenset(["keep", "keeps", "kept", "see", "sees", "saw", "seen", "hear", "hears", "heard", "find", "finds",
                      "found", "leave", "leaves", "left", "catch", "catches", "caught", "watch", "watched", "spot",
                      "spotted", "notice", "noticed", "picture", "imagine", "imagined", "remember", "remembered",
                      "stop", "stopped", "prevent", "prevented", "send", "sent"])
_MAKING = frozenset(["make", "makes", "made", "making", "keep", "keeps", "kept", "keeping", "leave", "leaves", "left"])
_STATES = frozenset(["safe", "happy", "sad", "angry", "proud", "alive", "warm", "busy", "aware", "comfortable",
                     "uncomfortable", "nervous", "sick", "tired", "better", "worse", "famous", "rich", "mad", "afraid",
                     "jealous", "calm", "quiet", "awake", "hungry", "strong", "weak", "responsible", "accountable"])
_BRINGING = frozenset(["bring", "brings", "brought", "bringing", "take", "takes", "took", "taking", "taken", "call",
                       "calls", "called", "calling", "get", "gets", "got", "getting", "give", "gave", "given", "send",
                       "sends", "sent", "sending", "hold", "holds", "held", "holding", "pay", "pays", "paid", "want",
                       "wants", "wanted", "hit", "put", "push", "pushed", "pull", "pulled", "write", "wrote", "text",
                       "texted", "welcome", "welcomed", "win", "won", "have", "keep", "kept", "let", "follow",
                       "followed", "turn", "turned", "drive", "drove"])
_AFTER_HERS = _NO_NOUN - {"one", "two", "three", "back", "home", "inside", "ever"}


def counterfactual(text: str) -> str:
    """The text with every gendered word of the table swapped; capitals stay as they are.

    her: `his` before what can begin a noun (her old car), else `him` (told her to, saw her.). his: `hers` before what
    cannot (of his. / his is), else `her`. him: `her`. hers: `his`.
    """
    parts, last = [], 0
    for match in _WORD.finditer(text):
        word = match[0].lower()
        if word in UNAMBIGUOUS:
            other = UNAMBIGUOUS[word]
            if word in ("man", "woman", "men", "women") and text[match.end(): match.end() + 1] == "-":
                continue  # man-made, man-eating
        elif word in AMBIGUOUS:
            other = _pronoun(text, word, match)
        elif word in ONE_WAY:
            other = ONE_WAY[word]
            if word == "miss" and not _title(text, match):
                continue
        else:
            continue
        parts += [text[last: match.start()], _cased(match[0], other)]
        last = match.end()
    return "".join((*parts, text[last:]))


def _pronoun(text: str, word: str, match: re.Match[str]) -> str:
    if word == "him":
        return "her"
    if word == "hers":
        return "his"
    behind = _NEXT.match(text, match.end())
    following = behind[1].lower() if behind else ""
    if word == "his":
        return "her" if behind and (following not in _AFTER_HERS or _of_both(text, behind)) else "hers"
    if not behind:
        return "him"
    if _of_both(text, behind):
        return "his"
    before = _LAST.search(text, max(0, match.start() - 24), match.start())
    verb = before[1].lower() if before else ""
    if following in _NO_NOUN or (verb in _PERCEPTION and following in _BARE_VERBS):
        return "him"
    if (following in _STATES and verb in _MAKING) or (following == "back" and verb in _BRINGING):
        return "him"
    if following.endswith("ing") and verb in _KEEPING:
        return "him"
    if following.endswith("ly") and following not in _NOUNS_IN_LY:
        further = _NEXT.match(text, behind.end())
        return "him" if not further or further[1].lower() in _NO_NOUN else "his"
    return "his"


def _of_both(text: str, behind: re.Match[str]) -> bool:
    """`his or her car`: is the next word `and` or `or`, and the one after it the other possessive before a noun?"""
    if behind[1].lower() not in ("and", "or"):
        return False
    other = _NEXT.match(text, behind.end())
    if not other or other[1].lower() not in ("his", "her"):
        return False
    noun = _NEXT.match(text, other.end())
    return noun is not None and noun[1].lower() not in _AFTER_HERS


def _title(text: str, match: re.Match[str]) -> bool:
    behind = _NEXT.match(text, match.end())
    return match[0][0].isupper() and behind is not None and behind[1][0].isupper()


def _cased(word: str, other: str) -> str:
    """`other` with the capitals of `word`."""
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[0].upper() + other[1:] if word[0].isupper() else other
