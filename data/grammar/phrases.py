"""Draw noun phrases at random, and pronouns whose antecedent is clear from the sentence."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate
from typing import TypeVar

from data.grammar import lexicon
from data.grammar.lexicon import PREPOSITIONS
from data.grammar.syntax import POSSESSIVES, NounPhrase, Place
from data.grammar.words import Adjective, Noun, Pronoun, pair

T = TypeVar("T")
Weighted = Sequence[tuple[int, T]]


def weights(text: str) -> Weighted[str]:
    """Read a list of choices with their weights."""
    return tuple((int(weight), choice) for weight, choice in map(str.split, text.split(",")))


# How a noun may be determined. "one" is an indefinite singular, "a" also a bare plural or an
# uncounted noun; "number" and "owner" stand for a numeral and a genitive.
SUBJECT = weights(
    "44 the, 14 possessive, 8 one, 8 this, 4 every, 3 some, 4 many, 10 number, 5 owner"
)
OBJECT = weights("30 the, 28 a, 12 possessive, 6 this, 2 every, 4 some, 3 many, 11 number, 4 owner")
KNOWN = weights("60 the, 20 possessive, 12 this, 8 owner")
NEW = weights("50 a, 25 number, 15 many, 10 some")
# What a negated verb may take as its object: "not many" would negate another word.
NEGATED = weights("40 a, 35 the, 15 possessive, 10 this")
RELATED = weights("65 possessive, 23 owner, 12 the")
# Only as an object is what one does not count indefinite: "du pain est frais" is no French.
UNCOUNTED_OBJECT = weights("70 a, 24 the, 6 this")
UNCOUNTED_SUBJECT = weights("80 the, 20 this")
LOCATION = weights("84 the, 8 this, 8 one")

# The preposition "where", which stands for any to be in.
WHERE = weights("40 in, 12 front, 12 behind, 14 next, 14 city, 8 under")

PEOPLE = tuple(name for name in lexicon.NAMES.values() if "p" in name.classes)
CITIES = tuple(name for name in lexicon.NAMES.values() if "z" in name.classes)

HE = NounPhrase(Pronoun("he"))
SHE = NounPhrase(Pronoun("she", "f", "f"))
THEY = NounPhrase(Pronoun("they"))
I_WE = [NounPhrase(Pronoun("I")), NounPhrase(Pronoun("we"))]


@cache
def nouns(classes: str) -> tuple[Noun, ...]:
    """The nouns of any of these meaning classes."""
    return tuple(noun for noun in lexicon.NOUNS.values() if share(noun.classes, classes))


@cache
def adjectives(classes: str) -> tuple[Adjective, ...]:
    """The adjectives that suit any of these meaning classes."""
    return tuple(a for a in lexicon.ADJECTIVES.values() if share(a.classes, classes))


def share(left: str, right: str) -> bool:
    """Whether two sets of classes have one in common."""
    return any(letter in right for letter in left)


class PhraseSampler:
    """Noun phrases for one sentence after another; remembers what a sentence has mentioned.

    All chance comes from `random.Random.random`, whose sequence Python promises to keep; the
    other methods of that class may change between versions.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random
        self._mentions: list[NounPhrase] = []
        self._spent: list[str] = []

    def _chance(self, probability: float) -> bool:
        return self._random() < probability

    def _pick(self, items: Sequence[T]) -> T:
        return items[int(self._random() * len(items))]

    def _weighted(self, items: Weighted[T]) -> T:
        point = self._random() * sum(weight for weight, _ in items)
        bounds = accumulate(weight for weight, _ in items)
        return next(item for (_, item), bound in zip(items, bounds, strict=True) if point < bound)

    def _spend(self, luxury: str, probability: float) -> bool:
        """Whether to use what a sentence may have but once, and perhaps has used already."""
        if luxury in self._spent or not self._chance(probability):
            return False
        self._spent.append(luxury)
        return True

    def _mention(self, np: NounPhrase) -> NounPhrase:
        self._mentions.append(np)
        return np

    def _unmentioned(self, heads: Sequence[T]) -> T:
        """Pick a noun or name that is new to the sentence, if there is one."""
        mentioned = [id(np.head) for np in self._mentions]
        return self._pick([head for head in heads if id(head) not in mentioned] or heads)

    # Pronouns

    def _antecedents(self) -> list[NounPhrase]:
        """Pronouns for what was mentioned before, if there is no doubt about what they mean.

        The translation of "it" and "they" depends on their antecedent, so it must be unique.
        """
        words = [np.pronoun for np in self._mentions]
        return [
            NounPhrase(
                Pronoun(np.pronoun, np.de_gender, "f" if np.fr_feminine else "m", np.head.classes)
            )
            for np in self._mentions
            if adjectives(np.head.classes)
            and (np.pronoun in ("he", "she") or (np.pronoun and words.count(np.pronoun) == 1))
        ]

    def _personal(self, beside: NounPhrase | None = None) -> NounPhrase:
        """A pronoun without antecedent, perhaps as the object beside some subject."""
        pronouns = [HE, SHE] if beside and beside.first_person else [HE, SHE, *I_WE, *I_WE]
        # "They" could mean any things or people mentioned before.
        if all(np.pronoun != "they" for np in self._mentions):
            pronouns.append(THEY)
        return self._mention(self._pick(pronouns))

    # Noun phrases

    def _name(self) -> NounPhrase:
        return self._mention(NounPhrase(self._unmentioned(PEOPLE)))

    def _two_names(self) -> NounPhrase:
        left, right = self._name(), self._name()
        return self._mention(NounPhrase(pair(left.head, right.head), plural=True))

    def _subject(self, classes: str, known: bool = False) -> NounPhrase:
        """A subject of these classes; a `known` one can be that of a negated verb."""
        kind = self._random() if "p" in classes else 1.0
        if kind < 0.28:
            return self._personal()
        if kind < 0.44:
            return self._name()
        if kind < 0.48:
            return self._two_names()
        return self._noun_phrase(classes, KNOWN if known else SUBJECT)

    def _noun_phrase(
        self, classes: str, determiners: Weighted[str], plural: float = 0.3
    ) -> NounPhrase:
        """A noun of these classes with a determiner and perhaps adjectives; `plural` is the
        probability of the plural where the determiner leaves the choice."""
        noun = self._unmentioned(nouns(classes))
        if noun.en in lexicon.COMPOUNDS and self._chance(0.4):
            noun = self._pick(lexicon.COMPOUNDS[noun.en])
        if "q" in noun.classes and determiners is not NEW:
            determiners = RELATED
        elif not noun.countable:
            as_object = determiners in (OBJECT, NEGATED)
            determiners = UNCOUNTED_OBJECT if as_object else UNCOUNTED_SUBJECT
        np = NounPhrase(noun, adjectives=self._adjectives(noun))
        several = noun.countable and self._chance(plural)
        return self._mention(self._determined(np, self._weighted(determiners), several))

    def _determined(self, np: NounPhrase, kind: str, plural: bool) -> NounPhrase:
        """The noun phrase with a determiner of this kind, in a number that goes with it."""
        noun = np.head
        if "s" in noun.classes and kind in ("owner", "possessive"):
            plural = False
        if kind == "owner":
            owner = self._owner(noun)
            return replace(np, owner=owner, determiner="" if owner else "the", plural=plural)
        if kind == "number":
            determiner = "the" if self._chance(0.2) else ""
            return replace(np, determiner=determiner, count=self._number(), plural=True)
        if kind == "possessive" and share(noun.classes, "qjarfktchevbo"):
            return replace(np, determiner=self._pick(POSSESSIVES), plural=plural)
        if kind == "a":
            bare = plural or not noun.countable
            return replace(np, determiner="" if bare else "a", plural=plural)
        if kind in ("some", "many"):
            return replace(np, determiner=kind, plural=True)
        if kind in ("one", "every"):
            return replace(np, determiner={"one": "a"}.get(kind, kind))
        return replace(np, determiner="this" if kind == "this" else "the", plural=plural)

    def _owner(self, noun: Noun) -> NounPhrase | None:
        """Who or what may have this thing, animal or relative, if anyone."""
        if "o" in noun.classes and noun.en in lexicon.NOUNS:
            return self._mention(NounPhrase(self._unmentioned(nouns("b")), "the"))
        if not share(noun.classes, "qarktcve"):
            return None
        if self._chance(0.4):
            return self._name()
        others = [person for person in nouns("p") if person is not noun]
        return self._mention(NounPhrase(self._unmentioned(others), "the"))

    def _adjectives(self, noun: Noun) -> tuple[Adjective, ...]:
        """None, one, or two of which French puts one on either side of the noun."""
        if not adjectives(noun.classes) or self._chance(0.62):
            return ()
        first, second = self._quality_of(noun.classes), self._quality_of(noun.classes)
        if first.before and not second.before and self._chance(0.6):
            return first, second
        return (first,)

    def _quality_of(self, classes: str) -> Adjective:
        """An adjective that suits these classes and is new to the sentence, if there is one."""
        mentioned = [id(adjective) for np in self._mentions for adjective in np.adjectives]
        fitting = adjectives(classes)
        return self._pick([a for a in fitting if id(a) not in mentioned] or fitting)

    def _number(self) -> int:
        return 2 + int(self._random() * (11 if self._chance(0.35) else 98))

    def _place(self, key: str, determiners: Weighted[str] = LOCATION) -> Place:
        """A prepositional phrase with the preposition of this key."""
        preposition = PREPOSITIONS[self._weighted(WHERE) if key == "where" else key]
        if preposition.classes == "z":
            return Place(preposition, self._mention(NounPhrase(self._unmentioned(CITIES))))
        return Place(preposition, self._noun_phrase(preposition.classes, determiners, plural=0.1))
