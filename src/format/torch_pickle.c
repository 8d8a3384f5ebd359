/* torch_pickle.c - a stack machine for the pickle of a torch state dict.
 *
 * A pickle is a program: GLOBAL names any Python callable and REDUCE calls it, which is how a checkpoint can run a shell. This
 * machine has no way to call anything. It knows the opcodes that CPython's protocol-2 pickler emits for a state dict plus the
 * few that torch's own weights_only reader tolerates (pytorch torch/_weights_only_unpickler.py), and the handful of names in
 * the table below; any other opcode or name is refused with its position. What a callable of the table would build is built
 * here as plain data: tensors and storages as numbers, dicts as chains of pairs, tuples as runs of items. Lists, sets, floats
 * and byte strings can occur beside the weights (an epoch, a learning rate); only their kind is kept.
 *
 * Bounds: one step reads at least one byte, pushes at most one value and stores only values that were pushed, so time and
 * memory are linear in the length of the text whatever the opcodes say. No recursion: values refer to tables by index, and
 * nothing walks them in depth. Memo indices must be smaller than the text is long, because the memo is an array. */
#include "format/torch_pickle.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum {
    OP_MARK = '(', OP_STOP = '.', OP_BINGET = 'h', OP_LONG_BINGET = 'j', OP_BINPUT = 'q', OP_LONG_BINPUT = 'r', OP_GLOBAL = 'c',
    OP_NONE = 'N', OP_BININT = 'J', OP_BININT1 = 'K', OP_BININT2 = 'M', OP_BINFLOAT = 'G', OP_BINUNICODE = 'X',
    OP_SHORT_BINSTRING = 'U', OP_EMPTY_TUPLE = ')', OP_TUPLE = 't', OP_EMPTY_DICT = '}', OP_EMPTY_LIST = ']', OP_APPEND = 'a',
    OP_APPENDS = 'e', OP_REDUCE = 'R', OP_BUILD = 'b', OP_BINPERSID = 'Q', OP_SETITEM = 's', OP_SETITEMS = 'u', OP_PROTO = 0x80,
    OP_NEWOBJ = 0x81, OP_TUPLE1 = 0x85, OP_TUPLE2 = 0x86, OP_TUPLE3 = 0x87, OP_NEWTRUE = 0x88, OP_NEWFALSE = 0x89,
    OP_LONG1 = 0x8a, OP_EMPTY_SET = 0x8f
};

/* Every opcode of pickle protocols 0 to 5 that is refused, so that the message can name it (CPython Lib/pickle.py). */
static const struct { unsigned char op; const char *name; } refused[] = {
    { '0', "POP" }, { '1', "POP_MARK" }, { '2', "DUP" }, { 'F', "FLOAT" }, { 'I', "INT" }, { 'L', "LONG" }, { 'P', "PERSID" },
    { 'S', "STRING" }, { 'T', "BINSTRING" }, { 'V', "UNICODE" }, { 'd', "DICT" }, { 'g', "GET" }, { 'i', "INST" },
    { 'l', "LIST" }, { 'o', "OBJ" }, { 'p', "PUT" }, { 'B', "BINBYTES" }, { 'C', "SHORT_BINBYTES" }, { 0x82, "EXT1" },
    { 0x83, "EXT2" }, { 0x84, "EXT4" }, { 0x8b, "LONG4" }, { 0x8c, "SHORT_BINUNICODE" }, { 0x8d, "BINUNICODE8" },
    { 0x8e, "BINBYTES8" }, { 0x90, "ADDITEMS" }, { 0x91, "FROZENSET" }, { 0x92, "NEWOBJ_EX" }, { 0x93, "STACK_GLOBAL" },
    { 0x94, "MEMOIZE" }, { 0x95, "FRAME" }, { 0x96, "BYTEARRAY8" }, { 0x97, "NEXT_BUFFER" }, { 0x98, "READONLY_BUFFER" },
};

/* ---- names that a pickle may mention --------------------------------------------------------------------------- */

typedef enum role {
    ROLE_ORDERED_DICT, ROLE_TENSOR, ROLE_TENSOR_V2, ROLE_TENSOR_V3, ROLE_REBUILD_PARAMETER, ROLE_PARAMETER, ROLE_SIZE,
    ROLE_LAYOUT, ROLE_STORAGE, ROLE_UNTYPED, ROLE_DTYPE
} role;

