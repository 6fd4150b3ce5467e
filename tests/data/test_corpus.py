"""The generated corpus: its translations, its bytes, its splits; and the word-by-word baseline."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data import lookup_baseline, make_corpus
from data.grammar import english, french, german, lexicon, numerals, syntax, verbs
from data.grammar.lexicon import BECAUSE, EVEN_THOUGH, FUTURE, IF, NEVER, ONCE, PAST, THAT
from data.grammar.phrases import HE, I_WE, SHE
from data.grammar.sampler import IT, Sampler
from data.grammar.syntax import (
    Age,
    Clause,
    Comparison,
    Complex,
    Existence,
    NounPhrase,
    Place,
    Question,
)
from data.grammar.words import Pronoun

ROOT = Path(__file__).parents[2]
ME, WE = I_WE


def np(noun: str, determiner: str = "the", *adjectives: str, **features: object) -> NounPhrase:
    """A noun phrase of words in their English form; a plural noun is given in the singular."""
    heads = [*lexicon.NOUNS.values(), *lexicon.NAMES.values()]
    heads += [compound for compounds in lexicon.COMPOUNDS.values() for compound in compounds]
    (head,) = (head for head in heads if head.en == noun)
    qualities = tuple(lexicon.ADJECTIVES[adjective] for adjective in adjectives)
    return NounPhrase(head, determiner, qualities, **features)


def many(noun: str, determiner: str = "the", *adjectives: str, **features: object) -> NounPhrase:
    return np(noun, determiner, *adjectives, plural=True, **features)


def clause(subject: NounPhrase, verb: str, *rest: NounPhrase, **features: object) -> Clause:
    """A clause with an English verb, or a German one if there are several, and its object."""
    everything = [*verbs.VERBS, *verbs.INFINITIVE_VERBS, verbs.SAY, verbs.BE]
    names = [
        (f"{v.en.base} {v.en.tail}".strip(), v.de.prefix + v.de.infinitive) for v in everything
    ]
    found = next(v for v, name in zip(everything, names, strict=True) if verb in name)
    return Clause(subject, found, *rest, **features)


def that(noun: NounPhrase, subject: NounPhrase, verb: str, **features: object) -> NounPhrase:
    """The noun that someone does something to."""
    return replace(noun, relative=clause(subject, verb, noun, gap="object", **features))


def time(en: str) -> lexicon.Time:
    times = [*lexicon.TIMES, *lexicon.CLOCK, *lexicon.SPANS]
    return next(time for time in times if time.en == en)


def at(key: str, of: NounPhrase) -> tuple[Place]:
    return (Place(lexicon.PREPOSITIONS[key], of),)


def first(en: str) -> dict[str, object]:
    return {"time": time(en), "time_first": True}


def pronoun(word: str, noun: str) -> NounPhrase:
    """The pronoun that stands for a noun."""
    head = lexicon.NOUNS[noun]
    return NounPhrase(Pronoun(word, head.de_gender, head.fr_gender, head.classes))


def be(subject: NounPhrase, predicate: object, **features: object) -> Clause:
    predicate = lexicon.ADJECTIVES.get(predicate, predicate)
    return clause(subject, "be", predicate=predicate, **features)


RAIN = clause(IT, "rain")
# English, the sentence behind it, German | French.
EXAMPLES = {
    # Verb second after a fronted adverbial, the perfect tense, adjectives and their place.
    "Yesterday the girl bought an old lamp .": (
        clause(np("girl"), "buy", np("lamp", "a", "old"), tense=PAST, **first("yesterday")),
        "Gestern hat das Mädchen eine alte Lampe gekauft . | "
        "Hier , la fille a acheté une vieille lampe .",
    ),
    "The man drinks cold coffee .": (
        clause(np("man"), "drink", np("coffee", "", "cold")),
        "Der Mann trinkt kalten Kaffee . | L' homme boit du café froid .",
    ),
    "Julia likes coffee .": (
        clause(np("Julia"), "like", np("coffee", "")),
        "Julia mag Kaffee . | Julia aime le café .",
    ),
    "This old man never laughs .": (
        clause(np("man", "this", "old"), "laugh", frequency=NEVER),
        "Dieser alte Mann lacht nie . | Ce vieil homme ne rit jamais .",
    ),
    # Numerals.
    "I see twenty-one beautiful flowers .": (
        clause(ME, "see", np("flower", "", "beautiful", count=21, plural=True)),
        "Ich sehe einundzwanzig schöne Blumen . | Je vois vingt et une belles fleurs .",
    ),
    "The queen is ninety-seven years old .": (
        be(np("queen"), Age(97)),
        "Die Königin ist siebenundneunzig Jahre alt . | La reine a quatre-vingt-dix-sept ans .",
    ),
    # Dative objects, genitives, weak nouns.
    "Anna helps the small children .": (
        clause(np("Anna"), "help", many("child", "the", "small")),
        "Anna hilft den kleinen Kindern . | Anna aide les petits enfants .",
    ),
    "Anna 's old dog followed the boy .": (
        clause(np("dog", "the", "old", owner=np("Anna")), "follow", np("boy"), tense=PAST),
        "Annas alter Hund ist dem Jungen gefolgt . | Le vieux chien d' Anna a suivi le garçon .",
    ),
    "The young baker 's daughter was tired .": (
        be(np("daughter", owner=np("baker", "the", "young")), "tired", tense=PAST),
        "Die Tochter des jungen Bäckers war müde . | La fille du jeune boulanger était fatiguée .",
    ),
    "The father gives the child an egg .": (
        clause(np("father"), "give", np("egg", "a"), np("child")),
        "Der Vater gibt dem Kind ein Ei . | Le père donne un œuf à l' enfant .",
    ),
    "Paul gives it to her .": (
        clause(np("Paul"), "give", pronoun("it", "hat"), SHE),
        "Paul gibt ihn ihr . | Paul le lui donne .",
    ),
    # Separable verbs in every position.
    "She gets up at half past seven .": (
        clause(SHE, "get up", time=time("at half past seven")),
        "Sie steht um halb acht auf . | Elle se lève à sept heures et demie .",
    ),
    "Paul says that she gets up .": (
        clause(np("Paul"), "say", content=(THAT, clause(SHE, "get up"))),
        "Paul sagt , dass sie aufsteht . | Paul dit qu' elle se lève .",
    ),
    "He tried to open the door .": (
        clause(HE, "try", infinitive=clause(HE, "open", np("door")), tense=PAST),
        "Er hat versucht , die Tür aufzumachen . | Il a essayé d' ouvrir la porte .",
    ),
    # Modals, liking, negation.
    "The child must not open the window .": (
        clause(np("child"), "open", np("window"), modal="must", negated=True),
        "Das Kind darf das Fenster nicht aufmachen . | L' enfant ne doit pas ouvrir la fenêtre .",
    ),
    "The friends like to swim .": (
        clause(many("friend"), "swim", modal="like"),
        "Die Freunde schwimmen gern . | Les amis aiment nager .",
    ),
    "Maria does not buy a new hat .": (
        clause(np("Maria"), "buy", np("hat", "a", "new"), negated=True),
        "Maria kauft keinen neuen Hut . | Maria n' achète pas de nouveau chapeau .",
    ),
    "He will not turn it on .": (
        clause(HE, "turn on", pronoun("it", "lamp"), tense=FUTURE, negated=True),
        "Er wird sie nicht einschalten . | Il ne va pas l' allumer .",
    ),
    # Subordinate clauses; pronouns that agree with their antecedents.
    "The woman sells the coat because she does not like it .": (
        Complex(
            clause(np("woman"), "sell", np("coat")),
            BECAUSE,
            clause(SHE, "like", pronoun("it", "coat"), negated=True),
        ),
        "Die Frau verkauft den Mantel , weil sie ihn nicht mag . | "
        "La femme vend le manteau parce qu' elle ne l' aime pas .",
    ),
    "Even though the cow is sick , it sleeps .": (
        Complex(clause(pronoun("it", "cow"), "sleep"), EVEN_THOUGH, be(np("cow"), "sick"), False),
        "Obwohl die Kuh krank ist , schläft sie . | Même si la vache est malade , elle dort .",
    ),
    "If it rains , we will stay in the kitchen .": (
        Complex(clause(WE, "stay", tense=FUTURE, places=at("in", np("kitchen"))), IF, RAIN, False),
        "Wenn es regnet , werden wir in der Küche bleiben . | "
        "S' il pleut , nous allons rester dans la cuisine .",
    ),
    "The girls came back when it rained .": (
        Complex(clause(many("girl"), "come back", tense=PAST), ONCE, replace(RAIN, tense=PAST)),
        "Die Mädchen sind zurückgekommen , als es geregnet hat . | "
        "Les filles sont revenues quand il a plu .",
    ),
    # Relative clauses.
    "The lamp that the man bought is red .": (
        be(that(np("lamp"), np("man"), "buy", tense=PAST), "red"),
        "Die Lampe , die der Mann gekauft hat , ist rot . | "
        "La lampe que l' homme a achetée est rouge .",
    ),
    "The teacher whom the students answer is old .": (
        be(that(np("teacher"), many("student"), "answer"), "old"),
        "Der Lehrer , dem die Studenten antworten , ist alt . | "
        "Le professeur à qui les étudiants répondent est vieux .",
    ),
    "Emma found the keys that he lost .": (
        clause(np("Emma"), "find", that(many("key"), HE, "lose", tense=PAST), tense=PAST),
        "Emma hat die Schlüssel gefunden , die er verloren hat . | "
        "Emma a trouvé les clés qu' il a perdues .",
    ),
    # Places at rest and reached, compounds, contractions.
    "He puts the book on the kitchen table .": (
        clause(HE, "put", np("book"), places=at("put", np("kitchen table"))),
        "Er legt das Buch auf den Küchentisch . | Il pose le livre sur la table de cuisine .",
    ),
    "The book is on the kitchen table .": (
        be(np("book"), at("on", np("kitchen table"))[0]),
        "Das Buch ist auf dem Küchentisch . | Le livre est sur la table de cuisine .",
    ),
    "She goes to the market to eat the egg .": (
        clause(SHE, "go", places=at("to", np("market")), purpose=clause(SHE, "eat", np("egg"))),
        "Sie geht zum Markt , um das Ei zu essen . | Elle va au marché pour manger l' œuf .",
    ),
    "We went to Rome .": (
        clause(WE, "fahren", tense=PAST, places=at("to city", np("Rome"))),
        "Wir sind nach Rom gefahren . | Nous sommes allés à Rome .",
    ),
    "There are no apples next to this tree .": (
        Existence(many("apple", ""), at("next", np("tree", "this"))[0], negated=True),
        "Es gibt keine Äpfel neben diesem Baum . | Il n' y a pas de pommes à côté de cet arbre .",
    ),
    # Words with several translations, and one verb for many.
    "The mouse ate the cheese .": (
        clause(np("mouse"), "fressen", np("cheese"), tense=PAST),
        "Die Maus hat den Käse gefressen . | La souris a mangé le fromage .",
    ),
    "The neighbours need the garden chairs .": (
        clause(many("neighbour"), "need", many("garden chair")),
        "Die Nachbarn brauchen die Gartenstühle . | Les voisins ont besoin des chaises de jardin .",
    ),
    "I was not afraid of his dogs .": (
        clause(ME, "be afraid of", many("dog", "his"), tense=PAST, negated=True),
        "Ich hatte keine Angst vor seinen Hunden . | Je n' avais pas peur de ses chiens .",
    ),
    "His sister is taller than Paul .": (
        be(np("sister", "his"), Comparison(lexicon.ADJECTIVES["tall"], np("Paul"))),
        "Seine Schwester ist größer als Paul . | Sa sœur est plus grande que Paul .",
    ),
    # Questions.
    "Where did the nurse go ?": (
        Question(clause(np("nurse"), "go", tense=PAST), "where"),
        "Wohin ist die Krankenschwester gegangen ? | Où est-ce que l' infirmière est allée ?",
    ),
}


@pytest.mark.parametrize("line", EXAMPLES)
def test_sentences_are_translated_as_a_linguist_would(line: str) -> None:
    sentence, translations = EXAMPLES[line]
    if isinstance(sentence, Clause):
        sentence = syntax.Statement(sentence)
    lines = [" ".join(language.sentence(sentence)) for language in (english, german, french)]
    assert lines == [line, *translations.split(" | ")]


@pytest.mark.parametrize(
    ("number", "expected"),
    {
        2: "two zwei deux",
        16: "sixteen sechzehn seize",
        21: "twenty-one einundzwanzig vingt et un",
        71: "seventy-one einundsiebzig soixante et onze",
        77: "seventy-seven siebenundsiebzig soixante-dix-sept",
        80: "eighty achtzig quatre-vingts",
        81: "eighty-one einundachtzig quatre-vingt-un",
        91: "ninety-one einundneunzig quatre-vingt-onze",
        99: "ninety-nine neunundneunzig quatre-vingt-dix-neuf",
    }.items(),
)
def test_numbers_are_written_out(number: int, expected: str) -> None:
    languages = (numerals.english, numerals.german, numerals.french)
    assert " ".join(numeral(number) for numeral in languages) == expected


Corpus = dict[str, make_corpus.Pairs]
CORPUS = {"train": 1000, "valid": 60, "test": 60}


@pytest.fixture(scope="module", params=["en-de", "en-fr"])
def corpus(request: pytest.FixtureRequest) -> Corpus:
    return make_corpus.make_corpus(request.param, **CORPUS)


def test_splits_have_their_sizes_and_share_no_sentence(corpus: Corpus) -> None:
    assert {split: len(pairs) for split, pairs in corpus.items()} == CORPUS
    for side in (0, 1):
        sentences = [pair[side] for pairs in corpus.values() for pair in pairs]
        assert len(set(sentences)) == len(sentences)


def test_what_the_grammar_repeats_is_used_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(seed=3)
    sentences = [sampler.sentence() for _ in range(60)]
    stream = iter(sentences[:40] * 2 + sentences[40:])
    monkeypatch.setattr(Sampler, "sentence", lambda _: next(stream))
    assert len(set(make_corpus.make_corpus("en-de", 50, 0, 0)["train"])) == 50


def test_training_pairs_teach_every_word_of_the_other_splits(corpus: Corpus) -> None:
    for side in (0, 1):
        taught = {word for pair in corpus["train"] for word in pair[side].split()}
        asked = {word for pair in corpus["valid"] + corpus["test"] for word in pair[side].split()}
        assert asked <= taught


def test_training_pairs_use_the_whole_lexicon(corpus: Corpus) -> None:
    text = " ".join(source.lower() for source, _ in corpus["train"])
    entries = [*lexicon.NOUNS, *lexicon.NAMES, *lexicon.ADJECTIVES]
    entries += [verb.en.base for verb in (*verbs.VERBS, *verbs.INFINITIVE_VERBS)]
    assert [entry for entry in entries if entry.lower() not in text] == []


def test_lines_are_tokens_between_single_spaces(corpus: Corpus) -> None:
    for line in (line for pairs in corpus.values() for pair in pairs for line in pair):
        assert line == " ".join(line.split())
        assert line[0].isupper()
        assert line[-2:] in (" .", " ?")
        assert all(token in ",.?" or not set(token) & set(",.?") for token in line.split())
        assert not any(marks in line for marks in (", ,", ", .", ", ?"))


def test_it_and_they_stand_only_for_what_is_clear() -> None:
    sampler = Sampler(seed=1)
    sampler._mentions = [np("dog"), np("lamp"), np("Anna"), many("cow")]
    clear = [(pronoun.pronoun, pronoun.de_gender) for pronoun in sampler._antecedents()]
    assert clear == [("she", "f"), ("they", "p")]


def test_translation_is_a_function_of_the_english_sentence() -> None:
    sampler = Sampler(seed=2)
    translations = {}
    for _ in range(1500):
        sentence = sampler.sentence()
        line = " ".join(english.sentence(sentence))
        translated = german.sentence(sentence), french.sentence(sentence)
        assert translations.setdefault(line, translated) == translated


SMALL = ("--train", "300", "--valid", "10", "--test", "20")
DIGESTS = {
    "en-de": "4b1655480e354eb6758ea0b947c96c469f6e5c50c658decbca86538b956ab3e2",
    "en-fr": "6eb08a7d5f68db8da33436e1b68baeb616fc78e96a17c26c6a98df9afc24dc96",
}


@pytest.mark.parametrize("pair", DIGESTS)
def test_the_same_arguments_give_the_same_bytes(pair: str, tmp_path: Path) -> None:
    arguments = ["--pair", pair, *SMALL, "--out"]
    make_corpus.main([*arguments, str(tmp_path / "once")])
    # The same as a command, with another order of hashes.
    subprocess.run(
        [sys.executable, "-m", "data.make_corpus", *arguments, "twice"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "5"},
        check=True,
    )
    names = sorted(f"{split}.{side}" for split in CORPUS for side in pair.split("-"))
    contents = []
    for folder in ("once", "twice"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == names
        contents.append(b"".join((tmp_path / folder / name).read_bytes() for name in names))
    assert contents[0] == contents[1]
    assert make_corpus.make_corpus(pair, 9, 0, 0, 1) != make_corpus.make_corpus(pair, 9, 0, 0, 2)
    assert hashlib.sha256(contents[0]).hexdigest() == DIGESTS[pair]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    {
        "--pair en-es": "argument --pair: invalid choice: 'en-es'",
        "--pair en-de --train -1": "'-1' is not a whole number, 0 or more",
        "--pair en-de --test 1000000000": "1000012500 sentence pairs were requested",
        "--pair en-de --train 5": "use more training pairs",
        "--pair en-de --train 5 --valid 0 --test 0 --out file": "file cannot be written",
    }.items(),
)
def test_bad_arguments_are_explained(
    arguments: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(make_corpus, "PATIENCE", 100)
    Path("file").touch()
    with pytest.raises(SystemExit) as stopped:
        make_corpus.main(["--out", "corpus", *arguments.split()])
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not Path("corpus").exists()


def test_looking_up_words_is_no_way_to_translate(tmp_path: Path, capsys) -> None:
    make_corpus.main(["--pair", "en-de", "--out", str(tmp_path), *SMALL])
    lookup_baseline.main(["--pair", "en-de", "--data", str(tmp_path)])
    score, signature = capsys.readouterr().out.splitlines()
    assert 1 < float(score.split()[2]) < 40 and "tok:none" in signature
