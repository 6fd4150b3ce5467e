"""The lexicon: nouns, names, adjectives, prepositions, adverbs and times in three languages.

Meaning classes, one letter each, say which verbs, adjectives and prepositions suit a noun:

    p person      q kin or friend   j profession    s one of whom one has but one
    a animal      z city            w weather
    f food        m uncounted food  d drink         r reading      k clothing    t small thing
    c vessel      h furniture       o opening       e appliance    v vehicle     b building, place
    i one can be in it              g one goes to it               n one stands next to it
    x one walks through it          y one lives in it              u one lies under it
"""

from __future__ import annotations

from data.grammar import words
from data.grammar.numerals import english, french, german
from data.grammar.words import Adjective, Name, Noun, Phrase, Preposition, Time

PAST, PRESENT, FUTURE = "past", "present", "future"

# English singular, plural, pronoun | German gender, singular, plural, genitive ending (~ marks
# the weak nouns) | French gender, singular, irregular plural | classes
NOUN_TABLE = """
man men he                | m Mann Männer es          | m homme               | p
woman women she           | f Frau Frauen             | f femme               | p
boy boys he               | m Junge Jungen ~n         | m garçon              | p
girl girls she            | n Mädchen Mädchen s       | f fille               | p
child children -          | n Kind Kinder es          | m enfant              | pq
doctor doctors he         | m Arzt Ärzte es           | m médecin             | pj
teacher teachers he       | m Lehrer Lehrer s         | m professeur          | pj
baker bakers he           | m Bäcker Bäcker s         | m boulanger           | pj
student students he       | m Student Studenten ~en   | m étudiant            | pj
neighbour neighbours he   | m Nachbar Nachbarn ~n     | m voisin              | pq
nurse nurses she          | f Krankenschwester Krankenschwestern | f infirmière | pj
waitress waitresses she   | f Kellnerin Kellnerinnen  | f serveuse            | pj
queen queens she          | f Königin Königinnen      | f reine               | p
friend friends he         | m Freund Freunde es       | m ami                 | pq
mother mothers she        | f Mutter Mütter           | f mère                | pqs
father fathers he         | m Vater Väter s           | m père                | pqs
sister sisters she        | f Schwester Schwestern    | f sœur                | pq
brother brothers he       | m Bruder Brüder s         | m frère               | pq
daughter daughters she    | f Tochter Töchter         | f fille               | pq
son sons he               | m Sohn Söhne es           | m fils                | pq
aunt aunts she            | f Tante Tanten            | f tante               | pq
grandmother grandmothers she | f Großmutter Großmütter | f grand-mère grands-mères | pq
dog dogs it               | m Hund Hunde es           | m chien               | a
cat cats it               | f Katze Katzen            | m chat                | a
horse horses it           | n Pferd Pferde es         | m cheval chevaux      | a
bird birds it             | m Vogel Vögel s           | m oiseau              | a
cow cows it               | f Kuh Kühe                | f vache               | a
mouse mice it             | f Maus Mäuse              | f souris              | a
apple apples it           | m Apfel Äpfel s           | f pomme               | f
pear pears it             | f Birne Birnen            | f poire               | f
egg eggs it               | n Ei Eier s               | m œuf                 | f
cake cakes it             | m Kuchen Kuchen s         | m gâteau              | f
potato potatoes it        | f Kartoffel Kartoffeln    | f pomme_de_terre pommes_de_terre | f
bread - it                | n Brot - es               | m pain                | m
cheese - it               | m Käse - s                | m fromage             | m
meat - it                 | n Fleisch - es            | f viande              | m
soup - it                 | f Suppe -                 | f soupe               | m
coffee - it               | m Kaffee - s              | m café                | d
tea - it                  | m Tee - s                 | m thé                 | d
milk - it                 | f Milch -                 | m lait                | d
water - it                | n Wasser - s              | f eau                 | d
wine - it                 | m Wein - es               | m vin                 | d
book books it             | n Buch Bücher es          | m livre               | r
letter letters it         | m Brief Briefe es         | f lettre              | r
newspaper newspapers it   | f Zeitung Zeitungen       | m journal journaux    | r
hat hats it               | m Hut Hüte es             | m chapeau             | k
coat coats it             | m Mantel Mäntel s         | m manteau             | k
shirt shirts it           | n Hemd Hemden es          | f chemise             | k
dress dresses it          | n Kleid Kleider es        | f robe                | k
key keys it               | m Schlüssel Schlüssel s   | f clé                 | t
bag bags it               | f Tasche Taschen          | m sac                 | t
umbrella umbrellas it     | m Regenschirm Regenschirme s | m parapluie        | t
flower flowers it         | f Blume Blumen            | f fleur               | t
picture pictures it       | n Bild Bilder es          | f image               | t
ball balls it             | m Ball Bälle es           | m ballon              | t
cup cups it               | f Tasse Tassen            | f tasse               | c
glass glasses it          | n Glas Gläser es          | m verre               | c
bottle bottles it         | f Flasche Flaschen        | f bouteille           | c
table tables it           | m Tisch Tische es         | f table               | hu
chair chairs it           | m Stuhl Stühle es         | f chaise              | h
bed beds it               | n Bett Betten es          | m lit                 | hu
door doors it             | f Tür Türen               | f porte               | on
window windows it         | n Fenster Fenster s       | f fenêtre             | on
lamp lamps it             | f Lampe Lampen            | f lampe               | e
radio radios it           | n Radio Radios s          | f radio               | e
computer computers it     | m Computer Computer s     | m ordinateur          | e
car cars it               | n Auto Autos s            | f voiture             | vi
bicycle bicycles it       | n Fahrrad Fahrräder s     | m vélo                | v
train trains it           | m Zug Züge es             | m train               | vi
bus buses it              | m Bus Busse ses           | m bus                 | vi
house houses it           | n Haus Häuser es          | f maison              | biny
kitchen kitchens it       | f Küche Küchen            | f cuisine             | bi
garden gardens it         | m Garten Gärten s         | m jardin              | bix
park parks it             | m Park Parks s            | m parc                | bigx
school schools it         | f Schule Schulen          | f école               | bign
station stations it       | m Bahnhof Bahnhöfe s      | f gare                | bign
church churches it        | f Kirche Kirchen          | f église              | bign
museum museums it         | n Museum Museen s         | m musée               | bign
library libraries it      | f Bibliothek Bibliotheken | f bibliothèque        | bign
hotel hotels it           | n Hotel Hotels s          | m hôtel               | bigny
restaurant restaurants it | n Restaurant Restaurants s | m restaurant         | bign
office offices it         | n Büro Büros s            | m bureau              | bi
market markets it         | m Markt Märkte es         | m marché              | bg
bakery bakeries it        | f Bäckerei Bäckereien     | f boulangerie         | bign
hospital hospitals it     | n Krankenhaus Krankenhäuser es | m hôpital hôpitaux | bign
village villages it       | n Dorf Dörfer es          | m village             | bixy
forest forests it         | m Wald Wälder es          | f forêt               | bixy
castle castles it         | n Schloss Schlösser es    | m château             | biny
tree trees it             | m Baum Bäume es           | m arbre               | nu
"""

