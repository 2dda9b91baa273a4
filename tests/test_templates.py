"""Templates of real kinds: one beginning of text, whole answers, equal texts in every socket, system messages kept."""

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import BartConfig, BartForCausalLM, OPTConfig, OPTForCausalLM, RobertaConfig, RobertaModel

from palign.conditioning import condition_prompt
from palign.data.preferences import Preferences
from palign.data.rendering import render_completion, render_prompt
from palign.models.adapters import add_type_adapters
from palign.models.architectures import longest_input
from palign.models.backbones import Backbone
from palign.models.completions import TokenizedItems
from palign.models.pal import PALRewardModel
from palign.models.single_adapter import merge_adapters, read_adapter, save_adapter
from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer

MARKS = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
OPEN = "{% if add_generation_prompt %}<assistant>{% endif %}"
BOS = "<bos>" + MARKS + OPEN  # Llama-3, Gemma, Mistral kinds
THINKS = MARKS + "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
HYBRID = (
    "{% for m in messages %}<{{ m['role'] }}>"
    "{% if m['role'] == 'assistant' and loop.last and '</think>' not in m['content'] %}<think>\n\n</think>\n\n{% endif %}"  # noqa: E501
    "{{ m['content'] }}</s>{% endfor %}" + OPEN
)  # Qwen3 hybrid kinds
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + MARKS
    + OPEN
)  # Gemma kinds
DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<system>You are Qwen.</s>{% endif %}" + MARKS + OPEN
)  # Qwen2.5 kinds
ASK = [{"role": "user", "content": "ask"}]


def tokenizer(template: str = MARKS + OPEN):
    made = make_tiny_tokenizer(["ask answer think user assistant system 0 1 2 3 4 reader type You are Qwen kind"])
    made.chat_template = template
    return made


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_one_beginning_of_text() -> None:
    made = tokenizer(BOS)
    made.add_bos_token = True
    from tokenizers import processors

    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", made.bos_token_id)]
    )
    backbone = Backbone(make_tiny_lm(made).model, made, pooling="last")
    (text,) = backbone.tokenize([render_prompt(ASK, made)], [render_completion(ASK, say("answer"), made)])
    assert text.ids.count(made.bos_token_id) == 1 and text.ids[0] == made.bos_token_id
    opening = made(render_prompt(ASK, made), add_special_tokens=False)["input_ids"]
    assert text.ids[: text.prompt_length] == opening  # as the policy reads it
    (plain,) = backbone.tokenize(["ask"], [" answer"])
    assert plain.ids.count(made.bos_token_id) == 1


@pytest.mark.parametrize("answer", ["<answer>4", "<think", "4", "</s", "\n<x>"])
def test_answers_behind_an_opened_thought_are_whole(answer: str) -> None:
    made = tokenizer(THINKS)
    assert render_prompt(ASK, made).endswith("<assistant><think>\n")
    assert render_completion(ASK, say(answer), made) == f"{answer}</s>"
    prefs = Preferences.from_rows([{"annotator_id": "a", "prompt": ASK, "chosen": say(answer), "rejected": say("no")}])
    items = TokenizedItems.of(prefs, made)
    head, tail = items.tokens(0)[: items.prompt_lengths[0]], items.tokens(0)[items.prompt_lengths[0] :]
    assert made.decode(head).strip() == render_prompt(ASK, made).strip() and answer.strip() in made.decode(tail)


def test_an_empty_thought_is_the_same_text_in_every_socket() -> None:
    made = tokenizer(HYBRID)
    assert render_completion(ASK, say("4"), made) == "4</s>"
    whole = render_completion(ASK, say("<think>\nhm\n</think>\n\n4"), made)
    assert whole == "<think>\nhm\n</think>\n\n4</s>"  # a thought of one's own stays
    prefs = Preferences.from_rows([{"annotator_id": "a", "prompt": ASK, "chosen": say("4"), "rejected": say("3")}])
    items = TokenizedItems.of(prefs, made)
    assert "think" not in made.decode(items.tokens(0)) and made.decode(items.tokens(0)).endswith("4</s>")


def test_the_reader_without_a_system_role() -> None:
    made = tokenizer(NO_SYSTEM)
    told = condition_prompt(ASK, "type 2")
    assert render_prompt(told, made) == "<user>The reader is type 2.\n\nask</s><assistant>"
    with pytest.raises(ValueError, match="chat template refuses messages of the roles system, user .System role not"):
        render_prompt([{"role": "system", "content": "be kind"}, *ASK], made)


def test_a_default_system_message_stays() -> None:
    made = tokenizer(DEFAULT)
    bare = render_prompt(ASK, made)
    told = render_prompt(condition_prompt(ASK, "type 2"), made)
    assert bare == "<system>You are Qwen.</s><user>ask</s><assistant>"
    assert told == "<system>The reader is type 2. You are Qwen.</s><user>ask</s><assistant>"
    kind = [{"role": "system", "content": "be kind"}, *ASK]
    assert render_prompt(condition_prompt(kind, "type 2"), made).startswith(
        "<system>The reader is type 2. be kind</s>"
    )
    assert render_prompt(kind, made).startswith("<system>be kind</s>")


