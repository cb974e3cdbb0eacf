"""Words from which titles and descriptions are made."""

from __future__ import annotations

__all__ = ["ADJECTIVES", "GENRES", "HEROES", "NOUNS", "PLACES", "PLOTS"]

GENRES = (
    "Drama", "Comedy", "Thriller", "Action", "Romance", "Adventure", "Crime", "Sci-Fi", "Horror", "Children's",
    "Animation", "Mystery", "Musical", "Fantasy", "Documentary", "War", "Western", "Film-Noir",
)  # fmt: skip
PLOTS = {
    "Drama": ("a family secret", "a long illness", "an unpaid debt", "a father's last letter"),
    "Comedy": ("a switched suitcase", "a wedding gone wrong", "a very bad disguise", "a talking parrot"),
    "Thriller": ("a stolen file", "a voice on the line", "a locked room", "twelve hours to live"),
    "Action": ("a hijacked train", "a bomb under the bridge", "a chase across the roofs", "one last job"),
    "Romance": ("a summer by the sea", "an old love", "a letter never sent", "a dance at midnight"),
    "Adventure": ("a map with a missing corner", "a sunken ship", "a road over the mountains", "a lost expedition"),
    "Crime": ("a bank robbery", "a corrupt judge", "a war of two gangs", "a witness who vanished"),
    "Sci-Fi": ("a signal from deep space", "a machine that dreams", "a colony on Mars", "a day that repeats"),
    "Horror": ("a house that breathes", "a grave found open", "a mirror with no reflection", "a curse"),
    "Children's": ("a runaway puppy", "a school for wizards", "a tree house", "a birthday without a cake"),
    "Animation": ("a brave little snail", "a city of toys", "a dragon afraid of fire", "a clockwork bird"),
    "Mystery": ("a death at dinner", "a name in the ashes", "a vanished painting", "footprints in the snow"),
    "Musical": ("a band's first tour", "a theatre about to close", "a song in two halves", "opening night"),
    "Fantasy": ("a sword in a lake", "a kingdom under glass", "a bargain with a witch", "the last unicorn"),
    "Documentary": ("a year on the ice", "the men who built the dam", "a dying language", "a village school"),
    "War": ("a bridge to be held", "a letter from the front", "a retreat in winter", "a truce at Christmas"),
    "Western": ("a cattle drive", "a sheriff alone", "a silver mine", "a feud over water"),
    "Film-Noir": ("a widow with a gun", "a private eye's last case", "rain on neon", "a double life"),
}
ADJECTIVES = (
    "Silent", "Broken", "Golden", "Last", "Hidden", "Crimson", "Distant", "Burning", "Lonely", "Secret", "Frozen",
    "Restless", "Hollow", "Wild", "Midnight", "Paper", "Electric", "Forgotten", "Bitter", "Velvet", "Second", "Blind",
    "Endless", "Quiet", "Iron", "Scarlet", "Borrowed", "Perfect", "Wandering", "Tender", "Crooked", "Invisible",
    "Ancient", "Reckless", "Faithful", "Silver", "Stolen", "Laughing", "Northern", "Sleeping", "Savage", "Gentle",
    "Shattered", "Painted", "Thirteenth", "Innocent", "Cold", "Bright", "Dark", "Honest",
)  # fmt: skip
NOUNS = (
    "Harbour", "Garden", "Witness", "Promise", "River", "Stranger", "Kingdom", "Letter", "Season", "Mirror", "Empire",
    "Hour", "Station", "Horizon", "Orchard", "Affair", "Voyage", "Shadow", "Summer", "Bridge", "Game", "Soldier",
    "Daughter", "Bargain", "Machine", "Island", "Detective", "Song", "Room", "Highway", "Frontier", "Winter", "Thief",
    "Theatre", "Moon", "Doctor", "Circle", "Signal", "Honeymoon", "Forest", "Tower", "Storm", "Hunter", "Neighbour",
    "Crossing", "Wager", "Ghost", "Dancer", "City", "Heart",
)  # fmt: skip
PLACES = (
    "Lisbon", "Cairo", "Havana", "Oslo", "Kyoto", "Naples", "Dublin", "Tangier", "Prague", "Bombay", "Vienna", "Lima",
    "Boston", "Marseille", "Istanbul", "Warsaw", "Seoul", "Nairobi", "Trieste", "Glasgow", "Odessa", "Quito", "Tunis",
    "Bergen", "Porto", "Riga", "Hanoi", "Memphis", "Galway", "Kiruna", "Salem", "Valparaiso", "Bruges", "Izmir",
    "Tallinn", "Toledo", "Utrecht", "Zanzibar", "Cork", "Hamburg",
)  # fmt: skip
HEROES = (
    "a retired teacher", "two brothers", "a young nurse", "a stubborn clerk", "a travelling salesman", "three sisters",
    "a failed poet", "a night watchman", "an orphan", "a tired policeman", "a famous singer", "a lighthouse keeper",
    "a group of students", "a widowed baker", "a runaway bride", "an old sailor",
)  # fmt: skip