# head | modifiers it may take | the French preposition between the two
COMPOUND_TABLE = """
table  | kitchen garden office   | de
chair  | kitchen garden office   | de
lamp   | kitchen garden office   | de
door   | kitchen garden office   | de
window | kitchen office          | de
key    | house car office hotel  | de
cup    | coffee tea              | à
glass  | wine water              | à
bottle | wine water milk         | de
"""

# The German first part of a compound, where it is not the singular.
LINKING = {"kitchen": "Küchen"}

# English, German, French (once if all agree) | pronoun | classes
NAME_TABLE = """
Anna                 | she | p
Maria                | she | p
Julia                | she | p
Emma                 | she | p
Peter                | he  | p
Paul                 | he  | p
David                | he  | p
Martin               | he  | p
Berlin               | it  | z
Paris                | it  | z
London London Londres | it | z
Rome Rom Rome        | it  | z
Vienna Wien Vienne   | it  | z
Geneva Genf Genève   | it  | z
"""

# English, comparative | German, stem before endings, comparative (as irregular as it is) |
# French masculine, feminine, masculine before a vowel | place beside the French noun | classes
ADJECTIVE_TABLE = """
old older                    | alt älter          | vieux vieille vieil       | before | parkthevbu
young younger                | jung jünger        | jeune jeune               | before | pa
big bigger                   | groß größer        | grand grande              | before | akcthvbu
tall taller                  | groß größer        | grand grande              | before | p
small smaller                | klein kleiner      | petit petite              | before | pafkcthvbu
new -                        | neu                | nouveau nouvelle nouvel   | before | rkthev
beautiful more_beautiful     | schön              | beau belle bel            | before | patkvbu
good -                       | gut                | bon bonne                 | before | jfmdr
red -                        | rot                | rouge rouge               | after  | kthcvoe
blue -                       | blau               | bleu bleue                | after  | kthcvoe
green -                      | grün               | vert verte                | after  | kthcvoe
yellow -                     | gelb               | jaune jaune               | after  | kthcvoe
white -                      | weiß               | blanc blanche             | after  | kthcvoea
black -                      | schwarz            | noir noire                | after  | kthcvoea
tired -                      | müde müd müder     | fatigué fatiguée          | after  | pa
happy happier                | glücklich          | heureux heureuse          | after  | p
sad sadder                   | traurig            | triste triste             | after  | p
friendly friendlier          | freundlich         | aimable aimable           | after  | p
rich richer                  | reich              | riche riche               | after  | p
poor poorer                  | arm ärmer          | pauvre pauvre             | after  | p
strong stronger              | stark stärker      | fort forte                | after  | pa
famous more_famous           | berühmt            | célèbre célèbre           | after  | pb
clever cleverer              | klug klüger        | intelligent intelligente  | after  | pa
sick -                       | krank              | malade malade             | after  | pa
expensive more_expensive     | teuer teur teurer  | cher chère                | after  | rkthevfm
heavy heavier                | schwer             | lourd lourde              | after  | kthc
dirty dirtier                | schmutzig          | sale sale                 | after  | kthcvob
clean cleaner                | sauber             | propre propre             | after  | khcvob
broken -                     | kaputt             | cassé cassée              | after  | hcoe
empty -                      | leer               | vide vide                 | after  | cb
hot -                        | heiß               | chaud chaude              | after  | d
cold -                       | kalt               | froid froide              | after  | d
fresh -                      | frisch             | frais fraîche             | after  | fm
interesting more_interesting | interessant        | intéressant intéressante  | after  | r
important more_important     | wichtig            | important importante      | after  | r
quiet quieter                | ruhig              | calme calme               | after  | b
"""

