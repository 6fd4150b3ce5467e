"""French: turn a sentence of the grammar into its tokens."""

from __future__ import annotations

from data.grammar import numerals, words
from data.grammar.lexicon import BUT, FUTURE, NEVER, PAST
from data.grammar.syntax import (
    Age,
    Clause,
    Comparison,
    Complex,
    Coordination,
    Existence,
    NounPhrase,
    Place,
    Question,
    Sentence,
    punctuate,
)
from data.grammar.words import Adjective, Name, Noun, Pronoun

# English pronoun | subject, direct object, indirect object, after a preposition
PRONOUN_TABLE = """
I        | je   me   me   moi
he       | il   le   lui  lui
she      | elle la   lui  elle
we       | nous nous nous nous
they     | ils  les  leur eux
they_(f) | elles les leur elles
"""
SUBJECT, DIRECT, INDIRECT, STRESSED = range(4)
PRONOUNS = {key: forms for (key,), forms in words.rows(PRONOUN_TABLE)}

# English determiner: masculine, feminine, plural.
POSSESSIVES = {
    "my": ("mon", "ma", "mes"),
    "his": ("son", "sa", "ses"),
    "her": ("son", "sa", "ses"),
    "our": ("notre", "notre", "nos"),
    "their": ("leur", "leur", "leurs"),
}
INVARIABLE = {"every": "chaque", "some": "quelques", "many": "beaucoup de"}

CONTRACTIONS = {
    ("à", "le"): "au",
    ("à", "les"): "aux",
    ("de", "le"): "du",
    ("de", "les"): "des",
}

# Auxiliaries and modals: infinitive | present: je, il, nous, ils | stem of the imparfait
AUXILIARIES = {
    infinitive: (present, [stem + ending for ending in ("ais", "ait", "ions", "aient")])
    for (infinitive,), present, (stem,) in words.rows("""
être    | suis  est  sommes  sont    | ét
avoir   | ai    a    avons   ont     | av
aller   | vais  va   allons  vont    | all
pouvoir | peux  peut pouvons peuvent | pouv
devoir  | dois  doit devons  doivent | dev
vouloir | veux  veut voulons veulent | voul
aimer   | aime  aime aimons  aiment  | aim
""")
}
MODALS = {"can": "pouvoir", "must": "devoir", "want": "vouloir", "like": "aimer"}

QUESTION_WORDS = {"when": "quand", "where": "où", "why": "pourquoi", "what": "que", "whom": "qui"}

ELIDED = ("je", "me", "se", "le", "la", "de", "ne", "que")
# They begin with a vowel sound, but nothing is elided before them.
DISJUNCT = ("onze", "huit")


def sentence(sentence: Sentence) -> list[str]:
    """Turn a sentence into its tokens; an elided word keeps its apostrophe: l' homme."""
    return punctuate(_elide(_sentence(sentence)), sentence)


def _sentence(sentence: Sentence) -> list[str]:
    if isinstance(sentence, Complex):
        main = clause(sentence.main)
        subordinate = [sentence.conjunction.fr, *clause(sentence.subordinate)]
        return [*main, *subordinate] if sentence.main_first else [*subordinate, ",", *main]
    if isinstance(sentence, Coordination):
        comma = [","] * (sentence.conjunction is BUT)
        left, right = clause(sentence.left), clause(sentence.right)
        return [*left, *comma, sentence.conjunction.fr, *right]
    if isinstance(sentence, Question):
        return _question(sentence)
    if isinstance(sentence, Existence):
        return _existence(sentence)
    return clause(sentence.clause)


def clause(c: Clause) -> list[str]:
    """Turn a main or subordinate clause into tokens; both have the same order."""
    subject = [] if c.gap == "subject" else noun_phrase(c.subject, case=SUBJECT)
    time = [c.time.fr, ","] if c.time and c.time_first else []
    return [*time, *subject, *_verb_group(c), *_complements(c)]


def _question(question: Question) -> list[str]:
    c = question.clause
    if question.word == "who":
        return ["qui", *clause(c)]
    word = [QUESTION_WORDS[question.word]] if question.word else []
    preposition = [c.verb.fr_prep] if question.word == "whom" and c.verb.fr_prep else []
    return [*preposition, *word, "est-ce que", *clause(c)]


def _existence(existence: Existence) -> list[str]:
    has = "avait" if existence.tense == PAST else "a"
    verb = ["ne y", has, "pas"] if existence.negated else ["y", has]
    thing = noun_phrase(existence.thing, negated=existence.negated)
    place = _place(existence.place)
    if existence.place_first:
        return [*place, ",", "il", *verb, *thing]
    return ["il", *verb, *thing, *place]


