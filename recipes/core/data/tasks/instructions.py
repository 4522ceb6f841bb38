"""The instructions that ship, of six kinds, which take turns: a few of them are a mixture already. Imports no torch."""

INSTRUCTIONS: tuple[tuple[str, str], ...] = (
    (
        "maths",
        "A bakery sells bread rolls in bags of six and croissants in boxes of four. On Monday it sold 14 bags and 9 "
        "boxes. How many single pieces were sold? Show each step of the calculation.",
    ),
    (
        "question",
        "Why does the sky look blue during the day but red at sunset? Explain it to a curious twelve-year-old in one "
        "short paragraph.",
    ),
    (
        "writing",
        "Write the opening of a short story about a lighthouse keeper who finds a letter in a bottle. Keep the tone "
        "calm and a little mysterious.",
    ),
    (
        "code",
        "Write a Python function `count_vowels(text)` that returns how often each vowel occurs in a text, as a "
        "dictionary. Add a docstring and an example.",
    ),
    (
        "role",
        "You are the guide of a small railway museum. Greet a group of visitors and tell them what they will see in "
        "the first hall.",
    ),
    (
        "rewriting",
        "Correct the spelling and change nothing else: 'The comittee has decidet that the new libary will be openned "
        "in Septembre, becaus the old bilding is to smal for all the vistors who come on wekends.'",
    ),
    (
        "maths",
        "A train leaves at 9:20 and travels at 80 kilometres per hour. Another leaves the same station at 10:05 and "
        "travels at 110 kilometres per hour on the same line. When does the second one catch up?",
    ),
    (
        "question",
        "What is the difference between weather and climate? Give two examples of each.",
    ),
    (
        "writing",
        "Write a polite e-mail to a landlord. The heating has not worked for three days, and you would like it to be "
        "repaired this week.",
    ),
    (
        "code",
        "Explain what the following does, then write it as a list comprehension:\n\nresult = []\nfor number in "
        "range(20):\n    if number % 3 == 0:\n        result.append(number * number)",
    ),
    (
        "role",
        "You are a patient chess teacher. A beginner asks why it is good to castle early. Answer in a friendly way.",
    ),
    (
        "rewriting",
        "Put this list into alphabetical order, one name a line: Norway, Portugal, Austria, Iceland, Belgium, Spain, "
        "Denmark, Ireland, Greece, Finland, Croatia, Hungary.",
    ),
    (
        "maths",
        "The sides of a rectangular garden are 12 and 7 metres long. A path of one metre runs around it on the "
        "outside. How large is the area of the path?",
    ),
    (
        "question",
        "Name three inventions of the nineteenth century and say in one sentence for each how it changed daily life.",
    ),
    (
        "writing",
        "Describe a market square early in the morning, before the first customers arrive. Use all five senses.",
    ),
    (
        "code",
        "Write a SQL query that lists the names of all customers who ordered more than three times in 2023, with the "
        "number of their orders, from a table customers(id, name) and a table orders(id, customer_id, date).",
    ),
    (
        "role",
        "You are a doctor's receptionist. A caller wants an appointment this week, but there is none before Thursday "
        "next week. Write what you say.",
    ),
    (
        "rewriting",
        "Turn this sentence into the passive voice and repeat it once in the original: 'The gardener planted forty "
        "young trees along the southern wall of the park before the winter came.'",
    ),
)
