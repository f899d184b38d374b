"""Tokenizers from plain vocabulary files, for checkpoints without a tokenizer.json."""

from tokenizers import (
    AddedToken,
    BertWordPieceTokenizer,
    ByteLevelBPETokenizer,
    Tokenizer,
)
from tokenizers.processors import RobertaProcessing

# The special tokens of RoBERTa and GPT-2. <mask> takes the space before it as well.
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>")
MASK_TOKEN = "<mask>"


def wordpiece(vocabulary: str, *, lowercase: bool) -> Tokenizer:
    """Return BERT's tokenizer.

    `vocabulary` is the text of vocab.txt, one token a line.
    """
    # Not splitlines(), which also splits at tokens that are Unicode's line separators.
    lines = vocabulary.replace("\r\n", "\n").removesuffix("\n").split("\n")
    ids = {token: index for index, token in enumerate(lines)}
    tokenizer = BertWordPieceTokenizer(ids, lowercase=lowercase)
    return Tokenizer.from_str(tokenizer.to_str())


def byte_level(vocabulary: dict[str, int], merges: str) -> Tokenizer:
    """Return RoBERTa's or GPT-2's tokenizer, byte-level BPE.

    RoBERTa's puts <s> and </s> around a text. A vocabulary without these two tokens is
    GPT-2's, which puts nothing around it.

    Args:
        vocabulary: token -> id, the content of vocab.json.
        merges: the text of merges.txt: a version, then two tokens a line.
    """
    bpe = ByteLevelBPETokenizer(vocabulary, _parse_merges(merges))
    special: list[str | AddedToken] = []
    for token in SPECIAL_TOKENS:
        if token in vocabulary:
            special.append(token)
    if MASK_TOKEN in vocabulary:
        special.append(AddedToken(MASK_TOKEN, lstrip=True))
    bpe.add_special_tokens(special)

    # The library's BPE class is a wrapper without a post-processor.
    tokenizer = Tokenizer.from_str(bpe.to_str())
    if "<s>" in vocabulary and "</s>" in vocabulary:
        tokenizer.post_processor = RobertaProcessing(
            ("</s>", vocabulary["</s>"]),
            ("<s>", vocabulary["<s>"]),
            add_prefix_space=False,
        )
    return tokenizer


def _parse_merges(text: str) -> list[tuple[str, str]]:
    merges = []
    for line in text.splitlines()[1:]:  # the first line is the version
        if line:
            first, second = line.split(" ")[:2]
            merges.append((first, second))
    return merges
