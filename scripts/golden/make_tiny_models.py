#!/usr/bin/env python3
"""Writes tests/golden/tiny_*/: tiny random checkpoints of each family and what transformers computes with them.

A directory is a whole HF model (config.json, model.safetensors in float32, tokenizer.json, ...) and golden.safetensors:

  input_ids, labels, positions   (T)     int64: three documents one after the other; label -100 is not supervised
  document_offsets               (4)     int64: document d is [d] up to [d + 1]
  logits                         (T, V)  float32: every document alone through the model
  loss                           (1)     float32: mean negative log likelihood of the supervised tokens, in nats
  prompt_ids, greedy_ids         (P), (16)  int64: a prompt and its greedy continuation (no token ends it)
  router_logits.L, router_ids.L  (T, E) float32, (T, K) int64: what the router of sparse layer L says and chooses,
                                 best first

The metadata records the library versions and `greedy_margin`, the smallest distance between the best and the second
logit on the way, and for sparse models `router_margin`, the smallest between two numbers whose order decides in a router.

    python scripts/golden/make_tiny_models.py [--out tests/golden] [NAME...]
"""

import argparse
import json
import pathlib

import safetensors
import safetensors.torch
import tokenizers
import torch
import transformers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

DOCUMENT_LENGTHS = [5, 19, 12]
PROMPT_LENGTH = 7
NEW_TOKENS = 16
VOCAB_SIZE = 288

# The template of SmolLM2, word for word but for the system message.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a tiny assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CORPUS = [
    "Ann has 12 apples. She buys 7 more and gives 4 to Ben. How many apples does she have now?",
    "system user assistant You are a tiny assistant. The answer is 15.",
    "12 + 7 = 19. 19 - 4 = 15.\n#### 15",
]

ROUTER_MARGIN = 1e-3

HEADS = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2)
COMMON = dict(HEADS, vocab_size=VOCAB_SIZE, max_position_embeddings=1024, dtype="float32")
TOKENS = dict(bos_token_id=0, eos_token_id=2, pad_token_id=0)
SPARSE = dict(COMMON, **TOKENS, tie_word_embeddings=True, num_hidden_layers=2)
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LATENT = dict(num_key_value_heads=4, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12)
DEEPSEEK = SPARSE | LATENT | dict(num_hidden_layers=3, first_k_dense_replace=1, n_routed_experts=8, moe_intermediate_size=8)
# Of the four rotated pairs one keeps its frequency, two are blended and one is slowed by the whole factor.
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "beta_fast": 4.0,
    "beta_slow": 0.1,
    "original_max_position_embeddings": 64,
}

