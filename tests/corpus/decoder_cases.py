"""Cases for what running a model needs of config.json: activation, norms, rotary embedding, windows, routing, end ids.

Each is a config.json whose lengths are sound (config_cases.py has those that are not), read as a decoder.
"""
from config_cases import DENSE, GONE, SPARSE, at, raw, text
from corpus import bad, ok

Q = r"\x22"
SILU = '"silu" (the forward pass computes no other activation)'
EPS = "a number from 1e-30 to 1"
THETA = "a number from 1.001 to 1e+15"
FACTOR = "a number from 1 to 1e+06"
KINDS = "one of default, mrope, linear, dynamic, llama3, yarn (the forward pass computes no other)"
POSITION = "an integer from 1 to 1099511627776"
NOTHING = "nothing (the forward pass does not compute it)"
IDS = "an id, or a list of ids, below vocab_size 12"
ONE_ROPE = "one rotary embedding for all layers (the forward pass computes no other)"
LINEAR = {"rope_type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
VISION = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "vision_config": {"depth": 1},
    "text_config": {**DENSE, "model_type": "qwen2_5_vl_text", "rope_scaling": {"type": "mrope", "mrope_section": [1, 1]}},
}


def field(name, base, key, value, found, expected, shown=None):
    return bad(name, text(base, **{key: value}), f"json-field: {shown or key}: found {found}, expected {expected}")


def scaling(name, value, key, found, expected, **more):
    return bad(name, text(DENSE, rope_scaling=value, **more), f"json-field: rope_scaling.{key}: found {found}, expected {expected}")


def activation():
    yield ok("dense", text(DENSE))
    yield ok("sparse", text(SPARSE, rms_norm_eps=1e-6))
    yield ok("swish", text(DENSE, hidden_act="swish"))
    for act in ("gelu", "gelu_pytorch_tanh", "relu", "SiLU"):
        yield field(f"activation-{act.lower().replace('_', '-')}", DENSE, "hidden_act", act, f'"{act}"', SILU)
    yield field("activation-list", DENSE, "hidden_act", ["silu"], r"[\x22silu\x22]", SILU)
    yield bad("family-without-a-table", text(DENSE, model_type="gemma3_text"),
              'unknown-family: found model_type "gemma3_text", expected one of qwen2, qwen3, qwen2_moe, qwen3_moe, llama, mistral, mixtral, '
              "qwen2_vl, qwen2_5_vl, qwen3_vl")


def norms():
    huge = raw(DENSE, "rms_norm_eps", "1e400")
    yield field("eps-missing", DENSE, "rms_norm_eps", GONE, "nothing", EPS)
    yield field("eps-null", DENSE, "rms_norm_eps", None, "nothing", EPS)
    yield field("eps-true", DENSE, "rms_norm_eps", True, "true", "a number above 0")
    yield field("eps-string", DENSE, "rms_norm_eps", "1e-6", '"1e-6"', "a number above 0")
    yield field("eps-zero", DENSE, "rms_norm_eps", 0.0, "0.0", "a number above 0")
    yield field("eps-negative", DENSE, "rms_norm_eps", -0.5, "-0.5", "a number above 0")
    yield field("eps-below-float", DENSE, "rms_norm_eps", 1e-50, "1e-50", EPS)
    yield field("eps-two", DENSE, "rms_norm_eps", 2, "2", EPS)
    yield bad("eps-1e400", huge,
              f"byte {at(huge, '1e400')}: json-number: rms_norm_eps: found 1e400, expected a number between -1.8e308 and 1.8e308")
    yield ok("eps-integer-one", text(DENSE, rms_norm_eps=1))