def _verb_group(c: Clause) -> list[str]:
    """Make the tokens from "ne" to the infinitive or participle; pronouns go before their verb."""
    finite, rest = _verb(c)
    clitics = _clitics(c)
    if c.tense == FUTURE or c.modal:
        rest = [*clitics, *rest]
    else:
        finite = [*clitics, *finite]
    ne = ["ne"] if c.negated or c.frequency is NEVER else []
    pas = ["pas"] if c.negated else [c.frequency.fr] if c.frequency else []
    return [*ne, *finite, *pas, *rest]


def _verb(c: Clause) -> tuple[list[str], list[str]]:
    """The finite verb and the infinitive or participle after it."""
    verb, past, person = c.verb.fr, c.tense == PAST, _person(c.subject)
    # French has its years: il a douze ans.
    infinitive = "avoir" if isinstance(c.predicate, Age) else verb.infinitive
    if c.tense == FUTURE:
        return [_auxiliary("aller", person)], [infinitive]
    if c.modal:
        return [_auxiliary(MODALS[c.modal], person, past)], [infinitive]
    if infinitive in ("être", "avoir"):
        return [_auxiliary(infinitive, person, past)], []
    if past:
        return [_auxiliary("être" if verb.etre else "avoir", person)], [_participle(c)]
    return [verb.present[person]], []


def _auxiliary(infinitive: str, person: int, past: bool = False) -> str:
    return AUXILIARIES[infinitive][past][person]


def _person(subject: NounPhrase) -> int:
    """The place of a verb form among those of je, il, nous and ils."""
    return 2 * subject.is_plural + (not subject.first_person)


def _participle(c: Clause) -> str:
    """It agrees with the subject after être, after avoir with a direct object before the verb."""
    participle = c.verb.fr.participle
    object_first = c.object and (c.object.is_pronoun or c.gap == "object") and not c.verb.fr_prep
    agrees_with = c.subject if c.verb.fr.etre else c.object if object_first else None
    if not agrees_with:
        return participle
    return _inflect(participle, participle + "e", agrees_with)


def _inflect(masculine: str, feminine: str, np: NounPhrase) -> str:
    """The form of an adjective or participle that agrees with a noun phrase."""
    if np.fr_feminine:
        return feminine + "s" * np.is_plural
    return words.french_plural(masculine) if np.is_plural else masculine


def _clitics(c: Clause) -> list[str]:
    """The unstressed pronouns that go before the verb."""
    if c.verb.fr.reflexive:
        return [("me", "se", "nous", "se")[_person(c.subject)]]
    direct, indirect = [], []
    if c.object and c.object.is_pronoun and c.gap != "object":
        direct = [_pronoun(c.object, INDIRECT if c.verb.fr_prep else DIRECT)]
    if c.recipient and c.recipient.is_pronoun:
        indirect = [_pronoun(c.recipient, INDIRECT)]
    # Il me le donne, but il le lui donne.
    return [*direct, *indirect] if indirect in (["lui"], ["leur"]) else [*indirect, *direct]


def _pronoun(np: NounPhrase, case: int) -> str:
    feminine = np.fr_feminine
    key = {"it": "she" if feminine else "he", "they": "they (f)" if feminine else "they"}
    return PRONOUNS[key.get(np.pronoun, np.pronoun)][case]


def _infinitive_clause(c: Clause) -> list[str]:
    return [*_clitics(c), c.verb.fr.infinitive, *_complements(c)]


def _complements(c: Clause) -> list[str]:
    """Turn everything after the verb into tokens."""
    tokens = [c.verb.fr.tail] if c.verb.fr.tail else []
    if c.object and not c.object.is_pronoun and c.gap != "object":
        negated = (c.negated or c.frequency is NEVER) and not c.verb.fr_prep
        generic = "G" in c.verb.flags and not c.object.determiner
        tokens += noun_phrase(c.object, c.verb.fr_prep, negated=negated, generic=generic)
    if c.recipient and not c.recipient.is_pronoun:
        tokens += noun_phrase(c.recipient, "à")
    tokens += _predicate(c)
    tokens += [c.manner.fr] if c.manner else []
    for place in c.places:
        tokens += _place(place)
    tokens += [c.time.fr] if c.time and not c.time_first else []
    if c.infinitive:
        preposition = [c.verb.fr_prep] if c.verb.fr_prep else []
        tokens += [*preposition, *_infinitive_clause(c.infinitive)]
    if c.purpose:
        tokens += ["pour", *_infinitive_clause(c.purpose)]
    if c.content:
        conjunction, content = c.content
        tokens += [conjunction.fr, *clause(content)]
    return tokens


def _predicate(c: Clause) -> list[str]:
    predicate = c.predicate
    if predicate is None:
        return []
    if isinstance(predicate, Adjective):
        return [_inflect(predicate.fr, predicate.fr_feminine, c.subject)]
    if isinstance(predicate, Comparison):
        more = _inflect(predicate.adjective.fr, predicate.adjective.fr_feminine, c.subject)
        return ["plus", more, "que", *noun_phrase(predicate.than)]
    if isinstance(predicate, Age):
        return [numerals.french(predicate.years), "ans"]
    if isinstance(predicate, Place):
        return _place(predicate)
    # A profession has no article unless an adjective goes with it: médecin, un bon médecin.
    return noun_phrase(predicate) if predicate.adjectives else [predicate.head.fr]


