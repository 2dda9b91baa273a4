"""Backbone: pooling that padding cannot disturb, prompt states, truncation, keys, and folders that are not models."""

import hashlib
import json
import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5Model,
)

from palign.models.backbones import FINGERPRINT_ELEMENTS, Backbone, StateKind, enter_tensor, tensor_bytes
from palign.models.model_folders import read_pooling_hints
from palign.models.states.pooling import completion_tokens, pool

WORDS = "a b c d e f g h i j k l m n o p the cat dog likes tea sun rain".split()
HIDDEN = 16


def make_tokenizer(*, encoder: bool = False, bos: bool = False) -> PreTrainedTokenizerFast:
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", *WORDS])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if encoder:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 4)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", bos_token="<s>")


def make_backbone(kind: str, **options: object) -> Backbone:
    torch.manual_seed(0)
    size = len(WORDS) + 5
    special = {"bos_token_id": 4, "eos_token_id": 3, "pad_token_id": 0}
    if kind == "gpt2":  # learned positions
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=size, n_embd=HIDDEN, n_layer=2, n_head=2, n_positions=64, **special)
        )
    elif kind == "llama":  # rotary positions
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size,
                hidden_size=HIDDEN,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
                **special,
            )
        )
    else:
        model = BertModel(
            BertConfig(
                vocab_size=size,
                hidden_size=HIDDEN,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
            ),
            add_pooling_layer=False,
        )
    for parameter in model.parameters():  # initial weights are so small that a bug would hide below the tolerance
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return Backbone(model.eval(), make_tokenizer(encoder=kind == "bert"), **options).eval()


