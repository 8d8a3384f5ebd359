/* findings.c - see findings.h. The list is short by construction, so groups are searched linearly. */
#include "checkpoint/findings.h"

#include <stdlib.h>
#include <string.h>

void fqi_findings_free(fqi_findings *f)
{
    if (f == NULL) return;
    free(f->item);
    free(f->group);
    *f = (fqi_findings){ .arena = f->arena };
}

static size_t find_group(const fqi_findings *f, fq_severity severity, const char *rule)
{
    for (size_t i = 0; i < f->n_group; i++) {
        if (f->group[i].severity == severity && strcmp(f->group[i].rule, rule) == 0) return i;
    }
    return f->n_group;
}

bool fqi_finding_count(fqi_findings *f, fq_severity severity, const char *rule)
{
    size_t g = find_group(f, severity, rule);
    if (g < f->n_group && ++f->group[g].n > FQI_FINDINGS_PER_RULE) return false;
    if (g == f->n_group) {
        char *kept = fqi_arena_strdup(f->arena, rule);
        if (!kept || !fqi_grow((void **)&f->group, &f->cap_group, g + 1, sizeof *f->group)) {
            f->failed = true;
            return false;
        }
        f->group[f->n_group++] = (fqi_finding_group){ severity, kept, 1 };
    }
    if (!fqi_grow((void **)&f->item, &f->cap_item, f->n_item + 1, sizeof *f->item)) {
        f->failed = true;
        return false;
    }
    f->item[f->n_item] = (fqi_finding_item){ { severity, f->group[g].rule, NULL }, g };
    return true;
}

void fqi_finding_more(fqi_findings *f, fq_severity severity, const char *rule, size_t n)
{
    size_t g = find_group(f, severity, rule);
    if (g < f->n_group) f->group[g].n += n;
}

void fqi_finding_put(fqi_findings *f, const fq_err *text)
{
    f->item[f->n_item].f.text = fqi_arena_strdup(f->arena, text->text);
    if (f->item[f->n_item].f.text == NULL) f->failed = true;
    else f->n_item++;
}

void fqi_finding_from(fqi_findings *f, fq_severity severity, const fq_err *e)
{
    if (fqi_finding_count(f, severity, e->rule)) fqi_finding_put(f, e);
}

size_t fqi_findings_n_error(const fqi_findings *f)
{
    size_t n = 0;
    for (size_t i = 0; i < f->n_group; i++) n += f->group[i].severity == FQ_ERROR ? f->group[i].n : 0;
    return n;
}

/* "FILE: RULE: and N more" behind the kept ones of a group. */
static bool close_group(const fqi_findings *f, size_t g, size_t n_more, const char *file, fq_finding *out)
{
    fq_err e;
    fqi_fail(&e, FQ_E_INPUT, FQI_FILE(file), f->group[g].rule, "and %zu more", n_more);
    *out = (fq_finding){ f->group[g].severity, f->group[g].rule, fqi_arena_strdup(f->arena, e.text) };
    return out->text != NULL;
}

fq_status fqi_findings_finish(fqi_findings *f, const char *file, fq_finding **out, size_t *n, fq_err *e)
{
    fq_finding *list = fqi_arena_alloc(f->arena, (f->n_item + f->n_group + 1) * sizeof *list);
    size_t k = 0;
    bool failed = f->failed || list == NULL;
    for (int s = FQ_ERROR; s >= (int)FQ_NOTE && !failed; s--) {
        for (size_t g = 0; g < f->n_group && !failed; g++) {
            if ((int)f->group[g].severity != s) continue;
            size_t first = k;
            for (size_t i = 0; i < f->n_item; i++) {
                if (f->item[i].group == g) list[k++] = f->item[i].f;
            }
            size_t n_kept = k - first;
            if (f->group[g].n > n_kept) failed = !close_group(f, g, f->group[g].n - n_kept, file, &list[k++]);
        }
    }
    if (failed) return fqi_fail_nomem(e, "findings");
    *out = list;
    *n = k;
    return FQ_OK;
}