static const struct { const char *module, *name; role role; fq_dtype dtype; } allowed[] = {
    { "collections", "OrderedDict", ROLE_ORDERED_DICT, 0 },
    { "torch._utils", "_rebuild_tensor", ROLE_TENSOR, 0 },
    { "torch._utils", "_rebuild_tensor_v2", ROLE_TENSOR_V2, 0 },
    { "torch._utils", "_rebuild_tensor_v3", ROLE_TENSOR_V3, 0 },
    { "torch._utils", "_rebuild_parameter", ROLE_REBUILD_PARAMETER, 0 },
    { "torch.nn.parameter", "Parameter", ROLE_PARAMETER, 0 },
    { "torch", "Size", ROLE_SIZE, 0 },
    { "torch.serialization", "_get_layout", ROLE_LAYOUT, 0 },
    { "torch", "FloatStorage", ROLE_STORAGE, FQ_DTYPE_F32 },
    { "torch", "HalfStorage", ROLE_STORAGE, FQ_DTYPE_F16 },
    { "torch", "BFloat16Storage", ROLE_STORAGE, FQ_DTYPE_BF16 },
    { "torch", "DoubleStorage", ROLE_STORAGE, FQ_DTYPE_F64 },
    { "torch", "LongStorage", ROLE_STORAGE, FQ_DTYPE_I64 },
    { "torch", "IntStorage", ROLE_STORAGE, FQ_DTYPE_I32 },
    { "torch", "ShortStorage", ROLE_STORAGE, FQ_DTYPE_I16 },
    { "torch", "CharStorage", ROLE_STORAGE, FQ_DTYPE_I8 },
    { "torch", "ByteStorage", ROLE_STORAGE, FQ_DTYPE_U8 },
    { "torch", "BoolStorage", ROLE_STORAGE, FQ_DTYPE_BOOL },
    { "torch.storage", "UntypedStorage", ROLE_UNTYPED, FQ_DTYPE_U8 },
    { "torch", "float32", ROLE_DTYPE, FQ_DTYPE_F32 },
    { "torch", "float16", ROLE_DTYPE, FQ_DTYPE_F16 },
    { "torch", "bfloat16", ROLE_DTYPE, FQ_DTYPE_BF16 },
    { "torch", "float64", ROLE_DTYPE, FQ_DTYPE_F64 },
    { "torch", "int64", ROLE_DTYPE, FQ_DTYPE_I64 },
    { "torch", "int32", ROLE_DTYPE, FQ_DTYPE_I32 },
    { "torch", "int16", ROLE_DTYPE, FQ_DTYPE_I16 },
    { "torch", "int8", ROLE_DTYPE, FQ_DTYPE_I8 },
    { "torch", "uint8", ROLE_DTYPE, FQ_DTYPE_U8 },
    { "torch", "bool", ROLE_DTYPE, FQ_DTYPE_BOOL },
    { "torch", "uint16", ROLE_DTYPE, FQ_DTYPE_U16 },
    { "torch", "uint32", ROLE_DTYPE, FQ_DTYPE_U32 },
    { "torch", "uint64", ROLE_DTYPE, FQ_DTYPE_U64 },
    { "torch", "float8_e4m3fn", ROLE_DTYPE, FQ_DTYPE_F8_E4M3 },
    { "torch", "float8_e4m3fnuz", ROLE_DTYPE, FQ_DTYPE_F8_E4M3FNUZ },
    { "torch", "float8_e5m2", ROLE_DTYPE, FQ_DTYPE_F8_E5M2 },
    { "torch", "float8_e5m2fnuz", ROLE_DTYPE, FQ_DTYPE_F8_E5M2FNUZ },
    { "torch", "float8_e8m0fnu", ROLE_DTYPE, FQ_DTYPE_F8_E8M0 },
};
#define N_ALLOWED (sizeof allowed / sizeof allowed[0])

/* ---- the machine ----------------------------------------------------------------------------------------------- */

typedef struct machine {
    const unsigned char *p;
    size_t n, pos, op;      /* op: where the current opcode stands */
    const char *file;
    uint64_t base;
    fqi_pickle *out;
    fqi_pk_val *stack; size_t n_stack, cap_stack;
    fqi_pk_val *memo; size_t n_memo, cap_memo;   /* MARK = never stored */
    int64_t mark;           /* index of the topmost MARK on the stack, -1 if none; each MARK holds the one below */
    fq_err *e;
} machine;

#define BAD(m, rule, ...) fqi_fail((m)->e, FQ_E_INPUT, FQI_AT((m)->file, NULL, (m)->base + (m)->op), rule, __VA_ARGS__)