def theta():
    yield ok("theta-missing", text(DENSE, rope_theta=GONE))
    yield ok("theta-integer", text(DENSE, rope_theta=1000000))
    yield field("theta-one", DENSE, "rope_theta", 1, "1", THETA)
    yield field("theta-1e22", DENSE, "rope_theta", 1e22, "1e22", THETA)
    yield field("theta-false", DENSE, "rope_theta", False, "false", "a number above 0")
    yield bad("theta-missing-of-qwen3-vl", text(DENSE, model_type="qwen3_vl", rope_theta=GONE),
              "json-field: rope_theta: found nothing, expected a number: versions of this family's class fill in different ones")
    yield bad("theta-twice", text(DENSE, rope_parameters={"rope_theta": 5000.0}),
              "json-field: rope_parameters.rope_theta: found 5000.0, expected 10000 as elsewhere in the file")
    yield ok("theta-twice-the-same", text(DENSE, rope_parameters={"rope_theta": 10000}))


def kinds():
    for kind in ({"rope_type": "default"}, LINEAR, {"type": "linear", "factor": 2}, {"rope_type": "dynamic", "factor": 2.0}, LLAMA3, YARN):
        yield ok("rope-" + (kind.get("rope_type") or "old-" + kind["type"]), text(DENSE, rope_scaling=kind, max_position_embeddings=2048))
    for kind in ("longrope", "su", "ntk", "Linear", "proportional"):
        yield scaling(f"rope-type-{kind.lower()}{'-upper' if kind[0].isupper() else ''}", {"rope_type": kind, "factor": 2.0}, "rope_type",
                      f'"{kind}"', KINDS)
    yield scaling("rope-type-number", {"rope_type": 1, "factor": 2.0}, "rope_type", "1", KINDS)
    yield scaling("rope-type-missing", {"factor": 2.0}, "rope_type", "nothing", "the kind of rotary embedding")
    yield scaling("rope-type-empty-object", {}, "rope_type", "nothing", "the kind of rotary embedding")
    yield scaling("rope-types-differ", {"rope_type": "yarn", "type": "linear", "factor": 2.0}, "type", '"linear"', "the same as rope_type")
    yield ok("rope-types-agree", text(DENSE, rope_scaling={"rope_type": "default", "type": "mrope", "mrope_section": [1, 1]}))
    yield ok("rope-parameters", text(DENSE, rope_theta=GONE, rope_parameters={**YARN, "rope_theta": 1e6}))
    yield ok("rope-parameters-default", text(DENSE, rope_theta=GONE, rope_parameters={"rope_theta": 1e6}))
    yield bad("rope-parameters-forgot-the-type", text(DENSE, rope_parameters={"rope_theta": 10000.0, "factor": 4.0}),
              "json-field: rope_parameters.rope_type: found nothing, expected the kind of rotary embedding")
    yield bad("rope-of-each-kind-of-layer", text(DENSE, rope_parameters={"full_attention": {"rope_type": "default"}}),
              f'json-field: rope_parameters.full_attention: found {{{Q}rope_type{Q}:{Q}default{Q}}}, expected {ONE_ROPE}')
    yield ok("rope-both-spellings", text(DENSE, rope_scaling=LINEAR, rope_parameters={**LINEAR, "rope_theta": 10000.0}))
    yield bad("rope-spellings-differ", text(DENSE, rope_scaling={"rope_type": "linear", "factor": 4}, rope_parameters=LINEAR),
              f'json-field: rope_scaling: found {{{Q}rope_type{Q}:{Q}linear{Q},{Q}factor{Q}:4}}, expected the same rotary embedding as elsewhere in the file')
    yield bad("rope-parameters-list", text(DENSE, rope_parameters=[]), "json-field: rope_parameters: found [], expected an object or null")


