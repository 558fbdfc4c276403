"""The language of short captions. All are written for this file; names of places are meant to mislead."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvsent.curate import language
from mvsent.curate.language import LANGUAGES, detect, is_english

ENGLISH = """\
misty woods at dawn
my beautiful garden this morning
Cute puppy sleeping on the couch
Stormy sea, Cornwall, January 2012
Sunset over Lake Como from our hotel balcony
HDR of the empty train station, 3 exposures
Taken with my Canon 5D and a 50mm lens
Explore! Thank you all for the comments
View of the Alps from Zermatt, Switzerland
Dead flowers on an old grave in Paris
Nikon D90, f/8, 1/250s, ISO 200, handheld in the snow
Broken window in an abandoned factory, Detroit
crying baby at his christening in Sao Paulo
Ruined castle in Bavaria, Germany, during our trip in May
lonely tree, Tuscany
Rainy day in Tokyo, people with umbrellas crossing at Shibuya
Heavy clouds above Reykjavik church Hallgrimskirkja
Lisbon tram number 28 climbing the steep hill
Zakopane, Tatra mountains, Poland: first snow on the peaks
SUNSET OVER THE GOLDEN GATE BRIDGE FROM BAKER BEACH""".splitlines()

OTHERS = """\
de Nebel im Wald bei Sonnenaufgang
de New York bei Nacht, vom Empire State Building aus
de Alte Brücke in Heidelberg bei Nacht
fr Un petit chat qui dort sur le canapé
fr Une journée triste à Londres, sous les nuages
es Atardecer en la playa de Cádiz con mis amigos
es Foto tomada con mi Nikon D90 en Buenos Aires
it Il mio cane che dorme sul divano
it Il Central Park di New York in autunno
pt Pôr do sol na praia de Ipanema
nl De oude molen in de mist vanmorgen
sv Min katt sover på soffan hela dagen
fi Auringonlasku järven yllä mökillä
pl Zachód słońca nad jeziorem na Mazurach
tr Sahilde güzel bir gün batımı
ru Закат над морем в Крыму
ja 夕焼けがとても綺麗な海
zh 早晨的公园里有很多花
ko 아름다운 바다의 일몰
ar غروب الشمس على البحر""".splitlines()


@pytest.mark.parametrize("caption", ENGLISH)
def test_english_captions_with_foreign_names_are_english(caption):
    assert is_english(caption)


@pytest.mark.parametrize("line", OTHERS)
def test_captions_in_other_languages_are_theirs_even_with_english_names(line):
    language, caption = line.split(" ", 1)
    assert detect(caption)[0] == language
    assert not is_english(caption)


@pytest.mark.parametrize(
    "text", ["", "   ", "😀 🌅", "1920 × 1080", "http://example.org/the-lonely-house", "@the_happy_one"]
)
def test_a_text_without_a_word_has_no_language(text):
    assert detect(text) == ("und", 0.0)


def test_links_and_names_do_not_make_a_caption_english():
    caption = "Mein Hund schläft heute"
    assert detect(
        f"{caption} http://example.org/my/happy/dog/sleeping/on/the/couch @thehappyphotographer"
    ) == detect(caption)


@given(st.text(max_size=60))
def test_any_text_has_a_known_language_and_a_probability(text):
    language, confidence = detect(text)
    assert language in (*LANGUAGES, "und")
    assert 0 <= confidence <= 1


@pytest.mark.slow
def test_only_the_first_2000_characters_are_looked_at(monkeypatch):
    looked_at = []
    identifier = SimpleNamespace(classify=lambda words: looked_at.append(words) or ("en", 1.0))
    monkeypatch.setattr(language, "_identifier", lambda: identifier)
    assert detect("a happy dog " * 100_000) == ("en", 1.0)
    assert [len(words) for words in looked_at] == [2000]