const char *fqi_pk_kind_name(fqi_pk_kind k)
{
    static const char *const name[FQI_N_PK_KIND] = {
        [FQI_PK_MARK] = "mark", [FQI_PK_NONE] = "None", [FQI_PK_BOOL] = "bool", [FQI_PK_INT] = "int",
        [FQI_PK_BIGINT] = "int beyond 64 bits", [FQI_PK_FLOAT] = "float", [FQI_PK_STR] = "str", [FQI_PK_BYTES] = "bytes",
        [FQI_PK_GLOBAL] = "global", [FQI_PK_TUPLE] = "tuple", [FQI_PK_LIST] = "list", [FQI_PK_SET] = "set",
        [FQI_PK_DICT] = "dict", [FQI_PK_STORAGE] = "storage", [FQI_PK_TENSOR] = "tensor", [FQI_PK_LAYOUT] = "layout",
    };
    return (unsigned)k < FQI_N_PK_KIND ? name[k] : "?";
}

bool fqi_pk_is(const fqi_pickle *p, fqi_pk_val v, const char *s)
{
    return v.kind == FQI_PK_STR && v.n == strlen(s) && memcmp(p->text + v.i, s, v.n) == 0;
}

static fq_status need(machine *m, uint64_t n)
{
    if (m->n - m->pos >= n) return FQ_OK;
    return BAD(m, "pickle-truncated", "found %zu bytes after the opcode, expected %llu", m->n - m->pos,
               (unsigned long long)n);
}

/* The next n bytes (n <= 8) as a little-endian number. */
static fq_status take(machine *m, unsigned n, uint64_t *v)
{
    FQI_TRY(need(m, n));
    *v = 0;
    for (unsigned i = 0; i < n; i++) *v |= (uint64_t)m->p[m->pos + i] << (8 * i);
    m->pos += n;
    return FQ_OK;
}

static fq_status push(machine *m, fqi_pk_val v)
{
    if (m->n_stack >= FQI_PK_MAX_STACK)
        return BAD(m, "pickle-stack", "found more than %u values on the stack, expected at most that many", FQI_PK_MAX_STACK);
    if (!fqi_grow((void **)&m->stack, &m->cap_stack, m->n_stack + 1, sizeof *m->stack))
        return fqi_fail_nomem(m->e, "pickle stack");
    m->stack[m->n_stack++] = v;
    return FQ_OK;
}

static fq_status push_kind(machine *m, fqi_pk_kind kind, int64_t i) { return push(m, (fqi_pk_val){ .kind = kind, .i = i }); }

/* A value above the topmost mark: opcodes without a mark of their own must not reach below it. */
static fq_status top(machine *m, fqi_pk_val *v)
{
    if (m->n_stack == 0 || m->stack[m->n_stack - 1].kind == FQI_PK_MARK)
        return BAD(m, "pickle-stack", "found an empty stack, expected a value");
    *v = m->stack[m->n_stack - 1];
    return FQ_OK;
}

static fq_status pop(machine *m, fqi_pk_val *v)
{
    FQI_TRY(top(m, v));
    m->n_stack--;
    return FQ_OK;
}

/* Takes the values above the topmost mark off the stack, with the mark. They stay readable at *v until the next push. */
static fq_status pop_mark(machine *m, const fqi_pk_val **v, size_t *n)
{
    if (m->mark < 0) return BAD(m, "pickle-mark", "found no mark on the stack, expected one");
    size_t at = (size_t)m->mark;
    *v = m->stack + at + 1;
    *n = m->n_stack - at - 1;
    m->mark = m->stack[at].i;
    m->n_stack = at;
    return FQ_OK;
}

static fq_status push_tuple(machine *m, const fqi_pk_val *v, size_t n)
{
    fqi_pickle *o = m->out;
    if (!fqi_grow((void **)&o->item, &o->cap_item, o->n_item + n, sizeof *o->item))
        return fqi_fail_nomem(m->e, "pickle tuples");
    if (n > 0) memcpy(o->item + o->n_item, v, n * sizeof *v);
    fqi_pk_val t = { .kind = FQI_PK_TUPLE, .n = (uint32_t)n, .i = (int64_t)o->n_item };
    o->n_item += n;
    return push(m, t);   /* v may be stack memory: it was copied before */
}

static fq_status push_dict(machine *m)
{
    fqi_pickle *o = m->out;
    if (!fqi_grow((void **)&o->dict, &o->cap_dict, o->n_dict + 1, sizeof *o->dict)) return fqi_fail_nomem(m->e, "pickle dicts");
    o->dict[o->n_dict] = (fqi_pk_dict){ .first = FQI_PK_END, .last = FQI_PK_END };
    return push_kind(m, FQI_PK_DICT, (int64_t)o->n_dict++);
}

/* ---- literals -------------------------------------------------------------------------------------------------- */

