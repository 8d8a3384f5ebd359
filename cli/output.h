/* output.h - what goes to stdout (data) and how it looks.
 *
 * Colour only on a terminal and without NO_COLOR. Names from files are escaped before they reach a terminal. Failures of stdout
 * are found once, at the end (out_finish): a reader that went away is not an error, a full disk is. */
#ifndef FITQ_CLI_OUTPUT_H
#define FITQ_CLI_OUTPUT_H

#include <jansson.h>
#include <stdio.h>

#include "fitq.h"

typedef enum out_style { OUT_PLAIN, OUT_BOLD, OUT_DIM, OUT_GREEN, OUT_YELLOW, OUT_RED } out_style;

/* Reads NO_COLOR, TERM and the kind of stdout; makes sure that descriptors 0 to 2 are open. Call first. */
void out_start(void);
/* Does somebody look at stdout? */
bool out_is_terminal(void);
/* Flushes stdout. `status`, or the exit status of a failed write when status is 0. */
int out_finish(int status);

/* Escape sequences around text, "" without colour. */
const char *out_on(out_style s);
const char *out_off(out_style s);

/* Control bytes and invalid UTF-8 as \xNN. */
void out_escaped(FILE *f, const char *text);

/* "fitq: TEXT" on stderr; returns the exit status. */
int out_error(const fq_err *e);

typedef struct out_text { char s[48]; } out_text;
out_text out_bytes(uint64_t n);         /* "67.7 GiB" */
out_text out_quant(const fq_model *m);   /* " 4 bits in groups of 128", " 8 bits in blocks 128 wide": what follows quant_name; "" if not known */
out_text out_count(uint64_t n);         /* "72.7 B" (short scale), exact below 10,000 */
out_text out_grouped(uint64_t n);       /* "72,706,203,648" */
out_text out_percent(double p);         /* "+0.43 %", "0" */
out_text out_shape(int rank, const int64_t *dim);   /* "[29568, 8192]", cut with "..." */
out_text out_duration(double seconds);  /* "1:02:03", "12 s" */

/* Columns of a line: the terminal's, within reason; 100 where stdout is not a terminal. */
int out_width(void);

/* Prints text wrapped between words at out_width(), and a newline; escaped. The first line starts at column `at`, the others at
 * `indent`. */
void out_flow(const char *text, int at, int indent, out_style s);

/* ---- tables: columns as wide as their widest cell ---- */

#define OUT_MAX_COLUMN 12
typedef struct out_table {
    const char *const *head;    /* n_column titles; one that begins with '>' is right-aligned */
    size_t n_column;
    char **cell;                /* n_cell strings, row after row; owned */
    out_style *style;
    size_t n_cell, cap;
    bool lost;                  /* out of memory: a cell is missing */
} out_table;

void out_table_start(out_table *t, const char *const *head, size_t n_column);
/* Text may hold names from files: it is escaped. */
void out_cell(out_table *t, out_style s, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Prints with `indent` spaces before each row, and frees. Columns without any text in them are left out; a last column that would
 * reach beyond out_width() is wrapped, unless that leaves it no room. */
void out_table_print(out_table *t, int indent);
void out_table_drop(out_table *t);

/* ---- JSON: building never fails visibly, printing does ---- */

void out_put(json_t *object, const char *key, json_t *value);   /* steals value; NULL is remembered */
void out_put_int(json_t *object, const char *key, int64_t v);
void out_put_u64(json_t *object, const char *key, uint64_t v);
void out_put_bool(json_t *object, const char *key, bool v);
void out_put_real(json_t *object, const char *key, double v);
void out_put_value(json_t *object, const char *key, const fq_value *v);   /* { "value": ..., "error": ... } */
void out_put_str(json_t *object, const char *key, const char *v);   /* NULL -> null; invalid UTF-8 is escaped */
json_t *out_json_u64(uint64_t v);                               /* what JSON's integers cannot hold: the largest that they can */
void out_append(json_t *array, json_t *value);                  /* steals value */
/* A string of any bytes; where they are not UTF-8, everything that is not printable ASCII is written as \xNN. */
json_t *out_json_bytes(const char *s, size_t n);
json_t *out_json_fit(const fq_fit *fit);
json_t *out_json_shape(int rank, const int64_t *dim);
json_t *out_json_model(const fq_model *m);
/* Prints and releases root. 0 or an exit status. */
int out_json(json_t *root);

#endif