# key | English | German, case | French | classes of the complement
PREPOSITION_TABLE = """
in        | in          | in dat     | dans       | i
city      | in          | in dat     | à          | z
home      | in          | in dat     | dans       | y
front     | in_front_of | vor dat    | devant     | n
behind    | behind      | hinter dat | derrière   | n
next      | next_to     | neben dat  | à_côté_de  | n
under     | under       | unter dat  | sous       | u
on        | on          | auf dat    | sur        | h
put       | on          | auf acc    | sur        | h
onto      | onto        | auf acc    | sur        | h
into      | into        | in acc     | dans       | i
through   | through     | durch acc  | à_travers  | x
to        | to          | zu dat     | à          | g
from      | from        | von dat    | de         | g
to_city   | to          | nach dat   | à          | z
from_city | from        | aus dat    | de         | z
with      | with        | mit dat    | avec       | p
without   | without     | ohne acc   | sans       | p
for       | for         | für acc    | pour       | p
"""

# English | German | French | tenses
TIME_TABLE = """
today          | heute         | aujourd'hui             | past present future
now            | jetzt         | maintenant              | present
tomorrow       | morgen        | demain                  | future
yesterday      | gestern       | hier                    | past
every_day      | jeden_Tag     | tous_les_jours          | present
in_the_morning | am_Morgen     | le_matin                | present
in_the_evening | am_Abend      | le_soir                 | present
in_summer      | im_Sommer     | en_été                  | present
in_winter      | im_Winter     | en_hiver                | present
this_morning   | heute_Morgen  | ce_matin                | past
this_evening   | heute_Abend   | ce_soir                 | present future
last_week      | letzte_Woche  | la_semaine_dernière     | past
last_year      | letztes_Jahr  | l'_année_dernière       | past
next_week      | nächste_Woche | la_semaine_prochaine    | future
next_year      | nächstes_Jahr | l'_année_prochaine      | future
on_Monday      | am_Montag     | lundi                   | past future
on_Tuesday     | am_Dienstag   | mardi                   | past future
on_Wednesday   | am_Mittwoch   | mercredi                | past future
on_Thursday    | am_Donnerstag | jeudi                   | past future
on_Friday      | am_Freitag    | vendredi                | past future
on_Saturday    | am_Samstag    | samedi                  | past future
on_Sunday      | am_Sonntag    | dimanche                | past future
"""