@pytest.fixture(scope="module", params=["gpt2", "llama", "bert"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return make_backbone(request.param)


PROMPTS = ["the cat", "likes", "a b c d e f g", "dog likes tea"]
COMPLETIONS = ["likes tea and rain", "sun", "h", "i j k l m n o p"]


@torch.no_grad()
def one_by_one(backbone: Backbone) -> torch.Tensor:
    return torch.cat([backbone(**backbone.encode([p], [c])).text for p, c in zip(PROMPTS, COMPLETIONS, strict=True)])


def test_what_it_says_of_itself(backbone: Backbone) -> None:
    causal = not isinstance(backbone.model, BertModel)
    assert backbone.is_causal is causal
    assert backbone.pooling == ("completion" if causal else "mean")
    assert backbone.hidden_size == HIDDEN
    assert backbone.max_length == 64  # of its positions, below the 1024 asked for
    assert not hasattr(backbone.model, "lm_head")


@torch.no_grad()
def test_causality_is_what_the_model_does(backbone: Backbone) -> None:
    ids = torch.tensor([[6, 7, 8], [6, 7, 9]])
    states = backbone.model(input_ids=ids).last_hidden_state
    sees_the_future = not torch.allclose(states[0, 0], states[1, 0], atol=1e-6)
    assert sees_the_future is not backbone.is_causal


@torch.no_grad()
def test_pooled_by_hand_from_the_unpadded_model(backbone: Backbone) -> None:
    texts = backbone.tokenize(PROMPTS, COMPLETIONS)
    states = [backbone.model(input_ids=torch.tensor([text.ids])).last_hidden_state[0] for text in texts]
    special = set(backbone.tokenizer.all_special_ids) - {backbone.tokenizer.unk_token_id}
    by_hand = []
    for text, s in zip(texts, states, strict=True):
        kept = [i for i, token in enumerate(text.ids) if i >= text.prompt_length and token not in special]
        by_hand.append((s[kept] if kept else s[-1:]).mean(0) if backbone.is_causal else s.mean(0))
    by_hand = torch.stack(by_hand)
    torch.testing.assert_close(backbone(**backbone.encode(PROMPTS, COMPLETIONS)).text, by_hand, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right", "both", "middle"])
@pytest.mark.parametrize("junk", [0, 9, -100])
def test_padding_side_and_content_change_nothing(backbone: Backbone, side: str, junk: int) -> None:
    texts = backbone.tokenize(PROMPTS, COMPLETIONS)
    width = max(len(text.ids) for text in texts) + 5
    ids, mask = torch.full((len(texts), width), junk), torch.zeros((len(texts), width), dtype=torch.long)
    for row, text in enumerate(texts):
        n = len(text.ids)
        places = {
            "left": range(width - n, width),
            "right": range(n),
            "both": range(2, n + 2),
            "middle": [0, *range(width - n + 1, width)],
        }[side]
        ids[row, list(places)], mask[row, list(places)] = torch.tensor(text.ids), 1
    lengths = torch.tensor([text.prompt_length for text in texts])
    padded, plain = backbone(ids, mask, lengths), backbone(**backbone.encode(PROMPTS, COMPLETIONS))
    torch.testing.assert_close(padded.text, plain.text, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded.text, one_by_one(backbone), atol=1e-5, rtol=0)
    if backbone.is_causal:
        torch.testing.assert_close(padded.prompt, plain.prompt, atol=1e-5, rtol=0)
    else:
        assert padded.prompt is None


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("pooling", ["completion", "last", "mean"])
def test_prompt_state_is_the_pass_over_the_prompt_alone(kind: str, pooling: str) -> None:
    backbone = make_backbone(kind, pooling=pooling)
    alone = backbone(**backbone.encode(PROMPTS)).text
    torch.testing.assert_close(backbone(**backbone.encode(PROMPTS, COMPLETIONS)).prompt, alone, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_every_completion_depends_on_the_last_prompt_token(kind: str) -> None:
    backbone = make_backbone(kind)
    before = backbone(**backbone.encode(["the cat"] * 4, COMPLETIONS)).text
    after = backbone(**backbone.encode(["the dog"] * 4, COMPLETIONS)).text
    assert ((before - after).abs().amax(1) > 1e-3).all()


def test_the_completions_own_tokens_by_hand() -> None:
    # prompt 5 5, then a mark, an answer 7 8, the mark that ends it, a line break; 1 is the mark, 9 the line break
    ids = torch.tensor([[5, 5, 1, 7, 8, 1, 9], [5, 5, 5, 7, 1, 0, 0], [5, 5, 5, 1, 0, 0, 0], [7, 8, 0, 0, 0, 0, 0]])
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5])
    tokens = completion_tokens(ids, mask, torch.tensor([2, 3, 3, 0]), [1])
    assert tokens.tolist() == [
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],  # an answer without a word: its last token
        [1, 1, 0, 0, 0, 0, 0],  # no prompt at all
    ]


@torch.no_grad()
def test_what_a_template_writes_behind_an_answer_changes_nothing() -> None:
    backbone = make_backbone("llama")
    end = next(i for i in backbone.tokenizer.all_special_ids if i != backbone.tokenizer.unk_token_id)
    texts = backbone.tokenize(["the cat"], [" sat down"])
    more = [texts[0]._replace(ids=[*texts[0].ids, end, 7, 8])]
    plain, ended = (backbone(**backbone.collate(t)).text for t in (texts, more))
    torch.testing.assert_close(ended, plain, atol=1e-5, rtol=0)


def test_a_completion_that_begins_nowhere_is_refused() -> None:
    backbone = make_backbone("llama")
    ids = torch.tensor([[6, 7]])
    with pytest.raises(ValueError, match="give prompt_lengths"):
        backbone(ids, torch.ones_like(ids))
    with pytest.raises(ValueError, match="for causal models"):
        make_backbone("bert", pooling="completion")


def test_pooling_words_by_hand() -> None:
    states = torch.tensor([[[1.0, 8.0], [3.0, 2.0], [99.0, -99.0]]])
    mask = torch.tensor([[1, 1, 0]])
    expected = {"last": [3.0, 2.0], "mean": [2.0, 5.0], "first": [1.0, 8.0], "max": [3.0, 8.0]}
    for pooling, vector in expected.items():
        assert pool(states, mask, pooling).tolist() == [vector]


@torch.no_grad()
def test_normalize_gives_length_one() -> None:
    pooled = make_backbone("gpt2", normalize=True)
    states = pooled(**pooled.encode(PROMPTS, COMPLETIONS))
    for vectors in states:
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))


def test_truncation_keeps_the_completion_and_the_end_of_the_prompt() -> None:
    backbone = make_backbone("gpt2", max_length=5)
    ids = {word: i + 5 for i, word in enumerate(WORDS)}
    (cut, whole, long) = backbone.tokenize(["a b c d e f", "a b", "a b"], ["g h", "c", "d e f g h i"])
    assert cut.ids == [ids[w] for w in "d e f g h".split()] and cut.prompt_length == 3 and cut.prompt_was_cut
    assert whole.ids == [ids[w] for w in "a b c".split()] and whole.prompt_length == 2 and not whole.prompt_was_cut
    assert long.ids == [ids[w] for w in "b d e f g".split()] and long.prompt_length == 1 and long.prompt_was_cut


