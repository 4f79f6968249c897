"""Wordings of the word problems, by the arithmetic behind them. Those for training and for test share no template.

Slots: {n} a name, {m} another name, {s} {S} she or he, {p} her or his, {x} things in the plural, {a} {b} {c} numbers.
"""

TRAIN = {
    "a + b": [
        "{n} has {a} {x}. {m} gives {n} {b} more. How many {x} does {n} have now?",
        "There are {a} {x} in a box and {b} {x} on the table. How many {x} are there in all?",
        "{n} found {a} {x} in the morning and {b} in the afternoon. How many did {s} find in total?",
        "{n} has {a} {x} and {m} has {b}. How many {x} do they have together?",
        "One bag holds {a} {x} and another bag holds {b}. What is the total?",
        "{n} won {a} {x} yesterday and {b} today. How many {x} is that altogether?",
    ],
    "a - b": [
        "{n} had {a} {x} and lost {b} of them. How many {x} are left?",
        "A shop has {a} {x}. It sells {b}. How many {x} remain?",
        "{n} has {a} {x}. {S} gives {b} to {m}. How many {x} does {n} still have?",
        "There were {a} {x} in the basket. {n} took out {b}. How many are in the basket now?",
        "{n} wants {a} {x} and has {b}. How many more {x} does {s} need?",
        "Of {p} {a} {x}, {n} dropped {b}. How many does {s} still hold?",
    ],
    "a * b": [
        "{n} has {a} bags with {b} {x} in each. How many {x} does {s} have?",
        "Each of {a} shelves holds {b} {x}. How many {x} are on the shelves?",
        "{n} buys {a} boxes of {x}. Every box has {b}. How many {x} is that?",
        "{n} collects {b} {x} a day for {a} days. How many {x} does {s} collect?",
        "A truck brings {b} {x} on every trip. How many {x} does it bring on {a} trips?",
        "{a} friends have {b} {x} each. How many {x} do they have in total?",
    ],
    "a + b + c": [
        "{n} has {a} {x}, {m} has {b} and their friend has {c}. How many {x} do all three have?",
        "{n} bought {a} {x} on Monday, {b} on Tuesday and {c} on Friday. How many did {s} buy?",
        "A jar holds {a} {x}. {n} adds {b}, then {m} adds {c}. How many {x} are in the jar?",
        "There are {a} big, {b} small and {c} tiny {x} on the shelf. How many {x} are there?",
    ],
    "a + b - c": [
        "{n} has {a} {x}. {S} buys {b} more and gives {c} to {m}. How many {x} does {n} have?",
        "There are {a} {x} on a plate. {n} puts {b} more there, then {m} takes {c}. How many are on the plate?",
        "{n} picked {a} {x}, then another {b}. {c} of them were bad. How many good {x} does {s} have?",
        "{n} had {a} {x}, won {b} more and lost {c}. How many {x} does {s} have now?",
        "A box of {a} {x} gets {b} new ones. Then {c} break. How many whole {x} are in the box?",
    ],
    "a - b + c": [
        "{n} had {a} {x}. {S} lost {b} and later found {c}. How many {x} does {s} have now?",
        "A store had {a} {x}. It sold {b} and then got {c} new ones. How many {x} does it have?",
        "{n} gave {b} of {p} {a} {x} to {m}. Then {s} bought {c}. How many {x} does {n} have?",
        "There were {a} {x} in a heap. {n} took {b} away and {m} put {c} back. How many are in the heap now?",
    ],
    "a * b + c": [
        "{n} has {a} bags of {b} {x} and {c} loose ones. How many {x} does {s} have?",
        "There are {a} boxes with {b} {x} each and {c} more on the floor. How many {x} are there?",
        "{n} reads {b} pages a day for {a} days and {c} pages on Sunday. How many pages does {s} read?",
        "{a} girls give {n} {b} {x} each, and a boy gives {c}. How many {x} does {n} get?",
    ],
    "a * b - c": [
        "{n} buys {a} packs of {b} {x} and gives {c} to {m}. How many {x} are left?",
        "A farmer fills {a} crates with {b} {x} each and sells {c} {x}. How many does he keep?",
        "{n} made {a} rows of {b} {x}. {c} fell over. How many are still standing?",
        "There were {a} plates with {b} {x} each. {n} took {c} of them. How many {x} are on the plates now?",
    ],
}

TEST = {
    "a + b": [
        "After counting {a} {x}, {n} discovers {b} others under the bed. What is the total number of {x}?",
        "One drawer contains {a} {x}, the other contains {b}. Find the number of {x} in both drawers.",
    ],
    "a - b": [
        "Out of {a} {x} that {n} owned, {b} broke. What number of {x} is unbroken?",
        "{n} needs {a} {x} but only {b} have arrived. How many {x} are missing?",
    ],
    "a * b": [
        "If one carton carries {b} {x}, how many {x} are carried by {a} cartons?",
        "{a} children bring {b} {x} each to school. What is the total number of {x}?",
    ],
    "a + b + c": [
        "A garden has {a} red, {b} yellow and {c} green {x}. What is the number of {x} in the garden?",
    ],
    "a + b - c": [
        "Starting with {a} {x}, {n} wins {b} in a game but drops {c} on the way home. With how many {x} does {s} end?",
    ],
    "a - b + c": [
        "From a pile of {a} {x}, {n} removes {b}, and afterwards {m} returns {c}. What is the size of the pile?",
    ],
    "a * b + c": [
        "Each of {a} friends sends {n} {b} {x}, and {p} mother sends {c}. How many {x} arrive?",
    ],
    "a * b - c": [
        "{a} trays carried {b} {x} apiece until {n} ate {c}. What number of {x} was not eaten?",
    ],
}

NAMES = {  # with the pronouns
    "train": [(n, "she", "her") for n in "Ann Mia Sara Lucy Emma Nina Rosa Julia".split()]
    + [(n, "he", "his") for n in "Ben Tom Max Leo Paul Omar Jack Noah".split()],
    "test": [(n, "she", "her") for n in "Clara Ivy Zoe Hannah".split()]
    + [(n, "he", "his") for n in "Felix Oscar Hugo Simon".split()],
}
THINGS = (
    "apples books pencils marbles stamps cards shells coins balls cookies oranges stickers buttons "
    "flowers candles toys eggs cups photos stones"
).split()
