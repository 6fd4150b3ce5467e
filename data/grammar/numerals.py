"""Write out the numbers from 1 to 99 in English, German and French."""

from __future__ import annotations

from data.grammar import words

# number | English | German | French; other numbers are composed of these.
NUMERAL_TABLE = """
1  | one       | ein      | un
2  | two       | zwei     | deux
3  | three     | drei     | trois
4  | four      | vier     | quatre
5  | five      | fünf     | cinq
6  | six       | sechs    | six
7  | seven     | sieben   | sept
8  | eight     | acht     | huit
9  | nine      | neun     | neuf
10 | ten       | zehn     | dix
11 | eleven    | elf      | onze
12 | twelve    | zwölf    | douze
13 | thirteen  | dreizehn | treize
14 | fourteen  | vierzehn | quatorze
15 | fifteen   | fünfzehn | quinze
16 | sixteen   | sechzehn | seize
17 | seventeen | siebzehn | dix-sept
18 | eighteen  | achtzehn | dix-huit
19 | nineteen  | neunzehn | dix-neuf
20 | twenty    | zwanzig  | vingt
30 | thirty    | dreißig  | trente
40 | forty     | vierzig  | quarante
50 | fifty     | fünfzig  | cinquante
60 | sixty     | sechzig  | soixante
70 | seventy   | siebzig  | soixante-dix
80 | eighty    | achtzig  | quatre-vingts
90 | ninety    | neunzig  | quatre-vingt-dix
"""

ENGLISH: dict[int, str] = {}
GERMAN: dict[int, str] = {}
FRENCH: dict[int, str] = {}
for (_number,), (_en,), (_de,), (_fr,) in words.rows(NUMERAL_TABLE):
    ENGLISH[int(_number)], GERMAN[int(_number)], FRENCH[int(_number)] = _en, _de, _fr


def english(number: int) -> str:
    """27 -> twenty-seven"""
    unit = number % 10
    return ENGLISH.get(number) or f"{ENGLISH[number - unit]}-{ENGLISH[unit]}"


def german(number: int) -> str:
    """27 -> siebenundzwanzig; 1 -> ein, as before Uhr"""
    unit = number % 10
    return GERMAN.get(number) or f"{GERMAN[unit]}und{GERMAN[number - unit]}"


def french(number: int, feminine: bool = False) -> str:
    """71 -> soixante et onze; 97 -> quatre-vingt-dix-sept; in the feminine 21 -> vingt et une"""
    # Seventy and ninety count on from sixty and eighty.
    base = number // 20 * 20 if number > 60 else number // 10 * 10
    rest = number - base
    if number in FRENCH:
        numeral = FRENCH[number]
    elif rest in (1, 11) and base < 80:
        numeral = f"{FRENCH[base]} et {FRENCH[rest]}"
    else:
        numeral = f"{FRENCH[base].removesuffix('s')}-{FRENCH[rest]}"
    return numeral + "e" if feminine and numeral.endswith("un") else numeral
