"""English: turn a sentence of the grammar into its tokens."""

from __future__ import annotations

from data.grammar import numerals
from data.grammar.lexicon import BUT, FUTURE, PAST
from data.grammar.syntax import (
    Age,
    Clause,
    Comparison,
    Complex,
    Coordination,
    Existence,
    NounPhrase,
    Place,
    Predicate,
    Question,
    Sentence,
    punctuate,
)
from data.grammar.words import Adjective, Name, Noun, Pronoun

OBJECTS = {"I": "me", "he": "him", "she": "her", "it": "it", "we": "us", "they": "them"}


def sentence(sentence: Sentence) -> list[str]:
    """Turn a sentence into its tokens."""
    return punctuate(_sentence(sentence), sentence)


def _sentence(sentence: Sentence) -> list[str]:
    if isinstance(sentence, Complex):
        main = clause(sentence.main)
        subordinate = [sentence.conjunction.en, *clause(sentence.subordinate)]
        return [*main, *subordinate] if sentence.main_first else [*subordinate, ",", *main]
    if isinstance(sentence, Coordination):
        comma = [","] * (sentence.conjunction is BUT)
        left, right = clause(sentence.left), clause(sentence.right)
        return [*left, *comma, sentence.conjunction.en, *right]
    if isinstance(sentence, Question):
        return _question(sentence)
    if isinstance(sentence, Existence):
        return _existence(sentence)
    return clause(sentence.clause)


def clause(c: Clause) -> list[str]:
    """Turn a main or subordinate clause into tokens; both have the same order."""
    operator, verb = _verb(c)
    if c.negated and not operator:
        operator, verb = _do(c)
    subject = [] if c.gap == "subject" else noun_phrase(c.subject)
    time = [c.time.en] if c.time and c.time_first else []
    return [*time, *subject, *_negated(operator, c), *_frequency(c), *verb, *_complements(c)]


def _question(question: Question) -> list[str]:
    c = question.clause
    word = [question.word] if question.word else []
    if question.word == "who":
        return [*word, *clause(c)]
    operator, verb = _verb(c)
    if not operator:
        operator, verb = _do(c)
    order = [operator, *noun_phrase(c.subject), *["not"] * c.negated, *_frequency(c), *verb]
    return [*word, *order, *_complements(c)]


def _existence(existence: Existence) -> list[str]:
    thing, place = existence.thing, _place(existence.place)
    be = _be(thing, existence.tense == PAST)
    things = ["no", *noun_phrase(thing, article=False)] if existence.negated else noun_phrase(thing)
    if existence.place_first:
        return [*place, "there", be, *things]
    return ["there", be, *things, *place]


def _verb(c: Clause) -> tuple[str, list[str]]:
    """Split the verb into its operator and the rest.

    The operator changes places with the subject in questions and takes "not". It is "" where "do"
    would have to be added.
    """
    verb = c.verb.en
    past = c.tense == PAST
    if c.tense == FUTURE:
        return "will", [verb.base]
    if c.modal == "can":
        return "could" if past else "can", [verb.base]
    if c.modal == "must" and not past:
        return "must", [verb.base]
    if c.modal:
        third, past_form = {"must": ("has", "had")}.get(c.modal, (f"{c.modal}s", f"{c.modal}ed"))
        modal = past_form if past else c.modal if _takes_base(c.subject) else third
        return "", [modal, "to", verb.base]
    if verb.base == "be":
        return _be(c.subject, past), []
    return "", [verb.past if past else verb.base if _takes_base(c.subject) else verb.third]


def _do(c: Clause) -> tuple[str, list[str]]:
    do = "did" if c.tense == PAST else "do" if _takes_base(c.subject) else "does"
    modal = {"must": "have"}.get(c.modal, c.modal)
    return do, [*([modal, "to"] if modal else []), c.verb.en.base]


def _negated(operator: str, c: Clause) -> list[str]:
    if not c.negated:
        return [operator] if operator else []
    return ["cannot"] if operator == "can" else [operator, "not"]


def _frequency(c: Clause) -> list[str]:
    return [c.frequency.en] if c.frequency else []


def _be(subject: NounPhrase, past: bool) -> str:
    if subject.is_plural:
        return "were" if past else "are"
    if past:
        return "was"
    return "am" if subject.first_person else "is"


def _takes_base(subject: NounPhrase) -> bool:
    return subject.is_plural or subject.first_person


def _complements(c: Clause) -> list[str]:
    """Turn everything after the verb into tokens."""
    tail = [c.verb.en.tail] if c.verb.en.tail else []
    direct = noun_phrase(c.object, "object") if c.object and c.gap != "object" else []
    recipient = noun_phrase(c.recipient, "object") if c.recipient else []
    if c.object and c.object.is_pronoun:
        # Turn it on, wait for it, give it to her.
        tokens = [*direct, *tail] if c.verb.en.splits else [*tail, *direct]
        tokens += ["to", *recipient] if recipient else []
    else:
        tokens = [*tail, *recipient, *direct]
    if c.predicate:
        tokens += _predicate(c.predicate)
    tokens += [c.manner.en] if c.manner else []
    for place in c.places:
        tokens += _place(place)
    tokens += [c.time.en] if c.time and not c.time_first else []
    for infinitive in filter(None, (c.infinitive, c.purpose)):
        tokens += ["to", infinitive.verb.en.base, *_complements(infinitive)]
    if c.content:
        conjunction, content = c.content
        tokens += [conjunction.en, *clause(content)]
    return tokens


def _predicate(predicate: Predicate) -> list[str]:
    if isinstance(predicate, Adjective):
        return [predicate.en]
    if isinstance(predicate, Comparison):
        return [predicate.adjective.en_comparative, "than", *noun_phrase(predicate.than)]
    if isinstance(predicate, Age):
        return [numerals.english(predicate.years), "years old"]
    return _place(predicate) if isinstance(predicate, Place) else noun_phrase(predicate)


def _place(place: Place) -> list[str]:
    return [place.preposition.en, *noun_phrase(place.of, "object")]


def noun_phrase(np: NounPhrase, case: str = "subject", article: bool = True) -> list[str]:
    """Turn a noun phrase into tokens.

    Args:
        np: noun, name or pronoun.
        case: "subject" or "object", which pronouns differ in.
        article: keep "a" and "an".
    """
    head = np.head
    if isinstance(head, Pronoun):
        return [OBJECTS[head.pronoun] if case == "object" else head.pronoun]
    tokens = [head.en] if isinstance(head, Name) else _common(np, head, article)
    if np.relative:
        tokens += _relative(np, np.relative)
    return tokens


def _common(np: NounPhrase, head: Noun, article: bool) -> list[str]:
    core = [numerals.english(np.count)] if np.count else []
    core += [adjective.en for adjective in np.adjectives]
    core.append(head.en_plural if np.plural else head.en)
    if np.owner:
        # People and animals have things, things are "of" things.
        owner = noun_phrase(np.owner)
        personal = any(letter in "pa" for letter in np.owner.head.classes)
        return [*owner, "'s", *core] if personal else ["the", *core, "of", *owner]
    if np.determiner == "a":
        return [*["an" if core[0][0] in "aeiou" else "a"] * article, *core]
    determiner = {"this": "these"}.get(np.determiner, np.determiner) if np.plural else np.determiner
    return [determiner, *core] if determiner else core


def _relative(np: NounPhrase, c: Clause) -> list[str]:
    """Turn a relative clause into tokens: "who" for people, "that" for the rest."""
    personal = "p" in np.head.classes
    pronoun = ("who" if c.gap == "subject" else "whom") if personal else "that"
    return [pronoun, *clause(c)]
