"""Small backbones, rows and models for the tests of the reward model."""

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.models.pal import PALRewardModel

WORDS = "tea milk rain sun cat dog red blue old new yes no big small hot cold".split()
HIDDEN = 16
SMALL = {"preference_dim": 6, "inner_size": 12}


def make_tokenizer(*, encoder: bool = False, padding_side: str = "right") -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if encoder:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", bos_token="<s>", padding_side=padding_side
    )


def make_transformer(kind: str = "llama", *, seed: int = 0) -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    """An untrained transformer of two layers without dropout, weights large enough to matter, and its tokenizer."""
    shape = {
        "vocab_size": len(WORDS) + 5, "hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "bert":
            off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
            model = BertModel(BertConfig(**shape, **off), add_pooling_layer=False)
        else:
            model = LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=4, eos_token_id=3))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval(), make_tokenizer(encoder=kind == "bert")


def make_people(n: int) -> AnnotatorIndex:
    return AnnotatorIndex(f"p{i}" for i in range(n))


def vector_model(*, n_annotators: int = 5, n_prototypes: int = 3, seed: int = 0, **options: object) -> PALRewardModel:
    """A model over vectors, people drawn apart, with a standardisation that is not the identity."""
    torch.manual_seed(seed)
    people = options.pop("annotators", None) or make_people(n_annotators)
    model = PALRewardModel.from_embeddings(
        hidden_size=HIDDEN, annotators=people, n_prototypes=n_prototypes, **(SMALL | options)
    )
    return spread_out(model).eval()


def text_model(kind: str = "llama", *, n_annotators: int = 5, seed: int = 0, **options: object) -> PALRewardModel:
    """The same over texts."""
    backbone, tokenizer = make_transformer(kind)
    torch.manual_seed(seed)
    people = options.pop("annotators", None) or make_people(n_annotators)
    options = {"n_prototypes": 3} | SMALL | options
    model = PALRewardModel.from_backbone(backbone, tokenizer=tokenizer, annotators=people, **options)
    return spread_out(model).eval()


def spread_out(model: PALRewardModel) -> PALRewardModel:
    with torch.no_grad():
        torch.nn.init.normal_(model.people.logits.weight)
        states = torch.randn(50, HIDDEN) * 2 + 1
        model.head.standardize.fit(states)
        if hasattr(model.head, "standardize_prompt"):
            model.head.standardize_prompt.fit(states)
    return model


def vectors(n: int, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 2.0, size=(n, HIDDEN)).astype(np.float32)


def text_rows(n: int, *, n_annotators: int = 5, n_items: int = 2, seed: int = 2) -> list[dict]:
    """Rows of people p0, p1, … in turn, with texts of unequal length."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        texts: set[str] = set()
        while len(texts) < n_items:
            texts.add(" ".join(rng.choice(WORDS, size=rng.integers(1, 6))))
        row = {"annotator_id": f"p{i % n_annotators}", "prompt": " ".join(rng.choice(WORDS, size=rng.integers(1, 6)))}
        held = sorted(texts)
        row |= {"chosen": held[0], "rejected": held[1]} if n_items == 2 else {"completions": held}
        rows.append(row)
    return rows


def vector_rows(n: int, *, n_vectors: int, n_annotators: int = 5, n_prompts: int = 0, seed: int = 3) -> Preferences:
    """Pairs of vectors; prompts among the first `n_prompts` of them."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(n_vectors, size=n)
    rejected = (chosen + rng.integers(1, n_vectors, size=n)) % n_vectors
    prompts = rng.integers(n_prompts, size=n) if n_prompts else None
    return Preferences.from_arrays([f"p{i % n_annotators}" for i in range(n)], chosen, rejected, prompts)


def state_bits(module: torch.nn.Module) -> dict[str, bytes]:
    """Every tensor, byte for byte."""
    return {
        name: t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, t in module.state_dict().items()
    }
