"""Free-worded English captions of a domain's pictures, and what each of them claims.

A caption names one to six visible attributes in words of the domain's lexicon (`lexicons/NAME.toml`), in
varied order and in one of three styles: a list of tags ("red hair, sunglasses, happy"), a noun phrase ("a
smiling man with a beard, on a pink background") or sentences ("She looks sad and wears a blue hoodie. Her
hair is long."). What is fixed here is English; everything else comes from the lexicon, whose head explains
its entries.
"""

import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

LEXICONS = Path(__file__).with_name("lexicons")

Claims = dict[str, tuple[str, ...]]
"""For each group that a text speaks of, the values of which the text is true."""

MAX_ATTRIBUTES = 6
COUNT_WEIGHTS = (30, 24, 18, 13, 9, 6)  # how often a caption names one, two, ... six attributes
COMBINE_COLOUR = 0.8  # "long red hair" rather than long hair here, red hair there
TELLING_NOUN = 0.85  # "a little boy" rather than a person who is male and a child
MOST_QUALIFIERS = 400  # joined words for a {c}, such as "wavy light brown"


class GroupValues(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def values(self) -> tuple[str, ...]: ...


class Vocabulary(Protocol):
    """The attributes of a domain: a module such as `clip2gan.domains.avatars.vocabulary`."""

    def groups(self) -> Mapping[str, GroupValues]: ...

    def visible(self, attributes: Mapping[str, str]) -> dict[str, bool]:
        """Whether each group can be seen, and is known, in a picture with these attributes."""
        ...


@dataclass(frozen=True)
class Caption:
    """A text, and for each group it speaks of the values of which it is true."""

    text: str
    claims: Claims


@cache
def open_grammar(name: str) -> "Grammar":
    """The grammar of the domain of this name, such as avatars.

    Raises ValueError when there is no lexicon of it.
    """
    path = LEXICONS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in LEXICONS.glob("*.toml")))
        raise ValueError(f"there is no lexicon of a domain {name!r}; there are {known}")
    vocabulary: Any = import_module(f"clip2gan.domains.{name}.vocabulary")
    return Grammar(name, vocabulary, tomllib.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class _Wording:
    """Phrases by role, what they claim, and the words for their {c} (empty when they have none)."""

    group: str
    claims: Claims
    phrases: dict[str, tuple[str, ...]]
    colours: tuple[str, ...]


@dataclass(frozen=True)
class _Nouns:
    """Nouns that claim something, such as grandfather, and the possessive that goes with them.

    They are at hand for pictures that show `claims`; `also` is claimed where it is known.
    """

    claims: Claims
    also: Claims
    their: str
    nouns: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """What a caption is made of.

    Attributes:
        wordings: of the attributes that the noun does not name.
        noun: that claims something; None draws one that does not.
        their: the possessive, his, her or their; None draws one.
    """

    wordings: list[_Wording]
    noun: str | None = None
    their: str | None = None


class Grammar:
    """Draws the captions of a domain.

    Attributes:
        name: the domain's.
        vocabulary: its attributes.
        lexicon: its words, as read from TOML.
    """

    def __init__(self, name: str, vocabulary: Vocabulary, lexicon: Mapping[str, Any]):
        self.name, self.vocabulary, self.lexicon = name, vocabulary, lexicon
        colours = lexicon["colour"]
        self._colours_of: dict[str, list[str]] = colours["of"]
        self._colourless: list[str] = colours["without"]
        self._head: str | None = colours.get("head")
        self._loose_share: float = lexicon["loose_share"]
        # A lexicon is looked up for every caption, so what was put together once is kept.
        self._exact = cache(self._make_exact)
        self._coloured = cache(self._make_coloured)
        self._loose = cache(self._make_loose)

    def caption(
        self, attributes: Mapping[str, str], rng: np.random.Generator, num_attributes: int | None = None
    ) -> Caption:
        """A caption that names `num_attributes` (1 to 6; drawn when None) of the visible attributes.

        Where fewer are visible, it names all of them; where none is, it is a text that claims nothing.
        Raises ValueError if `num_attributes` is out of range.
        """
        if num_attributes is not None and not 1 <= num_attributes <= MAX_ATTRIBUTES:
            raise ValueError(f"num_attributes must be between 1 and {MAX_ATTRIBUTES}, not {num_attributes}")
        # The standard library draws small numbers ten times as fast, and captions are drawn while training.
        r = random.Random(int(rng.integers(2**63)))
        count = num_attributes or r.choices(range(1, MAX_ATTRIBUTES + 1), COUNT_WEIGHTS)[0]
        seen = [group for group, shown in self.vocabulary.visible(attributes).items() if shown]
        if not seen:
            return Caption(r.choice(self.neutral_texts), {})
        groups = self._choose_groups(attributes, seen, min(count, len(seen)), r)
        nouns = self._choose_nouns(attributes, groups, r)
        claims: Claims = {} if nouns is None else {**nouns.claims, **nouns.also}
        wordings = self._choose_wordings(attributes, [g for g in groups if g not in claims], r)
        for wording in wordings:
            claims |= wording.claims
        if nouns is None:
            plan = _Plan(wordings, their=None if not self._telling_nouns else "their")
        else:
            plan = _Plan(wordings, _pick(nouns.nouns, r), nouns.their)
        text = _choose_style(len(wordings), r)(self, plan, r)
        return Caption(_finish(text, r), claims)

    @cached_property
    def neutral_texts(self) -> tuple[str, ...]:
        """Texts that are true of every picture."""
        return _split(self.lexicon["neutral"])

    @cached_property
    def prompts(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Texts for each value, worded apart from the captions: group -> value -> texts."""
        return {
            group: {value: _split(texts) for value, texts in values.items()}
            for group, values in self.lexicon["zero_shot"].items()
        }

    # Which attributes are named, and the words at hand for them

    @cached_property
    def _telling_nouns(self) -> tuple[_Nouns, ...]:
        return tuple(
            _Nouns(
                _as_claims(entry["claims"]),
                _as_claims(entry.get("also", {})),
                entry["their"],
                _split(entry["nouns"]),
            )
            for entry in self.lexicon.get("nouns", ())
        )

    def _choose_groups(
        self, attributes: Mapping[str, str], seen: list[str], count: int, r: random.Random
    ) -> list[str]:
        """`count` of the groups, by the lexicon's weights of what people mention, or all alike."""
        if not (weights := self.lexicon.get("mention")):
            return r.sample(seen, count)

        def key(group: str) -> float:
            """The largest of these are a weighted sample (Efraimidis and Spirakis 2006)."""
            weight = weights.get(f"{group}.{attributes[group]}", weights.get(group, 1.0))
            return r.random() ** (1 / weight)

        keys = {group: key(group) for group in seen}
        return sorted(seen, key=keys.__getitem__, reverse=True)[:count]

    def _choose_nouns(
        self, attributes: Mapping[str, str], groups: Sequence[str], r: random.Random
    ) -> _Nouns | None:
        """Nouns that name some of the groups, most often those that name the most; None where none does."""
        shown = {group: attributes[group] for group in groups}
        at_hand = [
            entry
            for entry in self._telling_nouns
            if all(shown.get(group) in values for group, values in entry.claims.items())
            and all(attributes.get(group, values[0]) in values for group, values in entry.also.items())
        ]
        if not at_hand or r.random() > TELLING_NOUN:
            return None
        chosen = r.choices(at_hand, [4 ** len(entry.claims) for entry in at_hand])[0]
        known = {group: values for group, values in chosen.also.items() if group in attributes}
        return _Nouns(chosen.claims, known, chosen.their, chosen.nouns)

    def _choose_wordings(
        self, attributes: Mapping[str, str], groups: list[str], r: random.Random
    ) -> list[_Wording]:
        """A wording for each group; colours often join what they colour."""
        # The colour of a beard alone cannot be named without it.
        only_beard = self._head is not None and attributes[self._head] in self._colourless
        if only_beard and "hair_color" in groups and "facial_hair" not in groups:
            groups[groups.index("hair_color")] = "facial_hair"
        wordings = []
        for group, partners in _shuffled(self._colours_of.items(), r):
            joining = tuple(partner for partner in partners if partner in groups)
            together = group in groups and joining and attributes[group] not in self._colourless
            if together and (r.random() < COMBINE_COLOUR or (only_beard and "hair_color" in joining)):
                for joined in (group, *joining):
                    groups.remove(joined)
                pairs = tuple((partner, attributes[partner]) for partner in joining)
                wordings.append(self._coloured(group, attributes[group], pairs))
        for group in groups:
            loose = self._loose(group, attributes[group])
            wordings.append(
                r.choice(loose)
                if loose and r.random() < self._loose_share
                else self._exact(group, attributes[group])
            )
        return _shuffled(wordings, r)

    def _make_exact(self, group: str, value: str) -> _Wording:
        """The wording that is true of this value alone."""
        entries = self.lexicon["phrases"][group]
        own = _phrases(entries.get(value, {}))
        general = _phrases(entries.get("any", {}))
        phrases = {
            role: _take_turns(general.get(role, ()), own.get(role, ()))
            for role in dict.fromkeys([*general, *own])
        }
        if group in self._colours_of:
            phrases = _without_colour(phrases)
        return _Wording(group, {group: (value,)}, phrases, self._colour_words(group, value))

    def _make_coloured(self, group: str, value: str, partners: tuple[tuple[str, str], ...]) -> _Wording:
        """The wording that names a thing and its colour, such as a red beard."""
        phrases = {
            role: tuple(phrase for phrase in found if "{c}" in phrase)
            for role, found in _phrases(self.lexicon["phrases"][group][value]).items()
        }
        colours = self._colour_words(*partners[0])
        for partner in partners[1:]:
            colours = _pair_up(colours, self._colour_words(*partner))
        return _Wording(
            group,
            {group: (value,)} | {partner: (colour,) for partner, colour in partners},
            {role: found for role, found in phrases.items() if found},
            colours,
        )

    def _make_loose(self, group: str, value: str) -> tuple[_Wording, ...]:
        """The wordings that are true of this value and of others."""
        return tuple(
            _Wording(
                group,
                {group: tuple(entry["values"])},
                _without_colour(_phrases({k: v for k, v in entry.items() if k not in ("group", "values")})),
                (),
            )
            for entry in self.lexicon["loose"]
            if entry["group"] == group and value in entry["values"]
        )

    def _colour_words(self, group: str, value: str) -> tuple[str, ...]:
        words = self.lexicon["colours"].get(group, {}).get(value)
        return _split(words) if words else ()

    # Nouns, and what takes their place

    def noun(self, r: random.Random) -> tuple[str, str]:
        """A noun that carries no attribute, and its possessive."""
        their = r.choice(self._possessives)
        if r.random() < 0.5:
            return r.choice(self._fillers("plain", their)), their
        return _pick(self._fillers("nouns", their), r), their

    def subject(self, their: str, r: random.Random) -> str:
        """What a sentence about somebody begins with."""
        return r.choice(self._fillers("subjects", their))

    def adjective(self, r: random.Random) -> str:
        """An adjective that carries no attribute."""
        return r.choice(self._fillers("adjectives"))

    def opener(self, r: random.Random) -> str:
        """What a noun phrase may begin with, such as "a photo of"."""
        return _pick(self._fillers("openers"), r)

    def possessive(self, r: random.Random) -> str:
        return r.choice(self._possessives)

    @cached_property
    def _possessives(self) -> tuple[str, ...]:
        return tuple(self.lexicon["fillers"]["subjects"])

    @cached_property
    def _split_fillers(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        found = {}
        for kind, entry in self.lexicon["fillers"].items():
            parts = entry.items() if isinstance(entry, Mapping) else [("", entry)]
            found |= {(kind, their): _split(text) for their, text in parts}
        return found

    def _fillers(self, kind: str, their: str = "") -> tuple[str, ...]:
        return self._split_fillers[kind, their]


def _as_claims(entry: Mapping[str, str | Sequence[str]]) -> Claims:
    return {group: (v,) if isinstance(v, str) else tuple(v) for group, v in entry.items()}


def _shuffled(items: Any, r: random.Random) -> list:
    shuffled = list(items)
    r.shuffle(shuffled)
    return shuffled


def _phrases(entry: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {role: _split(text) for role, text in entry.items()}


def _split(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split("|"))


def _take_turns(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """Both sequences, interleaved so that the common phrases of each stay in front; repeats are dropped."""
    paired = [phrase for pair in zip(first, second, strict=False) for phrase in pair]
    return tuple(dict.fromkeys([*paired, *first, *second]))


def _pair_up(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """Every word of `first` before every word of `second`, the common ones in front."""
    pairs = sorted((i + j, f"{a} {b}") for i, a in enumerate(first) for j, b in enumerate(second))
    return tuple(text for _, text in pairs[:MOST_QUALIFIERS])


_SAYS_NOTHING_WITHOUT_COLOUR = re.compile(r"\{c\}($| and )|^\{c\} hair on ")


def _without_colour(phrases: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The phrases with the colour left out, less those that need it ("their beard is {c}")."""
    bare = {
        role: tuple(p.replace("{c} ", "") for p in found if not _SAYS_NOTHING_WITHOUT_COLOUR.search(p))
        for role, found in phrases.items()
    }
    return {role: found for role, found in bare.items() if found}


# The styles: each makes one text of a plan

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
_PRONOUNS = {"his": "he", "her": "she", "their": "the person"}
_INTRODUCTIONS = ("this is", "this is", "here is", "you see", "it is", "the picture shows")

_Style = Callable[[Grammar, _Plan, random.Random], str]


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


def _tags(grammar: Grammar, plan: _Plan, r: random.Random) -> str:
    their = plan.their or r.choice(("his", "her", "their", "the"))
    tags = []
    for wording in plan.wordings:
        _, tag = _say(wording, _TAG_ROLES, r)
        if r.random() < 0.7:
            tag = tag.removeprefix("a ").removeprefix("an ")
        tags.append(tag.replace("{their}", their))
    if plan.noun is not None:
        tags.insert(0 if r.random() < 0.7 else len(tags), plan.noun)
    elif r.random() < 0.2:
        noun, _ = grammar.noun(r)
        tags.insert(0 if r.random() < 0.7 else len(tags), noun)
    if len(tags) == 2 and r.random() < 0.4:
        return r.choice(_ANDS).join(tags)
    return r.choice(_SEPARATORS).join(tags)


def _noun_phrase(grammar: Grammar, plan: _Plan, r: random.Random) -> str:
    noun, their = grammar.noun(r) if plan.noun is None else (plan.noun, plan.their or "their")
    adjectives: list[str] = []
    listed: dict[str, list[str]] = {"np": [], "wear": [], "dress": []}
    rest = []
    for wording in plan.wordings:
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
    head = _head(grammar, adjectives, noun, r)
    return separator.join([head, *_shuffled(rest, r)]).replace("{their}", their)


def _head(grammar: Grammar, adjectives: list[str], noun: str, r: random.Random) -> str:
    """Article, adjectives and noun, perhaps after an opener: "a photo of a smiling man"."""
    if r.random() < 0.06:
        adjectives = [grammar.adjective(r), *adjectives]
    described = (", " if r.random() < 0.3 else " ").join(adjectives)
    if noun == "someone":
        head = f"someone {described}".rstrip()
    else:
        head = " ".join(filter(None, (r.choice(("a", "a", "a", "a", "a", "", "the")), described, noun)))
    return f"{grammar.opener(r)} {head}" if r.random() < 0.35 else head


def _sentences(grammar: Grammar, plan: _Plan, r: random.Random) -> str:
    their = plan.their or grammar.possessive(r)
    predicates = []
    clauses = []
    for wording in plan.wordings:
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
    subject = None if plan.noun is None else f"{r.choice(('the', 'a', 'this'))} {plan.noun}"
    if subject and (not predicates or r.random() < 0.3):
        sentences.append(f"{r.choice(_INTRODUCTIONS)} a {plan.noun}")
        subject = _PRONOUNS[their]
    if predicates:
        half = (len(predicates) + 1) // 2 if len(predicates) > 2 and r.random() < 0.5 else len(predicates)
        sentences.append(f"{subject or grammar.subject(their, r)} {_join(predicates[:half], r)}")
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
