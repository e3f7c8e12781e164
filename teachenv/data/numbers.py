"""Integers in words: texts that anybody can make, and languages that put tens and ones in different orders."""

from __future__ import annotations

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_EINER = (
    *("null", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"),
    *("drei zehn", "vier zehn", "fünf zehn", "sech zehn", "sieb zehn", "acht zehn", "neun zehn"),
)
_ZEHNER = ("", "", "zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig")


def number_words(number: int) -> str:
    """An integer from 0 to 999 in English: 123 is "one hundred twenty three".

    Raises:
        ValueError: out of range.
    """
    words, rest = _hundreds(number, _ONES, "hundred")
    if rest >= 20:
        words.append(_TENS[rest // 10])
        rest %= 10
    if rest or not words:
        words.append(_ONES[rest])
    return " ".join(words)


def german_number_words(number: int) -> str:
    """An integer from 0 to 999 in German, in separate words: 123 is "ein hundert drei und zwanzig".

    Raises:
        ValueError: out of range.
    """
    words, rest = _hundreds(number, _EINER, "hundert")
    tens, ones = divmod(rest, 10)
    if tens >= 2:
        words += [_EINER[ones], "und"] if ones else []
        words.append(_ZEHNER[tens])
    elif rest or not words:
        # Alone, one is "eins".
        words.append("eins" if rest == 1 else _EINER[rest])
    return " ".join(words)


def _hundreds(number: int, ones: tuple[str, ...], hundred: str) -> tuple[list[str], int]:
    if not 0 <= number < 1000:
        raise ValueError(f"found {number}, expected an integer from 0 to 999")
    hundreds, rest = divmod(number, 100)
    return ([ones[hundreds], hundred] if hundreds else []), rest
