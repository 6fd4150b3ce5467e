"""The verbs of the lexicon, with the cases they govern and the meaning classes they select.

A verb with two translations has two rows that differ in subject, object or place: people "essen",
but animals "fressen"; one "geht" to the market, but "fährt" to Rome.
"""

from __future__ import annotations

from data.grammar import words
from data.grammar.words import Verb

# Columns of every table:
# English, irregular past | German, third person, participle | French, present, participle (see
# words.py for what is left out) | German/French government, classes of subject>object |
# keys of the prepositions of place, flags
#
# A star on the last German or French form means that the perfect takes sein or être. A hyphen
# separates a separable prefix. The place "where" stands for any place to be in.
#
# Flags:   S a place is optional, not required    M takes adverbs of manner
#          D has a second, dative object          Z a state: present tense only, no modals
#          N no past tense, as English has the same form for it ("they put")
#          F one may do it for somebody
#          G generic: takes the French definite article where English has none (aimer le café)
VERB_TABLE = """
sleep slept | schlafen schläft geschlafen | dormir dor dorm dormi | pa | where S
work | arbeiten | travailler | p | where S M F
sing sang | singen gesungen | chanter | p | where S M F
dance | tanzen | danser | p | where S M
laugh | lachen | rire ri ri ri | p | where S
cry cried | weinen | pleurer | p | where S
play | spielen | jouer | p | where S
swim swam | schwimmen geschwommen* | nager | pa | M
wait | warten | attendre | p | where S
stay | bleiben geblieben* | rester* | pa | where
live | wohnen | habiter | p | home city Z
get_up got | auf-stehen gestanden* | se_lever | p | M
wake_up woke | auf-wachen* | se_réveiller | p | -
fall_asleep fell | ein-schlafen schläft geschlafen* | se_endormir endor endorm endormi | pa | -
come_back came | zurück-kommen gekommen* | revenir revien reven revienn revenu* | pa | -
arrive | an-kommen gekommen* | arriver* | pv | -
leave left | ab-fahren fährt gefahren* | partir par part parti* | pv | -
watch_television | fern-sehen sieht gesehen | regarder +la_télévision | p | where S
be_hungry | haben hat gehabt m:Hunger | avoir ai a avons ont eu +faim | pa | -
be_thirsty | haben hat gehabt m:Durst | avoir ai a avons ont eu +soif | pa | -
rain | regnen regnet geregnet | pleuvoir pleu pleuv plu | w | -
snow | schneien | neiger | w | -
go went | gehen gegangen* | aller vais va allons vont allé* | p | to
go went | fahren fährt gefahren* | aller vais va allons vont allé* | p | to_city
walk | gehen gegangen* | marcher | p | through M
come came | kommen gekommen* | venir vien ven vienn venu* | p | from from_city
run ran | laufen läuft gelaufen* | courir cour cour couru | pa | into through M
jump | springen gesprungen* | sauter | a | onto
climb | steigen gestiegen* | monter* | pa | onto M
buy bought | kaufen | acheter | acc p>fmdrktchev | F
sell sold | verkaufen verkauft | vendre | acc p>fmdrktchev | -
see saw | sehen sieht gesehen | voir voi voy voi vu | acc pa>patvbrk | where S
find found | finden gefunden | trouver | acc p>patrkc | where S
look_for | suchen | chercher | acc p>patrkc | where S F
visit | besuchen besucht | visiter | acc p>b | -
read read | lesen liest gelesen | lire li lis lu | acc p>r | where S N
write wrote | schreiben geschrieben | écrire écri écriv écrit | acc p>r | where S
open | auf-machen | ouvrir ouvre ouvre ouvrons ouvrent ouvert | acc p>o | -
close | zu-machen | fermer | acc p>o | -
turn+on | ein-schalten | allumer | acc p>e | -
turn+off | aus-schalten | éteindre étein éteign éteint | acc p>e | -
clean | putzen | nettoyer | acc p>ochv | F
wash | waschen wäscht gewaschen | laver | acc p>kvc | -
repair | reparieren repariert | réparer | acc p>evh | F
invite | ein-laden lädt geladen | inviter | acc p>p | -
call | an-rufen gerufen | appeler appelle appelle appelons appellent appelé | acc p>p | -
meet met | treffen trifft getroffen | rencontrer | acc p>p | where S
hear heard | hören | entendre | acc pa>pa | -
know knew | kennen gekannt | connaître connais connaît connaissons connaissent connu | acc p>pb | Z
like | mögen mag gemocht | aimer | acc p>parkfmdb | Z G
wear wore | tragen trägt getragen | porter | acc p>k | -
eat ate | essen isst gegessen | manger | acc p>fm | -
eat ate | fressen frisst gefressen | manger | acc a>fm | -
drink drank | trinken getrunken | boire boi buv boiv bu | acc p>d | where S
prepare | zu-bereiten bereitet | préparer | acc p>m | where S F
forget forgot | vergessen vergisst vergessen | oublier | acc p>trk | -
lose lost | verlieren verloren | perdre | acc p>tk | where S
put put | legen | poser | acc p>rk | put N
put put | stellen | poser | acc p>c | put N
help | helfen hilft geholfen | aider | dat p>p | -
thank | danken | remercier | dat p>p | -
follow | folgen* | suivre sui suiv suivi | dat pa>pa | -
congratulate | gratulieren gratuliert | féliciter | dat p>p | -
listen_to | zu-hören | écouter | dat p>p | -
answer | antworten | répondre | dat/à p>p | -
belong_to | gehören gehört | appartenir appartien apparten appartienn appartenu | dat/à tkvr>p | Z
wait_for | warten | attendre | auf+acc p>pv | where S
think_of thought | denken gedacht | penser | an+acc/à p>p | -
talk_about | sprechen spricht gesprochen | parler | über+acc/de p>prb | -
dream_of | träumen | rêver | von+dat/de p>pba | -
need | brauchen | avoir ai a avons ont eu +besoin | acc/de p>tkce | Z
be_afraid_of | haben hat gehabt f:Angst | avoir ai a avons ont eu +peur | vor+dat/de p>pa | -
give gave | geben gibt gegeben | donner | acc p>rktcf | D
show | zeigen | montrer | acc p>rktv | D
send sent | schicken | envoyer | acc p>rt | D
bring brought | bringen gebracht | apporter | acc p>rktcfd | D
lend lent | leihen geliehen | prêter | acc p>rkv | D
"""

