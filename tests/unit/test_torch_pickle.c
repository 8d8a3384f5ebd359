/* The pickle machine: one row per program, with the value or the rule that must come out. The programs are written by hand
 * from the opcode list in CPython's Lib/pickle.py; that real files are read is what test_torch.c shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "format/torch_pickle.h"

#define P2 "\x80\x02"
#define STORAGE(cls, key, numel) "(X\7\0\0\0storagectorch\n" cls "\nX\1\0\0\0" key "X\3\0\0\0cpu" numel "tQ"
#define STORAGE0(cls, numel) "(X\7\0\0\0storagectorch\n" cls "\nX\0\0\0\0X\3\0\0\0cpu" numel "tQ"
#define UNTYPED "(X\7\0\0\0storagectorch.storage\nUntypedStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\4tQ"
#define ONES8 "K\1K\1K\1K\1K\1K\1K\1K\1"
#define V2 "ctorch._utils\n_rebuild_tensor_v2\n"
#define V3 "ctorch._utils\n_rebuild_tensor_v3\n"
#define OD "ccollections\nOrderedDict\n)R"
#define F32X4 STORAGE("FloatStorage", "0", "K\4")
#define TENSOR V2 "(" F32X4 "K\0K\2K\2\x86K\2K\1\x86\x89" OD "tR"

typedef struct row {
    const char *name, *text;
    size_t n;
    const char *rule;      /* NULL: accepted */
    uint64_t at;           /* byte that the message names */
    fqi_pk_kind kind;      /* of the result */
    int64_t i;             /* of an INT or BOOL */
} row;

#define OK(name, s, kind, i) { name, P2 s, sizeof(P2 s) - 1, NULL, 0, kind, i }
#define NO(name, s, rule, at) { name, P2 s, sizeof(P2 s) - 1, rule, at, 0, 0 }
#define RAW(name, s, rule, at) { name, s, sizeof(s) - 1, rule, at, 0, 0 }

