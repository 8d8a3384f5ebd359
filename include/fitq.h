/* fitq.h - the public interface of libfitq.
 *
 * fitq makes a large language model fit a number of GPUs: it inspects a checkpoint, plans axis lengths that an
 * engine accepts, pads the weights so that the function stays the same, undoes that, and proves it.
 *
 *     fq_err err;
 *     fq_pad_options o = { .source = "Qwen2-72B", .target = "Qwen2-72B-tp8", .tp = (int[]){8}, .n_tp = 1 };
 *     if (fq_pad(&o, NULL, NULL, &err) != FQ_OK) fprintf(stderr, "%s\n", err.text);
 *
 * Conventions, the same everywhere:
 *   - a function that can fail returns fq_status and takes fq_err * last (NULL is allowed); on failure its outputs
 *     are untouched;
 *   - open/close pairs hold descriptors, create/free pairs only memory; both destructors accept NULL;
 *   - `const T *` results are borrowed and live as long as the object they came from;
 *   - dims are int64_t, byte counts and file positions uint64_t, indices into our own arrays size_t;
 *   - a padded length is always called *_pad; a plain name is the length in the source checkpoint;
 *   - the library keeps no globals and prints nothing. Distinct objects may be used from distinct threads; one
 *     object may be read from many threads, and no function writes to an object after it was created. The callbacks
 *     of an fq_run are called from the thread that called the library, never from a worker.
 */
#ifndef FITQ_H
#define FITQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FQ_VERSION_MAJOR 0
#define FQ_VERSION_MINOR 1
#define FQ_VERSION_PATCH 0
#define FQ_VERSION "0.1.0"

/* FQ_VERSION of the library that is linked, which may differ from the header's. */
const char *fq_version(void);

/* ---- status and errors ---------------------------------------------------------------------------------------- */

/* Pinned for ever: the command line exits with the negated value. */
typedef enum fq_status {
    FQ_OK = 0,
    FQ_E_DIFFERS = -1,  /* verify: the two checkpoints are not the same model */
    FQ_E_USAGE = -2,    /* the request makes no sense, whatever the input */
    FQ_E_INPUT = -3,    /* bad or unsupported input file */
    FQ_E_IO = -4,       /* the system refused: open, read, write, space, permissions */
    FQ_E_NOMEM = -5,    /* out of memory, or over the memory budget */
    FQ_E_NUMERIC = -6,  /* NaN, overflow, a factorization that fails */
    FQ_E_PEER = -7,     /* another rank is gone or silent, or ranks do different things */
    FQ_E_DEVICE = -8,   /* accelerator */
    FQ_E_RESUME = -9,   /* saved state does not belong to this request, or is damaged */
    FQ_E_CANCELLED = -10 /* fq_run.cancelled said so; the state was saved */
} fq_status;

/* `text` is the whole message: "FILE: tensor NAME: byte OFFSET: RULE: found X, expected Y", with the parts that do not
 * apply left out and every name from a file escaped (no control bytes reach a terminal) and cut at 200 bytes. */
typedef struct fq_err {
    fq_status code;
    int sys_errno;    /* 0 if no system call failed */
    char rule[64];    /* stable kebab-case name of the rule that was broken, e.g. "header-length" */
    char text[2048];
} fq_err;

/* ---- how a job runs (not what it does) ------------------------------------------------------------------------ */

typedef enum fq_log_level { FQ_LOG_INFO, FQ_LOG_WARN } fq_log_level;

/* FQ_IO_AUTO: large files bypass the page cache where the file system can (no eviction of other people's pages,
 * constant memory), small ones do not. The bytes written are the same. */
typedef enum fq_io { FQ_IO_AUTO, FQ_IO_DIRECT, FQ_IO_BUFFERED } fq_io;

typedef struct fq_progress {
    const char *phase;    /* "pad", "verify", ... */
    const char *item;     /* tensor in hand, escaped */
    uint64_t done_bytes, total_bytes;
    size_t done_items, total_items;
} fq_progress;

/* All members may be zero. */
typedef struct fq_run {
    int n_thread;             /* 0 = one per processor, at most 8 */
    uint64_t memory_bytes;    /* bound for I/O buffers; 0 = 128 MiB. Of what runs a model: bound for the whole process; 0 = what runs well,
                                 at most 3/4 of what is free. Too small to work in: FQ_E_NOMEM, "memory-budget" */
    fq_io io;
    void (*progress)(void *user, const fq_progress *p);
    void (*log)(void *user, fq_log_level level, const char *line);  /* line: no newline, escaped */
    bool (*cancelled)(void *user);  /* asked every few MiB; true = save state and stop with FQ_E_CANCELLED. Of a process under mpirun also asked
                                       by the thread that watches the other ranks */
    void *user;
    int n_rank;                 /* of jobs that can be divided over ranks: so many threads of this process; 0 = as mpirun or srun started it, else 1; 1 = this process
                                   alone, however it was started */
    bool expert_parallel;       /* ranks hold whole experts instead of a slice of each */
    double heartbeat_seconds;   /* a process that gave no sign of life for so long ends the job; 0 = 60 */
    void (*lost)(void *user, const char *line);   /* another process is gone, and the job with it: MPI ends this process after this call, from
                                                     whatever thread it came */
} fq_run;

/* Which rank this process is, by what mpirun or srun told it; 0 without them. Of a job on several ranks all return the same status and message:
 * rank 0 shall print. */
int fq_rank(void);

/* ---- data types ----------------------------------------------------------------------------------------------- */

/* In the rank order of safetensors (a writer sorts by it, largest first). */
typedef enum fq_dtype {
    FQ_DTYPE_BOOL, FQ_DTYPE_F4, FQ_DTYPE_F6_E2M3, FQ_DTYPE_F6_E3M2, FQ_DTYPE_U8, FQ_DTYPE_I8, FQ_DTYPE_F8_E5M2,
    FQ_DTYPE_F8_E4M3, FQ_DTYPE_F8_E8M0, FQ_DTYPE_F8_E4M3FNUZ, FQ_DTYPE_F8_E5M2FNUZ, FQ_DTYPE_I16, FQ_DTYPE_U16,
    FQ_DTYPE_F16, FQ_DTYPE_BF16, FQ_DTYPE_I32, FQ_DTYPE_U32, FQ_DTYPE_F32, FQ_DTYPE_C64, FQ_DTYPE_F64, FQ_DTYPE_I64,
    FQ_DTYPE_U64,
    FQ_N_DTYPE
} fq_dtype;

const char *fq_dtype_name(fq_dtype d);  /* the safetensors spelling, "BF16"; "?" if out of range */
unsigned fq_dtype_bits(fq_dtype d);     /* bits per element; 4 and 6 for the sub-byte types */

#define FQ_MAX_RANK 8

/* ---- a model, as its config.json describes it ------------------------------------------------------------------ */

typedef enum fq_quant_method {
    FQ_QUANT_NONE, FQ_QUANT_GPTQ, FQ_QUANT_AWQ, FQ_QUANT_COMPRESSED_TENSORS, FQ_QUANT_FP8, FQ_QUANT_OTHER
} fq_quant_method;