def parameters():
    def yarn(**change):
        return {k: v for k, v in {**YARN, **change}.items() if v is not GONE}

    def llama3(**change):
        return {k: v for k, v in {**LLAMA3, **change}.items() if v is not GONE}

    for name, base in (("linear", LINEAR), ("dynamic", {"rope_type": "dynamic"}), ("llama3", llama3()), ("yarn", yarn())):
        without = {k: v for k, v in base.items() if k != "factor"}
        yield scaling(f"{name}-without-factor", without, "factor", "nothing", FACTOR, max_position_embeddings=2048)
        yield scaling(f"{name}-factor-half", {**base, "factor": 0.5}, "factor", "0.5", FACTOR, max_position_embeddings=2048)
    yield scaling("factor-1e9", {"rope_type": "linear", "factor": 1e9}, "factor", "1000000000.0", FACTOR)
    yield bad("factor-true", text(DENSE, rope_scaling={"rope_type": "linear", "factor": True}),
              "json-field: rope_scaling.factor: found true, expected a number above 0")
    yield bad("factor-string", text(DENSE, rope_scaling={"rope_type": "yarn", "factor": "4"}),
              'json-field: rope_scaling.factor: found "4", expected a number above 0')
    nan = raw(DENSE, "rope_scaling", '{"rope_type": "linear", "factor": NaN}')
    yield bad("factor-nan", nan, f"byte {at(nan, 'NaN')}: json-syntax: found 'N', expected a value")
    yield ok("factor-of-the-default-is-not-looked-at", text(DENSE, rope_scaling={"rope_type": "default", "factor": 1}))
    span = "a number from 1e-06 to 1e+06"
    yield scaling("low-freq-missing", llama3(low_freq_factor=GONE), "low_freq_factor", "nothing", span)
    yield scaling("high-freq-zero", llama3(high_freq_factor=0), "high_freq_factor", "0", span)
    yield scaling("high-freq-not-above-low", llama3(high_freq_factor=1), "high_freq_factor", "1", "more than low_freq_factor 1")
    yield scaling("llama3-without-original", llama3(original_max_position_embeddings=GONE), "original_max_position_embeddings", "nothing",
                  POSITION, max_position_embeddings=2048)
    yield scaling("original-zero", yarn(original_max_position_embeddings=0), "original_max_position_embeddings", "0", POSITION)
    yield scaling("original-real", yarn(original_max_position_embeddings=32768.0), "original_max_position_embeddings", "32768.0", POSITION)
    yield scaling("original-2-50", yarn(original_max_position_embeddings=2**50), "original_max_position_embeddings", str(2**50), POSITION)
    yield ok("original-at-the-top", text(DENSE, rope_scaling=llama3(original_max_position_embeddings=GONE), original_max_position_embeddings=8192))
    yield bad("original-at-the-top-negative",
              text(DENSE, rope_scaling=yarn(original_max_position_embeddings=GONE), original_max_position_embeddings=-1),
              f"json-field: original_max_position_embeddings: found -1, expected {POSITION}")
    yield ok("yarn-original-is-the-longest", text(DENSE, rope_scaling=yarn(original_max_position_embeddings=GONE), max_position_embeddings=2048))
    yield scaling("yarn-no-length-at-all", yarn(original_max_position_embeddings=GONE), "original_max_position_embeddings", "nothing", POSITION)
    yield bad("dynamic-no-length-at-all", text(DENSE, rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
              f"json-field: max_position_embeddings: found nothing, expected {POSITION}")
    yield scaling("beta-fast-zero", yarn(beta_fast=0), "beta_fast", "0", span)
    yield scaling("beta-fast-below-slow", yarn(beta_fast=1, beta_slow=2), "beta_fast", "1", "at least beta_slow 2")
    yield scaling("beta-slow-missing-and-above", yarn(beta_fast=0.5), "beta_fast", "0.5", "at least beta_slow 1")
    yield ok("beta-null", text(DENSE, rope_scaling=yarn(beta_fast=None, beta_slow=None, attention_factor=None)))
    yield scaling("attention-factor-negative", yarn(attention_factor=-1.0), "attention_factor", "-1.0", "a number from 0.001 to 1000")
    yield scaling("mscale-string", yarn(mscale="1"), "mscale", '"1"', "a number from 0 to 1000")
    yield ok("mscale-zero", text(DENSE, rope_scaling=yarn(mscale=1.0, mscale_all_dim=0)))
    yield scaling("truncate-number", yarn(truncate=0), "truncate", "0", "true or false")
    yield ok("truncate-false", text(DENSE, rope_scaling=yarn(truncate=False)))
    yield scaling("attn-factor", yarn(attn_factor=2), "attn_factor", "2", NOTHING)
    yield ok("attn-factor-one", text(DENSE, rope_scaling=yarn(attn_factor=1, extrapolation_factor=1.0)))
    yield scaling("short-factor", yarn(short_factor=[1.0]), "short_factor", "[1.0]", NOTHING)


def dimensions():
    def none(name, dims, head, partial, rest="", **change):
        return bad(name, text(DENSE, **change),
                   f"rope-dimensions: found {dims} dimensions of a head that rotate (head_dim {head}, partial_rotary_factor {partial}), "
                   f"expected an even number{rest}")

    yield ok("partial-half", text(DENSE, partial_rotary_factor=0.5))
    yield ok("partial-in-parameters", text(DENSE, rope_parameters={"partial_rotary_factor": 0.5}))
    yield none("partial-odd", 3, 4, "0.8", partial_rotary_factor=0.8)
    yield none("partial-none", 0, 4, "0.1", partial_rotary_factor=0.1)
    yield none("head-dim-odd", 5, 5, "1", head_dim=5)
    yield none("dynamic-of-two", 2, 4, "0.5", " of at least 4", partial_rotary_factor=0.5, max_position_embeddings=64,
               rope_scaling={"rope_type": "dynamic", "factor": 2})
    yield field("partial-above-one", DENSE, "partial_rotary_factor", 1.5, "1.5", "a number from 0.001 to 1")
    yield field("partial-zero", DENSE, "partial_rotary_factor", 0, "0", "a number from 0.001 to 1")
    yield field("positions-real", DENSE, "max_position_embeddings", 2048.0, "2048.0", POSITION)
    yield field("positions-2-50", DENSE, "max_position_embeddings", 2**50, str(2**50), POSITION)


def windows():
    two = dict(num_hidden_layers=2)
    types = '"full_attention" or "sliding_attention" (the forward pass computes no other)'
    yield ok("window-of-mistral-by-default", text(DENSE, model_type="mistral"))
    yield ok("window-of-mistral-none", text(DENSE, model_type="mistral", sliding_window=None))
    yield field("window-of-mistral-zero", {**DENSE, "model_type": "mistral"}, "sliding_window", 0, "0", POSITION)
    yield ok("window-of-mixtral", text(DENSE, model_type="mixtral", sliding_window=8, num_local_experts=4, num_experts_per_tok=2))
    yield bad("window-without-length", text(DENSE, use_sliding_window=True, max_window_layers=0),
              f"json-field: sliding_window: found nothing, expected {POSITION}")
    yield bad("window-null", text(DENSE, use_sliding_window=True, max_window_layers=0, sliding_window=None),
              f"json-field: sliding_window: found nothing, expected {POSITION}")
    yield ok("window-length-of-no-layer", text(DENSE, use_sliding_window=True, max_window_layers=1))
    yield field("window-flag-number", DENSE, "use_sliding_window", 1, "1", "true or false")
    yield field("window-real", DENSE, "sliding_window", 4.0, "4.0", "an integer from 0 to 9223372036854775807")
    for kind in ("linear_attention", "chunked_attention", "mamba", ""):
        yield field(f"layer-{kind.replace('_', '-') or 'nameless'}", {**DENSE, **two}, "layer_types", ["full_attention", kind], f'"{kind}"', types)
    yield bad("layer-slides-against-the-flag", text(DENSE, layer_types=["sliding_attention"], sliding_window=4, use_sliding_window=False),
              'json-field: use_sliding_window: found false, expected true, as layer_types has "sliding_attention"')
    yield ok("layer-slides", text(DENSE, layer_types=["sliding_attention"], sliding_window=4, use_sliding_window=True))
    yield ok("layer-of-llama-slides", text(DENSE, model_type="llama", layer_types=["sliding_attention"], sliding_window=4))
    yield bad("layer-of-llama-slides-without-length", text(DENSE, model_type="llama", layer_types=["sliding_attention"]),
              f"json-field: sliding_window: found nothing, expected {POSITION}")


def routing():
    sparse = {**SPARSE, "rms_norm_eps": 1e-6}
    yield ok("norm-topk-missing", text(sparse))
    yield field("norm-topk-number", sparse, "norm_topk_prob", 1, "1", "true or false")
    yield field("routed-scaling", sparse, "routed_scaling_factor", 2.5, "2.5", NOTHING)
    yield ok("routed-scaling-one", text(sparse, routed_scaling_factor=1.0))
    yield field("scoring-sigmoid", sparse, "scoring_func", "sigmoid", '"sigmoid"', '"softmax" (the forward pass computes no other)')


def others():
    for key, value, shown in (("attn_logit_softcapping", 50.0, "50.0"), ("final_logit_softcapping", 30, "30"), ("kv_lora_rank", 512, "512"),
                              ("linear_num_value_heads", 32, "32"), ("residual_multiplier", 0.22, "0.22"), ("logits_scaling", 8.0, "8.0"),
                              ("attention_chunk_size", 8192, "8192"), ("no_rope_layers", [1, 0], "[1,0]"), ("alibi", True, "true")):
        yield field(key.replace("_", "-"), DENSE, key, value, shown, NOTHING)
    yield ok("others-that-change-nothing", text(DENSE, attn_logit_softcapping=None, residual_multiplier=1.0, alibi=False, no_rope_layers=[]))
    yield field("qk-norm-of-qwen2", DENSE, "use_qk_norm", True, "true", "false (this family has no such norm)")
    yield ok("qk-norm-of-qwen3", text(DENSE, model_type="qwen3", head_dim=4, use_qk_norm=True))


def ends():
    yield ok("eos", text(DENSE, eos_token_id=11))
    yield ok("eos-list", text(DENSE, eos_token_id=[1, 2, 11]))
    yield ok("eos-null", text(DENSE, eos_token_id=None))
    yield ok("eos-empty-list", text(DENSE, eos_token_id=[]))
    for name, value, shown in (("minus-one", -1, "-1"), ("2-31", 2**31, "2147483648"), ("2-32", 2**32, "4294967296"), ("vocab", 12, "12"),
                               ("real", 2.0, "2.0"), ("string", "2", '"2"'), ("true", True, "true"), ("object", {}, "{}")):
        yield field(f"eos-{name}", DENSE, "eos_token_id", value, shown, IDS)
    yield field("eos-in-list-past-the-vocabulary", DENSE, "eos_token_id", [1, 99], "99", IDS)
    yield field("eos-list-of-lists", DENSE, "eos_token_id", [[1]], "[1]", IDS)
    yield field("eos-too-many", DENSE, "eos_token_id", list(range(12)) + [0] * 5, "0", "at most 16 ids")


def towers():
    def tower(top, **sub):
        return text({**VISION, **top}, text_config={k: v for k, v in {**VISION["text_config"], **sub}.items() if v is not GONE})

    yield ok("tower", tower({}))
    yield ok("tower-same-at-the-top", tower({"rope_scaling": {"rope_type": "default", "mrope_section": [1, 1]}, "rope_theta": 10000}))
    yield bad("tower-other-theta-at-the-top", tower({"rope_theta": 1e6}),
              "json-field: rope_theta: found 1000000.0, expected 10000 as elsewhere in the file")
    yield bad("tower-other-eps-at-the-top", tower({"rms_norm_eps": 0.5}, rms_norm_eps=0.25),
              "json-field: rms_norm_eps: found 0.5, expected 0.25 as in text_config")
    yield bad("tower-other-rope-at-the-top", tower({"rope_scaling": LINEAR}),
              f'json-field: rope_scaling: found {{{Q}rope_type{Q}:{Q}linear{Q},{Q}factor{Q}:2.0}}, expected the same rotary embedding as elsewhere in the file')
    yield bad("tower-activation", tower({}, hidden_act="gelu"), f'json-field: hidden_act: found "gelu", expected {SILU}')
    yield ok("tower-eos-differs", tower({"eos_token_id": 1}, eos_token_id=2))


def cases():
    for part in (activation, norms, theta, kinds, parameters, dimensions, windows, routing, others, ends, towers):
        yield from part()