def _place(place: Place) -> list[str]:
    return noun_phrase(place.of, place.preposition.fr)


def noun_phrase(
    np: NounPhrase,
    preposition: str = "",
    *,
    case: int = STRESSED,
    negated: bool = False,
    generic: bool = False,
) -> list[str]:
    """A noun phrase after its preposition, if any, with which the article may contract.

    `case` is the form of a pronoun; what is `negated` has "de" for an indefinite article; what
    is `generic` is definite even if English has no article (aimer le café).
    """
    before = [preposition] if preposition else []
    if isinstance(np.head, Pronoun):
        tokens = [*before, _pronoun(np, case)]
    elif isinstance(np.head, Name):
        tokens = [*before, np.head.fr]
    else:
        tokens = _common(np, np.head, preposition, negated, generic)
    if np.relative:
        tokens += [*_relative_pronoun(np.relative), *clause(np.relative)]
    return tokens


def _relative_pronoun(c: Clause) -> list[str]:
    if c.gap == "subject":
        return ["qui"]
    return [c.verb.fr_prep, "qui"] if c.verb.fr_prep else ["que"]


def _common(
    np: NounPhrase, head: Noun, preposition: str, negated: bool, generic: bool
) -> list[str]:
    """Preposition, article, numeral, adjectives on either side and noun."""
    feminine = np.fr_feminine
    noun = head.fr_plural if np.plural else head.fr
    tokens = [numerals.french(np.count, feminine)] if np.count else []
    tokens += [_before_noun(a, np, noun) for a in np.adjectives if a.before]
    tokens.append(noun)
    tokens += [_inflect(a.fr, a.fr_feminine, np) for a in np.adjectives if not a.before]

    following = tokens[0]
    if np.determiner in ("", "a") and not (np.count or np.owner or generic):
        # "De" swallows the articles des, du and de la, not un and une.
        bare = preposition.split()[-1:] == ["de"] and np.determiner == ""
        determiner = [] if bare else _indefinite(np, following, negated)
    elif np.count and not np.determiner:
        determiner = []
    else:
        determiner = _definite(np, following)
    tokens = [*_contract(preposition, determiner), *tokens]
    if np.owner:
        tokens += noun_phrase(np.owner, "de")
    return tokens


def _before_noun(adjective: Adjective, np: NounPhrase, noun: str) -> str:
    if not np.is_plural and not np.fr_feminine and _vowel(noun):
        return adjective.fr_before_vowel
    return _inflect(adjective.fr, adjective.fr_feminine, np)


def _indefinite(np: NounPhrase, following: str, negated: bool) -> list[str]:
    """un, une, des, du, de la; only "de" after a negation and, in the plural, before adjectives."""
    if negated or (np.plural and any(adjective.before for adjective in np.adjectives)):
        return ["de"]
    if np.determiner == "a":
        return ["une" if np.fr_feminine else "un"]
    return ["des"] if np.plural else _contract("de", _article(np, following))


def _definite(np: NounPhrase, following: str) -> list[str]:
    """The determiner that stands for the English one; a vowel after it may choose its form."""
    determiner, vowel = np.determiner, _vowel(following)
    if determiner in INVARIABLE:
        return [INVARIABLE[determiner]]
    if determiner == "this":
        return ["ces" if np.plural else "cette" if np.fr_feminine else "cet" if vowel else "ce"]
    if determiner in POSSESSIVES:
        masculine, feminine, plural = POSSESSIVES[determiner]
        if np.plural:
            return [plural]
        return [feminine if np.fr_feminine and not vowel else masculine]
    return _article(np, following)


def _article(np: NounPhrase, following: str) -> list[str]:
    if np.plural:
        return ["les"]
    return ["l'" if _vowel(following) else "la" if np.fr_feminine else "le"]


def _contract(preposition: str, determiner: list[str]) -> list[str]:
    """à le = au, à côté de les = à côté des"""
    if not preposition:
        return determiner
    *start, last = preposition.split()
    contracted = CONTRACTIONS.get((last, *determiner))
    return [*start, contracted] if contracted else [*start, last, *determiner]


def _vowel(word: str) -> bool:
    """Whether a word begins with a vowel sound; every h of this lexicon is silent."""
    return word[0] in "aeiouyhâàéèêëîïôûœAEIOU" and word not in DISJUNCT


def _elide(tokens: list[str]) -> list[str]:
    """je ai = j' ai, si il = s' il"""
    split = " ".join(tokens).split()
    elided = []
    for token, following in zip(split, [*split[1:], "."], strict=True):
        il = token == "si" and following in ("il", "ils")
        elides = il or (token in ELIDED and _vowel(following))
        elided.append(token[:-1] + "'" if elides else token)
    return elided