/* Plain data: filled by fq_model_read, or by hand (the planner needs nothing else). 0 = the model has no such thing. */
typedef struct fq_model {
    char model_type[64];
    char architecture[96];    /* config.json "architectures"[0] */
    char family[32];          /* row of the family table, "" when fitq does not know the family */
    int64_t hidden_size, vocab_size, num_hidden_layers;
    int64_t intermediate_size;               /* of the dense MLP; 0 if every layer is sparse */
    int64_t moe_intermediate_size;           /* of one routed expert */
    int64_t shared_expert_intermediate_size;
    int64_t num_experts, num_experts_per_tok;
    int64_t n_dense_layer, n_moe_layer;      /* add up to num_hidden_layers */
    int64_t num_attention_heads, num_key_value_heads, head_dim;
    bool head_dim_explicit;   /* config.json has the key (engines that ignore it compute hidden_size / heads) */
    bool tie_word_embeddings;
    bool q_bias, kv_bias, o_bias, mlp_bias;
    bool qk_norm;
    bool sliding_window;      /* any layer attends through a window */
    int64_t max_position_embeddings;  /* 0 if absent */
    bool vision_tower;        /* vision_config or audio_config: weights beside the text model, which no length or price here counts */
    char torch_dtype[16];     /* "bfloat16"; "" if absent */
    fq_quant_method quant;    /* FP8: also of compressed-tensors with 8-bit floats; quant_name tells them apart */
    char quant_name[48];      /* config's quant_method, as written */
    int quant_bits, quant_group_size;  /* group_size -1 = one group per row; FP8: the block width */
    bool quant_sym, quant_desc_act;
} fq_model;

/* Reads PATH: a config.json, or a folder that has one. Every number is checked (a missing or absurd field is an error
 * that names it, never a default). An unknown model_type succeeds with family "" when the usual fields are there. */
fq_status fq_model_read(const char *path, fq_model *out, fq_err *e);

/* Known families in table order: name, or NULL past the end. */
const char *fq_family_name(size_t i);

/* Lengths after fitting. 0 = unchanged. */
typedef struct fq_fit {
    int64_t intermediate_size_pad;
    int64_t moe_intermediate_size_pad;
    int64_t shared_expert_intermediate_size_pad;
    int64_t num_attention_heads_pad;
    int64_t num_key_value_heads_pad;
    int64_t kv_replication;   /* every KV head stored this many times before KV heads are added; 0 and 1 = once */
    int64_t vocab_size_pad;
} fq_fit;

/* ---- checkpoints ---------------------------------------------------------------------------------------------- */

typedef struct fq_ckpt fq_ckpt;

typedef enum fq_severity { FQ_NOTE, FQ_WARNING, FQ_ERROR } fq_severity;

typedef struct fq_finding {
    fq_severity severity;
    const char *rule;    /* as in fq_err.rule */
    const char *text;    /* as in fq_err.text */
} fq_finding;

typedef struct fq_tensor_info {
    const char *name;     /* as stored, not escaped */
    const char *shard;    /* file name inside the folder */
    fq_dtype dtype;
    int rank;
    int64_t shape[FQ_MAX_RANK];
    uint64_t bytes;
    const char *role;     /* "q_proj", "norm", ...; "" if not in the family table, "passed through" if copied as is */
} fq_tensor_info;

typedef struct fq_ckpt_info {
    const char *path;
    bool has_model;        /* a config.json was there and could be read into `model` */
    fq_model model;
    const char *container; /* "safetensors" or "torch zip" */
    size_t n_tensor, n_shard;
    uint64_t n_param;      /* elements of floating-point and packed weights; packed int32 words count as 32/bits each */
    uint64_t tensor_bytes, file_bytes;
    uint64_t dtype_bytes[FQ_N_DTYPE];
    const char *prefix;    /* what stands before "layers.0." in the names, e.g. "model." */
    const char *wrapper;   /* the part of it that a trainer added, "" if none */
    bool tied;             /* no stored output head */
    bool fitted;           /* carries fitq.json */
} fq_ckpt_info;

/* Opens PATH: a folder, a .safetensors or .bin file, or an index.json. Reads headers only. Unsound content does not
 * fail the call as long as anything can be said: it becomes findings, all of them. Fails if PATH cannot be opened. */
fq_status fq_ckpt_open(const char *path, const fq_run *run, fq_ckpt **out, fq_err *e);
void fq_ckpt_close(fq_ckpt *c);

const fq_ckpt_info *fq_ckpt_get_info(const fq_ckpt *c);
void fq_ckpt_get_tensor(const fq_ckpt *c, size_t i, fq_tensor_info *out);  /* i < n_tensor, in name order */
size_t fq_ckpt_n_finding(const fq_ckpt *c);
const fq_finding *fq_ckpt_get_finding(const fq_ckpt *c, size_t i);  /* errors first */
/* FQ_E_INPUT with the first error finding (and how many more there are) if there is one. */
fq_status fq_ckpt_check(const fq_ckpt *c, fq_err *e);

/* ---- plans ---------------------------------------------------------------------------------------------------- */

/* Engines and formats are tables in the library. Returns NULL past the end. */
typedef struct fq_engine_info {
    const char *id, *name, *version, *source;
    bool is_default;
} fq_engine_info;
const fq_engine_info *fq_engine_get(size_t i);

typedef struct fq_format_info {
    const char *id, *name;
    double bits_per_weight;   /* without scales */
    int group_size;           /* the format's own group or block, 0 = none, -1 = the user's choice */
    const char *source;
} fq_format_info;
const fq_format_info *fq_format_get(size_t i);

typedef struct fq_plan_request {
    const int *tp;                  /* GPU counts, 1..64 each */
    size_t n_tp;
    const char *const *engine;      /* ids; NULL = the default set */
    size_t n_engine;
    const char *const *format;      /* ids; NULL = the checkpoint's own, or bf16 and gptq-marlin */
    size_t n_format;
    int group_size;                 /* 0 = the checkpoint's own, or 128 */
    int64_t context;                /* tokens for the KV cache; 0 = 8192 */
    int kv_cache_bits;              /* per element, 0 = 16 */
    uint64_t gpu_memory_bytes;      /* of one GPU; 0 = not asked */
    bool expert_parallel;           /* engines that can are started so that each GPU has whole experts */
} fq_plan_request;

typedef enum fq_verdict {
    FQ_RUNS,          /* as it is */
    FQ_NEEDS_FIT,     /* after the fit named in the entry */
    FQ_IMPOSSIBLE,    /* fitq knows no fit; `note` says why */
    FQ_UNKNOWN        /* the tables have no rules for this engine with this format: not judged */
} fq_verdict;

typedef struct fq_violation {
    const char *rule;       /* stable name, e.g. "group-split" */
    const char *source;     /* engine file or issue that states the rule */
    const char *engine_text;/* what the engine prints when it happens, or NULL */
    bool silent;            /* the engine does not refuse: it computes something else */
    char tensor[64];        /* e.g. "mlp.down_proj" */
    char text[256];         /* "in_features 29568 / 8 GPUs = 3696 is not a multiple of group_size 128" */
} fq_violation;

