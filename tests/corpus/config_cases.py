"""Cases for config.json: fields that are missing, of the wrong type, out of range, or that contradict each other.

A file case is a config.json by itself. A folder case has weights beside it (zeros in one model.safetensors), for
contradictions between the two.
"""
import json
import struct

from corpus import bad, ok

WIDTH = "an integer from 1 to 134217728"
HEADS = "an integer from 1 to 65536"

DENSE = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 12, "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0, "tie_word_embeddings": False,
}
SPARSE = {
    "model_type": "qwen3_moe", "hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 20,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 12,
    "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1, "mlp_only_layers": [],
}
GONE = object()


def text(base, **change):
    made = {k: v for k, v in {**base, **change}.items() if v is not GONE}
    return json.dumps(made, indent=2).encode() + b"\n"


def raw(base, key, value):
    """The value as written, which json.dumps would not write."""
    return text(base, **{key: "@@"}).replace(b'"@@"', value.encode())


def at(data, mark, skip=0):
    return data.index(mark.encode()) + skip


def field(name, base, key, value, found, expected):
    return bad(name, text(base, **{key: value}), f"json-field: {key}: found {found}, expected {expected}")


def dense_fields():
    yield ok("dense", text(DENSE))
    for key in ("hidden_size", "intermediate_size", "vocab_size"):
        short = key.replace("_", "-")
        yield field(f"{short}-missing", DENSE, key, GONE, "nothing", WIDTH)
        yield field(f"{short}-null", DENSE, key, None, "nothing", WIDTH)
        yield field(f"{short}-zero", DENSE, key, 0, "0", WIDTH)
        yield field(f"{short}-negative", DENSE, key, -16, "-16", WIDTH)
        yield field(f"{short}-real", DENSE, key, 16.0, "16.0", WIDTH)
        yield field(f"{short}-string", DENSE, key, "16", '"16"', WIDTH)
        yield field(f"{short}-past-32-bits", DENSE, key, 2**32, "4294967296", WIDTH)
    yield field("model-type-missing", DENSE, "model_type", GONE, "nothing", "the name of a model family")
    yield field("model-type-number", DENSE, "model_type", 2, "2", "a short string")
    yield field("layers-zero", DENSE, "num_hidden_layers", 0, "0", "an integer from 1 to 10000")
    yield field("layers-2-31", DENSE, "num_hidden_layers", 2**31, "2147483648", "an integer from 1 to 10000")
    yield field("layers-array", DENSE, "num_hidden_layers", [1], "an array", "an integer from 1 to 10000")
    yield field("tie-flag-number", DENSE, "tie_word_embeddings", 0, "0", "true or false")
    yield field("dtype-number", DENSE, "torch_dtype", 16, "16", "a short string")
    yield field("architectures-string", DENSE, "architectures", "Qwen2ForCausalLM", '"Qwen2ForCausalLM"', "a list of class names")
    yield field("layer-types-object", DENSE, "layer_types", {}, "no list", "1 (num_hidden_layers)")
    yield field("layer-types-too-many", DENSE, "layer_types", ["full_attention"] * 2, "2 entries", "1 (num_hidden_layers)")
    yield ok("unknown-family", text(DENSE, model_type="something_new"))
    yield ok("unknown-key", text(DENSE, my_key={"deep": [1, None]}))


def heads():
    yield field("heads-zero", DENSE, "num_attention_heads", 0, "0", HEADS)
    yield field("kv-zero", DENSE, "num_key_value_heads", 0, "0", HEADS)
    yield field("kv-missing", DENSE, "num_key_value_heads", GONE, "nothing", HEADS)
    yield field("head-dim-zero", DENSE, "head_dim", 0, "0", HEADS)
    yield bad("heads-not-dividing-hidden", text(DENSE, num_attention_heads=6),
              "config-heads: num_attention_heads: found 6, expected a divisor of hidden_size 16 (there is no head_dim)")
    yield ok("heads-not-dividing-hidden-with-head-dim", text(DENSE, num_attention_heads=6, head_dim=4))
    yield bad("kv-not-dividing-heads", text(DENSE, num_key_value_heads=3),
              "config-heads: num_key_value_heads: found 3, expected a divisor of num_attention_heads 4")
    yield bad("kv-more-than-heads", text(DENSE, num_key_value_heads=8),
              "config-heads: num_key_value_heads: found 8, expected a divisor of num_attention_heads 4")
    yield ok("kv-missing-llama", text(DENSE, model_type="llama", num_key_value_heads=GONE))