def test_special_tokens_go_around_the_whole_and_never_between() -> None:
    encoder = make_backbone("bert").tokenize(["the"], ["cat"])[0]
    assert encoder.ids == [2, 5 + WORDS.index("the"), 5 + WORDS.index("cat"), 3]
    causal = Backbone(make_backbone("llama").model, make_tokenizer(bos=True)).tokenize(["the", ""], ["cat", "cat"])
    assert causal[0].ids == [4, 5 + WORDS.index("the"), 5 + WORDS.index("cat")] and causal[0].prompt_length == 2
    assert causal[1].ids == [4, 5 + WORDS.index("cat")] and causal[1].prompt_length == 1


def test_empty_prompt_starts_with_the_beginning_token() -> None:
    text = make_backbone("llama").tokenize([""], ["cat"])[0]  # this tokenizer puts nothing in front by itself
    assert text.ids == [4, 5 + WORDS.index("cat")] and text.prompt_length == 1


def test_half_precision_states_come_out_in_float32() -> None:
    backbone = make_backbone("llama")
    backbone.model.to(torch.bfloat16)
    assert backbone(**backbone.encode(PROMPTS, COMPLETIONS)).text.dtype == torch.float32


def test_gradients_reach_the_backbone() -> None:
    backbone = make_backbone("llama")
    backbone(**backbone.encode(PROMPTS, COMPLETIONS)).text.sum().backward()
    assert all(p.grad is not None for name, p in backbone.model.named_parameters())


@torch.no_grad()
def test_encoder_of_an_encoder_decoder() -> None:
    torch.manual_seed(0)
    model = T5Model(T5Config(vocab_size=len(WORDS) + 5, d_model=HIDDEN, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    backbone = Backbone(model, make_tokenizer()).eval()
    assert (backbone.is_causal, backbone.pooling, backbone.hidden_size) == (False, "mean", HIDDEN)
    torch.testing.assert_close(
        backbone(**backbone.encode(PROMPTS, COMPLETIONS)).text, one_by_one(backbone), atol=1e-5, rtol=0
    )


def test_fingerprint_follows_content_only() -> None:
    first, again = make_backbone("gpt2"), make_backbone("gpt2")
    key = first.fingerprint()
    assert key == again.fingerprint() and len(key) == 64
    again.tokenizer.padding_side = "left"
    again.tokenizer(
        ["the cat", "a"], padding=True, truncation=True, max_length=4
    )  # leaves its mark on the tokenizer's state
    assert again.fingerprint() == key
    with torch.no_grad():
        next(again.model.parameters())[3, 1] += 1e-3
    others = [
        again,
        make_backbone("gpt2", pooling="mean"),
        make_backbone("gpt2", max_length=32),
        make_backbone("gpt2", normalize=True),
        Backbone(first.model, make_tokenizer(bos=True)),
    ]
    assert len({key, *(other.fingerprint() for other in others)}) == 6


def test_saved_folder_loads_to_the_same_states(tmp_path: object) -> None:
    backbone = make_backbone("gpt2")
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    loaded = Backbone.from_pretrained(str(tmp_path), max_length=64)
    assert loaded.fingerprint() == backbone.fingerprint()
    with torch.no_grad():
        torch.testing.assert_close(one_by_one(loaded), one_by_one(backbone), atol=1e-6, rtol=0)


def test_sentence_transformers_folder_says_how_it_pools(tmp_path: object) -> None:
    backbone = make_backbone("bert")
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
    (tmp_path / "1_Pooling").mkdir()
    for flag, pooling in (("pooling_mode_cls_token", "first"), ("pooling_mode_mean_tokens", "mean")):
        (tmp_path / "1_Pooling" / "config.json").write_text(
            json.dumps({"word_embedding_dimension": HIDDEN, flag: True})
        )
        loaded = Backbone.from_pretrained(str(tmp_path))
        assert (loaded.pooling, loaded.normalize, loaded.max_length) == (pooling, True, 20)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_sqrt_len_tokens": True}))
    with pytest.raises(ValueError, match="only one of mean, first, last or max"):
        read_pooling_hints(str(tmp_path))
    assert Backbone.from_pretrained(str(tmp_path), pooling="max", normalize=False).pooling == "max"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "missing config.json, model.safetensors, tokenizer.json"),
        (("config.json", "tokenizer.json"), "missing model.safetensors"),
        (("config.json", "tokenizer.json", "pytorch_model.bin"), "a pickle can run code"),
        (("adapter_config.json", "adapter_model.safetensors"), "LoRA adapter"),
    ],
)
def test_folder_that_is_not_a_model(tmp_path: object, files: tuple[str, ...], message: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=message):
        Backbone.from_pretrained(str(tmp_path))