/* A way to make it run, with its price. Percentages are against the unpadded model in the same format. */
typedef struct fq_option {
    const char *what;       /* "pad intermediate_size 29568 -> 29696", "regroup 128 -> 64", "quantize in groups of 64",
                               "expert parallel", "write as llama", "as it is"; owned by the plan */
    fq_fit fit;             /* all zero when the weights stay as they are */
    int group_size;         /* 0 = unchanged */
    bool expert_parallel;
    double param_percent, byte_percent;
    uint64_t weight_bytes_per_gpu;
    uint64_t kv_bytes_per_token_per_gpu;
    double cost;            /* weights plus KV cache for the context, bytes per GPU: options are sorted by it */
    char reexpress_as[32];  /* "llama" when the engine ignores head_dim for this family, else "". With fit all zero: the
                               config as it is would be misread, and another architecture is the whole fix */
} fq_option;

/* One (engine, format, GPU count). */
typedef struct fq_plan_entry {
    const fq_engine_info *engine;
    const fq_format_info *format;
    int tp, group_size;
    fq_verdict verdict;
    size_t n_violation;  const fq_violation *violation;
    size_t n_option;     const fq_option *option;   /* option[0] is the one that is chosen; as it is: n_option >= 1 with
                                                       fit all zero and the price of the model unchanged */
    const char *note;       /* "" if there is nothing to say; owned by the plan */
    /* when gpu_memory_bytes was given */
    bool memory_asked;
    bool memory_known;               /* false: attention of this kind or a vision tower is not modelled, and the four fields
                                        below say nothing */
    bool memory_fits;
    uint64_t memory_need_bytes;      /* weights + KV cache for the context + overhead, per GPU */
    int64_t longest_context;         /* 0 if the weights alone do not fit; at most max_position_embeddings where given */
    double bits_that_fit;            /* largest of 16, 8, 4, 3, 2 and the format's own bits at which it would; 0 = none */
} fq_plan_entry;

typedef struct fq_plan fq_plan;

/* Pure: no files. Time is milliseconds. FQ_E_USAGE for an unknown engine or format or a count out of range. */
fq_status fq_plan_create(const fq_model *m, const fq_plan_request *r, fq_plan **out, fq_err *e);
void fq_plan_free(fq_plan *p);
size_t fq_plan_n_entry(const fq_plan *p);
const fq_plan_entry *fq_plan_get_entry(const fq_plan *p, size_t i);  /* engine-major, then format, then GPU count */
/* The cheapest single fit that satisfies every entry at once, for `fq_pad` with several counts. All zero: nothing to pad (one entry
 * or more may still ask for reexpress_as). FQ_E_INPUT if one entry is impossible or not judged. */
fq_status fq_plan_joint_fit(const fq_plan *p, fq_fit *out, fq_err *e);

/* ---- pad, unpad, verify --------------------------------------------------------------------------------------- */

typedef enum fq_layout { FQ_LAYOUT_SPREAD, FQ_LAYOUT_TAIL, FQ_LAYOUT_INTERLEAVE } fq_layout;

/* What one output tensor is made of; borrowed for the duration of the callback. */
typedef struct fq_tensor_change {
    const char *name;          /* as written */
    const char *source_name;   /* as read; NULL for a tensor of zeros that fitq adds */
    fq_dtype dtype;
    int rank;
    int64_t shape[FQ_MAX_RANK];
    int64_t shape_pad[FQ_MAX_RANK];
    uint64_t bytes, bytes_pad;
    const char *shard;         /* file it goes to */
} fq_tensor_change;

/* Zero-initialise, then set what is needed. Strings are borrowed for the call. */
typedef struct fq_pad_options {
    const char *source, *target;
    const int *tp; size_t n_tp;          /* fit every one of these GPU counts... */
    const char *const *engine; size_t n_engine;
    const char *const *format; size_t n_format;  /* NULL = gptq-marlin */
    int group_size;                      /* 0 = 128: also the unit in which spread avoids all-zero groups */
    int regroup;                         /* of integers that are quantized already: 32, 64 or 128 channels share a scale afterwards; 0 = as they are */
    bool fold_order;                     /* of a checkpoint in activation order: store the channels of each MLP in the order of their groups, so that g_idx of down_proj is
                                            k / group_size: exact. FQ_E_INPUT "packed-order" if groups differ in size */
    int64_t context;
    fq_fit fit;                          /* ...or exactly these lengths (used when n_tp is 0; overrides where not 0) */
    fq_layout layout;
    bool vocab;                          /* may change vocab_size (adds logits that are exactly 0: see docs/padding.md) */
    const char *prefix;                  /* NULL or "keep", "add", "strip", or the prefix itself */
    const char *reexpress_as;            /* NULL, or "llama": write qwen2 / mistral as LlamaForCausalLM */
    uint64_t shard_bytes;                /* 0 = 5 GB */
    bool overwrite, resume, dry_run;
    void (*on_tensor)(void *user, const fq_tensor_change *t);  /* dry run: every tensor, in output order */
    void *user;
} fq_pad_options;

typedef struct fq_pad_report {
    fq_model model, model_pad;
    fq_fit fit;
    fq_layout layout;
    size_t n_tensor, n_tensor_changed, n_tensor_added, n_shard;
    uint64_t bytes, bytes_pad, file_bytes;
    uint64_t peak_memory_bytes;   /* estimate: buffers and tables */
    uint64_t resumed_bytes;       /* found done by a resumed run */
    bool exact_bits;              /* no sum has a zero in front of a real term: bit-identical in every order of summation that goes by index
                                     alone. (In fitq's own fixed order every fit is bit-identical: docs/padding.md, section 3.) */
    size_t n_folded;              /* MLPs (experts each) whose channels were put in the order of their groups */
    size_t n_order_left;          /* with fold_order: modules whose g_idx stays out of order; while there is any, config.json says desc_act */
    double seconds;
} fq_pad_report;

/* Writes a fitted copy of `source` to `target`. Until the last rename the target is as it was; what an interrupted run
 * leaves beside it ("TARGET.fitq-partial") is what `resume` continues. `report` may be NULL. */
fq_status fq_pad(const fq_pad_options *o, const fq_run *run, fq_pad_report *report, fq_err *e);

typedef struct fq_unpad_options {
    const char *source, *target;
    uint64_t shard_bytes;
    bool overwrite, resume;
} fq_unpad_options;

/* The inverse, from fitq.json beside the weights. Each tensor's hash is compared with the one recorded by fq_pad;
 * a difference is FQ_E_DIFFERS and nothing is committed. A model that fitq quantized is FQ_E_INPUT, "quantized". */
fq_status fq_unpad(const fq_unpad_options *o, const fq_run *run, fq_pad_report *report, fq_err *e);