def experts():
    one = "an integer from 1 to 65536"
    yield ok("sparse", text(SPARSE))
    yield field("experts-zero", SPARSE, "num_experts", 0, "0", one)
    yield field("experts-missing", SPARSE, "num_experts", GONE, "nothing", one)
    yield ok("experts-other-name", text(SPARSE, num_experts=GONE, num_local_experts=4))
    yield bad("experts-two-counts", text(SPARSE, num_local_experts=8),
              "config-experts: num_local_experts: found 8, expected num_experts 4")
    yield field("top-k-zero", SPARSE, "num_experts_per_tok", 0, "0", one)
    yield bad("top-k-above-experts", text(SPARSE, num_experts_per_tok=5),
              "config-experts: num_experts_per_tok: found 5, expected at most 4 (the experts)")
    yield field("expert-width-missing", SPARSE, "moe_intermediate_size", GONE, "nothing", WIDTH)
    yield field("sparse-step-zero", SPARSE, "decoder_sparse_step", 0, "0", "an integer from 1 to 10000")
    yield bad("dense-layer-past-the-last", text(SPARSE, mlp_only_layers=[0, 2]),
              "json-field: mlp_only_layers: found 2, expected layer numbers below num_hidden_layers")
    yield bad("dense-layer-without-width", text(SPARSE, mlp_only_layers=[0], intermediate_size=GONE),
              f"json-field: intermediate_size: found nothing, expected {WIDTH}")
    yield ok("all-sparse-without-dense-width", text(SPARSE, intermediate_size=GONE))


def numbers():
    above = "a number above 0"
    for key in ("rms_norm_eps", "rope_theta"):
        short = key.replace("_", "-")
        huge, nan = raw(DENSE, key, "1e400"), raw(DENSE, key, "NaN")
        yield bad(f"{short}-1e400", huge,
                  f"byte {at(huge, '1e400')}: json-number: {key}: found 1e400, expected a number between -1.8e308 and 1.8e308")
        yield bad(f"{short}-nan", nan, f"byte {at(nan, 'NaN')}: json-syntax: found 'N', expected a value")
        yield field(f"{short}-zero", DENSE, key, 0, "0", above)
        yield field(f"{short}-negative", DENSE, key, -1, "-1", above)
        yield field(f"{short}-string", DENSE, key, "1e-6", '"1e-6"', above)
    yield field("rope-scaling-list", DENSE, "rope_scaling", [], "[]", "an object or null")
    yield bad("rope-factor-zero", text(DENSE, rope_scaling={"rope_type": "linear", "factor": 0}),
              "json-field: rope_scaling.factor: found 0, expected a number above 0")
    yield ok("rope-scaling-null", text(DENSE, rope_scaling=None))
    yield bad("too-large-a-model", text(DENSE, hidden_size=2**27, num_attention_heads=65536, num_key_value_heads=1, vocab_size=2**27),
              "model-size: found lengths that multiply to more than 2^56 parameters (hidden_size 134217728, 1 layers, 0 experts), "
              "expected a model")


def quantization():
    def q(**members):
        return text(DENSE, quantization_config=members)

    def ct(**weights):
        return q(quant_method="compressed-tensors", config_groups={"group_0": {"targets": ["Linear"], "weights": weights}})

    whole = "an integer from -1 to 1048576"
    yield ok("gptq", q(quant_method="gptq", bits=4, group_size=8))
    yield ok("awq", q(quant_method="awq", w_bit=4, q_group_size=8))
    yield ok("fp8", q(quant_method="fp8", weight_block_size=[128, 128]))
    yield ok("compressed-tensors", ct(num_bits=4, strategy="group", group_size=8))
    yield ok("other-method", q(quant_method="something"))
    yield bad("gptq-group-zero", q(quant_method="gptq", bits=4, group_size=0),
              "json-field: group_size: found 0, expected -1 or a positive number")
    yield bad("gptq-group-not-dividing", q(quant_method="gptq", bits=4, group_size=5),
              "config-group: group_size: found 5, expected a divisor of hidden_size 16")
    yield bad("gptq-group-not-dividing-width", q(quant_method="gptq", bits=4, group_size=16),
              "config-group: group_size: found 16, expected a divisor of intermediate_size 24")
    yield bad("gptq-group-missing", q(quant_method="gptq", bits=4), f"json-field: group_size: found nothing, expected {whole}")
    yield bad("gptq-bits-missing", q(quant_method="gptq", group_size=8),
              "json-field: bits: found nothing, expected an integer from 2 to 8")
    yield bad("awq-group-zero", q(quant_method="awq", bits=4, group_size=0),
              "json-field: group_size: found 0, expected -1 or a positive number")
    yield bad("ct-group-zero", ct(num_bits=4, strategy="group", group_size=0),
              "json-field: group_size: found 0, expected an integer from 1 to 1048576")
    yield bad("ct-no-groups", q(quant_method="compressed-tensors"), "json-field: config_groups: found nothing, expected an object")
    yield bad("fp8-block-zero", q(quant_method="fp8", weight_block_size=[128, 0]),
              "json-field: weight_block_size: found [128,0], expected two positive numbers")
    yield bad("quantization-without-method", q(bits=4),
              "json-field: quant_method: found nothing, expected the name of a quantization method")
    yield bad("quantization-number", text(DENSE, quantization_config=4), "json-field: quantization_config: found 4, expected an object")