/* Strict: no overlong forms, no surrogates (Unicode, table 3-7). */
static bool is_utf8(const unsigned char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        if (s[i] < 0x80) { i++; continue; }
        size_t len = s[i] >= 0xf0 ? 4 : s[i] >= 0xe0 ? 3 : 2;
        if (s[i] < 0xc2 || s[i] > 0xf4 || n - i < len) return false;
        unsigned char lo = 0x80, hi = 0xbf;
        if (s[i] == 0xe0) lo = 0xa0;
        if (s[i] == 0xed) hi = 0x9f;
        if (s[i] == 0xf0) lo = 0x90;
        if (s[i] == 0xf4) hi = 0x8f;
        if (s[i + 1] < lo || s[i + 1] > hi) return false;
        for (size_t k = 2; k < len; k++)
            if ((s[i + k] & 0xc0) != 0x80) return false;
        i += len;
    }
    return true;
}

/* n_len: bytes of the length field. A Python 2 byte string counts as text only if it is text. A NUL would cut the name of a
 * tensor. */
static fq_status op_string(machine *m, unsigned n_len, bool bytes)
{
    uint64_t n;
    FQI_TRY(take(m, n_len, &n));
    FQI_TRY(need(m, n));
    const unsigned char *s = m->p + m->pos;
    bool text = is_utf8(s, (size_t)n) && memchr(s, 0, (size_t)n) == NULL;
    if (!text && !bytes) return BAD(m, "pickle-string", "found a string that is not UTF-8 or holds a NUL");
    fqi_pk_val v = { .kind = text ? FQI_PK_STR : FQI_PK_BYTES, .n = (uint32_t)n, .i = (int64_t)m->pos };
    m->pos += n;
    return push(m, v);
}

/* Two's complement, little-endian, up to 255 bytes; Python writes the shortest form, other writers need not. */
static fq_status op_long1(machine *m)
{
    uint64_t n;
    FQI_TRY(take(m, 1, &n));
    FQI_TRY(need(m, n));
    const unsigned char *s = m->p + m->pos;
    m->pos += n;
    bool negative = n > 0 && (s[n - 1] & 0x80);
    uint64_t v = negative ? UINT64_MAX : 0;
    for (size_t i = 0; i < n && i < 8; i++) v = (v & ~((uint64_t)0xff << (8 * i))) | (uint64_t)s[i] << (8 * i);
    bool fits = (v >> 63 != 0) == negative;
    for (size_t i = 8; i < n; i++) fits = fits && s[i] == (negative ? 0xff : 0);
    int64_t i;
    memcpy(&i, &v, sizeof i);
    return push_kind(m, fits ? FQI_PK_INT : FQI_PK_BIGINT, fits ? i : 0);
}

static fq_status op_int(machine *m, unsigned n)
{
    uint64_t v;
    FQI_TRY(take(m, n, &v));
    return push_kind(m, FQI_PK_INT, n == 4 ? (int64_t)(int32_t)(uint32_t)v : (int64_t)v);
}

static fq_status op_float(machine *m)
{
    FQI_TRY(need(m, 8));
    m->pos += 8;
    return push_kind(m, FQI_PK_FLOAT, 0);
}

/* ---- memo ------------------------------------------------------------------------------------------------------ */

static fq_status op_put(machine *m, unsigned n)
{
    uint64_t i;
    fqi_pk_val v;
    FQI_TRY(take(m, n, &i));
    FQI_TRY(top(m, &v));
    if (i >= m->n)
        return BAD(m, "pickle-memo", "found memo index %llu, expected less than the %zu bytes of the pickle",
                   (unsigned long long)i, m->n);
    if (i >= m->n_memo) {
        if (!fqi_grow((void **)&m->memo, &m->cap_memo, (size_t)i + 1, sizeof *m->memo))
            return fqi_fail_nomem(m->e, "pickle memo");
        memset(m->memo + m->n_memo, 0, ((size_t)i + 1 - m->n_memo) * sizeof *m->memo);   /* FQI_PK_MARK is 0 */
        m->n_memo = (size_t)i + 1;
    }
    m->memo[i] = v;
    return FQ_OK;
}

static fq_status op_get(machine *m, unsigned n)
{
    uint64_t i;
    FQI_TRY(take(m, n, &i));
    if (i >= m->n_memo || m->memo[i].kind == FQI_PK_MARK)
        return BAD(m, "pickle-memo", "found a read of memo %llu, expected one that was stored before", (unsigned long long)i);
    return push(m, m->memo[i]);
}

/* ---- containers ------------------------------------------------------------------------------------------------ */

