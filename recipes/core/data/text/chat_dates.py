"""The date that chat templates write: the same one on every day, so that a conversation keeps its token ids."""

from datetime import date

CHAT_DATE = "2024-07-26"  # what Llama's templates write where they cannot ask for today's
CLOCK = "strftime_now"  # what templates call, as `transformers` names it
DIRECTIVES = "aAbBcdDeFGHIjmMpSTuUVwWxXyY"


def is_day(text: str) -> bool:
    """Whether a text is a day, as in "2024-07-26"."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def with_fixed_date(template: str, day: str = CHAT_DATE) -> str:
    """A chat template for which it is always the same day; one that never asks for the date stays as it is.

    `transformers` gives templates a function that writes today's date, and lets callers hand over plain values only:
    a macro of the same name takes the function's place.

    Args:
        template: Of Jinja.
        day: As in "2024-07-26".
    """
    if CLOCK not in template:
        return template
    codes = [f"%{flag}{letter}" for letter in DIRECTIVES for flag in ("", "-")]
    values = "".join(f"|replace({code!r}, {date.fromisoformat(day).strftime(code)!r})" for code in codes)
    # The renderer swallows the line end behind a block: the template begins on a line of its own, as it did.
    return f"{{% macro {CLOCK}(format) %}}{{{{ format{values} }}}}{{% endmacro %}}\n{template}"