# Verbs with a clause: "that" or "whether" and what follows.
CLAUSE_VERB_TABLE = """
say said | sagen | dire di dis dit | p | Z
know knew | wissen weiß gewusst | savoir sai sav su | p | Z
think thought | glauben | croire croi croy croi cru | p | Z
hope | hoffen | espérer | p | Z
ask | fragen | demander | p | Z
"""

# Verbs with an infinitive: the government names the French preposition before it.
INFINITIVE_VERB_TABLE = """
try | versuchen versucht | essayer | /de p | -
forget forgot | vergessen vergisst vergessen | oublier | /de p | -
begin began | an-fangen fängt gefangen | commencer | /à p | -
decide | beschließen beschlossen | décider | /de p | -
promise | versprechen verspricht versprochen | promettre promet promett promis | /de p | -
hope | hoffen | espérer | p | Z
"""


def _read(table: str) -> tuple[Verb, ...]:
    return tuple(words.verb(row) for row in words.rows(table))


VERBS = _read(VERB_TABLE)
INFINITIVE_VERBS = _read(INFINITIVE_VERB_TABLE)
SAY, KNOW, THINK, HOPE, ASK = _read(CLAUSE_VERB_TABLE)
(BE,) = _read("be | sein ist gewesen* | être suis est sommes sont été | parkthcevbofmd | -")
