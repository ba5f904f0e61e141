"""Free-worded English captions of avatars, and what each of them claims.

A caption names one to six visible attributes in words of `lexicon.toml`, in varied order and in one of three
styles: a list of tags ("red hair, sunglasses, happy"), a noun phrase ("a smiling man with a beard, on a pink
background") or sentences ("She looks sad and wears a blue hoodie. Her hair is long."). Fillers such as man,
woman or avatar are drawn independently of the attributes.
"""

import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from clip2gan.domains.avatars import vocabulary as avatars

Claims = dict[str, tuple[str, ...]]
"""For each group that a text speaks of, the values of which the text is true."""

MAX_ATTRIBUTES = 6
COUNT_WEIGHTS = (30, 24, 18, 13, 9, 6)  # how often a caption names one, two, ... six attributes
COMBINE_COLOUR = 0.8  # "long red hair" rather than long hair here, red hair there
LOOSE_SHARE = 0.12  # negations and other phrases that are true of several values

COLOUR_OF = {"hair": "hair_color", "facial_hair": "hair_color", "clothing": "clothing_color"}
"""The group that {c} names in the phrases of another group."""

COLOURLESS = ("bald", "hat", "none")
"""The values on which the colour of COLOUR_OF does not show."""


@dataclass(frozen=True)
class Caption:
    """A text, and for each group it speaks of the values of which it is true."""

    text: str
    claims: Claims


def caption(
    attributes: Mapping[str, str], rng: np.random.Generator, num_attributes: int | None = None
) -> Caption:
    """A caption that names `num_attributes` (1 to 6; drawn when None) of the visible attributes.

    Raises ValueError if `num_attributes` is out of range.
    """
    if num_attributes is not None and not 1 <= num_attributes <= MAX_ATTRIBUTES:
        raise ValueError(f"num_attributes must be between 1 and {MAX_ATTRIBUTES}, not {num_attributes}")
    # The standard library draws small numbers ten times as fast, and captions are drawn while training.
    r = random.Random(int(rng.integers(2**63)))
    count = num_attributes or r.choices(range(1, MAX_ATTRIBUTES + 1), COUNT_WEIGHTS)[0]
    wordings = _choose_wordings(attributes, count, r)
    text = _choose_style(len(wordings), r)(wordings, r)
    claims: Claims = {}
    for wording in wordings:
        claims |= wording.claims
    return Caption(_finish(text, r), claims)


# Which attributes are named, and the words at hand for them


@dataclass(frozen=True)
class _Wording:
    """Phrases by role, what they claim, and the words for their {c} (empty when they have none)."""

    group: str
    claims: Claims
    phrases: dict[str, tuple[str, ...]]
    colours: tuple[str, ...]


def _choose_wordings(attributes: Mapping[str, str], count: int, r: random.Random) -> list[_Wording]:
    """Choose `count` visible groups and a wording for each; colours often join what they colour."""
    groups = r.sample([group for group, seen in avatars.visible(attributes).items() if seen], count)
    only_beard = attributes["hair"] in COLOURLESS
    if only_beard and "hair_color" in groups and "facial_hair" not in groups:
        # The colour shows on the beard alone, so it cannot be named without it.
        groups[groups.index("hair_color")] = "facial_hair"
    wordings = []
    for group, partner in _shuffled(COLOUR_OF.items(), r):
        together = group in groups and partner in groups and attributes[group] not in COLOURLESS
        if together and (r.random() < COMBINE_COLOUR or (only_beard and partner == "hair_color")):
            groups.remove(group)
            groups.remove(partner)
            wordings.append(_coloured(group, attributes[group], attributes[partner]))
    for group in groups:
        loose = _loose(group, attributes[group])
        wordings.append(
            r.choice(loose) if loose and r.random() < LOOSE_SHARE else _exact(group, attributes[group])
        )
    return _shuffled(wordings, r)


def _shuffled(items: Any, r: random.Random) -> list:
    shuffled = list(items)
    r.shuffle(shuffled)
    return shuffled


@cache
def _lexicon() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("lexicon.toml").read_text(encoding="utf-8"))


