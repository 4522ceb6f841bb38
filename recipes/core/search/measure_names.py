"""Names of measures, checked where configs are; `ir_measures` imports no torch."""

from collections.abc import Sequence


def wrong_measures(names: Sequence[str]) -> list[str]:
    """What is wrong with names of measures, one sentence each; empty if nothing is.

    Args:
        names: As `ir_measures` writes them, such as nDCG@10, RR@10, R@100, AP.
    """
    import ir_measures

    if not names:
        return ["names no measure; type [RR@10], or others of ir_measures"]
    problems = [] if len(set(names)) == len(names) else ["names a measure twice"]
    for name in names:
        try:
            measure = ir_measures.parse_measure(name)
            if str(measure) != name or measure.params.get("cutoff", 1) < 1 or set(measure.params) - {"cutoff"}:
                raise ValueError(f"a cutoff of at least 1 is meant, as in {measure.NAME}@10, and nothing else")
            if not any(provider.supports(measure) for provider in (ir_measures.pytrec_eval, ir_measures.msmarco)):
                raise ValueError("it needs a package beside ir_measures")
        except (ValueError, NameError, TypeError, SyntaxError, AssertionError) as error:
            problems.append(f"there is no measure {name!r} ({error}); nDCG@10, RR@10, R@100 and AP are some")
    return problems