def test_other_bad_input() -> None:
    with pytest.raises(ValueError, match="no such folder"):
        Backbone.from_pretrained("./nowhere/at/all")
    with pytest.raises(ValueError, match="pooling is 'avg'"):
        make_backbone("gpt2", pooling="avg")
    backbone = make_backbone("gpt2")
    with pytest.raises(TypeError, match="single string"):
        backbone.encode("the cat", ["a"])
    with pytest.raises(ValueError, match="2 prompts were given with 1"):
        backbone.encode(["a", "b"], ["a"])
    with pytest.raises(TypeError, match=r"completions\[1\] is a list"):
        backbone.encode(["a", "b"], ["a", [{"role": "user", "content": "b"}]])
    with pytest.raises(ValueError, match=r"completions\[1\] holds half of a surrogate pair"):
        backbone.encode(["a", "b"], ["a", "cat \ud83d"])
    with pytest.raises(ValueError, match="no real token"):
        backbone(torch.tensor([[5, 6]]), torch.tensor([[0, 0]]))
    with pytest.raises(ValueError, match="empty prompt"):
        make_backbone("gpt2", pooling="last")(torch.tensor([[5, 6]]), torch.tensor([[1, 1]]), torch.tensor([0]))
    with pytest.raises(TypeError, match="transformers model"):
        Backbone(torch.nn.Linear(2, 2), make_tokenizer())


def test_how_a_tensor_enters_a_key() -> None:
    """The keys of caches rest on this form: name, shape, number type, then the bytes, of a large tensor every n-th."""
    for tensor, stride in ((torch.arange(6.0).reshape(2, 3).T, 1), (torch.arange(2.0 * FINGERPRINT_ELEMENTS + 5), 2)):
        ours, by_hand = hashlib.sha256(), hashlib.sha256()
        enter_tensor(ours, "w", tensor)
        by_hand.update(f"w{tuple(tensor.shape)}torch.float32".encode())
        by_hand.update(tensor.numpy().reshape(-1)[::stride].tobytes())
        assert ours.hexdigest() == by_hand.hexdigest()
    assert tensor_bytes(torch.tensor([1, 2], dtype=torch.int16)) == b"\x01\x00\x02\x00"


@pytest.mark.parametrize("pooling", ["completion", "completion_last", "last", "mean"])
@pytest.mark.parametrize("layer", [None, 1])
def test_one_pass_for_many_kinds_gives_what_each_gives_alone(pooling, layer):
    alone = make_backbone("llama", pooling=pooling, layer=layer)
    batch = alone.encode(["the cat", "a"], [" likes tea", " b c d"])
    kinds = [StateKind(None, "mean"), StateKind(layer, pooling), StateKind(2, "last")]
    torch.testing.assert_close(alone.pooled_as(batch, kinds)[1], alone(**batch).text)


def test_completion_last_is_the_state_before_the_mark_that_ends_it():
    backbone = make_backbone("llama", pooling="completion_last")
    ids = torch.tensor([[8, 9, 10, 11, 4, 12]])  # 4 is <s>, a mark; the completion begins at 2
    states = backbone.model(input_ids=ids).last_hidden_state
    pooled = backbone(ids, torch.ones_like(ids), torch.tensor([2]))
    torch.testing.assert_close(pooled.text[0], states[0, 3])


def test_a_layer_is_read_where_it_is_asked_for_and_has_a_key_of_its_own():
    whole, inner = make_backbone("llama", pooling="last"), make_backbone("llama", pooling="last", layer=1)
    batch = whole.encode(["the cat"], [" likes tea"])
    states = whole.model(input_ids=batch["input_ids"], output_hidden_states=True).hidden_states
    torch.testing.assert_close(inner(**batch).text[0], states[1][0, -1])
    assert whole.fingerprint() != inner.fingerprint()
    with pytest.raises(ValueError, match="layer is 3; this model has layers 1 to 2"):
        make_backbone("llama", layer=3)
