"""Tweets generated from lists of words, so that the demo needs no tweets of real people.

The same mood and seed always give the same tweet.
"""

import random
from collections.abc import Sequence

from mvsent.pairs import Label

CONTRARY_WORDS = 0.1
"""Share of tweets that also contain a word of another mood."""

MOOD_WORDS: dict[Label, Sequence[str]] = {
    Label.POSITIVE: (
        "happy", "wonderful", "beautiful", "amazing", "grateful", "proud", "excited", "delighted",
        "fantastic", "lovely", "joyful", "brilliant", "cheerful", "awesome",
    ),
    Label.NEUTRAL: (
        "usual", "local", "weekly", "regular", "public", "ordinary", "annual", "official",
        "standard", "daily", "general", "current", "typical", "scheduled",
    ),
    Label.NEGATIVE: (
        "sad", "terrible", "awful", "angry", "miserable", "disappointed", "lonely", "heartbroken",
        "horrible", "tired", "dreadful", "ruined", "painful", "hopeless",
    ),
}  # fmt: skip

OPENINGS: dict[Label, Sequence[str]] = {
    Label.POSITIVE: (
        "so {word} about {topic}", "such {word} hours at {topic}", "we won! {word} and smiling after {topic}",
        "love love love {topic}, simply {word}", "never a better time than {topic}, feeling {word}",
        "can't stop smiling, {word} {topic}",
    ),
    Label.NEUTRAL: (
        "{topic} opens at nine, {word} hours", "the {word} timetable for {topic} is online",
        "photo of {topic}, {word} view", "map and parking for {topic}, {word} entrance",
        "notes from the {word} meeting about {topic}", "{topic} this afternoon, {word} route",
    ),
    Label.NEGATIVE: (
        "so {word} about {topic}", "such {word} hours at {topic}", "we lost. {word} and crying after {topic}",
        "hate hate hate {topic}, simply {word}", "never a worse time than {topic}, feeling {word}",
        "can't stop crying, {word} {topic}",
    ),
}  # fmt: skip

TOPICS = (
    "the concert", "the match", "the new library", "my sister's school play", "the morning train",
    "the farmers market", "our garden", "the office move", "the river walk", "the city museum",
    "dinner downtown", "the bridge", "the airport", "the marathon", "the exhibition", "the harbour",
)  # fmt: skip
TAGS = ("#monday", "#city", "#photo", "#weekend", "#news", "#team", "#travel", "#home")
EMOJI = {Label.POSITIVE: "😀❤🎉☀", Label.NEUTRAL: "📷🕘📍", Label.NEGATIVE: "😢💔😡☔"}


def write_tweet(mood: Label, seed: int) -> str:
    """Write an English tweet whose words express `mood`, with the tags, links, names and entities of tweets.

    >>> write_tweet(Label.NEGATIVE, seed=3) == write_tweet(Label.NEGATIVE, seed=3)
    True
    """
    rng = random.Random(f"tweet {mood} {seed}")
    opening = rng.choice(OPENINGS[mood])
    parts = [opening.format(word=rng.choice(MOOD_WORDS[mood]), topic=rng.choice(TOPICS))]
    if rng.random() < CONTRARY_WORDS:
        other = rng.choice([label for label in Label if label is not mood])
        parts.append(f"&amp; not {rng.choice(MOOD_WORDS[other])}")
    if rng.random() < 0.5:
        parts.append(rng.choice(MOOD_WORDS[mood]))
    if rng.random() < 0.25:
        parts.append(rng.choice(EMOJI[mood]))
    parts += rng.sample(TAGS, k=rng.randint(0, 2))
    if rng.random() < 0.3:
        parts.append(f"http://t.co/{rng.randrange(16**8):08x}")
    if rng.random() < 0.2:
        parts.insert(0, f"@reader{rng.randrange(90) + 10}")
    return " ".join(parts)
