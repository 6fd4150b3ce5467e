"""German: turn a sentence of the grammar into its tokens."""

from __future__ import annotations

from data.grammar import numerals, words
from data.grammar.lexicon import BUT, FUTURE, PAST, PRESENT
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
from data.grammar.words import Adjective, GermanVerb, Name, Noun, Pronoun

Paradigm = dict[str, dict[str, str]]


def _paradigm(table: str) -> Paradigm:
    """Forms by case and by gender (m, f, n) or plural (p); a dash is no ending."""
    return {
        case: {gender: form.replace("-", "") for gender, form in zip("mfnp", forms, strict=True)}
        for (case,), forms in words.rows(table)
    }


DEFINITE = _paradigm("""
nom | der die das die
acc | den die das die
dat | dem der dem den
gen | des der des der
""")
# The endings of dieser, of ein, and of adjectives after no article, der-words and ein-words.
DER_ENDINGS = _paradigm("""
nom | er e  es e
acc | en e  es e
dat | em er em en
gen | es er es er
""")
EIN_ENDINGS = _paradigm("""
nom | -  e  -  e
acc | en e  -  e
dat | em er em en
gen | es er es er
""")
STRONG = _paradigm("""
nom | er e  es e
acc | en e  es e
dat | em er em en
gen | en er en er
""")
WEAK = _paradigm("""
nom | e  e  e  en
acc | en e  e  en
dat | en en en en
gen | en en en en
""")
MIXED = _paradigm("""
nom | er e  es en
acc | en e  es en
dat | en en en en
gen | en en en en
""")
RELATIVE = _paradigm("""
nom | der die das die
acc | den die das die
dat | dem der dem denen
""")

# English determiner: stem of the German one.
DER_WORDS = {"this": "dies", "every": "jed"}
QUANTIFIERS = {"some": "einig", "many": "viel"}
EIN_WORDS = {"a": "ein", "no": "kein", "my": "mein", "his": "sein", "our": "unser"}
EIN_WORDS |= {"her": "ihr", "their": "ihr"}

# English pronoun | nominative, accusative, dative; "it" goes by the gender of what it stands for.
PRONOUNS = {
    (pronoun, case): form
    for (pronoun,), forms in words.rows("""
I    | ich mich mir
he   | er  ihn  ihm
she  | sie sie  ihr
we   | wir uns  uns
they | sie sie  ihnen
m    | er  ihn  ihm
f    | sie sie  ihr
n    | es  es   ihm
""")
    for case, form in zip(("nom", "acc", "dat"), forms, strict=True)
}

CONTRACTIONS = {
    (preposition, article): contracted
    for (preposition, article), (contracted,) in words.rows("""
in dem  | im
in das  | ins
zu dem  | zum
zu der  | zur
von dem | vom
""")
}

# infinitive | present: ich, er, plural | past: singular, plural
AUXILIARIES = {
    infinitive: (present, past)
    for (infinitive,), present, past in words.rows("""
sein   | bin   ist  sind   | war    waren
haben  | habe  hat  haben  | hatte  hatten
werden | werde wird werden | wurde  wurden
können | kann  kann können | konnte konnten
müssen | muss  muss müssen | musste mussten
wollen | will  will wollen | wollte wollten
dürfen | darf  darf dürfen | durfte durften
""")
}
MODALS = {"can": "können", "must": "müssen", "want": "wollen"}

QUESTION_WORDS = {"when": "wann", "where": "wo", "why": "warum", "who": "wer"}


def sentence(sentence: Sentence) -> list[str]:
    """Turn a sentence into its tokens."""
    return punctuate(_sentence(sentence), sentence)


def _sentence(sentence: Sentence) -> list[str]:
    if isinstance(sentence, Complex):
        subordinate = subordinate_clause([sentence.conjunction.de], sentence.subordinate)
        if sentence.main_first:
            return [*main_clause(sentence.main), ",", *subordinate]
        return main_clause(sentence.main, front=[*subordinate, ","])
    if isinstance(sentence, Coordination):
        comma = [","] * (sentence.conjunction is BUT)
        left, right = main_clause(sentence.left), main_clause(sentence.right)
        return [*left, *comma, sentence.conjunction.de, *right]
    if isinstance(sentence, Question):
        return _question(sentence)
    if isinstance(sentence, Existence):
        return _existence(sentence)
    return main_clause(sentence.clause)


def main_clause(c: Clause, front: list[str] | None = None) -> list[str]:
    """Turn a main clause into tokens, with the finite verb in second place."""
    if c.time and c.time_first:
        front = [c.time.de]
    finite, verb = _verb(c)
    subject = noun_phrase(c.subject, "nom")
    before, after = (front, subject) if front else (subject, [])
    return [*before, finite, *after, *_midfield(c), *verb, *_postfield(c)]