static fq_status add_pair(machine *m, fqi_pk_val dict, fqi_pk_val key, fqi_pk_val value)
{
    fqi_pickle *o = m->out;
    if (!fqi_grow((void **)&o->pair, &o->cap_pair, o->n_pair + 1, sizeof *o->pair)) return fqi_fail_nomem(m->e, "pickle dicts");
    uint32_t i = (uint32_t)o->n_pair++;
    o->pair[i] = (fqi_pk_pair){ .key = key, .value = value, .next = FQI_PK_END };
    fqi_pk_dict *d = &o->dict[dict.i];
    if (d->first == FQI_PK_END) d->first = i;
    else o->pair[d->last].next = i;
    d->last = i;
    d->n++;
    return FQ_OK;
}

static fq_status want(machine *m, fqi_pk_val v, fqi_pk_kind kind, const char *what)
{
    if (v.kind == kind) return FQ_OK;
    return BAD(m, "pickle-type", "found %s as %s, expected %s", fqi_pk_kind_name(v.kind), what, fqi_pk_kind_name(kind));
}

static fq_status op_setitem(machine *m)
{
    fqi_pk_val key, value, dict;
    FQI_TRY(pop(m, &value));
    FQI_TRY(pop(m, &key));
    FQI_TRY(top(m, &dict));
    FQI_TRY(want(m, dict, FQI_PK_DICT, "target of SETITEM"));
    return add_pair(m, dict, key, value);
}

static fq_status op_setitems(machine *m)
{
    const fqi_pk_val *v;
    size_t n;
    fqi_pk_val dict;
    FQI_TRY(pop_mark(m, &v, &n));
    FQI_TRY(top(m, &dict));
    FQI_TRY(want(m, dict, FQI_PK_DICT, "target of SETITEMS"));
    if (n % 2 != 0) return BAD(m, "pickle-type", "found %zu values for SETITEMS, expected pairs", n);
    for (size_t i = 0; i < n; i += 2) FQI_TRY(add_pair(m, dict, v[i], v[i + 1]));
    return FQ_OK;
}

static fq_status op_append(machine *m, bool marked)
{
    const fqi_pk_val *v;
    size_t n;
    fqi_pk_val list, one;
    FQI_TRY(marked ? pop_mark(m, &v, &n) : pop(m, &one));
    FQI_TRY(top(m, &list));
    return want(m, list, FQI_PK_LIST, marked ? "target of APPENDS" : "target of APPEND");
}

static fq_status op_tuple(machine *m)
{
    const fqi_pk_val *v;
    size_t n;
    FQI_TRY(pop_mark(m, &v, &n));
    return push_tuple(m, v, n);
}

static fq_status op_tuple_n(machine *m, size_t n)
{
    fqi_pk_val v[3];
    for (size_t i = n; i-- > 0;) FQI_TRY(pop(m, &v[i]));
    return push_tuple(m, v, n);
}

/* torch pickles _metadata (module versions) as attribute of the OrderedDict. No weight depends on it. */
static fq_status op_build(machine *m)
{
    fqi_pk_val state, obj;
    FQI_TRY(pop(m, &state));
    FQI_TRY(top(m, &obj));
    FQI_TRY(want(m, obj, FQI_PK_DICT, "target of BUILD"));
    return want(m, state, FQI_PK_DICT, "state of BUILD");
}

/* ---- globals and what they build ------------------------------------------------------------------------------- */

static fq_status line(machine *m, const char **s, size_t *n)
{
    const unsigned char *end = memchr(m->p + m->pos, '\n', m->n - m->pos);
    if (!end) return BAD(m, "pickle-truncated", "found no line feed after a global's name, expected one");
    *s = (const char *)m->p + m->pos;
    *n = (size_t)(end - (m->p + m->pos));
    m->pos += *n + 1;
    return FQ_OK;
}

static bool same(const char *s, size_t n, const char *t) { return n == strlen(t) && memcmp(s, t, n) == 0; }

static fq_status op_global(machine *m)
{
    const char *module, *name;
    size_t n_module, n_name;
    FQI_TRY(line(m, &module, &n_module));
    FQI_TRY(line(m, &name, &n_name));
    for (size_t i = 0; i < N_ALLOWED; i++)
        if (same(module, n_module, allowed[i].module) && same(name, n_name, allowed[i].name))
            return push_kind(m, FQI_PK_GLOBAL, (int64_t)i);
    char a[FQI_NAME_MAX + 1], b[FQI_NAME_MAX + 1];
    return BAD(m, "pickle-global", "found %s.%s, expected only what a state dict needs (nothing was executed)",
               fqi_escape_n(a, module, n_module), fqi_escape_n(b, name, n_name));
}

static fq_status want_int(machine *m, fqi_pk_val v, const char *what, int64_t *out)
{
    FQI_TRY(want(m, v, FQI_PK_INT, what));
    *out = v.i;
    return FQ_OK;
}