static const row rows[] = {
    OK("none", "N.", FQI_PK_NONE, 0),
    OK("true", "\x88.", FQI_PK_BOOL, 1),
    OK("false", "\x89.", FQI_PK_BOOL, 0),
    OK("binint1", "K\xff.", FQI_PK_INT, 255),
    OK("binint2", "M\x01\xff.", FQI_PK_INT, 0xff01),
    OK("binint-negative", "J\xfe\xff\xff\xff.", FQI_PK_INT, -2),
    OK("long1-empty", "\x8a\x00.", FQI_PK_INT, 0),
    OK("long1-2^31", "\x8a\x05\x00\x00\x00\x80\x00.", FQI_PK_INT, (int64_t)1 << 31),
    OK("long1-minus-1", "\x8a\x01\xff.", FQI_PK_INT, -1),
    OK("long1-minus-256", "\x8a\x02\x00\xff.", FQI_PK_INT, -256),
    OK("long1-max", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f.", FQI_PK_INT, INT64_MAX),
    OK("long1-min", "\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80.", FQI_PK_INT, INT64_MIN),
    OK("long1-9-bytes-small", "\x8a\x09\x05\x00\x00\x00\x00\x00\x00\x00\x00.", FQI_PK_INT, 5),
    OK("long1-9-bytes-minus-5", "\x8a\x09\xfb\xff\xff\xff\xff\xff\xff\xff\xff.", FQI_PK_INT, -5),
    OK("long1-2^63", "\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00.", FQI_PK_BIGINT, 0),
    OK("long1-minus-2^63-1", "\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x7f\xff.", FQI_PK_BIGINT, 0),
    OK("long1-2^64", "\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01.", FQI_PK_BIGINT, 0),
    OK("float", "G\x3f\xf0\x00\x00\x00\x00\x00\x00.", FQI_PK_FLOAT, 0),
    OK("unicode", "X\2\0\0\0\xc3\xa9.", FQI_PK_STR, 7),
    OK("unicode-empty", "X\0\0\0\0.", FQI_PK_STR, 7),
    OK("string-text", "U\2ab.", FQI_PK_STR, 4),
    OK("string-bytes", "U\2\xff\xfe.", FQI_PK_BYTES, 4),
    OK("empty-tuple", ").", FQI_PK_TUPLE, 0),
    OK("tuple", "(K\1K\2t.", FQI_PK_TUPLE, 0),
    OK("tuple1", "K\1\x85.", FQI_PK_TUPLE, 0),
    OK("tuple3", "K\1K\2K\3\x87.", FQI_PK_TUPLE, 0),
    OK("nested-marks", "((tK\1(ttK\1\x86.", FQI_PK_TUPLE, 3),
    OK("list", "](K\1K\2e.", FQI_PK_LIST, 0),
    OK("append", "]K\1a.", FQI_PK_LIST, 0),
    OK("set", "\x8f.", FQI_PK_SET, 0),
    OK("dict", "}K\1K\2s.", FQI_PK_DICT, 0),
    OK("dict-of-itself", "}q\0K\1h\0s.", FQI_PK_DICT, 0),
    OK("setitems", "}(K\1K\2K\3K\4u.", FQI_PK_DICT, 0),
    OK("setitems-none", "}(u.", FQI_PK_DICT, 0),
    OK("memo", "K\7q\0h\0\x86.", FQI_PK_TUPLE, 0),
    OK("long-memo", "K\7r\1\0\0\0j\1\0\0\0\x86.", FQI_PK_TUPLE, 0),
    OK("memo-overwritten", "(K\7q\0K\6q\0th\0\x86.", FQI_PK_TUPLE, 2),
    OK("ordered-dict", OD ".", FQI_PK_DICT, 0),
    OK("newobj-ordered-dict", "ccollections\nOrderedDict\n)\x81.", FQI_PK_DICT, 0),
    OK("build", OD "}X\1\0\0\0aK\1sb.", FQI_PK_DICT, 0),
    OK("size", "ctorch\nSize\n(K\1K\2t\x85R.", FQI_PK_TUPLE, 0),
    OK("layout", "ctorch.serialization\n_get_layout\nX\1\0\0\0s\x85R.", FQI_PK_LAYOUT, 0),
    OK("storage", F32X4 ".", FQI_PK_STORAGE, 0),
    OK("storage-untyped", UNTYPED ".", FQI_PK_STORAGE, 0),
    OK("tensor", TENSOR ".", FQI_PK_TENSOR, 0),
    OK("tensor-size-class", V2 "(" F32X4 "K\0ctorch\nSize\nK\4\x85\x85RK\1\x85\x89" OD "tR.", FQI_PK_TENSOR, 0),
    OK("tensor-hooks-none", V2 "(" F32X4 "K\0))\x89NtR.", FQI_PK_TENSOR, 0),
    OK("tensor-metadata-empty", V2 "(" F32X4 "K\0))\x89" OD "}tR.", FQI_PK_TENSOR, 0),
    OK("tensor-old", "ctorch._utils\n_rebuild_tensor\n(" F32X4 "K\0))tR.", FQI_PK_TENSOR, 0),
    OK("tensor-v3", V3 "(" UNTYPED "K\0K\2\x85K\1\x85\x89" OD "ctorch\nfloat8_e4m3fn\ntR.", FQI_PK_TENSOR, 0),
    OK("tensor-v3-metadata", V3 "(" UNTYPED "K\0K\2\x85K\1\x85\x89" OD "ctorch\nuint16\nNtR.", FQI_PK_TENSOR, 0),
    OK("tensor-rank-8", V2 "(" F32X4 "K\0(" ONES8 "t(" ONES8 "t\x89" OD "tR.", FQI_PK_TENSOR, 0),
    OK("parameter", "ctorch._utils\n_rebuild_parameter\n" TENSOR "\x88" OD "\x87R.", FQI_PK_TENSOR, 0),
    OK("parameter-newobj", "ctorch.nn.parameter\nParameter\n" TENSOR "\x85\x81.", FQI_PK_TENSOR, 0),
    OK("parameter-newobj-grad", "ctorch.nn.parameter\nParameter\n" TENSOR "\x89\x86\x81.", FQI_PK_TENSOR, 0),

    RAW("empty", "", "pickle-protocol", 0),
    RAW("one-byte", "\x80", "pickle-protocol", 0),
    RAW("protocol-0", "(dp0\n.", "pickle-protocol", 0),
    RAW("protocol-1", "\x80\x01N.", "pickle-protocol", 0),
    RAW("protocol-3", "\x80\x03N.", "pickle-protocol", 0),
    RAW("protocol-4", "\x80\x04\x95\x02\0\0\0\0\0\0\0N.", "pickle-protocol", 0),
    NO("no-stop", "N", "pickle-stop", 3),
    NO("nothing", "", "pickle-stop", 2),
    NO("stop-empty", ".", "pickle-stack", 2),
    NO("stop-mark", "(.", "pickle-stack", 3),
    NO("stop-two", "NN.", "pickle-stop", 4),
    NO("stop-mark-below", "(N.", "pickle-stop", 4),
    NO("bytes-after-stop", "N.N", "pickle-stop", 3),
    NO("proto-twice", "\x80\x02N.", "pickle-opcode", 2),

    NO("stack-underflow-tuple1", "\x85.", "pickle-stack", 2),
    NO("stack-underflow-tuple2", "N\x86.", "pickle-stack", 3),
    NO("stack-below-mark", "N(\x85.", "pickle-stack", 4),
    NO("stack-underflow-setitem", "}Ns.", "pickle-stack", 4),
    NO("stack-underflow-reduce", "R.", "pickle-stack", 2),
    NO("stack-underflow-persid", "Q.", "pickle-stack", 2),
    NO("stack-underflow-append", "]a.", "pickle-stack", 3),
    NO("stack-underflow-build", "}b.", "pickle-stack", 3),
    NO("mark-missing-tuple", "Nt.", "pickle-mark", 3),
    NO("mark-missing-setitems", "}NNu.", "pickle-mark", 5),
    NO("mark-missing-appends", "]Ne.", "pickle-mark", 4),
    NO("mark-used-up", "(ttN.", "pickle-mark", 4),
    NO("put-nothing", "q\0N.", "pickle-stack", 2),
    NO("put-mark", "(q\0t.", "pickle-stack", 3),
    NO("memo-hole", "Nq\5h\4\x86.", "pickle-memo", 5),
    NO("memo-never", "h\0.", "pickle-memo", 2),
    NO("memo-beyond", "j\xff\xff\xff\xff.", "pickle-memo", 2),
    NO("memo-sparse", "Nr\xff\xff\xff\xff.", "pickle-memo", 3),
    NO("memo-index-of-length", "Nr\x09\0\0\0.", "pickle-memo", 3),

    NO("cut-binint", "J\1\0\0", "pickle-truncated", 2),
    NO("cut-binint1", "K", "pickle-truncated", 2),
    NO("cut-binint2", "M\1", "pickle-truncated", 2),
    NO("cut-long1", "\x8a", "pickle-truncated", 2),
    NO("cut-long1-bytes", "\x8a\xff\1\2", "pickle-truncated", 2),
    NO("cut-float", "G\0\0\0\0", "pickle-truncated", 2),
    NO("cut-unicode-length", "X\1\0", "pickle-truncated", 2),
    NO("cut-unicode", "X\2\0\0\0a", "pickle-truncated", 2),
    NO("cut-unicode-4-gib", "X\xff\xff\xff\xff" "abc.", "pickle-truncated", 2),
    NO("cut-string", "U\3ab", "pickle-truncated", 2),
    NO("cut-put", "Nq", "pickle-truncated", 3),
    NO("cut-get", "Nq\0h", "pickle-truncated", 5),
    NO("cut-global-module", "ccollections", "pickle-truncated", 2),
    NO("cut-global-name", "ccollections\nOrderedDict", "pickle-truncated", 2),
    NO("unicode-overlong", "X\2\0\0\0\xc0\x80.", "pickle-string", 2),
    NO("unicode-surrogate", "X\3\0\0\0\xed\xa0\x80.", "pickle-string", 2),
    NO("unicode-beyond", "X\4\0\0\0\xf4\x90\x80\x80.", "pickle-string", 2),
    NO("unicode-cut-character", "X\2\0\0\0\xe2\x82.", "pickle-string", 2),
    NO("unicode-nul", "X\3\0\0\0a\0b.", "pickle-string", 2),

    NO("long4", "\x8b\0\0\0\x80.", "pickle-opcode", 2),
    NO("pop", "NN0.", "pickle-opcode", 4),
    NO("dup", "N2.", "pickle-opcode", 3),
    NO("text-int", "I1\n.", "pickle-opcode", 2),
    NO("inst", "(ios\nsystem\n.", "pickle-opcode", 3),
    NO("obj", "(cos\nsystem\no.", "pickle-global", 3),
    NO("obj-allowed-class", "(ccollections\nOrderedDict\no.", "pickle-opcode", 28),
    NO("stack-global", "X\2\0\0\0osX\6\0\0\0system\x93.", "pickle-opcode", 20),
    NO("frame", "\x95\0\0\0\0\0\0\0\0N.", "pickle-opcode", 2),
    NO("memoize", "N\x94.", "pickle-opcode", 3),
    NO("short-binunicode", "\x8c\1a.", "pickle-opcode", 2),
    NO("ext1", "\x82\1.", "pickle-opcode", 2),
    NO("persid", "P0\n.", "pickle-opcode", 2),
    NO("binbytes", "B\0\0\0\0.", "pickle-opcode", 2),
    NO("newobj-ex", "N\x92.", "pickle-opcode", 3),
    NO("opcode-zero", "\0.", "pickle-opcode", 2),
    NO("opcode-ff", "\xff.", "pickle-opcode", 2),

    NO("os-system", "cos\nsystem\nX\2\0\0\0id\x85R.", "pickle-global", 2),
    NO("builtins-eval", "c__builtin__\neval\n.", "pickle-global", 2),
    NO("posix-system", "cposix\nsystem\n.", "pickle-global", 2),
    NO("global-prefix", "ccollections\nOrderedDictX\n.", "pickle-global", 2),
    NO("global-shorter", "ccollections\nOrderedDic\n.", "pickle-global", 2),
    NO("global-empty", "c\n\n.", "pickle-global", 2),
    NO("global-attribute", "ctorch\nserialization._get_layout\n.", "pickle-global", 2),
    NO("global-nul", "ctorch\nSize\0\n.", "pickle-global", 2),
    NO("quantized-tensor", "ctorch._utils\n_rebuild_qtensor\n.", "pickle-global", 2),
    NO("numpy", "cnumpy.core.multiarray\n_reconstruct\n.", "pickle-global", 2),

    NO("setitem-on-list", "]K\1K\2s.", "pickle-type", 7),
    NO("setitems-on-tuple", ")(K\1K\2u.", "pickle-type", 8),
    NO("setitem-on-tensor", TENSOR "K\1K\2s.", "pickle-type", sizeof TENSOR + 5),
    NO("setitems-odd", "}(K\1u.", "pickle-type", 6),
    NO("append-on-dict", "}K\1a.", "pickle-type", 5),
    NO("appends-on-none", "N(e.", "pickle-type", 4),
    NO("build-on-tensor", TENSOR "}b.", "pickle-type", sizeof TENSOR + 2),
    NO("build-with-tuple", "}))\x86" "b.", "pickle-type", 6),
    NO("reduce-string", "X\2\0\0\0os)R.", "pickle-type", 10),
    NO("reduce-args-list", "ccollections\nOrderedDict\n]R.", "pickle-type", 28),
    NO("reduce-storage-class", "ctorch\nFloatStorage\n)R.", "pickle-call", 23),
    NO("reduce-dtype", "ctorch\nfloat32\n)R.", "pickle-call", 18),
    NO("newobj-function", V2 ")\x81.", "pickle-call", sizeof V2 + 2),
    NO("ordered-dict-items", "ccollections\nOrderedDict\nN\x85R.", "pickle-arguments", 29),

    NO("persid-not-tuple", "NQ.", "pickle-type", 3),
    NO("persid-4-items", "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cputQ.", "pickle-storage", 50),
    NO("persid-6-items", "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\4NtQ.", "pickle-storage", 53),
    NO("persid-module", "(X\6\0\0\0modulectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\4tQ.", "pickle-storage", 51),
    NO("persid-class-str", "(X\7\0\0\0storageX\1\0\0\0FX\1\0\0\0" "0X\3\0\0\0cpuK\4tQ.", "pickle-type", 38),
    NO("persid-class-dtype", STORAGE("float32", "0", "K\4") ".", "pickle-storage", 47),
    NO("persid-class-function", STORAGE("Size", "0", "K\4") ".", "pickle-storage", 44),
    NO("persid-quantized", STORAGE("QInt8Storage", "0", "K\4") ".", "pickle-global", 15),
    NO("persid-key-empty", STORAGE0("FloatStorage", "K\4") ".", "pickle-storage", 51),
    NO("persid-key-int", "(X\7\0\0\0storagectorch\nFloatStorage\nK\0X\3\0\0\0cpuK\4tQ.", "pickle-type", 48),
    NO("persid-numel-bool", STORAGE("FloatStorage", "0", "\x88") ".", "pickle-type", 51),
    NO("persid-numel-huge", STORAGE("FloatStorage", "0", "\x8a\x09\0\0\0\0\0\0\0\0\1") ".", "pickle-type", 61),

    NO("tensor-5-arguments", V2 "(" F32X4 "K\0))\x89tR.", "pickle-arguments", 0),
    NO("tensor-8-arguments", V2 "(" F32X4 "K\0))\x89" OD "}}tR.", "pickle-arguments", 0),
    NO("tensor-none-arguments", V2 ")R.", "pickle-arguments", 0),
    NO("tensor-no-storage", V2 "(NK\0))\x89" OD "tR.", "pickle-type", 0),
    NO("tensor-offset-none", V2 "(" F32X4 "N))\x89" OD "tR.", "pickle-type", 0),
    NO("tensor-size-list", V2 "(" F32X4 "K\0])\x89" OD "tR.", "pickle-type", 0),
    NO("tensor-size-float", V2 "(" F32X4 "K\0G\0\0\0\0\0\0\0\0\x85K\1\x85\x89" OD "tR.", "pickle-type", 0),
    NO("tensor-stride-short", V2 "(" F32X4 "K\0K\2K\2\x86K\1\x85\x89" OD "tR.", "tensor-rank", 0),
    NO("tensor-rank-9", V2 "(" F32X4 "K\0(K\1" ONES8 "t(K\1" ONES8 "t\x89" OD "tR.", "tensor-rank", 0),
    NO("tensor-hooks", V2 "(" F32X4 "K\0))\x89" OD "K\1K\2stR.", "pickle-hooks", 0),
    NO("tensor-hooks-str", V2 "(" F32X4 "K\0))\x89X\1\0\0\0atR.", "pickle-type", 0),
    NO("tensor-grad-int", V2 "(" F32X4 "K\0))K\1" OD "tR.", "pickle-type", 0),
    NO("tensor-negated-view", V2 "(" F32X4 "K\0))\x89" OD "}X\3\0\0\0neg\x88stR.", "pickle-metadata", 0),
    NO("tensor-v2-untyped", V2 "(" UNTYPED "K\0))\x89" OD "tR.", "pickle-dtype", 0),
    NO("tensor-v3-typed", V3 "(" F32X4 "K\0))\x89" OD "ctorch\nfloat32\ntR.", "pickle-dtype", 0),
    NO("tensor-v3-dtype-class", V3 "(" UNTYPED "K\0))\x89" OD "ctorch\nSize\ntR.", "pickle-dtype", 0),
    NO("tensor-v3-dtype-str", V3 "(" UNTYPED "K\0))\x89" OD "X\1\0\0\0atR.", "pickle-type", 0),
    NO("tensor-v3-no-dtype", V3 "(" UNTYPED "K\0))\x89" OD "tR.", "pickle-arguments", 0),
    NO("parameter-of-none", "ctorch._utils\n_rebuild_parameter\nN\x88" OD "\x87R.", "pickle-type", 0),
    NO("parameter-2-arguments", "ctorch._utils\n_rebuild_parameter\n" TENSOR "\x88\x86R.", "pickle-arguments", 0),
    NO("size-of-list", "ctorch\nSize\n]\x85R.", "pickle-type", 0),
    NO("size-2-arguments", "ctorch\nSize\n))\x86R.", "pickle-arguments", 0),
};

/* at 0: the position is that of the last R in the text. */
static uint64_t position(const row *r)
{
    if (r->at != 0 || r->n == 0 || strstr(r->name, "protocol") || r->n < 3) return r->at;
    size_t i = r->n;
    while (i > 0 && r->text[i - 1] != 'R') i--;
    return i > 0 ? i - 1 : 0;
}

#define BASE 1000u

static void rows_one_by_one(void **state)
{
    (void)state;
    int failed = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const row *r = &rows[i];
        fqi_pickle p = { 0 };
        fq_err e = { 0 };
        unsigned char *copy = malloc(r->n ? r->n : 1);   /* exact size: one byte too far is seen by ASan */
        assert_non_null(copy);
        memcpy(copy, r->text, r->n);
        fq_status s = fqi_pickle_run(copy, r->n, "f", BASE, &p, &e);
        char want[64] = "";
        if (r->rule) snprintf(want, sizeof want, "f: byte %llu: %s: ", (unsigned long long)(BASE + position(r)), r->rule);
        bool ok = r->rule ? s == FQ_E_INPUT && strcmp(e.rule, r->rule) == 0 && strncmp(e.text, want, strlen(want)) == 0
                          : s == FQ_OK && p.root.kind == r->kind && p.root.i == r->i;
        if (!ok) {
            print_error("%s: got %s (%s, %lld), expected %s%s %lld\n", r->name, s == FQ_OK ? "ok" : e.text,
                        fqi_pk_kind_name(p.root.kind), (long long)p.root.i, want, r->rule ? "" : fqi_pk_kind_name(r->kind),
                        (long long)r->i);
            failed++;
        }
        fqi_pickle_free(&p);
        free(copy);
    }
    print_message("%zu programs\n", sizeof rows / sizeof rows[0]);
    assert_int_equal(failed, 0);
}