def small(kind: str, made) -> torch.nn.Module:
    size = {"vocab_size": len(made), "max_position_embeddings": 64, "pad_token_id": 0}
    if kind == "opt":
        return OPTForCausalLM(OPTConfig(hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2,
                                        word_embed_proj_dim=16, **size))  # fmt: skip
    return BartForCausalLM(BartConfig(d_model=16, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16,
                                      encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, **size))  # noqa: E501  # fmt: skip


@pytest.mark.parametrize("kind", ["opt", "bart"])
def test_reference_of_heads_that_call_the_decoder(kind: str, tmp_path) -> None:
    made = tokenizer()
    model = small(kind, made).eval()
    rows = [{"annotator_id": "a", "prompt": "ask", "chosen": " answer 1", "rejected": " think 2 3"}]
    items = TokenizedItems.of(Preferences.from_rows(rows), made, max_length=32)
    from tqdm.auto import tqdm

    from palign.models.reference_logps import _compute

    found = _compute(model, items, np.arange(2), 2, tqdm(disable=True))
    batch = items.collate([0])
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
    targets = batch["input_ids"][:, 1:, None]
    expected = (logits[:, :-1].gather(-1, targets)[..., 0] * batch["completion_mask"][:, 1:]).sum()
    assert found.shape == (2, 17) and found[0, 0] == pytest.approx(expected.item(), abs=1e-4)
    assert np.abs(found[:, 1:]).sum() > 0


def test_positions_of_roberta_kinds() -> None:
    config = RobertaConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                           intermediate_size=16, max_position_embeddings=34, pad_token_id=1)  # fmt: skip
    made = tokenizer()
    made.model_max_length = int(1e30)
    assert longest_input(config, made) == 32
    backbone = Backbone(RobertaModel(config, add_pooling_layer=False), made)
    assert backbone(**backbone.encode(["ask " * 200])).text.isfinite().all()


# merging


def weighted(model, names: list[str], weights: list[float], module: str) -> torch.Tensor:
    layer = model.get_submodule(module)
    return sum(w * layer.get_delta_weight(name) for name, w in zip(names, weights, strict=True))


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("merge_type", ["cat", "svd"])
def test_merges_are_exact_and_stay_so(use_rslora: bool, merge_type: str, tmp_path) -> None:
    made = tokenizer()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], use_rslora=use_rslora, init_lora_weights=False)
    policy = add_type_adapters(make_tiny_lm(made, seed=0), config, 2, seed=0)
    module = next(name for name, m in policy.named_modules() if name.endswith("q_proj") and hasattr(m, "lora_A"))
    weights = [0.3, 0.7] if merge_type == "cat" else [1.0, 0.0]  # of rank 4, svd loses nothing
    expected = weighted(policy, ["type_0", "type_1"], weights, module)
    merge_adapters(policy, "fair", ["type_0", "type_1"], weights, merge_type=merge_type)
    layer = policy.get_submodule(module)
    torch.testing.assert_close(layer.get_delta_weight("fair"), expected, atol=1e-6, rtol=1e-5)
    save_adapter(policy, "fair", tmp_path / "fair")
    other = add_type_adapters(make_tiny_lm(made, seed=0), config, 1, seed=0)
    read_adapter(other, "fair", tmp_path / "fair")
    torch.testing.assert_close(other.get_submodule(module).get_delta_weight("fair"), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("field", ["use_dora", "lora_bias"])
def test_merges_that_cannot_be_exact_are_refused(field: str) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], **{field: True})
    model = make_tiny_lm(tokenizer(), seed=0)
    if field == "lora_bias":  # PEFT asks for layers with a bias
        for layer in model.model.layers:
            layer.self_attn.q_proj.bias = torch.nn.Parameter(torch.zeros(layer.self_attn.q_proj.out_features))
    policy = add_type_adapters(model, config, 2, seed=0)
    with pytest.raises(ValueError, match=f"trained with {field}=True.*not its merge"):
        merge_adapters(policy, "fair", ["type_0", "type_1"], [0.5, 0.5], merge_type="cat")


@pytest.mark.parametrize(
    "more", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, {"trainable_token_indices": [5, 6]}, {}]
)
def test_adapters_on_a_backbone_given_as_an_object_come_back(more: dict, tmp_path) -> None:
    from peft import get_peft_model

    from palign.data.annotators import AnnotatorIndex

    made = tokenizer()
    torch.manual_seed(0)
    lm = make_tiny_lm(made, seed=0)
    model = PALRewardModel.from_backbone(
        lm.model, annotators=AnnotatorIndex(["a", "b"]), n_prototypes=2, tokenizer=made
    )
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="FEATURE_EXTRACTION", **more)
    model.backbone.model = get_peft_model(model.backbone.model, config)
    with torch.no_grad():
        for _, parameter in model.backbone.model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    before = model.score(["ask", "ask"], [" answer 1 2", " think"], ["a", "b"])
    model.save_pretrained(tmp_path / "m")
    after = PALRewardModel.from_pretrained(tmp_path / "m").score(["ask", "ask"], [" answer 1 2", " think"], ["a", "b"])
    torch.testing.assert_close(after, before.detach(), atol=1e-6, rtol=1e-5)