/* Zero-initialise. Strings are borrowed for the call. */
typedef struct fq_adapter_options {
    const char *adapter;           /* folder as PEFT saves it: adapter_config.json, adapter_model.safetensors or .bin */
    const char *like;              /* the fitted model: its fitq.json (and fitq.order) has the maps */
    const char *target;
    bool back;                     /* the adapter was trained on the fitted model and is wanted for the original */
    bool drop;                     /* back: leave out what the original has no place for, instead of refusing */
    bool overwrite, dry_run;       /* dry run: everything is checked, nothing is written */
} fq_adapter_options;

typedef struct fq_adapter_report {
    size_t n_tensor, n_tensor_changed;
    uint64_t bytes, bytes_pad;
    uint64_t peak_memory_bytes;    /* estimate: buffers and tables */
    uint64_t n_dropped;            /* back: channels, inputs of heads and rows with values that were left out */
    double seconds;
} fq_adapter_report;

/* Carries a LoRA adapter by the maps of the model that it belongs to: A's columns go with the layer's inputs, B's rows with its outputs, so that base and
 * adapter together are the same function before and after. FQ_E_INPUT: "adapter-files", "adapter-type", "adapter-tensor", "adapter-shape",
 * "adapter-dora", and on the way back "adapter-drop", when the adapter holds values that reach the outputs in places which the original does not
 * have. `report` may be NULL. */
fq_status fq_adapt(const fq_adapter_options *o, const fq_run *run, fq_adapter_report *report, fq_err *e);

typedef struct fq_verify_report {
    size_t n_tensor, n_tensor_equal, n_tensor_mapped, n_tensor_added, n_tensor_bad;
    size_t n_tensor_form;         /* of the bad ones: missing, not accounted for, or of another shape or type; no element was compared */
    size_t n_tensor_recoded;      /* parts of quantized modules that A has in another form, and whose weights are the same numbers; counted as elements
                                     are the weights */
    uint64_t n_element_same;      /* elements of B that are the element of A that the map names */
    uint64_t n_element_copy;      /* of those: second and further copies of one element (KV replication) */
    uint64_t n_element_zero;      /* elements of B that the map leaves empty, and that are zero */
    uint64_t n_element_missing;   /* elements of A that no element of B holds */
    uint64_t n_element_wrong;
    char first_bad[512];          /* the first difference, as an error line; "" if none */
} fq_verify_report;

/* The structural proof: B against A under the maps in B's fitq.json (none: identity). FQ_E_DIFFERS if it fails; the
 * report is filled then too, and everything was compared: the counts are of the whole. Two quantized checkpoints in different forms (see
 * fq_convert) are compared as numbers. A B that fitq quantized is FQ_E_INPUT, "quantized", unless A is too: its weights were rounded. */
fq_status fq_verify_weights(const char *a, const char *b, const fq_run *run, fq_verify_report *report, fq_err *e);

/* ---- quantizing ------------------------------------------------------------------------------------------------- */

typedef enum fq_method { FQ_METHOD_GPTQ, FQ_METHOD_RTN } fq_method;
typedef enum fq_packing { FQ_PACKING_GPTQ, FQ_PACKING_COMPRESSED_TENSORS } fq_packing;

/* How scales are chosen. WEIGHTED: by a search that weighs each weight's error by the curvature of its column. MIN_MAX: from the extreme
 * weights, as GPTQ's reference does. */
typedef enum fq_scale_rule { FQ_SCALE_WEIGHTED, FQ_SCALE_MIN_MAX } fq_scale_rule;
/* Which numbers scales may be. BOTH: those that fp16 and bf16 hold alike, so that engines that round scales to the type of the model
 * compute with the same weights. */
typedef enum fq_scale_store { FQ_SCALE_BOTH, FQ_SCALE_FP16 } fq_scale_store;
/* FOLD: MLP channels are stored in the order of their importance (gate, up and down alike, so the function stays); other inputs are
 * processed in that order. ORDER: processed only. NONE: natural order. g_idx is trivial in every case. */
typedef enum fq_act_order { FQ_ORDER_FOLD, FQ_ORDER_STATIC, FQ_ORDER_NONE } fq_act_order;

/* What a quantizer looks at. All members may be zero. */
typedef struct fq_calib_options {
    const char *file;        /* .txt: text; .jsonl: lines with "text" or "messages"; NULL: the model writes its own text */
    const char *ids;         /* or a file of ids */
    int64_t samples;         /* windows; 0 = 512 */
    int64_t seqlen;          /* tokens of a window; 0 = 512 */
    uint64_t seed;           /* which windows, and what the model writes; 0 is a seed */
} fq_calib_options;

/* One linear layer, done. Strings live for the callback, or as long as the report. */
typedef struct fq_module_report {
    const char *name;        /* as in the source, without ".weight" */
    int64_t layer;
    const char *role;
    int64_t rows, cols;      /* in the source */
    int bits; int64_t group_size;
    const char *method;      /* "gptq", "weighted rounding", "rounding" */
    const char *why;         /* why not gptq, "" else: "12 tokens reached this expert, expected at least 288", "Cholesky: ..." */
    double error;            /* tr(E H E^T) per token */
    double relative;         /* |E X|^2 / |W X|^2, over sampled rows */
    double damp;             /* share of the mean diagonal that was added */
    uint64_t n_token;        /* that reached it */
    uint64_t n_silent;       /* inputs that were 0 in all of these: their weights are rounded to the nearest */
    double seconds;
} fq_module_report;

/* What a run will do, known before it starts. */
typedef struct fq_quantize_plan {
    fq_model model, model_pad;
    fq_fit fit;
    uint64_t memory_bytes;          /* estimate of the peak resident memory of the process */
    uint64_t scratch_bytes;         /* of activations on disk */
    uint64_t weight_bytes, file_bytes;   /* read; written */
    size_t n_module, n_left;        /* quantized; weight matrices left as they are */
    int64_t samples, seqlen;
    uint64_t n_token;
    size_t n_distinct;              /* different ids among them */
    double tokens_per_input;        /* tokens / largest number of input channels */
    const char *calib_source;
    int n_thread;
    const char *kernel;
    size_t resumed_layers;          /* found done */
} fq_quantize_plan;

/* Zero-initialise. pad: source, target, and how to fit (n_tp, fit, layout, ...; group_size, formats and resume there are not used),
 * overwrite, dry_run, on_tensor. */
typedef struct fq_quantize_options {
    fq_pad_options pad;
    fq_method method;
    fq_packing packing;
    int bits;                    /* 2, 3, 4, 8; 0 = 4 */
    int64_t group_size;          /* 32, 64, 128, -1 = one group per row; 0 = 128 */
    bool asymmetric;
    bool textbook;               /* GPTQ as published: min-max scales when a group begins, natural order, no refit: for comparisons */
    fq_scale_rule scale;
    fq_scale_store scale_store;
    bool positive_scales;        /* for loaders that take scales to be positive */
    fq_act_order order;
    double damp;                 /* share of the mean diagonal; 0 = 0.01 */
    double shift;                /* above 0, at most 1: share by which weights move to undo the error of earlier layers, less where data are few;
                                  * 0 = 0.75, -1 = none (no second set of hidden states) */
    int refit;                   /* rounds of refitting scales and single codes; 0 = the default, -1 = none */
    bool lm_head;                /* quantize the output head too */
    bool strict;                 /* what would fall back to rounding is an error */
    bool restart;                /* discard what an interrupted run left; else it is continued where it belongs to this request */
    int64_t min_expert_tokens;   /* 0 = a quarter of the expert's input width; -1 = any */
    fq_calib_options calib;
    const char *scratch;         /* folder for activations beyond the memory budget; NULL = inside the unfinished output */
    void (*on_plan)(void *user, const fq_quantize_plan *p);
    void (*on_module)(void *user, const fq_module_report *m);
    void *user;
} fq_quantize_options;