/* Every prefix of a sound program is refused (and touches nothing outside of it). */
static void prefixes(void **state)
{
    (void)state;
    static const char whole[] = P2 OD "q\0(X\1\0\0\0a" TENSOR "X\1\0\0\0b" TENSOR "u}X\1\0\0\0kK\1sb.";
    for (size_t n = 0; n < sizeof whole; n++) {
        fqi_pickle p = { 0 };
        unsigned char *copy = malloc(n ? n : 1);
        assert_non_null(copy);
        memcpy(copy, whole, n);
        fq_status s = fqi_pickle_run(copy, n, "f", 0, &p, NULL);
        assert_int_equal(s, n == sizeof whole - 1 ? FQ_OK : FQ_E_INPUT);
        fqi_pickle_free(&p);
        free(copy);
    }
}

static fq_status repeat(const char *head, const char *body, size_t n_body, size_t times, const char *tail, fq_err *e)
{
    fqi_str s = { 0 };
    fqi_pickle p = { 0 };
    fqi_str_puts(&s, P2);
    fqi_str_puts(&s, head);
    for (size_t i = 0; i < times; i++) fqi_str_add(&s, body, n_body);
    fqi_str_puts(&s, tail);
    assert_false(s.failed);
    fq_status st = fqi_pickle_run((const unsigned char *)s.s, s.len, "f", 0, &p, e);
    fqi_pickle_free(&p);
    fqi_str_free(&s);
    return st;
}

