"""Public data sets of preferences that have no columns chosen and rejected, as rows that do."""

import json
from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import chain
from typing import Any

from recipes.core.data.files.records import BadRow

LONELY = "no other row answers the same prompt with the other label"
ASKED = ("prompt", "tools", "chat_template_kwargs")  # what two rows have to share to be a pair


def with_pairs(values: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Rows with prompt, chosen and rejected from those of a layout that the first row shows; others as they are.

    Layouts: `trl`'s unpaired preferences (prompt, completion, label), whose rows are paired by prompt in their order;
    comparisons of summaries as OpenAI published them (info, summaries, choice).

    Args:
        values: (id, row) of each row.

    Returns:
        (id, row), the row a `BadRow` where it cannot be used.
    """
    seen: list[tuple[str, Any]] = []
    for id, value in values:
        seen.append((id, value))
        if isinstance(value, dict):
            break
    keys = set(seen[-1][1]) if seen and isinstance(seen[-1][1], dict) else set()
    every = chain(seen, values)
    if {"prompt", "completion", "label"} <= keys and not {"chosen", "rejected"} <= keys:
        return _pair_up(every)
    if {"info", "summaries", "choice"} <= keys:
        return ((id, _comparison(value)) for id, value in every)
    return every


def _pair_up(values: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    waiting: dict[tuple[str, bool], deque[tuple[str, Any]]] = defaultdict(deque)
    for id, value in values:
        label = value.get("label") if isinstance(value, dict) else None
        if not isinstance(value, dict) or label not in (True, False):
            yield id, BadRow("label is neither true nor false") if isinstance(value, dict) else value
            continue
        completion, shared = value.get("completion"), {key: value.get(key) for key in ASKED}
        name = json.dumps(shared, sort_keys=True, default=str)
        if others := waiting[name, not label]:
            first, other = others.popleft()
            chosen, rejected = (completion, other) if label else (other, completion)
            yield f"{first} and {id}", shared | {"chosen": chosen, "rejected": rejected}
        else:
            waiting[name, bool(label)].append((id, completion))
    for rows in waiting.values():
        for id, _ in rows:
            yield id, BadRow(LONELY)


def _comparison(value: Any) -> Any:
    """A comparison as its published models saw it: the post, then "TL;DR:"; news articles have no subreddit."""
    if not isinstance(value, dict):
        return value
    try:
        info, choice = value["info"], int(value["choice"])
        texts = [summary["text"] for summary in value["summaries"]]
        chosen, rejected = texts[choice], texts[1 - choice]
        post = info.get("post") or info["article"]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return BadRow("is no comparison of two summaries")
    if len(texts) != 2 or choice not in (0, 1):
        return BadRow("is no comparison of two summaries")
    lines = [("SUBREDDIT: r/", info.get("subreddit")), ("TITLE: ", info.get("title")), ("POST: ", post)]
    prompt = "\n\n".join(label + text for label, text in lines if text)
    return {"prompt": f"{prompt}\n\nTL;DR:", "chosen": chosen, "rejected": rejected}