typedef struct fq_stage { const char *name; double seconds; uint64_t peak_bytes; } fq_stage;   /* "calibration text", "forward", "hessian", ... */

typedef struct fq_quantize_report {
    fq_quantize_plan plan;
    size_t n_module; fq_module_report *module;      /* freed by fq_quantize_report_free */
    size_t n_fallback;           /* modules that were not done by the method asked for */
    double scale_effect;         /* largest relative change of a scale by rounding it to the type that is stored */
    uint64_t file_bytes;
    size_t n_stage; fq_stage *stage;
    double seconds;
    void *priv;
} fq_quantize_report;
void fq_quantize_report_free(fq_quantize_report *r);   /* NULL and zeroed are fine */

/* Writes a quantized (and, where asked, fitted) copy of `source` to `target`, a layer at a time. Never loses a finished layer: what an
 * interrupted run leaves beside the target is continued by the same request, to the same bytes; another request is FQ_E_RESUME, naming
 * what differs. `report` may be NULL.
 * FQ_E_NUMERIC: weights that are not finite (before calibration), or strict and a factor that fails. */
fq_status fq_quantize(const fq_quantize_options *o, const fq_run *run, fq_quantize_report *report, fq_err *e);

/* ---- how long it takes ---- */

/* What a rank and what connects ranks can do, a second. flops: of products of large matrices in fp32, all threads of a rank. latency_seconds: that one
 * message takes, however small. */
typedef struct fq_cost_rates { double flops, disk_bytes, network_bytes, latency_seconds; } fq_cost_rates;

typedef struct fq_quantize_cost_request {
    int64_t samples, seqlen;     /* calibration: windows, tokens of each */
    int bits;
    bool no_shift;
    fq_cost_rates rates;
} fq_quantize_cost_request;

/* Seconds of the slowest rank, by parts that add up to `seconds`. reduce: sums over ranks; gather: codes to all, and hidden states to the rank that
 * writes. read, write: what is not hidden behind computing; without the embeddings and the output head. */
typedef struct fq_quantize_cost {
    int n_rank;
    double read, forward, hessian, reduce, factor, solve, gather, write, seconds;
    double read_bytes, write_bytes;
} fq_quantize_cost;

/* Measures flops of this machine with n_thread threads (0 = as everywhere) in about half a second; the other rates are left as they are. */
fq_status fq_measure_rates(int n_thread, fq_cost_rates *out, fq_err *e);
/* A model of fq_quantize on n_rank ranks, of the usual settings: pure. Operations are counted on the shapes, batches and tiles that the run uses.
 * FQ_E_USAGE, "quantize-cost": a count or a rate that is not positive. */
fq_status fq_quantize_cost_of(const fq_model *m, const fq_quantize_cost_request *r, int n_rank, fq_quantize_cost *out, fq_err *e);

/* ---- converting ------------------------------------------------------------------------------------------------ */

/* What quantized weights can be written as. GPTQ stores zero points minus one, GPTQ_V2 as they are; AWQ is version gemm. The last three
 * are numbers instead of codes. */
typedef enum fq_form { FQ_FORM_GPTQ, FQ_FORM_GPTQ_V2, FQ_FORM_COMPRESSED_TENSORS, FQ_FORM_AWQ, FQ_FORM_BF16, FQ_FORM_FP16, FQ_FORM_FP32, FQ_N_FORM } fq_form;
const char *fq_form_name(fq_form f);   /* "gptq_v2"; NULL past the end */

/* How the zero points of a GPTQ checkpoint are stored, when its label is wrong. */
typedef enum fq_zeros { FQ_ZEROS_AS_LABELLED, FQ_ZEROS_V1, FQ_ZEROS_V2 } fq_zeros;

/* Zero-initialise, then set what is needed. Strings are borrowed for the call. */
typedef struct fq_convert_options {
    const char *source, *target;
    fq_form to;
    fq_zeros zeros;
    uint64_t shard_bytes;                /* 0 = 5 GB */
    bool overwrite, resume, dry_run;
    void (*on_tensor)(void *user, const fq_tensor_change *t);  /* dry run: every tensor, in output order; source_name: what it is read for */
    void *user;
} fq_convert_options;

typedef struct fq_convert_report {
    fq_pad_report wrote;                 /* model and model_pad: before and after; fit and layout say nothing */
    size_t n_module;                     /* in another form now */
    int bits; int64_t group_size;        /* of integers; group_size -1: one group a row */
    bool sym, act_order;
    uint64_t n_weight, n_rounded;        /* to BF16 and FP16: weights made by this run (not by what it resumed), and those that rounding changed */
    double relative_error, worst_error;  /* of these: root of (sum of squared changes / sum of squares), largest change of one weight / the weight */
} fq_convert_report;

/* Writes the weights of `source`, which is quantized (GPTQ, AWQ, compressed-tensors, FP8), in another form to `target`. Between forms of
 * integers codes and scales keep their bits and every weight is the same number; to FP32 it is the product in fp32 (exact for integers with
 * scales of 16 bits); to BF16 and FP16 that is rounded once. What a form cannot hold is FQ_E_INPUT and says why, before anything is written. Files are made as by fq_pad. `report` may be
 * NULL. */
fq_status fq_convert(const fq_convert_options *o, const fq_run *run, fq_convert_report *report, fq_err *e);

/* ---- files of ranks --------------------------------------------------------------------------------------------- */

/* CHECKPOINT: every tensor keeps its name. ENGINE: the names and fused tensors of vllm's and SGLang's own parameters (load format sharded_state). */
typedef enum fq_rank_names { FQ_NAMES_CHECKPOINT, FQ_NAMES_ENGINE } fq_rank_names;

/* Zero-initialise, then set what is needed. Strings are borrowed for the call. */
typedef struct fq_shard_options {
    const char *source, *target;
    int tp;                              /* ranks, 1..64 */
    bool expert_parallel;                /* whole experts, not a slice of each */
    fq_rank_names names;
    uint64_t shard_bytes;                /* largest file; 0 = one file for each rank */
    bool overwrite, resume, dry_run;
    void (*on_tensor)(void *user, const fq_tensor_change *t);  /* dry run: every tensor of every rank, in the order of writing; source_name: the first it is made of */
    void *user;
} fq_shard_options;

typedef struct fq_shard_report {
    fq_pad_report wrote;                 /* n_tensor: in all files; bytes: of the source, bytes_pad: of all ranks; fit and layout say nothing */
    int tp;
    size_t n_source_tensor, n_cut;       /* tensors of the source, and those that are not whole on every rank */
    uint64_t least_bytes, most_bytes;    /* that a rank has */
    int64_t vocab_rows_least, vocab_rows_most;   /* of the embedding, that a rank has; 0: the model has none */
    int64_t kv_copies;                   /* ranks that hold the same KV head */
} fq_shard_report;

