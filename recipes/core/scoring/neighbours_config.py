"""By which vectors neighbours of texts are looked for. Imports no torch."""

from dataclasses import dataclass

from recipes.core.config.settings import MODEL_CONTENT, setting

TFIDF, MINILM = "tfidf", "minilm"


@dataclass(frozen=True, kw_only=True)
class KeysConfig:
    """Vectors of texts whose cosines say which are near."""

    kind: str = setting(
        TFIDF,
        help="words (characters, in scripts without spaces) and pairs of them by TF-IDF, hashed; or vectors of a "
        "sentence encoder, 100 to 200 texts a second on two cores",
        choices=(TFIDF, MINILM),
    )
    buckets: int = setting(512, help="width of hashed vectors", unit="buckets", ge=1)
    path: str | None = setting(
        None, help="folder or hub name of a BERT-type encoder; null: all-MiniLM-L6-v2, an asset", content=MODEL_CONTENT
    )