def _phrases(entry: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {role: _split(text) for role, text in entry.items()}


def _split(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split("|"))


@cache
def _exact(group: str, value: str) -> _Wording:
    """The wording that is true of this value alone."""
    entries = _lexicon()["phrases"][group]
    own = _phrases(entries.get(value, {}))
    general = _phrases(entries.get("any", {}))
    phrases = {
        role: _take_turns(general.get(role, ()), own.get(role, ()))
        for role in dict.fromkeys([*general, *own])
    }
    if group in COLOUR_OF:
        phrases = _without_colour(phrases)
    return _Wording(group, {group: (value,)}, phrases, _colour_words(group, value))


@cache
def _coloured(group: str, value: str, colour: str) -> _Wording:
    """The wording that names a thing and its colour, such as a red beard."""
    phrases = {
        role: tuple(phrase for phrase in found if "{c}" in phrase)
        for role, found in _phrases(_lexicon()["phrases"][group][value]).items()
    }
    partner = COLOUR_OF[group]
    return _Wording(
        group,
        {group: (value,), partner: (colour,)},
        {role: found for role, found in phrases.items() if found},
        _colour_words(partner, colour),
    )


@cache
def _loose(group: str, value: str) -> tuple[_Wording, ...]:
    """The wordings that are true of this value and of others."""
    return tuple(
        _Wording(
            group,
            {group: tuple(entry["values"])},
            _without_colour(_phrases({k: v for k, v in entry.items() if k not in ("group", "values")})),
            (),
        )
        for entry in _lexicon()["loose"]
        if entry["group"] == group and value in entry["values"]
    )


def _colour_words(group: str, value: str) -> tuple[str, ...]:
    words = _lexicon()["colours"].get(group, {}).get(value)
    return _split(words) if words else ()


def _take_turns(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """Both sequences, interleaved so that the common phrases of each stay in front; repeats are dropped."""
    paired = [phrase for pair in zip(first, second, strict=False) for phrase in pair]
    return tuple(dict.fromkeys([*paired, *first, *second]))


_SAYS_NOTHING_WITHOUT_COLOUR = re.compile(r"\{c\}($| and )|^\{c\} hair on ")


def _without_colour(phrases: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The phrases with the colour left out, less those that need it ("their beard is {c}")."""
    bare = {
        role: tuple(p.replace("{c} ", "") for p in found if not _SAYS_NOTHING_WITHOUT_COLOUR.search(p))
        for role, found in phrases.items()
    }
    return {role: found for role, found in bare.items() if found}


# The styles: each makes one text of the wordings

_TAG_ROLES = {"tag": 5.0, "adj": 1.5, "np": 2.0, "wear": 2.0, "dress": 2.0, "be": 0.5, "post": 0.5}
_NOUN_ROLES = {
    "adj": 3.0,
    "np": 4.0,
    "wear": 4.0,
    "dress": 4.0,
    "post": 2.5,
    "be": 0.6,
    "verb": 0.8,
    "clause": 0.6,
}
_SENTENCE_ROLES = {
    "verb": 3.0,
    "be": 1.0,
    "adj": 1.5,
    "np": 3.0,
    "wear": 3.0,
    "dress": 3.0,
    "post": 1.0,
    "clause": 3.0,
}

_SEPARATORS = (", ", ", ", ", ", " ", " and ", "; ", " / ")
_ANDS = (" and ", " and ", " with ", " & ", " + ")
_AFTER_NOUN = {
    "np": ("with", "with", "with", "having", "who has", "that has", "showing", "featuring"),
    "wear": ("wearing", "wearing", "with", "with", "in", "who wears", "sporting", "who is wearing"),
    "dress": ("wearing", "wearing", "in", "in", "dressed in", "with", "who wears", "clad in", "sporting"),
    "be": ("who is", "who is", "who looks", "that is", "looking"),
}
_AFTER_SUBJECT = {
    "np": ("has", "has", "has", "has got", "sports", "shows", "is someone with"),
    "wear": ("wears", "wears", "is wearing", "has on", "is in", "sports", "is seen in"),
    "dress": ("wears", "wears", "is wearing", "is dressed in", "has on", "is clad in", "is in"),
}
_SUBJECTS = {
    "his": ("he", "he", "the man", "the guy", "a man", "the boy", "this man"),
    "her": ("she", "she", "the woman", "the girl", "a woman", "the lady", "this woman"),
    "their": ("the person", "this person", "someone", "a person", "the avatar", "the character", "the face"),
}
_PRONOUNS = {"his": "he", "her": "she", "their": "the person"}
_PLAIN_NOUNS = {
    "their": ("person", "face", "avatar"),
    "his": ("man", "guy", "boy"),
    "her": ("woman", "girl", "lady"),
}

_Style = Callable[[list[_Wording], random.Random], str]


def _choose_style(num_wordings: int, r: random.Random) -> _Style:
    tags = 0.45 if num_wordings == 1 else 0.22
    draw = r.random()
    if draw < tags:
        return _tags
    return _noun_phrase if draw < tags + (1 - tags) * 0.6 else _sentences


def _pick(phrases: Sequence[str], r: random.Random) -> str:
    """One of the phrases, the first ones more often."""
    return phrases[int(len(phrases) * r.random() ** 2)]


def _say(wording: _Wording, weights: Mapping[str, float], r: random.Random) -> tuple[str, str]:
    """A role that suits the style (`weights`), and a phrase in it."""
    roles = [role for role in wording.phrases if role in weights]
    role = r.choices(roles, [weights[role] for role in roles])[0]
    phrase = _pick(wording.phrases[role], r)
    if "{c}" in phrase:
        phrase = phrase.replace("{c}", _pick(wording.colours, r))
    return role, phrase


def _tags(wordings: list[_Wording], r: random.Random) -> str:
    their = r.choice((*_SUBJECTS, "the"))
    tags = []
    for wording in wordings:
        _, tag = _say(wording, _TAG_ROLES, r)
        if r.random() < 0.7:
            tag = tag.removeprefix("a ").removeprefix("an ")
        tags.append(tag.replace("{their}", their))
    if r.random() < 0.2:
        noun, _ = _noun(r)
        tags.insert(0 if r.random() < 0.7 else len(tags), noun)
    if len(tags) == 2 and r.random() < 0.4:
        return r.choice(_ANDS).join(tags)
    return r.choice(_SEPARATORS).join(tags)


def _noun_phrase(wordings: list[_Wording], r: random.Random) -> str:
    noun, their = _noun(r)
    adjectives: list[str] = []
    listed: dict[str, list[str]] = {"np": [], "wear": [], "dress": []}
    rest = []
    for wording in wordings:
        role, phrase = _say(wording, _NOUN_ROLES, r)
        if role == "adj" and len(adjectives) < 2:
            adjectives.append(phrase)
        elif role in listed:
            listed[role].append(phrase)
        elif role == "clause":
            rest.append("whose " + phrase.removeprefix("{their} "))
        elif role == "verb":
            rest.append("who " + phrase)
        elif role == "post":
            rest.append(phrase)
        else:
            rest.append(f"{r.choice(_AFTER_NOUN['be'])} {phrase}")
    if listed["np"] and r.random() < 0.5:
        listed["np"] += listed.pop("wear")
    rest += [f"{r.choice(_AFTER_NOUN[role])} {_join(found, r)}" for role, found in listed.items() if found]
    separator = ", " if len(rest) > 1 and r.random() < 0.4 else " "
    return separator.join([_head(adjectives, noun, r), *_shuffled(rest, r)]).replace("{their}", their)


def _noun(r: random.Random) -> tuple[str, str]:
    """A noun that carries no attribute, and its possessive."""
    their = r.choice(tuple(_SUBJECTS))
    if r.random() < 0.5:
        return r.choice(_PLAIN_NOUNS[their]), their
    return _pick(_filler_nouns(their), r), their


@cache
def _filler_nouns(their: str) -> tuple[str, ...]:
    return _split(_lexicon()["fillers"]["nouns"][their])


@cache
def _fillers(kind: str) -> tuple[str, ...]:
    return _split(_lexicon()["fillers"][kind])


def _head(adjectives: list[str], noun: str, r: random.Random) -> str:
    """Article, adjectives and noun, perhaps after an opener: "a photo of a smiling man"."""
    if r.random() < 0.06:
        adjectives = [r.choice(_fillers("adjectives")), *adjectives]
    described = (", " if r.random() < 0.3 else " ").join(adjectives)
    if noun == "someone":
        head = f"someone {described}".rstrip()
    else:
        head = " ".join(filter(None, (r.choice(("a", "a", "a", "a", "a", "", "the")), described, noun)))
    return f"{_pick(_fillers('openers'), r)} {head}" if r.random() < 0.35 else head


def _sentences(wordings: list[_Wording], r: random.Random) -> str:
    their = r.choice(tuple(_SUBJECTS))
    predicates = []
    clauses = []
    for wording in wordings:
        role, phrase = _say(wording, _SENTENCE_ROLES, r)
        if role == "clause":
            clauses.append(phrase.replace("{their}", "the") if wording.group == "background" else phrase)
        elif role == "verb":
            predicates.append(phrase)
        elif role in _AFTER_SUBJECT:
            predicates.append(f"{r.choice(_AFTER_SUBJECT[role])} {phrase}")
        elif role == "post" and phrase.startswith("who "):
            predicates.append(phrase.removeprefix("who "))
        else:
            looks = wording.group == "expression" and role == "adj" and r.random() < 0.4
            predicates.append(f"{'looks' if looks else 'is'} {phrase}")
    sentences = []
    if predicates:
        half = (len(predicates) + 1) // 2 if len(predicates) > 2 and r.random() < 0.5 else len(predicates)
        sentences.append(f"{r.choice(_SUBJECTS[their])} {_join(predicates[:half], r)}")
        if predicates[half:]:
            sentences.append(f"{_PRONOUNS[their]} {_join(predicates[half:], r)}")
    sentences = [sentence.replace("{their}", their) for sentence in sentences + clauses]
    if r.random() < 0.6:
        return ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    return ", and ".join(sentences)


def _join(items: list[str], r: random.Random) -> str:
    if len(items) == 1:
        return items[0]
    last = ", and " if len(items) > 2 and r.random() < 0.3 else " and "
    return ", ".join(items[:-1]) + last + items[-1]


_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeioAEIO]|un|up|O\b)(?!one)")


def _finish(text: str, r: random.Random) -> str:
    """Mend articles, and draw the first capital and the final dot."""
    text = _A_BEFORE_VOWEL.sub(r"\1n ", text)
    if r.random() < 0.35:
        text = text[0].upper() + text[1:]
    return text + "." if r.random() < 0.3 else text
