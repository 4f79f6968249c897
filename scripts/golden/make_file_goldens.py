#!/usr/bin/env python3
"""Writes tests/golden/files/, what the package `gguf` (of llama.cpp's authors) makes of the same data.

  dequantize.safetensors   TYPE.blocks (N) uint8: seeded random blocks; TYPE.values (N) float32: gguf's dequantize()
  tiny_*.gguf              the HF directories tests/golden/tiny_* as GGUF files in float32, written by gguf.GGUFWriter,
                           with the metadata, names, q/k permutation and rope factors of convert_hf_to_gguf.py

The seeds of the fuzzers, tests/fuzz/seeds/{safetensors,gguf}/, are small files of the same kind.

    python scripts/golden/make_file_goldens.py [--out tests/golden/files] [--seeds tests/fuzz/seeds]
"""

import argparse
import json
import math
import pathlib
from importlib.metadata import version

import gguf
import numpy
import safetensors.numpy
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Type

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests/golden"
TYPES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K".split()
VALUES = 1024
# Where the half-precision scales lie in a block.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2]}
HALVES["Q6_K"] = [208]
PRE = {"tiny_llama": "smollm", "tiny_llama3": "llama-bpe", "tiny_qwen2": "qwen2", "tiny_qwen3": "qwen2"}