/* Writes what each of tp ranks holds of `source` to files of its own, "model-rank-R-part-P.safetensors", cut as engines do (quantized weights part by
 * part), beside config.json and everything else of the folder, and fitq-ranks.json, which says where everything is. Files are made as by fq_pad.
 * FQ_E_INPUT: "ranks", "shard-words", "shard-groups" (what does not divide; fq_plan_create says what makes it fit), "engine-names", "engine-vocab",
 * "engine-order". `report` may be NULL. */
fq_status fq_shard(const fq_shard_options *o, const fq_run *run, fq_shard_report *report, fq_err *e);

typedef struct fq_unshard_options {
    const char *source, *target;         /* source: the folder that fq_shard wrote */
    bool overwrite, resume;
} fq_unshard_options;

/* The inverse: the same tensors in files of the same names. Every tensor is compared by its hash, and what ranks hold in common with each other: a
 * difference is FQ_E_DIFFERS ("tensor-hash", "rank-copies") and nothing is committed. */
fq_status fq_unshard(const fq_unshard_options *o, const fq_run *run, fq_pad_report *report, fq_err *e);

/* What to do with a model and n GPUs of some memory: bits, group size, padding, and why. */
typedef struct fq_choice {
    int tp, bits;                /* bits 16: as it is, or padded */
    int64_t group_size;
    fq_packing packing;
    fq_fit fit;
    uint64_t weight_bytes_per_gpu, memory_need_bytes;
    int64_t longest_context;
    char why[8][256]; size_t n_why;   /* one reason a line, in the order of the decisions */
} fq_choice;
/* Pure. engine: ids, NULL = the default set; all of them must run the result. context: tokens for the KV cache, 0 = 8192. FQ_E_INPUT,
 * "does-not-fit", when no choice does: the message names the nearest. */
fq_status fq_choose(const fq_model *m, int n_gpu, uint64_t gpu_memory_bytes, const char *const *engine, size_t n_engine, int64_t context,
                    fq_choice *out, fq_err *e);

/* ---- tokenizer ------------------------------------------------------------------------------------------------ */

/* Byte-level BPE as tokenizer.json describes it (Qwen2, Qwen3, Llama 3, GPT-2, DeepSeek, o200k and the like). What a file asks
 * for and fitq does not do is refused by name when it is opened, never left out. Text is UTF-8. */
typedef struct fq_tokenizer fq_tokenizer;

typedef struct fq_tokenizer_info {
    size_t n_vocab;       /* ids are 0 .. n_vocab - 1: the model's own and then the added ones */
    size_t n_model;       /* of these, ids of the model's vocabulary */
    size_t n_added;       /* entries of added_tokens; some may be in the model's vocabulary as well */
    size_t n_merge;
    bool nfc;             /* text is brought to Unicode's form C before it is cut */
    size_t n_prefix, n_suffix;        /* what add_special puts before and behind a text */
    const uint32_t *prefix, *suffix;
} fq_tokenizer_info;

typedef struct fq_added_token {
    uint32_t id;
    const char *content;  /* NUL-terminated */
    bool special;         /* a control token: left out by fq_decode_options.skip_special */
} fq_added_token;

/* Zero-initialise. */
typedef struct fq_encode_options {
    bool add_special;     /* with what the file's post-processor puts around a text, e.g. <|begin_of_text|> */
    bool plain;           /* the text of added tokens, e.g. "<|im_end|>", is ordinary text: for text from strangers */
} fq_encode_options;

typedef struct fq_decode_options {
    bool skip_special;
} fq_decode_options;

/* PATH: a tokenizer.json, or a folder that has one. */
fq_status fq_tokenizer_open(const char *path, fq_tokenizer **out, fq_err *e);
void fq_tokenizer_close(fq_tokenizer *t);
const fq_tokenizer_info *fq_tokenizer_get_info(const fq_tokenizer *t);
size_t fq_tokenizer_n_vocab(const fq_tokenizer *t);

/* Ids of n bytes of text. Bytes that are not well-formed UTF-8 are FQ_E_INPUT with their position (rule "utf-8"); NUL is a
 * character like any other. o may be NULL. *ids is freed with fq_free; it is never NULL, even without any id. */
fq_status fq_tokenizer_encode(const fq_tokenizer *t, const char *text, size_t n, const fq_encode_options *o, uint32_t **ids,
                              size_t *n_ids, fq_err *e);
/* The bytes that ids stand for: exact, and not always UTF-8 (a character may be cut over two ids). An id out of range is
 * FQ_E_INPUT. o may be NULL. *text is NUL-terminated behind its *n bytes and freed with fq_free. */
fq_status fq_tokenizer_decode(const fq_tokenizer *t, const uint32_t *ids, size_t n_ids, const fq_decode_options *o, char **text,
                              size_t *n, fq_err *e);

/* The bytes of one id, borrowed, not NUL-terminated; NULL if id >= n_vocab. */
const char *fq_tokenizer_token(const fq_tokenizer *t, uint32_t id, size_t *n);
bool fq_tokenizer_is_special(const fq_tokenizer *t, uint32_t id);
void fq_tokenizer_get_added(const fq_tokenizer *t, size_t i, fq_added_token *out);  /* i < n_added, in the file's order */
/* The id of an added token, e.g. "<|im_end|>"; false if there is none. */
bool fq_tokenizer_find_added(const fq_tokenizer *t, const char *content, uint32_t *id);

/* The ids that n bytes of text list: decimal, below 2^32, with spaces, tabs, line ends, commas or brackets between them. Anything else is
 * FQ_E_INPUT with its position and the word (rule "token-ids"). *ids is freed with fq_free; it is never NULL, even without any id. */
fq_status fq_ids_parse(const char *text, size_t n, uint32_t **ids, size_t *n_ids, fq_err *e);

/* ---- running a model ------------------------------------------------------------------------------------------- */

/* Models run as they are stored: dense in F32, F16 or BF16, or quantized by GPTQ (2, 3, 4, 8 bits; zero points of format gptq and gptq_v2; any
 * g_idx), AWQ (version gemm), compressed-tensors (pack-quantized, weights only; float-quantized) or as FP8 (a scale for each block or
 * tensor). Of FP8 only the weights are rounded: engines round activations to FP8 too. Others are FQ_E_INPUT, "quantized". */

/* The type in which an engine would hold weights and results. F32: the stored weights as they are, fp32 arithmetic. Else every weight and
 * every result that an engine keeps (linear layers, norms, residuals, heads) is rounded to that type; sums are fp32. Of quantized weights
 * scales are rounded first, then their products with the codes. */
typedef enum fq_served { FQ_SERVED_F32, FQ_SERVED_BF16, FQ_SERVED_FP16 } fq_served;

typedef enum fq_score { FQ_SCORE_SECOND_HALF, FQ_SCORE_ALL } fq_score;
typedef enum fq_bos { FQ_BOS_AUTO, FQ_BOS_ALWAYS, FQ_BOS_NEVER } fq_bos;