def subordinate_clause(introduction: list[str], c: Clause) -> list[str]:
    """Turn a subordinate clause into tokens, with verb and prefix at the end: dass er aufsteht."""
    finite, verb = _verb(c)
    subject = [] if c.gap == "subject" else noun_phrase(c.subject, "nom")
    cluster = [c.verb.de.prefix + finite] if verb == [c.verb.de.prefix] else [*verb, finite]
    return [*introduction, *subject, *_midfield(c), *cluster, *_postfield(c)]


def _infinitive_clause(c: Clause) -> list[str]:
    """With zu, inside a separable verb: aufzustehen."""
    verb = c.verb.de
    infinitive = f"{verb.prefix}zu{verb.infinitive}" if verb.prefix else f"zu {verb.infinitive}"
    return [*_midfield(c), infinitive, *_postfield(c)]


def _question(question: Question) -> list[str]:
    c = question.clause
    finite, verb = _verb(c)
    if question.word in ("whom", "what"):
        word = {"acc": "wen", "dat": "wem"}[c.verb.de_case] if question.word == "whom" else "was"
    elif question.word == "where" and any(key.startswith("to") for key in c.verb.places):
        word = "wohin"
    else:
        word = QUESTION_WORDS.get(question.word, "")
    subject = [] if c.gap == "subject" else noun_phrase(c.subject, "nom")
    return [word, finite, *subject, *_midfield(c), *verb, *_postfield(c)]


def _existence(existence: Existence) -> list[str]:
    verb = "gab" if existence.tense == PAST else "gibt"
    thing = noun_phrase(existence.thing, "acc", existence.negated)
    place = _place(existence.place)
    if existence.place_first:
        return [*place, verb, "es", *thing]
    return ["es", verb, *thing, *place]


def _verb(c: Clause) -> tuple[str, list[str]]:
    """Split the verb into its finite form and the part at the end of the clause."""
    verb = c.verb.de
    infinitive = verb.prefix + verb.infinitive
    if c.tense == FUTURE:
        return _auxiliary("werden", c), [infinitive]
    if c.modal in MODALS:
        # "Must not" is "darf nicht"; "muss nicht" would mean "need not".
        forbidden = c.modal == "must" and c.negated
        return _auxiliary("dürfen" if forbidden else MODALS[c.modal], c, c.tense), [infinitive]
    if verb.infinitive in ("sein", "haben"):
        return _auxiliary(verb.infinitive, c, c.tense), []
    if c.tense == PAST:
        return _auxiliary("sein" if verb.sein else "haben", c), [verb.participle]
    return _present(verb, c.subject), [verb.prefix] * bool(verb.prefix)


def _auxiliary(infinitive: str, c: Clause, tense: str = PRESENT) -> str:
    present, past = AUXILIARIES[infinitive]
    if tense == PAST:
        return past[c.subject.is_plural]
    return present[2 if c.subject.is_plural else 0 if c.subject.first_person else 1]


def _present(verb: GermanVerb, subject: NounPhrase) -> str:
    if subject.is_plural:
        return verb.infinitive
    if subject.first_person and verb.third.endswith("t"):
        return verb.infinitive.removesuffix("n")
    # The third person; "mag" and "weiß" have the same form in the first.
    return verb.third


def _midfield(c: Clause) -> list[str]:
    """Turn the part between the finite verb (or conjunction) and the final verb into tokens.

    Pronouns come first, then time, known objects, negation, new objects, manner, place, and last
    an object with a preposition.
    """
    object_ = None if c.gap == "object" else c.object
    new = object_ is not None and object_.indefinite and not c.verb.de_prep
    # "nicht einen" becomes "keinen": the negation melts into the article of a new object, but not
    # if "gern" comes between them.
    melts = new or bool(c.verb.de.fixed) or isinstance(c.predicate, NounPhrase)
    no = c.negated and melts and c.modal != "like"

    slots: dict[str, list[str]] = {"pronouns": [], "known": [], "new": [], "last": []}
    if object_:
        slot = "pronouns" if object_.is_pronoun else "new" if new else "known"
        slots["last" if c.verb.de_prep else slot] = _governed(
            c.verb.de_prep, c.verb.de_case, object_, no, relative=False
        )
    if c.recipient:
        # Es ihm, but dem Kind das Buch.
        recipient = noun_phrase(c.recipient, "dat")
        if c.recipient.is_pronoun:
            slots["pronouns"] += recipient
        else:
            slots["known"] = [*recipient, *slots["known"]]

    like = c.modal == "like"
    nicht = ["nicht"] if c.negated and not no else []
    return [
        *slots["pronouns"],
        *([c.time.de] if c.time and not c.time_first else []),
        *([c.frequency.de] if c.frequency else []),
        *([*nicht, "gern"] if like else []),
        *slots["known"],
        *([] if like else nicht),
        *_fixed(c.verb.de, no),
        *slots["new"],
        *([c.manner.de] if c.manner else []),
        *(token for place in c.places for token in _place(place)),
        *slots["last"],
        *_predicate(c.predicate, no),
    ]