def random_blocks(name, random):
    """Random bytes with random finite scales: a random half could be infinite or a NaN."""
    values, size = GGML_QUANT_SIZES[Type[name]]
    blocks = random.integers(0, 256, (VALUES // values, size), dtype=numpy.uint8)
    if name in ("F32", "F16"):
        return random.standard_normal(VALUES).astype(f"<f{size}").view(numpy.uint8)
    if name == "BF16":
        floats = random.standard_normal(VALUES).astype("<f4")
        return gguf.quants.quantize(floats, Type.BF16).view(numpy.uint8).reshape(-1)
    for at in HALVES[name]:
        blocks[:, at : at + 2] = random.standard_normal((len(blocks), 1)).astype("<f2").view(numpy.uint8)
    return blocks.reshape(-1)


def write_dequantize(file, metadata):
    random = numpy.random.default_rng(1)
    tensors = {}
    for name in TYPES:
        blocks = random_blocks(name, random)
        tensors[f"{name}.blocks"] = blocks
        tensors[f"{name}.values"] = gguf.quants.dequantize(blocks, Type[name]).astype("<f4").reshape(-1)
    safetensors.numpy.save_file(tensors, file, metadata)


def permute(weights, heads):
    """The rows of a head: HF rotates halves, GGUF neighbouring pairs."""
    half = weights.shape[0] // heads // 2
    return weights.reshape(heads, 2, half, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def rope_factors(rope, theta, head_dim):
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        low, high, context = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
        if wavelength < context / high:
            factors.append(1)
        elif wavelength > context / low:
            factors.append(rope["factor"])
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return numpy.array(factors, dtype="<f4")


def add_tokenizer(writer, directory, pre):
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    config = json.loads((directory / "tokenizer_config.json").read_text())
    ids = dict(tokenizer["model"]["vocab"])
    special = {token["content"]: token for token in tokenizer["added_tokens"]}
    ids.update({content: token["id"] for content, token in special.items()})
    tokens = sorted(ids, key=ids.get)
    kinds = [(3 if special[t]["special"] else 4) if t in special else 1 for t in tokens]
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(ids[config["bos_token"]])
    writer.add_eos_token_id(ids[config["eos_token"]])
    writer.add_pad_token_id(ids[config["pad_token"]])
    writer.add_add_bos_token(pre == "llama-bpe")
    template = directory / "chat_template.jinja"
    writer.add_chat_template(template.read_text() if template.exists() else config["chat_template"])


def write_gguf(directory, file, pre, source):
    config = json.loads((directory / "config.json").read_text())
    rope = config.get("rope_parameters") or dict(config["rope_scaling"], rope_theta=config["rope_theta"])
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", config["hidden_size"] // heads)
    arch = config["model_type"]
    writer = gguf.GGUFWriter(file, arch)
    writer.add_name(directory.name)
    writer.add_string("general.source", source)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_tokenizer(writer, directory, pre)
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_factors(rope, rope["rope_theta"], head_dim))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config["num_hidden_layers"])
    for name, weights in safetensors.numpy.load_file(directory / "model.safetensors").items():
        if arch == "llama" and ".q_proj." in name:
            weights = permute(weights, heads)
        if arch == "llama" and ".k_proj." in name:
            weights = permute(weights, kv_heads)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), numpy.ascontiguousarray(weights))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_seeds(folder, source):
    ones = numpy.ones((2, 3), dtype="<f4")
    (folder / "safetensors").mkdir(parents=True, exist_ok=True)
    mixed = {"a": ones, "b": numpy.ones(3, dtype="u1"), "empty": ones[:0], "s": numpy.array(1, dtype="<f4")}
    safetensors.numpy.save_file(mixed, folder / "safetensors/mixed", {"format": "pt"})
    safetensors.numpy.save_file({}, folder / "safetensors/empty")
    layers = {f"model.layers.{i}.w": numpy.ones(2, dtype="<f2") for i in range(4)}
    safetensors.numpy.save_file(layers, folder / "safetensors/layers")

    (folder / "gguf").mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(folder / "gguf/mixed", "llama")
    writer.add_string("general.source", source)
    writer.add_custom_alignment(64)
    writer.add_bool("a.bool", True)
    writer.add_int8("a.int8", -8)
    writer.add_uint64("a.uint64", 2**63)
    writer.add_float64("a.float64", 0.5)
    writer.add_array("a.texts", ["a", "bc", ""])
    writer.add_array("a.floats", [0.5, 1.5])
    writer.add_array("a.integers", [1, -2, 3])
    writer.add_tensor("f32", ones)
    random = numpy.random.default_rng(2)
    for name in ("Q4_0", "Q8_0", "Q6_K"):
        row = GGML_QUANT_SIZES[Type[name]][1]
        writer.add_tensor(name, random_blocks(name, random)[: 2 * row].reshape(2, row), raw_dtype=Type[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    writer = gguf.GGUFWriter(folder / "gguf/empty", "qwen2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    write_model_seed(folder / "gguf/model", source)


def write_model_seed(file, source):
    """The smallest whole model: one layer, a vocabulary of six tokens, Llama 3's rope factors."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_string("general.source", source)
    for add, value in (
        (writer.add_context_length, 64),
        (writer.add_embedding_length, 8),
        (writer.add_feed_forward_length, 8),
        (writer.add_block_count, 1),
        (writer.add_head_count, 2),
        (writer.add_head_count_kv, 1),
        (writer.add_rope_freq_base, 10000.0),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_tokenizer_pre, "llama-bpe"),
        (writer.add_token_list, ["<s>", "a", "b", "ab", "\u0120", "1"]),
        (writer.add_token_types, [3, 1, 1, 1, 4, 1]),
        (writer.add_token_merges, ["a b"]),
        (writer.add_bos_token_id, 0),
        (writer.add_eos_token_id, 0),
        (writer.add_add_bos_token, True),
    ):
        add(value)
    writer.add_tensor("token_embd.weight", numpy.ones((6, 8), dtype="<f2"))
    writer.add_tensor("blk.0.attn_norm.weight", numpy.ones(8, dtype="<f4"))
    writer.add_tensor("blk.0.attn_q.weight", numpy.ones((8, 8), dtype="<f2"))
    rope = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
    writer.add_tensor("rope_freqs.weight", rope_factors(rope, 10000.0, 4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=GOLDEN / "files")
    parser.add_argument("--seeds", type=pathlib.Path, default=GOLDEN.parent / "fuzz/seeds")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    source = f"scripts/golden/make_file_goldens.py, gguf {version('gguf')}, numpy {numpy.__version__}"
    write_dequantize(arguments.out / "dequantize.safetensors", {"source": source})
    for name, pre in PRE.items():
        write_gguf(GOLDEN / name, arguments.out / f"{name}.gguf", pre, source)
    write_seeds(arguments.seeds, source)


if __name__ == "__main__":
    main()