/* What a model is run on: windows of `context` tokens that do not overlap, an incomplete last one left out. */
typedef struct fq_text {
    const char *text;     /* a file of UTF-8, cut by the model's tokenizer.json... */
    const char *ids;      /* ...or a file of ids between blanks, as `fitq tokenize` prints them */
    int64_t context;      /* 0 = 512 */
    int64_t chunks;       /* most windows; 0 = all */
    fq_score score;       /* SECOND_HALF: positions context/2 .. context-2 of a window count, as in llama.cpp; ALL: 0 .. context-2 */
    fq_bos bos;           /* token 0 of every window becomes the beginning-of-text token: AUTO if the tokenizer puts one before a text */
} fq_text;

/* What a run will do, known before it starts. */
typedef struct fq_run_plan {
    uint64_t memory_bytes;      /* estimate of the peak resident memory of the process */
    uint64_t weight_bytes;      /* to read */
    uint64_t scratch_bytes;     /* of activations on disk; 0 = they stay in memory */
    size_t n_window, n_token, n_scored;
    int64_t context;
    int n_thread;
    const char *kernel;         /* "avx512" */
} fq_run_plan;

/* How far B's hidden states are from A's after a layer, over all tokens. layer -1: the embedding. */
typedef struct fq_layer_diff { int64_t layer; double relative, max_abs, cosine; bool same_bits; } fq_layer_diff;

typedef struct fq_value { double value, error; } fq_value;

/* Zero-initialise. */
typedef struct fq_eval_options {
    const char *path, *reference;    /* reference may be NULL */
    fq_text text;
    fq_served served;
    bool exact;                      /* fixed order of summation: bits depend on nothing but the numbers; slower */
    const char *scratch;             /* folder for activations beyond the memory budget; NULL = TMPDIR */
    void (*on_plan)(void *user, const fq_run_plan *p);
    void (*on_layer)(void *user, const fq_layer_diff *d);   /* with a reference of the same depth and width */
    void *user;
} fq_eval_options;

#define FQ_N_PERCENTILE 9
/* The shares that kld_percentile is of: 0.999 0.99 0.95 0.90 0.50 0.10 0.05 0.01 0.001. i < FQ_N_PERCENTILE. */
double fq_percentile(size_t i);

/* Definitions: src/eval/stats.h. Fields of the reference are 0 without one. */
typedef struct fq_eval_report {
    fq_run_plan plan;
    fq_value nll, ppl;
    fq_value nll_reference, ppl_reference;
    fq_value ln_ratio;               /* ln(PPL / PPL_reference), paired error */
    fq_value kld;                    /* mean */
    double kld_min, kld_max, kld_percentile[FQ_N_PERCENTILE];
    fq_value delta_p, rms_delta_p;   /* of the right token's probability */
    fq_value same_top;
    double max_logit_diff;
    int64_t n_vocab;                 /* logits that were compared: the real vocabulary where one of the two has a padded one */
    int64_t n_layer;
    double seconds, tokens_per_second;
} fq_eval_report;

/* Perplexity of a checkpoint over a text, and its distance from a reference. Both are streamed a layer at a time side by side, within
 * run->memory_bytes (0 = what runs well). */
fq_status fq_eval(const fq_eval_options *o, const fq_run *run, fq_eval_report *report, fq_err *e);

/* Zero-initialise. */
typedef struct fq_verify_options {
    const char *a, *b;
    fq_text text;                    /* neither text nor ids: two windows of 256 pseudo-random ids. All positions count, whatever score says */
    fq_served served;
    const char *scratch;
    void (*on_plan)(void *user, const fq_run_plan *p);
    void (*on_layer)(void *user, const fq_layer_diff *d);   /* fixed order */
    void *user;
} fq_verify_options;

typedef enum fq_sameness {
    FQ_SAME_BITS,       /* every hidden state and every logit of the real vocabulary has the same bits, in fitq's fixed order of summation,
                           and the weights are the same under the maps */
    FQ_SAME_REAL,       /* the weights are the same under the maps, so the function is the same in real arithmetic; logits differ within
                           the bound */
    FQ_SAME_NUMBERS,    /* the weights could not be compared (no maps); logits agree within the bound on this text, which is all it says */
    FQ_DIFFERENT
} fq_sameness;

typedef struct fq_proof {
    fq_sameness verdict;
    bool weights_compared;           /* else `why_not` */
    bool weights_same;
    bool numbers_compared;           /* else `why_not`, everything from `plan` on is 0, and the verdict is FQ_DIFFERENT */
    char why_not[512];
    fq_verify_report weights;
    fq_run_plan plan;
    bool random_ids;                 /* no text was given */
    bool fixed_bits;                 /* every hidden state and every logit has the same bits in fixed order */
    double max_logit;                /* largest |logit| of A */
    double fixed_diff;               /* largest |logit_B - logit_A|, both in fixed order */
    double fast_diff;                /* the same in the order of a tuned matrix product, as an engine would */
    double noise;                    /* largest |logit_A in fast order - logit_A in fixed order|: what order alone does to A */
    double bound;                    /* 16 * max(noise, max_logit * u), u = 2^-22 in fp32, 2^-8 as bf16, 2^-11 as fp16 */
    fq_value kld, kld_noise;         /* of B from A, fast order; of A in fast order from A in fixed order */
    fq_value same_top, same_top_noise;
    int64_t first_bad_layer;         /* first layer whose relative difference in fixed order exceeds its bound; -1 the embedding, -2 = none */
    double first_bad_relative, first_bad_bound;   /* bound: 16 * max(relative difference of A in fast from A in fixed order, u) */
    int64_t n_vocab;                 /* logits of a position that were compared: the real vocabulary */
    int64_t n_vocab_pad;             /* logits of B behind them... */
    bool vocab_pad_zero;             /* ...and whether all of these were exactly 0 */
    double seconds;
} fq_proof;

/* The whole proof: weights (fq_verify_weights), then numbers: both models are run over the same tokens, in fixed and in fast order.
 * FQ_E_DIFFERS when the verdict is FQ_DIFFERENT; the report is filled then too. Weights without maps (no fitq.json in B, or one in A as
 * well) are compared as far as names, shapes and types agree; what was compared and is wrong makes B different whatever the numbers
 * say. Of a model quantized from the other one no weight is the same: weights are not compared then, and why_not says so. */
fq_status fq_verify(const fq_verify_options *o, const fq_run *run, fq_proof *report, fq_err *e);

/* What can be wrong with the slices that engines cut. */
typedef enum fq_slice_fault_kind {
    FQ_SLICE_REFUSED,   /* the engine does not load it, and says so */
    FQ_SLICE_DIFFERS,   /* it loads it and computes with other numbers, silently: rank, row and the numbers say which */
    FQ_SLICE_KERNEL     /* the slices hold what they should; the engine's kernel is known to compute something else with them, silently */
} fq_slice_fault_kind;

