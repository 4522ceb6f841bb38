"""Names of what runs of words measure, as cards list them. Imports no torch."""

from recipes.tokenization.words.config import PERTURBATIONS

BITS, CHARACTER_BITS, ACCURACY = "bits_per_byte", "bits_per_character", "word_accuracy"
UNIT_ACCURACY, RARE_BITS, RARE_ACCURACY = "unit_accuracy", "rare/bits_per_byte", "rare/word_accuracy"
GAIN, RISE, PERTURBED, PERTURBED_ACCURACY = "context_gain", "rise", "perturbed", "perturbed_accuracy"
MATCHED, ADAPTED, KEPT = "matched", "adapted", "kept"
# Name -> title, and whether more is better.
OF_TEXT = {
    BITS: ("bits per byte of held-out text, ends of words included", False),
    CHARACTER_BITS: ("bits per character, ends of words included", False),
    ACCURACY: ("words whose units and end are all likeliest", True),
    UNIT_ACCURACY: ("units that are likeliest", True),
    RARE_BITS: ("bits per byte of words that are rare in the training text", False),
    RARE_ACCURACY: ("rare words whose units and end are all likeliest", True),
}
OF_CONTEXT = {
    GAIN: ("bits per byte more behind the context of another text", True),
    RISE: ("bits per byte more behind a perturbed context, mean of all kinds", False),
    **{f"{RISE}/{kind}": (f"bits per byte more behind a context: {kind}", False) for kind in PERTURBATIONS},
    **{f"{PERTURBED}/{kind}": (f"bits per byte more of text: {kind}, behind such context", False)
       for kind in PERTURBATIONS},
    **{f"{PERTURBED_ACCURACY}/{kind}": (f"words that are likeliest in text: {kind}", True) for kind in PERTURBATIONS},
}  # fmt: skip
OF_ALL = (*OF_TEXT, *OF_CONTEXT)
METRICS = (*OF_ALL, f"{MATCHED}/*", f"{ADAPTED}/*", f"{KEPT}/*", "cost/*")
WATCHED = (*OF_ALL, f"{ADAPTED}/*", f"{KEPT}/*")
