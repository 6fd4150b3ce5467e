"""The records of the lexicon: words with all forms that the sentences of three languages need.

A cell of a table lists the principal parts of a word, the most irregular ones last. This module
derives the parts that follow from a rule. An underscore in a cell stands for a space, and a dash
for a form that does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass

Cell = list[str]


def rows(table: str) -> list[list[Cell]]:
    """Split a table into rows of `|`-separated cells, each the list of its words."""
    lines = table.strip().splitlines()
    return [[_words(cell) for cell in line.split("|")] for line in lines]


def _words(cell: str) -> Cell:
    return [word.replace("_", " ") for word in cell.split()]


@dataclass(frozen=True)
class Noun:
    """A common noun.

    `pronoun` is the English pronoun that takes it up ("" if usage wavers); `de_genitive` is the
    ending of the genitive singular, or of every oblique singular case when it starts with "~"
    (den Jungen). `classes` holds one letter for each meaning class that verbs select by.
    """

    en: str
    en_plural: str
    pronoun: str
    de_gender: str
    de: str
    de_plural: str
    de_genitive: str
    fr_gender: str
    fr: str
    fr_plural: str
    classes: str

    @property
    def countable(self) -> bool:
        return bool(self.en_plural)


@dataclass(frozen=True)
class Name:
    """A proper name, or two joined by "and": no article, no inflection but the German genitive."""

    en: str
    de: str
    fr: str
    pronoun: str
    gender: str
    plural: bool
    classes: str


@dataclass(frozen=True)
class Pronoun:
    """A personal pronoun; the genders are those of the noun it stands for."""

    pronoun: str
    de_gender: str = "m"
    fr_gender: str = "m"
    classes: str = "p"


@dataclass(frozen=True)
class Adjective:
    """An adjective; `de_stem` takes the endings, `before` puts the French one before its noun."""

    en: str
    en_comparative: str
    de: str
    de_stem: str
    de_comparative: str
    fr: str
    fr_feminine: str
    fr_before_vowel: str
    before: bool
    classes: str


@dataclass(frozen=True)
class Preposition:
    """A preposition in one meaning, the case it governs and the classes of its complement."""

    en: str
    de: str
    de_case: str
    fr: str
    classes: str


@dataclass(frozen=True)
class Phrase:
    """An adverb or conjunction: one invariable phrase in each language."""

    en: str
    de: str
    fr: str


@dataclass(frozen=True)
class Time:
    """A time phrase (or adverb), the same string in every position, and the tenses it suits."""

    en: str
    de: str
    fr: str
    tenses: tuple[str, ...]


@dataclass(frozen=True)
class EnglishVerb:
    """`tail` follows the verb ("wait for"); if `splits`, pronouns go before it ("turn it on")."""

    base: str
    third: str
    past: str
    tail: str
    splits: bool


@dataclass(frozen=True)
class GermanVerb:
    """`prefix` is the separable one; `fixed` is a bare object noun with its gender."""

    prefix: str
    infinitive: str
    third: str
    participle: str
    sein: bool
    fixed: tuple[str, str] | None


@dataclass(frozen=True)
class FrenchVerb:
    """`present` holds the je, il, nous and ils forms; `tail` follows the verb (avoir faim)."""

    infinitive: str
    present: tuple[str, str, str, str]
    participle: str
    etre: bool
    reflexive: bool
    tail: str


@dataclass(frozen=True)
class Verb:
    """A verb in one meaning, with what it governs and which classes may be subject and object.

    `de_case` is the case of the object ("" without object), after `de_prep` if there is one.
    `places` are the keys of the prepositions it goes with; `flags` are explained at the table.
    """

    en: EnglishVerb
    de: GermanVerb
    fr: FrenchVerb
    de_prep: str
    de_case: str
    fr_prep: str
    subjects: str
    objects: str
    places: tuple[str, ...]
    flags: str


def noun(row: list[Cell]) -> Noun:
    """Read a noun from its row: English, German, French, classes."""
    (en, en_plural, pronoun), (de_gender, de, *de_rest), (fr_gender, fr, *fr_rest), classes = row
    de_plural, *de_rest = de_rest
    return Noun(
        en=en,
        en_plural=_form(en_plural),
        pronoun=_form(pronoun),
        de_gender=de_gender,
        de=de,
        de_plural=_form(de_plural),
        de_genitive=de_rest[0] if de_rest else "",
        fr_gender=fr_gender,
        fr=fr,
        fr_plural=fr_rest[0] if fr_rest else french_plural(fr),
        classes=classes[0],
    )


def compound(modifier: Noun, linking: str | None, head: Noun, preposition: str) -> Noun:
    """Join two nouns: kitchen + table = Küchentisch, table de cuisine; the head's grammar.

    `linking` is the form of the German modifier, where it is not the singular.
    """
    first = linking or modifier.de
    return Noun(
        en=f"{modifier.en} {head.en}",
        en_plural=f"{modifier.en} {head.en_plural}",
        pronoun=head.pronoun,
        de_gender=head.de_gender,
        de=first + head.de.lower(),
        de_plural=first + head.de_plural.lower(),
        de_genitive=head.de_genitive,
        fr_gender=head.fr_gender,
        fr=f"{head.fr} {preposition} {modifier.fr}",
        fr_plural=f"{head.fr_plural} {preposition} {modifier.fr}",
        classes=head.classes,
    )


def name(row: list[Cell]) -> Name:
    """Read a name from its row: the name (in each language if it differs), pronoun, classes."""
    names, (pronoun,), (classes,) = row
    en, de, fr = names if len(names) == 3 else names * 3
    gender = {"he": "m", "she": "f", "it": "n"}[pronoun]
    return Name(en, de, fr, pronoun, gender, False, classes)


def pair(left: Name, right: Name) -> Name:
    """Anna and Paul; in French two names are feminine only if both are."""
    return Name(
        en=f"{left.en} and {right.en}",
        de=f"{left.de} und {right.de}",
        fr=f"{left.fr} et {right.fr}",
        pronoun="they",
        gender="f" if left.gender == right.gender == "f" else "m",
        plural=True,
        classes=left.classes,
    )


def adjective(row: list[Cell]) -> Adjective:
    """Read an adjective from its row: English, German, French, French place, classes."""
    (en, comparative), (de, *de_rest), (fr, fr_feminine, *fr_rest), (place,), (classes,) = row
    stem, de_comparative = de_rest if len(de_rest) == 2 else (de, (de_rest or [de + "er"])[0])
    return Adjective(
        en=en,
        en_comparative=_form(comparative),
        de=de,
        de_stem=stem,
        de_comparative=de_comparative,
        fr=fr,
        fr_feminine=fr_feminine,
        fr_before_vowel=fr_rest[0] if fr_rest else fr,
        before=place == "before",
        classes=classes,
    )


def preposition(row: list[Cell]) -> Preposition:
    """Read a preposition from its row: key, English, German with case, French, classes."""
    _, (en,), (de, case), (fr,), (classes,) = row
    return Preposition(en, de, case, fr, classes)


def time(row: list[Cell]) -> Time:
    """Read a time phrase from its row: English, German, French, tenses."""
    (en,), (de,), (fr,), tenses = row
    return Time(en, de, fr, tuple(tenses))


def verb(row: list[Cell]) -> Verb:
    """Read a verb from its row: three languages, government and selection, places and flags."""
    en, de, fr, (*government, selection), places = row
    german, _, french = "".join(government).partition("/")
    subjects, _, objects = selection.partition(">")
    de_prep, _, de_case = german.rpartition("+")
    return Verb(
        en=_english_verb(en),
        de=_german_verb(de),
        fr=_french_verb(fr),
        de_prep=de_prep,
        de_case=de_case,
        fr_prep=french,
        subjects=subjects,
        objects=objects,
        places=tuple(key for key in places if key.islower()),
        flags="".join(flag for flag in places if flag.isupper()),
    )


def _english_verb(cell: Cell) -> EnglishVerb:
    """`turn+on` splits around a pronoun, `wait for` does not."""
    phrase, *past = cell
    base, _, tail = phrase.replace("+", " ").partition(" ")
    y_ending = base.endswith("y") and base[-2] not in "aeou"
    if y_ending:
        third, regular = base[:-1] + "ies", base[:-1] + "ied"
    else:
        third = base + ("es" if base.endswith(("s", "sh", "ch", "x", "o")) else "s")
        regular = base + ("d" if base.endswith("e") else "ed")
    return EnglishVerb(base, third, past[0] if past else regular, tail, splits="+" in phrase)


def _german_verb(cell: Cell) -> GermanVerb:
    """`auf-stehen gestanden*`: separable prefix, infinitive, third person if it is irregular,
    participle if it is, without the prefix; a star for sein; `m:Hunger` is a bare object."""
    gender, _, fixed = cell[-1].rpartition(":")
    forms = cell[:-1] if gender else cell
    prefix, _, infinitive = forms[0].rstrip("*").rpartition("-")
    stem = infinitive.removesuffix("en")
    regular = stem + ("et" if stem.endswith(("t", "d")) else "t")
    participle = forms[-1] if len(forms) > 1 else f"ge{regular}"
    return GermanVerb(
        prefix=prefix,
        infinitive=infinitive,
        third=forms[1] if len(forms) > 2 else regular,
        participle=prefix + participle.rstrip("*"),
        sein=forms[-1].endswith("*"),
        fixed=(gender, fixed) if gender else None,
    )


def _french_verb(cell: Cell) -> FrenchVerb:
    """`venir vien ven vienn venu*`: infinitive, stems of the singular, of nous and (if another)
    of ils, participle, a star for être; or all four present forms in the place of the stems; or
    the infinitive alone if it is regular. `+faim` is a tail."""
    tail = cell[-1][1:] if cell[-1].startswith("+") else ""
    infinitive, *parts = cell[:-1] if tail else cell
    etre = cell[-1].endswith("*")
    reflexive = infinitive.startswith("se ")
    infinitive = infinitive.rstrip("*").removeprefix("se ")
    if not parts and infinitive.endswith("er"):
        present, participle = _present_in_er(infinitive), infinitive[:-1].removesuffix("e") + "é"
    elif len(parts) == 5:
        *present, participle = parts
    else:
        stem = infinitive[:-2]
        singular, nous, *ils, participle = parts or (stem, stem, stem + "u")
        third = singular + ("" if singular.endswith(("d", "t")) else "t")
        present = [f"{singular}s", third, f"{nous}ons", f"{(ils or [nous])[0]}ent"]
    return FrenchVerb(
        infinitive, tuple(present), participle.rstrip("*"), etre or reflexive, reflexive, tail
    )


def _present_in_er(infinitive: str) -> list[str]:
    """The present of a regular verb in -er: achète, achetons; nettoie, nettoyons; mangeons."""
    stem = infinitive[:-2]
    strong, nous = stem, stem
    if stem.endswith("y"):
        strong = stem[:-1] + "i"
    elif stem[-2] in "eé" and stem[-1] not in "aeiou":
        strong = f"{stem[:-2]}è{stem[-1]}"
    elif stem.endswith("g"):
        nous = stem + "e"
    elif stem.endswith("c"):
        nous = stem[:-1] + "ç"
    return [f"{strong}e", f"{strong}e", f"{nous}ons", f"{strong}ent"]


def french_plural(word: str) -> str:
    """The regular plural of a French noun or masculine adjective: amis, heureux, gâteaux."""
    if word.endswith(("s", "x", "z")):
        return word
    return word + ("x" if word.endswith("eau") else "s")


def _form(word: str) -> str:
    return "" if word == "-" else word