/* ('storage', class, key, location, numel) */
static fq_status op_persid(machine *m)
{
    fqi_pk_val id;
    fqi_pickle *o = m->out;
    FQI_TRY(pop(m, &id));
    FQI_TRY(want(m, id, FQI_PK_TUPLE, "persistent id"));
    if (id.n != 5) return BAD(m, "pickle-storage", "found a persistent id of %u items, expected 5", id.n);
    const fqi_pk_val *v = o->item + id.i;
    if (!fqi_pk_is(o, v[0], "storage"))
        return BAD(m, "pickle-storage", "found a persistent id that is no storage, expected 'storage'");
    FQI_TRY(want(m, v[1], FQI_PK_GLOBAL, "storage class"));
    role r = allowed[v[1].i].role;
    if (r != ROLE_STORAGE && r != ROLE_UNTYPED)
        return BAD(m, "pickle-storage", "found %s.%s as storage class, expected a storage class", allowed[v[1].i].module,
                   allowed[v[1].i].name);
    fqi_pk_storage s = { .key = v[2], .dtype = (uint8_t)allowed[v[1].i].dtype, .untyped = r == ROLE_UNTYPED,
                        .at = m->base + m->op };
    FQI_TRY(want(m, v[2], FQI_PK_STR, "storage key"));
    if (v[2].n == 0 || v[2].n > FQI_PK_MAX_KEY)
        return BAD(m, "pickle-storage", "found a storage key of %u bytes, expected 1 to %u", v[2].n, FQI_PK_MAX_KEY);
    FQI_TRY(want(m, v[3], FQI_PK_STR, "storage location"));
    FQI_TRY(want_int(m, v[4], "storage numel", &s.numel));
    if (!fqi_grow((void **)&o->storage, &o->cap_storage, o->n_storage + 1, sizeof *o->storage))
        return fqi_fail_nomem(m->e, "storage table");
    o->storage[o->n_storage] = s;
    return push_kind(m, FQI_PK_STORAGE, (int64_t)o->n_storage++);
}

static fq_status check_dims(machine *m, fqi_pk_val v, const char *what)
{
    for (uint32_t i = 0; i < v.n; i++) FQI_TRY(want(m, m->out->item[v.i + i], FQI_PK_INT, what));
    return FQ_OK;
}

/* (storage, offset, size, stride) */
static fq_status read_view(machine *m, const fqi_pk_val *v, fqi_pk_tensor *t)
{
    FQI_TRY(want(m, v[0], FQI_PK_STORAGE, "tensor storage"));
    FQI_TRY(want_int(m, v[1], "tensor offset", &t->offset));
    FQI_TRY(want(m, v[2], FQI_PK_TUPLE, "tensor size"));
    FQI_TRY(want(m, v[3], FQI_PK_TUPLE, "tensor stride"));
    if (v[2].n > FQ_MAX_RANK) return BAD(m, "tensor-rank", "found %u dimensions, expected at most %d", v[2].n, FQ_MAX_RANK);
    if (v[3].n != v[2].n) return BAD(m, "tensor-rank", "found %u strides for %u dimensions", v[3].n, v[2].n);
    t->storage = (uint32_t)v[0].i;
    t->rank = (uint8_t)v[2].n;
    t->size = (uint32_t)v[2].i;   /* fits: every item was pushed by one of FQI_PK_MAX_STEP steps */
    t->stride = (uint32_t)v[3].i;
    FQI_TRY(check_dims(m, v[2], "dimension"));
    return check_dims(m, v[3], "stride");
}

/* (..., requires_grad, backward_hooks). Hooks that are not empty would change the tensor when it is loaded. */
static fq_status check_hooks(machine *m, fqi_pk_val grad, fqi_pk_val hooks)
{
    FQI_TRY(want(m, grad, FQI_PK_BOOL, "requires_grad"));
    if (hooks.kind == FQI_PK_NONE) return FQ_OK;
    FQI_TRY(want(m, hooks, FQI_PK_DICT, "backward_hooks"));
    if (m->out->dict[hooks.i].n != 0) return BAD(m, "pickle-hooks", "found backward hooks, expected none");
    return FQ_OK;
}

/* The optional last argument says that the tensor is a negated or conjugated view of the stored numbers. */
static fq_status check_metadata(machine *m, fqi_pk_val v)
{
    if (v.kind == FQI_PK_NONE || (v.kind == FQI_PK_DICT && m->out->dict[v.i].n == 0)) return FQ_OK;
    return BAD(m, "pickle-metadata", "found tensor metadata (a negated or conjugated view), expected none");
}

