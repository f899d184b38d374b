"""Tokenizers from plain vocabulary files, for checkpoints that have no tokenizer.json."""

from tokenizers import (
    AddedToken,
    BertWordPieceTokenizer,
    ByteLevelBPETokenizer,
    Tokenizer,
)
from tokenizers.processors import RobertaProcessing


def wordpiece(vocabulary: str, *, lowercase: bool) -> Tokenizer:
    """BERT's tokenizer from the lines of vocab.txt."""
    tokens = vocabulary.replace("\r\n", "\n").removesuffix("\n").split("\n")
    made = BertWordPieceTokenizer(
        {token: i for i, token in enumerate(tokens)}, lowercase=lowercase
    )
    return Tokenizer.from_str(made.to_str())


def byte_level(vocabulary: dict[str, int], merges: str) -> Tokenizer:
    """RoBERTa's tokenizer; with a vocabulary that has no <s>, </s> (GPT-2's) nothing is put around a text."""
    pairs = [
        (line.split(" ")[0], line.split(" ")[1])
        for line in merges.splitlines()[1:]
        if line
    ]
    made = ByteLevelBPETokenizer(vocabulary, pairs)
    special = [
        token
        for token in ("<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>")
        if token in vocabulary
    ]
    made.add_special_tokens(
        [
            *special,
            *(AddedToken(t, lstrip=True) for t in ("<mask>",) if t in vocabulary),
        ]
    )
    made_tokenizer = Tokenizer.from_str(made.to_str())
    if {"<s>", "</s>"} <= vocabulary.keys():
        made_tokenizer.post_processor = RobertaProcessing(
            ("</s>", vocabulary["</s>"]),
            ("<s>", vocabulary["<s>"]),
            add_prefix_space=False,
        )
    return made_tokenizer
