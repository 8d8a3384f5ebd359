/* lookup.c - finding a tensor by name and opening a shard of a catalogue. See catalogue.h. */
#include <string.h>

#include "checkpoint/catalogue.h"

size_t fqi_ckpt_find(const fq_ckpt *c, const char *name)
{
    size_t lo = 0, hi = c->n_tensor;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = strcmp(c->tensor[mid].name, name);
        if (order == 0) return mid;
        if (order < 0) lo = mid + 1;
        else hi = mid;
    }
    return SIZE_MAX;
}

size_t fqi_ckpt_find_in(const fq_ckpt *c, const char *name, uint32_t shard)
{
    size_t lo = 0, hi = c->n_tensor;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const int order = strcmp(c->tensor[mid].name, name);
        if (order == 0 && c->tensor[mid].shard == shard) return mid;
        if (order < 0 || (order == 0 && c->tensor[mid].shard < shard)) lo = mid + 1;
        else hi = mid;
    }
    return SIZE_MAX;
}

fq_status fqi_ckpt_open_shard(const fq_ckpt *c, size_t i, fq_io io, fqi_file *out, fq_err *e)
{
    const fqi_shard *s = &c->shard[i];
    fqi_file f = FQI_FILE_NONE;
    FQI_TRY(fqi_file_open(&f, s->path, io, e));
    if (f.bytes == s->bytes && f.mtime_ns == s->mtime_ns) {
        *out = f;
        return FQ_OK;
    }
    uint64_t found = f.bytes;
    fqi_file_close(&f);
    return fqi_fail(e, FQ_E_IO, FQI_FILE(s->path), "changed", "found another file than before (%llu bytes, then %llu), expected none to write to it",
                    (unsigned long long)found, (unsigned long long)s->bytes);
}