static fq_status build_tensor(machine *m, role r, const fqi_pk_val *v, uint32_t n)
{
    fqi_pickle *o = m->out;
    uint32_t fewest = r == ROLE_TENSOR ? 4 : r == ROLE_TENSOR_V2 ? 6 : 7, most = r == ROLE_TENSOR ? 4 : fewest + 1;
    if (n < fewest || n > most) return BAD(m, "pickle-arguments", "found %u arguments of a tensor, expected %u", n, fewest);
    fqi_pk_tensor t = { .at = m->base + m->op };
    FQI_TRY(read_view(m, v, &t));
    const fqi_pk_storage *s = &o->storage[t.storage];
    t.dtype = s->dtype;
    if (r != ROLE_TENSOR) FQI_TRY(check_hooks(m, v[4], v[5]));
    if (n > fewest) FQI_TRY(check_metadata(m, v[fewest]));
    if (r == ROLE_TENSOR_V3) {
        FQI_TRY(want(m, v[6], FQI_PK_GLOBAL, "tensor dtype"));
        if (allowed[v[6].i].role != ROLE_DTYPE)
            return BAD(m, "pickle-dtype", "found %s.%s, expected a dtype", allowed[v[6].i].module, allowed[v[6].i].name);
        t.dtype = (uint8_t)allowed[v[6].i].dtype;
    }
    if (s->untyped != (r == ROLE_TENSOR_V3))
        return BAD(m, "pickle-dtype", "found a tensor %s dtype on %s storage, expected exactly one of the two to have one",
                   r == ROLE_TENSOR_V3 ? "with" : "without", s->untyped ? "untyped" : "typed");
    if (!fqi_grow((void **)&o->tensor, &o->cap_tensor, o->n_tensor + 1, sizeof *o->tensor))
        return fqi_fail_nomem(m->e, "tensor table");
    o->tensor[o->n_tensor] = t;
    return push_kind(m, FQI_PK_TENSOR, (int64_t)o->n_tensor++);
}

/* A parameter is its tensor. */
static fq_status build_parameter(machine *m, role r, const fqi_pk_val *v, uint32_t n)
{
    bool ok = r == ROLE_REBUILD_PARAMETER ? n == 3 : n == 1 || n == 2;
    if (!ok) return BAD(m, "pickle-arguments", "found %u arguments of a parameter", n);
    FQI_TRY(want(m, v[0], FQI_PK_TENSOR, "parameter data"));
    if (n > 1) FQI_TRY(check_hooks(m, v[1], n == 3 ? v[2] : (fqi_pk_val){ .kind = FQI_PK_NONE }));
    return push(m, v[0]);
}

/* torch.Size((a, b)) is the tuple. */
static fq_status build_size(machine *m, const fqi_pk_val *v, uint32_t n)
{
    if (n != 1) return BAD(m, "pickle-arguments", "found %u arguments of torch.Size, expected 1", n);
    FQI_TRY(want(m, v[0], FQI_PK_TUPLE, "torch.Size"));
    return push(m, v[0]);
}