/* Borrowed for the duration of the callback. */
typedef struct fq_slice_fault {
    fq_slice_fault_kind kind;
    const fq_engine_info *engine;
    const fq_format_info *format;   /* NULL: of any */
    const char *rule, *source;      /* stable name; engine file or issue that states it */
    const char *tensor;             /* the first with this fault, as stored, not escaped; "" = none */
    const char *text;               /* one line, escaped */
    size_t n_tensor;                /* that have it; 0 = not counted */
    /* FQ_SLICE_DIFFERS: the first element that differs, by rank, row, column. FQ_SLICE_REFUSED for a group that ranks share: the first rank that has a part
     * of it, and its first input channel. */
    int rank;                       /* -1: not of one rank, or of all */
    int64_t row, col;               /* of the whole matrix: output and input channel; -1: it is not about an element */
    double expected, found;         /* what the checkpoint says, and what the engine computes with */
    bool beyond;                    /* the rank has no scale there: the kernel reads behind its end, and nothing says what it finds */
    uint64_t n_wrong, n_element;    /* of the tensor; 0 = not counted */
    double max_abs, relative;       /* largest difference; |engine - whole| / |whole|, both over the tensor */
    double product;                 /* |sum of W_r x_r - W x| / |W x| for a pseudo-random x: what the layer's output is off by */
} fq_slice_fault;

/* Zero-initialise. */
typedef struct fq_slices_options {
    const char *path;
    int tp;                                       /* 2..64 */
    const char *const *engine; size_t n_engine;   /* ids; NULL = the default set. Those with a model of their loader: vllm, vllm-2025, sglang */
    const char *const *format; size_t n_format;   /* NULL = the checkpoint's own */
    void (*on_fault)(void *user, const fq_slice_fault *f);
    void *user;
    bool expert_parallel;                         /* engines are started so that each GPU has whole experts */
} fq_slices_options;

typedef struct fq_slices_report {
    size_t n_case;                /* pairs of engine and format that were looked at */
    size_t n_module, n_slice;     /* quantized layers whose parts were followed; slices of them, over all cases */
    size_t n_dense;               /* weights that are not quantized by integers: their slices are ranges */
    size_t n_refused, n_differs;  /* cases; KERNEL counts as differs */
    /* Weights that are cut, whatever their type, each slice read alone and multiplied by a pseudo-random input, against the product of the whole. Not done
     * where every case is refused, or the model does not divide. */
    size_t n_product, n_product_slice;
    size_t n_product_left_out;    /* of types that are not read, or cut inside of 32 integer codes, or with zero points that readers disagree about */
    uint64_t product_bytes;       /* read for it */
    double product_error;         /* largest |parts - whole| / |whole| of one weight: roundings */
    double seconds;
} fq_slices_report;

/* What engines load on each of tp GPUs, held against the whole checkpoint: codes, scales, zero points and g_idx as each engine cuts them (src/plan/loads.h), and
 * query heads against their KV heads. FQ_E_DIFFERS if some engine would compute with other numbers in silence; else FQ_E_INPUT, with the rule of the
 * first, if some engine refuses; the report is filled then too. FQ_E_DIFFERS "slice-sum", with no report: slices by their ranges are not the whole.
 * FQ_E_USAGE for an engine whose loader is not modelled. run: threads, progress. Memory: the scales and zero points of one layer; then 20 MiB for each
 * thread. */
fq_status fq_verify_slices(const fq_slices_options *o, const fq_run *run, fq_slices_report *report, fq_err *e);

/* A model in memory that continues a sequence of tokens. One thread at a time. */
typedef struct fq_generator fq_generator;

/* Zero-initialise. */
typedef struct fq_generator_options {
    int64_t context;       /* most tokens of the sequence; 0 = the smaller of 4096 and max_position_embeddings */
    double temperature;    /* 0 = greedy */
    double top_p;          /* 0 and 1 = all */
    uint64_t seed;
    fq_served served;
    bool exact;
} fq_generator_options;

typedef struct fq_generator_info {
    int64_t context, n_token;        /* n_token: in the sequence so far */
    size_t n_vocab;
    uint64_t weight_bytes;           /* that one step of decoding reads */
    uint64_t memory_bytes;           /* estimate for the whole process */
    const char *kernel;
    int n_thread;
} fq_generator_info;

/* Of several ranks (run->n_rank, or mpirun): each reads its slice. Ranks on threads live in the generator of rank 0. A process that is another rank
 * gets a generator that only fq_generator_serve and fq_generator_close take. A call that fails is then the last.
 *
 * Reads all weights. FQ_E_NOMEM, "memory-budget", if they exceed run->memory_bytes (0 = what the machine has free). `run` and what it points
 * to must outlive *out. */
fq_status fq_generator_open(const char *path, const fq_generator_options *o, const fq_run *run, fq_generator **out, fq_err *e);
void fq_generator_close(fq_generator *g);
/* Of a process with fq_rank() > 0: does what rank 0 does, until rank 0 closes its generator (FQ_OK), or fails. */
fq_status fq_generator_serve(fq_generator *g, fq_err *e);
void fq_generator_get_info(const fq_generator *g, fq_generator_info *out);
/* Appends n ids. FQ_E_INPUT: an id out of range, or the context is full (nothing was appended then). */
fq_status fq_generator_feed(fq_generator *g, const uint32_t *ids, size_t n, fq_err *e);
/* Logits after the last id that was fed: n_vocab numbers, borrowed until the next call. NULL before the first. */
const float *fq_generator_logits(const fq_generator *g);
/* Chooses the next id from the logits (greedy: the lowest id of equal ones) and feeds it. */
fq_status fq_generator_next(fq_generator *g, uint32_t *id, fq_err *e);
/* True if the id ends a text, by generation_config.json or config.json. */
bool fq_generator_is_end(const fq_generator *g, uint32_t id);

typedef struct fq_chat_message { const char *role, *content; } fq_chat_message;   /* role: "system", "user", "assistant" */
/* Ids of messages in the model's own template: ChatML (<|im_start|>) or Llama 3 (<|start_header_id|>); others are FQ_E_INPUT,
 * "chat-template". first: the conversation begins here (beginning-of-text token where the template has one); else the ids begin with what
 * follows the token that closed the assistant's turn ("\n" in ChatML). Ends with the opening of the
 * assistant's turn. The messages' own text is never read as control tokens. *ids is freed with fq_free. */
fq_status fq_chat_encode(const fq_tokenizer *t, const fq_chat_message *m, size_t n, bool first, uint32_t **ids, size_t *n_ids, fq_err *e);
/* The id that ends a turn in that template; false if the template is not known. */
bool fq_chat_end(const fq_tokenizer *t, uint32_t *id);

/* Frees what a function of this header says is freed with it; NULL is allowed. */
void fq_free(void *p);

/* A self-contained page (no scripts from elsewhere, no other files) about a quantized model: errors per layer and module, distance from the
 * original, what padding and order did, time and memory. eval may be NULL. Written to path, replaced whole. */
fq_status fq_write_report(const char *path, const fq_quantize_report *q, const fq_eval_report *eval, fq_err *e);

#ifdef __cplusplus
}
#endif
#endif