def _postfield(c: Clause) -> list[str]:
    """The clauses that follow even the last part of the verb, between commas.

    An object leaves its relative clause behind the verb: hat das Haus gekauft, das ...
    """
    tokens = _relative(c.object) if c.object and c.gap != "object" else []
    if c.infinitive:
        infinitive = _infinitive_clause(c.infinitive)
        # A bare infinitive with zu needs no comma.
        tokens += [",", *infinitive, ","] if len(infinitive) > 1 else infinitive
    if c.purpose:
        tokens += [",", "um", *_infinitive_clause(c.purpose), ","]
    if c.content:
        conjunction, content = c.content
        tokens += [",", *subordinate_clause([conjunction.de], content), ","]
    return tokens


def _fixed(verb: GermanVerb, no: bool) -> list[str]:
    """The bare noun of Hunger haben, Angst haben."""
    if not verb.fixed:
        return []
    gender, noun = verb.fixed
    return ["kein" + EIN_ENDINGS["acc"][gender], noun] if no else [noun]


def _predicate(predicate: Predicate | None, no: bool) -> list[str]:
    if predicate is None:
        return []
    if isinstance(predicate, Adjective):
        return [predicate.de]
    if isinstance(predicate, Comparison):
        return [predicate.adjective.de_comparative, "als", *noun_phrase(predicate.than, "nom")]
    if isinstance(predicate, Age):
        return [numerals.german(predicate.years), "Jahre alt"]
    if isinstance(predicate, Place):
        return _place(predicate)
    # A profession has no article unless an adjective goes with it: Arzt, ein guter Arzt.
    if predicate.adjectives or no:
        return noun_phrase(predicate, "nom", no)
    return [predicate.head.de]


def _place(place: Place) -> list[str]:
    return _governed(place.preposition.de, place.preposition.de_case, place.of)


def _governed(
    preposition: str, case: str, np: NounPhrase, no: bool = False, relative: bool = True
) -> list[str]:
    """A noun phrase in its case, after its preposition if it has one: im Garten, zur Schule."""
    tokens = noun_phrase(np, case, no, relative)
    if not preposition:
        return tokens
    contracted = CONTRACTIONS.get((preposition, tokens[0]))
    # Before a relative clause the article points forward and stays whole: von dem Mann, der ...
    if contracted and not np.relative:
        return [contracted, *tokens[1:]]
    return [preposition, *tokens]


def noun_phrase(np: NounPhrase, case: str, no: bool = False, relative: bool = True) -> list[str]:
    """A noun phrase in "nom", "acc", "dat" or "gen".

    With `no`, an indefinite one takes kein; without `relative`, its relative clause is left out.
    """
    head = np.head
    if isinstance(head, Pronoun):
        return [PRONOUNS[np.de_gender if head.pronoun == "it" else head.pronoun, case]]
    tokens = [head.de] if isinstance(head, Name) else _common(np, head, case, no)
    return [*tokens, *_relative(np)] if relative else tokens


def _relative(np: NounPhrase) -> list[str]:
    """The relative clause of a noun phrase, if it has one, between commas."""
    clause = np.relative
    if not clause:
        return []
    case = "nom" if clause.gap == "subject" else clause.verb.de_case
    return [",", *subordinate_clause([RELATIVE[case][np.de_gender]], clause), ","]


def _common(np: NounPhrase, head: Noun, case: str, no: bool) -> list[str]:
    """Article, numeral, adjectives and noun, agreeing in case, gender and number."""
    gender = np.de_gender
    determiner, endings = _determiner(np, case, "no" if no and np.indefinite else np.determiner)
    tokens = [determiner] if determiner else []
    tokens += [numerals.german(np.count)] if np.count else []
    tokens += [adjective.de_stem + endings[case][gender] for adjective in np.adjectives]
    tokens.append(_noun(head, case, np.plural))
    if np.owner and isinstance(np.owner.head, Noun):
        tokens += noun_phrase(np.owner, "gen")
    return tokens


def _determiner(np: NounPhrase, case: str, determiner: str) -> tuple[str, Paradigm]:
    """The determiner and the endings of the adjectives after it."""
    gender = np.de_gender
    if np.owner and isinstance(np.owner.head, Name):
        return np.owner.head.de + "s", STRONG
    if np.owner or determiner == "the":
        return DEFINITE[case][gender], WEAK
    if determiner in DER_WORDS:
        return DER_WORDS[determiner] + DER_ENDINGS[case][gender], WEAK
    if determiner in QUANTIFIERS:
        return QUANTIFIERS[determiner] + STRONG[case][gender], STRONG
    if determiner:
        return EIN_WORDS[determiner] + EIN_ENDINGS[case][gender], MIXED
    return "", STRONG


def _noun(noun: Noun, case: str, plural: bool) -> str:
    if plural:
        # The dative plural ends in n, except after n or s: den Tischen, den Autos.
        return noun.de_plural + "n" * (case == "dat" and noun.de_plural[-1] not in "ns")
    weak = noun.de_genitive.startswith("~")
    if case == "gen" or (weak and case != "nom"):
        return noun.de + noun.de_genitive.removeprefix("~")
    return noun.de