def syntax():
    yield bad("empty", b"", "byte 0: json-syntax: found the end of the text, expected a value")
    yield bad("no-object", b"[]", "json-field: config.json: found [], expected an object")
    yield bad("trailing-comma", b'{"model_type": "qwen2",}', "byte 23: json-syntax: found '}', expected a key")
    yield bad("twice-the-same-key", b'{"vocab_size": 1, "vocab_size": 2}',
              "byte 18: json-duplicate-key: vocab_size: found it a second time, the first is at byte 1, expected it once")
    yield bad("escape-codes-in-a-value", text(DENSE, num_attention_heads="\x1b[31m\n"),
              f'json-field: num_attention_heads: found "\\x1b[31m\\x0a", expected {HEADS}')


def tensors(shapes):
    """A safetensors file of F32 zeros."""
    header, off = {}, 0
    for name, shape in shapes.items():
        size = 4
        for n in shape:
            size *= n
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [off, off + size]}
        off += size
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)
    return struct.pack("<Q", len(packed)) + packed + bytes(off)


def weights(vocab=12, head=True):
    layer = "model.layers.0."
    shapes = {"model.embed_tokens.weight": [vocab, 16], "model.norm.weight": [16]}
    if head:
        shapes["lm_head.weight"] = [vocab, 16]
    for name, shape in (("input_layernorm", [16]), ("post_attention_layernorm", [16]), ("mlp.gate_proj", [24, 16]),
                        ("mlp.up_proj", [24, 16]), ("mlp.down_proj", [16, 24]), ("self_attn.q_proj", [16, 16]),
                        ("self_attn.k_proj", [8, 16]), ("self_attn.v_proj", [8, 16]), ("self_attn.o_proj", [16, 16])):
        shapes[f"{layer}{name}.weight"] = shape
    for name, n in (("q", 16), ("k", 8), ("v", 8)):
        shapes[f"{layer}self_attn.{name}_proj.bias"] = [n]
    return tensors(shapes)


def beside_weights():
    def folder(config, data):
        return {"config.json": config, "model.safetensors": data}

    yield ok("folder", folder(text(DENSE), weights()))
    yield ok("folder-tied", folder(text(DENSE, tie_word_embeddings=True), weights(head=False)))
    yield bad("folder-tie-flag-without-head", folder(text(DENSE), weights(head=False)),
              "tied-embeddings: found no lm_head.weight, expected one: tie_word_embeddings is false (engines would take random "
              "values)")
    yield bad("folder-vocabulary-is-not-the-embedding", folder(text(DENSE, vocab_size=13), weights()),
              "model.safetensors: tensor lm_head.weight: tensor-shape: found 12 in dimension 0, expected 13 (vocab_size) (and 1 "
              "more error: see fitq inspect)")
    yield bad("folder-width-is-not-the-weights", folder(text(DENSE, intermediate_size=32), weights()),
              "model.safetensors: tensor model.layers.0.mlp.down_proj.weight: tensor-shape: found 24 in dimension 1, expected 32 "
              "(intermediate_size) (and 2 more errors: see fitq inspect)")
    yield bad("folder-one-layer-more", folder(text(DENSE, num_hidden_layers=2), weights()),
              "tensor-missing: found no model.layers.1.self_attn.q_proj.weight, expected one (and 11 more errors: see fitq inspect)")
    yield ok("folder-tied-and-stored", folder(text(DENSE, tie_word_embeddings=True), weights()))


def cases():
    for part in (dense_fields, heads, experts, numbers, quantization, syntax, beside_weights):
        yield from part()
