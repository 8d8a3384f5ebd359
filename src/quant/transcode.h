/* transcode.h - codes of one stored form written in another: the same fields in other words, lines and orders.
 *
 *     gptq   [X words, N]   --> fields of a tile, in cache -->   pack-quantized [N, X words], awq [X, N words], bytes [X, N], ...
 *
 * A part of a quantized module is a matrix of fields over two axes: outputs N, and X, inputs or groups of them. A form stores either axis
 * first, and lets the fields of 32-bit words follow one of them, in the order of a stream or in one of its own. Here a form is such a
 * description and nothing has a name: who calls knows the table of forms (checkpoint/quant_layout.h). What stands in words that the two forms
 * share is moved in words; else fields are taken out and put in again, a tile at a time. Numbers (scales) are cells without fields.
 *
 * Pure: no files, nothing can fail. Fields of 2, 3, 4 and 8 bits lie in a stream without gaps (32 of them fill `bits` words); unused bits of the
 * last word become 0 where fields are written anew, and stay where words are moved. Sources: see quant_layout.h. */
#ifndef FITQ_QUANT_TRANSCODE_H
#define FITQ_QUANT_TRANSCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum fqi_fields { FQI_FIELDS_NONE, FQI_FIELDS_N, FQI_FIELDS_X } fqi_fields;   /* NONE: a cell holds one element */

typedef struct fqi_grid {
    void *data;               /* the cell of element (0, 0); of a source it is not written */
    size_t line;              /* cells from one line to the next; 0, of a source: there is one line that counts for all */
    bool x_first;             /* a line is one cell of X and all of N; else the other way */
    fqi_fields along;         /* the axis that the fields of a word follow; words are 32 bits */
    const uint8_t *field;     /* of the 32 / bits elements of a word, element j is field field[j] (bits 2, 4, 8); NULL: j */
} fqi_grid;

typedef struct fqi_transcoding {
    fqi_grid from, to;
    size_t n, x;              /* elements; both begin with a word */
    int bits;                 /* of a field; 0: cells are moved as they are (both along NONE) */
    size_t width;             /* bytes of a cell that has no fields: 1, 2, 4 of numbers; 1 of fields in bytes */
    int add;                  /* to every field, modulo 2^bits */
    int n_thread;             /* 0 and 1: the caller's alone */
} fqi_transcoding;

void fqi_transcode(const fqi_transcoding *t);

#endif