MODELS = {
    "tiny_llama": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            **COMMON,
            **TOKENS,
            num_hidden_layers=3,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        ),
    ),
    # Lengths of 8 and 32 tokens bound the smooth part of the frequencies, so documents of 19 tokens feel it.
    "tiny_llama3": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            **COMMON,
            **TOKENS,
            num_hidden_layers=2,
            head_dim=12,
            tie_word_embeddings=False,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        ),
    ),
    "tiny_qwen2": (
        transformers.Qwen2ForCausalLM,
        transformers.Qwen2Config(
            **COMMON,
            **TOKENS,
            num_hidden_layers=2,
            tie_word_embeddings=True,
            use_sliding_window=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
    ),
    "tiny_qwen3": (
        transformers.Qwen3ForCausalLM,
        transformers.Qwen3Config(
            **COMMON,
            **TOKENS,
            num_hidden_layers=2,
            head_dim=16,
            tie_word_embeddings=True,
            use_sliding_window=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
    ),
    "tiny_mixtral": (
        transformers.MixtralForCausalLM,
        transformers.MixtralConfig(
            **(SPARSE | dict(intermediate_size=16)),
            num_local_experts=8,
            num_experts_per_tok=2,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    # A dense layer before two sparse ones.
    "tiny_qwen2_moe": (
        transformers.Qwen2MoeForCausalLM,
        transformers.Qwen2MoeConfig(
            **(SPARSE | dict(num_hidden_layers=3)),
            num_experts=8,
            num_experts_per_tok=3,
            moe_intermediate_size=12,
            shared_expert_intermediate_size=20,
            mlp_only_layers=[0],
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "tiny_qwen3_moe": (
        transformers.Qwen3MoeForCausalLM,
        transformers.Qwen3MoeConfig(
            **SPARSE,
            head_dim=16,
            num_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=12,
            norm_topk_prob=True,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    "tiny_olmoe": (
        transformers.OlmoeForCausalLM,
        transformers.OlmoeConfig(
            **(SPARSE | dict(intermediate_size=16)),
            num_experts=8,
            num_experts_per_tok=4,
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    # As V2-Lite: queries without a latent, no groups.
    "tiny_deepseek_v2": (
        transformers.DeepseekV2ForCausalLM,
        transformers.DeepseekV2Config(
            **DEEPSEEK,
            q_lora_rank=None,
            rms_norm_eps=1e-2,  # not that of the latents' norms
            n_shared_experts=2,
            num_experts_per_tok=3,
            topk_method="greedy",
            rope_parameters=PLAIN_ROPE,
        ),
    ),
    # As V2: the temperature is in the softmax scale alone.
    "tiny_deepseek_v2_groups": (
        transformers.DeepseekV2ForCausalLM,
        transformers.DeepseekV2Config(
            **DEEPSEEK,
            q_lora_rank=20,
            n_shared_experts=1,
            num_experts_per_tok=3,
            topk_method="group_limited_greedy",
            n_group=4,
            topk_group=2,
            routed_scaling_factor=2.0,
            attention_bias=True,
            rope_parameters=YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
        ),
    ),
    # The temperature is partly in the rotation too. One layer behind the last predicts a further token.
    "tiny_deepseek_v3": (
        transformers.DeepseekV3ForCausalLM,
        transformers.DeepseekV3Config(
            **DEEPSEEK,
            q_lora_rank=20,
            n_shared_experts=1,
            num_experts_per_tok=2,
            n_group=2,
            topk_group=1,
            routed_scaling_factor=2.5,
            num_nextn_predict_layers=1,
            rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 0.5},
        ),
    ),
}


def build_tokenizer(name: str) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE with the family's own pre-tokenisation: SmolLM2's, Llama 3's or Qwen's."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name == "tiny_llama")
    if name == "tiny_llama":
        split = pre_tokenizers.Digits(individual_digits=True)
    else:
        pattern = LLAMA3_SPLIT if name == "tiny_llama3" else QWEN_SPLIT
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=name == "tiny_llama3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    if name.startswith("tiny_qwen"):
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    byte_level_post = processors.ByteLevel(trim_offsets=False)
    if name == "tiny_llama3":
        bos = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
        tokenizer.post_processor = processors.Sequence([byte_level_post, bos])
    else:
        tokenizer.post_processor = byte_level_post
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, tokenizer.get_vocab_size()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


@torch.no_grad()
def fill_randomly(model: torch.nn.Module, seed: int) -> None:
    """Weights so large that attention is far from uniform, every layer moves the logits and no gain is 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            parameter.copy_(1.0 + 0.3 * noise)
        elif name.endswith("bias"):
            parameter.copy_(0.5 * noise)
        elif "embed_tokens" in name or "lm_head" in name:
            parameter.copy_(0.6 * noise)
        else:
            parameter.copy_(1.5 * noise / parameter.shape[-1] ** 0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))


def make_hub_style(directory: pathlib.Path) -> None:
    """The form of Llama 3's files on the hub: rope_theta and rope_scaling, the template in tokenizer_config.json."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    template = directory / "chat_template.jinja"
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"chat_template": template.read_text()}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    template.unlink()


def add_predictor(directory: pathlib.Path, layer: int) -> None:
    """Tensors of a layer that predicts a further token: readers of the model alone pass over them."""
    path = directory / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors[f"model.layers.{layer}.eh_proj.weight"] = torch.ones(2, 4)
    tensors[f"model.layers.{layer}.mlp.gate.weight"] = torch.ones(2, 2)
    safetensors.torch.save_file(tensors, path, {"format": "pt"})


def greedy(model: torch.nn.Module, prompt: torch.Tensor) -> tuple[torch.Tensor, float]:
    ids, margin = prompt, float("inf")
    for _ in range(NEW_TOKENS):
        top = model(input_ids=ids[None]).logits[0, -1].topk(2)
        margin = min(margin, (top.values[0] - top.values[1]).item())
        ids = torch.cat([ids, top.indices[:1]])
    return ids[len(prompt) :], margin


def choice_scores(router: torch.nn.Module, logits: torch.Tensor) -> tuple[torch.Tensor, float]:
    """What the experts are chosen by, -inf outside the best groups, and how near other groups are to those."""
    bias = getattr(router, "e_score_correction_bias", None)
    scores = logits if bias is None else logits.sigmoid() + bias
    groups = getattr(router, "num_group", None) or 1
    if groups == 1 or getattr(router, "topk_method", "") == "greedy":
        return scores, float("inf")
    blocks = scores.unflatten(1, (groups, -1))
    best = blocks.amax(-1) if bias is None else blocks.topk(2).values.sum(-1)
    kept = router.topk_group
    values, order = best.sort(dim=-1, descending=True)
    outside = torch.ones_like(best, dtype=torch.bool).scatter(1, order[:, :kept], False)
    margin = (values[:, kept - 1] - values[:, kept]).min().item()
    return blocks.masked_fill(outside[..., None], float("-inf")).flatten(1), margin


def router_tensors(model: torch.nn.Module, documents: list[torch.Tensor]) -> tuple[dict[str, torch.Tensor], float]:
    """What every router answers for the documents, and how near a choice is to another."""
    answers: dict[int, list] = {}
    hooks = []
    for number, layer in enumerate(model.model.layers):
        router = getattr(layer.mlp, "gate", None)
        if router is not None:
            calls = answers.setdefault(number, [])
            hooks.append(router.register_forward_hook(lambda module, inputs, output, calls=calls: calls.append(output)))
    for document in documents:
        model(input_ids=document[None])
    for hook in hooks:
        hook.remove()
    tensors, margin = {}, float("inf")
    for number, calls in answers.items():
        logits, ids = torch.cat([call[0] for call in calls]), torch.cat([call[2] for call in calls])
        scores, group_margin = choice_scores(model.model.layers[number].mlp.gate, logits)
        best = scores.sort(dim=-1, descending=True).values[:, : ids.shape[1] + 1]
        margin = min(margin, group_margin, (best[:, :-1] - best[:, 1:]).min().item())
        ids = ids.gather(1, scores.gather(1, ids).argsort(dim=-1, descending=True))
        tensors |= {f"router_logits.{number}": logits, f"router_ids.{number}": ids}
    return tensors, margin


def golden_tensors(model: torch.nn.Module, seed: int) -> tuple[dict[str, torch.Tensor], float, float]:
    generator = torch.Generator().manual_seed(seed)
    documents = [torch.randint(VOCAB_SIZE, (n,), generator=generator) for n in DOCUMENT_LENGTHS]
    labels = []
    for document in documents:
        label = document.clone()
        label[: max(1, len(document) // 3)] = -100  # a prompt; a first token is never predicted
        labels.append(label)
    logits = [model(input_ids=document[None]).logits[0] for document in documents]
    predicted = torch.cat([x[:-1] for x in logits])
    targets = torch.cat([label[1:] for label in labels])
    loss = torch.nn.functional.cross_entropy(predicted.double(), targets, ignore_index=-100)
    prompt = torch.randint(len(SPECIAL), VOCAB_SIZE, (PROMPT_LENGTH,), generator=generator)
    continuation, margin = greedy(model, prompt)
    routers, router_margin = router_tensors(model, documents)
    tensors = {
        "input_ids": torch.cat(documents),
        "labels": torch.cat(labels),
        "positions": torch.cat([torch.arange(n) for n in DOCUMENT_LENGTHS]),
        "document_offsets": torch.tensor([0, *DOCUMENT_LENGTHS]).cumsum(0),
        "logits": torch.cat(logits),
        "loss": loss.float().reshape(1),
        "prompt_ids": prompt,
        "greedy_ids": continuation,
    }
    return tensors | routers, margin, router_margin


@torch.no_grad()
def make(name: str, directory: pathlib.Path) -> None:
    build_tokenizer(name).save_pretrained(directory)
    family, config = MODELS[name]
    model = family(config)
    for seed in range(1, 100):  # until greedy decoding is clear and not dull
        fill_randomly(model, seed)
        tensors, margin, router_margin = golden_tensors(model.eval(), seed)
        continuation = set(tensors["greedy_ids"].tolist())
        clear = margin > 0.05 and router_margin > ROUTER_MARGIN
        if clear and len(continuation) > 8 and TOKENS["eos_token_id"] not in continuation:
            break
    else:
        raise SystemExit(f"{name}: no seed gives a clear continuation")
    model.save_pretrained(directory)
    if name in ("tiny_llama3", "tiny_deepseek_v2_groups"):
        make_hub_style(directory)
    if name == "tiny_deepseek_v3":
        add_predictor(directory, config.num_hidden_layers)

    # What a reader of the files gets, not what is in memory.
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="float32", attn_implementation="eager")
    tensors, margin, router_margin = golden_tensors(model.eval(), seed)
    versions = {m.__name__: m.__version__ for m in (torch, transformers, tokenizers, safetensors)}
    metadata = {**versions, "seed": str(seed), "greedy_margin": f"{margin:.4f}"}
    if router_margin < float("inf"):
        metadata["router_margin"] = f"{router_margin:.5f}"
    safetensors.torch.save_file(tensors, directory / "golden.safetensors", metadata)
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{directory}: loss {tensors['loss'].item():.4f}, greedy margin {margin:.3f}, seed {seed}, {size // 1000} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="which of " + ", ".join(MODELS))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parents[2] / "tests" / "golden")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    unknown = set(arguments.names) - set(MODELS)
    if unknown:
        parser.error(f"unknown {sorted(unknown)}; known: {', '.join(MODELS)}")
    for name in arguments.names or MODELS:
        make(name, arguments.out / name)


if __name__ == "__main__":
    main()
