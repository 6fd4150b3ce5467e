"""Draw sentences at random, in all constructions of the grammar, from words that go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from data.grammar import lexicon, verbs
from data.grammar.lexicon import FUTURE, PAST, PRESENT
from data.grammar.phrases import (
    HE,
    KNOWN,
    NEGATED,
    NEW,
    OBJECT,
    PhraseSampler,
    nouns,
    share,
    weights,
)
from data.grammar.syntax import (
    POSSESSIVES,
    Age,
    Clause,
    Comparison,
    Complex,
    Coordination,
    Existence,
    NounPhrase,
    Question,
    Sentence,
    Statement,
)
from data.grammar.words import Pronoun, Verb

TENSES = weights(f"45 {PRESENT}, 38 {PAST}, 17 {FUTURE}")

# "whether" stands for a question without a question word.
QUESTION_WORDS = weights("40 whether, 12 why, 12 when, 10 where, 10 who, 10 what, 6 whom")

# Classes of nouns that can do something, or belong to someone.
AGENTS = "pavtkr"

# States that may come and go, so that they take adverbs of frequency and times.
PASSING = tuple(lexicon.ADJECTIVES[word] for word in ("tired", "happy", "sad", "sick"))

# The subject of "it rains", and the object that "what" asks for.
IT = NounPhrase(Pronoun("it", "n", "m", "w"))


@cache
def verbs_for(subjects: str, tense: str) -> tuple[Verb, ...]:
    """The verbs a subject of these classes may have in a tense."""
    return tuple(v for v in verbs.VERBS if share(v.subjects, subjects) and _has(v, tense))


@cache
def actions(tense: str = PRESENT) -> tuple[Verb, ...]:
    """The verbs for actions of people, without those for states."""
    return tuple(v for v in verbs_for("p", tense) if "Z" not in v.flags and v.en.base != "be")


def _answers(verb: Verb, word: str) -> bool:
    """Whether a verb makes an unambiguous question with this word."""
    if word == "where":
        return verb.places == ("to",) or ("where" in verb.places and not verb.objects)
    if word == "what":
        needs_more = "D" in verb.flags or (verb.places and "S" not in verb.flags)
        return verb.de_case == "acc" and "p" not in verb.objects and not needs_more
    return word != "whom" or (verb.objects == "p" and not verb.de_prep)


def _takes_relative(verb: Verb, classes: str) -> bool:
    """Whether a noun of these classes can be the object of a verb as a relative pronoun."""
    plain = not verb.de_prep and verb.fr_prep != "de" and "D" not in verb.flags
    return plain and share(verb.objects, classes) and (not verb.places or "S" in verb.flags)


def _known(np: NounPhrase) -> bool:
    """Whether a noun phrase may be the subject of a negated verb."""
    return np.is_pronoun or np.determiner in ("the", "this", *POSSESSIVES)


def _has(verb: Verb, tense: str) -> bool:
    missing = {PRESENT: "", PAST: "NZ", FUTURE: "Z"}[tense]
    return not share(verb.flags, missing)


class Sampler(PhraseSampler):
    """Draws sentences without end; the same seed gives the same sentences."""

    def sentence(self) -> Sentence:
        """Draw the next sentence."""
        self._mentions, self._spent = [], []
        draw = self._weighted(
            (
                (34, self._statement),
                (25, self._complex),
                (7, self._coordination),
                (8, self._report),
                (6, self._attempt),
                (4, self._errand),
                (5, self._existence),
                (11, self._question),
            )
        )
        return draw()

    # Sentences

    def _statement(self) -> Sentence:
        tense = self._weighted(TENSES)
        clause = self._fact() if self._chance(0.12) else self._clause(tense, time_first=0.55)
        return Statement(clause)

    def _complex(self) -> Sentence:
        conjunction = self._weighted(
            (
                (38, lexicon.BECAUSE),
                (22, lexicon.WHENEVER),
                (15, lexicon.EVEN_THOUGH),
                (13, lexicon.IF),
                (12, lexicon.WHILE),
            )
        )
        tense = self._weighted(TENSES)
        if conjunction is lexicon.IF or tense == FUTURE:
            tense = PRESENT
        if conjunction is lexicon.WHENEVER and tense == PAST:
            conjunction = lexicon.ONCE
        main_tense = tense
        if conjunction in (lexicon.IF, lexicon.BECAUSE) and tense == PRESENT and self._chance(0.4):
            main_tense = FUTURE
        # Clauses are drawn in the order of speech, so that pronouns follow their antecedents.
        if self._chance(0.65):
            main = self._clause(main_tense, time_first=0.55)
            return Complex(main, conjunction, self._subordinate(tense))
        subordinate = self._subordinate(tense)
        return Complex(self._clause(main_tense), conjunction, subordinate, main_first=False)

    def _subordinate(self, tense: str) -> Clause:
        if self._chance(0.08):
            return Clause(IT, self._pick(verbs_for("w", tense)), tense=tense)
        return self._clause(tense)

    def _coordination(self) -> Sentence:
        tense = self._weighted(TENSES)
        left = self._clause(tense, time_first=0.55)
        conjunction = self._pick((lexicon.AND, lexicon.BUT))
        return Coordination(left, conjunction, self._clause(tense))

    def _report(self) -> Sentence:
        """Someone says that ..., asks whether ..."""
        verb = self._pick((verbs.SAY, verbs.KNOW, verbs.THINK, verbs.HOPE, verbs.ASK))
        negated = verb is verbs.KNOW and self._chance(0.4)
        conjunction = lexicon.WHETHER if negated or verb is verbs.ASK else lexicon.THAT
        subject = self._subject("p", known=True)
        content = conjunction, self._clause(self._weighted(TENSES))
        return Statement(Clause(subject, verb, negated=negated, content=content))

    def _attempt(self) -> Sentence:
        """Someone tries, promises or forgets to do something."""
        tense = self._weighted(TENSES)
        subject = self._subject("p")
        verb = self._pick([v for v in verbs.INFINITIVE_VERBS if _has(v, tense)])
        action = self._pick([v for v in actions() if v.en.base != verb.en.base])
        infinitive = self._core(action, subject)
        clause = Clause(subject, verb, infinitive=infinitive, tense=tense)
        return Statement(self._timed(clause, time_first=1.0))

    def _errand(self) -> Sentence:
        """Someone goes somewhere to do something."""
        subject = self._subject("p")
        tense = self._weighted(TENSES)
        verb = self._pick([v for v in actions() if v.en.base in ("go", "come", "get")])
        clause = self._core(verb, subject, tense)
        purpose = self._core(self._pick([v for v in actions() if v.objects]), subject)
        return Statement(self._timed(replace(clause, purpose=purpose), time_first=1.0))

    def _existence(self) -> Sentence:
        key = self._pick(("in", "on", "behind", "next", "under"))
        thing = self._noun_phrase("rktcf" if key in ("on", "under") else "akh", NEW)
        negated = thing.indefinite and self._chance(0.35)
        tense = PAST if self._chance(0.35) else PRESENT
        return Existence(thing, self._place(key), tense, negated, self._chance(0.3))

    def _question(self) -> Sentence:
        word = self._weighted(QUESTION_WORDS)
        tense = self._weighted(TENSES)
        if word in ("whether", "why"):
            return Question(self._clause(tense), word.replace("whether", ""))
        verb = self._pick([v for v in actions(tense) if _answers(v, word)])
        if word == "who":
            return Question(replace(self._core(verb, HE, tense), gap="subject"), word)
        subject = self._subject("p")
        if word == "when":
            return Question(self._core(verb, subject, tense), word)
        if word == "where":
            return Question(Clause(subject, verb, tense=tense), word)
        sought = HE if word == "whom" else IT
        return Question(Clause(subject, verb, sought, tense=tense, gap="object"), word)

    # Clauses

    def _clause(self, tense: str, time_first: float = 0.0) -> Clause:
        """Any clause of this tense; only a main clause may begin with its time."""
        antecedents = self._antecedents()
        subject = self._pick(antecedents) if antecedents and self._chance(0.55) else None
        active = verbs_for(subject.head.classes if subject else AGENTS, tense)
        if not active or self._chance(0.25):
            clause = self._copular(subject, tense)
        else:
            if subject:
                # One pronoun cannot mean two things in a clause.
                antecedents = [np for np in antecedents if np.pronoun != subject.pronoun]
            clause = self._modified(self._verbal(subject, tense, antecedents))
        return self._timed(clause, time_first)

    def _fact(self) -> Clause:
        """Someone or something is more than another, of some age or profession."""
        clause = self._pick((self._comparison, self._comparison, self._age, self._profession))()
        clause = replace(clause, tense=self._weighted(TENSES))
        return replace(clause, negated=_known(clause.subject) and self._chance(0.2))

    def _copular(self, subject: NounPhrase | None, tense: str) -> Clause:
        """Someone or something is somehow or somewhere."""
        clause = self._quality(subject) if subject or self._chance(0.7) else self._location()
        clause = replace(clause, tense=tense)
        if _known(clause.subject) and self._chance(0.2):
            return replace(clause, negated=True)
        if clause.predicate in PASSING and tense != FUTURE and self._chance(0.2):
            return replace(clause, frequency=self._pick(lexicon.FREQUENCIES))
        return clause

    def _quality(self, subject: NounPhrase | None = None) -> Clause:
        subject = subject or self._subject(self._pick("ppparkfmdthcevobu"))
        return Clause(subject, verbs.BE, predicate=self._quality_of(subject.head.classes))

    def _location(self) -> Clause:
        if self._chance(0.5):
            return Clause(self._subject("pa"), verbs.BE, predicate=self._place("where"))
        place = self._place(self._pick(("on", "under", "in")))
        return Clause(self._subject("rktc"), verbs.BE, predicate=place)

    def _comparison(self) -> Clause:
        comparable = [a for a in lexicon.ADJECTIVES.values() if a.en_comparative]
        adjective = self._pick(comparable)
        kind = self._pick(adjective.classes)
        subject = self._subject(kind)
        named = kind == "p" and self._chance(0.4)
        than = self._name() if named else self._noun_phrase(kind, KNOWN)
        return Clause(subject, verbs.BE, predicate=Comparison(adjective, than))

    def _age(self) -> Clause:
        return Clause(self._subject(self._pick("ppab")), verbs.BE, predicate=Age(self._number()))

    def _profession(self) -> Clause:
        relative = NounPhrase(self._unmentioned(nouns("q")), self._pick(POSSESSIVES))
        subject = self._name() if self._chance(0.5) else self._mention(relative)
        job = self._pick([n for n in nouns("j") if n.pronoun == subject.pronoun] or nouns("j"))
        praise = [lexicon.ADJECTIVES[word] for word in ("good", "young", "famous")]
        qualities = (self._pick(praise),) if self._chance(0.4) else ()
        profession = NounPhrase(job, "a", qualities)
        return Clause(subject, verbs.BE, predicate=profession)

    def _verbal(
        self, subject: NounPhrase | None, tense: str, antecedents: Sequence[NounPhrase]
    ) -> Clause:
        negated = self._chance(0.17)
        verb = self._pick(verbs_for(subject.head.classes if subject else AGENTS, tense))
        if not subject:
            subject = self._subject(verb.subjects, known=negated)
            if not negated:
                subject = self._with_relative(subject, tense)
        return self._core(verb, subject, tense, negated, antecedents)

    def _core(
        self,
        verb: Verb,
        subject: NounPhrase,
        tense: str = PRESENT,
        negated: bool = False,
        antecedents: Sequence[NounPhrase] = (),
    ) -> Clause:
        """A subject and a verb with what the verb demands, and sometimes more."""
        recipient = self._person(subject) if "D" in verb.flags else None
        object_ = self._object(verb, subject, negated, antecedents) if verb.objects else None
        if object_ and not (verb.places or recipient or negated):
            object_ = self._with_relative(object_, tense)
        free = object_ is None or not (object_.indefinite or object_.relative)
        places = []
        if free and "F" in verb.flags and self._chance(0.12):
            places.append(self._place("for", KNOWN))
        elif "S" in verb.flags and not verb.objects and self._chance(0.15):
            places.append(self._place(self._pick(("with", "without")), KNOWN))
        if verb.places and ("S" not in verb.flags or (free and self._chance(0.4))):
            places.append(self._place(self._pick(verb.places)))
        manner = self._pick(lexicon.MANNERS) if "M" in verb.flags and self._chance(0.3) else None
        return Clause(
            subject=subject,
            verb=verb,
            object=object_,
            recipient=recipient,
            places=tuple(places),
            manner=manner,
            tense=tense,
            negated=negated,
        )

    def _person(self, beside: NounPhrase) -> NounPhrase:
        """Someone other than the subject."""
        if self._chance(0.35):
            return self._personal(beside)
        return self._name() if self._chance(0.3) else self._noun_phrase("p", KNOWN)

    def _object(
        self, verb: Verb, subject: NounPhrase, negated: bool, antecedents: Sequence[NounPhrase]
    ) -> NounPhrase:
        # After a preposition, German has another word for pronouns: auf ihn, but darauf.
        fitting = [np for np in antecedents if share(np.head.classes, verb.objects)]
        if fitting and not verb.de_prep and not verb.fr_prep and self._chance(0.6):
            return self._pick(fitting)
        if "p" in verb.objects and self._chance(0.4):
            return self._name() if verb.de_prep or verb.fr_prep else self._person(subject)
        # Only a direct object shares in the negation: keinen Apfel, pas de pomme.
        if negated:
            direct = verb.de_case == "acc" and not verb.de_prep and not verb.fr_prep
            return self._noun_phrase(verb.objects, NEGATED if direct else KNOWN)
        return self._noun_phrase(verb.objects, OBJECT)

    def _modified(self, clause: Clause) -> Clause:
        """Perhaps give a clause a modal or an adverb of frequency."""
        verb, object_ = clause.verb, clause.object
        if clause.tense == FUTURE or "Z" in verb.flags:
            return clause
        if verb in actions() and "p" in clause.subject.head.classes and self._chance(0.25):
            modals = ["can", "want"]
            if clause.tense == PRESENT or not clause.negated:
                modals.append("must")
            # With a known object "gern" would sound odd, with a negated new one too.
            fond = not object_ or (object_.indefinite and not clause.negated)
            if fond and clause.tense == PRESENT:
                modals += ["like", "like"]
            return replace(clause, modal=self._pick(modals))
        if not clause.negated and self._chance(0.15):
            return replace(clause, frequency=self._pick(lexicon.FREQUENCIES))
        return clause

    def _timed(self, clause: Clause, time_first: float) -> Clause:
        """Perhaps give a clause a time, at its beginning with probability `time_first`."""
        times = self._weighted(((58, lexicon.TIMES), (22, lexicon.CLOCK), (20, lexicon.SPANS)))
        fitting = [time for time in times if clause.tense in time.tenses]
        lasting = clause.predicate is not None and clause.predicate not in PASSING
        timeless = lasting or clause.frequency or "Z" in clause.verb.flags
        first = self._chance(time_first)
        # After a relative clause, a time would seem to belong to that.
        misleading = not first and clause.object and clause.object.relative
        if not fitting or timeless or misleading or not self._spend("time", 0.4):
            return clause
        return replace(clause, time=self._pick(fitting), time_first=first)

    def _with_relative(self, np: NounPhrase, tense: str) -> NounPhrase:
        """Perhaps give a noun a relative clause, in which it is the subject or the object."""
        plain = np.determiner in ("the", "a") and not np.owner and not np.is_pronoun
        if not plain or not self._spend("relative", 0.2):
            return np
        tense = PRESENT if tense == FUTURE else tense
        classes = np.head.classes
        if share(classes, "pa") and self._chance(0.5):
            verb = self._pick(verbs_for(classes, tense))
            clause = replace(self._core(verb, np, tense), gap="subject")
        else:
            verb = self._pick([v for v in verbs_for("p", tense) if _takes_relative(v, classes)])
            clause = Clause(self._subject("p"), verb, np, tense=tense, gap="object")
        return replace(np, relative=clause)