# English plural | German dative plural | French gender, plural | the longest one counts
SPAN_TABLE = """
minutes | Minuten | f minutes  | 59
days    | Tagen   | m jours    | 30
weeks   | Wochen  | f semaines | 12
months  | Monaten | m mois     | 12
years   | Jahren  | m ans      | 99
"""


def _compounds(nouns: dict[str, Noun]) -> dict[str, tuple[Noun, ...]]:
    """For each head that takes modifiers, its compounds."""
    compounds = {}
    for (head,), modifiers, (preposition,) in words.rows(COMPOUND_TABLE):
        compounds[head] = tuple(
            words.compound(nouns[modifier], LINKING.get(modifier), nouns[head], preposition)
            for modifier in modifiers
        )
    return compounds


def _clock() -> tuple[Time, ...]:
    """Full and half hours; German "halb acht" counts towards the hour that is coming."""
    times = []
    for hour in range(1, 12):
        heures = f"à {french(hour, feminine=True)} heure" + ("s" if hour > 1 else "")
        always = (PAST, PRESENT, FUTURE)
        times += [
            Time(f"at {english(hour)} o'clock", f"um {german(hour)} Uhr", heures, always),
            Time(
                f"at half past {english(hour)}",
                f"um halb {german(hour + 1)}",
                f"{heures} et demie",
                always,
            ),
        ]
    return tuple(times)


def _spans() -> tuple[Time, ...]:
    """Three days ago, in three days."""
    times = []
    for (en,), (de,), (gender, fr), (longest,) in words.rows(SPAN_TABLE):
        for n in range(2, int(longest) + 1):
            count_en, count_de, count_fr = english(n), german(n), french(n, gender == "f")
            ago = f"{count_en} {en} ago", f"vor {count_de} {de}", f"il y a {count_fr} {fr}"
            hence = f"in {count_en} {en}", f"in {count_de} {de}", f"dans {count_fr} {fr}"
            times += [Time(*ago, (PAST,)), Time(*hence, (FUTURE,))]
    return tuple(times)


NOUNS: dict[str, Noun] = {row[0][0]: words.noun(row) for row in words.rows(NOUN_TABLE)}
COMPOUNDS = _compounds(NOUNS)
NAMES: dict[str, Name] = {row[0][0]: words.name(row) for row in words.rows(NAME_TABLE)}
ADJECTIVES: dict[str, Adjective] = {
    row[0][0]: words.adjective(row) for row in words.rows(ADJECTIVE_TABLE)
}
PREPOSITIONS: dict[str, Preposition] = {
    row[0][0]: words.preposition(row) for row in words.rows(PREPOSITION_TABLE)
}
TIMES = tuple(words.time(row) for row in words.rows(TIME_TABLE))
CLOCK = _clock()
SPANS = _spans()

NEVER = Phrase("never", "nie", "jamais")
FREQUENCIES = (
    Phrase("often", "oft", "souvent"),
    Phrase("always", "immer", "toujours"),
    Phrase("sometimes", "manchmal", "parfois"),
    NEVER,
)
MANNERS = (
    Phrase("slowly", "langsam", "lentement"),
    Phrase("quickly", "schnell", "rapidement"),
    Phrase("quietly", "leise", "doucement"),
)

AND = Phrase("and", "und", "et")
BUT = Phrase("but", "aber", "mais")
THAT = Phrase("that", "dass", "que")
WHETHER = Phrase("whether", "ob", "si")
BECAUSE = Phrase("because", "weil", "parce que")
EVEN_THOUGH = Phrase("even though", "obwohl", "même si")
IF = Phrase("if", "wenn", "si")
WHILE = Phrase("while", "während", "pendant que")
# German has "wenn" for repeated events and "als" for a single event in the past.
WHENEVER = Phrase("when", "wenn", "quand")
ONCE = Phrase("when", "als", "quand")
