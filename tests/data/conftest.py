import json
from pathlib import Path

import pytest

from dpscale.data.assets import resolve
from dpscale.data.tokenizer import Tokenizer

WORDS = "the whale and the sea were calm but a man went down to see it".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def tokenizer_path() -> Path:
    return resolve("embedded:moby-1024")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return Tokenizer(tokenizer_path)


@pytest.fixture
def texts() -> list[str]:
    """Sixty documents of different lengths, one of them three times."""
    documents = [
        " ".join(WORDS[(i * j + i) % len(WORDS)] for j in range(5 + i % 23)) + f" {i}."
        for i in range(60)
    ]
    return [*documents, documents[7], documents[7]]


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)))
    return path