static fq_status op_reduce(machine *m, bool newobj)
{
    fqi_pk_val f, args;
    FQI_TRY(pop(m, &args));
    FQI_TRY(pop(m, &f));
    FQI_TRY(want(m, args, FQI_PK_TUPLE, "arguments"));
    FQI_TRY(want(m, f, FQI_PK_GLOBAL, "callable"));
    fqi_pk_val v[9];   /* a copy: pushing may move the items. Nothing takes more than 8 arguments */
    uint32_t n = args.n < 9 ? args.n : 9;
    memset(v, 0, sizeof v);
    if (n > 0) memcpy(v, m->out->item + args.i, n * sizeof *v);
    role r = allowed[f.i].role;
    bool is_class = r == ROLE_ORDERED_DICT || r == ROLE_PARAMETER || r == ROLE_SIZE;
    if (!newobj || is_class) {
        switch (r) {
        case ROLE_ORDERED_DICT:
            if (n != 0) return BAD(m, "pickle-arguments", "found %u arguments of OrderedDict, expected none", args.n);
            return push_dict(m);
        case ROLE_TENSOR: case ROLE_TENSOR_V2: case ROLE_TENSOR_V3: return build_tensor(m, r, v, n);
        case ROLE_REBUILD_PARAMETER: case ROLE_PARAMETER: return build_parameter(m, r, v, n);
        case ROLE_SIZE: return build_size(m, v, n);
        case ROLE_LAYOUT: return push_kind(m, FQI_PK_LAYOUT, 0);
        case ROLE_STORAGE: case ROLE_UNTYPED: case ROLE_DTYPE: break;
        }
    }
    return BAD(m, "pickle-call", "found a call of %s.%s, expected none", allowed[f.i].module, allowed[f.i].name);
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

static fq_status refuse(machine *m, unsigned op)
{
    if (op == OP_PROTO) return BAD(m, "pickle-opcode", "found a second PROTO");
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (refused[i].op == op)
            return BAD(m, "pickle-opcode", "found %s (0x%02x), expected only what a state dict needs", refused[i].name, op);
    return BAD(m, "pickle-opcode", "found 0x%02x, which is no pickle opcode", op);
}

static fq_status op_mark(machine *m)
{
    FQI_TRY(push_kind(m, FQI_PK_MARK, m->mark));
    m->mark = (int64_t)m->n_stack - 1;
    return FQ_OK;
}

static fq_status step(machine *m, unsigned op)
{
    switch (op) {
    case OP_MARK: return op_mark(m);
    case OP_BINGET: return op_get(m, 1);
    case OP_LONG_BINGET: return op_get(m, 4);
    case OP_BINPUT: return op_put(m, 1);
    case OP_LONG_BINPUT: return op_put(m, 4);
    case OP_GLOBAL: return op_global(m);
    case OP_NONE: return push_kind(m, FQI_PK_NONE, 0);
    case OP_NEWTRUE: return push_kind(m, FQI_PK_BOOL, 1);
    case OP_NEWFALSE: return push_kind(m, FQI_PK_BOOL, 0);
    case OP_BININT: return op_int(m, 4);
    case OP_BININT1: return op_int(m, 1);
    case OP_BININT2: return op_int(m, 2);
    case OP_LONG1: return op_long1(m);
    case OP_BINFLOAT: return op_float(m);
    case OP_BINUNICODE: return op_string(m, 4, false);
    case OP_SHORT_BINSTRING: return op_string(m, 1, true);
    case OP_EMPTY_TUPLE: return op_tuple_n(m, 0);
    case OP_TUPLE1: return op_tuple_n(m, 1);
    case OP_TUPLE2: return op_tuple_n(m, 2);
    case OP_TUPLE3: return op_tuple_n(m, 3);
    case OP_TUPLE: return op_tuple(m);
    case OP_EMPTY_LIST: return push_kind(m, FQI_PK_LIST, 0);
    case OP_EMPTY_SET: return push_kind(m, FQI_PK_SET, 0);
    case OP_EMPTY_DICT: return push_dict(m);
    case OP_APPEND: return op_append(m, false);
    case OP_APPENDS: return op_append(m, true);
    case OP_SETITEM: return op_setitem(m);
    case OP_SETITEMS: return op_setitems(m);
    case OP_BUILD: return op_build(m);
    case OP_BINPERSID: return op_persid(m);
    case OP_REDUCE: return op_reduce(m, false);
    case OP_NEWOBJ: return op_reduce(m, true);
    default: return refuse(m, op);
    }
}

static fq_status finish(machine *m)
{
    FQI_TRY(pop(m, &m->out->root));
    if (m->n_stack != 0) return BAD(m, "pickle-stop", "found %zu values below the result, expected none", m->n_stack);
    if (m->pos != m->n) return BAD(m, "pickle-stop", "found %zu bytes after STOP, expected none", m->n - m->pos);
    return FQ_OK;
}

static fq_status run(machine *m)
{
    if (m->n < 2 || m->p[0] != OP_PROTO) return BAD(m, "pickle-protocol", "found no PROTO opcode, expected protocol 2");
    if (m->p[1] != 2)
        return BAD(m, "pickle-protocol", "found protocol %u, expected 2 (what torch.save writes by default)", m->p[1]);
    m->pos = 2;
    for (size_t n_step = 0; m->pos < m->n; n_step++) {
        m->op = m->pos++;
        if (n_step >= FQI_PK_MAX_STEP)
            return BAD(m, "pickle-steps", "found more than %u steps, expected at most that many", FQI_PK_MAX_STEP);
        if (m->p[m->op] == OP_STOP) return finish(m);
        FQI_TRY(step(m, m->p[m->op]));
    }
    m->op = m->n;
    return BAD(m, "pickle-stop", "found the end of the pickle, expected STOP");
}

fq_status fqi_pickle_run(const unsigned char *text, size_t n, const char *file, uint64_t base, fqi_pickle *out, fq_err *e)
{
    fqi_pickle p = { .text = text };
    machine m = { .p = text, .n = n, .file = file, .base = base, .out = &p, .mark = -1, .e = e };
    fq_status s = run(&m);
    free(m.stack);
    free(m.memo);
    if (s == FQ_OK) *out = p;
    else fqi_pickle_free(&p);
    return s;
}

void fqi_pickle_free(fqi_pickle *p)
{
    if (!p) return;
    free(p->item);
    free(p->dict);
    free(p->pair);
    free(p->storage);
    free(p->tensor);
    *p = (fqi_pickle){ 0 };
}