/* Depth costs no C stack, and the limits of the machine hold. */
static void bombs(void **state)
{
    (void)state;
    fq_err e = { 0 };
    assert_int_equal(repeat("", "(", 1, 1000000, "t.", &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "pickle-stack");
    assert_int_equal(repeat("", "N", 1, FQI_PK_MAX_STACK, "", &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "pickle-stop");
    assert_int_equal(repeat(")", "\x85", 1, 3000000, ".", &e), FQ_OK);          /* tuple in tuple in tuple */
    assert_int_equal(repeat("}", "K\1}s", 4, 1000000, ".", &e), FQ_OK);
    assert_int_equal(repeat("]", "K\1a", 3, 1000000, ".", &e), FQ_OK);          /* a list keeps nothing */
    assert_int_equal(repeat("N", "q\1", 2, 1000000, ".", &e), FQ_OK);
    assert_int_equal(repeat("", "N\x85\x85\x85\x85", 5, FQI_PK_MAX_STACK + 1, ".", &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "pickle-stack");
}

/* What the tables hold for one dict with one tensor. */
static void tables(void **state)
{
    (void)state;
    static const char text[] = P2 "}X\3\0\0\0a.b" V2 "(" STORAGE("BFloat16Storage", "7", "K\x0c")
        "K\2K\2K\3\x86K\4K\1\x86\x89" OD "tRs.";
    fqi_pickle p = { 0 };
    assert_int_equal(fqi_pickle_run((const unsigned char *)text, sizeof text - 1, "f", 0, &p, NULL), FQ_OK);
    assert_int_equal(p.n_tensor, 1);
    assert_int_equal(p.n_storage, 1);
    assert_int_equal(p.storage[0].numel, 12);
    assert_int_equal(p.storage[0].dtype, FQ_DTYPE_BF16);
    assert_false(p.storage[0].untyped);
    assert_true(fqi_pk_is(&p, p.storage[0].key, "7"));
    assert_int_equal(p.tensor[0].rank, 2);
    assert_int_equal(p.tensor[0].offset, 2);
    assert_int_equal(p.item[p.tensor[0].size].i, 2);
    assert_int_equal(p.item[p.tensor[0].size + 1].i, 3);
    assert_int_equal(p.item[p.tensor[0].stride].i, 4);
    assert_int_equal(p.item[p.tensor[0].stride + 1].i, 1);
    const fqi_pk_dict *d = &p.dict[p.root.i];
    assert_int_equal(d->n, 1);
    assert_true(fqi_pk_is(&p, p.pair[d->first].key, "a.b"));
    assert_int_equal(p.pair[d->first].value.kind, FQI_PK_TENSOR);
    assert_true(p.pair[d->first].next == FQI_PK_END);
    fqi_pickle_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_one_by_one), cmocka_unit_test(prefixes), cmocka_unit_test(bombs), cmocka_unit_test(tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
