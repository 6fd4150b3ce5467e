"""Abstract sentences: records that say what a sentence means, in no particular language.

The modules english, german and french turn these records into tokens of their language.
"""

from __future__ import annotations

from dataclasses import dataclass

from data.grammar.lexicon import PRESENT
from data.grammar.words import Adjective, Name, Noun, Phrase, Preposition, Pronoun, Time, Verb

POSSESSIVES = ("my", "his", "her", "our", "their")


@dataclass(frozen=True)
class NounPhrase:
    """A noun with what agrees with it, a name or a pronoun.

    `determiner` is the English one, "" for none ("red apples", "cold coffee", "three keys").
    `count` is a number above one; `owner` makes a genitive; `relative` is a clause in which the
    noun phrase itself is the gap.
    """

    head: Noun | Name | Pronoun
    determiner: str = ""
    adjectives: tuple[Adjective, ...] = ()
    plural: bool = False
    count: int = 0
    owner: NounPhrase | None = None
    relative: Clause | None = None

    @property
    def is_pronoun(self) -> bool:
        return isinstance(self.head, Pronoun)

    @property
    def indefinite(self) -> bool:
        """Whether German negates it with kein and French with de."""
        return (
            isinstance(self.head, Noun)
            and self.determiner in ("", "a")
            and not (self.count or self.owner)
        )

    @property
    def pronoun(self) -> str:
        """The English pronoun that takes it up, in the nominative ("" if usage wavers)."""
        return "they" if self.plural else self.head.pronoun

    @property
    def first_person(self) -> bool:
        return self.pronoun in ("I", "we")

    @property
    def is_plural(self) -> bool:
        return self.plural or self.pronoun in ("we", "they")

    @property
    def de_gender(self) -> str:
        """m, f or n; p in the plural"""
        if self.is_plural:
            return "p"
        return self.head.gender if isinstance(self.head, Name) else self.head.de_gender

    @property
    def fr_feminine(self) -> bool:
        head = self.head
        return (head.gender if isinstance(head, Name) else head.fr_gender) == "f"


@dataclass(frozen=True)
class Place:
    """A prepositional phrase."""

    preposition: Preposition
    of: NounPhrase


@dataclass(frozen=True)
class Comparison:
    """More of a quality than another: older than Anna."""

    adjective: Adjective
    than: NounPhrase


@dataclass(frozen=True)
class Age:
    """An age in years, two or more."""

    years: int


# What follows "to be"; a noun phrase is a profession.
Predicate = Adjective | Comparison | Age | NounPhrase | Place


@dataclass(frozen=True)
class Clause:
    """A subject, a verb and what goes with them.

    `modal` is "", "can", "must", "want" or "like" (to do). `infinitive` and `purpose` are clauses
    with the same subject, of which only the infinitive is said ("tries to ...", "in order to").
    `content` is what someone says or asks. `gap` names the part ("subject" or "object") that a
    relative pronoun or question word stands for.
    """

    subject: NounPhrase
    verb: Verb
    object: NounPhrase | None = None
    recipient: NounPhrase | None = None
    predicate: Predicate | None = None
    places: tuple[Place, ...] = ()
    manner: Phrase | None = None
    frequency: Phrase | None = None
    time: Time | None = None
    time_first: bool = False
    tense: str = PRESENT
    modal: str = ""
    negated: bool = False
    infinitive: Clause | None = None
    purpose: Clause | None = None
    content: tuple[Phrase, Clause] | None = None
    gap: str = ""


@dataclass(frozen=True)
class Statement:
    """A main clause."""

    clause: Clause


@dataclass(frozen=True)
class Complex:
    """A main and a subordinate clause, in either order."""

    main: Clause
    conjunction: Phrase
    subordinate: Clause
    main_first: bool = True


@dataclass(frozen=True)
class Coordination:
    """Two main clauses."""

    left: Clause
    conjunction: Phrase
    right: Clause


@dataclass(frozen=True)
class Question:
    """A question: `word` is "", "when", "where", "why" or, where the clause has a gap, "who",
    "whom" or "what"."""

    clause: Clause
    word: str = ""


@dataclass(frozen=True)
class Existence:
    """There is something in a place."""

    thing: NounPhrase
    place: Place
    tense: str = PRESENT
    negated: bool = False
    place_first: bool = False


Sentence = Statement | Complex | Coordination | Question | Existence


def punctuate(tokens: list[str], sentence: Sentence) -> list[str]:
    """Close a sentence: a capital first, a mark last, no comma beside another mark.

    Phrases of several words are split. Linearisation may thus put a comma on either side of a
    clause and leave it to this function to drop the one that is not needed.
    """
    mark = "?" if isinstance(sentence, Question) else "."
    spaced = " ".join([*tokens, mark]).split()
    kept = [
        token
        for token, following in zip(spaced, [*spaced[1:], ""], strict=True)
        if not (token == "," and following in (",", ".", "?"))
    ]
    return [kept[0][0].upper() + kept[0][1:], *kept[1:]]
